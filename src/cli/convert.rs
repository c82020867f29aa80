//! `prune convert`.

use std::path::PathBuf;

use clap::Args;
use prune::Result;
use prune::commands::convert;
use prune::export::STORED;
use serde::Serialize;

use super::Context;

/// Turns a GGUF file into a directory of safetensors, and a model into a GGUF file
#[derive(Args, Serialize)]
#[command(
    after_help = "What is in four bits to six becomes coarser numbers of a type that is quantised anew: a GGUF file's
own blocks stay as they are in prune cut alone. Vectors stay in F32 in a GGUF file, and the head of Q4_K and
Q4_0 is in Q6_K, as llama.cpp has it.

Examples:
  prune convert ./llama.gguf -o ./llama-hf                     config, tokenizer, chat template and weights
  prune convert ./llama.gguf --type BF16 -o ./llama-bf16       in half the size
  prune convert ./smol --to gguf --type Q8_0 -o ./smol-gguf    for llama.cpp
  prune convert ./smol --to gguf --type Q4_0 --dry-run         what it takes"
)]
pub(crate) struct ConvertArgs {
    /// Model: a directory, a GGUF file or a hub id (org/name, org/name@revision, org/name:Q4_K_M)
    #[arg(required_unless_present = "config")]
    model: Option<String>,
    /// Directory of the new checkpoint
    #[arg(long, short, value_name = "DIR", required_unless_present_any = ["config", "dry_run"])]
    out: Option<PathBuf>,
    /// What it becomes [default: safetensors of a GGUF file, gguf of anything else]
    #[arg(long, value_name = "CONTAINER", value_parser = ["safetensors", "gguf"])]
    to: Option<String>,
    /// Type of its numbers; safetensors take F32, F16 and BF16 [default: the model's, F32 where it is quantised]
    #[arg(long = "type", value_name = "TYPE", value_parser = clap::builder::PossibleValuesParser::new(STORED.iter().map(|stored| stored.name)))]
    #[serde(rename = "type")]
    r#type: Option<String>,
    /// Size of a shard at most; a GGUF file is one [default: 5GB]
    #[arg(long, value_name = "SIZE")]
    max_shard_size: Option<String>,
    /// Replace a directory that prune made before; files of others are never touched
    #[arg(long)]
    force: bool,
    /// Say what would be written and what it takes, and stop
    #[arg(long)]
    dry_run: bool,
}

pub(crate) fn run(args: &ConvertArgs, context: &Context) -> Result<()> {
    let settings = context.settings("convert", args)?;
    let report = convert::convert(&settings, &context.bars)?;
    context.output.report(&report, || report.to_string())
}
