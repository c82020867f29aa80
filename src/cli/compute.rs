//! Where a command computes, and within what: the same flags for all that do.

use clap::Args;
use serde::Serialize;

/// Flags of every command that runs a model.
#[derive(Args, Serialize)]
pub(super) struct ComputeArgs {
    /// Where to compute: auto, cpu, cuda, cuda:N [default: auto, a GPU where there is one and this build can use it]
    #[arg(long, value_name = "DEVICE")]
    device: Option<String>,
    /// What products with weights are computed in; sums and the rest are f32. On a CPU bf16 takes AMX or AVX512_BF16
    /// and is up to three times as fast [default: auto, which is bf16 on a GPU and f32 on a CPU]
    #[arg(long, value_name = "TYPE", value_parser = ["auto", "bf16", "f32"])]
    dtype: Option<String>,
    /// Cap on memory, on a GPU its own, such as 8GiB [default: nine tenths of what is free]
    #[arg(long, value_name = "SIZE")]
    memory: Option<String>,
}
