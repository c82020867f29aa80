//! `prune cut`.

use std::path::PathBuf;

use clap::Args;
use prune::Result;
use prune::commands::cut;
use prune::export::STORED;
use serde::Serialize;

use super::Context;
use super::compute::ComputeArgs;
use super::text::TextArgs;

/// Removes layers and writes the pruned checkpoint, bit for bit
#[derive(Args, Serialize)]
#[command(after_help = "Examples:
  prune cut ./llama --plan analysis/analysis.json -o ./llama-24           the plan of an analysis
  prune cut ./llama --plan analysis/analysis.json --fraction 0.25 -o out  its best of another size
  prune cut ./llama --drop 21-28,30 -o out                                0-based, inclusive
  prune cut ./llama --drop attn:20-25 --format zeros -o out               attention alone, of six layers
  prune cut ./llama --deepest 8 -o out                                    the deepest but the last
  prune cut ./llama --method tail --layers 8 -o out                       a method of prune methods
  prune cut ./llama --drop 21-28 --repair refit --data c4.jsonl -o out    fitted to the whole model, no training
  prune cut ./llama --method shortgpt --layers 2 --one-at-a-time --data c4.jsonl -o out
  prune cut ./llama --drop 21-28 --repair reduced-rank --rank 8 --data c4.jsonl -o out  no standard file
  prune cut ./healed/merged --whole ./llama --repair refit --data c4.jsonl -o out  after a healing, once more
  prune cut ./llama --drop 21-28 --repair average -o out                  merged into layer 20, no text
  prune cut ./llama --drop 21-28 --repair streamline --data c4.jsonl --steps 2 -o out  layer 20 learns 20 to 28
  prune cut ./llama --method laco --threshold 0.5 --data c4.jsonl -o out  layers merged while alike
  prune cut ./llama --plan analysis/analysis.json --target bytes=4GiB -o out
  prune cut ./llama.gguf --drop 1-2 -o out                                a GGUF file, as it is quantised
  prune cut ./smol --drop 1-2 --to gguf --type Q8_0 -o out                for llama.cpp, in one step
  prune cut ./llama --drop 21-28 -o out --dry-run                         what would be written")]
