//! `prune merge`.

use std::path::PathBuf;

use clap::Args;
use prune::Result;
use prune::card::quoted;
use prune::checkpoint::ByteSize;
use prune::commands::merge::{self, MergeReport};
use prune::shown::shown;
use serde::Serialize;

use super::Context;

/// Adds an adapter into the weights of its model, shard by shard
#[derive(Args, Serialize)]
#[command(after_help = "Taken, as PEFT 0.21 takes them: LoRA and rsLoRA on linear layers, the head and the embedding;
DoRA on linear layers and the head; rank_pattern, alpha_pattern, target_modules and exclude_modules as expressions;
layers_to_transform; modules_to_save and other tensors that are in the file whole; trained biases;
trainable_token_indices. Anything else (lora_bias, target_parameters, expressions that look around, ...) is refused by
name.

Examples:
  prune merge ./llama-24 --adapter healed/adapter -o ./llama-24-healed
  prune merge ./llama-24 --adapter healed/adapter --dry-run  what it takes")]
pub(crate) struct MergeArgs {
    /// The model the adapter was trained on: a directory or a hub id
    #[arg(required_unless_present = "config")]
    model: Option<String>,
    /// The adapter, in PEFT's files
    #[arg(long, value_name = "DIR", required_unless_present = "config")]
    adapter: Option<PathBuf>,
    /// Directory of the merged model
    #[arg(long, short, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Write the merged linear layers in four bits
    #[arg(long)]
    save_4bit: bool,
    /// Weights the adapter is merged onto: the model's, or what NF4 leaves of them [default: full]
    #[arg(long, value_name = "WHICH", value_parser = ["full", "quantized"])]
    merge_onto: Option<String>,
    /// With --save-4bit or --merge-onto quantized: scales in f32 instead of quantised as well
    #[arg(long)]
    plain_scales: bool,
    /// Size of a shard at most [default: 5GB]
    #[arg(long, value_name = "SIZE")]
    max_shard_size: Option<String>,
    /// Replace a directory that prune made before; files of others are never touched
    #[arg(long)]
    force: bool,
    /// Say what would be written and what it takes, and stop
    #[arg(long)]
    dry_run: bool,
}

pub(crate) fn run(args: &MergeArgs, context: &Context) -> Result<()> {
    let settings = context.settings("merge", args)?;
    let report = merge::merge(&settings, &context.bars)?;
    context.output.report(&report, || text(&report))
}

fn text(report: &MergeReport) -> String {
    let MergeReport { model, merged, adapter_parameters, size, out } = report;
    let done = match out {
        Some(out) => {
            let out = out.display().to_string();
            format!("wrote {out}\npublish: hf upload USER/NAME {}", quoted(&out))
        }
        None => "dry run: nothing written".to_owned(),
    };
    let model = shown(model);
    format!(
        "{model}: {merged} weights, adapter of {adapter_parameters} numbers\ndisk {}, memory {}\n{done}",
        ByteSize(size.disk),
        ByteSize(size.memory)
    )
}
