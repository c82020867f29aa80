//! A sample of text, as commands that measure on some are told of it.

use super::open;
use crate::arch::ModelSpec;
use crate::checkpoint::Checkpoint;
use crate::data::{BadRow, Purpose, SequenceOptions, Sequences, Shape, SourceOptions, TextSplit, Tokenizer};
use crate::model::Budget;
use crate::progress::Progress;
use crate::{Error, Result};

/// Sequence length where neither the user nor the model says less.
const SEQ_LEN: usize = 2048;

/// The length of sequences: what the user says, or what the model was made for.
pub(super) fn seq_len(asked: Option<usize>, spec: &ModelSpec, progress: &dyn Progress) -> usize {
    let seq_len = asked.unwrap_or(SEQ_LEN.min(spec.max_positions));
    if seq_len > spec.max_positions {
        progress.warn(&format!(
            "--seq-len {seq_len} is longer than the {} positions the model was made for",
            spec.max_positions
        ));
    }
    seq_len
}

/// Which text, and what of it.
pub(super) struct SampleText<'a> {
    pub(super) data: Option<&'a str>,
    pub(super) field: &'a str,
    pub(super) split: TextSplit,
    pub(super) on_bad_row: BadRow,
    /// How many sequences the user asks for, and how many there are where he does not say.
    pub(super) samples: (Option<usize>, usize),
    pub(super) shape: Shape,
    pub(super) seed: Option<u64>,
}

impl SampleText<'_> {
    /// Reads it, in the tokens of `checkpoint`'s tokenizer.
    ///
    /// # Errors
    /// Request: no text is named, or there is none of that name. Work: it cannot be read.
    pub(super) fn read(&self, checkpoint: &Checkpoint, host: Budget, progress: &dyn Progress) -> Result<Sequences> {
        let data = self.data.ok_or_else(|| Error::request("which text? --data names it"))?;
        let options = SourceOptions {
            field: self.field.to_owned(),
            split: self.split,
            on_bad_row: self.on_bad_row,
            ..SourceOptions::default()
        };
        let source = open::text(data, Purpose::Measure, &options, host, progress)?;
        let tokenizer = Tokenizer::open(&checkpoint.source.dir)?;
        let (asked, usual) = self.samples;
        let samples = asked.unwrap_or(usual);
        let options = SequenceOptions { samples: Some(samples), shape: self.shape, seed: self.seed };
        let sequences = Sequences::read(&source, &tokenizer, &options, progress)?;
        if asked.is_some() && sequences.tally.sequences < samples as u64 {
            progress.warn(&format!("--samples {samples}: {data} has text for {}", sequences.tally.sequences));
        }
        Ok(sequences)
    }
}
