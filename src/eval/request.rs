//! What is asked of a model, in the reference's three request types, and what it answers.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::model::SamplingParams;

/// The text before an answer: examples that many documents share, and the document's own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Prompt {
    /// Description and examples.
    pub shots: Arc<str>,
    /// The document's own text.
    pub own: Arc<str>,
}

impl Prompt {
    /// The whole text.
    #[must_use]
    pub fn text(&self) -> String {
        format!("{}{}", self.shots, self.own)
    }

    /// UTF-8 bytes of the whole text.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.shots.len() + self.own.len()
    }
}

/// One question to the model, as lm-evaluation-harness's instances have them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request {
    /// How likely is the continuation after the context?
    LogLikelihood {
        /// What the model reads.
        context: Prompt,
        /// What is scored, with the space that joins it to the context.
        continuation: String,
    },
    /// How likely is the whole text?
    LogLikelihoodRolling {
        /// What is scored.
        text: String,
    },
    /// What does the model say after the context?
    GenerateUntil {
        /// What the model reads.
        context: Prompt,
        /// Texts before the first of which the answer ends.
        until: &'static [&'static str],
        /// Tokens at most, where the task says so; else [`MAX_GEN_TOKS`].
        max_gen_toks: Option<usize>,
        /// How answers are drawn, and how many; nothing where one is made of the likeliest tokens.
        draws: Option<AnswerDraws>,
    },
}

/// How answers are drawn, and how many of a question. Numbers are kept by their bits, so that requests can be ordered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct AnswerDraws {
    temperature: u64,
    top_p: Option<u64>,
    top_k: Option<usize>,
    /// Answers to a question.
    pub repeats: usize,
    /// Of all draws.
    pub seed: u64,
}

impl AnswerDraws {
    /// `repeats` answers at a temperature above 0, of the likeliest tokens where `top_p` or `top_k` says so.
    #[must_use]
    pub fn new(temperature: f64, top_p: Option<f64>, top_k: Option<usize>, repeats: usize) -> Self {
        Self { temperature: temperature.to_bits(), top_p: top_p.map(f64::to_bits), top_k, repeats, seed: 0 }
    }

    /// The same with a seed.
    #[must_use]
    pub fn params(&self, seed: u64) -> SamplingParams {
        SamplingParams {
            temperature: Some(f64::from_bits(self.temperature)),
            top_p: self.top_p.map(f64::from_bits),
            top_k: self.top_k,
            min_p: None,
            seed,
        }
    }
}

/// One drawn answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Draw {
    /// How.
    pub draws: AnswerDraws,
    /// Number of the document.
    pub item: u64,
    /// Which of its answers.
    pub sample: u64,
}

impl Draw {
    /// How its tokens are drawn: nothing but the seed, the document and the number of the answer decides it.
    #[must_use]
    pub fn params(&self) -> SamplingParams {
        self.draws.params(self.draws.seed).of_item(self.item, self.sample)
    }
}

/// Tokens that are generated at most where the task does not say.
pub const MAX_GEN_TOKS: usize = 256;

impl Request {
    /// Bytes of text that are tokenised, about.
    pub(super) fn bytes(&self) -> usize {
        match self {
            Self::LogLikelihood { context, continuation } => context.bytes() + continuation.len(),
            Self::LogLikelihoodRolling { text } => text.len(),
            Self::GenerateUntil { context, .. } => context.bytes(),
        }
    }
}

/// What came out for a request.
#[derive(Clone, Debug, PartialEq)]
pub enum Answer {
    /// To [`Request::LogLikelihood`].
    LogLikelihood {
        /// Natural logarithm of the continuation's probability.
        log_likelihood: f32,
        /// Whether greedy decoding would have said the same.
        greedy: bool,
    },
    /// To [`Request::LogLikelihoodRolling`].
    Rolling {
        /// Nats, summed over all predicted tokens.
        log_likelihood: f64,
        /// Nats, summed over the text's own tokens, without a leading special one.
        own: f64,
        /// How many those are.
        tokens: usize,
    },
    /// To [`Request::GenerateUntil`].
    Text(Completion),
}

/// A generated text.
#[derive(Clone, Debug, PartialEq)]
pub struct Completion {
    /// What was said, or what a filter took of it.
    pub text: String,
    /// How it was written; absent of what a filter took.
    pub written: Option<Written>,
}

impl From<String> for Completion {
    fn from(text: String) -> Self {
        Self { text, written: None }
    }
}

/// How a text was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Written {
    /// Tokens, those of the text that ended it among them.
    pub tokens: usize,
    /// Why there are no more.
    pub finish_reason: FinishReason,
    /// Whether it ends in saying the same again and again ([`repeats_from`](crate::model::repeats_from)).
    pub repeated_suffix: bool,
}

/// Why a text ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FinishReason {
    /// The model ended it, or said what ends it.
    Stop,
    /// It has as many tokens as it may have.
    Length,
}

impl Answer {
    /// A text of which it is not known how it was written.
    #[must_use]
    pub fn text(text: String) -> Self {
        Self::Text(text.into())
    }

    /// How a generated text was written.
    #[must_use]
    pub fn written(&self) -> Option<Written> {
        if let Self::Text(said) = self { said.written } else { None }
    }

    /// The log-likelihood in nats; none of a generated text.
    #[must_use]
    pub fn log_likelihood(&self) -> Option<f64> {
        match self {
            Self::LogLikelihood { log_likelihood, .. } => Some(f64::from(*log_likelihood)),
            Self::Rolling { log_likelihood, .. } => Some(*log_likelihood),
            Self::Text(_) => None,
        }
    }
}
