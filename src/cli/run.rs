//! `prune run`.

use std::path::PathBuf;

use clap::Args;
use prune::commands::run::{self, RunShard, Scheduler};
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
  prune run recipe.toml -o job --shard 2/4         one of four processes that share the stages
  prune run recipe.toml -o job --submit slurm --jobs 8 --gpus 1 --time 04:00:00
                                                   the same by an array job of eight
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
    /// One of several processes, on any machines, that work at DIR at once: 2/4 is the second of four, auto is what the
    /// array job says
    #[arg(long, value_name = "I/N")]
    shard: Option<RunShard>,
    /// End where all that is left is in other processes' hands, instead of waiting for them; the analysis, which says
    /// what there is to do, and cuts, from which several stages go on, are waited for
    #[arg(long)]
    no_wait: bool,
    /// Seconds after which the claim of a process that nothing is heard of is taken over [default: 120]
    #[arg(long, value_name = "SECS")]
    claim_timeout: Option<u64>,
    /// Hand the run to a cluster: an array job, and one after it that does what is left and reports; scripts and logs
    /// stand in DIR.slurm
    #[arg(long, value_name = "SCHEDULER", requires = "out", conflicts_with_all = ["shard", "no_wait"])]
    submit: Option<Scheduler>,
    /// Processes of the array [default: 4]
    #[arg(long, value_name = "N", requires = "submit")]
    jobs: Option<usize>,
    /// Partition for the jobs
    #[arg(long, value_name = "NAME", requires = "submit")]
    partition: Option<String>,
    /// GPUs of each job: 1, a100:1
    #[arg(long, value_name = "G", requires = "submit")]
    gpus: Option<String>,
    /// Time of each job: 04:00:00; one that is stopped at its end goes on
    #[arg(long, value_name = "T", requires = "submit")]
    time: Option<String>,
    /// A further option for sbatch: --sbatch=--account=physics
    #[arg(long, value_name = "OPTION", requires = "submit", allow_hyphen_values = true)]
    sbatch: Vec<String>,
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
