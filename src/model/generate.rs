//! Text from a model, token after token.

use std::time::Instant;

use candle_core::{Device, Tensor};
use candle_transformers::generation::{LogitsProcessor, Sampling};
use rand::{RngCore, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use super::{Cache, Model};
use crate::{Context, Error, Result};

/// How the next token is chosen.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct SamplingParams {
    /// Divides the logits; `None` takes the likeliest token, unless `top_k`, `top_p` or `min_p` is given: then 1.
    pub temperature: Option<f64>,
    /// Draws among so many of the likeliest tokens.
    pub top_k: Option<usize>,
    /// Draws among the likeliest tokens that together have this probability.
    pub top_p: Option<f64>,
    /// Draws among tokens that have at least this share of the likeliest one's probability (arXiv 2407.01082); those
    /// that have less are left out before `top_k` and `top_p` choose.
    pub min_p: Option<f64>,
    /// Of the draws.
    pub seed: u64,
}

/// Draws tokens, one after the other.
pub(crate) struct Drawer {
    processor: LogitsProcessor,
    /// How far below the largest logit one may be.
    within: Option<f32>,
}

impl Drawer {
    /// The next token, of logits `[v]`.
    ///
    /// # Errors
    /// The device's.
    pub(crate) fn draw(&mut self, logits: &Tensor) -> Result<u32> {
        let Some(within) = self.within else { return Ok(self.processor.sample(logits)?) };
        let mut numbers = logits.to_vec1::<f32>()?;
        let least = numbers.iter().copied().fold(f32::MIN, f32::max) - within;
        numbers.iter_mut().filter(|logit| **logit < least).for_each(|logit| *logit = f32::NEG_INFINITY);
        let count = numbers.len();
        Ok(self.processor.sample(&Tensor::from_vec(numbers, count, &Device::Cpu)?)?)
    }
}

impl SamplingParams {
    /// What draws by it.
    ///
    /// # Errors
    /// Request: numbers that make no sense, their flag named.
    pub(crate) fn drawer(&self) -> Result<Drawer> {
        let refused = |flag: &str, found: &dyn std::fmt::Display, expected: &str| {
            Err(Error::request(format!("{flag} {found}: expected {expected}")))
        };
        if let Some(temperature) = self.temperature.filter(|t| !(*t >= 0.0 && t.is_finite())) {
            return refused("--temperature", &temperature, "0 for the likeliest token, or a number above");
        }
        if self.top_k == Some(0) {
            return refused("--top-k", &0, "at least 1");
        }
        for (flag, p) in [("--top-p", self.top_p), ("--min-p", self.min_p)] {
            if let Some(p) = p.filter(|p| !(*p > 0.0 && *p <= 1.0)) {
                return refused(flag, &p, "a probability above 0, at most 1");
            }
        }
        let drawn = self.top_k.is_some() || self.top_p.is_some() || self.min_p.is_some();
        let temperature = self.temperature.unwrap_or(if drawn { 1.0 } else { 0.0 });
        let sampling = match (temperature, self.top_k, self.top_p) {
            (0.0, None, None) if !drawn => Sampling::ArgMax,
            (0.0, ..) => return refused("--temperature", &0, "a number above 0 with --top-k, --top-p or --min-p"),
            (temperature, None, None) => Sampling::All { temperature },
            (temperature, Some(k), None) => Sampling::TopK { k, temperature },
            (temperature, None, Some(p)) => Sampling::TopP { p, temperature },
            (temperature, Some(k), Some(p)) => Sampling::TopKThenTopP { k, p, temperature },
        };
        let within = self.min_p.map(|p| (-temperature * p.ln()) as f32);
        Ok(Drawer { processor: LogitsProcessor::from_sampling(self.seed, sampling), within })
    }

    /// The same with a seed that depends on nothing but its own, on the item that is drawn for and on which of its
    /// samples it is.
    #[must_use]
    pub fn of_item(&self, item: u64, sample: u64) -> Self {
        let mut random = ChaCha8Rng::seed_from_u64(self.seed);
        random.set_stream(item);
        // a word has 32 bits
        random.set_word_pos(2 * u128::from(sample));
        Self { seed: random.next_u64(), ..*self }
    }
}

/// Why a text ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Ended {
    /// The model said that the text is over.
    EndOfText,
    /// As many tokens as were asked for.
    Length,
}

