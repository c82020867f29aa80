//! `prune analyze`.

use std::path::PathBuf;

use clap::Args;
use prune::Result;
use prune::commands::analyze;
use serde::Serialize;

use super::Context;
use super::compute::ComputeArgs;
use super::text::TextArgs;

/// Scores every block of layers and finds the one whose removal hurts least
#[derive(Args, Serialize)]
#[command(after_help = "Examples:
  prune analyze ./llama --data c4.jsonl                            every block size
  prune analyze ./llama --data c4.jsonl -o analysis                keep scores and figures
  prune analyze org/name --data allenai/c4 --samples 10000 -o a    hub model, hub text
  prune analyze ./llama --data c4.jsonl --method shortgpt --layers 8 -o a
  prune analyze ./llama --data c4.jsonl --data code.jsonl --layers 8   does the text matter?
  prune analyze ./llama --data c4.jsonl --layers 8 --rerank 16     of the 16 best by score, the best by loss
  prune analyze ./llama --data c4.jsonl --target params=5B -o a    as few layers as that takes
  prune analyze ./llama --data c4.jsonl --max-loss +0.1 -o a       as many as cost no more than that
  prune analyze ./llama --data c4.jsonl --keep boolq=0.95 -o a     as many as keep 95 % of the accuracy
  prune analyze ./llama --tasks boolq --metrics layer-accuracy,probe   by questions, no text
  prune analyze ./llama --metrics magnitude,lamp                   weights alone, no text
  prune analyze ./llama-24 --against healed/adapter --metrics barrier --data c4.jsonl
  prune analyze --from analysis/analysis.json --layers 8 -o plan8  another plan, no pass")]
