//! The MLP without a gate: `down(act(up(x)))`.

use std::collections::BTreeMap;
use std::ops::Range;

use candle_core::{Device, Tensor};

use super::linear::LoraHidden;
use super::{Cost, Input, Kind, Linear, SubLayer, TrainingCost, TrainingPass, cost};
use crate::Result;
use crate::arch::{Activation, ModelSpec, Role, SubLayerKind};
use crate::model::ForwardContext;
use crate::model::cache::LayerCache;
use crate::model::load_options::Loader;
use crate::model::training::{BackwardContext, TrainContext};
use crate::ops;
use crate::plan;

pub(super) const KIND: Kind = Kind { load, cost, training_cost };

#[derive(Debug)]
struct Mlp {
    up: Linear,
    activation: Activation,
    down: Linear,
}

fn load(loader: &Loader<'_>) -> Result<Box<dyn SubLayer>> {
    let (up, down) = (loader.linear(Role::Up)?, loader.linear(Role::Down)?);
    Ok(Box::new(Mlp { up, activation: loader.spec.activation, down }))
}

impl Mlp {
    /// What the activation sees in training, of rows from `row` on.
    fn expand(&self, normed: &Tensor, row: usize, training: &TrainContext<'_>) -> Result<Saved> {
        let mut hidden = LoraHidden::new();
        let up = self.up.forward_saving(normed, training, (Role::Up, row), &mut hidden)?;
        Ok(Saved { up, hidden })
    }
}

impl SubLayer for Mlp {
    fn name(&self) -> plan::SubLayer {
        plan::SubLayer::Mlp
    }

    fn linears(&self) -> Vec<(Role, &Linear)> {
        vec![(Role::Up, &self.up), (Role::Down, &self.down)]
    }

    fn output(&self) -> Option<(Role, &Linear)> {
        Some((Role::Down, &self.down))
    }

    fn before_output(
        &self,
        normed: &Tensor,
        _context: &ForwardContext,
        _cache: Option<&mut LayerCache>,
    ) -> Result<Tensor> {
        ops::activate(&self.up.forward(normed)?, self.activation)
    }

    fn training_pass(&self, save: bool) -> Box<dyn TrainingPass + '_> {
        Box::new(MlpPass { mlp: self, save, saved: BTreeMap::new() })
    }
}

#[derive(Debug)]
struct MlpPass<'a> {
    mlp: &'a Mlp,
    save: bool,
    /// By the first row of a chunk.
    saved: BTreeMap<usize, Saved>,
}

/// Of a chunk, `[t, f]`.
#[derive(Debug)]
struct Saved {
    up: Tensor,
    hidden: LoraHidden,
}

impl TrainingPass for MlpPass<'_> {
    fn update(&mut self, input: &Input<'_>, chunk: &Range<usize>, training: &TrainContext<'_>) -> Result<Tensor> {
        let mut own = self.mlp.expand(&input.normed(chunk)?, chunk.start, training)?;
        let activated = ops::activate(&own.up, self.mlp.activation)?;
        let down = (Role::Down, chunk.start);
        let update = self.mlp.down.forward_saving(&activated, training, down, &mut own.hidden)?;
        if self.save {
            self.saved.insert(chunk.start, own);
        }
        Ok(update)
    }

    fn backward(
        &mut self,
        at: &mut BackwardContext<'_>,
        input: &Input<'_>,
        chunk: &Range<usize>,
        dy: &Tensor,
        wanted: bool,
    ) -> Result<Option<Tensor>> {
        let (mlp, row) = (self.mlp, chunk.start);
        let Saved { up, hidden } = match self.saved.remove(&row) {
            Some(saved) => saved,
            None => mlp.expand(&input.normed(chunk)?, row, at.training)?,
        };
        let activated = ops::activate(&up, mlp.activation)?;
        let further = wanted || mlp.up.adapter.is_some();
        let dactivated = mlp.down.backward(at, (Role::Down, row), &hidden, activated, dy, further)?;
        let Some(dactivated) = dactivated else { return Ok(None) };
        let dup = ops::activate_backward(&up, mlp.activation, &dactivated)?;
        drop((up, dactivated));
        mlp.up.backward(at, (Role::Up, row), &hidden, input.normed(chunk)?, &dup, wanted)
    }
}

/// The projection and the function of it.
fn cost(spec: &ModelSpec) -> Cost {
    Cost {
        chunk_bytes: (4 * 2 + ops::product_bytes()) * spec.mlp_size as u64,
        product_flops: cost::products(spec, SubLayerKind::Mlp),
        ..Cost::default()
    }
}

fn training_cost(spec: &ModelSpec, device: &Device) -> TrainingCost {
    let (d, f, narrow) = (spec.hidden_size as u64, spec.mlp_size as u64, ops::activation_bytes(device));
    TrainingCost {
        saved: narrow * f,
        // the projection, the function of it and both gradients; a GPU computes these in f32
        chunk: if device.is_cuda() { 16 } else { narrow * 4 } * f + (4 + 2 * narrow) * d + ops::product_bytes() * f,
        ..TrainingCost::default()
    }
}
