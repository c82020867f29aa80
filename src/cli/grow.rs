//! `prune grow`.

use std::path::PathBuf;

use clap::Args;
use clap::builder::PossibleValuesParser;
use prune::Result;
use prune::commands::grow;
use serde::Serialize;

use super::Context;

/// Inserts layers and writes the deeper checkpoint, the source's own layers bit for bit
#[derive(Args, Serialize)]
#[command(after_help = "An inserted layer is of the kind of the layer before it: it has its attention window, its
position encoding and its entry in every list that config.json has for layers. Its numbers are those of the new model.
What is inserted is written into prune.json, and prune heal trains it alone: --layers-to-transform inserted.

Examples:
  prune grow ./llama --after 1,3,5,7 -o ./llama-36             means of neighbors that change nothing yet
  prune grow ./llama --after 1,3,5,7 --by copy -o ./llama-36   each of these layers twice
  prune grow ./llama --after 1,3 --by lesa -o ./llama-34       predicted from the layers around them
  prune grow ./llama --repeat 8-23 -o ./llama-48               depth up-scaling: layers 0-23, then 8-31
  prune grow ./llama --after 0-15 --dry-run                    what would be written")]
pub(crate) struct GrowArgs {
    /// Model: a directory, a GGUF file or a hub id (org/name, org/name@revision, org/name:Q4_K_M)
    #[arg(required_unless_present = "config")]
    model: Option<String>,
    /// Directory of the new checkpoint
    #[arg(long, short, value_name = "DIR", required_unless_present_any = ["config", "dry_run"])]
    out: Option<PathBuf>,
    /// Layers that a new one comes after, 0-based, in inclusive ranges, such as 1,3,5-7
    #[arg(long, value_name = "LAYERS", conflicts_with = "repeat")]
    after: Option<String>,
    /// How new layers are made: mean, the mean of the layers on both sides with o_proj and down_proj zero, so that the
    /// model computes what it did (Llama SLayer); copy, the layer before once more (SOLAR); or lesa, what a small
    /// network that learns from all layers tells from the layers on both sides [default: mean]
    #[arg(long, value_name = "HOW", value_parser = PossibleValuesParser::new(grow::growth_names()))]
    by: Option<String>,
    /// Seed of what --by lesa learns with [default: 0]
    #[arg(long, value_name = "SEED")]
    seed: Option<u64>,
    /// A range of layers that comes once more, in order, behind its last layer
    #[arg(long, value_name = "RANGE")]
    repeat: Option<String>,
    /// Size of a shard at most [default: 5GB]
    #[arg(long, value_name = "SIZE")]
    max_shard_size: Option<String>,
    /// Keep a list of config.json as it is although its length is the layer count
    #[arg(long, value_name = "KEY")]
    allow_unsliced: Vec<String>,
    /// Also hash the source's weight files whole for prune.json, which reads them once more
    #[arg(long)]
    hash: bool,
    /// Compare what was written with the source, and run both
    #[arg(long)]
    verify: bool,
    /// Replace a directory that prune made before; files of others are never touched
    #[arg(long)]
    force: bool,
    /// Say what would be written, and stop
    #[arg(long)]
    dry_run: bool,
}

pub(crate) fn run(args: &GrowArgs, context: &Context) -> Result<()> {
    let settings = context.settings("grow", args)?;
    let report = grow::grow(&settings, &context.bars)?;
    context.output.report(&report, || report.to_string())
}
