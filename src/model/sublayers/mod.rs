//! Sub-layers: what computes an update of the residual stream. Each file holds one kind: how it is loaded, its pass
//! forward, its training pass forward and back, and what it takes of memory and time.
//!
//! A new kind is a file here and a line in [`kind`]; which layers have it and what its weights are called and shaped
//! says [`crate::arch`].

mod attention;
mod cost;
mod dora;
mod experts;
mod gated_mlp;
mod latent;
mod linear;
mod mlp;
mod norm;
mod output_pass;

use std::fmt::Debug;
use std::ops::Range;

use candle_core::Tensor;

use super::ForwardContext;
use super::cache::LayerCache;
use super::chunks::{Gathered, rows};
use super::load_options::{Loader, Part};
use super::training::{BackwardContext, TrainContext};
use crate::arch::{Role, SubLayerKind};
use crate::plan;
use crate::weights::lora::Adapter;
use crate::{Error, Result, ops};

pub(crate) use cost::{Cost, TrainingCost, mean_flops};
pub(crate) use dora::Dora;
pub(crate) use linear::Linear;
pub(crate) use norm::{Norm, Normalization};

/// What the program knows of a kind before anything is loaded.
struct Kind {
    load: fn(&Loader<'_>) -> Result<Box<dyn SubLayer>>,
    cost: cost::Of,
    training_cost: cost::OfTraining,
}

/// The kinds, a line each.
fn kind(kind: SubLayerKind) -> Kind {
    match kind {
        SubLayerKind::Attention => attention::KIND,
        SubLayerKind::LatentAttention => latent::KIND,
        SubLayerKind::GatedMlp => gated_mlp::KIND,
        SubLayerKind::Mlp => mlp::KIND,
        SubLayerKind::Experts => experts::KIND,
    }
}

/// Reads a sub-layer.
pub(super) fn load(what: SubLayerKind, loader: &Loader<'_>) -> Result<Box<dyn SubLayer>> {
    (kind(what).load)(loader)
}

/// From the normed stream to an update of the stream.
pub(super) trait SubLayer: Debug + Send + Sync {
    /// Its linear layers that are in memory, in the order of computation.
    fn linears(&self) -> Vec<(Role, &Linear)>;

    /// The adapters of all its linear layers, in the same order.
    fn adapters(&self) -> Vec<(Role, &Adapter)> {
        let linears = self.linears().into_iter();
        linears.filter_map(|(role, linear)| Some((role, linear.adapter.as_ref()?))).collect()
    }

    /// From now on what is read from disk follows trained parameters, which [`Linear::refresh`] is for where it is in
    /// memory; where they begin now, [`Linear::begin_magnitudes`] is done to it.
    fn follow(&self, _begin: bool) -> Result<()> {
        Ok(())
    }

    /// Norms of its own.
    fn norms(&self) -> Vec<&Norm> {
        Vec::new()
    }

    /// What a plan calls it.
    fn name(&self) -> plan::SubLayer;

    /// Whether a token's update hangs on other tokens.
    fn mixes_tokens(&self) -> bool {
        false
    }

    /// What else is trained with the whole block.
    fn others(&self) -> Vec<(Role, Part, &Tensor)> {
        Vec::new()
    }

    /// The last of its linear layers, where what comes out of that one is the update.
    fn output(&self) -> Option<(Role, &Linear)>;

    /// What enters the last linear layer, `[t, i]`, of a normed stream `[t, d]`, of all tokens of the pass where it
    /// mixes them; these follow those in `cache`, whose keys and values join it.
    fn before_output(
        &self,
        normed: &Tensor,
        context: &ForwardContext,
        cache: Option<&mut LayerCache>,
    ) -> Result<Tensor>;

    /// The update `[t, d]`, from what [`SubLayer::before_output`] takes.
    fn forward(&self, normed: &Tensor, context: &ForwardContext, cache: Option<&mut LayerCache>) -> Result<Tensor> {
        let (_, output) = self.output().ok_or_else(no_output)?;
        output.forward(&self.before_output(normed, context, cache)?)
    }

