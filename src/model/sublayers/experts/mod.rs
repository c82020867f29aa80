//! A mixture of experts: gated MLPs, of which each token goes through a few that a router chooses, and perhaps one that
//! all go through. What they give is added up, each times its weight.
//!
//! Tokens are grouped by expert, so that each expert is one product over its tokens. Sums are added up in the order of
//! experts, the one for all tokens last, whatever runs beside it. Experts that are not in memory are read from disk
//! when tokens are sent to them, one at a time, to the same bytes.

mod held;
mod routing;
mod training;

use candle_core::{DType, Device, Tensor};

use super::gated_mlp::{GateUpProj, GatedMlp};
use super::{Cost, Kind, Linear, SubLayer, TrainingCost, TrainingPass, no_output};
use crate::arch::{self, ModelSpec, Role};
use crate::model::cache::LayerCache;
use crate::model::load_options::Loader;
use crate::model::{ForwardContext, Part};
use crate::ops::{self, WeightMatrix};
use crate::weights::lora::Adapter;
use crate::{Error, Result, plan};
use held::Held;
use routing::{Routing, sigmoid};

pub(super) const KIND: Kind = Kind { load, cost, training_cost };

#[derive(Debug)]
struct Experts {
    rule: arch::Experts,
    /// `[n, d]` f32.
    router: WeightMatrix,
    /// What is added to its products, `[n]` f32.
    router_bias: Option<Tensor>,
    /// What is added to scores for the choice, `[n]`.
    bias: Option<Vec<f32>>,
    experts: Held,
    /// Of all experts, in the order of computation; of those in two tensors one for each of these.
    adapters: Vec<(Role, Adapter)>,
    shared: Option<Shared>,
    /// Of experts in two tensors that are trained: these.
    stacked: Vec<(Role, Part, Tensor)>,
}

/// The expert that all tokens go through.
#[derive(Debug)]
struct Shared {
    mlp: GatedMlp,
    /// Whose sigmoid is its weight, `[1, d]` f32.
    weight: Option<Tensor>,
}

fn load(loader: &Loader<'_>) -> Result<Box<dyn SubLayer>> {
    let (spec, layer) = (loader.spec, loader.layer);
    let rule = *spec.experts_of(layer).ok_or_else(|| Error::work(format!("layer {layer} has no experts")))?;
    let own = |role| Ok::<_, Error>((role, loader.linear(role)?));
    let shared = |size| {
        let gate_up = GateUpProj::Split { gate: own(Role::SharedGate)?, up: own(Role::SharedUp)? };
        let weight = match rule.shared_weight.then(|| loader.weighing(Role::SharedWeight)).transpose()? {
            Some(WeightMatrix::Dense(weight)) => Some(weight),
            _ => None,
        };
        let (gate, down) = (held::gate(spec, &rule), own(Role::SharedDown)?);
        Ok::<_, Error>(Shared { mlp: GatedMlp { size, gate_up, gate, down, down_bias: None }, weight })
    };
    let (experts, stacked) = Held::load(loader, &rule)?;
    Ok(Box::new(Experts {
        rule,
        router: loader.weighing(Role::Router)?,
        router_bias: loader.bias(Role::Router)?,
        bias: rule.biased.then(|| loader.numbers(Role::RouterBias)).transpose()?,
        experts,
        adapters: held::adapters(loader, &rule),
        shared: rule.shared.map(shared).transpose()?,
        stacked,
    }))
}

impl Experts {
    /// The way of the rows of `x` `[t, d]`.
    fn route(&self, x: &Tensor) -> Result<Routing> {
        let logits = self.router.linear(x)?.to_dtype(DType::F32)?;
        let logits = self.router_bias.as_ref().map_or(Ok(logits.clone()), |bias| ops::add(&logits, bias))?;
        let logits = logits.to_device(&Device::Cpu)?;
        Ok(Routing::new(&self.rule, logits.flatten_all()?.to_vec1()?, self.bias.as_deref()))
    }
}

/// Rows of a product over `count` of the rows of `x`: few rows are multiplied in another order of sums than many, and
/// what a token gives must not hang on how many others of a batch its expert gets.
fn as_many(x: &Tensor, count: usize) -> Result<usize> {
    let many = ops::ROWS_ALIKE + 1;
    Ok(if x.device().is_cpu() && x.dim(0)? >= many { count.max(many) } else { count })
}

impl Shared {
    /// Its weight for each row of `x` `[t, d]`, `[t]` f32.
    fn weights(&self, x: &Tensor) -> Result<Tensor> {
        let Some(weight) = &self.weight else { return Ok(Tensor::ones(x.dim(0)?, DType::F32, x.device())?) };
        let logits = WeightMatrix::Dense(weight.clone()).linear(x)?.to_dtype(DType::F32)?;
        let weights: Vec<f32> = logits.flatten_all()?.to_vec1()?.into_iter().map(sigmoid).collect();
        Ok(Tensor::from_vec(weights, x.dim(0)?, x.device())?)
    }
}

