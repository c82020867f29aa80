//! `prune heal`: fine-tunes a cut model, and writes an adapter, a merged model and the log.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use candle_core::{Device, Tensor};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use super::{heal_figure, open};
use crate::arch::ModelSpec;
use crate::checkpoint::{ByteSize, Checkpoint, OutputDir, read_json};
use crate::data::{
    Purpose, SequenceOptions, Sequences, Shape, Source, SourceOptions, StreamOptions, Tokenizer, TrainStream,
};
use crate::heal::{
    Best, Estimate, Finished, HealSettings, Merge, Run, TextSamples, Train, Trainer, WorkDir, estimate, fittings,
};
use crate::model::lora::Adapters;
use crate::model::{Budget, Model, ModelOptions, Residency};
use crate::progress::Progress;
use crate::{Context, Error, Result};

/// The file that says how a result was made.
const RECORD: &str = "heal.json";

/// What the command did, or would do.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct HealReport {
    /// What it takes.
    pub estimate: Value,
    /// What came of it; absent in a dry run.
    pub result: Option<HealResult>,
    /// Directory of the results; absent in a dry run.
    pub out: Option<PathBuf>,
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

/// Runs `prune heal`. A run that was stopped goes on when the same settings are given again.
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
    let adapter = settings.adapter.as_deref().map(|dir| Adapters::open(dir, &spec, &device)).transpose()?;
    let settings = &settled(settings, adapter.as_ref());
    let teacher_bytes = teacher.as_ref().map_or(0, |teacher| teacher.tensors.values().map(|entry| entry.len).sum());
    let plan = estimate(&checkpoint, &spec, settings, (&device, budget), teacher_bytes)?;
    let data =
        settings.data.as_deref().ok_or_else(|| Error::request("which text? name a file or directory with --data"))?;
    let options = SourceOptions { field: settings.text_field.clone(), split: settings.text_split };
    let source = open::text(data, Purpose::Train, &options, progress)?;
    let text = Text { options, source };
    if settings.seq_len > spec.max_positions {
        let (asked, promised) = (settings.seq_len, spec.max_positions);
        progress.warn(&format!("seq_len {asked} is longer than the {promised} positions the model was made for"));
    }
    let mut report = HealReport { estimate: to_value(&plan)?, result: None, out: None };
    if settings.dry_run {
        return Ok(report);
    }
    let out = settings.out.as_deref().ok_or_else(|| Error::request("where to? name a directory with --out"))?;
    let job = Job { checkpoint: &checkpoint, spec: &spec, settings, device, plan, budget, text, out, progress };
    let deciding = job.deciding(teacher.as_deref())?;
    if !settings.restart
        && let Some(result) = finished_before(out, &deciding)?
    {
        report.out = Some(out.to_owned());
        report.result = Some(result);
        return Ok(report);
    }
    if out.exists() && !settings.force {
        return Err(Error::request(format!("{} exists; --force replaces it", out.display())));
    }
    report.result = Some(job.run(adapter, teacher, &deciding)?);
    report.out = Some(out.to_owned());
    Ok(report)
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

/// The result of a run that was killed between putting its output in place and removing its state.
fn finished_before(out: &Path, deciding: &Map<String, Value>) -> Result<Option<HealResult>> {
    let (work, record) = (WorkDir::place(out), out.join(RECORD));
    if !work.exists() || !record.exists() {
        return Ok(None);
    }
    let record: Value = read_json(&record)?;
    if record.get("settings") != Some(&Value::Object(deciding.clone())) {
        return Ok(None);
    }
    let result = record.get("result").cloned().unwrap_or_default();
    let result = serde_json::from_value(result).map_err(|error| Error::work(error.to_string())).context(|| RECORD)?;
    fs::remove_dir_all(&work).map_err(|error| Error::io(&work, &error))?;
    Ok(Some(result))
}

struct Text {
    options: SourceOptions,
    source: Source,
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
}