    /// A training pass, which keeps what its way back needs if it is to `save` it.
    fn training_pass(&self, save: bool) -> Box<dyn TrainingPass + '_>;
}

/// A sub-layer's way through a training pass, forward and back, and what it keeps for the way back. Rows come a chunk
/// at a time, the same chunks on both ways.
pub(super) trait TrainingPass: Debug {
    /// Before anything else: what looks at other tokens, over all rows of `input`.
    fn mix(&mut self, _input: &Input<'_>, _training: &TrainContext<'_>) -> Result<()> {
        Ok(())
    }

    /// The rows `chunk` of the update.
    fn update(&mut self, input: &Input<'_>, chunk: &Range<usize>, training: &TrainContext<'_>) -> Result<Tensor>;

    /// From the gradient `dy` of the rows `chunk` of the update to gradients of parameters and, where it is `wanted`,
    /// of the normed stream; what goes through other tokens comes with [`TrainingPass::backward_mixed`]. What was not
    /// saved is computed again, and what was is used up.
    fn backward(
        &mut self,
        at: &mut BackwardContext<'_>,
        input: &Input<'_>,
        chunk: &Range<usize>,
        dy: &Tensor,
        wanted: bool,
    ) -> Result<Option<Tensor>>;

    /// After all chunks: what goes through other tokens, which [`Input::backward`] adds to the gradient of the stream.
    fn backward_mixed(
        &mut self,
        _at: &mut BackwardContext<'_>,
        _input: &Input<'_>,
        _stream: &mut Gathered,
        _wanted: bool,
    ) -> Result<()> {
        Ok(())
    }
}

/// What enters the sub-layers of a residual.
pub(super) struct Input<'a> {
    /// Rows of the residual stream, perhaps saved ones.
    pub(super) x: &'a Tensor,
    /// The row of the pass that they begin with.
    pub(super) first: usize,
    /// The norm that the stream is seen through, if through any.
    pub(super) norm: Option<&'a Norm>,
}

impl Input<'_> {
    /// The rows `chunk` of the pass, `[t, d]` f32.
    pub(super) fn stream(&self, chunk: &Range<usize>) -> Result<Tensor> {
        ops::restore_activation(&rows(self.x, &(chunk.start - self.first..chunk.end - self.first))?)
    }

    /// The same normed.
    fn normed(&self, chunk: &Range<usize>) -> Result<Tensor> {
        self.through_norm(self.stream(chunk)?)
    }

    /// Rows of the stream normed.
    fn through_norm(&self, x: Tensor) -> Result<Tensor> {
        match self.norm {
            Some(norm) => norm.forward(&x),
            None => Ok(x),
        }
    }

    /// Adds to the gradient of the rows `chunk` of the stream, which are `x`, what comes through the norm.
    pub(super) fn backward(
        &self,
        at: &mut BackwardContext<'_>,
        chunk: &Range<usize>,
        x: &Tensor,
        dnormed: &Tensor,
        stream: &mut Gathered,
    ) -> Result<()> {
        match self.norm {
            Some(norm) => stream.put(chunk, ops::add(&stream.rows(chunk)?, &norm.backward(at, x, dnormed)?)?),
            None => stream.put(chunk, ops::add(&stream.rows(chunk)?, dnormed)?),
        }
    }
}

/// What is said where a sub-layer has no [`SubLayer::output`].
pub(super) fn no_output() -> Error {
    Error::request("experts have an output projection each, and what is asked for works on one")
}

/// The sum of two gradients that are wanted or not for the same reason.
fn sum(a: Option<Tensor>, b: Option<Tensor>) -> Result<Option<Tensor>> {
    match (a, b) {
        (Some(a), Some(b)) => Ok(Some(ops::add(&a, &b)?)),
        _ => Ok(None),
    }
}
