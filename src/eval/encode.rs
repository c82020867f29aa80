//! Strings to token requests, as the reference tokenises them.

use std::ops::Range;
use std::sync::Arc;

use super::passes::{ScoredTargets, TokenRequest};
use super::prompts::AskedDocument;
use super::python::rstrip;
use super::request::{AnswerDraws, Draw, MAX_GEN_TOKS, Prompt, Request};
use super::room::{Taken, size};
use super::settings::Compat;
use crate::data::{Special, Tokenizer};
use crate::{Error, Result, interrupt};

/// How strings become tokens.
#[derive(Debug)]
pub struct Encoder<'a> {
    tokenizer: &'a Tokenizer,
    /// Which special tokens a text gets: usually a beginning-of-sequence token in front.
    special: Special,
    /// Token that stands for an empty context, and its text.
    prefix: Option<(u32, String)>,
    /// Whether a text that already starts with the prefix's text gets no special tokens.
    once: bool,
    /// Longest input of the model, in tokens.
    max_length: usize,
    /// Score single answer tokens the way the paper's scripts do.
    paper: bool,
}

/// The requests of one document.
#[derive(Clone, Debug)]
pub struct DocumentRequests {
    /// One a choice, or one a window of a text.
    pub requests: Vec<TokenRequest>,
    /// Whether the first request is a special token in front of a text: part of the reference's sum, not of the text.
    pub lead: bool,
    /// Tokens that did not fit into the model and were left out, from the left.
    pub truncated: usize,
    /// Memory taken, these requests included.
    taken: Taken,
}

impl DocumentRequests {
    fn new(taken: Taken) -> Self {
        Self { requests: Vec::new(), lead: false, truncated: 0, taken }
    }

    fn add(&mut self, request: TokenRequest) -> Result<()> {
        self.taken.take(size(&request, self.requests.last()))?;
        self.requests.push(request);
        Ok(())
    }
}

impl<'a> Encoder<'a> {
    /// `bos` forces or forbids the special tokens; without it version 0.4.0 adds none and later ones ask the tokenizer.
    ///
    /// # Errors
    /// A beginning-of-sequence token that is wanted from a tokenizer without one.
    pub fn new(
        tokenizer: &'a Tokenizer,
        compat: Option<Compat>,
        bos: Option<bool>,
        max_length: usize,
        paper: bool,
    ) -> Result<Self> {
        let old = compat == Some(Compat::V0_4_0);
        let (begin, end) = (tokenizer.bos(), tokenizer.eos());
        let special = match bos {
            Some(true) if begin.is_none() => {
                return Err(Error::request("--bos yes: this model's tokenizer has no beginning-of-sequence token"));
            }
            Some(true) => Special::Always,
            None if !old => Special::Default,
            Some(false) | None => Special::None,
        };
        let prefix = if old { end } else { begin.or(end) };
        let prefix = prefix.map(|id| Ok::<_, Error>((id, tokenizer.decode(&[id], false)?))).transpose()?;
        Ok(Self { tokenizer, special, prefix, once: !old, max_length, paper })
    }

    /// Token ids of a whole string.
    fn tokens(&self, text: &str) -> Result<Vec<u32>> {
        let has = |prefix: &(u32, String)| self.once && text.starts_with(&prefix.1);
        let special = if self.prefix.as_ref().is_some_and(has) { Special::None } else { self.special };
        self.tokenizer.encode(text, special)
    }

    fn prefix(&self) -> Result<u32> {
        self.prefix.as_ref().map(|(id, _)| *id).ok_or_else(|| {
            Error::request(
                "the tokenizer has neither a beginning-of-sequence nor an end-of-sequence token, and there is nothing \
                 else to predict a first token from",
            )
        })
    }

