//! `prune sample`: what a model says, to see that it still speaks.

use std::io::Read;
use std::path::PathBuf;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::open;
use crate::arch::ModelSpec;
use crate::data::{Special, Spoken, Tokenizer, end_tokens};
use crate::model::{Ended, LoadOptions, SamplingParams};
use crate::progress::Progress;
use crate::weights::lora::Adapters;
use crate::{Context, Error, Result};

/// Settings of `prune sample`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SampleSettings {
    /// Model: directory or hub id.
    pub model: Option<String>,
    /// Text to go on with; `-` reads it from standard input.
    pub prompt: Option<String>,
    /// Adapter on top of the model, in PEFT's files.
    pub adapter: Option<PathBuf>,
    /// Another model that continues the same prompt.
    pub against: Option<String>,
    /// New tokens at most.
    pub tokens: usize,
    /// Divides the logits; 0 takes the likeliest token each time.
    pub temperature: Option<f64>,
    /// Draws among so many of the likeliest tokens.
    pub top_k: Option<usize>,
    /// Draws among the likeliest tokens that together have this probability.
    pub top_p: Option<f64>,
    /// Draws among tokens of at least this share of the likeliest one's probability.
    pub min_p: Option<f64>,
    /// Seed of the draws.
    pub seed: u64,
    /// Where it computes: `auto`, `cpu`.
    pub device: Option<String>,
    /// What products with weights are computed in: `auto`, `bf16`, `f32`.
    pub dtype: Option<String>,
    /// Cap on memory, such as `8GiB`.
    pub memory: Option<String>,
}

impl Default for SampleSettings {
    fn default() -> Self {
        Self {
            model: None,
            prompt: None,
            adapter: None,
            against: None,
            tokens: 64,
            temperature: None,
            top_k: None,
            top_p: None,
            min_p: None,
            seed: 0,
            device: None,
            dtype: None,
            memory: None,
        }
    }
}

/// What the models said.
#[derive(Clone, Debug, Serialize)]
pub struct SampleReport {
    /// The text they continued.
    pub prompt: String,
    /// The model's continuation, then the other model's.
    pub continuations: Vec<Continuation>,
}

/// What one model said.
#[derive(Clone, Debug, Serialize)]
pub struct Continuation {
    /// Directory or hub id.
    pub model: String,
    /// Its layers.
    pub layers: usize,
    /// The new text.
    pub text: String,
    /// Tokens of the prompt.
    pub prompt_tokens: usize,
    /// Tokens of the new text.
    pub tokens: usize,
    /// Why it ended.
    pub ended: Ended,
    /// Seconds until the first new token was known.
    pub first_token_seconds: f64,
    /// New tokens a second after that; absent where there was only one.
    pub tokens_per_second: Option<f64>,
}

/// Runs `prune sample`; `said` sees the model's text as it comes, without the other model's.
///
/// # Errors
/// Request: no prompt, numbers that make no sense, an adapter of another model. Work: broken files; what `said` finds.
pub fn sample(
    settings: &SampleSettings,
    progress: &dyn Progress,
    said: &mut dyn FnMut(&str) -> Result<()>,
) -> Result<SampleReport> {
    if settings.tokens == 0 {
        return Err(Error::request("--tokens 0: at least one new token is needed"));
    }
    let prompt = prompt(settings.prompt.as_deref())?;
    // before the first one speaks
    let against = settings.against.as_deref().map(|model| open::computed(Some(model), progress)).transpose();
    against.context(|| "--against")?;
    let adapter = settings.adapter.as_ref();
    let mut continuations = vec![continuation(settings, settings.model.as_deref(), adapter, &prompt, progress, said)?];
    if settings.against.is_some() {
        let other = settings.against.as_deref();
        continuations.push(continuation(settings, other, None, &prompt, progress, &mut |_| Ok(()))?);
    }
    Ok(SampleReport { prompt, continuations })
}

/// The text itself, or what stands on standard input, without the end of its last line.
fn prompt(given: Option<&str>) -> Result<String> {
    match given {
        None => Err(Error::request("which text to go on with? give --prompt TEXT, or --prompt - to read it")),
        Some("-") => {
            let mut text = String::new();
            let read = std::io::stdin().lock().read_to_string(&mut text);
            read.map_err(|error| Error::work(format!("standard input: {error}")))?;
            let line = text.strip_suffix('\n').unwrap_or(&text);
            Ok(line.strip_suffix('\r').unwrap_or(line).to_owned())
        }
        Some(text) => Ok(text.to_owned()),
    }
}

fn continuation(
    settings: &SampleSettings,
    model: Option<&str>,
    adapter: Option<&PathBuf>,
    prompt: &str,
    progress: &dyn Progress,
    said: &mut dyn FnMut(&str) -> Result<()>,
) -> Result<Continuation> {
    let checkpoint = open::computed(model, progress)?;
    let spec = ModelSpec::from_config(&checkpoint.config).context(|| checkpoint.source.id.clone())?;
    let directory = &checkpoint.source.dir;
    let device = open::device(settings.device.as_deref(), settings.dtype.as_deref(), progress)?;
    let budget = open::budget_beside_tokenizer(settings.memory.as_deref(), &device, &checkpoint)?;
    let tokenizer = Tokenizer::open(directory)?;
    let ends = end_tokens(directory, &tokenizer)?;
    let ids = tokenizer.encode(prompt, Special::Default)?;
    if ids.is_empty() {
        let place = checkpoint.source.id.as_str();
        return Err(Error::request(format!("--prompt: no token comes of it with the tokenizer of {place}")));
    }
    let longest = ids.len().saturating_add(settings.tokens);
    if longest > spec.max_positions {
        progress.warn(&format!(
            "{}: prompt and new tokens may come to {longest}, the model was made for {}",
            checkpoint.source.id, spec.max_positions
        ));
    }
    let adapters = adapter.map(|dir| Adapters::open_for(dir, &checkpoint, &spec, &device)).transpose();
    let adapters = adapters.context(|| "--adapter")?;
    let load_options = LoadOptions { adapters: adapters.map(Arc::new), ..LoadOptions::default() };
    let model = open::speaker(&checkpoint, &spec, load_options, device, budget, longest, progress)?;
    let SampleSettings { temperature, top_k, top_p, min_p, seed, .. } = *settings;
    let choice = SamplingParams { temperature, top_k, top_p, min_p, seed };
    let (mut spoken, mut text) = (Spoken::after(&tokenizer, &ids), String::new());
    let mut say = |part: String| {
        text.push_str(&part);
        if part.is_empty() { Ok(()) } else { said(&part) }
    };
    let generated = model.generate(&ids, settings.tokens, &ends, &choice, &mut |id| say(spoken.push(id)?))?;
    say(spoken.finish()?)?;
    Ok(Continuation {
        model: checkpoint.source.id.clone(),
        layers: model.layers(),
        text,
        prompt_tokens: ids.len(),
        tokens: generated.ids.len(),
        ended: generated.ended,
        first_token_seconds: generated.first_token_seconds,
        tokens_per_second: generated.tokens_per_second(),
    })
}
