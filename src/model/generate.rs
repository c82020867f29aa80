//! Text from a model, token after token.

use std::collections::BTreeSet;
use std::time::Instant;

use candle_core::{D, Tensor};
use candle_transformers::generation::{LogitsProcessor, Sampling};
use serde::Serialize;

use super::{Cache, Model};
use crate::{Context, Error, Result};

/// How the next token is chosen.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct SamplingParams {
    /// Divides the logits; `None` takes the likeliest token, unless `top_k` or `top_p` is given: then 1.
    pub temperature: Option<f64>,
    /// Draws among so many of the likeliest tokens.
    pub top_k: Option<usize>,
    /// Draws among the likeliest tokens that together have this probability.
    pub top_p: Option<f64>,
    /// Of the draws.
    pub seed: u64,
}

impl SamplingParams {
    /// candle's processor for it.
    ///
    /// # Errors
    /// Request: numbers that make no sense, their flag named.
    fn processor(&self) -> Result<LogitsProcessor> {
        let refused = |flag: &str, found: &dyn std::fmt::Display, expected: &str| {
            Err(Error::request(format!("{flag} {found}: expected {expected}")))
        };
        if let Some(temperature) = self.temperature.filter(|t| !(*t >= 0.0 && t.is_finite())) {
            return refused("--temperature", &temperature, "0 for the likeliest token, or a number above");
        }
        if self.top_k == Some(0) {
            return refused("--top-k", &0, "at least 1");
        }
        if let Some(p) = self.top_p.filter(|p| !(*p > 0.0 && *p <= 1.0)) {
            return refused("--top-p", &p, "a probability above 0, at most 1");
        }
        let drawn = self.top_k.is_some() || self.top_p.is_some();
        let sampling = match (self.temperature.unwrap_or(if drawn { 1.0 } else { 0.0 }), self.top_k, self.top_p) {
            (0.0, None, None) => Sampling::ArgMax,
            (0.0, ..) => return refused("--temperature", &0, "a number above 0 with --top-k or --top-p"),
            (temperature, None, None) => Sampling::All { temperature },
            (temperature, Some(k), None) => Sampling::TopK { k, temperature },
            (temperature, None, Some(p)) => Sampling::TopP { p, temperature },
            (temperature, Some(k), Some(p)) => Sampling::TopKThenTopP { k, p, temperature },
        };
        Ok(LogitsProcessor::from_sampling(self.seed, sampling))
    }
}

/// Why a text ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
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
        let mut processor = choice.processor()?;
        if prompt.is_empty() || tokens == 0 {
            return Err(Error::request("nothing to generate: a prompt and at least one new token are needed"));
        }
        let mut next = |x: &Tensor, known: usize| -> Result<u32> {
            let last = x.narrow(0, x.dim(0)? - 1, 1)?;
            let logits = self.logits(&last).context(|| format!("token {} (from 0)", known - 1))?;
            Ok(processor.sample(&logits.squeeze(0)?)?)
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

    /// Continues each of `prompts` by the likeliest tokens, as many as it says at most, until one of `ends`, or until
    /// `goes_on`, which sees a text's tokens after each new one, says that it is enough: the tokens after each prompt.
    /// A token of `ends` is not among them. `penalty` divides the logits of tokens that stand in the text already, and
    /// multiplies those that are negative (arXiv 1909.05858).
    ///
    /// # Errors
    /// Request: an empty prompt, no tokens asked for. Work: logits that are not finite, what `goes_on` and
    /// [`Model::extend`] find. Interrupted.
    pub(crate) fn generate_each(
        &self,
        prompts: &[(&[u32], usize)],
        ends: &[u32],
        penalty: Option<f64>,
        goes_on: &mut dyn FnMut(usize, &[u32]) -> Result<bool>,
    ) -> Result<Vec<Vec<u32>>> {
        if prompts.iter().any(|(prompt, most)| prompt.is_empty() || *most == 0) {
            return Err(Error::request("nothing to generate: a prompt and at least one new token are needed"));
        }
        let cache = |(prompt, most): &(&[u32], usize)| Cache::new(self, prompt.len().saturating_add(*most));
        let caches: Vec<Cache> = prompts.iter().map(cache).collect::<Result<_>>()?;
        let mut going: Vec<(usize, Cache)> = caches.into_iter().enumerate().collect();
        let mut said: Vec<Vec<u32>> = vec![Vec::new(); prompts.len()];
        let mut new: Vec<Vec<u32>> = prompts.iter().map(|(prompt, _)| prompt.to_vec()).collect();
        while !going.is_empty() {
            let mut caches: Vec<&mut Cache> = going.iter_mut().map(|(_, cache)| cache).collect();
            let ids: Vec<&[u32]> = new.iter().map(Vec::as_slice).collect();
            let last = self.extend_each(&mut caches, &ids)?.into_iter().map(|x| x.narrow(0, x.dim(0)? - 1, 1));
            let last = Tensor::cat(&last.collect::<candle_core::Result<Vec<_>>>()?, 0)?;
            let logits = self.logits(&last)?;
            let tokens = match penalty {
                None => logits.argmax(D::Minus1)?.to_vec1::<u32>()?,
                Some(penalty) => {
                    let texts = going.iter().map(|(index, _)| prompts[*index].0.iter().chain(&said[*index]));
                    let logits = logits.to_vec2::<f32>()?.into_iter();
                    logits.zip(texts).map(|(logits, text)| likeliest(logits, text, penalty as f32)).collect()
                }
            };
            let before = std::mem::take(&mut going);
            new.clear();
            for ((index, cache), token) in before.into_iter().zip(tokens) {
                if ends.contains(&token) {
                    continue;
                }
                said[index].push(token);
                if goes_on(index, &said[index])? && said[index].len() < prompts[index].1 {
                    going.push((index, cache));
                    new.push(vec![token]);
                }
            }
        }
        Ok(said)
    }
}

/// The token of the largest logit once those in `text` are penalized; the first of several.
fn likeliest<'a>(mut logits: Vec<f32>, text: impl Iterator<Item = &'a u32>, penalty: f32) -> u32 {
    for token in text.copied().collect::<BTreeSet<u32>>() {
        if let Some(logit) = logits.get_mut(token as usize) {
            *logit = if *logit < 0.0 { *logit * penalty } else { *logit / penalty };
        }
    }
    (1..logits.len()).fold(0, |best, token| if logits[token] > logits[best] { token } else { best }) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_said_is_less_likely_once() {
        let logits = vec![-1.0, 3.0, 2.5, 1.0, -0.5];
        assert_eq!(likeliest(logits.clone(), [].iter(), 2.0), 1);
        assert_eq!(likeliest(logits.clone(), [1, 9].iter(), 1.1), 1);
        assert_eq!(likeliest(logits.clone(), [1, 1, 1, 4].iter(), 1.25), 2);
        assert_eq!(likeliest(logits, [1, 2].iter(), 3.0), 1, "the first of 1.0, 0.83, 1.0");
        assert_eq!(likeliest(vec![-1.0, -2.0], [0].iter(), 3.0), 1);
    }
}
