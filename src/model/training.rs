//! What a training pass needs besides the stream: dropout, what memory is spent on, and on the way back the gradients.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::ops::Range;
use std::sync::Arc;

use candle_core::{DType, Device, Tensor};
use serde::{Deserialize, Serialize};

use super::chunks::chunks;
use super::module_inputs::InputSums;
use super::{ForwardContext, Parameter, Part, tokens_at_once};
use crate::Result;
use crate::arch::Role;
use crate::ops::{self, Mask};

/// Dropout of a training pass: masks are a function of these numbers, the layer and the module.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Dropout {
    /// Share of an adapter's inputs that is dropped.
    pub(crate) rate: f64,
    /// Seed of the run.
    pub(crate) seed: u64,
    /// Which pass of the run it is; below 2^40.
    pub(crate) micro_batch: u64,
}

/// What training passes spend memory on: which activations are saved, and where. Files have older names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckpointingPolicy {
    /// Layers, counted from the top, that keep what their backward pass needs; the others compute it again from what
    /// entered them.
    #[serde(rename = "layers_kept")]
    pub saved_layers: usize,
    /// Tokens that all but attention works on at a time. More of them change the order of sums, and so the last bits.
    #[serde(rename = "tokens_at_once")]
    pub chunk_size: usize,
    /// Whether what entered a layer waits in main memory, not on the GPU.
    #[serde(rename = "inputs_on_host")]
    pub offload_activations: bool,
}

impl CheckpointingPolicy {
    /// As much at a time as `device` is fast with, inputs where the model is, `saved_layers` layers kept.
    #[must_use]
    pub fn on(device: &Device, saved_layers: usize) -> Self {
        Self { saved_layers, chunk_size: tokens_at_once(device), offload_activations: false }
    }
}

/// What a training pass needs to know besides the batch.
#[derive(Clone, Copy, Debug)]
pub(crate) struct TrainContext<'a> {
    /// The batch, prepared.
    pub(crate) forward: &'a ForwardContext,
    /// Place of the block in the stack.
    pub(crate) place: usize,
    /// Dropout, if any.
    pub(crate) dropout: Option<Dropout>,
    /// What memory is spent on.
    pub(crate) policy: CheckpointingPolicy,
    /// Adds up what enters the linear layers, where somebody wants to know.
    pub(crate) inputs: Option<&'a InputSums>,
    /// Which of the rows of a chunk are worked on, where they are not all of them.
    pub(crate) rows: Option<&'a Arc<[u32]>>,
}

/// A mask for rows of a chunk.
#[derive(Clone, Debug)]
pub(super) struct RowMask {
    /// From the first row of the chunk on.
    mask: Mask,
    /// Those that there are, if not all.
    rows: Option<Arc<[u32]>>,
}

impl RowMask {
    /// What [`ops::dropout`] makes of rows of a chunk.
    pub(super) fn apply(&self, x: &Tensor) -> Result<Tensor> {
        match &self.rows {
            Some(rows) => ops::dropout_rows(x, self.mask, rows),
            None => ops::dropout(x, self.mask),
        }
    }
}

impl TrainContext<'_> {
    /// Tokens of the pass, t.
    pub(super) fn tokens(&self) -> usize {
        self.forward.layout.tokens()
    }

    /// Tokens to work on at a time.
    pub(super) fn chunks(&self) -> impl Iterator<Item = Range<usize>> {
        chunks(self.tokens(), self.policy.chunk_size)
    }

    /// The mask of a module's inputs from row `row` on.
    pub(super) fn mask(&self, role: Role, row: usize) -> Option<RowMask> {
        let dropout = self.dropout.filter(|dropout| dropout.rate > 0.0)?;
        let (kind, expert) = role.number();
        let stream = dropout.micro_batch << 24 | (self.place as u64) << 8 | u64::from(kind);
        // a stream has no bits left for experts
        let seed = dropout.seed ^ u64::from(expert.unwrap_or(0)).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        Some(RowMask { mask: Mask { rate: dropout.rate, seed, stream, row }, rows: self.rows.cloned() })
    }
}

