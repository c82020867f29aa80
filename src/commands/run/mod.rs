//! `prune run`: the whole job, or a sweep of it, from a recipe to a report. Stages that are done are not done again;
//! what cuts have in common is done once.

mod analyses;
mod array;
mod cards;
mod check;
mod compute;
mod cuts;
mod drop;
mod estimate;
mod gather;
mod inputs;
mod kept;
mod machine;
mod pipeline;
mod place;
mod recipe;
mod repairs;
mod rounds;
mod sections;
mod sequence;
mod shipped;
mod speeds;
mod stage;
mod state;
mod status;
mod submit;
mod told;
mod view;
mod worker;

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use serde_json::json;

pub use compute::Compute;
pub use drop::{Drop, Keep};
pub use recipe::Recipe;
pub use repairs::{RepairChoice, Repairs};
pub use status::{Progressed, StageCounts, StageStatus, StatusReport, status};
pub use submit::{Scheduler, Script, Submission};
pub use worker::RunShard;

pub(super) use place::forget;

use gather::PAGE;
use pipeline::{Done, Ended};
use stage::{Stage, Step};
use state::State;
use worker::Worker;

use crate::progress::{Progress, Silent};
use crate::report::run::RunData;
use crate::{Error, Result};

/// Settings of `prune run`.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RunSettings {
    /// The recipe's file.
    pub recipe: Option<PathBuf>,
    /// Changes to it: `heal.steps=100`.
    pub set: Vec<String>,
    /// Directory of everything that is made.
    pub out: Option<PathBuf>,
    /// Where every stage computes: `auto`, `cpu`, `cuda`, `cuda:1`; the recipe's sections say it when absent.
    pub device: Option<String>,
    /// What products with weights are computed in: `auto`, `bf16`, `f32`.
    pub dtype: Option<String>,
    /// Cap on memory, such as `8GiB`.
    pub memory: Option<String>,
    /// Which of several processes this one is that work at the run at once: `2/4`, or `auto`.
    pub shard: Option<RunShard>,
    /// Ends where all that is left is in other processes' hands, instead of waiting for them, but for the analysis and
    /// cuts.
    pub no_wait: bool,
    /// Seconds after which the claim of a process that nothing is heard of is taken over; 120 if absent.
    pub claim_timeout: Option<u64>,
    /// Hands the run to a cluster instead of working at it.
    pub submit: Option<Scheduler>,
    /// Processes of the array there; 4 if absent.
    pub jobs: Option<usize>,
    /// The partition that the jobs ask for.
    pub partition: Option<String>,
    /// The GPUs that each job asks for: `1`, `a100:1`.
    pub gpus: Option<String>,
    /// The time that each job asks for: `04:00:00`.
    pub time: Option<String>,
    /// Further options of `sbatch`: `--account=physics`.
    pub sbatch: Vec<String>,
    /// Only says what would be done.
    pub dry_run: bool,
}

/// What the command did, or would do.
#[derive(Debug, Default, Serialize)]
pub struct RunReport {
    /// Every stage.
    pub stages: Vec<StageReport>,
    /// The figures; absent in a dry run.
    pub data: Option<RunData>,
    /// The report; absent in a dry run.
    pub page: Option<PathBuf>,
    /// Stages in the hands of other processes, which were not waited for.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub left: Vec<String>,
    /// What was handed to a cluster instead.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub submission: Option<Submission>,
}

/// One stage.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct StageReport {
    /// Its name: the path of its output in the run's directory.
    pub name: String,
    /// Whether an earlier run has done it.
    pub is_done: bool,
    /// Bytes of memory it takes, computed.
    pub memory: Option<u64>,
    /// Bytes of disk, computed.
    pub disk: Option<u64>,
    /// Seconds: computed, or what it took.
    pub seconds: Option<f64>,
    /// Where only the analysis can tell how many layers go, how many can; the figures are those of one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub layers_at_most: Option<usize>,
}

/// Runs `prune run`. A run that was stopped goes on when the same command is given again.
///
/// # Errors
/// Request: a recipe that cannot be followed, an output directory with something else in it. Those of the stages, whose
/// name stands in front.
pub fn run(settings: &RunSettings, progress: &dyn Progress) -> Result<RunReport> {
    let path = settings.recipe.as_deref().ok_or_else(|| Error::request("which recipe? name a TOML file"))?;
    let RunSettings { device, dtype, memory, .. } = settings.clone();
    let worker = Worker::of(settings)?;
    let recipe = Recipe::read(path, &settings.set, &Compute { device, dtype, memory })?;
    let out = settings.out.as_deref();
    if let Some(Scheduler::Slurm) = settings.submit {
        let out = out.ok_or_else(|| Error::request("--submit: where to? name a directory with --out"))?;
        let submission = Some(submit::submit(settings, out, progress)?);
        return Ok(RunReport { submission, ..RunReport::default() });
    }
    if settings.dry_run {
        return estimate::estimate(&recipe, out, &machine::Machine::measure, progress);
    }
    let out = out.ok_or_else(|| Error::request("where to? name a directory with --out"))?;
    let (ended, mut state) = pipeline::work(&recipe, out, (&worker, !settings.no_wait), progress)?;
    let done = match ended {
        Ended::Whole(done) => done,
        Ended::Left(left) => {
            return Ok(RunReport { stages: stages(state.made(), &state), left, ..RunReport::default() });
        }
    };
    let data = gather::data(&recipe, &done, state.dir())?;
    let made = state.made().len();
    report(&recipe, (&data, &done), &mut state)?;
    let page = Some(state.dir().join(PAGE));
    state.made.truncate(made);
    Ok(RunReport { stages: stages(&done.stages, &state), data: Some(data), page, ..RunReport::default() })
}

/// What there is to say of these stages.
fn stages(names: &[String], state: &State) -> Vec<StageReport> {
    let took: BTreeMap<String, f64> = state.seconds();
    let stage = |name: &String| StageReport {
        name: name.clone(),
        is_done: !state.made().contains(name),
        seconds: took.get(name).copied(),
        ..StageReport::default()
    };
    names.iter().map(stage).collect()
}

/// Writes the report, and the scores into the cards of models: by one of the processes that find all done, once.
fn report(recipe: &Recipe, (data, done): (&RunData, &Done), state: &mut State) -> Result<()> {
    let key = state.digest(&done.stages, &json!(recipe.text));
    let stage = Stage { name: REPORT, key, needed: Some(PAGE) };
    state.renew(&stage)?;
    loop {
        let dir = state.dir().to_owned();
        for name in gather::PARTS {
            state.make_room(&[&dir.join(name)])?;
        }
        let written = state.run(&stage, &Silent, |job, _| {
            gather::publish(data, &dir, job)?;
            cards::score(data, &done.checkpoint, &dir, job)?;
            // JSON has nothing that would be there and be none
            Ok(true)
        })?;
        match written {
            Step::Is(_) => return Ok(()),
            Step::Waits => match state.failed() {
                Some(failed) => return Err(failed),
                None => state.wait()?,
            },
        }
        state.look_again()?;
    }
}

/// The stage that writes the report.
const REPORT: &str = "report";

#[cfg(test)]
mod settings_tests;
