//! `prune run`: the whole job, or a sweep of it, from a recipe to a report. Stages that are done are not done again;
//! what cuts have in common is done once.

mod cards;
mod check;
mod compute;
mod drop;
mod estimate;
mod gather;
mod inputs;
mod pipeline;
mod recipe;
mod repairs;
mod sections;
mod shipped;
mod speeds;
mod state;
mod told;
mod view;

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

pub use compute::Compute;
pub use drop::{Drop, Keep};
pub use recipe::Recipe;
pub use repairs::{RepairChoice, Repairs};
pub(super) use state::forget;

use crate::progress::Progress;
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
    /// Only says what would be done.
    pub dry_run: bool,
}

/// What the command did, or would do.
#[derive(Debug, Serialize)]
pub struct RunReport {
    /// Every stage.
    pub stages: Vec<StageReport>,
    /// The figures; absent in a dry run.
    pub data: Option<RunData>,
    /// The report; absent in a dry run.
    pub page: Option<PathBuf>,
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
    let recipe = Recipe::read(path, &settings.set, &Compute { device, dtype, memory })?;
    let out = settings.out.as_deref();
    if settings.dry_run {
        return estimate::estimate(&recipe, out, &estimate::Machine::measure, progress);
    }
    let out = out.ok_or_else(|| Error::request("where to? name a directory with --out"))?;
    let (done, state) = pipeline::work(&recipe, out, progress)?;
    let data = gather::data(&recipe, &done, state.dir())?;
    let page = gather::publish(&data, state.dir())?;
    cards::score(&data, &done.checkpoint, state.dir())?;
    let took: BTreeMap<String, f64> = state.seconds();
    let stage = |name: &String| StageReport {
        name: name.clone(),
        is_done: !done.made.contains(name),
        memory: None,
        disk: None,
        seconds: took.get(name).copied(),
        layers_at_most: None,
    };
    Ok(RunReport { stages: done.stages.iter().map(stage).collect(), data: Some(data), page: Some(page) })
}

#[cfg(test)]
mod settings_tests;
