//! What is asked of a model, in the reference's three request types, and what it answers.

use std::sync::Arc;

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
    },
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
    Text(String),
}

impl Answer {
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