pub(crate) struct CutArgs {
    /// Model: a directory, a GGUF file or a hub id (org/name, org/name@revision, org/name:Q4_K_M)
    #[arg(required_unless_present = "config")]
    model: Option<String>,
    /// Directory of the new checkpoint
    #[arg(long, short, value_name = "DIR", required_unless_present_any = ["config", "dry_run"])]
    out: Option<PathBuf>,
    /// Plan, or analysis.json with one
    #[arg(long, value_name = "FILE", conflicts_with_all = ["drop", "deepest"])]
    plan: Option<PathBuf>,
    /// What to drop: layers, 0-based, in inclusive ranges, and sub-layers alone, such as 21-28,attn:30,mlp:5-7
    #[arg(long, value_name = "LAYERS", conflicts_with = "deepest")]
    drop: Option<String>,
    /// Drop the n deepest layers but the last one
    #[arg(long, value_name = "N")]
    deepest: Option<usize>,
    /// Drop the n last layers, the very last one included
    #[arg(long, value_name = "N", conflicts_with_all = ["plan", "drop", "deepest"])]
    tail: Option<usize>,
    /// Method that chooses, with --layers or --fraction, and with an analysis as --plan where it looks at scores; see
    /// prune methods
    #[arg(long, value_name = "NAME", conflicts_with_all = ["drop", "deepest", "tail"], value_parser = clap::builder::PossibleValuesParser::new(cut::method_names()))]
    method: Option<String>,
    /// Share of the layers to drop, 0 to 1: the analysis' best block of that size, or the deepest layers
    #[arg(long, value_name = "F", conflicts_with_all = ["drop", "deepest", "tail", "target", "max_loss", "keep"])]
    fraction: Option<f64>,
    /// Number of layers to drop, with an analysis as --plan, its best choice of that size, or with --method
    #[arg(long, value_name = "N", conflicts_with_all = ["fraction", "target", "max_loss", "keep"])]
    layers: Option<usize>,
    /// Drop as few layers as bring the model to params=5B, bytes=4GiB, kv-bytes=64KiB (keys and values of a token in
    /// 16 bits) or speed=1.5 (times fewer weights read for a generated token): with --plan or --method, or alone the
    /// deepest
    #[arg(long, value_name = "WHAT", conflicts_with_all = ["drop", "deepest", "tail", "max_loss", "keep"])]
    target: Option<String>,
    /// With an analysis as --plan that measured losses, its largest choice that costs no more than this, nats a token
    #[arg(long, value_name = "RISE", conflicts_with_all = ["drop", "deepest", "tail", "method", "keep"])]
    max_loss: Option<f64>,
    /// With an analysis as --plan that asked questions, its largest choice that leaves this share of the accuracy
    #[arg(long, value_name = "[TASK=]SHARE", conflicts_with_all = ["drop", "deepest", "tail", "method"])]
    keep: Option<String>,
    /// The model that MODEL was cut of: drop nothing, and make what is left, healed since or not, follow that one anew
    /// by --repair refit (or fold, scale and the like)
    #[arg(long, value_name = "MODEL", conflicts_with_all = ["plan", "drop", "deepest", "tail", "method", "fraction", "layers", "target", "max_loss", "keep"])]
    whole: Option<String>,
    /// Size of a shard at most [default: 5GB]
    #[arg(long, value_name = "SIZE")]
    max_shard_size: Option<String>,
    /// What the new checkpoint is: safetensors, or gguf with tokenizer and chat template in one file, as prune convert
    /// makes it [default: as the model]
    #[arg(long, value_name = "CONTAINER", value_parser = ["safetensors", "gguf"])]
    to: Option<String>,
    /// Type of the matrices of a GGUF file that is made of safetensors; one made of a GGUF file keeps its blocks
    /// [default: the model's]
    #[arg(long = "type", value_name = "TYPE", requires = "to", value_parser = clap::builder::PossibleValuesParser::new(STORED.iter().map(|stored| stored.name)))]
    #[serde(rename = "type")]
    r#type: Option<String>,
    /// How a checkpoint says that layers lack sub-layers: per-layer (transformers' per_layer_config, any family), nas
    /// (block_configs, which vLLM and llama.cpp read) or zeros (opens everywhere, saves nothing)
    #[arg(long, value_name = "FORMAT", value_parser = clap::builder::PossibleValuesParser::new(cut::format_names()))]
    format: Option<String>,
    /// Keep a list of config.json as it is although its length is the layer count
    #[arg(long, value_name = "KEY")]
    allow_unsliced: Vec<String>,
    /// Put this at the seams, fitted on --data; rdsc and average merge the dropped layers into the one before and need
    /// no text. streamline trains that layer until its stream is the one that left the dropped ones, xmerge the layer
    /// behind them: as many layers are left as --drop leaves. operator, reduced-rank, patch and patch-diagonal put a
    /// linear map behind the layer before a seam, which this program alone reads. best is refit. See prune
    /// methods
    #[arg(long, value_name = "NAME", value_parser = clap::builder::PossibleValuesParser::new(cut::repair_names()))]
    repair: Option<String>,
    /// Let the layers of --method go one after the other: the model loses one, is repaired where --repair says so, and
    /// is scored again on --data
    #[arg(long, conflicts_with_all = ["plan", "drop", "deepest", "tail"])]
    one_at_a_time: bool,
    /// How alike merges have to leave the final states to stay, a cosine: with --method laco or sliding, which merge as
    /// many layers as that lets go
    #[arg(long, value_name = "T", allow_negative_numbers = true, conflicts_with_all = ["plan", "drop", "deepest", "tail"])]
    threshold: Option<f64>,
    /// Layers that become one at a time, with --method laco [default: 4]
    #[arg(long, value_name = "C", requires = "threshold")]
    merge_layers: Option<usize>,
    /// Layers to go down by after a merge that stays, with --method laco [default: 1]
    #[arg(long, value_name = "I", requires = "threshold")]
    interval: Option<usize>,
    /// Text for --repair, --one-at-a-time and methods that merge: .jsonl, .json, .parquet, .csv, .txt (also .gz, .zst,
    /// .bz2, .xz), a directory of them (its validation split), or a hub data set
    #[arg(long, value_name = "SRC")]
    data: Option<String>,
    #[command(flatten)]
    #[serde(flatten)]
    text: TextArgs,
    /// Sequences for --repair, every fourth of which judges and is not fitted on [default: 128]
    #[arg(long, value_name = "N")]
    samples: Option<usize>,
    /// Take documents at random with this seed instead of the first ones
    #[arg(long, value_name = "SEED")]
    seed: Option<u64>,
    /// Leave the first token of each sequence out of the fit of a repair; refit then no longer brings back the massive
    /// activations of first tokens that the dropped layers made
    #[arg(long)]
    leave_out_first: bool,
    /// Rank of the map of --repair reduced-rank [default: 64, at most the width of the stream]
    #[arg(long, value_name = "R")]
    rank: Option<usize>,
    /// Learning rate of --repair streamline and xmerge (AdamW, no decay, constant) [default: the papers' 2e-4 and 1e-5]
    #[arg(long, value_name = "RATE", allow_negative_numbers = true)]
    lr: Option<f64>,
    /// Steps of --repair streamline and xmerge, for each layer that is trained [default: 300]
    #[arg(long, value_name = "N")]
    steps: Option<usize>,
    /// Sequences of a step of --repair streamline and xmerge [default: 16]
    #[arg(long, value_name = "N")]
    batch: Option<usize>,
    /// Forget a training of --repair streamline or xmerge that was stopped, instead of going on
    #[arg(long)]
    restart: bool,
    /// Also hash the source's weight files whole for prune.json, which reads them once more
    #[arg(long)]
    hash: bool,
    /// Compare what was written with the source, and run both across the seam
    #[arg(long)]
    verify: bool,
    /// Replace a directory that prune made before; files of others are never touched
    #[arg(long)]
    force: bool,
    #[command(flatten)]
    #[serde(flatten)]
    compute: ComputeArgs,
    /// Say what would be written and what it takes, and stop
    #[arg(long)]
    dry_run: bool,
}

pub(crate) fn run(args: &CutArgs, context: &Context) -> Result<()> {
    let settings = context.settings("cut", args)?;
    let report = cut::cut(&settings, &context.bars)?;
    context.output.report(&report, || report.to_string())
}
