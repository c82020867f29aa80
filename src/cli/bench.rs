//! `prune bench`.

use clap::Args;
use prune::Result;
use prune::commands::bench;
use serde::Serialize;

use super::Context;
use super::compute::ComputeArgs;

/// Measures how fast a model reads and generates, and the memory it takes
#[derive(Args, Serialize)]
#[command(after_help = "Examples:
  prune bench ./llama-24                    speed and memory of one model
  prune bench ./llama-24 --against ./llama  beside the uncut model, with ratios
  prune bench ./llama-24 --prompt-tokens 100 --tokens 20 --repetitions 3 --json")]
pub(crate) struct BenchArgs {
    /// Model: a directory, a GGUF file or a hub id (org/name, org/name@revision, org/name:Q4_K_M)
    #[arg(required_unless_present = "config")]
    model: Option<String>,
    /// The model it is compared with, usually the one it was cut from
    #[arg(long, value_name = "MODEL")]
    against: Option<String>,
    /// Tokens of the prompt [default: 512, or what the context has beside the new tokens]
    #[arg(long, value_name = "T")]
    prompt_tokens: Option<usize>,
    /// New tokens [default: 64]
    #[arg(long, value_name = "N")]
    tokens: Option<usize>,
    /// Measured repetitions, after one that warms up [default: 5]
    #[arg(long, value_name = "N")]
    repetitions: Option<usize>,
    #[command(flatten)]
    #[serde(flatten)]
    compute: ComputeArgs,
}

pub(crate) fn run(args: &BenchArgs, context: &Context) -> Result<()> {
    let settings = context.settings("bench", args)?;
    let report = bench::bench(&settings, &context.bars)?;
    context.output.report(&report, || report.to_string())
}
