//! What a generation takes, before it begins: how many texts go together, memory and time.

use candle_core::Device;

use crate::arch::ModelSpec;
use crate::checkpoint::Checkpoint;
use crate::distill::SelfGeneration;
use crate::model::{Cache, ModelOptions, Placement, Residency, memory};
use crate::{Result, ops};

/// How many texts there is room for.
pub(super) struct Room {
    pub(super) batch: usize,
    pub(super) bytes: u64,
}

impl Room {
    /// As many as `most` with which the model's layers stay in memory; `most` where they never do.
    pub(super) fn find(
        checkpoint: &Checkpoint,
        spec: &ModelSpec,
        options: &ModelOptions,
        longest: usize,
        most: usize,
    ) -> Result<Self> {
        let places: Vec<usize> = (0..spec.layers).collect();
        let of = |batch: usize| {
            let reserved_bytes = Cache::bytes(spec, longest.saturating_mul(batch));
            let options = ModelOptions { reserved_bytes, ..options.clone() };
            Placement::new(checkpoint, spec, &places, &options).map(|placement| (placement, reserved_bytes))
        };
        let is_resident = |batch| of(batch).is_ok_and(|(placement, _)| placement.residency == Residency::Resident);
        let fits = |batch| if is_resident(1) { is_resident(batch) } else { of(batch).is_ok() };
        let (mut batch, mut beyond) = (1, most + 1);
        while beyond - batch > 1 {
            let middle = batch + (beyond - batch) / 2;
            if fits(middle) { batch = middle } else { beyond = middle }
        }
        let (placement, cached) = of(batch)?;
        let bytes = memory::expected(spec, placement.weight_bytes, longest, cached);
        Ok(Self { batch, bytes })
    }
}

/// Seconds that it takes if no text ends early: prompts at the speed of products, tokens at that of reading weights.
pub(super) fn seconds(
    generation: &SelfGeneration<'_>,
    (checkpoint, spec): (&Checkpoint, &ModelSpec),
    device: &Device,
) -> Result<f64> {
    let numbers: u64 = (0..spec.layers)
        .flat_map(|layer| spec.layer_tensors(layer))
        .map(|tensor| tensor.shape.iter().product::<usize>() as u64)
        .sum();
    let read: usize = generation.prompts.iter().map(|prompt| prompt.ids.len()).sum();
    let said: f64 = generation.prompts.iter().map(|prompt| generation.most(prompt) as f64).sum();
    let samples = generation.samples as f64;
    let (products, reading) = rayon::scope(|_| (ops::multiply_adds(device), ops::reading(device)));
    let weights: u64 = checkpoint.tensors.values().map(|entry| entry.len).sum();
    let step = weights as f64 / reading?;
    Ok(samples * (read as f64 * numbers as f64 / products? + said / generation.together as f64 * step))
}
