//! The final norm and the vocabulary head; only rows that are scored meet it.

use std::sync::{Arc, OnceLock};

use candle_core::{Device, Tensor};

use crate::Result;
use crate::arch::ModelSpec;
use crate::checkpoint::Checkpoint;
use crate::ops::{self, Scored};

/// Final norm and head, `[d]` and `[v, d]`.
#[derive(Debug)]
pub struct Head {
    checkpoint: Arc<Checkpoint>,
    spec: Arc<ModelSpec>,
    device: Device,
    norm: Tensor,
    /// Read when the first rows are scored; an analysis never needs it.
    weight: OnceLock<Tensor>,
}

impl Head {
    pub(super) fn open(checkpoint: Arc<Checkpoint>, spec: Arc<ModelSpec>, device: &Device) -> Result<Self> {
        let norm = checkpoint.load_f32(spec.final_norm_tensor(), &[spec.hidden_size], device)?;
        Ok(Self { checkpoint, spec, device: device.clone(), norm, weight: OnceLock::new() })
    }

    pub(super) fn bytes(checkpoint: &Checkpoint, spec: &ModelSpec) -> u64 {
        checkpoint.index.tensors.get(spec.head_tensor(&checkpoint.index)).map_or(0, |entry| entry.len)
    }

    fn weight(&self) -> Result<&Tensor> {
        if let Some(weight) = self.weight.get() {
            return Ok(weight);
        }
        let name = self.spec.head_tensor(&self.checkpoint.index);
        let weight = self.checkpoint.load(name, &[self.spec.vocab_size, self.spec.hidden_size], &self.device)?;
        Ok(self.weight.get_or_init(|| weight))
    }

    fn norm(&self, x: &Tensor) -> Result<Tensor> {
        ops::rms_norm(x, &self.norm, self.spec.norm_eps)
    }

    pub(super) fn logits(&self, x: &Tensor) -> Result<Tensor> {
        ops::linear(&self.norm(x)?, self.weight()?)
    }

    pub(super) fn score(&self, x: &Tensor, candidates: &[&[u32]]) -> Result<Vec<Vec<Scored>>> {
        ops::log_likelihood(&self.norm(x)?, self.weight()?, candidates)
    }
}
