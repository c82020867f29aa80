//! `prune methods`.

use clap::Args;
use prune::Result;
use prune::commands::methods::{self, MethodsSettings};
use serde::Serialize;

use super::Context;

/// Lists the methods that choose layers, what each looks at, what it costs, where it comes from, and the repairs
#[derive(Args, Serialize)]
#[command(after_help = "Examples:
  prune methods         the table: each name goes with analyze --method, cut --method and [drop] methods of a recipe
  prune methods --json  the same for a program")]
pub(crate) struct MethodsArgs {}

pub(crate) fn run(args: &MethodsArgs, context: &Context) -> Result<()> {
    let settings: MethodsSettings = context.settings("methods", args)?;
    let report = methods::methods(&settings);
    context.output.report(&report, || report.to_string())
}