pub(crate) struct AnalyzeArgs {
    /// Model: a directory, a GGUF file or a hub id (org/name, org/name@revision, org/name:Q4_K_M)
    #[arg(required_unless_present_any = ["from", "config"])]
    model: Option<String>,
    /// Text: .jsonl, .json, .parquet, .csv, .txt (also .gz, .zst, .bz2, .xz), a directory of them (its validation
    /// split), or a hub data set. Given several times, each text is measured by itself, the plan follows all alike, and
    /// the report says how far their choices agree; not for --method policy
    #[arg(long, value_name = "SRC")]
    #[serde(skip_serializing_if = "Vec::is_empty")]
    data: Vec<String>,
    #[command(flatten)]
    #[serde(flatten)]
    text: TextArgs,
    /// Sequences of each text to measure [default: 1000]
    #[arg(long, value_name = "N")]
    samples: Option<usize>,
    /// Take documents at random with this seed instead of the first ones; subsets of layers are drawn with it as well
    #[arg(long, value_name = "SEED")]
    seed: Option<u64>,
    /// Score that the plan follows [default: angular; without --data the first of --metrics]
    #[arg(long, value_name = "NAME", value_parser = clap::builder::PossibleValuesParser::new(analyze::metric_names()))]
    metric: Option<String>,
    /// Method whose score and choice the plan follows, in place of --metric and --strategy; see prune methods
    #[arg(long, value_name = "NAME", conflicts_with_all = ["metric", "strategy"], value_parser = clap::builder::PossibleValuesParser::new(analyze::method_names()))]
    method: Option<String>,
    /// Scores to measure besides the plan's, and no others [default: all that one pass gives]
    #[arg(long, value_name = "NAME,..", value_delimiter = ',', value_parser = clap::builder::PossibleValuesParser::new(analyze::metric_names()))]
    #[serde(skip_serializing_if = "Vec::is_empty")]
    metrics: Vec<String>,
    /// Another model of the same shapes, or an adapter for MODEL, to mix layers with, for --metrics barrier and its
    /// like; the two the other way round mix layers of MODEL into it
    #[arg(long, value_name = "MODEL")]
    against: Option<String>,
    /// Layers to drop
    #[arg(long, value_name = "N", conflicts_with_all = ["fraction", "target", "max_loss", "keep"])]
    layers: Option<usize>,
    /// Share of the layers to drop, 0 to 1
    #[arg(long, value_name = "F", conflicts_with_all = ["target", "max_loss", "keep"])]
    fraction: Option<f64>,
    /// Drop as few layers as bring the model to params=5B, bytes=4GiB, kv-bytes=64KiB (keys and values of a token in
    /// 16 bits) or speed=1.5 (times fewer weights read for a generated token)
    #[arg(long, value_name = "WHAT", conflicts_with_all = ["max_loss", "keep"])]
    target: Option<String>,
    /// Drop as many layers as the loss allows to rise by no more than this, nats a token: the loss of every size is
    /// measured
    #[arg(long, value_name = "RISE", conflicts_with = "keep")]
    max_loss: Option<f64>,
    /// Drop as many layers as leave this share of the accuracy on a task, such as boolq=0.95: the questions are asked
    /// without the choice of every size
    #[arg(long, value_name = "TASK=SHARE")]
    keep: Option<String>,
    /// Tasks whose questions are asked, for --keep and for scores such as layer-accuracy, margin and probe; as prune
    /// eval names them
    #[arg(long, value_name = "TASK,..", value_delimiter = ',')]
    #[serde(skip_serializing_if = "Vec::is_empty")]
    tasks: Vec<String>,
    /// Folder of tasks in lm-evaluation-harness's YAML files, to be named in --tasks
    #[arg(long, value_name = "DIR")]
    include_path: Option<PathBuf>,
    /// Folder with their data, or for a single task the file [default: the hub and its cache]
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// Examples in front of each question [default: the task's own: 5 for MMLU, else 0]
    #[arg(long, value_name = "N")]
    few_shot: Option<usize>,
    /// First questions of each task: a number, or a share when below 1
    #[arg(long, value_name = "N")]
    limit: Option<f64>,
    /// First layers that must stay
    #[arg(long, value_name = "N")]
    protect_first: Option<usize>,
    /// Last layers that must stay
    #[arg(long, value_name = "N")]
    protect_last: Option<usize>,
    /// Subsets of the layers that each text is run with, for shapley [default: 10]
    #[arg(long, value_name = "N")]
    subsets: Option<usize>,
    /// Steps in which --method policy learns each number of layers [default: 200]
    #[arg(long, value_name = "N")]
    policy_steps: Option<usize>,
    /// Measure the loss without each of the K best by score, and take the one that costs least
    #[arg(long, value_name = "K")]
    rerank: Option<usize>,
    /// Plan from an existing analysis.json, without a forward pass
    #[arg(long, value_name = "FILE", conflicts_with_all = ["subsets", "policy_steps", "rerank", "model", "data", "tasks", "include_path", "data_dir", "few_shot", "limit", "text_field", "text_split", "on_bad_row", "samples", "seq_len", "packing", "separator", "attention", "seed", "memory", "metrics", "against"])]
    from: Option<PathBuf>,
    /// Directory for analysis.json, heat map and curves (PNG and SVG)
    #[arg(long, short, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Also write every score as CSV
    #[arg(long, value_name = "FILE")]
    csv: Option<PathBuf>,
    /// Replace outputs that prune made before; files of others are never touched
    #[arg(long)]
    force: bool,
    /// How the plan chooses [default: what suits the metric]
    #[arg(long, value_name = "NAME", value_parser = clap::builder::PossibleValuesParser::new(analyze::strategy_names()))]
    strategy: Option<String>,
    /// Of several processes that analyze together (torchrun, srun): seconds after which one that nothing is heard of is
    /// taken for dead [default: 60]
    #[arg(long, value_name = "S")]
    rank_timeout: Option<u64>,
    #[command(flatten)]
    #[serde(flatten)]
    compute: ComputeArgs,
    /// Say what would be done and what it takes, and stop
    #[arg(long)]
    dry_run: bool,
}

pub(crate) fn run(args: &AnalyzeArgs, context: &Context) -> Result<()> {
    let settings = context.settings("analyze", args)?;
    let report = analyze::analyze(&settings, &context.bars)?;
    match &report.group {
        // process 0 tells it
        Some(group) if !group.leads() => Ok(()),
        _ => context.output.report(&report, || report.text(context.output.color())),
    }
}
