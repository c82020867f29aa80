//! What a model is opened with.

use candle_core::Device;

use super::{Budget, LoadOptions, Residency};

/// What a model is opened with.
#[derive(Clone, Debug)]
pub struct ModelOptions {
    /// Where it computes.
    pub device: Device,
    /// Cap on memory.
    pub budget: Budget,
    /// What is done to the weights on the way in.
    pub load_options: LoadOptions,
    /// Source layers to stack, from the embedding up; `None` stacks all of them.
    pub places: Option<Vec<usize>>,
    /// Bytes that the caller keeps beside the model, a [`Cache`](super::Cache) for one.
    pub reserved_bytes: u64,
    /// Forces where the layers are; `None` lets the budget decide.
    pub residency: Option<Residency>,
    /// Whether the embedding's rows are read when they are needed on a GPU too: training has a use for its memory, and
    /// enough to do that the reading does not count.
    pub rows_on_host: bool,
}

impl Default for ModelOptions {
    fn default() -> Self {
        Self {
            device: Device::Cpu,
            budget: Budget::new(None),
            load_options: LoadOptions::default(),
            places: None,
            reserved_bytes: 0,
            residency: None,
            rows_on_host: false,
        }
    }
}

impl ModelOptions {
    /// Whether the embedding is in memory as a whole.
    pub(super) fn holds_embedding(&self) -> bool {
        self.device.is_cuda() && !self.rows_on_host
    }
}
