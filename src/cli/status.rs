//! `prune status`.

use std::path::PathBuf;

use clap::Args;
use prune::Result;
use prune::commands::run;
use serde::Serialize;

use super::Context;

/// Says how far a run is: what is done, being done, waiting or failed, and where
#[derive(Args, Serialize)]
#[command(after_help = "Examples:
  prune status job         every stage, and the processes that work on them
  prune status job --json  the same for a program
It only reads DIR, from any machine that sees it.")]
pub(crate) struct StatusArgs {
    /// Directory of the run
    #[arg(value_name = "DIR")]
    dir: PathBuf,
}

pub(crate) fn run(args: &StatusArgs, context: &Context) -> Result<()> {
    let report = run::status(&args.dir)?;
    context.output.report(&report, || report.to_string())
}
