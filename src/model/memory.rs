//! How much memory there is, and what a model takes of it.

use sysinfo::{MemoryRefreshKind, RefreshKind, System};

use crate::arch::ModelSpec;

/// Kept for the program itself: code, tokenizer, thread stacks, allocator slack.
const OVERHEAD: u64 = 64 << 20;

/// A cap on this process's resident memory, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Budget(u64);

impl Budget {
    /// The user's cap, or nine tenths of what is free now, within the container's limit.
    #[must_use]
    pub fn new(cap: Option<u64>) -> Self {
        Self(cap.unwrap_or_else(|| free() / 10 * 9))
    }

    /// The cap in bytes.
    #[must_use]
    pub fn bytes(self) -> u64 {
        self.0
    }

    /// What is left for weights and activations.
    #[must_use]
    pub fn usable(self) -> u64 {
        self.0.saturating_sub(OVERHEAD)
    }
}

/// Memory free for this process now: the system's, or less in a container with a limit.
#[must_use]
pub fn free() -> u64 {
    let system =
        System::new_with_specifics(RefreshKind::nothing().with_memory(MemoryRefreshKind::nothing().with_ram()));
    let available = system.available_memory();
    system.cgroup_limits().map_or(available, |limits| available.min(limits.free_memory))
}

/// Bytes that one token takes while a block works on it, f32: the residual stream in and out, norms, projections,
/// the MLP's three.
#[must_use]
pub fn transient_bytes_per_token(spec: &ModelSpec) -> u64 {
    let attention = 3 * spec.heads * spec.head_dim + 4 * spec.kv_heads * spec.head_dim;
    let fused = if spec.fused { 2 } else { 1 };
    4 * (5 * spec.hidden_size + fused * (attention + 3 * spec.mlp_size)) as u64
}
