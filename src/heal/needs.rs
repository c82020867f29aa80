//! What a training step takes of memory, counted before anything is loaded.
//!
//! A pass is dearest at one of three places: at the loss, in the backward pass of what mixes tokens, which looks at all
//! of them, or in that of the rest, which looks at some of them at a time; sub-layers say what they take there. What
//! waits for the backward pass is all there at the first of them and gone at the last; gradients come as it goes.

use candle_core::Device;

use super::choices::{Quant, Train};
use super::dora::Outputs;
use super::settings::HealSettings;
use super::writing::TOGETHER;
use crate::arch::ModelSpec;
use crate::checkpoint::Checkpoint;
use crate::model::{Cache, CheckpointingPolicy, TrainingCost};
use crate::ops;

/// What the allocator keeps.
const SLACK: u64 = 16 << 20;

/// What a teacher takes.
#[derive(Clone, Copy, Debug, Default)]
pub struct TeacherSize {
    /// Bytes of its weights.
    pub bytes: u64,
    /// Of one that is remembered, its likeliest tokens of each row.
    pub remembered: Option<usize>,
    /// Streams that are held against its own.
    pub streams: usize,
}

impl TeacherSize {
    /// Of a model with weights of `bytes`, or none.
    #[must_use]
    pub fn model(bytes: u64) -> Self {
        Self { bytes, remembered: None, streams: 0 }
    }
}

/// What decides how many bytes a step takes, all in bytes.
pub(super) struct Needs {
    /// There throughout: weights, adapters, moments, what a teacher gives.
    pub(super) fixed: u64,
    pub(super) gradients: u64,
    /// What enters a layer, and what a layer keeps besides.
    pub(super) input: u64,
    kept: u64,
    /// Layers from the lowest trained one up: what is below keeps nothing.
    walked: u64,
    /// The three dearest places.
    loss: u64,
    mixing: u64,
    around_chunk: u64,
    chunk_per_token: u64,
    tokens: u64,
    /// What texts take that the model writes itself before the passes.
    writing: u64,
    /// Whether gradients are there only after what waits has gone.
    in_turn: bool,
}

impl Needs {
    /// Counts for `fixed` bytes of weights, adapters and moments and `trained` numbers, `walked` layers from the lowest
    /// trained one up, and what DoRA adds.
    pub(super) fn new(
        (checkpoint, spec): (&Checkpoint, &ModelSpec),
        settings: &HealSettings,
        device: &Device,
        (fixed, trained): (u64, u64),
        (walked, dora, teacher): (usize, &Outputs, TeacherSize),
    ) -> Self {
        let d = spec.hidden_size as u64;
        let of_step = (settings.seq_len() * settings.batch) as u64;
        let tokens = (settings.pass_tokens.max(settings.seq_len()) as u64).min(of_step);
        let taught = settings.teacher.is_some() && teacher.remembered.is_none();
        let lessons = match teacher.remembered {
            // ids and logarithms, as they are on the disk and as they are used
            Some(k) => 16 * k as u64 * tokens,
            // its streams of the step, and the differences from them of a pass
            None if taught => 4 * d * (of_step * (1 + teacher.streams as u64) + tokens * teacher.streams as u64),
            None => 0,
        };
        let logits = ops::objective_bytes(tokens as usize, (spec.hidden_size, spec.vocab_size), taught, device);
        let (whole, trains_head) = (settings.train != Train::Lora, settings.train.trains_head());
        let rotations = spec.rope.rotary_dim as u64;
        let cost = dora.with(TrainingCost::most(spec, device));
        // the gradient of the stream
        let throughout = 4 * (d + rotations);
        Self {
            fixed: fixed + lessons + SLACK,
            gradients: 4 * trained,
            input: ops::activation_bytes(device) * d * tokens,
            kept: tokens * cost.saved,
            walked: walked as u64,
            // the gradient of a head is made anew with its factor; a trained head has a copy for products on a GPU
            loss: 4 * tokens * (3 * d + rotations)
                + logits
                + if trains_head { 8 * spec.vocab_size as u64 * d } else { 0 },
            mixing: tokens * (throughout + cost.mixing),
            around_chunk: tokens * (throughout + cost.held) + beside_a_product(checkpoint, spec, settings, device),
            chunk_per_token: cost.chunk,
            tokens,
            writing: writing_bytes(spec, settings),
            in_turn: !whole && tokens == of_step,
        }
    }

    /// Bytes of a step that spends like this.
    pub(super) fn bytes(&self, policy: CheckpointingPolicy) -> u64 {
        let kept = policy.saved_layers as u64;
        let inputs = if policy.offload_activations { kept } else { self.walked } * self.input;
        let waiting = inputs + kept * self.kept;
        let held = match self.in_turn {
            true => waiting.max(self.gradients + self.input),
            false => waiting + self.gradients,
        };
        let chunk = self.around_chunk + self.chunk_per_token * self.tokens.min(policy.chunk_size as u64);
        let returned = if policy.offload_activations { self.input } else { 0 };
        self.fixed + self.writing.max(held + self.loss.max(self.mixing.max(chunk) + returned))
    }

