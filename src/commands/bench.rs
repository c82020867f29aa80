//! `prune bench`: how fast a model reads and speaks, and the memory it takes, beside another model's.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::neighbors::Neighbors;
use super::open;
use crate::arch::ModelSpec;
use crate::checkpoint::{Checkpoint, Entry};
use crate::model::{Cache, LoadOptions, Residency, SamplingParams, memory, peak};
use crate::progress::{Progress, Silent, Unit};
use crate::{Context, Error, Result, interrupt};

/// Settings of `prune bench`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct BenchSettings {
    /// Model: directory or hub id.
    pub model: Option<String>,
    /// The model it is compared with, usually the one it was cut from.
    pub against: Option<String>,
    /// Tokens of the prompt; 512, or what the models' contexts leave beside the new tokens, when absent.
    pub prompt_tokens: Option<usize>,
    /// New tokens.
    pub tokens: usize,
    /// Measured repetitions, after one that warms up.
    pub repetitions: usize,
    /// Where it computes: `auto`, `cpu`.
    pub device: Option<String>,
    /// What products with weights are computed in: `auto`, `bf16`, `f32`.
    pub dtype: Option<String>,
    /// Cap on memory, such as `8GiB`.
    pub memory: Option<String>,
}

impl Default for BenchSettings {
    fn default() -> Self {
        Self {
            model: None,
            against: None,
            prompt_tokens: None,
            tokens: 64,
            repetitions: 5,
            device: None,
            dtype: None,
            memory: None,
        }
    }
}

impl BenchSettings {
    /// Refuses what measures nothing.
    ///
    /// # Errors
    /// Request: names the flag.
    pub fn check(&self) -> Result<()> {
        for (flag, value, least) in [
            ("--tokens", self.tokens, 2),
            ("--repetitions", self.repetitions, 1),
            ("--prompt-tokens", self.prompt_tokens.unwrap_or(1), 1),
        ] {
            if value < least {
                return Err(Error::request(format!("{flag} {value}: at least {least} is needed to measure something")));
            }
        }
        Ok(())
    }
}

/// What was measured.
#[derive(Clone, Debug, Serialize)]
pub struct BenchReport {
    /// Worker threads.
    pub threads: usize,
    /// Tokens of the prompt.
    pub prompt_tokens: usize,
    /// New tokens.
    pub tokens: usize,
    /// Measured repetitions.
    pub repetitions: usize,
    /// The model.
    pub model: ModelBench,
    /// The model it is compared with.
    pub against: Option<ModelBench>,
    /// Processors that other programs kept busy meanwhile, on average; absent where the system does not tell.
    #[serde(rename = "neighbours")]
    pub neighbors: Option<f64>,
}

/// Busy processors beside a measurement from which on it is warned of.
const NEIGHBORS: f64 = 0.1;

/// One model's figures.
#[derive(Clone, Debug, Serialize)]
pub struct ModelBench {
    /// Directory or hub id.
    pub model: String,
    /// Layers.
    pub layers: usize,
    /// Numbers stored, tied ones once.
    pub parameters: u64,
    /// Bytes of weights in the checkpoint.
    pub weight_bytes: u64,
    /// Layers in memory, or streamed from disk for every token.
    pub residency: Residency,
    /// Tokens of the prompt read in a second.
    pub prompt_tokens_per_second: Spread,
    /// Seconds from the start of the prompt until the first new token is known.
    pub first_token_seconds: Spread,
    /// New tokens a second after the first.
    pub tokens_per_second: Spread,
    /// Most memory of the whole process while this model alone was open.
    pub peak_memory_bytes: u64,
    /// Where that figure comes from.
    pub peak_memory: PeakSource,
    /// Weights, keys and values, activations and what the program takes, added up: bytes.
    pub computed_memory_bytes: u64,
}

/// Where a figure of memory comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum PeakSource {
    /// The system's high-water mark, reset before the model was opened, in the repetition that warms up.
    Measured,
    /// Added up: the system has no such mark.
    Computed,
}

