//! The sequences of a training run: endless, shuffled, and resumable at any sequence.

use std::collections::VecDeque;

use rand::{RngCore, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::chat::unanswered;
use super::chunk;
use super::documents::{Documents, PassedOver};
use super::pack::{Carry, Packer, Sequence, Shape, Tally};
use super::position::Position;
use super::separate::Ends;
use super::source::TextSource;
use super::tokenizer::Tokenizer;
use crate::{Error, Result};

/// How training reads its text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(default)]
pub struct StreamOptions {
    /// The shape of the sequences.
    pub shape: Shape,
    /// Sequences are shuffled among the `window` that are read together: a source with fewer is shuffled as a whole,
    /// afresh in every epoch. 1 keeps the order of the text.
    pub window: usize,
    /// The shuffle's seed.
    pub seed: u64,
}

impl Default for StreamOptions {
    fn default() -> Self {
        Self { shape: Shape::default(), window: 8192, seed: 0 }
    }
}

/// Token sequences without end: when the source is over, the next epoch begins.
pub struct TrainStream {
    source: TextSource,
    options: StreamOptions,
    ends: Ends,
    documents: Documents,
    /// Documents tokenised ahead of the window's end.
    ahead: VecDeque<(bool, Vec<u32>)>,
    window: Vec<Sequence>,
    position: Position,
    /// Where the window after this one starts.
    following: Position,
    tally: Tally,
    passed_over: PassedOver,
}

impl TrainStream {
    /// A stream from its start, or from a saved `position` of the same source, tokenizer and options.
    ///
    /// # Errors
    /// [`Error::Request`] for an impossible shape; [`Error::Work`] when the source is broken or has too little text.
    pub fn new(
        source: &TextSource,
        tokenizer: &Tokenizer,
        options: StreamOptions,
        position: Option<Position>,
    ) -> Result<Self> {
        Self::at(source, tokenizer, options, position, false)
    }

    /// [`TrainStream::new`] for a source that may have changed since `position` was saved: goes on at the same document
    /// and sequence, or, where there are no longer so many, with the next epoch or window.
    ///
    /// # Errors
    /// As [`TrainStream::new`], but for what a change leads to.
    pub(crate) fn on_changed(
        source: &TextSource,
        tokenizer: &Tokenizer,
        options: StreamOptions,
        position: Option<Position>,
    ) -> Result<Self> {
        Self::at(source, tokenizer, options, position, true)
    }

    fn at(
        source: &TextSource,
        tokenizer: &Tokenizer,
        options: StreamOptions,
        position: Option<Position>,
        changed: bool,
    ) -> Result<Self> {
        options.shape.check()?;
        if options.window == 0 {
            return Err(Error::request("a shuffle window of 0 sequences, expected 1 or more"));
        }
        let position = position.unwrap_or_default();
        position.check(&options.shape, tokenizer)?;
        let mut stream = Self {
            source: source.clone(),
            options,
            ends: Ends::new(&options.shape, tokenizer, source.chat().is_some())?,
            documents: source.documents(),
            ahead: VecDeque::new(),
            window: Vec::new(),
            following: Position { next: 0, ..position.clone() },
            position: Position::default(),
            tally: Tally::default(),
            passed_over: PassedOver::default(),
        };
        for _ in 0..position.document {
            if stream.documents.next().transpose()?.is_none() {
                if changed {
                    stream.following = Position { epoch: position.epoch + 1, ..Position::default() };
                    stream.documents = source.documents();
                    break;
                }
                return Err(Error::work(format!("{}: shorter than when training began", source.name())));
            }
        }
        let next = if stream.following.epoch == position.epoch { position.next } else { 0 };
        stream.fill(tokenizer)?;
        if next > stream.window.len() && !changed {
            return Err(Error::work(format!("{}: other text than when training began", source.name())));
        }
        stream.position.next = next.min(stream.window.len());
        Ok(stream)
    }

    /// The next `count` sequences; where documents do not see each other, a row for each document's part of them.
    ///
    /// # Errors
    /// [`Error::Work`] when the source is broken; [`Error::Interrupted`].
    pub fn take(&mut self, tokenizer: &Tokenizer, count: usize) -> Result<Vec<Vec<u32>>> {
        let mut rows = Vec::new();
        for _ in 0..count {
            if self.position.next == self.window.len() {
                self.fill(tokenizer)?;
            }
            rows.extend_from_slice(&self.window[self.position.next]);
            self.position.next += 1;
        }
        Ok(rows)
    }

    /// Where the next sequence stands.
    pub fn position(&self) -> &Position {
        &self.position
    }

    /// What became of the text read since this stream was made.
    pub fn tally(&self) -> &Tally {
        &self.tally
    }

    /// What gave no document in one pass over the source.
    #[must_use]
    pub fn passed_over(&self) -> &PassedOver {
        let now = self.documents.passed_over();
        let count = |rows: &PassedOver| rows.skipped + rows.lacking;
        if count(now) > count(&self.passed_over) { now } else { &self.passed_over }
    }

    /// Reads the window that starts at `following`.
    fn fill(&mut self, tokenizer: &Tokenizer) -> Result<()> {
        loop {
            self.position = self.following.clone();
            let (tokens, cuts) = (std::mem::take(&mut self.following.carry), std::mem::take(&mut self.following.cuts));
            let carry = Carry { tokens, cuts };
            let mut packer = Packer::new(self.options.shape, self.position.document, carry);
            let ended = self.read(tokenizer, &mut packer)?;
            self.window = packer.ready().drain(..).collect();
            if ended {
                packer.drop_rest();
                self.following = Position { epoch: self.position.epoch + 1, ..Position::default() };
                self.passed_over = self.passed_over().clone();
                self.documents = self.source.documents();
            } else {
                let Carry { tokens, cuts } = packer.carry().clone();
                (self.following.carry, self.following.cuts) = (tokens, cuts);
            }
            self.count(&packer.tally);
            if !self.window.is_empty() {
                self.shuffle();
                return Ok(());
            }
            if self.position.document == 0 && self.tally.unanswered > 0 {
                return Err(unanswered(&self.source, self.options.shape.seq_len));
            }
            if self.position.document == 0 {
                return Err(Error::work(format!(
                    "{}: too little text for one sequence of {} tokens; give more text or a shorter seq_len",
                    self.source.name(),
                    self.options.shape.seq_len
                )));
            }
        }
    }

    /// Gives documents to `packer` until it has a window's worth; true at the end of the source.
    fn read(&mut self, tokenizer: &Tokenizer, packer: &mut Packer) -> Result<bool> {
        while packer.ready().len() < self.options.window {
            if self.ahead.is_empty() {
                let skips = self.options.shape.skips_empty();
                let chunk = chunk::read(&mut self.documents, usize::MAX, skips)?;
                let usable: Vec<bool> = chunk.iter().map(|d| chunk::has_text(d) || !skips).collect();
                self.ahead = usable.into_iter().zip(chunk::encode(tokenizer, self.ends, &chunk, skips)?).collect();
            }
            let Some((usable, tokens)) = self.ahead.pop_front() else { return Ok(true) };
            self.following.document += 1;
            packer.tally.documents += 1;
            if usable {
                packer.take(tokens);
            } else {
                packer.tally.empty += 1;
            }
        }
        Ok(false)
    }

    /// Fisher and Yates, from the seed, the epoch and the window's place: the same window is shuffled the same way by
    /// whoever arrives at it.
    fn shuffle(&mut self) {
        let mut random = ChaCha8Rng::seed_from_u64(self.options.seed);
        random.set_stream(self.position.epoch.rotate_left(32) ^ self.position.document);
        for last in (1..self.window.len()).rev() {
            // the bias of a 64-bit product is below 2^-50 for any window
            let other = (u128::from(random.next_u64()) * (last as u128 + 1)) >> 64;
            self.window.swap(last, other as usize);
        }
    }

    fn count(&mut self, more: &Tally) {
        self.tally.documents += more.documents;
        self.tally.empty += more.empty;
        self.tally.short += more.short;
        self.tally.unanswered += more.unanswered;
        self.tally.truncated += more.truncated;
        self.tally.sequences += more.sequences;
        self.tally.tokens += more.tokens;
        self.tally.dropped_tokens += more.dropped_tokens;
        self.tally.longest = self.tally.longest.max(more.longest);
    }
}

#[cfg(test)]
mod tests {
    use super::super::pack::Packing;
    use super::super::separate::Attention;
    use super::super::source::SourceOptions;
    use super::super::tokenizer::tests::{bytes, without_bos};
    use super::*;

    fn source(documents: usize) -> (tempfile::TempDir, TextSource) {
        let directory = tempfile::tempdir().unwrap();
        for (file, name) in ["a.jsonl", "b.jsonl"].iter().enumerate() {
            let lines: Vec<String> = (0..documents)
                .filter(|i| i % 2 == file)
                .map(|i| {
                    let text = if i % 10 == 3 { String::new() } else { format!("{i:04}{}", "x".repeat(i % 7)) };
                    serde_json::json!({ "text": text }).to_string()
                })
                .collect();
            std::fs::write(directory.path().join(name), lines.join("\n")).unwrap();
        }
        let source = TextSource::open(directory.path(), &SourceOptions::default()).unwrap();
        (directory, source)
    }

    fn options(packing: Packing, window: usize) -> StreamOptions {
        StreamOptions { shape: Shape { seq_len: 8, packing, ..Shape::default() }, window, seed: 5 }
    }

    #[test]
    fn every_epoch_holds_the_same_sequences_in_another_order() {
        let (tokenizer, (_directory, source)) = (bytes(), source(700));
        for packing in [Packing::Document, Packing::Packed] {
            let mut stream = TrainStream::new(&source, &tokenizer, options(packing, 100_000), None).unwrap();
            let length = stream.window.len();
            assert_eq!(stream.tally().empty, 70);
            if packing == Packing::Document {
                assert_eq!(length, 630);
            }
            let mut epochs: Vec<Vec<Vec<u32>>> = (0..2).map(|_| stream.take(&tokenizer, length).unwrap()).collect();
            assert_ne!(epochs[0], epochs[1]);
            assert_eq!(stream.position().epoch, 1);
            epochs.iter_mut().for_each(|epoch| epoch.sort());
            assert_eq!(epochs[0], epochs[1]);
        }
    }

    #[test]
    fn a_window_of_one_keeps_the_order_of_the_text() {
        let (tokenizer, (_directory, source)) = (bytes(), source(40));
        let mut stream = TrainStream::new(&source, &tokenizer, options(Packing::Document, 1), None).unwrap();
        let first: Vec<String> =
            stream.take(&tokenizer, 4).unwrap().iter().map(|row| bytes().decode(&row[1..5], true).unwrap()).collect();
        assert_eq!(first, ["0000", "0002", "0004", "0006"]);
    }

    #[test]
    fn a_resumed_stream_goes_on_where_it_stopped() {
        let (tokenizer, (_directory, source)) = (bytes(), source(700));
        for packing in [Packing::Document, Packing::Packed, Packing::RunClm] {
            for window in [1, 7, 64, 8192] {
                let options = options(packing, window);
                let mut whole = TrainStream::new(&source, &tokenizer, options, None).unwrap();
                let mut positions = Vec::new();
                let mut rows = Vec::new();
                for _ in 0..300 {
                    positions.push(whole.position().clone());
                    rows.extend(whole.take(&tokenizer, 5).unwrap());
                }
                assert!(whole.position().epoch >= 1);
                for start in (0..300).step_by(23) {
                    let saved = serde_json::to_string(&positions[start]).unwrap();
                    let position = serde_json::from_str(&saved).unwrap();
                    let mut resumed = TrainStream::new(&source, &tokenizer, options, Some(position)).unwrap();
                    let expected = &rows[5 * start..rows.len().min(5 * start + 40)];
                    let resumed = resumed.take(&tokenizer, expected.len()).unwrap();
                    assert_eq!(resumed, expected, "{packing:?} {window} {start}");
                }
            }
        }
    }

    #[test]
    fn a_resumed_stream_cuts_documents_where_it_did() {
        let (tokenizer, (_directory, source)) = (without_bos(), source(300));
        for window in [1, 7, 8192] {
            let mut options = options(Packing::Packed, window);
            options.shape.attention = Attention::Within;
            let mut whole = TrainStream::new(&source, &tokenizer, options, None).unwrap();
            let (mut positions, mut rows) = (Vec::new(), Vec::new());
            for _ in 0..60 {
                positions.push((whole.position().clone(), rows.len()));
                rows.extend(whole.take(&tokenizer, 5).unwrap());
            }
            assert!(rows.iter().any(|row| row.len() < 8) && rows.iter().all(|row| (2..=8).contains(&row.len())));
            for (position, start) in positions.into_iter().step_by(7) {
                let position = serde_json::from_str(&serde_json::to_string(&position).unwrap()).unwrap();
                let mut resumed = TrainStream::new(&source, &tokenizer, options, Some(position)).unwrap();
                let resumed = resumed.take(&tokenizer, 10).unwrap();
                assert!(rows[start..].starts_with(&resumed) || rows.len() < start + resumed.len(), "{window} {start}");
            }
        }
    }

    #[test]
    fn a_place_that_no_text_has_is_refused() {
        let (tokenizer, (_directory, source)) = (bytes(), source(9));
        let at = |packing, carry: &[u32], cuts: &[usize]| {
            let position = Position { carry: carry.to_vec(), cuts: cuts.to_vec(), ..Position::default() };
            TrainStream::new(&source, &tokenizer, options(packing, 10), Some(position)).err()
        };
        let least = options(Packing::Packed, 10).shape.seq_len as u32;
        assert!(at(Packing::Packed, &[5, 6], &[1, 1, 2]).is_none());
        let long: Vec<u32> = (0..least).collect();
        for (packing, carry, cuts) in [
            (Packing::Packed, &long[..], &[][..]),
            (Packing::Packed, &[5, 6], &[2, 1]),
            (Packing::Packed, &[5, 6], &[0]),
            (Packing::Packed, &[5, 6], &[3]),
            (Packing::Document, &[5], &[]),
        ] {
            let message = at(packing, carry, cuts).unwrap().to_string();
            assert!(message.contains("saved place in the text"), "{message}");
        }
    }

    #[test]
    fn too_little_text_and_changed_text_are_errors() {
        let (tokenizer, (_directory, source)) = (bytes(), source(1));
        let mut long = options(Packing::Packed, 10);
        long.shape.seq_len = 100;
        assert!(
            TrainStream::new(&source, &tokenizer, long, None).err().unwrap().to_string().contains("too little text")
        );
        let gone = Position { document: 5, ..Position::default() };
        let message = TrainStream::new(&source, &tokenizer, options(Packing::Document, 10), Some(gone))
            .err()
            .unwrap()
            .to_string();
        assert!(message.contains("shorter than when training began"), "{message}");
        let gone = Position { document: 5, next: 3, ..Position::default() };
        let changed = |position| {
            TrainStream::on_changed(&source, &tokenizer, options(Packing::Document, 10), Some(position)).unwrap()
        };
        assert_eq!(
            (changed(gone).position().epoch, changed(Position { next: 5, ..Position::default() }).position().next),
            (1, 1)
        );
        let far = Position { next: 5, ..Position::default() };
        assert!(TrainStream::new(&source, &tokenizer, options(Packing::Document, 10), Some(far)).is_err());
    }
}
