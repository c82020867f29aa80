//! The gated MLP: `down(act(gate(x)) · up(x))`. An expert is one, too; there a token's update has a weight, and since
//! down adds nothing of its own, what enters it is multiplied with that.

use std::collections::BTreeMap;
use std::ops::Range;

use candle_core::{Device, Tensor};

use super::linear::LoraHidden;
use super::{Cost, Input, Kind, Linear, SubLayer, TrainingCost, TrainingPass, cost, sum};
use crate::Result;
use crate::arch::{Activation, ModelSpec, Role, SubLayerKind};
use crate::model::ForwardContext;
use crate::model::Part;
use crate::model::cache::LayerCache;
use crate::model::load_options::Loader;
use crate::model::training::{BackwardContext, TrainContext};
use crate::ops::{self, ClampedSwiglu, WeightMatrix};
use crate::plan;

pub(super) const KIND: Kind = Kind { load, cost, training_cost };

#[derive(Debug)]
pub(super) struct GatedMlp {
    /// f.
    pub(super) size: usize,
    pub(super) gate_up: GateUpProj,
    pub(super) gate: Gate,
    pub(super) down: (Role, Linear),
    /// What down adds to each update before that is weighed, `[d]` f32, where it does not do so by itself.
    pub(super) down_bias: Option<Tensor>,
}

/// What gate and up become together.
#[derive(Clone, Copy, Debug)]
pub(super) enum Gate {
    /// act(gate) · up.
    Times(Activation),
    Clamped(ClampedSwiglu),
}

impl Gate {
    fn forward(self, gate: &Tensor, up: &Tensor) -> Result<Tensor> {
        match self {
            Self::Times(activation) => ops::gated(gate, up, activation),
            Self::Clamped(clamped) => clamped.forward(gate, up),
        }
    }

    fn backward(self, gate: Tensor, up: Tensor, dy: &Tensor) -> Result<(Tensor, Tensor)> {
        match self {
            Self::Times(activation) => ops::gated_backward(gate, up, activation, dy),
            Self::Clamped(clamped) => clamped.backward(&gate, &up, dy),
        }
    }
}

/// Gate and up projections, apart or in one tensor.
#[derive(Debug)]
pub(super) enum GateUpProj {
    Split {
        gate: (Role, Linear),
        up: (Role, Linear),
    },
    Fused((Role, Linear)),
    /// Rows of both in turns (gpt-oss).
    InTurns((Role, Linear)),
}

/// What a pass saves of some tokens, `[t, f]` both.
#[derive(Debug)]
pub(super) struct Saved {
    gate: Tensor,
    up: Tensor,
    hidden: LoraHidden,
}

/// Gradients of some tokens: of what entered, `[t, d]`, and of the weights, `[t]`.
pub(super) type Back = (Option<Tensor>, Option<Tensor>);

fn load(loader: &Loader<'_>) -> Result<Box<dyn SubLayer>> {
    let down = (Role::Down, loader.linear(Role::Down)?);
    let own = |role| Ok::<_, crate::Error>((role, loader.linear(role)?));
    let gate_up = match loader.spec.fused_gate_up {
        true => GateUpProj::Fused(own(Role::GateUp)?),
        false => GateUpProj::Split { gate: own(Role::Gate)?, up: own(Role::Up)? },
    };
    let (size, gate) = (loader.spec.mlp_size, Gate::Times(loader.spec.activation));
    Ok(Box::new(GatedMlp { size, gate_up, gate, down, down_bias: None }))
}

impl GatedMlp {
    /// Gate and up of a fused projection.
    fn split(&self, both: &Tensor) -> Result<(Tensor, Tensor)> {
        let part = |start| both.narrow(1, start, self.size)?.contiguous();
        Ok((part(0)?, part(self.size)?))
    }

