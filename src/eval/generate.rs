//! Lets a model answer in its own words, several requests at a time, and cuts the answers where the reference does.

use std::ops::Range;

use candle_core::{Device, Tensor};

use super::passes::{ScoredTargets, TokenRequest};
use super::request::{Completion, FinishReason, Written};
use crate::checkpoint::Checkpoint;
use crate::data::{Tokenizer, end_tokens, repetition_penalty};
use crate::model::{
    Drawer, Ended, Growing, Model, Speaker, Together, Wanted, likeliest_of, penalized, repeats_from, shared,
};
use crate::progress::Progress;
use crate::{Context, Error, Result};

/// Requests that are answered together at most, and tokens that those have room for, unless one alone has more. A GPU
/// is busy with more.
pub(super) fn most_together(device: &Device) -> (usize, usize) {
    if device.is_cuda() { (64, 64 * 1024) } else { (16, 16 * 1024) }
}

/// Tokens that a request needs room for: those it reads, and those it may be answered with.
pub(super) fn room(request: &TokenRequest) -> Option<usize> {
    match request.targets {
        ScoredTargets::Until { most, .. } => Some(request.input.len() + most),
        ScoredTargets::Sequence(_) | ScoredTargets::AnyOf(_) => None,
    }
}

/// Which of the requests in `groups` are answered together: the longest first, `most` at most, as many as `tokens` have
/// room for.
#[must_use]
pub fn batches(requests: &[TokenRequest], groups: &[Range<usize>], (most, tokens): (usize, usize)) -> Vec<Vec<usize>> {
    let rooms = groups.iter().cloned().flatten().filter_map(|index| Some((index, room(&requests[index])?)));
    let mut rooms: Vec<(usize, usize)> = rooms.collect();
    rooms.sort_by_key(|(index, room)| (std::cmp::Reverse(*room), *index));
    let (mut batches, mut taken) = (Vec::<Vec<usize>>::new(), 0);
    for (index, room) in rooms {
        match batches.last_mut().filter(|batch| batch.len() < most && taken + room <= tokens) {
            Some(batch) => batch.push(index),
            None => {
                batches.push(vec![index]);
                taken = 0;
            }
        }
        taken += room;
    }
    batches
}

/// How tokens become text, and where that ends.
#[derive(Debug)]
pub struct Endings {
    tokenizer: Tokenizer,
    /// Tokens that end every text.
    ids: Vec<u32>,
    /// The text of the tokenizer's own, which the reference adds to a task's.
    text: Option<String>,
    /// What keeps the model from repeating itself, where its files say so.
    penalty: Option<f64>,
}

impl Endings {
    /// Of the model in `checkpoint`, which `tokenizer` is of.
    ///
    /// # Errors
    /// A broken file of the checkpoint.
    pub fn new(tokenizer: Tokenizer, checkpoint: &Checkpoint) -> Result<Self> {
        let mut ids = end_tokens(&checkpoint.source.dir, &tokenizer)?;
        ids.extend(tokenizer.eos());
        let text = tokenizer.eos().map(|id| tokenizer.decode(&[id], false)).transpose()?;
        Ok(Self { tokenizer, ids, text, penalty: repetition_penalty(&checkpoint.source.dir)? })
    }

    /// The tokens that end every text.
    pub(super) fn ids(&self) -> &[u32] {
        &self.ids
    }

    /// What keeps the model from repeating itself.
    pub(super) fn penalty(&self) -> Option<f64> {
        self.penalty
    }

    fn stops<'a>(&'a self, until: &'a [&'a str]) -> impl Iterator<Item = &'a str> {
        until.iter().copied().chain(self.text.as_deref()).filter(|stop| !stop.is_empty())
    }

    /// Whether one of `until` was said, special tokens read as text.
    fn is_over(&self, ids: &[u32], until: &[&str]) -> Result<bool> {
        let said = self.tokenizer.decode(ids, false)?;
        Ok(self.stops(until).any(|stop| said.contains(stop)))
    }

    /// What was said before the first of `until`.
    fn answer(&self, ids: &[u32], until: &[&str]) -> Result<String> {
        let said = self.tokenizer.decode(ids, true)?;
        Ok(self.stops(until).fold(said.as_str(), |said, stop| said.split(stop).next().unwrap_or(said)).to_owned())
    }
}

/// What the model answers to `requests`, one of [`batches`], by the likeliest tokens or by drawn ones, those that stand
/// there already made less likely where the model's files say so. What is drawn does not depend on the requests beside
/// it. `name` says which document a request belongs to.
///
/// # Errors
/// The model's; a request of another kind.
pub fn generate(
    model: &Model,
    endings: &Endings,
    requests: &[&TokenRequest],
    name: &dyn Fn(usize) -> String,
    progress: &dyn Progress,
) -> Result<Vec<Completion>> {
    let (mut until, mut prompts, mut drawers) = (Vec::new(), Vec::new(), Vec::new());
    for (item, request) in requests.iter().enumerate() {
        let ScoredTargets::Until { until: texts, most, draw } = &request.targets else {
            return Err(Error::work("a request that is scored, not answered"));
        };
        until.push(*texts);
        drawers.push(draw.map(|draw| draw.params().drawer()).transpose()?);
        prompts.push(Wanted { item, prompt: request.input.to_vec(), most: *most });
    }
    // a draw near the border of two tokens would fall otherwise for the last bits of a probability
    let alike = drawers.iter().any(Option::is_some);
    // examples that stand before every question are read once
    let shared = if alike { 0 } else { shared(&prompts) };
    let together = Together { most: prompts.len(), ends: &endings.ids, alike, shared };
    let said = vec![(Vec::new(), FinishReason::Stop); requests.len()];
    let mut answering = Answering { endings, until: &until, drawers, said, progress };
    let said = model.generate_each(&mut prompts.into_iter(), together, &mut answering);
    said.context(|| if let [_] = requests { name(0) } else { format!("{} and others", name(0)) })?;
    let completion = |((ids, finish_reason), until): (&(Vec<u32>, FinishReason), &&[&str])| {
        let repeated_suffix = repeats_from(ids).is_some();
        let written = Written { tokens: ids.len(), finish_reason: *finish_reason, repeated_suffix };
        Ok(Completion { text: endings.answer(ids, until)?, written: Some(written) })
    };
    answering.said.iter().zip(&until).map(completion).collect()
}

