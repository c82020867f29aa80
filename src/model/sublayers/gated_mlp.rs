//! The gated MLP: `down(act(gate(x)) · up(x))`.

use std::collections::BTreeMap;
use std::ops::Range;

use candle_core::{Device, Tensor};

use super::linear::LoraHidden;
use super::{Cost, Input, Kind, Linear, SubLayer, TrainingCost, TrainingPass, cost, sum};
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
struct GatedMlp {
    /// f.
    size: usize,
    gate_up: GateUpProj,
    activation: Activation,
    down: Linear,
}

/// Gate and up projections, apart or in one tensor.
#[derive(Debug)]
enum GateUpProj {
    Split { gate: Linear, up: Linear },
    Fused(Linear),
}

fn load(loader: &Loader<'_>) -> Result<Box<dyn SubLayer>> {
    let gate_up = match loader.spec.fused_gate_up {
        true => GateUpProj::Fused(loader.linear(Role::GateUp)?),
        false => GateUpProj::Split { gate: loader.linear(Role::Gate)?, up: loader.linear(Role::Up)? },
    };
    let (size, activation) = (loader.spec.mlp_size, loader.spec.activation);
    Ok(Box::new(GatedMlp { size, gate_up, activation, down: loader.linear(Role::Down)? }))
}

impl GatedMlp {
    /// Gate and up of a fused projection.
    fn split(&self, both: &Tensor) -> Result<(Tensor, Tensor)> {
        let part = |start| both.narrow(1, start, self.size)?.contiguous();
        Ok((part(0)?, part(self.size)?))
    }

    /// Gate and up in training, of rows from `row` on: the way back has no use for what down gives.
    fn expand(&self, normed: &Tensor, row: usize, training: &TrainContext<'_>) -> Result<Saved> {
        let mut hidden = LoraHidden::new();
        let mut linear = |linear: &Linear, role| linear.forward_saving(normed, training, (role, row), &mut hidden);
        let (gate, up) = match &self.gate_up {
            GateUpProj::Split { gate, up } => (linear(gate, Role::Gate)?, linear(up, Role::Up)?),
            GateUpProj::Fused(gate_up) => self.split(&linear(gate_up, Role::GateUp)?)?,
        };
        Ok(Saved { gate, up, hidden })
    }

    fn trains_gate_up(&self) -> bool {
        let adapted = |linear: &Linear| linear.adapter.is_some();
        match &self.gate_up {
            GateUpProj::Split { gate, up } => adapted(gate) || adapted(up),
            GateUpProj::Fused(gate_up) => adapted(gate_up),
        }
    }
}

impl SubLayer for GatedMlp {
    fn name(&self) -> plan::SubLayer {
        plan::SubLayer::Mlp
    }

    fn linears(&self) -> Vec<(Role, &Linear)> {
        let gate_up = match &self.gate_up {
            GateUpProj::Split { gate, up } => vec![(Role::Gate, gate), (Role::Up, up)],
            GateUpProj::Fused(gate_up) => vec![(Role::GateUp, gate_up)],
        };
        [gate_up, vec![(Role::Down, &self.down)]].concat()
    }

    fn output(&self) -> (Role, &Linear) {
        (Role::Down, &self.down)
    }

    fn before_output(
        &self,
        normed: &Tensor,
        _context: &ForwardContext,
        _cache: Option<&mut LayerCache>,
    ) -> Result<Tensor> {
        let (gate, up) = match &self.gate_up {
            GateUpProj::Split { gate, up } => (gate.forward(normed)?, up.forward(normed)?),
            GateUpProj::Fused(gate_up) => self.split(&gate_up.forward(normed)?)?,
        };
        ops::gated(&gate, &up, self.activation)
    }

    fn training_pass(&self, save: bool) -> Box<dyn TrainingPass + '_> {
        Box::new(MlpPass { mlp: self, save, saved: BTreeMap::new() })
    }
}

#[derive(Debug)]
struct MlpPass<'a> {
    mlp: &'a GatedMlp,
    save: bool,
    /// By the first row of a chunk.
    saved: BTreeMap<usize, Saved>,
}

/// Of a chunk, `[t, f]` both.
#[derive(Debug)]
struct Saved {
    gate: Tensor,
    up: Tensor,
    hidden: LoraHidden,
}

impl TrainingPass for MlpPass<'_> {
    fn update(&mut self, input: &Input<'_>, chunk: &Range<usize>, training: &TrainContext<'_>) -> Result<Tensor> {
        let mut own = self.mlp.expand(&input.normed(chunk)?, chunk.start, training)?;
        let activation = ops::gated(&own.gate, &own.up, self.mlp.activation)?;
        let down = (Role::Down, chunk.start);
        let update = self.mlp.down.forward_saving(&activation, training, down, &mut own.hidden)?;
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
        let Saved { gate, up, hidden } = match self.saved.remove(&row) {
            Some(saved) => saved,
            None => mlp.expand(&input.normed(chunk)?, row, at.training)?,
        };
        let activation = ops::gated(&gate, &up, mlp.activation)?;
        let further = wanted || mlp.trains_gate_up();
        let dactivation = mlp.down.backward(at, (Role::Down, row), &hidden, activation, dy, further)?;
        let Some(dactivation) = dactivation else { return Ok(None) };
        let (dgate, dup) = ops::gated_backward(gate, up, mlp.activation, &dactivation)?;
        drop(dactivation);
        let normed = input.normed(chunk)?;
        match &mlp.gate_up {
            GateUpProj::Split { gate, up } => {
                let of_gate = gate.backward(at, (Role::Gate, row), &hidden, normed.clone(), &dgate, wanted)?;
                drop(dgate);
                sum(of_gate, up.backward(at, (Role::Up, row), &hidden, normed, &dup, wanted)?)
            }
            GateUpProj::Fused(gate_up) => {
                let both = Tensor::cat(&[dgate, dup], 1)?;
                gate_up.backward(at, (Role::GateUp, row), &hidden, normed, &both, wanted)
            }
        }
    }
}

/// The projections and their product.
fn cost(spec: &ModelSpec) -> Cost {
    let fused = if spec.fused_gate_up { 2 } else { 1 };
    Cost {
        chunk_bytes: (4 * fused as u64 * 3 + ops::product_bytes()) * spec.mlp_size as u64,
        product_flops: cost::products(spec, SubLayerKind::GatedMlp),
        ..Cost::default()
    }
}

fn training_cost(spec: &ModelSpec, device: &Device) -> TrainingCost {
    let (d, f, narrow) = (spec.hidden_size as u64, spec.mlp_size as u64, ops::activation_bytes(device));
    TrainingCost {
        saved: narrow * 2 * f,
        // gate, up and their gradients; on a GPU these lie in their place and in that of the adapter's part
        chunk: narrow * if device.is_cuda() { 4 } else { 5 } * f + (4 + 2 * narrow) * d + ops::product_bytes() * f,
        ..TrainingCost::default()
    }
}