    /// The same where their numbers lie in turns.
    fn split_turns(&self, both: &Tensor) -> Result<(Tensor, Tensor)> {
        let pairs = both.reshape((both.dim(0)?, self.size, 2))?;
        let part = |at| pairs.narrow(2, at, 1)?.squeeze(2)?.contiguous();
        Ok((part(0)?, part(1)?))
    }

    /// Updates with what down adds to them, each times its weight, `[t]`.
    fn with_bias(&self, update: Tensor, weights: &Tensor) -> Result<Tensor> {
        let Some(bias) = &self.down_bias else { return Ok(update) };
        let own = weights.unsqueeze(1)?.broadcast_mul(&bias.unsqueeze(0)?)?;
        ops::add(&update, &own)
    }

    /// Its linear layers, in the order of computation.
    pub(super) fn linears(&self) -> Vec<(Role, &Linear)> {
        let mut linears = match &self.gate_up {
            GateUpProj::Split { gate, up } => vec![(gate.0, &gate.1), (up.0, &up.1)],
            GateUpProj::Fused(gate_up) | GateUpProj::InTurns(gate_up) => vec![(gate_up.0, &gate_up.1)],
        };
        linears.push((self.down.0, &self.down.1));
        linears
    }

    /// What enters down, `[t, f]`, of `x` `[t, d]`.
    fn gated(&self, x: &Tensor) -> Result<Tensor> {
        let (gate, up) = match &self.gate_up {
            GateUpProj::Split { gate, up } => (gate.1.forward(x)?, up.1.forward(x)?),
            GateUpProj::Fused((_, gate_up)) => self.split(&gate_up.forward(x)?)?,
            GateUpProj::InTurns((_, gate_up)) => self.split_turns(&gate_up.forward(x)?)?,
        };
        self.gate.forward(&gate, &up)
    }

    /// Updates `[t, d]` of tokens `x` `[t, d]`, each times its weight, `[t]`.
    pub(super) fn weighted(&self, x: &Tensor, weights: &Tensor) -> Result<Tensor> {
        self.with_bias(self.down.1.forward(&ops::times_rows(&self.gated(x)?, weights)?)?, weights)
    }

    /// Gate and up in training, of rows from `row` on: the way back has no use for what down gives.
    pub(super) fn expand(&self, x: &Tensor, row: usize, training: &TrainContext<'_>) -> Result<Saved> {
        let mut hidden = LoraHidden::new();
        let mut linear =
            |(role, linear): &(Role, Linear)| linear.forward_saving(x, training, (*role, row), &mut hidden);
        let (gate, up) = match &self.gate_up {
            GateUpProj::Split { gate, up } => (linear(gate)?, linear(up)?),
            GateUpProj::Fused(gate_up) => self.split(&linear(gate_up)?)?,
            GateUpProj::InTurns(gate_up) => self.split_turns(&linear(gate_up)?)?,
        };
        Ok(Saved { gate, up, hidden })
    }

    /// Updates in training, times the weights where there are some, and what is saved of them.
    pub(super) fn forward_saving(
        &self,
        x: &Tensor,
        weights: Option<&Tensor>,
        row: usize,
        training: &TrainContext<'_>,
    ) -> Result<(Tensor, Saved)> {
        let mut own = self.expand(x, row, training)?;
        let gated = self.gate.forward(&own.gate, &own.up)?;
        let gated = match weights {
            Some(weights) => ops::times_rows(&gated, weights)?,
            None => gated,
        };
        let update = self.down.1.forward_saving(&gated, training, (self.down.0, row), &mut own.hidden)?;
        let update = weights.map_or(Ok(update.clone()), |weights| self.with_bias(update, weights))?;
        Ok((update, own))
    }

    fn trains_gate_up(&self) -> bool {
        let adapted = |(_, linear): &(Role, Linear)| linear.adapter.is_some();
        match &self.gate_up {
            GateUpProj::Split { gate, up } => adapted(gate) || adapted(up),
            GateUpProj::Fused(gate_up) | GateUpProj::InTurns(gate_up) => adapted(gate_up),
        }
    }

