//! `prune compare`.

use std::path::PathBuf;

use clap::Args;
use prune::Result;
use prune::commands::compare;
use serde::Serialize;

use super::Context;

/// Compares two finished evaluations, question by question, without scoring again
#[derive(Args, Serialize)]
#[command(after_help = "Examples:
  prune compare dense/results pruned/results   how far apart, and whether that is more than chance
  prune compare dense/results pruned/results --json   the same for a program

Results are those of prune eval or of lm-evaluation-harness. Where both kept their samples the difference is that of each
question, otherwise of two independent figures. Differences are B minus A.")]
pub(crate) struct CompareArgs {
    /// Results A: a results file, or a directory with one
    #[arg(value_name = "A", required_unless_present = "config")]
    from: Option<PathBuf>,
    /// Results B, compared with A
    #[arg(value_name = "B", required_unless_present = "config")]
    to: Option<PathBuf>,
}

pub(crate) fn run(args: &CompareArgs, context: &Context) -> Result<()> {
    let settings = context.settings("compare", args)?;
    let report = compare::compare(&settings, &context.bars)?;
    context.output.report(&report, || report.text())
}