/// Answers by the likeliest tokens or by drawn ones, up to what a task says ends them.
struct Answering<'a> {
    endings: &'a Endings,
    until: &'a [&'a [&'a str]],
    /// Of the answers that are drawn.
    drawers: Vec<Option<Drawer>>,
    said: Vec<(Vec<u32>, FinishReason)>,
    progress: &'a dyn Progress,
}

impl Speaker for Answering<'_> {
    fn choose(&mut self, texts: &[Growing], logits: &Tensor) -> Result<Vec<u32>> {
        if self.drawers.iter().all(Option::is_none) {
            return likeliest_of(texts, logits, self.endings.penalty);
        }
        let logits = logits.to_device(&Device::Cpu)?;
        let mut tokens = Vec::with_capacity(texts.len());
        for (row, text) in texts.iter().enumerate() {
            let logits = penalized(text, &logits.get(row)?, self.endings.penalty)?;
            tokens.push(match self.drawers.get_mut(text.wanted.item).and_then(Option::as_mut) {
                Some(drawer) => drawer.draw(&logits)?,
                None => logits.argmax(0)?.to_scalar::<u32>()?,
            });
        }
        Ok(tokens)
    }

    fn goes_on(&mut self, text: &Growing) -> Result<bool> {
        self.progress.advance(1);
        Ok(!self.endings.is_over(&text.said, self.until[text.wanted.item])?)
    }

    fn is_over(&mut self, text: Growing, ended: Ended) -> Result<()> {
        // what was not said was not needed
        self.progress.advance((text.wanted.most - text.said.len()) as u64);
        let finish_reason = match ended {
            Ended::EndOfText => FinishReason::Stop,
            Ended::Length => FinishReason::Length,
        };
        self.said[text.wanted.item] = (text.said, finish_reason);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    fn request(input: usize, most: usize) -> TokenRequest {
        let until: &[&str] = &["w9"];
        TokenRequest {
            input: Arc::from(vec![1; input]),
            from: input - 1,
            targets: ScoredTargets::Until { until, most, draw: None },
        }
    }

    #[test]
    #[allow(clippy::single_range_in_vec_init, reason = "groups of requests are ranges")]
    fn the_longest_first_and_no_more_than_fits() {
        let scored = TokenRequest { targets: ScoredTargets::Sequence(vec![2]), ..request(3, 1) };
        let all = [request(10, 5), request(40, 5), scored, request(20, 5), request(10, 5)];
        assert_eq!(batches(&all, &[0..5], (16, 50)), [vec![1], vec![3, 0], vec![4]]);
        assert_eq!(batches(&all, &[0..3], (16, 1)), [[1], [0]], "one alone whatever it takes");
        assert_eq!(
            batches(&vec![request(1, 1); 40], &[0..40], (16, 1000)).iter().map(Vec::len).collect::<Vec<_>>(),
            [16, 16, 8]
        );
        assert!(batches(&all, &[2..3], (16, 50)).is_empty());
    }

    #[test]
    fn answers_end_before_the_first_stop() {
        let dir = tempfile::tempdir().unwrap();
        let vocab: serde_json::Map<_, _> = (0..9).map(|word| (format!("w{word}"), word.into())).collect();
        let tokenizer = serde_json::json!({
            "version": "1.0", "added_tokens": [], "normalizer": null, "pre_tokenizer": {"type": "WhitespaceSplit"},
            "post_processor": null, "decoder": null,
            "model": {"type": "WordLevel", "vocab": vocab, "unk_token": "w0"},
        });
        std::fs::write(dir.path().join("tokenizer.json"), tokenizer.to_string()).unwrap();
        let tokenizer = Tokenizer::open(dir.path()).unwrap();
        let endings = Endings { tokenizer, ids: Vec::new(), text: Some("w7".to_owned()), penalty: None };
        let until = ["w5 w6", ""];
        for (ids, over, answer) in [
            (&[1, 2, 5][..], false, "w1 w2 w5"),
            (&[1, 2, 5, 6], true, "w1 w2 "),
            (&[1, 7, 5, 6, 1], true, "w1 "),
            (&[6, 5], false, "w6 w5"),
        ] {
            assert_eq!(
                (endings.is_over(ids, &until).unwrap(), endings.answer(ids, &until).unwrap().as_str()),
                (over, answer)
            );
        }
    }
}
