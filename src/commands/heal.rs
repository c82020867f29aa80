//! `prune heal`: fine-tunes a cut model, and writes an adapter, a merged model and the log.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use candle_core::{Device, Tensor};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::heal_record::{Record, pretty};
use super::{heal_figure, open};
use crate::arch::ModelSpec;
use crate::checkpoint::{ByteSize, Checkpoint, OutputDir};
use crate::data::{Purpose, SequenceOptions, Sequences, Shape, Source, StreamOptions, Tokenizer, TrainStream};
use crate::heal::{
    Best, Estimate, Finished, HealSettings, Merge, Run, TextSamples, Train, Trainer, WorkDir, estimate, fittings,
};
use crate::model::lora::Adapters;
use crate::model::{Budget, Model, ModelOptions, Residency};
use crate::progress::Progress;
use crate::{Context, Error, Result};

/// What the command did, or would do.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct HealReport {
    /// What it takes.
    pub estimate: Value,
    /// What came of it; absent in a dry run.
    pub result: Option<HealResult>,
    /// Directory of the results; absent in a dry run.
    pub out: Option<PathBuf>,
    /// Whether an earlier run had done all this.
    pub found: bool,
}

/// What came of a healing.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct HealResult {
    /// Steps.
    pub steps: usize,
    /// Tokens trained on.
    pub tokens: u64,
    /// Validation loss before the first step.
    pub loss_before: Option<f64>,
    /// Steps after which validation was best.
    pub best_step: Option<usize>,
    /// Validation loss then.
    pub best_loss: Option<f64>,
}

/// Runs `prune heal`. A run that was stopped goes on when the same settings are given again; of one that is finished the
/// result is told.
///
/// # Errors
/// Request: settings that do not fit together or the model, data that is too short, an adapter for another model, an
/// output that exists, a healing that does not fit in memory. Work: broken files, values that are not finite.
/// Interrupted; the state is saved.
pub fn heal(settings: &HealSettings, progress: &dyn Progress) -> Result<HealReport> {
    settings.check()?;
    let checkpoint = open::checkpoint(settings.model.as_deref(), progress)?;
    let spec = ModelSpec::from_config(&checkpoint.config).context(|| checkpoint.source.id.clone())?;
    spec.check(&checkpoint.index)?;
    let device = open::device(Some(&settings.device), settings.dtype.as_deref(), progress)?;
    let budget = open::budget(settings.memory.as_deref(), &device)?;
    let teacher = settings.teacher.as_deref().map(|teacher| open::checkpoint(Some(teacher), progress)).transpose()?;
    let adapter = settings.adapter.as_deref().map(|dir| trainable(dir, &checkpoint, &spec, &device)).transpose()?;
    let settings = &settled(settings, adapter.as_ref());
    let teacher_bytes = teacher.as_ref().map_or(0, |teacher| teacher.tensors.values().map(|entry| entry.len).sum());
    let plan = estimate(&checkpoint, &spec, settings, (&device, budget), teacher_bytes)?;
    let data =
        settings.data.as_deref().ok_or_else(|| Error::request("which text? name a file or directory with --data"))?;
    let options = settings.source();
    let source = open::text(data, Purpose::Train, &options, progress)?;
    source.check()?;
    let validation = settings.eval_data.as_deref();
    let validation = validation.map(|data| open::text(data, Purpose::Measure, &options, progress)).transpose()?;
    validation.iter().try_for_each(Source::check)?;
    let text = Text { source, validation };
    if settings.seq_len > spec.max_positions {
        let (asked, promised) = (settings.seq_len, spec.max_positions);
        progress.warn(&format!("seq_len {asked} is longer than the {promised} positions the model was made for"));
    }
    let mut report = HealReport { estimate: to_value(&plan)?, result: None, out: None, found: false };
    if settings.dry_run {
        return Ok(report);
    }
    let out = settings.out.as_deref().ok_or_else(|| Error::request("where to? name a directory with --out"))?;
    let record = Record::new(settings, &checkpoint, teacher.as_deref(), text.source.bytes())?;
    report.out = Some(out.to_owned());
    report.result = finished_before(out, &record, settings)?;
    report.found = report.result.is_some();
    if !report.found {
        let job =
            Job { checkpoint: &checkpoint, spec: &spec, settings, device, plan, budget, text, out, progress, record };
        report.result = Some(job.run(adapter, teacher)?);
    }
    Ok(report)
}

