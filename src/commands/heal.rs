//! `prune heal`: fine-tunes a cut model, and writes an adapter, a merged model and the log.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::Value;

pub use super::heal_group::GroupReport;
use super::heal_group::Plan;
use super::heal_job::{Job, Models};
use super::heal_measure::Uncut;
use super::heal_open::Opened;
use super::heal_record::{Inputs, Record};
use super::heal_rows::Texts;
use super::heal_training::Training;
use super::taught::Taught;
use super::{heal_group, heal_tasks, open};
use crate::checkpoint::{ByteSize, Origin, Workplace};
use crate::collective::{Collective, ProcessGroup};
use crate::data::Share;
use crate::data::chat::Survey;
use crate::heal::{Estimate, HealSettings, KnownLosses, MeasuredLosses, Quant, WorkDir};
use crate::model::CheckpointingPolicy;
use crate::progress::{Progress, Silent};
use crate::{Context, Error, Result};

/// What the command did, or would do.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct HealReport {
    /// What it takes.
    pub estimate: Value,
    /// How the weights are held that are trained against.
    pub quant: Quant,
    /// What came of it; absent in a dry run.
    pub result: Option<HealResult>,
    /// Steps of it that an earlier process had done.
    pub steps_before: usize,
    /// Directory of the results; absent in a dry run.
    pub out: Option<PathBuf>,
    /// Whether an earlier run had done all this.
    pub found: bool,
    /// What the conversations come to; absent for plain text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub chat: Option<Survey>,
    /// What each of several texts gives; empty for one.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub sources: Vec<Share>,
    /// The processes that do it together; absent for one alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<GroupReport>,
}

impl HealReport {
    /// Of a healing that has not begun.
    fn new(settings: &HealSettings, plan: &Estimate, group: Option<GroupReport>) -> Result<Self> {
        Ok(Self {
            estimate: to_value(plan)?,
            quant: settings.quant,
            result: None,
            steps_before: 0,
            out: None,
            found: false,
            chat: None,
            sources: Vec::new(),
            group,
        })
    }
}

/// What came of a healing.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct HealResult {
    /// Steps.
    pub steps: usize,
    /// Tokens trained on.
    pub tokens: u64,
    /// Validation loss before the first step, under the weights that are trained against.
    pub loss_before: Option<f64>,
    /// Steps after which validation was best.
    pub best_step: Option<usize>,
    /// Validation loss then.
    pub best_loss: Option<f64>,
    /// Share of right answers then, where questions were asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub best_accuracy: Option<f64>,
    /// Losses of the models themselves: uncut, cut, as written; absent without a validation text.
    #[serde(default)]
    pub measured: Option<MeasuredLosses>,
}

/// Runs `prune heal`. A run that was stopped goes on when the same settings are given again; of one that is finished
/// the result is told.
///
/// Where a launcher has started several processes they heal together: see [`crate::collective`]. The first of
/// them writes and tells what came of it; the reports of the others say who they are.
///
/// # Errors
/// Request: settings that do not fit together or the model, data that is too short, an adapter for another model, an
/// output that exists, a healing that does not fit in memory, processes that nothing connects. Work: broken files,
/// values that are not finite, a process that is gone. Interrupted; the state is saved.
pub fn heal(settings: &HealSettings, progress: &dyn Progress) -> Result<HealReport> {
    settings.check()?;
    let known = &mut KnownLosses::new();
    let Some(group) = ProcessGroup::launched("heal", settings.rank_timeout)? else {
        return heal_sharing(settings, None, known, progress);
    };
    let done = if group.rank() == 0 {
        heal_sharing(settings, Some(&group), known, progress)
    } else {
        follow(settings, &group)
    };
    group.close(done)
}

/// What a process does that another one leads.
fn follow(settings: &HealSettings, group: &ProcessGroup) -> Result<HealReport> {
    let opened = Opened::new(settings, None, Some(group), &Silent)?;
    group.check_alike(&opened.identity()?, "heals")?;
    let plan = group.agree(&Plan::Nothing)?;
    let Opened { settings, checkpoint, spec, device, budget, taught, adapter, pairs, plan: estimate, group: seat } =
        opened;
    let mut report = HealReport::new(&settings, &estimate, seat)?;
    if let Plan::Train { chunk_size } = plan {
        let place = (&device, budget, estimate.experts_on_disk);
        let training = Training::open((&checkpoint, &spec), &settings, place, (adapter, taught), &Silent)?;
        let policy = CheckpointingPolicy { chunk_size, ..estimate.policy };
        report.steps_before = training.trainer(&settings, policy, pairs, Some(group))?.follow()?;
    }
    Ok(report)
}

