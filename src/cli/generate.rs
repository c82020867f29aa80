//! `prune generate`.

use std::fmt::Write as _;
use std::path::PathBuf;

use clap::Args;
use prune::Result;
use prune::checkpoint::ByteSize;
use prune::commands::generate::{self, GenerateReport};
use prune::shown::shown;
use serde::Serialize;

use super::Context;
use super::compute::ComputeArgs;
use super::progress::time;

/// What rows may hold.
const FORMS: [&str; 6] = ["auto", "text", "messages", "sharegpt", "alpaca", "prompt-completion"];

/// Lets a model write text itself, to heal a cut of it on
#[derive(Args, Serialize)]
#[command(
    after_help = "Rows that have a prompt, messages or an instruction are asked by the model's chat template, and \
their last answer is written anew; a
text goes on. What is written is what `prune heal --data` reads: messages, a prompt and its completion, or a text.
What a row becomes depends on the seed and its place alone, not on --batch. Beside the rows, FILE.provenance says how
they were made.

Examples:
  prune generate ./llama-it --prompts chat.jsonl -o own.jsonl --tokens 64
                                                           its own answers to these prompts
  prune generate ./llama --prompts c4.jsonl --prompt-tokens 8 --tokens 64 -o own.jsonl
                                                           texts that begin as these do
  prune generate ./llama --from-bos 20 --temperature 0.9 --top-p 0.95 -o own.jsonl
                                                           texts from nothing
  prune generate ./llama --prompts c4.jsonl --dry-run      memory and time
A run that was stopped goes on when the same command is given again."
)]
pub(crate) struct GenerateArgs {
    /// Model: a directory, a GGUF file or a hub id (org/name, org/name@revision, org/name:Q4_K_M)
    #[arg(required_unless_present = "config")]
    model: Option<String>,
    /// What to go on with: a file (.jsonl, .json, .parquet, .csv, .txt; also .gz, .zst, .bz2, .xz) or a directory of
    /// files (its train split)
    #[arg(long, value_name = "SRC")]
    prompts: Option<String>,
    /// N texts that begin with nothing but BOS (EOS where the tokenizer has no BOS)
    #[arg(long, value_name = "N", conflicts_with = "prompts")]
    from_bos: Option<usize>,
    /// The file to write, FILE.jsonl
    #[arg(long, short, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Adapter on top of the model, in PEFT's files
    #[arg(long, value_name = "DIR")]
    adapter: Option<PathBuf>,
    /// Field of the rows that holds the text; several are joined: title+text [default: text]
    #[arg(long, value_name = "NAME", help_heading = "Prompts")]
    text_field: Option<String>,
    /// How a plain text file is cut into documents [default: document, the whole file]
    #[arg(long, value_name = "HOW", value_parser = ["document", "lines", "paragraphs"], help_heading = "Prompts")]
    text_split: Option<String>,
    /// A row that cannot be read, or is too long for the model, is an error, or passed over and counted
    /// [default: error]
    #[arg(long, value_name = "WHAT", value_parser = ["error", "skip"], help_heading = "Prompts")]
    on_bad_row: Option<String>,
    /// What rows hold [default: auto, told by the first rows; a text where they have its field]
    #[arg(long, value_name = "FORM", value_parser = FORMS, help_heading = "Prompts")]
    form: Option<String>,
    /// Chat template, a file of Jinja [default: the model's own]
    #[arg(long, value_name = "FILE", help_heading = "Prompts")]
    chat_template: Option<PathBuf>,
    /// Rows at most [default: all]
    #[arg(long, value_name = "N", help_heading = "Prompts")]
    limit: Option<usize>,
    /// Of a text, its first so many tokens are the prompt [default: all]
    #[arg(long, value_name = "T", help_heading = "Prompts")]
    prompt_tokens: Option<usize>,
    /// New tokens of a text at most [default: 256]
    #[arg(long, value_name = "N", help_heading = "Sampling")]
    tokens: Option<usize>,
    /// Texts of each prompt [default: 1]
    #[arg(long, value_name = "N", help_heading = "Sampling")]
    samples: Option<usize>,
    /// Divides the logits; 0 takes the likeliest token [default: 1]
    #[arg(long, value_name = "T", allow_negative_numbers = true, help_heading = "Sampling")]
    temperature: Option<f64>,
    /// Draw among the K likeliest tokens
    #[arg(long, value_name = "K", help_heading = "Sampling")]
    top_k: Option<usize>,
    /// Draw among the likeliest tokens that together have probability P
    #[arg(long, value_name = "P", help_heading = "Sampling")]
    top_p: Option<f64>,
    /// Draw among the tokens that have at least P times the probability of the likeliest
    #[arg(long, value_name = "P", help_heading = "Sampling")]
    min_p: Option<f64>,
    /// Seed of the draws [default: 0]
    #[arg(long, value_name = "SEED", help_heading = "Sampling")]
    seed: Option<u64>,
    /// What becomes of texts that the model did not end within --tokens: written as they are, or left out
    /// [default: keep]
    #[arg(long, value_name = "WHAT", value_parser = ["keep", "drop"], help_heading = "Sampling")]
    cut_off: Option<String>,
    /// Texts at a time [default: 8]
    #[arg(long, value_name = "B")]
    batch: Option<usize>,
    /// Forget the texts of an unfinished run
    #[arg(long)]
    restart: bool,
    /// Replace a file that exists
    #[arg(long)]
    force: bool,
    #[command(flatten)]
    #[serde(flatten)]
    compute: ComputeArgs,
    /// Say what it takes, and stop
    #[arg(long)]
    dry_run: bool,
}

pub(crate) fn run(args: &GenerateArgs, context: &Context) -> Result<()> {
    let settings = context.settings("generate", args)?;
    let report = generate::generate(&settings, &context.bars)?;
    context.output.report(&report, || text(&report))
}

fn text(report: &GenerateReport) -> String {
    let GenerateReport { model, prompts, texts, longest, batch, memory, .. } = report;
    let mut text = format!("{}: {texts} texts of {prompts} prompts ({})\n", shown(model), report.form.name());
    let _ = writeln!(text, "computed  memory {}, {batch} at a time of up to {longest} tokens each", ByteSize(*memory));
    let (Some(said), Some(rows)) = (&report.said, report.rows) else {
        let at_most = time(report.seconds);
        let _ = writeln!(text, "estimated at most {at_most} at the speed of this machine just now");
        return text + "dry run: nothing generated, nothing written";
    };
    let before = match report.texts_before {
        0 => String::new(),
        texts => format!(" ({texts} of them before)"),
    };
    let _ = write!(text, "said      {} texts{before}, {} tokens", said.texts, said.tokens);
    if said.cut_off > 0 {
        let _ = write!(text, "; {} did not end by themselves (--cut-off drop leaves those out)", said.cut_off);
    }
    if said.empty > 0 {
        let _ = write!(text, "; {} are empty", said.empty);
    }
    if let Some(out) = &report.out {
        let word = if report.found { "found     finished before with these settings:" } else { "wrote    " };
        let _ = write!(text, "\n{word} {rows} rows: {}", out.display());
    }
    text
}
