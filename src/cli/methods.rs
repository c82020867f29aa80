//! `prune methods`.

use std::path::PathBuf;

use clap::Args;
use prune::Result;
use prune::commands::cut;
use prune::commands::methods::{self, MethodsSettings};
use prune::commands::ranking;
use serde::Serialize;

use super::Context;
use super::compute::ComputeArgs;
use super::text::TextArgs;

/// Lists the methods that choose layers and the repairs; with a model, ranks the methods by the loss they cost it
#[derive(Args, Serialize)]
#[command(after_help = "Examples:
  prune methods         the table: each name goes with analyze --method, cut --method and [drop] methods of a recipe
  prune methods --json  the same for a program
  prune methods ./llama --data c4.jsonl --layers 8         every method of a pass or a few, by measured loss
  prune methods ./llama --data c4.jsonl --layers 8 --methods similarity,shortened-llama
  prune methods ./llama --data c4.jsonl --layers 8 --all --dry-run   what each costs, the long searches too
  prune methods ./llama --data c4.jsonl --layers 8 --repair refit  by the loss of each choice when it is repaired")]
pub(crate) struct MethodsArgs {
    /// Model: a directory, a GGUF file or a hub id (org/name, org/name@revision, org/name:Q4_K_M); without it the table
    /// is shown
    model: Option<String>,
    /// Text whose loss ranks: .jsonl, .json, .parquet, .csv, .txt (also .gz, .zst, .bz2, .xz), a directory of them (its
    /// validation split), or a hub data set
    #[arg(long, value_name = "SRC")]
    data: Option<String>,
    #[command(flatten)]
    #[serde(flatten)]
    text: TextArgs,
    /// Sequences to measure [default: 64]
    #[arg(long, value_name = "N")]
    samples: Option<usize>,
    /// Take documents at random with this seed instead of the first ones; subsets of layers are drawn with it as well
    #[arg(long, value_name = "SEED")]
    seed: Option<u64>,
    /// Layers to drop
    #[arg(long, value_name = "N", conflicts_with = "fraction")]
    layers: Option<usize>,
    /// Share of the layers to drop, 0 to 1
    #[arg(long, value_name = "F")]
    fraction: Option<f64>,
    /// Methods to try [default: those that take a pass or a few]
    #[arg(long, value_name = "NAME,..", value_delimiter = ',', conflicts_with = "all", value_parser = clap::builder::PossibleValuesParser::new(cut::method_names()))]
    #[serde(skip_serializing_if = "Vec::is_empty")]
    methods: Vec<String>,
    /// Try every method, the long searches as well
    #[arg(long)]
    all: bool,
    /// Repair every choice, as cut --repair does, and rank by the loss then; every fourth sequence judges, the others
    /// are fitted on
    #[arg(long, value_name = "NAME", value_parser = clap::builder::PossibleValuesParser::new(cut::repair_names()))]
    repair: Option<String>,
    /// Directory for methods.json, the ranking
    #[arg(long, short, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Replace a directory that prune made before; files of others are never touched
    #[arg(long)]
    force: bool,
    #[command(flatten)]
    #[serde(flatten)]
    compute: ComputeArgs,
    /// Say what would be tried and what it takes, and stop
    #[arg(long)]
    dry_run: bool,
}

pub(crate) fn run(args: &MethodsArgs, context: &Context) -> Result<()> {
    let settings: MethodsSettings = context.settings("methods", args)?;
    if settings.model.is_some() {
        let report = ranking::rank(&settings, &context.bars)?;
        return context.output.report(&report, || report.to_string());
    }
    let report = methods::methods(&settings)?;
    context.output.report(&report, || report.to_string())
}