impl Job<'_> {
    /// What decides the result: settings, and what the files are.
    fn deciding(&self, teacher: Option<&Checkpoint>) -> Result<Map<String, Value>> {
        let mut deciding = self.settings.deciding();
        deciding.insert("model_is".to_owned(), json!(sample_hash(self.checkpoint)?));
        if let Some(teacher) = teacher {
            deciding.insert("teacher_is".to_owned(), json!(sample_hash(teacher)?));
        }
        deciding.insert("data_bytes".to_owned(), json!(self.text.source.bytes()));
        deciding.insert("version".to_owned(), json!(env!("CARGO_PKG_VERSION")));
        Ok(deciding)
    }

    fn run(
        &self,
        adapter: Option<Adapters>,
        teacher: Option<Arc<Checkpoint>>,
        deciding: &Map<String, Value>,
    ) -> Result<HealResult> {
        let (settings, progress) = (self.settings, self.progress);
        let dir = WorkDir::open(self.out, deciding, settings.restart)?;
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
        let trainer = Trainer::new(&model, teacher.as_ref(), settings, self.plan.layers_kept)?;
        let mut run = Run { model: &model, trainer, settings, dir: &dir, validation: &validation };
        let place = run.restore()?;
        let stream = StreamOptions { shape: settings.shape(), window: settings.shuffle_window, seed: settings.seed };
        let position = place.as_ref().map(|place| place.position.clone());
        let stream = TrainStream::new(&self.text.source, &tokenizer, stream, position)?;
        let mut samples = TextSamples { stream, tokenizer: &tokenizer };
        let finished = run.train(place, &mut samples, progress)?;
        let result = result(settings, &finished);
        let trained = run.trainer.parameters().to_vec();
        self.write(&finished, adapters.as_deref(), &trained, deciding, result)?;
        dir.remove()?;
        Ok(result)
    }

    /// Sequences to validate on: documents in the order of their text.
    fn validation(&self, tokenizer: &Tokenizer) -> Result<Vec<Vec<u32>>> {
        let Some(path) = &self.settings.eval_data else { return Ok(Vec::new()) };
        let source = open::text(path, Purpose::Measure, &self.text.options, self.progress)?;
        let options = SequenceOptions {
            samples: Some(self.settings.eval_samples),
            shape: Shape { packing: crate::data::Packing::Document, ..self.settings.shape() },
            seed: None,
        };
        Ok(Sequences::read(&source, tokenizer, &options, self.progress)?.rows)
    }

    fn write(
        &self,
        finished: &Finished,
        adapters: Option<&Adapters>,
        trained: &[(String, Tensor)],
        deciding: &Map<String, Value>,
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
        let state = finished.journal.trainer_state(settings, finished.best);
        let record = json!({
            "prune": env!("CARGO_PKG_VERSION"),
            "model": self.checkpoint.source.id,
            "revision": self.checkpoint.source.revision,
            "settings": deciding,
            "result": result,
        });
        let figure = heal_figure::losses(finished.journal.lines());
        for (name, bytes) in [
            ("log.jsonl", (log.join("\n") + "\n").into_bytes()),
            ("trainer_state.json", pretty(&state)?),
            (RECORD, pretty(&record)?),
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

/// SHA-256 of the config and the first bytes of every tensor: tells apart models that differ anywhere but in a few
/// numbers, without reading them whole.
fn sample_hash(checkpoint: &Checkpoint) -> Result<String> {
    const SAMPLE: u64 = 4096;
    let mut hash = Sha256::new();
    hash.update(serde_json::to_vec(&checkpoint.config).map_err(|error| Error::work(error.to_string()))?);
    for (name, entry) in &checkpoint.tensors {
        hash.update(name);
        hash.update(format!("{:?} {:?}", entry.dtype, entry.shape));
        let mut bytes = vec![0; entry.len.min(SAMPLE) as usize];
        checkpoint.read_range(entry, 0, &mut bytes)?;
        hash.update(&bytes);
    }
    Ok(format!("{:x}", hash.finalize()))
}

fn to_value(value: &impl Serialize) -> Result<Value> {
    serde_json::to_value(value).map_err(|error| Error::work(error.to_string()))
}

fn pretty(value: &Value) -> Result<Vec<u8>> {
    let text = serde_json::to_string_pretty(value).map_err(|error| Error::work(error.to_string()))?;
    Ok((text + "\n").into_bytes())
}