    /// The policy that fits into `room` with the least work done for nothing; else the bytes of the thriftiest
    /// way. On a GPU fewer tokens at a time than `most` come before inputs in main memory, of which `host` bytes are
    /// free; a run that goes on is held (`is_held`) to the tokens it began with.
    pub(super) fn policy(
        &self,
        most: CheckpointingPolicy,
        on_gpu: bool,
        is_held: bool,
        (room, host): (u64, u64),
    ) -> std::result::Result<CheckpointingPolicy, u64> {
        // fewer tokens at a time are other bits: on a CPU what is free must not decide on those
        let divisors: &[usize] = if on_gpu && !is_held { &[1, 2, 4, 8] } else { &[1] };
        let places: &[bool] = if on_gpu && self.walked * self.input <= host { &[false, true] } else { &[false] };
        let ways = places.iter().flat_map(|offload_activations| {
            divisors.iter().map(|divisor| CheckpointingPolicy {
                saved_layers: 0,
                chunk_size: most.chunk_size / divisor,
                offload_activations: *offload_activations,
            })
        });
        let mut least = u64::MAX;
        for way in ways {
            least = least.min(self.bytes(way));
            if least <= room {
                let kept = |saved_layers| CheckpointingPolicy { saved_layers, ..way };
                let fits = |way: &CheckpointingPolicy| self.bytes(*way) <= room;
                return Ok((1..=self.walked as usize).rev().map(kept).find(fits).unwrap_or(way));
            }
        }
        Err(least)
    }
}

/// Bytes of the keys and values of texts that the model writes at a time, as long as a sequence can be, and of their
/// logits, on their way to a draw.
fn writing_bytes(spec: &ModelSpec, settings: &HealSettings) -> u64 {
    if settings.on_policy == 0.0 {
        return 0;
    }
    let texts = TOGETHER.min(settings.batch) as u64;
    texts.saturating_mul(Cache::bytes(spec, settings.seq_len()).saturating_add(12 * spec.vocab_size as u64))
}

/// Bytes beside a product with the largest matrix of a layer: on a GPU its numbers in the type of the product where
/// they are held in another, and where it is trained a chunk's part of its gradient and the sum with it.
fn beside_a_product(checkpoint: &Checkpoint, spec: &ModelSpec, settings: &HealSettings, device: &Device) -> u64 {
    let matrices = spec.layer_tensors(0).into_iter().filter(|tensor| tensor.shape.len() == 2);
    let (sizes, names): (Vec<usize>, Vec<String>) =
        matrices.map(|tensor| (tensor.shape.iter().product::<usize>(), tensor.name)).unzip();
    let largest = sizes.into_iter().max().unwrap_or(0) as u64;
    let whole = settings.train != Train::Lora;
    let four_bit = settings.quant == Quant::Nf4 || names.iter().any(|name| checkpoint.four_bit_state(name).is_some());
    let numbers = if device.is_cuda() && (four_bit || whole) { ops::activation_bytes(device) * largest } else { 0 };
    numbers + if whole { 8 * largest } else { 0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Four layers that 10 bytes enter and that keep 100 more, a chunk's 40 for 40 tokens and 5 around it.
    fn needs() -> Needs {
        Needs {
            fixed: 1000,
            gradients: 5,
            input: 10,
            kept: 100,
            walked: 4,
            loss: 7,
            mixing: 20,
            around_chunk: 5,
            chunk_per_token: 1,
            tokens: 40,
            writing: 0,
            in_turn: true,
        }
    }

    #[test]
    fn what_is_spent_follows_what_there_is() {
        let most = CheckpointingPolicy { saved_layers: 0, chunk_size: 64, offload_activations: false };
        let way = |saved_layers, chunk_size, offload_activations| CheckpointingPolicy {
            saved_layers,
            chunk_size,
            offload_activations,
        };
        for (on_gpu, room, host, expected) in [
            (true, 1485, 40, Ok(way(4, 64, false))),
            (true, 1484, 40, Ok(way(3, 64, false))),
            (true, 1085, 40, Ok(way(0, 64, false))),
            (true, 1084, 40, Ok(way(0, 32, false))),
            (true, 1060, 40, Ok(way(0, 8, false))),
            // 25 bytes of inputs less, those of one layer brought back among them
            (true, 1059, 40, Ok(way(0, 16, true))),
            (true, 1045, 40, Ok(way(0, 8, true))),
            (true, 1044, 40, Err(1045)),
            (true, 1059, 39, Err(1060)),
            (false, 1085, 0, Ok(way(0, 64, false))),
            (false, 1084, 99, Err(1085)),
        ] {
            assert_eq!(needs().policy(most, on_gpu, false, (room, host)), expected, "{on_gpu} {room} {host}");
        }
    }

    #[test]
    fn a_run_that_goes_on_keeps_its_tokens() {
        let began = CheckpointingPolicy { saved_layers: 4, chunk_size: 32, offload_activations: false };
        let policy = |room| needs().policy(began, true, true, (room, 40));
        assert_eq!(policy(u64::MAX).map(|way| (way.saved_layers, way.chunk_size)), Ok((4, 32)));
        assert_eq!(policy(1084).map(|way| (way.saved_layers, way.chunk_size)), Ok((0, 32)));
        // eight at a time would fit, inputs in main memory as well
        assert_eq!(policy(1061).map(|way| (way.chunk_size, way.offload_activations)), Err(1062));
        assert_eq!(policy(1062).map(|way| way.offload_activations), Ok(true));
    }

    #[test]
    fn gradients_come_as_inputs_go_unless_there_are_some_already() {
        let way = CheckpointingPolicy { saved_layers: 1, chunk_size: 40, offload_activations: false };
        let bytes = |gradients, in_turn| Needs { gradients, in_turn, ..needs() }.bytes(way);
        assert_eq!([bytes(5, true), bytes(200, true), bytes(200, false)], [1185, 1255, 1385]);
    }
}
