//! The training pass of a mixture of experts. Gradients go through the experts, through the weights of their sum and
//! the router to what entered; the router itself is not trained.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use candle_core::{DType, Device, Tensor};

use super::super::gated_mlp;
use super::super::{Input, TrainingPass};
use super::routing::Routing;
use super::{Experts, Shared};
use crate::arch::{Role, Stacked};
use crate::model::Part;
use crate::model::training::{BackwardContext, TrainContext};
use crate::ops::{self, RowSums, WeightMatrix};
use crate::{Error, Result};

#[derive(Debug)]
pub(super) struct ExpertsPass<'a> {
    own: &'a Experts,
    save: bool,
    /// By the first row of a chunk.
    saved: BTreeMap<usize, Saved>,
}

/// Of a chunk.
#[derive(Debug)]
struct Saved {
    routing: Routing,
    /// By the number of the expert, of those that have tokens.
    experts: BTreeMap<usize, gated_mlp::Saved>,
    /// With its weights, `[t]`.
    shared: Option<(gated_mlp::Saved, Tensor)>,
}

impl<'a> ExpertsPass<'a> {
    pub(super) fn new(own: &'a Experts, save: bool) -> Self {
        Self { own, save, saved: BTreeMap::new() }
    }
}

impl Experts {
    /// What the way back needs of the rows of `x`, from `row` of the pass on; and the updates where these are
    /// `wanted`.
    fn run(
        &self,
        x: &Tensor,
        row: usize,
        training: &TrainContext<'_>,
        wanted: bool,
    ) -> Result<(Option<Tensor>, Saved)> {
        self.note_inputs(x, training)?;
        let routing = self.route(x)?;
        let mut sums = wanted.then(|| RowSums::new(x.dims2()?, x.device())).transpose()?;
        let mut experts = BTreeMap::new();
        self.experts.each(&routing.used(), |number, expert| {
            let of = routing.of(number);
            let tokens = routing.tokens(&of);
            let entering = ops::take_rows(x, tokens)?;
            let rows: Arc<[u32]> = tokens.into();
            let training = &TrainContext { rows: Some(&rows), ..*training };
            let saved = match &mut sums {
                None => expert.expand(&entering, row, training)?,
                Some(sums) => {
                    let weights = Tensor::new(routing.weights(&of), x.device())?;
                    let (update, saved) = expert.forward_saving(&entering, Some(&weights), row, training)?;
                    sums.add(tokens, &update)?;
                    saved
                }
            };
            experts.insert(number, saved);
            Ok(())
        })?;
        let mut update = sums.map(RowSums::sums);
        let shared = match &self.shared {
            None => None,
            Some(shared) => {
                let weights = shared.weights(x)?;
                let saved = match &mut update {
                    None => shared.mlp.expand(x, row, training)?,
                    Some(update) => {
                        let (own, saved) = shared.mlp.forward_saving(x, Some(&weights), row, training)?;
                        *update = ops::add(update, &own)?;
                        saved
                    }
                };
                Some((saved, weights))
            }
        };
        Ok((update, Saved { routing, experts, shared }))
    }

    /// Adds up what enters the matrices that are no linear layers, where somebody wants to know.
    fn note_inputs(&self, x: &Tensor, training: &TrainContext<'_>) -> Result<()> {
        let Some(inputs) = training.inputs else { return Ok(()) };
        inputs.add((training.place, Role::Router), x)?;
        if self.rule.shared_weight {
            inputs.add((training.place, Role::SharedWeight), x)?;
        }
        let d = x.dim(1)?;
        for role in (0..self.rule.count as u16).flat_map(|expert| self.rule.matrices_of(expert)) {
            inputs.add_none((training.place, role), self.rule.shape(role, d).last().copied().unwrap_or(0));
        }
        Ok(())
    }

    /// Gradients of the experts' tensors that hold all of them, and zeros for experts that no token of `x` went
    /// through.
    fn settle(&self, at: &mut BackwardContext<'_>, routing: &Routing, x: &Tensor) -> Result<()> {
        for (role, adapter) in &self.adapters {
            if role.is_stacked() {
                for (part, all) in [(Part::A, &adapter.a), (Part::B, &adapter.b)] {
                    self.stack(at, (*role, part), all.dims().get(1..).unwrap_or_default(), all.device())?;
                }
            } else if role.expert().is_some_and(|expert| routing.of(expert.into()).is_empty()) {
                at.note_none(*role, Part::A, &adapter.a)?;
                at.note_none(*role, Part::B, &adapter.b)?;
                adapter.magnitude.iter().try_for_each(|m| at.note_none(*role, Part::Magnitude, m))?;
            }
        }
        if !at.unfrozen {
            return Ok(());
        }
        let (d, device) = (x.dim(1)?, x.device());
        let Some(lie) = self.rule.stacked else {
            let unused = (0..self.rule.count).filter(|number| routing.of(*number).is_empty());
            let mut roles = unused.flat_map(|number| self.rule.matrices_of(number as u16));
            return roles.try_for_each(|role| at.note_zeros((role, Part::Weight), &self.rule.shape(role, d), device));
        };
        for (all, one) in [(Role::ExpertsGateUp, Role::ExpertGateUp(0)), (Role::ExpertsDown, Role::ExpertDown(0))] {
            let shape = self.rule.shape(one, d);
            self.stack(at, (all, Part::Weight), &shape, device)?;
            if lie == Stacked::Columns {
                self.stack(at, (all, Part::Bias), shape.get(..1).unwrap_or_default(), device)?;
            }
        }
        Ok(())
    }

