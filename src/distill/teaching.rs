//! A teacher is asked about the sequences that a healing will see.

use std::collections::HashSet;

use candle_core::Tensor;

use super::cache::{CacheWriter, CachedSequences};
use crate::data::marked::{digest, learned};
use crate::data::{TextMixture, Tokenizer};
use crate::model::{Batch, Model, Observer, Residency, tokens_of_a_batch};
use crate::ops::{TopTokens, top_tokens};
use crate::progress::{Progress, Silent, Unit};
use crate::{Error, Result, interrupt};

/// Numbers of logits that exist at one time, 64 MiB of them.
const LOGITS: usize = 16 << 20;

/// Sequences that are asked about between two times that what was said is kept: more of a model that is read from disk
/// each time.
#[must_use]
pub fn group(residency: Residency) -> usize {
    if residency == Residency::Resident { 16 } else { 512 }
}

impl CachedSequences {
    /// The sequences that differ among the first `count` of `mixture`, and whether these are all it has.
    ///
    /// # Errors
    /// Those of the texts. Interrupted.
    pub fn of(
        mixture: &mut TextMixture,
        tokenizer: &Tokenizer,
        count: u64,
        progress: &dyn Progress,
    ) -> Result<(Self, bool)> {
        let (mut found, mut known) = (Self { keys: Vec::new(), first: vec![0] }, HashSet::new());
        progress.begin("reading the text", count, Unit::Items);
        for _ in 0..count {
            interrupt::check()?;
            for row in mixture.take(tokenizer, 1)?.iter().filter(|row| learned(row) > 0) {
                let key = digest(row);
                if known.insert(key) {
                    found.keys.push(key);
                    found.first.push(found.rows() + learned(row) as u64);
                }
            }
            progress.advance(1);
            if mixture.position().passes() > 0 {
                progress.end();
                return Ok((found, true));
            }
        }
        progress.end();
        Ok((found, false))
    }
}

/// A teacher, and what it is asked.
#[derive(Debug)]
pub struct Teaching<'a> {
    /// The teacher.
    pub model: &'a Model,
    /// What is asked about.
    pub sequences: &'a CachedSequences,
    /// Likeliest tokens of each row.
    pub k: usize,
    /// Softens its distributions.
    pub temperature: f64,
    /// Sequences at a time.
    pub group: usize,
}

impl Teaching<'_> {
    /// Asks from sequence number `done` on; `mixture` gives them in their order from its start, and `kept` hears how
    /// many are done each time that more are on the disk.
    ///
    /// # Errors
    /// Work: a text that changed meanwhile, logits that are not finite, a full disk. Interrupted; what is kept stays.
    pub fn run(
        &self,
        (mixture, tokenizer): (&mut TextMixture, &Tokenizer),
        writer: &mut CacheWriter,
        done: usize,
        kept: &mut dyn FnMut(usize) -> Result<()>,
        progress: &dyn Progress,
    ) -> Result<()> {
        let (mut next, mut waiting) = (0, Vec::<Vec<u32>>::new());
        progress.begin("teaching", self.sequences.rows(), Unit::Tokens);
        progress.skip(self.sequences.first[done]);
        while next < self.sequences.len() {
            for row in mixture.take(tokenizer, 1)? {
                if next < self.sequences.len() && self.sequences.keys[next] == digest(&row) {
                    next += 1;
                    if next > done {
                        waiting.push(row);
                    }
                }
            }
            if mixture.position().passes() > 1 {
                return Err(Error::work("the text changed since it was read first"));
            }
            if !waiting.is_empty() && (waiting.len() >= self.group || next == self.sequences.len()) {
                let first = next - waiting.len();
                writer.keep(self.sequences.first[first], &self.ask(&waiting)?)?;
                kept(next)?;
                progress.advance(self.sequences.first[next] - self.sequences.first[first]);
                waiting.clear();
            }
        }
        progress.end();
        Ok(())
    }

    /// What the teacher says of `rows`.
    fn ask(&self, rows: &[Vec<u32>]) -> Result<TopTokens> {
        let batches = Batch::pack(rows, tokens_of_a_batch(self.model.device()))?;
        let said = TopTokens { k: self.k, ..TopTokens::default() };
        let mut asking = Asking { of: self, batches: &batches, said };
        self.model.run(&batches, &mut asking, "teaching", &Silent)?;
        Ok(asking.said)
    }
}

/// Looks at what leaves the last layer.
struct Asking<'a> {
    of: &'a Teaching<'a>,
    batches: &'a [Batch],
    said: TopTokens,
}

impl Observer for Asking<'_> {
    fn residual(&mut self, batch: usize, place: usize, x: &Tensor) -> Result<()> {
        let Teaching { model, k, temperature, .. } = *self.of;
        if place < model.layers() {
            return Ok(());
        }
        let targets = self.batches[batch].targets();
        let rows: Vec<u32> = (0..targets.len()).filter(|row| targets[*row].is_some()).map(|row| row as u32).collect();
        for rows in rows.chunks((LOGITS / model.spec().vocab_size).clamp(1, 512)) {
            let x = x.index_select(&Tensor::from_slice(rows, rows.len(), x.device())?, 0)?;
            let top = top_tokens(&model.logits(&x)?, k, temperature)?;
            self.said.ids.extend(top.ids);
            self.said.log_probs.extend(top.log_probs);
            self.said.rest.extend(top.rest);
        }
        Ok(())
    }
}
