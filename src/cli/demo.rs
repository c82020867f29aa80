//! `prune demo`.

use std::path::PathBuf;

use clap::Args;
use prune::Result;
use prune::commands::demo::{self, DemoReport};
use serde::Serialize;

use super::Context;
use super::compute::ComputeArgs;

/// Runs the whole job on an embedded checkpoint: no file, no network
#[derive(Args, Serialize)]
#[command(after_help = "Examples:
  prune demo                  all in ./prune-demo, the report in ./prune-demo/run/report.html
  prune demo -o elsewhere     the same in another directory
  prune demo --extract atlas  only the checkpoint, its data and the recipe, for other commands
A demo that was stopped goes on when the same command is given again.")]
pub(crate) struct DemoArgs {
    /// Directory to keep everything in [default: prune-demo]
    #[arg(long, short, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Only write the checkpoint, texts, questions and the recipe to DIR
    #[arg(long, value_name = "DIR", conflicts_with = "out")]
    extract: Option<PathBuf>,
    /// Replace a directory that prune made before; files of others are never touched
    #[arg(long)]
    force: bool,
    #[command(flatten)]
    #[serde(flatten)]
    compute: ComputeArgs,
    /// Say what would be done and what it takes, and stop
    #[arg(long, conflicts_with = "extract")]
    dry_run: bool,
}

pub(crate) fn run(args: &DemoArgs, context: &Context) -> Result<()> {
    let settings = context.settings("demo", args)?;
    let report = demo::demo(&settings, &context.bars)?;
    context.output.report(&report, || text(&report))
}

fn text(report: &DemoReport) -> String {
    report.to_string()
}