/// The adapter in `dir`, which training goes on from.
fn trainable(dir: &Path, checkpoint: &Checkpoint, spec: &ModelSpec, device: &Device) -> Result<Adapters> {
    let adapters = Adapters::open_for(dir, checkpoint, spec, device)?;
    adapters.check_plain().context(|| dir.display())?;
    Ok(adapters)
}

/// With the rank, strength and targets of the adapter that training starts from.
fn settled(settings: &HealSettings, adapter: Option<&Adapters>) -> HealSettings {
    let mut settings = settings.clone();
    if let Some(Adapters { settings: own, .. }) = adapter {
        (settings.rank, settings.alpha, settings.rslora) = (own.rank, own.alpha, own.rslora);
        settings.rank_pattern.clone_from(&own.rank_pattern);
        settings.alpha_pattern.clone_from(&own.alpha_pattern);
        settings.target = own.targets.clone();
    }
    settings
}

/// The result of an earlier run with the same settings.
fn finished_before(out: &Path, record: &Record, settings: &HealSettings) -> Result<Option<HealResult>> {
    let work = WorkDir::place(out);
    if !out.exists() {
        return Ok(None);
    }
    match record.result_at(out) {
        // killed between putting the output in place and removing the state: --force has had its way
        Ok(result) if work.exists() && !settings.restart => {
            fs::remove_dir_all(&work).map_err(|error| Error::io(&work, &error))?;
            Ok(Some(result))
        }
        Ok(_) | Err(_) if settings.force => Ok(None),
        Ok(_) if settings.restart => Err(Error::request(format!("{} exists; --force replaces it", out.display()))),
        Ok(result) => Ok(Some(result)),
        Err(error) => Err(error),
    }
}

struct Text {
    source: Source,
    validation: Option<Source>,
}

/// A healing whose inputs are open.
struct Job<'a> {
    checkpoint: &'a Arc<Checkpoint>,
    spec: &'a ModelSpec,
    settings: &'a HealSettings,
    device: Device,
    plan: Estimate,
    budget: Budget,
    text: Text,
    out: &'a Path,
    progress: &'a dyn Progress,
    record: Record,
}

