//! `prune demo`.

use std::path::PathBuf;

use clap::Args;
use prune::Result;
use prune::commands::demo::{self, DemoReport};
use serde::Serialize;

use super::Context;

/// Runs the job on an embedded checkpoint: no file, no network
#[derive(Args, Serialize)]
#[command(after_help = "Examples:
  prune demo                  in a temporary directory
  prune demo -o atlas         keep the checkpoint, the analysis and the cut model
  prune demo --extract atlas  only the checkpoint and its data, for the other commands")]
pub(crate) struct DemoArgs {
    /// Directory to keep everything in [default: a temporary one]
    #[arg(long, short, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Only write the checkpoint, texts and questions to DIR
    #[arg(long, value_name = "DIR", conflicts_with = "out")]
    extract: Option<PathBuf>,
    /// Replace an existing directory
    #[arg(long)]
    force: bool,
}

pub(crate) fn run(args: &DemoArgs, context: &Context) -> Result<()> {
    let settings = prune::settings::resolve("demo", context.config.as_deref(), args)?;
    let report = demo::demo(&settings, &context.bars)?;
    context.output.report(&report, || text(&report))
}

fn text(report: &DemoReport) -> String {
    report.to_string()
}