/// What a model said.
#[derive(Clone, Debug, PartialEq)]
pub struct Generated {
    /// The tokens after the prompt; one that ends the text is not among them.
    pub ids: Vec<u32>,
    /// Why there are no more.
    pub ended: Ended,
    /// Seconds until the first token was known, the prompt read.
    pub first_token_seconds: f64,
    /// Seconds from there to the last one.
    pub seconds: f64,
}

impl Generated {
    /// Tokens a second after the first one; absent where there is only one.
    #[must_use]
    pub fn tokens_per_second(&self) -> Option<f64> {
        // a token that ended the text was worked for like the others
        let worked_for = self.ids.len() + usize::from(self.ended == Ended::EndOfText);
        (worked_for > 1).then(|| (worked_for - 1) as f64 / self.seconds)
    }
}

impl Model {
    /// Continues `prompt` by `tokens` tokens at most, until one of `ends`; `said` sees each as it comes.
    ///
    /// # Errors
    /// Request: an empty prompt, no tokens asked for, a choice that makes no sense. Work: logits that are not finite,
    /// what `said` and [`Model::extend`] find. Interrupted.
    pub fn generate(
        &self,
        prompt: &[u32],
        tokens: usize,
        ends: &[u32],
        choice: &SamplingParams,
        said: &mut dyn FnMut(u32) -> Result<()>,
    ) -> Result<Generated> {
        let mut drawer = choice.drawer()?;
        if prompt.is_empty() || tokens == 0 {
            return Err(Error::request("nothing to generate: a prompt and at least one new token are needed"));
        }
        let mut next = |x: &Tensor, known: usize| -> Result<u32> {
            let last = x.narrow(0, x.dim(0)? - 1, 1)?;
            let logits = self.logits(&last).context(|| format!("token {} (from 0)", known - 1))?;
            drawer.draw(&logits.squeeze(0)?)
        };
        let started = Instant::now();
        let mut cache = Cache::new(self, prompt.len().saturating_add(tokens))?;
        let mut token = next(&self.extend(&mut cache, prompt)?, prompt.len())?;
        let first_token_seconds = started.elapsed().as_secs_f64();
        let started = Instant::now();
        let mut ids = Vec::new();
        let ended = loop {
            if ends.contains(&token) {
                break Ended::EndOfText;
            }
            ids.push(token);
            said(token)?;
            if ids.len() == tokens {
                break Ended::Length;
            }
            token = next(&self.extend(&mut cache, &[token])?, prompt.len() + ids.len())?;
        };
        Ok(Generated { ids, ended, first_token_seconds, seconds: started.elapsed().as_secs_f64() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drawn(params: SamplingParams, count: usize) -> Vec<u32> {
        let logits = Tensor::new(&[0f32, 1.0, 2.0, 3.0], &Device::Cpu).unwrap();
        let mut drawer = params.drawer().unwrap();
        (0..count).map(|_| drawer.draw(&logits).unwrap()).collect()
    }

    #[test]
    fn what_is_far_below_the_likeliest_is_never_drawn() {
        // e^-1 of the likeliest is 0.37 of it, e^-2 0.14
        for (min_p, temperature, least) in [(1.0, 1.0, 3), (0.3, 1.0, 2), (0.3, 2.0, 1), (0.1, 1.0, 1), (0.01, 1.0, 0)]
        {
            let params = SamplingParams { min_p: Some(min_p), temperature: Some(temperature), ..Default::default() };
            let found = drawn(params, 400);
            assert_eq!(found.iter().min(), Some(&least), "{min_p} {temperature}");
        }
        let greedy = SamplingParams { temperature: Some(0.0), min_p: Some(0.5), ..Default::default() };
        assert!(greedy.drawer().err().unwrap().to_string().contains("--min-p"));
        assert!(SamplingParams { min_p: Some(0.0), ..Default::default() }.drawer().is_err());
    }

    #[test]
    fn each_item_and_sample_draws_by_itself() {
        let params = SamplingParams { temperature: Some(1.0), seed: 7, ..Default::default() };
        let seeds: Vec<u64> =
            (0..20).flat_map(|item| (0..3).map(move |sample| params.of_item(item, sample).seed)).collect();
        let mut different = seeds.clone();
        different.sort_unstable();
        different.dedup();
        assert_eq!(different.len(), 60);
        assert_eq!(params.of_item(5, 2).seed, seeds[17]);
        assert_ne!(SamplingParams { seed: 8, ..params }.of_item(5, 2).seed, seeds[17]);
        assert_eq!(drawn(params.of_item(5, 2), 50), drawn(params.of_item(5, 2), 50));
    }
}