/// Several measurements of one thing.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Spread {
    /// The middle one, or the mean of the middle two.
    pub median: f64,
    /// The smallest.
    pub min: f64,
    /// The largest.
    pub max: f64,
}

impl Spread {
    /// Whether no measurement of one is as large as any of the other.
    #[must_use]
    pub fn is_apart(&self, other: &Self) -> bool {
        self.min > other.max || self.max < other.min
    }

    fn of(mut values: Vec<f64>) -> Result<Self> {
        values.sort_by(f64::total_cmp);
        let (Some(min), Some(max)) = (values.first(), values.last()) else {
            return Err(Error::work("nothing was measured"));
        };
        let middle = values.len() / 2;
        let median =
            if values.len() % 2 == 1 { values[middle] } else { f64::midpoint(values[middle - 1], values[middle]) };
        Ok(Self { median, min: *min, max: *max })
    }
}

/// Runs `prune bench`. The models take turns, so that whatever else the machine does hits both alike, and each is alone
/// in memory in its turn.
///
/// # Errors
/// Request: nothing to measure, a model that does not fit the memory allowed. Work: broken files. Interrupted.
pub fn bench(settings: &BenchSettings, progress: &dyn Progress) -> Result<BenchReport> {
    measure(settings, true, progress)
}

/// Runs `prune bench`; the memory of the process is measured only where `marks` says so: in a process that does other
/// things besides, it says nothing about a model.
///
/// # Errors
/// As [`bench`].
pub(super) fn measure(settings: &BenchSettings, marks: bool, progress: &dyn Progress) -> Result<BenchReport> {
    settings.check()?;
    let mut runners = vec![Runner::open(settings.model.as_deref(), progress)?];
    if settings.against.is_some() {
        runners.push(Runner::open(settings.against.as_deref(), progress).context(|| "--against")?);
    }
    let context = runners.iter().map(|runner| runner.spec.max_positions).min().unwrap_or(0);
    let room = context.saturating_sub(settings.tokens).max(1);
    let prompt_tokens = settings.prompt_tokens.unwrap_or(room.min(512));
    let tokens = (prompt_tokens as u64).saturating_add(settings.tokens as u64);
    let turns = (settings.repetitions as u64).saturating_add(1).saturating_mul(runners.len() as u64);
    let watch = Neighbors::watch();
    progress.begin("measuring", turns.saturating_mul(tokens), Unit::Tokens);
    for repetition in 0..=settings.repetitions {
        for runner in &mut runners {
            interrupt::check()?;
            if repetition == 0 {
                let marked = marks && peak::reset();
                runner.turn(settings, prompt_tokens, progress)?;
                runner.peak_bytes = marked.then(peak::bytes).flatten();
            } else {
                let turn = runner.turn(settings, prompt_tokens, &Silent)?;
                runner.turns.push(turn);
            }
            progress.advance(tokens);
        }
    }
    progress.end();
    let neighbors = watch.and_then(|watch| watch.processors());
    if let Some(busy) = neighbors.filter(|busy| *busy > NEIGHBORS) {
        progress
            .warn(&format!("other programs kept {busy:.1} processors busy meanwhile: speeds are lower and less sure"));
    }
    let mut benches = runners.into_iter().map(|runner| runner.bench(prompt_tokens));
    Ok(BenchReport {
        threads: rayon::current_num_threads(),
        prompt_tokens,
        tokens: settings.tokens,
        repetitions: settings.repetitions,
        model: benches.next().ok_or_else(|| Error::work("nothing was measured"))??,
        against: benches.next().transpose()?,
        neighbors,
    })
}

/// A model under measurement.
struct Runner {
    checkpoint: Arc<Checkpoint>,
    spec: ModelSpec,
    turns: Vec<Turn>,
    /// The process's high-water mark, where there is one.
    peak_bytes: Option<u64>,
}

/// One repetition.
struct Turn {
    residency: Residency,
    first_token_seconds: f64,
    tokens_per_second: f64,
    /// Memory of the process as computed.
    expected_bytes: u64,
}

