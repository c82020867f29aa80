//! `prune sample`.

use std::path::PathBuf;

use clap::Args;
use comfy_table::{Cell, ContentArrangement, Table, presets};
use prune::Result;
use prune::commands::sample::{self, Continuation, SampleReport, SampleSettings};
use prune::model::Ended;
use prune::shown::shown;
use serde::Serialize;

use super::Context;
use super::compute::ComputeArgs;

/// Lets a model continue a text, to see that it still speaks
#[derive(Args, Serialize)]
#[command(after_help = "Examples:
  prune sample ./llama-24 --prompt \"The capital of France is\"       the likeliest continuation
  prune sample ./llama-24 --prompt \"Once\" --against ./llama         beside the uncut model's
  prune sample ./llama-24 --prompt \"Once\" --temperature 0.8 --top-p 0.9 --seed 7 --tokens 200
  prune sample ./llama-24 --prompt \"Once\" --adapter healed/adapter  with an adapter on top
  prune sample ./llama-24 --prompt - < prompt.txt                   the prompt from standard input")]
pub(crate) struct SampleArgs {
    /// Model: a directory, a GGUF file or a hub id (org/name, org/name@revision, org/name:Q4_K_M)
    #[arg(required_unless_present = "config")]
    model: Option<String>,
    /// Text to go on with; - reads it from standard input
    #[arg(long, short, value_name = "TEXT", required_unless_present = "config", allow_hyphen_values = true)]
    prompt: Option<String>,
    /// Adapter on top of the model, in PEFT's files
    #[arg(long, value_name = "DIR")]
    adapter: Option<PathBuf>,
    /// Another model that continues the same prompt, shown beside
    #[arg(long, value_name = "MODEL")]
    against: Option<String>,
    /// New tokens at most [default: 64]
    #[arg(long, value_name = "N")]
    tokens: Option<usize>,
    /// Draw tokens, with logits divided by T; 0 takes the likeliest [default: 0, or 1 with --top-k, --top-p or --min-p]
    #[arg(long, value_name = "T", allow_negative_numbers = true)]
    temperature: Option<f64>,
    /// Draw among the K likeliest tokens
    #[arg(long, value_name = "K")]
    top_k: Option<usize>,
    /// Draw among the likeliest tokens that together have probability P
    #[arg(long, value_name = "P")]
    top_p: Option<f64>,
    /// Draw among the tokens that have at least P times the probability of the likeliest
    #[arg(long, value_name = "P")]
    min_p: Option<f64>,
    /// Seed of the draws [default: 0]
    #[arg(long, value_name = "SEED")]
    seed: Option<u64>,
    #[command(flatten)]
    #[serde(flatten)]
    compute: ComputeArgs,
}

/// Columns of the table, borders included.
const WIDTH: u16 = 100;

pub(crate) fn run(args: &SampleArgs, context: &Context) -> Result<()> {
    let settings: SampleSettings = context.settings("sample", args)?;
    let output = &context.output;
    // two texts side by side cannot grow together
    if !output.is_watched() || settings.against.is_some() {
        let report = sample::sample(&settings, &context.bars, &mut |_| Ok(()))?;
        return output.report(&report, || text(&report));
    }
    let mut begun = false;
    let shown = settings.prompt.clone().filter(|prompt| prompt != "-").unwrap_or_default();
    sample::sample(&settings, &context.bars, &mut |part| {
        if !std::mem::replace(&mut begun, true) {
            output.say(&shown)?;
        }
        output.say(part)
    })?;
    output.say(if begun { "\n" } else { "(the model ended the text right away)\n" })
}

fn text(report: &SampleReport) -> String {
    match &report.continuations[..] {
        [only] => format!("{}{}", report.prompt, only.text),
        all => beside(&report.prompt, all),
    }
}

/// A column a model.
fn beside(prompt: &str, continuations: &[Continuation]) -> String {
    let mut table = Table::new();
    table.load_preset(presets::UTF8_HORIZONTAL_ONLY);
    table.set_content_arrangement(ContentArrangement::Dynamic).set_width(WIDTH);
    let head = |said: &Continuation| format!("{}, {} layers", shown(&said.model), said.layers);
    table.set_header(continuations.iter().map(head));
    table.add_row(continuations.iter().map(|said| Cell::new(format!("{prompt}{}", said.text))));
    table.add_row(continuations.iter().map(|said| Cell::new(figures(said))));
    table.lines().map(|line| line.trim_end().to_owned() + "\n").collect()
}

fn figures(said: &Continuation) -> String {
    let speed = said.tokens_per_second.map_or_else(String::new, |speed| format!(", {speed:.1} a second"));
    let ended = match said.ended {
        Ended::EndOfText => ", ended its text",
        Ended::Length => "",
    };
    format!("{} tokens{speed}{ended}", said.tokens)
}
