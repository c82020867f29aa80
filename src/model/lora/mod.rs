//! Low-rank adapters (LoRA, arXiv 2106.09685): a frozen layer's output plus scale · B·A·x.

mod peft;
mod settings;

use std::collections::BTreeMap;

use candle_core::{Device, Tensor};
use rand::{RngCore, SeedableRng};
use rand_chacha::ChaCha8Rng;

pub use peft::ADAPTER_FILES;
pub use settings::{LoraSettings, Targets};

use crate::arch::{ModelSpec, Role};
use crate::{Result, ops};

/// The adapter of one linear layer `[o, i]`.
#[derive(Clone, Debug)]
pub struct Adapter {
    /// `[r, i]` f32.
    pub a: Tensor,
    /// `[o, r]` f32.
    pub b: Tensor,
    /// Factor on B·A.
    pub scale: f64,
}

impl Adapter {
    /// Rank r.
    ///
    /// # Errors
    /// Work: A is not a matrix.
    pub fn rank(&self) -> Result<usize> {
        Ok(self.a.dim(0)?)
    }

    /// x·Aᵀ·scale, `[t, i]` to `[t, r]`, without a graph.
    pub(super) fn reduce(&self, x: &Tensor) -> Result<Tensor> {
        Ok((ops::low_rank_down(x, &self.a)? * self.scale)?)
    }

    /// What it adds to the layer's output, x·Aᵀ·scale·Bᵀ, `[t, i]` to `[t, o]`, with gradients for all three.
    pub(super) fn tracked(&self, x: &Tensor) -> Result<Tensor> {
        ops::trainable_linear(&(ops::trainable_linear(x, &self.a)? * self.scale)?, &self.b)
    }

    /// What it adds to the rows `first..first + rows` of the weight, `[rows, i]` f32 in main memory: B·A·scale.
    ///
    /// # Errors
    /// Work: A and B do not fit, or have fewer rows.
    pub fn delta_rows(&self, first: usize, rows: usize) -> Result<Tensor> {
        let b = self.b.detach().narrow(0, first, rows)?.to_device(&Device::Cpu)?;
        Ok((ops::low_rank_up(&b, &self.a.to_device(&Device::Cpu)?)? * self.scale)?)
    }
}

/// The adapters of a model.
#[derive(Clone, Debug)]
pub struct Adapters {
    /// How they were made.
    pub settings: LoraSettings,
    /// One for each adapted layer, by layer and role.
    pub modules: BTreeMap<(usize, Role), Adapter>,
}

impl Adapters {
    /// Fresh adapters, which change nothing: A uniform in ±1/√i (PEFT's default, Kaiming with a = √5), B zero. Each
    /// module has random numbers of its own, so the same module starts the same whatever else is adapted.
    ///
    /// # Errors
    /// Request: impossible settings, or a target that the model does not have.
    pub fn new(spec: &ModelSpec, settings: &LoraSettings, seed: u64, device: &Device) -> Result<Self> {
        settings.check()?;
        let roles = settings.targets.roles(spec)?;
        settings.check_patterns(&roles)?;
        let mut modules = BTreeMap::new();
        for layer in 0..spec.layers {
            for (role, path) in spec.linear_modules(layer).into_iter().filter(|(role, _)| roles.contains(role)) {
                let (outputs, inputs) = matrix(spec, layer, role);
                let (rank, alpha) = settings.of(&path);
                let mut random = ChaCha8Rng::seed_from_u64(seed);
                random.set_stream(stream(layer, role));
                let bound = 1.0 / (inputs as f32).sqrt();
                let uniform = |random: &mut ChaCha8Rng| (random.next_u32() >> 8) as f32 / (1 << 23) as f32 - 1.0;
                let a: Vec<f32> = (0..rank * inputs).map(|_| uniform(&mut random) * bound).collect();
                let adapter = Adapter {
                    a: Tensor::from_vec(a, (rank, inputs), device)?,
                    b: Tensor::zeros((outputs, rank), candle_core::DType::F32, device)?,
                    scale: settings::scale(alpha, rank, settings.rslora),
                };
                modules.insert((layer, role), adapter);
            }
        }
        Ok(Self { settings: settings.clone(), modules })
    }

    /// Numbers in the adapters that [`Adapters::new`] would make.
    ///
    /// # Errors
    /// As [`Adapters::new`].
    pub fn count(spec: &ModelSpec, settings: &LoraSettings) -> Result<u64> {
        settings.check()?;
        let roles = settings.targets.roles(spec)?;
        settings.check_patterns(&roles)?;
        let modules =
            (0..spec.layers).flat_map(|layer| spec.linear_modules(layer).into_iter().map(move |m| (layer, m)));
        let chosen = modules.filter(|(_, (role, _))| roles.contains(role));
        Ok(chosen
            .map(|(layer, (role, path))| {
                let (outputs, inputs) = matrix(spec, layer, role);
                (settings.of(&path).0 * (outputs + inputs)) as u64
            })
            .sum())
    }

    /// Numbers in all adapters.
    #[must_use]
    pub fn parameters(&self) -> usize {
        self.modules.values().map(|adapter| adapter.a.elem_count() + adapter.b.elem_count()).sum()
    }
}

/// A number for each module, for what is random about it.
#[must_use]
pub fn stream(layer: usize, role: Role) -> u64 {
    (layer as u64) << 8 | role as u64
}

/// `(o, i)` of a linear layer.
fn matrix(spec: &ModelSpec, layer: usize, role: Role) -> (usize, usize) {
    match spec.layer_tensor(layer, role).shape[..] {
        [outputs, inputs] => (outputs, inputs),
        // roles chosen by `Targets::roles` are linear
        _ => (0, 0),
    }
}
