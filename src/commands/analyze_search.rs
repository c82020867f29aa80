//! The scores of an analysis and the search in them, with what is kept of both while they are made.

use std::ops::Range;
use std::sync::Arc;

use candle_core::Device;
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};

use super::analyze_texts::Texts;
use crate::checkpoint::{Checkpoint, Workplace, content_hash};
use crate::eval::questions::TaskQuestions;
use crate::importance::{
    self, Agreement, DataUsed, Evidence, Journal, Measured, MeasuredOn, Metric, OfText, PartOf, Recalled, Scores,
    Searched, Shared, Sources, Unfinished,
};
use crate::methods::{OverTexts, Running, Search};
use crate::model::Model;
use crate::progress::Progress;
use crate::{Context, Result, ops};

/// The scores of one text: which of the sequences are its, and these.
type MeasureText<'a> = dyn FnMut(Range<usize>, &[Vec<u32>]) -> Result<Vec<Scores>> + 'a;

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
    /// Measures `model` on `texts` what `kept` does not know yet.
    pub(super) fn of(
        &self,
        model: &Model,
        (texts, questions): (&Texts, Option<&TaskQuestions>),
        (kept, shared): (Option<&mut Kept>, Option<Shared<'_>>),
        progress: &dyn Progress,
    ) -> Result<Found> {
        if !self.searches {
            let scores = self.each(texts, progress, &mut |range, sequences| {
                let sources = Sources { asked: None, shared: shared.map(|shared| (shared, range)) };
                importance::measure_with(model, self.measured, sequences, sources, progress)
            })?;
            let scores = self.with_questions(scores, model, (questions, shared), progress)?;
            return self.found(texts, scores, model.layers(), None);
        }
        let mut measured = match questions {
            Some(questions) => Measured::asking(model, &texts.rows, questions, progress)?,
            None => Measured::new(model, &texts.rows, progress)?,
        }
        .together(shared);
        let mut recalled;
        let (evidence, work): (&mut dyn Evidence, _) = match kept {
            None => (&mut measured, None),
            Some(Kept { work, journal }) => {
                recalled = Recalled::new(&mut measured, journal);
                (&mut recalled, Some(&*work))
            }
        };
        // the scores of all texts, one text after the other
        let all = self.measured.repeat(texts.used.len().max(1));
        let scores = match work.and_then(|work| work.scores(&all, model.layers())) {
            Some(scores) => scores.chunks(self.measured.len()).map(<[Scores]>::to_vec).collect(),
            None => {
                let scores = self.each(texts, progress, &mut |range, sequences| {
                    let mut part;
                    let evidence: &mut dyn Evidence = match texts.are_several() {
                        false => &mut *evidence,
                        true => {
                            part = PartOf::new(&mut *evidence, range.clone());
                            &mut part
                        }
                    };
                    let asked = Some((evidence, &self.search.draws));
                    let sources = Sources { asked, shared: shared.map(|shared| (shared, range)) };
                    importance::measure_with(model, self.measured, sequences, sources, progress)
                })?;
                let scores = self.with_questions(scores, model, (questions, shared), progress)?;
                work.map_or(Ok(()), |work| work.keep_scores(&scores.concat()))?;
                scores
            }
        };
        self.found(texts, scores, model.layers(), Some(evidence))
    }

    /// `scores` with those of questions, which go with one text at most, in the order of the table.
    fn with_questions(
        &self,
        mut scores: Vec<Vec<Scores>>,
        model: &Model,
        (questions, shared): (Option<&TaskQuestions>, Option<Shared<'_>>),
        progress: &dyn Progress,
    ) -> Result<Vec<Vec<Scores>>> {
        if let (Some(questions), Some(own)) = (questions, scores.last_mut()) {
            let asked = (questions as _, shared.as_ref());
            own.extend(importance::measure_questions(model, self.measured, asked, progress)?);
            own.sort_by_key(|scores| self.measured.iter().position(|metric| metric.name == scores.metric));
        }
        Ok(scores)
    }

    /// What `measure` makes of each text, whose name is told where there are several.
    fn each(&self, texts: &Texts, progress: &dyn Progress, measure: &mut MeasureText<'_>) -> Result<Vec<Vec<Scores>>> {
        if texts.used.is_empty() {
            // the weights, and what is asked
            return Ok(vec![measure(0..0, &[])?]);
        }
        let mut each = Vec::new();
        for ((source, sequences), range) in texts.each().zip(&texts.ranges) {
            let scores = match texts.are_several() {
                false => measure(range.clone(), sequences),
                true => {
                    progress.note(&format!("text {} of {}: {source}", each.len() + 1, texts.used.len()));
                    measure(range.clone(), sequences).context(|| source)
                }
            };
            each.push(scores?);
        }
        Ok(each)
    }

    /// What is searched in the scores of each text.
    fn found(
        &self,
        texts: &Texts,
        mut scores: Vec<Vec<Scores>>,
        layers: usize,
        evidence: Option<&mut dyn Evidence>,
    ) -> Result<Found> {
        if !texts.are_several() {
            let scores = scores.pop().unwrap_or_default();
            let searched = match evidence {
                None => self.search.run(&scores, layers)?,
                Some(evidence) => self.search.run_with(evidence, &scores, self.most)?,
            };
            return Ok(Found { scores, searched, texts: Vec::new(), agreement: Vec::new() });
        }
        let slices: Vec<&[Scores]> = scores.iter().map(Vec::as_slice).collect();
        let all = importance::together(&slices);
        let running = evidence.map(|evidence| Running { evidence, texts: &texts.ranges });
        let OverTexts { each, together, agreement } =
            self.search.over_texts(&slices, &all, layers, running, self.most)?;
        let of_text = |((data, scores), searched): ((&DataUsed, Vec<Scores>), Searched)| OfText {
            data: data.clone(),
            best: searched.best,
            scores,
        };
        let each = texts.used.iter().zip(scores).zip(each).map(of_text).collect();
        Ok(Found { scores: all, searched: together, texts: each, agreement })
    }
}

/// What was measured and searched.
pub(super) struct Found {
    /// The scores; of several texts those of all together.
    pub(super) scores: Vec<Scores>,
    pub(super) searched: Searched,
    /// Each text by itself, where there are several.
    pub(super) texts: Vec<OfText>,
    pub(super) agreement: Vec<Agreement>,
}

/// What an unfinished search goes on from.
pub(super) struct Kept {
    work: Unfinished,
    journal: Journal,
}

impl Kept {
    /// Takes up what lies beside the output that `place` is for, or begins it: a measurement that hangs on `deciding`.
    pub(super) fn open(
        place: &Arc<Workplace>,
        deciding: &Map<String, Value>,
        (texts, questions): (&Texts, Option<&TaskQuestions>),
        progress: &dyn Progress,
    ) -> Result<Self> {
        let work = Unfinished::open(place.clone(), deciding, progress)?;
        let lengths = texts.rows.iter().map(Vec::len).collect();
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
    /// All of it, by name.
    ///
    /// # Errors
    /// Files of the model that cannot be read. Interrupted.
    pub(super) fn map(
        &self,
        (texts, questions): (&Texts, Option<&TaskQuestions>),
        progress: &dyn Progress,
    ) -> Result<Map<String, Value>> {
        let mut deciding = self.settings.clone();
        deciding.retain(|key, _| !HOW_MUCH.contains(&key.as_str()));
        let mut text = Sha256::new();
        for (_, sequences) in texts.each() {
            if texts.are_several() {
                text.update((sequences.len() as u64).to_le_bytes());
            }
            for sequence in sequences {
                text.update((sequence.len() as u64).to_le_bytes());
                sequence.iter().for_each(|id| text.update(id.to_le_bytes()));
            }
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
