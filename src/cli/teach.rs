//! `prune teach`.

use std::fmt::Write as _;
use std::path::PathBuf;

use clap::Args;
use prune::Result;
use prune::checkpoint::ByteSize;
use prune::commands::teach::{self, TeachReport};
use prune::shown::shown;
use serde::Serialize;

use super::Context;
use super::compute::ComputeArgs;

/// What rows may hold.
const FORMS: [&str; 6] = ["auto", "text", "messages", "sharegpt", "alpaca", "prompt-completion"];

/// Asks a teacher beforehand, so that a healing learns from it without holding it in memory
#[derive(Args, Serialize)]
#[command(
    after_help = "The text, its sequences, --steps, --batch and --seed are those of the healing, whose sequences are
asked about, each once; a cache of all the text has serves any steps and seed. Kept are the --top-k likeliest
tokens of each place, their log-probabilities in f16, and the mass of all others, which the loss takes as one class.
cache.json and teacher.safetensors hold it.

Examples:
  prune teach ./llama --data c4.jsonl --seq-len 32 --steps 2 --batch 4 --top-k 16 -o cache
  prune teach ./llama --data c4.jsonl --dry-run            how large the cache is
A healing learns from it by heal --teacher cache, with the same text and settings.
A run that was stopped goes on when the same command is given again."
)]
pub(crate) struct TeachArgs {
    /// The teacher: a directory or a hub id
    #[arg(required_unless_present = "config")]
    model: Option<String>,
    /// Text of the healing, given as often as there; a file or a directory of files (its train split)
    #[arg(long, value_name = "SRC", required_unless_present = "config")]
    data: Vec<String>,
    /// Of several texts, how much of the sequences comes from each, such as 3,1 [default: the same from each]
    #[arg(long, value_name = "W,W", value_delimiter = ',', help_heading = "Text")]
    weights: Vec<f64>,
    /// Directory of the cache
    #[arg(long, short, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Field of the rows that holds the text; several are joined: prompt+completion [default: text]
    #[arg(long, value_name = "NAME", help_heading = "Text")]
    text_field: Option<String>,
    /// How a plain text file is cut into documents [default: document, the whole file]
    #[arg(long, value_name = "HOW", value_parser = ["document", "lines", "paragraphs"], help_heading = "Text")]
    text_split: Option<String>,
    /// A row that cannot be read is an error, or passed over and counted [default: error]
    #[arg(long, value_name = "WHAT", value_parser = ["error", "skip"], help_heading = "Text")]
    on_bad_row: Option<String>,
    /// What rows hold [default: auto, told by the first rows; a text where they have its field]
    #[arg(long, value_name = "FORM", value_parser = FORMS, help_heading = "Text")]
    form: Option<String>,
    /// Which tokens of conversations are learned [default: answers]
    #[arg(long, value_name = "WHICH", value_parser = ["answers", "all"], help_heading = "Text")]
    loss_on: Option<String>,
    /// Chat template, a file of Jinja [default: the model's own]
    #[arg(long, value_name = "FILE", help_heading = "Text")]
    chat_template: Option<PathBuf>,
    /// Tokens of a sequence at most [default: 2048, or the model's positions if fewer]
    #[arg(long, value_name = "T", help_heading = "Text")]
    seq_len: Option<usize>,
    /// Documents joined and cut, or one sequence a document [default: packed, conversations one each]
    #[arg(long, value_name = "HOW", value_parser = ["document", "packed"], help_heading = "Text")]
    packing: Option<String>,
    /// What stands between documents [default: auto]
    #[arg(long, value_name = "WHICH", value_parser = ["auto", "eos", "bos", "none"], help_heading = "Text")]
    separator: Option<String>,
    /// Whether a packed document sees those before it in its sequence, or itself only [default: across]
    #[arg(long, value_name = "HOW", value_parser = ["across", "within"], help_heading = "Text")]
    attention: Option<String>,
    /// Sequences are shuffled among so many; 1 keeps the order of the text [default: 8192]
    #[arg(long, value_name = "N", help_heading = "Text")]
    shuffle_window: Option<usize>,
    /// Steps of the healing [default: 5000]
    #[arg(long, value_name = "N", help_heading = "Text")]
    steps: Option<usize>,
    /// Sequences of a step [default: 16]
    #[arg(long, value_name = "B", help_heading = "Text")]
    batch: Option<usize>,
    /// Seed of the healing [default: 0]
    #[arg(long, value_name = "SEED", help_heading = "Text")]
    seed: Option<u64>,
    /// Likeliest tokens that are kept of each place [default: 64]
    #[arg(long, value_name = "K")]
    top_k: Option<usize>,
    /// Softens the teacher's distributions, as the healing will [default: 1]
    #[arg(long, value_name = "T")]
    temperature: Option<f64>,
    /// Replace a directory that prune made before; files of others are never touched
    #[arg(long)]
    force: bool,
    #[command(flatten)]
    #[serde(flatten)]
    compute: ComputeArgs,
    /// Say how large it is and what it takes, and stop
    #[arg(long)]
    dry_run: bool,
}

pub(crate) fn run(args: &TeachArgs, context: &Context) -> Result<()> {
    let settings = context.settings("teach", args)?;
    let report = teach::teach(&settings, &context.bars)?;
    context.output.report(&report, || text(&report))
}

fn text(report: &TeachReport) -> String {
    let TeachReport { model, drawn, whole, sequences, rows, k, disk, memory, .. } = report;
    let of = if *whole { "all of the text".to_owned() } else { format!("of {drawn} that are drawn") };
    let mut text = format!("{}: {sequences} sequences, {of}, {rows} places, {k} tokens each\n", shown(model));
    let _ = writeln!(text, "computed  memory {}, disk {}", ByteSize(*memory), ByteSize(*disk));
    match &report.out {
        None => text + "dry run: nothing asked, nothing written",
        Some(out) if report.found => text + &format!("found     finished before: {}", out.display()),
        Some(out) => {
            let before = match report.sequences_before {
                0 => String::new(),
                sequences => format!(" ({sequences} sequences of it before)"),
            };
            text + &format!("wrote     {}{before}", out.display())
        }
    }
}
