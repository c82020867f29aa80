//! `prune heal`: fine-tunes a cut model, and writes an adapter, a merged model and the log.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use candle_core::Device;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::heal_job::{Job, Models};
use super::heal_measure::Uncut;
use super::heal_record::{Inputs, Record};
use super::heal_rows::Texts;
use super::taught::Taught;
use super::{heal_tasks, open};
use crate::arch::ModelSpec;
use crate::checkpoint::{ByteSize, Checkpoint, Origin, Workplace};
use crate::data::Share;
use crate::data::chat::Survey;
use crate::heal::{HealSettings, KnownLosses, MeasuredLosses, Quant, TeacherSize, WorkDir, estimate};
use crate::progress::Progress;
use crate::provenance::Provenance;
use crate::weights::lora::Adapters;
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
/// # Errors
/// Request: settings that do not fit together or the model, data that is too short, an adapter for another model, an
/// output that exists, a healing that does not fit in memory. Work: broken files, values that are not finite.
/// Interrupted; the state is saved.
pub fn heal(settings: &HealSettings, progress: &dyn Progress) -> Result<HealReport> {
    heal_sharing(settings, &mut KnownLosses::new(), progress)
}

/// Runs `prune heal`; with the losses of models as they lie on disk that an earlier healing took.
///
/// # Errors
/// As [`heal`].
pub(super) fn heal_sharing(
    settings: &HealSettings,
    known: &mut KnownLosses,
    progress: &dyn Progress,
) -> Result<HealReport> {
    settings.check()?;
    let max_shard: ByteSize = settings.max_shard_size.parse().context(|| "--max-shard-size")?;
    let place = place(settings)?;
    let checkpoint = open::computed(settings.model.as_deref(), progress)?;
    let spec = ModelSpec::from_config(&checkpoint.config).context(|| checkpoint.source.id.clone())?;
    spec.check(&checkpoint.index)?;
    let device = open::device(Some(&settings.device), settings.dtype.as_deref(), progress)?;
    let budget = open::budget_beside_tokenizer(settings.memory.as_deref(), &device, &checkpoint)?;
    let taught = Taught::open(settings, progress)?;
    if device.is_cuda() && matches!(taught, Some(Taught::Cache(_))) {
        return Err(Error::request(
            "a cached teacher is learned from on a CPU: --device cpu, or name the model itself",
        ));
    }
    if let Some(taught) = &taught {
        taught.check_model(settings, &spec)?;
    }
    let teacher = taught.as_ref().and_then(Taught::model).cloned();
    let adapter = settings.adapter.as_deref().map(|dir| trainable(dir, &checkpoint, &spec, &device)).transpose();
    let adapter = adapter.context(|| "--adapter")?;
    let (mut settings, said) = settled(settings, adapter.as_ref()).settled(spec.max_positions);
    said.iter().for_each(|warning| progress.warn(warning));
    if settings.dora && device.is_cuda() {
        return Err(Error::request("dora is not trained on a GPU: --device cpu, or leave --dora out"));
    }
    let history = Provenance::read(&checkpoint.source.dir, spec.layers).ok().flatten();
    settings = settings.with_inserted(history.as_ref().map_or(&[], |history| &history.inserted))?;
    let pairs = taught.as_ref().map(|taught| taught.pairs(&settings, &spec, history.as_ref()));
    let pairs = pairs.transpose()?.unwrap_or_default();
    if let Some(history) = history.filter(|history| history.format() == Some("zeros")) {
        progress.warn(&format!(
            "what was left out ({}) is zeros here, and training brings it back; cut with --format per-layer to heal \
             without",
            history.gone()
        ));
    }
    let teacher_size = taught.as_ref().map(Taught::size).unwrap_or_default();
    let teacher_size = TeacherSize { streams: pairs.len(), ..teacher_size };
    let unfinished = place.as_deref().filter(|place| !settings.restart && WorkDir::check(place).is_ok());
    let held = unfinished.map(|place| WorkDir::peek(place.target())).transpose()?.flatten();
    let held = held.and_then(|held| held.policy);
    let plan = estimate(&checkpoint, &spec, &settings, (&device, budget), teacher_size, held)?;
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
    let estimate = to_value(&plan)?;
    let mut report = HealReport {
        estimate,
        quant: settings.quant,
        result: None,
        steps_before: 0,
        out: None,
        found: false,
        chat: text.survey.clone(),
        sources: text.shares.clone(),
    };
    let (Some(place), Some(out), false) = (place, settings.out.as_deref(), settings.dry_run) else {
        return Ok(report);
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
    if !report.found {
        let models = Models { checkpoint: &checkpoint, spec: &spec, uncut, device, budget };
        let job = Job { models, settings, plan, pairs, text, tasks, place, max_shard, progress, record };
        let (result, steps_before) = job.run(adapter, taught, known)?;
        (report.result, report.steps_before) = (Some(result), steps_before);
    }
    Ok(report)
}

/// The adapter in `dir`, which training goes on from.
fn trainable(dir: &Path, checkpoint: &Checkpoint, spec: &ModelSpec, device: &Device) -> Result<Adapters> {
    let adapters = Adapters::open_for(dir, checkpoint, spec, device)?;
    adapters.check_plain().context(|| dir.display())?;
    Ok(adapters)
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

/// With the rank, strength and targets of the adapter that training starts from.
pub(super) fn settled(settings: &HealSettings, adapter: Option<&Adapters>) -> HealSettings {
    let mut settings = settings.clone();
    if let Some(Adapters { settings: own, .. }) = adapter {
        (settings.rank, settings.alpha) = (own.rank.into(), own.alpha);
        (settings.rslora, settings.dora) = (own.rslora, own.dora);
        settings.rank_pattern.clone_from(&own.rank_pattern);
        settings.alpha_pattern.clone_from(&own.alpha_pattern);
        settings.target = own.targets.clone();
    }
    settings
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
