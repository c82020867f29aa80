//! The MLP without a gate: `down(act(up(x)))`.

use std::collections::BTreeMap;
use std::ops::Range;

use candle_core::{Device, Tensor};

use super::linear::LoraHidden;
use super::{Cost, Input, Kind, Linear, SubLayer, TrainingCost, TrainingPass, cost};
use crate::arch::{Activation, ModelSpec, Role, SubLayerKind};
use crate::model::ForwardContext;
use crate::model::Part;
use crate::model::cache::LayerCache;
use crate::model::load_options::Loader;
use crate::model::training::{BackwardContext, TrainContext};
use crate::ops::{self, Xielu};
use crate::plan;
use crate::{Error, Result};

pub(super) const KIND: Kind = Kind { load, cost, training_cost };

#[derive(Debug)]
struct Mlp {
    up: Linear,
    function: Function,
    down: Linear,
}

/// What is done to each number.
#[derive(Debug)]
enum Function {
    Plain(Activation),
    Own(OwnNumbers),
}

/// The numbers of xIELU, of which two are trained with the whole block.
#[derive(Debug)]
struct OwnNumbers {
    /// `[1]` f32 each.
    positive: Tensor,
    negative: Tensor,
    beta: f32,
    eps: f32,
}

fn load(loader: &Loader<'_>) -> Result<Box<dyn SubLayer>> {
    let (up, down) = (loader.linear(Role::Up)?, loader.linear(Role::Down)?);
    let constant = |role: Role| first(&loader.vector(role)?);
    let function = match loader.spec.xielu {
        false => Function::Plain(loader.spec.activation),
        true => Function::Own(OwnNumbers {
            positive: loader.vector(Role::ActivationPositive)?,
            negative: loader.vector(Role::ActivationNegative)?,
            beta: constant(Role::ActivationBeta)?,
            eps: constant(Role::ActivationEps)?,
        }),
    };
    Ok(Box::new(Mlp { up, function, down }))
}

/// The one number of a tensor.
fn first(tensor: &Tensor) -> Result<f32> {
    let numbers: Vec<f32> = tensor.flatten_all()?.to_vec1()?;
    numbers.first().copied().ok_or_else(|| Error::work("an activation lacks a number"))
}

impl OwnNumbers {
    /// The function with the numbers as they are now.
    fn xielu(&self) -> Result<Xielu> {
        Ok(Xielu { alpha_p: first(&self.positive)?, alpha_n: first(&self.negative)?, beta: self.beta, eps: self.eps })
    }
}

impl Function {
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        match self {
            Self::Plain(activation) => ops::activate(x, *activation),
            Self::Own(own) => own.xielu()?.forward(x),
        }
    }

    /// The gradient of `x`; those of its own numbers are noted where the whole block is trained.
    fn backward(&self, at: &mut BackwardContext<'_>, x: &Tensor, dy: &Tensor) -> Result<Tensor> {
        let xielu = match self {
            Self::Plain(activation) => return ops::activate_backward(x, *activation, dy),
            Self::Own(own) => own.xielu()?,
        };
        if at.unfrozen {
            let (positive, negative) = xielu.slopes(x, dy)?;
            for (role, slope) in [(Role::ActivationPositive, positive), (Role::ActivationNegative, negative)] {
                at.note(role, Part::Weight, Tensor::new(&[slope], x.device())?)?;
            }
        }
        if at.frozen {
            // constants, to PyTorch
            let constant = Tensor::new(0f32, x.device())?;
            at.note_none(Role::ActivationBeta, Part::Weight, &constant)?;
            at.note_none(Role::ActivationEps, Part::Weight, &constant)?;
        }
        xielu.backward(x, dy)
    }
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

    fn others(&self) -> Vec<(Role, Part, &Tensor)> {
        match &self.function {
            Function::Plain(_) => Vec::new(),
            Function::Own(own) => vec![
                (Role::ActivationPositive, Part::Weight, &own.positive),
                (Role::ActivationNegative, Part::Weight, &own.negative),
            ],
        }
    }

    fn before_output(
        &self,
        normed: &Tensor,
        _context: &ForwardContext,
        _cache: Option<&mut LayerCache>,
    ) -> Result<Tensor> {
        self.function.forward(&self.up.forward(normed)?)
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
        let activated = self.mlp.function.forward(&own.up)?;
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
        let activated = mlp.function.forward(&up)?;
        let further = wanted || mlp.up.adapter.is_some();
        let dactivated = mlp.down.backward(at, (Role::Down, row), &hidden, activated, dy, further)?;
        let Some(dactivated) = dactivated else { return Ok(None) };
        let dup = mlp.function.backward(at, &up, &dactivated)?;
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
