//! Low-rank adapters (LoRA, arXiv 2106.09685): a frozen layer's output plus scale · B·A·x; and what else PEFT saves
//! with them: magnitudes (DoRA, arXiv 2402.09353), whole tensors, rows of the embedding.

mod adapter;
mod base;
mod config;
mod layers;
mod pattern;
mod peft;
mod ranks;
mod read;
mod settings;
mod stacked;
mod table;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use candle_core::{DType, Device, Tensor};
use rand::{RngCore, SeedableRng};
use rand_chacha::ChaCha8Rng;

pub(crate) use adapter::NORMS;
pub use adapter::{Adapter, At};
pub use layers::LayerList;
pub use pattern::Patterns;
pub(crate) use peft::ADAPTER_FILES;
pub use ranks::RankSchedule;
pub use settings::{LoraSettings, Module, Targets};
pub use table::{Table, TokenRows, Whole};

use crate::arch::{ModelSpec, Role, Stacked};
use crate::{Error, Result};

/// What an adapter's files do to a model.
#[derive(Clone, Debug)]
pub struct Adapters {
    /// How the low-rank updates were made.
    pub settings: LoraSettings,
    /// Updates of the blocks' linear layers, and of tensors that hold all experts, by layer and role.
    pub modules: BTreeMap<(usize, Role), Adapter>,
    /// Updates of the embedding and of the head, by the tensor's name.
    pub tables: BTreeMap<String, Table>,
    /// Tensors that stand in the adapter's file whole and take the place of the model's.
    pub whole: Option<Whole>,
}

impl Adapters {
    /// Fresh adapters, which change nothing: A uniform in ±1/√i (PEFT's default, Kaiming with a = √5), B zero; DoRA's
    /// magnitudes are zero until a model that has the weights begins them. Each
    /// module has random numbers of its own, so the same module starts the same whatever else is adapted.
    ///
    /// # Errors
    /// Request: impossible settings, or a target that the model does not have.
    pub fn new(spec: &ModelSpec, settings: &LoraSettings, seed: u64, device: &Device) -> Result<Self> {
        let (strengths, dora) = (settings.strengths()?, settings.dora);
        let mut modules = BTreeMap::new();
        for (layer, role, path) in settings.modules(spec)? {
            let (count, (outputs, inputs)) = (experts(spec, role), matrix(spec, layer, role));
            let (rank, scale) = strengths.of(&path);
            let mut random = ChaCha8Rng::seed_from_u64(seed);
            random.set_stream(stream(layer, role));
            let bound = 1.0 / (inputs as f32).sqrt();
            let uniform = |random: &mut ChaCha8Rng| (random.next_u32() >> 8) as f32 / (1 << 23) as f32 - 1.0;
            let shape = |rows, columns| count.into_iter().chain([rows, columns]).collect::<Vec<usize>>();
            let (a_shape, b_shape) = (shape(rank, inputs), shape(outputs, rank));
            let a: Vec<f32> = (0..a_shape.iter().product()).map(|_| uniform(&mut random) * bound).collect();
            let adapter = Adapter {
                a: Tensor::from_vec(a, a_shape, device)?,
                b: Tensor::zeros(b_shape, DType::F32, device)?,
                scale,
                stacked: lie(spec, role),
                // those of the weight's rows, which are not known here
                magnitude: dora.then(|| Tensor::zeros(outputs, DType::F32, &Device::Cpu)).transpose()?,
            };
            modules.insert((layer, role), adapter);
        }
        Ok(Self { settings: settings.clone(), modules, tables: BTreeMap::new(), whole: None })
    }

    /// Numbers in the adapters that [`Adapters::new`] would make.
    ///
    /// # Errors
    /// As [`Adapters::new`].
    pub fn count(spec: &ModelSpec, settings: &LoraSettings) -> Result<u64> {
        let strengths = settings.strengths()?;
        let numbers = settings.modules(spec)?.into_iter().map(|(layer, role, path)| {
            let (outputs, inputs) = matrix(spec, layer, role);
            let magnitudes = if settings.dora { outputs } else { 0 };
            (experts(spec, role).unwrap_or(1) * strengths.of(&path).0 * (outputs + inputs) + magnitudes) as u64
        });
        Ok(numbers.sum())
    }

    /// Numbers in all of it.
    #[must_use]
    pub fn parameters(&self) -> usize {
        let modules: usize = self.modules.values().map(Adapter::parameters).sum();
        let tables: usize = self.tables.values().map(Table::parameters).sum();
        modules + tables + self.whole.as_ref().map_or(0, Whole::parameters)
    }

    /// Tensors of the model that it changes.
    #[must_use]
    pub fn changed(&self) -> usize {
        let whole = self.whole.iter().flat_map(|whole| whole.names.keys());
        let besides = whole.filter(|name| !self.tables.contains_key(*name)).count();
        self.modules.len() + self.tables.len() + besides
    }

    /// Refuses what cannot be trained on: everything but low-rank updates of the blocks' linear layers, with magnitudes
    /// or without.
    ///
    /// # Errors
    /// Request: names what else there is.
    pub fn check_plain(&self) -> Result<()> {
        let whole = self.whole.iter().flat_map(|whole| whole.names.keys()).next();
        let table = self.tables.iter().next();
        let what = match (whole, table) {
            (Some(name), _) => format!("the tensor {name} as a whole"),
            (_, Some((name, Table::TokenRows(_)))) => format!("rows of {name}"),
            (_, Some((name, Table::LowRank(_)))) => format!("a low-rank update of {name}"),
            _ => return Ok(()),
        };
        Err(Error::request(format!(
            "holds {what}; healing goes on from low-rank updates of the blocks' linear layers alone: `prune merge` it \
             first and heal the merged model"
        )))
    }
}

/// A number for each module, for what is random about it.
#[must_use]
pub fn stream(layer: usize, role: Role) -> u64 {
    let (kind, expert) = role.number();
    u64::from(expert.unwrap_or(0)) << 40 | (layer as u64) << 8 | u64::from(kind)
}

/// How the experts lie in the tensor of all of them, `role`, if it is one.
fn lie(spec: &ModelSpec, role: Role) -> Option<Stacked> {
    spec.experts.filter(|_| role.is_stacked())?.stacked
}

/// How many experts are in it.
fn experts(spec: &ModelSpec, role: Role) -> Option<usize> {
    Some(spec.experts.filter(|_| role.is_stacked())?.count)
}

/// `(o, i)` of a linear layer, or of one of the matrices that lie in a tensor.
fn matrix(spec: &ModelSpec, layer: usize, role: Role) -> (usize, usize) {
    let role = match role {
        Role::ExpertsGateUp => Role::ExpertGateUp(0),
        Role::ExpertsDown => Role::ExpertDown(0),
        own => own,
    };
    match spec.layer_tensor(layer, role).shape[..] {
        [outputs, inputs] => (outputs, inputs),
        // a module is a linear layer
        _ => (0, 0),
    }
}
