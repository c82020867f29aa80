//! What is done to a block's weights when they are read.

use std::collections::BTreeSet;
use std::sync::Arc;

use candle_core::{DType, Device, Tensor};

use super::sublayers::{Dora, Linear, Norm, Normalization};
use crate::arch::{LayerTensor, ModelSpec, Role};
use crate::checkpoint::Checkpoint;
use crate::ops::{self, WeightMatrix};
use crate::weights::lora::{Adapter, Adapters, At, Table};
use crate::weights::{Numbers, four_bit};
use crate::{Context, Error, Result};

/// Weights as they are on disk, unless it says otherwise.
#[derive(Clone, Debug, Default)]
pub struct LoadOptions {
    /// Puts the linear layers of the blocks in four bits; `Some(true)` quantises the scales as well.
    pub four_bit: Option<bool>,
    /// Adapters by place in the stack.
    pub adapters: Option<Arc<Adapters>>,
    /// Places whose blocks are held in f32, all of them to be trained.
    pub unfrozen: BTreeSet<usize>,
    /// Whether the final norm and the head are held so.
    pub unfrozen_head: bool,
}

impl LoadOptions {
    /// Whether all of the block at `place` is trained, which is held in f32 for that.
    #[must_use]
    pub(crate) fn is_unfrozen(&self, place: usize) -> bool {
        self.unfrozen.contains(&place)
    }

    /// What is done to the embedding or the head, `name`.
    pub(super) fn table(&self, name: &str) -> Option<&Table> {
        self.adapters.as_ref().and_then(|adapters| adapters.tables.get(name))
    }

    /// Bytes that the block at `place`, read from layer `l`, takes in the memory of `device`.
    #[must_use]
    pub fn bytes(&self, checkpoint: &Checkpoint, spec: &ModelSpec, (l, place): (usize, usize), device: &Device) -> u64 {
        let tensors = spec.layer_tensors(l).into_iter().chain(spec.seam_tensors(l)).map(|tensor| {
            let numbers = tensor.shape.iter().product::<usize>() as u64;
            let matrix = tensor.role.is_linear() || tensor.role.is_stacked();
            let given = checkpoint.four_bit_state(&tensor.name).is_some();
            match checkpoint.tensors.get(&tensor.name) {
                _ if self.is_unfrozen(place) || !matrix => 4 * numbers,
                // half a byte, and for every 64 a byte and for every 256 of those an f32
                _ if self.four_bit == Some(true) && !given => numbers / 2 + numbers / 60,
                // or an f32 for every 64
                _ if given || self.four_bit.is_some() => numbers / 2 + numbers / 16,
                entry => entry.map_or(0, |entry| ops::weight_bytes(numbers, entry.len, device)),
            }
        });
        let adapters = self.adapters.iter().flat_map(|adapters| adapters.modules.range((place, Role::InputNorm)..));
        let own = adapters.take_while(|((layer, _), _)| *layer == place);
        let adapters: usize = own.map(|(_, adapter)| 4 * adapter.parameters() + adapter.norms_bytes()).sum();
        tensors.sum::<u64>() + adapters as u64
    }
}

/// Reads what a block is made of.
pub(super) struct Loader<'a> {
    pub(super) checkpoint: &'a Checkpoint,
    pub(super) spec: &'a ModelSpec,
    /// The source layer.
    pub(super) layer: usize,
    /// Where the block stands in the stack.
    pub(super) place: usize,
    pub(super) load_options: &'a LoadOptions,
    pub(super) device: &'a Device,
}