impl Job<'_> {
    /// Trains and writes. A state stays behind unless all is done.
    fn run(&self, adapter: Option<Adapters>, teacher: Option<Arc<Checkpoint>>) -> Result<HealResult> {
        let dir = WorkDir::open(self.out, &self.record.deciding, self.settings.restart, self.settings.data_changed)?;
        match self.heal(&dir, adapter, teacher) {
            Ok(result) => dir.remove().map(|()| result),
            Err(error) => {
                dir.close();
                Err(error)
            }
        }
    }

    fn heal(&self, dir: &WorkDir, adapter: Option<Adapters>, teacher: Option<Arc<Checkpoint>>) -> Result<HealResult> {
        let (settings, progress) = (self.settings, self.progress);
        let tokenizer = Tokenizer::open(&self.checkpoint.source.dir)?;
        let device = self.device.clone();
        let adapters = match (settings.train, adapter) {
            (Train::Lora, Some(adapters)) => Some(adapters),
            (Train::Lora, None) => Some(Adapters::new(self.spec, &settings.lora(), settings.seed, &device)?),
            (Train::Last(_), _) => None,
        };
        let adapters = adapters.map(Arc::new);
        let mut fittings = fittings(self.spec, settings);
        fittings.adapters.clone_from(&adapters);
        let options = ModelOptions {
            device: device.clone(),
            budget: self.budget,
            fittings,
            residency: Some(Residency::Resident),
            rows_on_host: true,
            ..ModelOptions::default()
        };
        let model = Model::open(self.checkpoint.clone(), &options, progress)?;
        let teacher = teacher
            .map(|teacher| {
                let options = ModelOptions { device, budget: self.budget, ..ModelOptions::default() };
                Model::open(teacher, &options, progress)
            })
            .transpose()?;
        let validation = self.validation(&tokenizer)?;
        let trainer = Trainer::new(&model, teacher.as_ref(), settings, self.plan.spending)?;
        let mut run = Run { model: &model, trainer, settings, dir, validation: &validation };
        let place = run.restore()?;
        let stream = StreamOptions { shape: settings.shape(), window: settings.shuffle_window, seed: settings.seed };
        let position = place.as_ref().map(|place| place.position.clone());
        let open = if settings.data_changed { TrainStream::on_changed } else { TrainStream::new };
        let stream = open(&self.text.source, &tokenizer, stream, position)?;
        let mut samples = TextSamples { stream, tokenizer: &tokenizer };
        let finished = run.train(place, &mut samples, progress)?;
        samples.stream.passed_over().notes().iter().for_each(|note| progress.warn(note));
        let result = result(settings, &finished);
        let trained = run.trainer.parameters().to_vec();
        self.write(&finished, adapters.as_deref(), &trained, result)?;
        Ok(result)
    }

    /// Sequences to validate on: documents in the order of their text.
    fn validation(&self, tokenizer: &Tokenizer) -> Result<Vec<Vec<u32>>> {
        let Some(source) = &self.text.validation else { return Ok(Vec::new()) };
        let options = SequenceOptions {
            samples: Some(self.settings.eval_samples),
            shape: Shape { packing: crate::data::Packing::Document, ..self.settings.shape() },
            seed: None,
        };
        Ok(Sequences::read(source, tokenizer, &options, self.progress)?.rows)
    }

    fn write(
        &self,
        finished: &Finished,
        adapters: Option<&Adapters>,
        trained: &[(String, Tensor)],
        result: HealResult,
    ) -> Result<()> {
        let (settings, progress) = (self.settings, self.progress);
        let max_shard: ByteSize = settings.max_shard_size.parse().context(|| "--max-shard-size")?;
        let sources: [&Path; 1] = [&self.checkpoint.source.dir];
        let out = OutputDir::create(self.out, settings.force, &sources)?;
        out.require_space(self.plan.disk)?;
        let below = |name: &str| -> Result<PathBuf> {
            let path = out.path().join(name);
            fs::create_dir(&path).map_err(|error| Error::io(&path, &error))?;
            Ok(path)
        };
        if let Some(adapters) = adapters {
            adapters.write(&below("adapter")?, self.spec, &self.checkpoint.source.id)?;
        }
        let replaced = if adapters.is_some() { &[] } else { trained };
        let merge = |four_bit, adapters, replaced, dir: &Path| {
            Merge::new(self.checkpoint, self.spec, adapters, replaced, four_bit, max_shard, progress)?
                .write(dir, progress)
        };
        if !settings.adapter_only {
            merge(None, adapters, replaced, &below("merged")?)?;
        }
        if settings.save_4bit {
            merge(Some(!settings.plain_scales), None, replaced, &below("base-4bit")?)?;
        }
        let log: Vec<String> = finished
            .journal
            .lines()
            .iter()
            .map(|line| serde_json::to_string(line).map_err(|error| Error::work(error.to_string())))
            .collect::<Result<_>>()?;
        let state = finished.journal.trainer_state(settings);
        let figure = heal_figure::losses(finished.journal.lines());
        for (name, bytes) in [
            ("log.jsonl", (log.join("\n") + "\n").into_bytes()),
            ("trainer_state.json", pretty(&state)?),
            self.record.file(self.checkpoint, result)?,
            ("loss.svg", crate::report::Figure::svg(&figure)?.into_bytes()),
            ("loss.png", crate::report::Figure::png(&figure)?),
        ] {
            let path = out.path().join(name);
            fs::write(&path, bytes).map_err(|error| Error::io(&path, &error))?;
        }
        out.commit()
    }
}

fn result(settings: &HealSettings, finished: &Finished) -> HealResult {
    HealResult {
        steps: settings.steps,
        tokens: finished.tokens,
        loss_before: finished.before,
        best_step: finished.best.map(|Best { step, .. }| step),
        best_loss: finished.best.map(|Best { loss, .. }| loss),
    }
}

fn to_value(value: &impl Serialize) -> Result<Value> {
    serde_json::to_value(value).map_err(|error| Error::work(error.to_string()))
}