    /// What `document` asks of the model, in memory of which so much is `taken`.
    ///
    /// # Errors
    /// Tokens that leave nothing to score, an answer longer than the model's context, a tokenizer without a token to
    /// start from; requests that take more memory; an interruption.
    pub fn document(&self, document: &AskedDocument, taken: Taken) -> Result<DocumentRequests> {
        let mut asked = DocumentRequests::new(taken);
        let mut last = None;
        for request in &document.requests {
            interrupt::check()?;
            match request {
                Request::LogLikelihood { context, continuation } if self.paper => {
                    self.paper_continuation(&mut asked, context, continuation)
                }
                Request::LogLikelihood { context, continuation } => {
                    self.continuation(&mut asked, &context.text(), continuation, &mut last)
                }
                Request::LogLikelihoodRolling { text } => self.text(&mut asked, text),
                Request::GenerateUntil { context, until, max_gen_toks, draws } => {
                    let each = |sample: usize, draws: &AnswerDraws| Draw {
                        draws: *draws,
                        item: document.id as u64,
                        sample: sample as u64,
                    };
                    let answers = draws.as_ref().map_or(1, |draws| draws.repeats.max(1));
                    (0..answers).try_for_each(|sample| {
                        let draw = draws.as_ref().map(|draws| each(sample, draws));
                        let most = max_gen_toks.unwrap_or(MAX_GEN_TOKS);
                        self.generation(&mut asked, context, ScoredTargets::Until { until, most, draw })
                    })
                }
            }?;
        }
        Ok(asked)
    }

    /// `last` is the context before and its tokens, which the choices of a question share.
    fn continuation(
        &self,
        asked: &mut DocumentRequests,
        context: &str,
        continuation: &str,
        last: &mut Option<(String, Vec<u32>)>,
    ) -> Result<()> {
        if context.is_empty() {
            let tokens = self.tokenizer.encode(continuation, Special::None)?;
            let prefix = self.prefix()?;
            let all = if tokens.first() == Some(&prefix) { tokens } else { [vec![prefix], tokens].concat() };
            return self.push(asked, all, 1);
        }
        // white space at the end of the context is tokenised with the continuation
        let kept = rstrip(context);
        let context_tokens = match last {
            Some((text, tokens)) if text == kept => tokens.clone(),
            _ => self.tokens(kept)?,
        };
        let whole = self.tokens(&format!("{context}{continuation}"))?;
        let mut all = context_tokens.clone();
        all.extend(whole.iter().skip(context_tokens.len()));
        self.push(asked, all, context_tokens.len())?;
        *last = Some((kept.to_owned(), context_tokens));
        Ok(())
    }

    /// The likeliest of the answers' own first words decides: each answer's last token, written with and without a
    /// space in front.
    fn paper_continuation(&self, asked: &mut DocumentRequests, context: &Prompt, continuation: &str) -> Result<()> {
        let input = self.fit(asked, &self.tokens(&context.text())?, self.max_length)?;
        let answer = paper_answer(continuation);
        let mut ids = Vec::new();
        for text in [answer.clone(), format!(" {answer}")] {
            let id = self.tokenizer.encode(&text, Special::None)?.last().copied();
            let id = id.ok_or_else(|| Error::work(format!("the tokenizer makes no token of {text:?}")))?;
            if !ids.contains(&id) {
                ids.push(id);
            }
        }
        asked.add(TokenRequest { from: input.len() - 1, input, targets: ScoredTargets::AnyOf(ids) })
    }

    /// The end of the context, so that as many new tokens as may be have room behind it.
    fn generation(&self, asked: &mut DocumentRequests, context: &Prompt, targets: ScoredTargets) -> Result<()> {
        let most = targets.len();
        let Some(longest) = self.max_length.checked_sub(most).filter(|longest| *longest > 0) else {
            return Err(Error::request(format!(
                "{most} new tokens leave no room for a question in the {} that the model reads at most",
                self.max_length
            )));
        };
        let input = self.fit(asked, &self.tokens(&context.text())?, longest)?;
        asked.add(TokenRequest { from: input.len() - 1, input, targets })
    }