impl Loader<'_> {
    /// The norm `role`, widened to f32.
    pub(super) fn norm(&self, role: Role) -> Result<Norm> {
        let tensor = self.spec.layer_tensor(self.layer, role);
        let own = normalization(
            (self.checkpoint, self.spec),
            &tensor.name,
            tensor.bias.as_deref(),
            &tensor.shape,
            self.device,
        )?;
        Ok(Norm { role, own })
    }

    /// What weighs experts, `role`, in f32.
    pub(super) fn weighing(&self, role: Role) -> Result<WeightMatrix> {
        let tensor = self.spec.layer_tensor(self.layer, role);
        let weight = four_bit::load_matrix(self.checkpoint, &tensor.name, &tensor.shape)?;
        Ok(WeightMatrix::Dense(weight.dense(DType::F32, self.device)?))
    }

    /// A vector that weighs experts, `role`, in f32.
    pub(super) fn numbers(&self, role: Role) -> Result<Vec<f32>> {
        let tensor = self.spec.layer_tensor(self.layer, role);
        Ok(self.checkpoint.load_f32(&tensor.name, &tensor.shape, &Device::Cpu)?.to_vec1()?)
    }

    /// The matrices of all experts, `[n, o, i]`: all of them where the block is trained whole, and each by itself.
    pub(super) fn stacked(&self, role: Role) -> Result<(Option<Tensor>, Vec<Linear>)> {
        let Self { checkpoint, load_options, device, .. } = *self;
        let tensor = self.spec.layer_tensor(self.layer, role);
        let stored = checkpoint.load(&tensor.name, &tensor.shape, &Device::Cpu)?;
        let unfrozen = load_options.is_unfrozen(self.place);
        let all = if unfrozen { stored.to_dtype(DType::F32)?.copy()?.to_device(device)? } else { stored };
        let experts = (0..all.dim(0)?).map(|expert| {
            // a view: what is trained changes in all places
            let weight = WeightMatrix::Dense(all.get(expert)?);
            let weight = match load_options.four_bit {
                _ if unfrozen => weight,
                Some(double) => weight.quantize(double).context(|| format!("tensor {}", tensor.name))?.on(device)?,
                None => weight.on(device)?,
            };
            Ok(Linear { weight, bias: None, adapter: None, dora: None })
        });
        let experts = experts.collect::<Result<_>>()?;
        Ok((unfrozen.then_some(all), experts))
    }

    /// The linear layer `role`.
    pub(super) fn linear(&self, role: Role) -> Result<Linear> {
        let Self { checkpoint, load_options, device, .. } = *self;
        let tensor = self.spec.layer_tensor(self.layer, role);
        let weight = match four_bit::load_matrix(checkpoint, &tensor.name, &tensor.shape)? {
            weight if load_options.is_unfrozen(self.place) => WeightMatrix::Dense(weight.dense(DType::F32, device)?),
            weight => match load_options.four_bit {
                Some(double) => weight.quantize(double).context(|| format!("tensor {}", tensor.name))?,
                None => weight,
            },
        };
        let bias =
            tensor.bias.as_ref().map(|name| checkpoint.load_f32(name, &tensor.shape[..1], device)).transpose()?;
        let adapter =
            load_options.adapters.as_ref().and_then(|adapters| adapters.modules.get(&(self.place, role)).cloned());
        let dora = match adapter.as_ref().filter(|adapter| adapter.magnitude.is_some()) {
            None => None,
            // the norms are those of what four bits leave
            Some(adapter) if load_options.four_bit.is_some() => {
                Some(Dora::of(&weight, adapter, device).context(|| tensor.name.clone())?)
            }
            Some(adapter) => Some(Dora::new(ratios(checkpoint, &tensor, adapter)?.to_device(device)?)),
        };
        let weight = if load_options.is_unfrozen(self.place) { weight } else { weight.on(device)? };
        Ok(Linear { weight, bias, adapter, dora })
    }
}

/// The norm of the model with this weight and bias, widened to f32.
pub(super) fn normalization(
    (checkpoint, spec): (&Checkpoint, &ModelSpec),
    weight: &str,
    bias: Option<&str>,
    shape: &[usize],
    device: &Device,
) -> Result<Normalization> {
    let weight = checkpoint.load_f32(weight, shape, device)?;
    let bias = bias.map(|bias| checkpoint.load_f32(bias, shape, device)).transpose()?;
    Ok(Normalization { kind: spec.norm, weight, bias, eps: spec.norm_eps })
}

/// What DoRA multiplies the outputs of a layer with, `[o]`.
fn ratios(checkpoint: &Checkpoint, tensor: &LayerTensor, adapter: &Adapter) -> Result<Tensor> {
    let mut ratios = Vec::new();
    Numbers::open(checkpoint, checkpoint.entry(&tensor.name)?, &tensor.shape)?.pieces(|first, rows| {
        let own = adapter.ratios(&rows, At::From(first))?;
        ratios.push(own.ok_or_else(|| Error::work("an adapter without magnitudes"))?);
        Ok(())
    })?;
    Ok(Tensor::cat(&ratios, 0)?)
}

/// What of a module is trained.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Part {
    /// The adapter's A.
    A,
    /// The adapter's B.
    B,
    /// The adapter's m (DoRA).
    Magnitude,
    /// The weight itself.
    Weight,
    /// The bias.
    Bias,
}

impl Part {
    /// End of the parameter's name: `lora_A.weight`.
    #[must_use]
    pub(crate) fn suffix(self) -> &'static str {
        match self {
            Self::A => "lora_A.weight",
            Self::B => "lora_B.weight",
            Self::Magnitude => "lora_magnitude_vector",
            Self::Weight => "weight",
            Self::Bias => "bias",
        }
    }
}

/// A parameter of a block, or its gradient.
pub(crate) type Parameter = (Role, Part, Tensor);
