//! How much memory there is, and what a model takes of it.

use std::path::Path;

use candle_core::Device;
use sysinfo::{MemoryRefreshKind, ProcessRefreshKind, ProcessesToUpdate, RefreshKind, System};

use super::limits::{Limit, limits};
use super::{Cost, Head, LoadOptions, ModelOptions, Residency, TREE_CHUNKS, tokens_at_once};
use crate::arch::ModelSpec;
use crate::checkpoint::Checkpoint;
use crate::{Error, Result, ops};

/// Kept for the program itself: code, tokenizer, thread stacks, allocator slack.
pub(crate) const OVERHEAD: u64 = 64 << 20;

/// A cap on this process's resident memory, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Budget(u64);

impl Budget {
    /// The user's cap, or nine tenths of what is free now, within every limit of this process.
    #[must_use]
    pub fn new(cap: Option<u64>) -> Self {
        Self(cap.unwrap_or_else(|| free() / 10 * 9))
    }

    /// The same for a model on `device`: on a GPU its own memory counts.
    ///
    /// # Errors
    /// The device's.
    pub fn on(device: &Device, cap: Option<u64>) -> Result<Self> {
        Ok(match (cap, ops::device_memory(device)?) {
            (Some(cap), Some(free)) if cap > free => {
                return Err(Error::request(format!("--memory: the GPU has {} MiB free", free >> 20)));
            }
            (None, Some(free)) => Self(free / 10 * 9),
            (cap, _) => Self::new(cap),
        })
    }

    /// The cap in bytes.
    #[must_use]
    pub fn bytes(self) -> u64 {
        self.0
    }

    /// The same without what something else takes, `bytes`, as far as that is more than is kept for the program itself.
    #[must_use]
    pub fn beside(self, bytes: u64) -> Self {
        Self(self.0.saturating_sub(bytes.saturating_sub(OVERHEAD)))
    }

    /// What is left for weights and activations.
    #[must_use]
    pub fn usable(self) -> u64 {
        self.0.saturating_sub(OVERHEAD)
    }
}

/// What bounds the memory of this process now: the machine, control groups, resource limits; the machine first.
#[must_use]
pub fn bounds() -> Vec<Limit> {
    let system =
        System::new_with_specifics(RefreshKind::nothing().with_memory(MemoryRefreshKind::nothing().with_ram()));
    let (total, free) = (system.total_memory(), system.available_memory());
    let mut bounds = vec![Limit { by: "the machine".to_owned(), total, free }];
    bounds.extend(limits(Path::new("/")));
    bounds
}

/// Memory free for this process now: the system's, or less where something allows less.
#[must_use]
pub fn free() -> u64 {
    bounds().iter().map(|bound| bound.free).min().unwrap_or(0)
}

/// Resident memory of this process now; 0 where the system does not say.
#[must_use]
pub fn resident() -> u64 {
    let Ok(pid) = sysinfo::get_current_pid() else { return 0 };
    let mut system = System::new();
    let what = ProcessRefreshKind::nothing().with_memory();
    system.refresh_processes_specifics(ProcessesToUpdate::Some(&[pid]), false, what);
    system.process(pid).map_or(0, sysinfo::Process::memory)
}

/// Bytes that one token takes while a block works on it, f32.
#[must_use]
pub(crate) fn transient_bytes_per_token(spec: &ModelSpec) -> u64 {
    let Cost { pass_bytes, chunk_bytes, .. } = Cost::most(spec);
    pass_bytes + chunk_bytes
}

/// Bytes that a pass of `tokens` takes while a block works on it, all but attention `at_once` tokens at a time.
pub(super) fn transient_bytes(spec: &ModelSpec, tokens: usize, at_once: usize) -> u64 {
    let Cost { pass_bytes, chunk_bytes, .. } = Cost::most(spec);
    pass_bytes.saturating_mul(tokens as u64).saturating_add(chunk_bytes * tokens.min(at_once) as u64)
}

/// Bytes that this process takes, as computed, with `weight_bytes` of weights, a pass of `tokens` and `beside` bytes of
/// other things at once.
#[must_use]
pub fn expected(spec: &ModelSpec, weight_bytes: u64, tokens: usize, beside: u64) -> u64 {
    let at_once = tokens_at_once(&Device::Cpu);
    OVERHEAD + weight_bytes + transient_bytes(spec, tokens.min(at_once), at_once) + beside
}

/// Tokens of a pass, `most` if the budget allows, when `streams_kept` residual streams of it are kept beside
/// `weight_bytes` of weights, and all but attention works on `at_once` tokens at a time.
pub(super) fn pass_tokens(
    spec: &ModelSpec,
    budget: Budget,
    weight_bytes: u64,
    streams_kept: usize,
    (at_once, most): (usize, usize),
) -> usize {
    let kept = (streams_kept * spec.hidden_size * 4) as u64;
    let Cost { pass_bytes, chunk_bytes, .. } = Cost::most(spec);
    let (whole, room) = (pass_bytes + kept, budget.usable().saturating_sub(weight_bytes));
    let short = room / (whole + chunk_bytes).max(1);
    let long = room.saturating_sub(chunk_bytes * at_once as u64) / whole.max(1);
    let tokens = if short < at_once as u64 { short } else { long };
    usize::try_from(tokens).unwrap_or(most).clamp(1, most)
}