impl Runner {
    fn open(model: Option<&str>, progress: &dyn Progress) -> Result<Self> {
        let checkpoint = open::computed(model, progress)?;
        let spec = ModelSpec::from_config(&checkpoint.config).context(|| checkpoint.source.id.clone())?;
        Ok(Self { checkpoint, spec, turns: Vec::new(), peak_bytes: None })
    }

    /// Opens the model, lets it speak once, and drops it. Opening is not timed.
    fn turn(&self, settings: &BenchSettings, prompt_tokens: usize, progress: &dyn Progress) -> Result<Turn> {
        let longest = prompt_tokens.saturating_add(settings.tokens);
        // bars of its own would end the one that counts the turns
        let warnings = Warnings(progress);
        let device = open::device(settings.device.as_deref(), settings.dtype.as_deref(), &warnings)?;
        let budget = open::budget(settings.memory.as_deref(), &device)?;
        let model =
            open::speaker(&self.checkpoint, &self.spec, LoadOptions::default(), device, budget, longest, &warnings)?;
        let vocabulary = self.spec.vocab_size as u64;
        let prompt: Vec<u32> = (0..prompt_tokens as u64).map(|i| (i * 2_654_435_761 % vocabulary) as u32).collect();
        let speak = |prompt: &[u32], tokens: usize| {
            model.generate(prompt, tokens, &[], &SamplingParams::default(), &mut |_| Ok(()))
        };
        // the head is read when it is first used, threads wake, caches fill
        speak(&prompt[..1], 2)?;
        let spoken = speak(&prompt, settings.tokens)?;
        let beside = Cache::bytes(&self.spec, longest);
        Ok(Turn {
            residency: model.residency(),
            first_token_seconds: spoken.first_token_seconds,
            tokens_per_second: spoken.tokens_per_second().unwrap_or(0.0),
            expected_bytes: memory::expected(&self.spec, model.weight_bytes(), prompt_tokens, beside),
        })
    }

    fn bench(self, prompt_tokens: usize) -> Result<ModelBench> {
        let spread = |figure: &dyn Fn(&Turn) -> f64| Spread::of(self.turns.iter().map(figure).collect());
        let numbers = |entry: &Entry| entry.shape.iter().product::<usize>() as u64;
        let tensors = self.checkpoint.index.tensors.values();
        let last = self.turns.last().ok_or_else(|| Error::work("nothing was measured"))?;
        Ok(ModelBench {
            model: self.checkpoint.source.id.clone(),
            layers: self.spec.layers,
            parameters: tensors.clone().map(numbers).sum(),
            weight_bytes: tensors.map(|entry| entry.len).sum(),
            residency: last.residency,
            prompt_tokens_per_second: spread(&|turn| prompt_tokens as f64 / turn.first_token_seconds)?,
            first_token_seconds: spread(&|turn| turn.first_token_seconds)?,
            tokens_per_second: spread(&|turn| turn.tokens_per_second)?,
            peak_memory_bytes: self.peak_bytes.unwrap_or(last.expected_bytes),
            peak_memory: if self.peak_bytes.is_some() { PeakSource::Measured } else { PeakSource::Computed },
            computed_memory_bytes: last.expected_bytes,
        })
    }
}

/// Lets warnings through and nothing else.
struct Warnings<'a>(&'a dyn Progress);

impl Progress for Warnings<'_> {
    fn begin(&self, _what: &str, _total: u64, _unit: Unit) {}
    fn advance(&self, _units: u64) {}
    fn end(&self) {}
    fn warn(&self, message: &str) {
        self.0.warn(message);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_middle_and_the_ends() {
        assert_eq!(Spread::of(vec![3.0, 1.0, 2.0]).unwrap(), Spread { median: 2.0, min: 1.0, max: 3.0 });
        assert_eq!(Spread::of(vec![4.0, 1.0, 2.0, 3.0]).unwrap(), Spread { median: 2.5, min: 1.0, max: 4.0 });
        assert!(Spread::of(Vec::new()).is_err());
    }
}