    /// From the gradient `dy` of the updates of rows from `row` on to those of parameters, of what entered, which is
    /// asked for late, and of the weights; the latter two where they are `wanted`.
    pub(super) fn backward(
        &self,
        at: &mut BackwardContext<'_>,
        saved: Saved,
        (entered, row): (&dyn Fn() -> Result<Tensor>, usize),
        weights: Option<&Tensor>,
        dy: &Tensor,
        wanted: bool,
    ) -> Result<Back> {
        let Saved { gate, up, hidden } = saved;
        let gated = self.gate.forward(&gate, &up)?;
        let further = wanted || self.trains_gate_up();
        // only weights ask for it again
        let (entering, gated) = match weights {
            Some(weights) => (ops::times_rows(&gated, weights)?, Some(gated)),
            None => (gated, None),
        };
        let (role, down) = &self.down;
        let Some(dgated) = down.backward(at, (*role, row), &hidden, entering, dy, further)? else {
            return Ok((None, None));
        };
        let dweights = gated.filter(|_| wanted).map(|gated| ops::row_products(&dgated, &gated)).transpose()?;
        let dweights = match (&self.down_bias, weights) {
            (Some(bias), Some(weights)) => {
                if at.unfrozen {
                    at.note(*role, Part::Bias, ops::outer(&weights.unsqueeze(1)?, dy)?.flatten_all()?)?;
                }
                let of_bias = WeightMatrix::Dense(bias.unsqueeze(0)?).linear(dy)?.squeeze(1)?;
                dweights.map(|own| own + of_bias).transpose()?
            }
            _ => dweights,
        };
        let dgated = match weights {
            Some(weights) => ops::times_rows(&dgated, weights)?,
            None => dgated,
        };
        let (dgate, dup) = self.gate.backward(gate, up, &dgated)?;
        drop(dgated);
        let x = entered()?;
        let dx = match &self.gate_up {
            GateUpProj::Split { gate: (gate_role, gate), up: (up_role, up) } => {
                let of_gate = gate.backward(at, (*gate_role, row), &hidden, x.clone(), &dgate, wanted)?;
                drop(dgate);
                sum(of_gate, up.backward(at, (*up_role, row), &hidden, x, &dup, wanted)?)?
            }
            GateUpProj::Fused((role, gate_up)) => {
                let both = Tensor::cat(&[dgate, dup], 1)?;
                gate_up.backward(at, (*role, row), &hidden, x, &both, wanted)?
            }
            GateUpProj::InTurns((role, gate_up)) => {
                let both = Tensor::stack(&[dgate, dup], 2)?.flatten_from(1)?;
                gate_up.backward(at, (*role, row), &hidden, x, &both, wanted)?
            }
        };
        Ok((dx, dweights))
    }
}

impl SubLayer for GatedMlp {
    fn name(&self) -> plan::SubLayer {
        plan::SubLayer::Mlp
    }

    fn linears(&self) -> Vec<(Role, &Linear)> {
        Self::linears(self)
    }

    fn output(&self) -> Option<(Role, &Linear)> {
        Some((self.down.0, &self.down.1))
    }

    fn before_output(
        &self,
        normed: &Tensor,
        _context: &ForwardContext,
        _cache: Option<&mut LayerCache>,
    ) -> Result<Tensor> {
        self.gated(normed)
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

impl TrainingPass for MlpPass<'_> {
    fn update(&mut self, input: &Input<'_>, chunk: &Range<usize>, training: &TrainContext<'_>) -> Result<Tensor> {
        let (update, own) = self.mlp.forward_saving(&input.normed(chunk)?, None, chunk.start, training)?;
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
        let saved = match self.saved.remove(&row) {
            Some(saved) => saved,
            None => mlp.expand(&input.normed(chunk)?, row, at.training)?,
        };
        Ok(mlp.backward(at, saved, (&|| input.normed(chunk), row), None, dy, wanted)?.0)
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
