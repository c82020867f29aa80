//! `prune fetch`.

use std::path::PathBuf;

use clap::Args;
use prune::Result;
use prune::commands::fetch;
use serde::Serialize;

use super::Context;

/// Downloads models and data into the hub's cache, to work offline
#[derive(Args, Serialize)]
#[command(after_help = "Examples:
  prune fetch org/name                                       a model
  prune fetch org/name --data allenai/c4 --tasks mmlu,boolq  and what analyze, heal and eval read
  prune fetch org/name other/name@v2 --dry-run               what is missing, and how much that is
A download that broke goes on where it broke when the same command is given again.")]
pub(crate) struct FetchArgs {
    /// Models on the hub (org/name, org/name@revision, org/name:Q4_K_M)
    #[arg(value_name = "MODEL", required_unless_present_any = ["data", "tasks", "config"])]
    models: Vec<String>,
    /// Text as --data of analyze and heal names it: allenai/c4, hub:datasets/org/name/path
    #[arg(long, value_name = "SRC", value_delimiter = ',')]
    data: Vec<String>,
    /// Tasks whose data eval needs, separated by commas: mmlu, boolq, c4...
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    tasks: Vec<String>,
    /// Folder of tasks in lm-evaluation-harness's YAML files, to be named in --tasks
    #[arg(long, value_name = "DIR", requires = "tasks")]
    include_path: Option<PathBuf>,
    /// Say what would be fetched and how much that is, and stop
    #[arg(long)]
    dry_run: bool,
}

pub(crate) fn run(args: &FetchArgs, context: &Context) -> Result<()> {
    let settings = context.settings("fetch", args)?;
    let report = fetch::fetch(&settings, &context.bars)?;
    context.output.report(&report, || report.to_string())
}
