//! The scores of an analysis and the search in them, with what is kept of both while they are made.

use std::sync::Arc;

use candle_core::Device;
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};

use crate::checkpoint::{Checkpoint, Workplace, content_hash};
use crate::eval::questions::TaskQuestions;
use crate::importance::{
    self, Evidence, Journal, Measured, MeasuredOn, Metric, Recalled, Scores, Searched, Unfinished,
};
use crate::methods::Search;
use crate::model::Model;
use crate::progress::Progress;
use crate::{Result, ops};

/// What is to be measured of a model.
pub(super) struct Asked<'a> {
    pub(super) search: &'a Search,
    pub(super) measured: &'a [&'static Metric],
    /// Layers to drop at most, where that is known.
    pub(super) most: Option<usize>,
    /// Whether candidates are run one after the other.
    pub(super) searches: bool,
}

impl Asked<'_> {
    /// Measures `model` on `sequences` what `kept` does not know yet.
    pub(super) fn of(
        &self,
        model: &Model,
        (sequences, questions): (&[Vec<u32>], Option<&TaskQuestions>),
        kept: Option<&mut Kept>,
        progress: &dyn Progress,
    ) -> Result<(Vec<Scores>, Searched)> {
        if !self.searches {
            let scores = importance::measure(model, self.measured, sequences, progress)?;
            let scores = self.with_questions(scores, model, questions, progress)?;
            let searched = self.search.run(&scores, model.layers())?;
            return Ok((scores, searched));
        }
        let mut measured = match questions {
            Some(questions) => Measured::asking(model, sequences, questions, progress)?,
            None => Measured::new(model, sequences, progress)?,
        };
        let mut recalled;
        let (evidence, work): (&mut dyn Evidence, _) = match kept {
            None => (&mut measured, None),
            Some(Kept { work, journal }) => {
                recalled = Recalled::new(&mut measured, journal);
                (&mut recalled, Some(&*work))
            }
        };
        let scores = match work.and_then(|work| work.scores(self.measured, model.layers())) {
            Some(scores) => scores,
            None => {
                let by: (&mut dyn Evidence, _) = (&mut *evidence, &self.search.draws);
                let scores = importance::measure_with(model, self.measured, sequences, by, progress)?;
                let scores = self.with_questions(scores, model, questions, progress)?;
                work.map_or(Ok(()), |work| work.keep_scores(&scores))?;
                scores
            }
        };
        let searched = self.search.run_with(evidence, &scores, self.most)?;
        Ok((scores, searched))
    }

    /// `scores` with those of questions, in the order of the table.
    fn with_questions(
        &self,
        mut scores: Vec<Scores>,
        model: &Model,
        questions: Option<&TaskQuestions>,
        progress: &dyn Progress,
    ) -> Result<Vec<Scores>> {
        if let Some(questions) = questions {
            scores.extend(importance::measure_questions(model, self.measured, questions, progress)?);
            scores.sort_by_key(|scores| self.measured.iter().position(|metric| metric.name == scores.metric));
        }
        Ok(scores)
    }
}

/// What an unfinished search goes on from.
pub(super) struct Kept {
    work: Unfinished,
    journal: Journal,
}

impl Kept {
    /// Takes up what lies beside the output that `place` is for, or begins it.
    pub(super) fn open(
        place: &Arc<Workplace>,
        deciding: Deciding<'_>,
        (sequences, questions): (&[Vec<u32>], Option<&TaskQuestions>),
        progress: &dyn Progress,
    ) -> Result<Self> {
        let work = Unfinished::open(place.clone(), &deciding.map((sequences, questions), progress)?, progress)?;
        let lengths = sequences.iter().map(Vec::len).collect();
        let questions = questions.map_or(0, |questions| questions.choices().len());
        let kept = Self { journal: work.journal(MeasuredOn { lengths, questions })?, work };
        if kept.candidates() > 0 {
            let known = kept.candidates();
            progress.note(&format!("going on where an earlier run stopped: {known} candidates are measured"));
        }
        Ok(kept)
    }

    /// Candidates that are measured.
    pub(super) fn candidates(&self) -> usize {
        self.journal.len()
    }

    /// After a failure: what was measured stays.
    pub(super) fn close(self) {
        self.work.close();
    }
}

/// All that a measurement depends on, but the text.
pub(super) struct Deciding<'a> {
    pub(super) settings: &'a Map<String, Value>,
    pub(super) checkpoint: &'a Checkpoint,
    pub(super) device: &'a Device,
}

/// Settings that say how much goes, by which nothing that was measured changes.
const HOW_MUCH: [&str; 6] = ["layers", "fraction", "target", "max_loss", "keep", "rerank"];

impl Deciding<'_> {
    fn map(
        &self,
        (sequences, questions): (&[Vec<u32>], Option<&TaskQuestions>),
        progress: &dyn Progress,
    ) -> Result<Map<String, Value>> {
        let mut deciding = self.settings.clone();
        deciding.retain(|key, _| !HOW_MUCH.contains(&key.as_str()));
        let mut text = Sha256::new();
        for sequence in sequences {
            text.update((sequence.len() as u64).to_le_bytes());
            sequence.iter().for_each(|id| text.update(id.to_le_bytes()));
        }
        let more = [
            ("version", env!("CARGO_PKG_VERSION").to_owned()),
            ("device_is", ops::device_name(self.device)?),
            ("model_is", content_hash(&self.checkpoint.content_files(), progress)?),
            ("text_is", format!("{:x}", text.finalize())),
        ];
        deciding.extend(more.map(|(key, value)| (key.to_owned(), value.into())));
        deciding.extend(questions.map(|questions| ("questions_are".to_owned(), questions.digest().into())));
        Ok(deciding)
    }
}
