//! What is done to a block's weights when they are read.

use std::collections::BTreeSet;
use std::sync::Arc;

use candle_core::{DType, Device, Tensor};

use super::sublayers::{Dora, Linear, Norm, Normalization};
use crate::arch::{Latent, LayerTensor, ModelSpec, Role};
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
    /// Whether the experts of mixtures stay on disk until tokens are sent to them, but for those that are trained
    /// whole.
    pub experts_on_disk: bool,
}

impl LoadOptions {
    /// Whether all of the block at `place` is trained, which is held in f32 for that.
    #[must_use]
    pub(crate) fn is_unfrozen(&self, place: usize) -> bool {
        self.unfrozen.contains(&place)
    }

    /// Whether the experts of the block at `place` stay on disk.
    pub(super) fn leaves_experts(&self, place: usize) -> bool {
        self.experts_on_disk && !self.is_unfrozen(place)
    }

    /// What is done to the embedding or the head, `name`.
    pub(super) fn table(&self, name: &str) -> Option<&Table> {
        self.adapters.as_ref().and_then(|adapters| adapters.tables.get(name))
    }

    /// Bytes that the block at `place`, read from layer `l`, takes in the memory of `device`.
    #[must_use]
    pub fn bytes(&self, checkpoint: &Checkpoint, spec: &ModelSpec, (l, place): (usize, usize), device: &Device) -> u64 {
        let kept = |tensor: &LayerTensor| !self.leaves_experts(place) || !is_of_experts(tensor);
        let tensors = spec.layer_tensors(l).into_iter().chain(spec.seam_tensors(l)).filter(kept);
        let tensors = tensors.map(|tensor| self.tensor_bytes(checkpoint, &tensor, place, device));
        let adapters = self.adapters.iter().flat_map(|adapters| adapters.modules.range((place, Role::InputNorm)..));
        let own = adapters.take_while(|((layer, _), _)| *layer == place);
        let adapters: usize = own.map(|(_, adapter)| 4 * adapter.parameters() + adapter.norms_bytes()).sum();
        tensors.sum::<u64>() + adapters as u64
    }

    /// Bytes that experts take which are read when tokens are sent to them: the largest of all layers, and the next one
    /// while it is read, of which a matrix is there as it is stored as well. Layers stand where `places` says.
    #[must_use]
    pub fn expert_bytes(&self, checkpoint: &Checkpoint, spec: &ModelSpec, places: &[usize], device: &Device) -> u64 {
        let of_layer = |(place, layer): (usize, &usize)| {
            let (mut held, mut largest) = (0, 0);
            for tensor in spec.layer_tensors(*layer).iter().filter(|tensor| is_of_experts(tensor)) {
                let share = match tensor.role.expert() {
                    Some(0) => 1,
                    Some(_) => continue,
                    None => tensor.shape.first().map_or(1, |count| *count as u64).max(1),
                };
                let stored = checkpoint.tensors.get(&tensor.name).map_or(0, |entry| entry.len);
                held += self.tensor_bytes(checkpoint, tensor, place, device) / share;
                largest = stored.div_ceil(share).max(largest);
            }
            2 * held + largest
        };
        let left = places.iter().enumerate().filter(|(place, _)| self.leaves_experts(*place));
        left.map(of_layer).max().unwrap_or(0)
    }

    /// Bytes that a tensor of the block at `place` takes.
    fn tensor_bytes(&self, checkpoint: &Checkpoint, tensor: &LayerTensor, place: usize, device: &Device) -> u64 {
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
    }
}

/// Whether it is of one of the experts among which tokens are shared out, or of all of them; their biases, a number for
/// each output, are not.
fn is_of_experts(tensor: &LayerTensor) -> bool {
    tensor.role.expert().is_some() || tensor.role.is_stacked() && tensor.shape.len() > 2
}

/// Reads what a block is made of.
pub(super) struct Loader<'a> {
    pub(super) checkpoint: &'a Arc<Checkpoint>,
    pub(super) spec: &'a ModelSpec,
    /// The source layer.
    pub(super) layer: usize,
    /// Where the block stands in the stack.
    pub(super) place: usize,
    pub(super) load_options: &'a LoadOptions,
    pub(super) device: &'a Device,
}

/// What all experts of a layer have in one tensor.
#[derive(Debug, Default)]
pub(super) struct StackedMatrices {
    /// Their matrices, `[n, o, i]` or `[n, i, o]`, where the block is trained whole.
    pub(super) all: Option<Tensor>,
    /// Their biases, `[n, o]`.
    pub(super) biases: Option<Tensor>,
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
        let latent = matches!(role, Role::QDownNorm | Role::KvDownNorm);
        let eps = if latent { Latent::EPS } else { own.eps };
        Ok(Norm { role, own: Normalization { eps, ..own } })
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
        Ok(self.checkpoint.load_f32(&tensor.name, &tensor.shape, &Device::Cpu)?.flatten_all()?.to_vec1()?)
    }

    /// The bias of `role`, widened to f32, where it has one.
    pub(super) fn bias(&self, role: Role) -> Result<Option<Tensor>> {
        let tensor = self.spec.layer_tensor(self.layer, role);
        let shape = tensor.bias_shape();
        tensor.bias.map(|name| self.checkpoint.load_f32(&name, &shape, self.device)).transpose()
    }

    /// What else a sub-layer has that is no matrix, `role`, widened to f32.
    pub(super) fn vector(&self, role: Role) -> Result<Tensor> {
        let tensor = self.spec.layer_tensor(self.layer, role);
        self.checkpoint.load_f32(&tensor.name, &tensor.shape, self.device)
    }

    /// What is in memory for all experts.
    pub(super) fn stacked(&self, role: Role) -> Result<StackedMatrices> {
        let tensor = self.spec.layer_tensor(self.layer, role);
        let all = match self.load_options.is_unfrozen(self.place) {
            true => Some(self.checkpoint.load_f32(&tensor.name, &tensor.shape, self.device)?),
            false => None,
        };
        Ok(StackedMatrices { all, biases: self.bias(role)? })
    }

    /// The matrix of one expert among `own`, which are `[n, o, i]`, or with `columns` `[n, i, o]`.
    pub(super) fn of_stacked(
        &self,
        (role, columns): (Role, bool),
        expert: usize,
        own: &StackedMatrices,
    ) -> Result<Linear> {
        let Self { checkpoint, load_options, device, .. } = *self;
        let tensor = self.spec.layer_tensor(self.layer, role);
        let weight = match &own.all {
            // a view: what is trained changes in all places
            Some(all) => all.get(expert)?,
            None => checkpoint.load_entry(&tensor.name, &tensor.shape, expert, &Device::Cpu)?,
        };
        let weight = match columns {
            true if own.all.is_some() => weight.t()?,
            // products read rows
            true => weight.t()?.contiguous()?,
            false => weight,
        };
        let weight = WeightMatrix::Dense(weight);
        let weight = match load_options.four_bit {
            _ if own.all.is_some() => weight,
            Some(double) => weight.quantize(double).context(|| format!("tensor {}", tensor.name))?.on(device)?,
            None => weight.on(device)?,
        };
        let bias = own.biases.as_ref().map(|biases| biases.get(expert)).transpose()?;
        let adapter = self.adapter(role).map(|adapter| adapter.of_expert(expert)).transpose()?;
        Ok(Linear { weight, bias, adapter, dora: None })
    }

    /// What is added to the product of `role`.
    pub(super) fn adapter(&self, role: Role) -> Option<&Adapter> {
        self.load_options.adapters.as_ref()?.modules.get(&(self.place, role))
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
        let adapter = self.adapter(role).cloned();
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