    /// Puts the gradients of all experts together, `shape` each, as what they are of lies; zeros where there are none.
    fn stack(
        &self,
        at: &mut BackwardContext<'_>,
        (all, part): (Role, Part),
        shape: &[usize],
        device: &Device,
    ) -> Result<()> {
        let one = |expert| if all == Role::ExpertsDown { Role::ExpertDown(expert) } else { Role::ExpertGateUp(expert) };
        let own = (0..self.rule.count as u16).map(|expert| match at.take(one(expert), part) {
            Some(own) => Ok(own),
            None => Ok(Tensor::zeros(shape, DType::F32, device)?),
        });
        let stacked = Tensor::stack(&own.collect::<Result<Vec<Tensor>>>()?, 0)?;
        let turned = part == Part::Weight && self.rule.stacked == Some(Stacked::Columns);
        at.note(all, part, if turned { stacked.transpose(1, 2)?.contiguous()? } else { stacked })
    }

    /// From the gradients of the weights to that of the router's products, and on to what entered.
    fn router_backward(
        &self,
        at: &mut BackwardContext<'_>,
        routing: &Routing,
        dweights: &[f32],
        x: &Tensor,
    ) -> Result<Tensor> {
        let dlogits = routing.backward(&self.rule, dweights);
        let dlogits = Tensor::from_vec(dlogits, (x.dim(0)?, self.rule.count), &Device::Cpu)?.to_device(x.device())?;
        if at.frozen {
            at.note(Role::Router, Part::Weight, ops::outer(&dlogits, x)?)?;
            if self.router_bias.is_some() {
                at.note(Role::Router, Part::Bias, ops::sum_rows(&dlogits)?)?;
            }
            if let Some(bias) = &self.bias {
                // it chooses, and a choice has no gradient
                at.note_none(Role::RouterBias, Part::Weight, &Tensor::new(&bias[..], x.device())?)?;
            }
        }
        self.router.linear_backward(&dlogits, None)
    }
}

impl Shared {
    fn backward(
        &self,
        at: &mut BackwardContext<'_>,
        (saved, weights): (gated_mlp::Saved, Tensor),
        (x, row): (&Tensor, usize),
        dy: &Tensor,
        wanted: bool,
    ) -> Result<Option<Tensor>> {
        let (dx, dweights) =
            self.mlp.backward(at, saved, (&|| Ok(x.clone()), row), Some(&weights), dy, wanted || at.unfrozen)?;
        let (Some(weight), Some(dweights)) = (&self.weight, dweights) else { return Ok(dx) };
        // w·(1 - w) is the slope of a sigmoid whose value is w
        let slope = (&weights - weights.sqr()?)?;
        let dlogits = (dweights.to_dtype(DType::F32)? * slope)?.unsqueeze(1)?;
        if at.unfrozen {
            at.note(Role::SharedWeight, Part::Weight, ops::outer(&dlogits, x)?)?;
        }
        let own = WeightMatrix::Dense(weight.clone()).linear_backward(&dlogits, None)?;
        dx.map(|dx| ops::add(&dx, &own)).transpose()
    }
}

impl TrainingPass for ExpertsPass<'_> {
    fn update(&mut self, input: &Input<'_>, chunk: &Range<usize>, training: &TrainContext<'_>) -> Result<Tensor> {
        let (update, saved) = self.own.run(&input.normed(chunk)?, chunk.start, training, true)?;
        if self.save {
            self.saved.insert(chunk.start, saved);
        }
        update.ok_or_else(|| Error::work("experts gave no update"))
    }

    fn backward(
        &mut self,
        at: &mut BackwardContext<'_>,
        input: &Input<'_>,
        chunk: &Range<usize>,
        dy: &Tensor,
        wanted: bool,
    ) -> Result<Option<Tensor>> {
        let (own, row, x) = (self.own, chunk.start, input.normed(chunk)?);
        let saved = match self.saved.remove(&row) {
            Some(saved) => saved,
            None => own.run(&x, row, at.training, false)?.1,
        };
        let Saved { routing, mut experts, shared } = saved;
        let further = wanted || at.frozen;
        let mut dx = further.then(|| RowSums::new(x.dims2()?, x.device())).transpose()?;
        let mut dweights = vec![0f32; routing.len()];
        own.experts.each(&routing.used(), |number, expert| {
            let of = routing.of(number);
            let tokens = routing.tokens(&of);
            let saved = experts.remove(&number).ok_or_else(|| Error::work("an expert has saved nothing"))?;
            let weights = Tensor::new(routing.weights(&of), x.device())?;
            let (entered, dy) = (|| ops::take_rows(&x, tokens), ops::take_rows(dy, tokens)?);
            at.rows = Some(tokens.into());
            let (dentered, dw) = expert.backward(at, saved, (&entered, row), Some(&weights), &dy, further)?;
            if let (Some(sums), Some(dentered)) = (&mut dx, dentered) {
                sums.add(tokens, &dentered)?;
            }
            if let Some(dw) = dw {
                dweights[of].copy_from_slice(&dw.to_dtype(DType::F32)?.to_vec1::<f32>()?);
            }
            Ok(())
        })?;
        at.rows = None;
        own.settle(at, &routing, &x)?;
        let mut dx = dx.map(RowSums::sums);
        if let Some(sum) = &mut dx {
            *sum = ops::add(sum, &own.router_backward(at, &routing, &dweights, &x)?)?;
        }
        if let (Some(shared), Some(saved)) = (&own.shared, shared)
            && let Some(through) = shared.backward(at, saved, (&x, row), dy, further)?
            && let Some(sum) = &mut dx
        {
            *sum = ops::add(sum, &through)?;
        }
        Ok(dx.filter(|_| wanted))
    }
}