    /// One request: all but the last token go in, those from `context` on are scored.
    fn push(&self, asked: &mut DocumentRequests, tokens: Vec<u32>, context: usize) -> Result<()> {
        let scored = tokens.len().saturating_sub(context);
        if context == 0 || scored == 0 {
            let what = if context == 0 { "context" } else { "answer" };
            return Err(Error::work(format!("the {what} of a question has no token of its own")));
        }
        if scored > self.max_length {
            return Err(Error::work(format!(
                "an answer has {scored} tokens, the model reads at most {}",
                self.max_length
            )));
        }
        let targets = tokens[context..].to_vec();
        let input = self.fit(asked, &tokens[..tokens.len() - 1], self.max_length)?;
        let from = input.len() - targets.len();
        asked.add(TokenRequest { input, from, targets: ScoredTargets::Sequence(targets) })
    }

    /// The last `most` tokens, in one piece of memory with the previous request's input where they are equal.
    fn fit(&self, asked: &mut DocumentRequests, input: &[u32], most: usize) -> Result<Arc<[u32]>> {
        let skipped = input.len().saturating_sub(most);
        asked.truncated = asked.truncated.max(skipped);
        let input = &input[skipped..];
        if input.is_empty() {
            return Err(Error::work("a prompt has no tokens"));
        }
        Ok(match asked.requests.last() {
            Some(last) if *last.input == *input => last.input.clone(),
            _ => Arc::from(input),
        })
    }

    /// Disjoint windows; each but the first starts with the last token of the one before.
    fn text(&self, asked: &mut DocumentRequests, text: &str) -> Result<()> {
        let mut all = if self.paper { self.tokenizer.encode(text, Special::None)? } else { self.tokens(text)? };
        if all.is_empty() {
            return Ok(());
        }
        let prefix = self.prefix()?;
        all.insert(0, prefix);
        let tokens = &all[1..];
        // the reference predicts a special token in front of the text too
        let own = self.prefix.as_ref().is_some_and(|(_, prefix)| text.starts_with(prefix));
        asked.lead = tokens.first() == Some(&prefix) && !own;
        for window in windows(tokens.len(), self.max_length) {
            // `tokens[i]` is `all[i + 1]`, so a window reads one place to the left of what it predicts
            let input: Arc<[u32]> = Arc::from(&all[window.reads.clone()]);
            let mut predicts = window.predicts.clone();
            let from = predicts.start - window.reads.start;
            if window.predicts.start == 0 && asked.lead {
                let targets = ScoredTargets::Sequence(vec![tokens[0]]);
                asked.add(TokenRequest { input: input.clone(), from, targets })?;
                predicts.start += 1;
            }
            if !predicts.is_empty() {
                let targets = ScoredTargets::Sequence(tokens[predicts.clone()].to_vec());
                let from = predicts.start - window.reads.start;
                asked.add(TokenRequest { input, from, targets })?;
            }
        }
        Ok(())
    }
}

/// The scripts ask for `Yes` and `No`, without a space in front; letters are letters.
pub(super) fn paper_answer(continuation: &str) -> String {
    let mut chars = continuation.strip_prefix(' ').unwrap_or(continuation).chars();
    chars.next().map(|first| first.to_uppercase().chain(chars).collect()).unwrap_or_default()
}

/// A window of a text of known length: positions in the text with a prefix in front that it reads, and positions in
/// the text that it predicts.
#[derive(Debug, PartialEq, Eq)]
struct Window {
    reads: Range<usize>,
    predicts: Range<usize>,
}

/// The reference's rolling windows with one token of context: the last, short one reads as much as fits.
fn windows(tokens: usize, longest: usize) -> impl Iterator<Item = Window> {
    (0..tokens).step_by(longest.max(1)).map(move |done| {
        let end = done.saturating_add(longest).min(tokens);
        Window { reads: end.saturating_sub(longest)..end, predicts: done..end }
    })
}

#[cfg(test)]
mod tests;