/// Bytes of the embedding where it is in memory as a whole.
fn embedding_bytes(checkpoint: &Checkpoint, spec: &ModelSpec, options: &ModelOptions) -> u64 {
    let entry = checkpoint.index.tensors.get(spec.embedding_tensor(&checkpoint.index));
    if options.holds_embedding() { entry.map_or(0, |entry| entry.len) } else { 0 }
}

/// Whether experts are to stay on disk.
fn asks_by_expert(options: &ModelOptions) -> bool {
    options.load_options.experts_on_disk || options.residency.is_some_and(Residency::streams_experts)
}

/// How a model fits into the budget.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Placement {
    /// Where its layers are.
    pub residency: Residency,
    /// Bytes of weights in memory at once: all layers and the head, or two layers and the head; of layers without their
    /// experts, two of these.
    pub weight_bytes: u64,
    /// Tokens that all but attention works on at a time.
    at_once: usize,
}

impl Placement {
    /// Decides for the layers `places` of a model.
    ///
    /// # Errors
    /// A budget that holds neither the model nor two of its layers, of a mixture without experts but for two, and a
    /// pass.
    pub fn new(checkpoint: &Checkpoint, spec: &ModelSpec, places: &[usize], options: &ModelOptions) -> Result<Self> {
        let ModelOptions { device, load_options, .. } = options;
        let beside = Head::bytes(checkpoint, spec, load_options, device) + embedding_bytes(checkpoint, spec, options);
        let weight_bytes = |residency: Residency| {
            let own = LoadOptions { experts_on_disk: residency.streams_experts(), ..load_options.clone() };
            let layer_bytes = |(place, layer): (usize, &usize)| own.bytes(checkpoint, spec, (*layer, place), device);
            let layers = places.iter().enumerate().map(layer_bytes);
            let layers = if residency.holds_layers() { layers.sum() } else { 2 * layers.max().unwrap_or(0) };
            beside + layers + own.expert_bytes(checkpoint, spec, places, device)
        };
        let at_once = tokens_at_once(device);
        let pass = at_once as u64 * transient_bytes_per_token(spec);
        let usable = options.budget.usable();
        // passes shrink to a sixteenth before the budget is called too small
        let least = |weights: u64| (weights + pass / 16).saturating_add(options.reserved_bytes);
        let fits = |&(residency, weights): &(Residency, u64)| match residency {
            Residency::Resident if options.residency.is_none() => {
                (weights + 2 * pass).saturating_add(options.reserved_bytes) <= usable
            }
            _ => least(weights) <= usable,
        };
        let ways = [Residency::Resident, Residency::Streamed, Residency::ExpertsStreamed, Residency::StreamedByExpert];
        let ways = ways.into_iter().filter(|way| match options.residency {
            Some(asked) => asked.holds_layers() == way.holds_layers(),
            None => true,
        });
        // what is asked for by the expert is not read by the layer
        let ways = ways.filter(|way| way.streams_experts() || !asks_by_expert(options));
        let ways = ways.filter(|way| !way.streams_experts() || spec.experts.is_some());
        let ways: Vec<(Residency, u64)> = ways.map(|way| (way, weight_bytes(way))).collect();
        let thriftiest = ways.iter().min_by_key(|(_, weights)| *weights);
        let Some(&(residency, weight_bytes)) = ways.iter().find(|way| fits(way)).or(thriftiest) else {
            return Err(Error::work("a model that is held in no way"));
        };
        let least = least(weight_bytes);
        if least > usable {
            return Err(Error::request(format!(
                "--memory: {} MiB is too small for this model, its weights and one pass take {} MiB",
                options.budget.bytes() >> 20,
                least.saturating_add(OVERHEAD) >> 20
            )));
        }
        Ok(Self { residency, weight_bytes, at_once })
    }

    /// Bytes of the weights and a pass of `tokens`.
    #[must_use]
    pub(crate) fn pass_bytes(&self, spec: &ModelSpec, tokens: usize) -> u64 {
        self.weight_bytes.saturating_add(transient_bytes(spec, tokens, self.at_once))
    }

    /// Tokens a pass should have, unless one sequence alone is longer, when its sequences share beginnings: usually,
    /// and at most where what they share is long.
    #[must_use]
    pub(crate) fn tree_tokens(&self, spec: &ModelSpec, budget: Budget) -> (usize, usize) {
        let tokens = |most| pass_tokens(spec, budget, self.weight_bytes, 0, (self.at_once, most * self.at_once));
        (tokens(TREE_CHUNKS), tokens(4 * TREE_CHUNKS))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_program_keeps_for_itself_pays_for_what_is_small() {
        let budget = Budget::new(Some(10 * OVERHEAD));
        for (beside, left) in [(0, 10), (OVERHEAD, 10), (3 * OVERHEAD, 8), (11 * OVERHEAD, 0), (u64::MAX, 0)] {
            assert_eq!(budget.beside(beside).bytes(), left * OVERHEAD, "{beside} bytes");
            assert_eq!(budget.beside(beside).usable(), (left * OVERHEAD).saturating_sub(OVERHEAD));
        }
    }
}
