//! `prune eval`: scores a model as lm-evaluation-harness does.

use std::path::PathBuf;

use serde::Serialize;

use super::open;
use crate::arch::ModelSpec;
use crate::checkpoint::Hub;
use crate::collective::{Collective, Members, ProcessGroup};
use crate::eval::compare::Comparison;
use crate::eval::evaluation::{Asked, Evaluation, PassPlan, PassReport, ScoredModel, Tokenized};
use crate::eval::settings::EvalSettings;
use crate::eval::shard::EvalShard;
use crate::eval::source::TaskSource;
use crate::eval::table::{self, FigureReport};
use crate::eval::tasks::Task;
use crate::progress::{Progress, Silent};
use crate::weights::lora::Adapters;
use crate::{Context, Error, Result};

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
    /// The processes that do it together; absent for one alone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub group: Option<EvalGroup>,
    /// Where the results are.
    pub out: Option<PathBuf>,
    /// Files written.
    pub written: Vec<PathBuf>,
}

/// Processes that score a model together.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct EvalGroup {
    /// Who they are.
    #[serde(flatten)]
    pub members: Members,
    /// Passes that each runs, where none is done yet.
    pub passes: Vec<usize>,
}

impl EvalGroup {
    fn new(members: Members, plan: &PassPlan, progress: &dyn Progress) -> Self {
        let passes = plan.shares(members.processes);
        let idle = passes.iter().filter(|own| **own == 0).count();
        if idle > 0 {
            let (processes, count) = (members.processes, plan.report.passes);
            let fault = format!("{idle} of {processes} processes have nothing to do: there are {count} passes");
            progress.warn(&format!("{fault}; fewer --pass-tokens make more"));
        }
        Self { members, passes }
    }
}

/// Runs `prune eval`.
///
/// Where a launcher has started several processes they share the passes out: see [`crate::collective`]. The first of
/// them writes and tells what came of it; the reports of the others say who they are. Those that are given a `shard`
/// each, or put shares together, do not meet.
///
/// # Errors
/// Settings that do not fit together, data or a model that cannot be read, an output that is in the way, results that
/// cannot be compared with, processes that nothing connects; each names its place.
pub fn eval(settings: &EvalSettings, progress: &dyn Progress) -> Result<EvalReport> {
    settings.check()?;
    let meets = settings.shard.is_none() && settings.merge.is_empty();
    let group = if meets { ProcessGroup::launched("eval", settings.rank_timeout)? } else { None };
    match group {
        Some(group) => eval_together(settings, group, progress),
        None => eval_sharing(settings, &mut None, progress),
    }
}

/// Runs `prune eval` as one of processes that have met, all of which do the same.
///
/// # Errors
/// As [`eval`]; what another process met.
pub fn eval_together(settings: &EvalSettings, group: ProcessGroup, progress: &dyn Progress) -> Result<EvalReport> {
    let progress: &dyn Progress = if group.rank() == 0 { progress } else { &Silent };
    let done = evaluate(settings, (None, Some(&group)), &mut None, progress);
    group.close(done)
}

/// Scores a model on a task that no table has, instead of those that the settings name.
///
/// # Errors
/// As [`eval`].
pub fn eval_of(task: &'static dyn Task, settings: &EvalSettings, progress: &dyn Progress) -> Result<EvalReport> {
    evaluate(settings, (Some(task), None), &mut None, progress)
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
    evaluate(settings, (None, None), tokenized, progress)
}

fn evaluate(
    settings: &EvalSettings,
    (task, group): (Option<&'static dyn Task>, Option<&ProcessGroup>),
    tokenized: &mut Tokenized,
    progress: &dyn Progress,
) -> Result<EvalReport> {
    let source = || match &settings.data_dir {
        Some(path) => TaskSource::open(path),
        None => Ok(TaskSource::hub(Hub::from_env()?)),
    };
    let members = group.map(ProcessGroup::members).transpose()?;
    let leads = group.is_none_or(|group| group.rank() == 0);
    let asked = match group {
        Some(group) if !leads => Asked::follow(settings, &source, group)?,
        _ => Asked::open(settings, task, &source, progress)?,
    };
    if let Some(group) = group.filter(|_| leads) {
        asked.lead(group)?;
    }
    let scored = scored(settings, members.as_ref(), progress)?;
    let mut evaluation = Evaluation::prepare(asked, scored, tokenized, progress)?;
    if let Some(group) = group {
        let mut identity = settings.deciding();
        identity.extend(evaluation.identity());
        group.check_alike(&identity, "scores")?;
        evaluation = evaluation.together(group)?;
    }
    let mut plan = evaluation.plan()?;
    let describes = members.as_ref().filter(|_| leads && !settings.dry_run && !evaluation.is_found());
    if let Some(members) = describes {
        progress.note(&format!("scoring {}", members.describe()));
    }
    let mut report = EvalReport {
        model: evaluation.model().to_owned(),
        figures: Vec::new(),
        comparisons: Vec::new(),
        passes: plan.report.clone(),
        kept: evaluation.kept(),
        found: evaluation.is_found(),
        shard: settings.shard,
        group: members.map(|members| EvalGroup::new(members, &plan, progress)),
        out: settings.out.clone(),
        written: Vec::new(),
    };
    if settings.dry_run {
        return Ok(report);
    }
    if settings.shard.is_some() || !leads {
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
fn scored(settings: &EvalSettings, members: Option<&Members>, progress: &dyn Progress) -> Result<ScoredModel> {
    let checkpoint = open::computed(settings.model.as_deref(), progress)?;
    let spec = ModelSpec::from_config(&checkpoint.config)?;
    let device = open::device(settings.device.as_deref(), settings.dtype.as_deref(), progress)?;
    if members.is_some() && !device.is_cpu() {
        return Err(Error::request("processes score together on CPUs: --device cpu, or one process on the GPU"));
    }
    let budget = open::budget_beside_tokenizer(settings.memory.as_deref(), &device, &checkpoint)?;
    let beside = members.map_or(1, |members| members.on_this_machine);
    let budget = open::own_share(budget, settings.memory.as_deref(), beside);
    let adapters = settings.adapter.as_deref();
    let adapters = adapters.map(|dir| Adapters::open_for(dir, &checkpoint, &spec, &device)).transpose();
    let (adapters, host) = (adapters.context(|| "--adapter")?, open::host(budget, &device));
    Ok(ScoredModel { checkpoint, spec, adapters, device, budget, host })
}
