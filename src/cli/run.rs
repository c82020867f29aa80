//! `prune run`.

use std::path::PathBuf;

use clap::Args;
use prune::commands::run;
use prune::{Error, Result};
use serde::Serialize;

use super::Context;
use super::compute::ComputeArgs;

/// The whole job from a recipe: analyse, cut, heal, evaluate, report
#[derive(Args, Serialize)]
#[command(after_help = "Examples:
  prune run recipe.toml -o job                     everything, ending in job/report.html
  prune run best --set model=./llama --set fraction=0.25 --set data=c4.jsonl -o job --dry-run
                                                   what has won here: the paper's block, refit, healed
  prune run recipe.toml -o job --dry-run           its stages, with memory, disk and time
  prune run recipe.toml -o job --set heal.steps=200 --set drop.layers=[2,4]
  prune run configs/llama-2-7b.toml -o llama-2-7b  the paper's recipe
  prune run recipe.toml -o job --set \"repair.methods=['none','refit']\" --set repair.data=c4.jsonl
                                                   each cut as it is, and repaired without training
A run that was stopped goes on when the same command is given again; after a change to the recipe
only what it touches is done again. Paths in a recipe are looked for beside it, then from here.")]
pub(crate) struct RunArgs {
    /// The recipe: model, [drop], [repair], and a section for each command with its settings; or the name of one that
    /// comes with the program, such as best
    #[arg(value_name = "RECIPE")]
    recipe: PathBuf,
    /// Directory of everything that is made
    #[arg(long, short, value_name = "DIR", required_unless_present = "dry_run")]
    out: Option<PathBuf>,
    /// Change a setting of the recipe; fraction, layers and data stand for drop.fractions, drop.layers and the text of
    /// every section
    #[arg(long, value_name = "SECTION.KEY=VALUE")]
    set: Vec<String>,
    #[command(flatten)]
    #[serde(flatten)]
    compute: ComputeArgs,
    /// Say what would be done and what it takes, and stop
    #[arg(long)]
    dry_run: bool,
}

pub(crate) fn run(args: &RunArgs, context: &Context) -> Result<()> {
    if let Some(config) = &context.config {
        let fault =
            format!("--config {}: prune run reads its settings from the recipe; name one file", config.display());
        return Err(Error::request(fault));
    }
    let settings = context.settings("run", args)?;
    let report = run::run(&settings, &context.bars)?;
    context.output.report(&report, || report.to_string())
}