/// Runs `prune heal` alone or as the first of a group; with the losses of models as they lie on disk that an earlier
/// healing took.
///
/// # Errors
/// As [`heal`].
pub(super) fn heal_sharing(
    settings: &HealSettings,
    group: Option<&ProcessGroup>,
    known: &mut KnownLosses,
    progress: &dyn Progress,
) -> Result<HealReport> {
    settings.check()?;
    let max_shard: ByteSize = settings.max_shard_size.parse().context(|| "--max-shard-size")?;
    let place = place(settings)?;
    let opened = Opened::new(settings, place.as_deref(), group, progress)?;
    if let Some(group) = group {
        group.check_alike(&opened.identity()?, "heals")?;
    }
    let Opened { mut settings, checkpoint, spec, device, budget, taught, adapter, pairs, plan, group: in_group } =
        opened;
    let teacher = taught.as_ref().and_then(Taught::model).cloned();
    let text = Texts::open(&mut settings, &checkpoint, open::host(budget, &device), progress)?;
    let settings = &settings;
    let tasks = heal_tasks::open(settings, (&checkpoint, &spec, open::host(budget, &device)), progress)?;
    if let Some(taught) = &taught {
        taught.check(settings, (&checkpoint, &spec), &text, progress)?;
    }
    let uncut = Uncut::find(settings, teacher.as_ref(), (&checkpoint, &spec), progress)?;
    if let Some(taught) = &taught {
        taught.check_maker(settings, uncut.as_ref(), progress)?;
    }
    let mut report = HealReport {
        chat: text.survey.clone(),
        sources: text.shares.clone(),
        ..HealReport::new(settings, &plan, in_group)?
    };
    let idle = || group.map_or(Ok(Plan::Nothing), |group| group.agree(&Plan::Nothing));
    let (Some(place), Some(out), false) = (place, settings.out.as_deref(), settings.dry_run) else {
        return idle().map(|_| report);
    };
    let inputs = Inputs {
        model: &checkpoint,
        data: (text.files(), text.bytes()),
        chat: text.chat(),
        eval_data: text.validation.as_ref(),
        tasks: tasks.as_ref(),
        teacher: taught.as_ref(),
        adapter: settings.adapter.as_deref(),
        reference: uncut.as_ref().map(|uncut| &*uncut.checkpoint),
    };
    let record = Record::new(settings, &inputs, progress)?;
    report.out = Some(out.to_owned());
    report.result = finished_before(out, &place, &record, settings)?;
    report.found = report.result.is_some();
    if report.found {
        idle()?;
    } else {
        if let Some(in_group) = &report.group {
            heal_group::describe(in_group, progress);
        }
        let models = Models { checkpoint: &checkpoint, spec: &spec, uncut, device, budget };
        let job = Job { models, settings, plan, pairs, text, tasks, place, max_shard, progress, record, group };
        let (result, steps_before) = job.run(adapter, taught, known)?;
        (report.result, report.steps_before) = (Some(result), steps_before);
    }
    Ok(report)
}

/// The place of the output, before anything is read; a dry run may do without.
fn place(settings: &HealSettings) -> Result<Option<Arc<Workplace>>> {
    let Some(out) = settings.out.as_deref() else {
        return match settings.dry_run {
            true => Ok(None),
            false => Err(Error::request("where to? name a directory with --out")),
        };
    };
    let place = Workplace::open(out, &Origin::of("heal", settings)?)?;
    if settings.force || !place.target().exists() {
        place.refuse_taken(true)?;
        WorkDir::check(&place)?;
    }
    Ok(Some(Arc::new(place)))
}

/// The result of an earlier run with the same settings.
fn finished_before(
    out: &Path,
    place: &Workplace,
    record: &Record,
    settings: &HealSettings,
) -> Result<Option<HealResult>> {
    if !out.exists() {
        return Ok(None);
    }
    let work = WorkDir::place(place.target());
    let is_unfinished = work.exists() && WorkDir::check(place).is_ok();
    if !settings.force && !Record::stands_at(out) {
        // whose it is decides what is said
        place.refuse_taken(false)?;
    }
    match record.result_at(out) {
        // killed between putting the output in place and removing the state: --force has had its way
        Ok(result) if is_unfinished && !settings.restart => {
            place.discard(&work)?;
            Ok(Some(result))
        }
        Ok(_) | Err(_) if settings.force => Ok(None),
        Ok(_) if settings.restart => Err(Error::request(format!("{} exists; --force replaces it", out.display()))),
        Ok(result) => Ok(Some(result)),
        Err(error) => Err(error),
    }
}

fn to_value(value: &impl Serialize) -> Result<Value> {
    serde_json::to_value(value).map_err(|error| Error::work(error.to_string()))
}
