//! `prune eval`: scores a model as lm-evaluation-harness does.

use std::path::PathBuf;

use serde::Serialize;

use super::open;
use crate::arch::ModelSpec;
use crate::checkpoint::Hub;
use crate::eval::compare::Comparison;
use crate::eval::evaluation::{Asked, Evaluation, PassReport, ScoredModel, Tokenized};
use crate::eval::settings::EvalSettings;
use crate::eval::shard::EvalShard;
use crate::eval::source::TaskSource;
use crate::eval::table::{self, FigureReport};
use crate::eval::tasks::Task;
use crate::progress::Progress;
use crate::weights::lora::Adapters;
use crate::{Context, Result};

/// What the command did.
#[derive(Debug, Serialize)]
pub struct EvalReport {
    /// Directory or hub id.
    pub model: String,
    /// Figures of groups and tasks, in the order of a table; none in a dry run.
    pub figures: Vec<FigureReport>,
    /// Differences to the other run.
    pub comparisons: Vec<Comparison>,
    /// How the passes ran, or would run.
    pub passes: PassReport,
    /// Tasks that were scored before and are as they were.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub kept: Vec<String>,
    /// Whether everything was there, and nothing was done.
    pub found: bool,
    /// Which share was answered, where it was one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub shard: Option<EvalShard>,
    /// Where the results are.
    pub out: Option<PathBuf>,
    /// Files written.
    pub written: Vec<PathBuf>,
}

/// Runs `prune eval`.
///
/// # Errors
/// Settings that do not fit together, data or a model that cannot be read, an output that is in the way, results that
/// cannot be compared with; each names its place.
pub fn eval(settings: &EvalSettings, progress: &dyn Progress) -> Result<EvalReport> {
    eval_sharing(settings, &mut None, progress)
}

/// Scores a model on a task that no table has, instead of those that the settings name.
///
/// # Errors
/// As [`eval`].
pub fn eval_of(task: &'static dyn Task, settings: &EvalSettings, progress: &dyn Progress) -> Result<EvalReport> {
    evaluate(settings, Some(task), &mut None, progress)
}

/// Runs `prune eval`; with the questions of the evaluation before, where they are the same ones.
///
/// # Errors
/// As [`eval`].
pub(super) fn eval_sharing(
    settings: &EvalSettings,
    tokenized: &mut Tokenized,
    progress: &dyn Progress,
) -> Result<EvalReport> {
    evaluate(settings, None, tokenized, progress)
}

fn evaluate(
    settings: &EvalSettings,
    task: Option<&'static dyn Task>,
    tokenized: &mut Tokenized,
    progress: &dyn Progress,
) -> Result<EvalReport> {
    let source = || match &settings.data_dir {
        Some(path) => TaskSource::open(path),
        None => Ok(TaskSource::hub(Hub::from_env()?)),
    };
    let asked = Asked::open(settings, task, &source, progress)?;
    let evaluation = Evaluation::prepare(asked, scored(settings, progress)?, tokenized, progress)?;
    let mut plan = evaluation.plan()?;
    let mut report = EvalReport {
        model: evaluation.model().to_owned(),
        figures: Vec::new(),
        comparisons: Vec::new(),
        passes: plan.report.clone(),
        kept: evaluation.kept(),
        found: evaluation.is_found(),
        shard: settings.shard,
        out: settings.out.clone(),
        written: Vec::new(),
    };
    if settings.dry_run {
        return Ok(report);
    }
    if settings.shard.is_some() {
        evaluation.run_share(&mut plan, progress)?;
        report.passes = plan.report;
        return Ok(report);
    }
    let scores = evaluation.run(&mut plan, progress)?;
    report.passes = plan.report;
    report.figures = table::figures(&scores);
    report.comparisons = evaluation.compare(&scores)?;
    report.written = evaluation.write(&scores)?;
    Ok(report)
}

/// The model, its adapter, and where they compute.
fn scored(settings: &EvalSettings, progress: &dyn Progress) -> Result<ScoredModel> {
    let checkpoint = open::computed(settings.model.as_deref(), progress)?;
    let spec = ModelSpec::from_config(&checkpoint.config)?;
    let device = open::device(settings.device.as_deref(), settings.dtype.as_deref(), progress)?;
    let budget = open::budget_beside_tokenizer(settings.memory.as_deref(), &device, &checkpoint)?;
    let adapters = settings.adapter.as_deref();
    let adapters = adapters.map(|dir| Adapters::open_for(dir, &checkpoint, &spec, &device)).transpose();
    let (adapters, host) = (adapters.context(|| "--adapter")?, open::host(budget, &device));
    Ok(ScoredModel { checkpoint, spec, adapters, device, budget, host })
}