impl SubLayer for Experts {
    fn name(&self) -> plan::SubLayer {
        plan::SubLayer::Mlp
    }

    fn linears(&self) -> Vec<(Role, &Linear)> {
        // those in two tensors have no names of their own
        let experts = self.experts.in_memory().iter().filter(|_| self.rule.stacked.is_none());
        let shared = self.shared.iter().map(|shared| &shared.mlp);
        experts.chain(shared).flat_map(GatedMlp::linears).collect()
    }

    fn adapters(&self) -> Vec<(Role, &Adapter)> {
        let shared = self.shared.iter().flat_map(|shared| shared.mlp.linears());
        let shared = shared.filter_map(|(role, linear)| Some((role, linear.adapter.as_ref()?)));
        self.adapters.iter().map(|(role, adapter)| (*role, adapter)).chain(shared).collect()
    }

    fn follow(&self, begin: bool) -> Result<()> {
        self.experts.follow(begin, &self.adapters)
    }

    fn others(&self) -> Vec<(Role, Part, &Tensor)> {
        let weight = self.shared.iter().filter_map(|shared| shared.weight.as_ref());
        let stacked = self.stacked.iter().map(|(role, part, all)| (*role, *part, all));
        stacked.chain(weight.map(|weight| (Role::SharedWeight, Part::Weight, weight))).collect()
    }

    fn output(&self) -> Option<(Role, &Linear)> {
        None
    }

    fn before_output(&self, _: &Tensor, _: &ForwardContext, _: Option<&mut LayerCache>) -> Result<Tensor> {
        Err(no_output())
    }

    fn forward(&self, normed: &Tensor, _: &ForwardContext, _: Option<&mut LayerCache>) -> Result<Tensor> {
        let routing = self.route(normed)?;
        let mut sums = ops::RowSums::new(normed.dims2()?, normed.device())?;
        self.experts.each(&routing.used(), |number, expert| {
            let of = routing.of(number);
            let (tokens, mut weights) = (routing.tokens(&of), routing.weights(&of).to_vec());
            let mut rows = tokens.to_vec();
            rows.resize(as_many(normed, tokens.len())?, tokens[0]);
            weights.resize(rows.len(), 0.0);
            let weights = Tensor::new(weights, normed.device())?;
            let updates = expert.weighted(&ops::take_rows(normed, &rows)?, &weights)?;
            sums.add(tokens, &updates.narrow(0, 0, tokens.len())?)
        })?;
        match &self.shared {
            Some(shared) => ops::add(&sums.sums(), &shared.mlp.weighted(normed, &shared.weights(normed)?)?),
            None => Ok(sums.sums()),
        }
    }

    fn training_pass(&self, save: bool) -> Box<dyn TrainingPass + '_> {
        Box::new(training::ExpertsPass::new(self, save))
    }
}

/// One expert after the other, in the worst case each over all tokens.
fn cost(spec: &ModelSpec) -> Cost {
    let Some(rule) = spec.experts else { return Cost::default() };
    let (d, n, k) = (spec.hidden_size as u64, rule.count as u64, rule.chosen as u64);
    let (f, shared) = (rule.size as u64, rule.shared.unwrap_or(0) as u64);
    let fused = if rule.stacked.is_some() { 2 } else { 1 };
    let widest = f.max(shared);
    let weight = if rule.shared_weight { d } else { 0 };
    Cost {
        // gate, up, their product, and that weighed; rows that go in, those that come out, and their sum
        chunk_bytes: (4 * fused * 4 + ops::product_bytes()) * widest + 12 * d + 12 * n + 24 * k,
        product_flops: 2 * (n * d + 3 * (k * f + shared) * d + weight),
        ..Cost::default()
    }
}

fn training_cost(spec: &ModelSpec, device: &Device) -> TrainingCost {
    let Some(rule) = spec.experts else { return TrainingCost::default() };
    let (d, n, k) = (spec.hidden_size as u64, rule.count as u64, rule.chosen as u64);
    let (f, shared) = (rule.size as u64, rule.shared.unwrap_or(0) as u64);
    let narrow = ops::activation_bytes(device);
    let saved = narrow * 2 * (f * k + shared) + 4 * n + 12 * k;
    let widest = f.max(shared);
    TrainingCost {
        saved,
        // what is saved of a chunk that is computed again; of one expert, as of any MLP, and what is weighed
        chunk: saved + narrow * 7 * widest + (16 + 4 * narrow) * d + 12 * n + ops::product_bytes() * widest,
        ..TrainingCost::default()
    }
}
