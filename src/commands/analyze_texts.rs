//! The texts of an analysis: read one after the other, as each by itself would be.

use std::ops::Range;

use super::analyze_settings::AnalyzeSettings;
use super::sample_text::SampleText;
use crate::checkpoint::Checkpoint;
use crate::data::Shape;
use crate::importance::DataUsed;
use crate::methods::Search;
use crate::model::Budget;
use crate::progress::Progress;
use crate::{Context, Error, Result};

/// Sequences of a text where the user does not say. The paper took 10,000; the standard errors say whether fewer will
/// do.
const SAMPLES: usize = 1000;

/// Texts as sequences of tokens.
pub(super) struct Texts {
    /// The sequences of all, one text after the other.
    pub(super) rows: Vec<Vec<u32>>,
    /// What of each text is used.
    pub(super) used: Vec<DataUsed>,
    /// Which of the sequences are whose.
    pub(super) ranges: Vec<Range<usize>>,
}

impl Texts {
    /// Reads what `settings` name, each within `host`.
    ///
    /// # Errors
    /// As [`SampleText::read`].
    pub(super) fn read(
        settings: &AnalyzeSettings,
        seq_len: usize,
        checkpoint: &Checkpoint,
        host: Budget,
        progress: &dyn Progress,
    ) -> Result<Self> {
        let AnalyzeSettings { packing, separator, attention, .. } = *settings;
        let mut texts = Self { rows: Vec::new(), used: Vec::new(), ranges: Vec::new() };
        for source in &settings.data {
            let text = SampleText {
                data: Some(source),
                field: &settings.text_field,
                split: settings.text_split,
                on_bad_row: settings.on_bad_row,
                samples: (settings.samples, SAMPLES),
                shape: Shape { seq_len, packing, separator, attention, ..Shape::default() },
                seed: settings.seed,
            };
            let sequences = text.read(checkpoint, host, progress)?;
            texts.used.push(DataUsed {
                source: source.clone(),
                samples: sequences.rows.len(),
                tokens: sequences.tally.tokens,
                seq_len,
                seed: settings.seed.unwrap_or(0),
            });
            texts.ranges.push(texts.rows.len()..texts.rows.len() + sequences.rows.len());
            texts.rows.extend(sequences.rows);
        }
        Ok(texts)
    }

    /// Whether there are several.
    pub(super) fn are_several(&self) -> bool {
        self.used.len() > 1
    }

    /// Source and sequences of each.
    pub(super) fn each(&self) -> impl Iterator<Item = (&str, &[Vec<u32>])> {
        let rows = |range: &Range<usize>| &self.rows[range.clone()];
        self.used.iter().zip(&self.ranges).map(move |(used, range)| (used.source.as_str(), rows(range)))
    }

    /// What of all is used.
    pub(super) fn together(&self) -> DataUsed {
        let sources: Vec<&str> = self.used.iter().map(|used| used.source.as_str()).collect();
        let of = |count: fn(&DataUsed) -> u64| self.used.iter().map(count).sum::<u64>();
        DataUsed {
            source: sources.join(", "),
            samples: self.rows.len(),
            tokens: of(|used| used.tokens),
            seq_len: self.used.first().map_or(0, |used| used.seq_len),
            seed: self.used.first().map_or(0, |used| used.seed),
        }
    }

    /// Tokens of the largest text, and of the longest sequence: one text is measured at a time.
    pub(super) fn largest(&self) -> (usize, usize) {
        let tokens = self.used.iter().map(|used| used.tokens as usize).max().unwrap_or(0);
        (tokens, self.rows.iter().map(Vec::len).max().unwrap_or(0))
    }

    /// Refuses several texts, on which candidates are to be run, one of which has nothing to predict.
    ///
    /// # Errors
    /// Work: names it.
    pub(super) fn check_predictable(&self) -> Result<()> {
        let is_bare = |(_, rows): &(&str, &[Vec<u32>])| rows.iter().all(|row| row.len() < 2);
        match self.each().find(is_bare).filter(|_| self.are_several()) {
            Some((source, _)) => {
                Err(Error::work("no sample has two tokens: there is nothing to predict")).context(|| source)
            }
            None => Ok(()),
        }
    }

    /// Layers that `search` computes for each token beside what the scores are made of, at most.
    pub(super) fn passes(&self, search: &Search, layers: usize, most: usize) -> Result<usize> {
        search.passes_over(self.used.len(), layers, most, self.rows.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(rows: &[Vec<usize>]) -> Texts {
        let mut texts = Texts { rows: Vec::new(), used: Vec::new(), ranges: Vec::new() };
        for (number, lengths) in rows.iter().enumerate() {
            let tokens = lengths.iter().sum::<usize>() as u64;
            let (source, samples) = (format!("text {number}"), lengths.len());
            texts.used.push(DataUsed { source, samples, tokens, seq_len: 64, seed: 3 });
            texts.ranges.push(texts.rows.len()..texts.rows.len() + samples);
            texts.rows.extend(lengths.iter().map(|length| vec![5; *length]));
        }
        texts
    }

    #[test]
    fn several_are_one_after_the_other() {
        let both = texts(&[vec![4, 1], vec![1, 9, 2]]);
        assert_eq!(both.each().map(|(_, rows)| rows.len()).collect::<Vec<_>>(), [2, 3]);
        let all = both.together();
        assert_eq!((all.source.as_str(), all.samples, all.tokens, all.seed), ("text 0, text 1", 5, 17, 3));
        assert_eq!(both.largest(), (12, 9));
        both.check_predictable().unwrap();
    }

    #[test]
    fn a_text_with_nothing_to_predict_is_named() {
        let error = texts(&[vec![4, 1], vec![1, 1]]).check_predictable().unwrap_err();
        assert!(error.exit_code() == 1 && error.to_string().starts_with("text 1: no sample"), "{error}");
        // of one text whoever measures says it
        texts(&[vec![1]]).check_predictable().unwrap();
    }
}