/// A backward pass on its way through a block.
pub(super) struct BackwardContext<'a> {
    pub(super) training: &'a TrainContext<'a>,
    /// Whether all of the block is trained.
    pub(super) unfrozen: bool,
    /// Whether gradients of what is never trained are asked for: routers, and numbers of activations.
    pub(super) frozen: bool,
    /// As in [`TrainContext::rows`].
    pub(super) rows: Option<Arc<[u32]>>,
    gradients: BTreeMap<(Role, Part), Tensor>,
    /// Of each sub-layer, in the order of the block, its gate's gradient at each token; `None` where nobody asks.
    gates: Option<Vec<Vec<f64>>>,
}

impl<'a> BackwardContext<'a> {
    pub(super) fn new(training: &'a TrainContext<'a>, unfrozen: bool) -> Self {
        Self { training, unfrozen, frozen: false, rows: None, gradients: BTreeMap::new(), gates: None }
    }

    /// The mask of a module's inputs from row `row` on.
    pub(super) fn mask(&self, role: Role, row: usize) -> Option<RowMask> {
        TrainContext { rows: self.rows.as_ref(), ..*self.training }.mask(role, row)
    }

    /// Asks for the gates of `sublayers` sub-layers.
    pub(super) fn watch_gates(&mut self, sublayers: usize) {
        self.gates = Some(vec![vec![0.0; self.training.tokens()]; sublayers]);
    }

    /// Whether gates are asked for.
    pub(super) fn watches_gates(&self) -> bool {
        self.gates.is_some()
    }

    /// Takes what sub-layer `own` adds to the rows `chunk` of the stream, and the gradient `dy` of their sum: their
    /// inner product is the gradient of a factor before the update.
    pub(super) fn note_gate(&mut self, own: usize, chunk: &Range<usize>, update: &Tensor, dy: &Tensor) -> Result<()> {
        let Some(gate) = self.gates.as_mut().and_then(|gates| gates.get_mut(own)) else { return Ok(()) };
        let products = (update.to_dtype(DType::F64)? * dy.to_dtype(DType::F64)?)?.sum(1)?;
        gate[chunk.clone()].copy_from_slice(&products.to_vec1::<f64>()?);
        Ok(())
    }

    /// The gates that were asked for, `[sub-layers, t]`.
    pub(super) fn take_gates(&mut self) -> Vec<Vec<f64>> {
        self.gates.take().unwrap_or_default()
    }

    /// Adds a chunk's part of a gradient.
    pub(super) fn note(&mut self, role: Role, part: Part, gradient: Tensor) -> Result<()> {
        let sum = match self.gradients.remove(&(role, part)) {
            Some(sum) => (sum + gradient)?,
            None => gradient,
        };
        self.gradients.insert((role, part), sum);
        Ok(())
    }

    /// Notes that nothing has gone through a parameter that is shaped as `like`.
    pub(super) fn note_none(&mut self, role: Role, part: Part, like: &Tensor) -> Result<()> {
        self.note_zeros((role, part), like.dims(), like.device())
    }

    /// The same of a parameter of this shape.
    pub(super) fn note_zeros(&mut self, of: (Role, Part), shape: &[usize], device: &Device) -> Result<()> {
        if let Entry::Vacant(vacant) = self.gradients.entry(of) {
            vacant.insert(Tensor::zeros(shape, DType::F32, device)?);
        }
        Ok(())
    }

    /// Takes back what was noted.
    pub(super) fn take(&mut self, role: Role, part: Part) -> Option<Tensor> {
        self.gradients.remove(&(role, part))
    }

    /// All of them, in the order of roles.
    pub(super) fn gradients(self) -> Vec<Parameter> {
        self.gradients.into_iter().map(|((role, part), gradient)| (role, part, gradient)).collect()
    }
}
