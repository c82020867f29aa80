//! From the scores of an analysis to its best choice of every size.

use std::ops::Range;

use super::pick::{Candidates, How, Pick, Work, pick};
use super::rerank;
use crate::importance::{
    Analysis, Choice, Draws, Evaluate, Evidence, Metric, Protect, Rise, Scores, Searched, metric, scores_of,
};
use crate::{Context, Error, Result};

/// What to follow.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Search {
    /// Name of a row of [`METRICS`](crate::importance::METRICS).
    pub metric: String,
    /// Name of a row of [`PICKS`](super::PICKS), or the one that suits the metric.
    pub strategy: Option<String>,
    /// Layers that must stay.
    pub protect: Protect,
    /// Length of a short list that is ranked again by its loss.
    pub rerank: Option<usize>,
    /// What is drawn at random.
    pub draws: Draws,
    /// Whether what the loss rises by is measured of the choice of every size.
    pub losses: bool,
    /// Whether questions are asked of the choice of every size.
    pub accuracies: bool,
}

/// Layers that a search computes for each token, at most.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SearchPasses {
    /// Of text.
    pub text: usize,
    /// Of questions.
    pub questions: usize,
}

impl Search {
    /// The metric.
    ///
    /// # Errors
    /// Request: one that is not there.
    pub fn metric(&self) -> Result<&'static Metric> {
        metric(&self.metric)
    }

    /// The pick, after making sure that it goes with the metric.
    ///
    /// # Errors
    /// Request: a metric or pick that is not there, or that do not go together.
    pub fn pick(&self) -> Result<&'static Pick> {
        let pick = pick(self.strategy.as_deref(), metric(&self.metric)?)?;
        self.rerank.map_or(Ok(()), |length| rerank::check(length, pick))?;
        Ok(pick)
    }

    /// Whether it runs candidates beside what the scores are made of, so that it needs the model.
    ///
    /// # Errors
    /// As [`Search::pick`].
    pub fn measures(&self) -> Result<bool> {
        Ok(self.rerank.is_some() || self.losses || self.accuracies || self.pick()?.measures())
    }

    /// Layers that it computes for each token of `texts` sequences and of `questions` questions beside what the scores
    /// are made of, at most, for choices of up to `most` layers of `layers`.
    ///
    /// # Errors
    /// As [`Search::pick`].
    pub fn passes(&self, layers: usize, most: usize, (texts, questions): (usize, usize)) -> Result<SearchPasses> {
        let metric = self.metric()?;
        let asks = metric.value.asks_questions();
        let work = Work { layers, most, texts: if asks { questions } else { texts }, draws: &self.draws };
        let listed = self.rerank.map_or(0, |length| layers + (1..=most).map(|n| length * (layers - n)).sum::<usize>());
        let all = layers + (1..=most).map(|n| layers - n).sum::<usize>();
        let picked = self.pick()?.passes(metric, &work);
        let (of_text, of_questions) = if asks { (0, picked) } else { (picked, 0) };
        Ok(SearchPasses {
            text: listed + if self.losses { all } else { 0 } + of_text,
            questions: of_questions + if self.accuracies { all } else { 0 },
        })
    }

    /// [`Search::passes`] over several texts, of `sequences` in all: each searches by itself, all do together, and what
    /// was found is run on every text.
    ///
    /// # Errors
    /// As [`Search::pick`].
    pub fn passes_over(
        &self,
        texts: usize,
        layers: usize,
        most: usize,
        (sequences, questions): (usize, usize),
    ) -> Result<SearchPasses> {
        let once = self.passes(layers, most, (sequences, questions))?;
        if texts < 2 || !(self.rerank.is_some() || self.pick()?.measures()) {
            return Ok(SearchPasses { text: once.text * texts.clamp(1, 2), ..once });
        }
        let parts = metric(&self.metric)?.subject.unit().per_layer();
        let found: usize = (1..=most * parts).map(|n| (texts + 1) * (layers * parts - n)).sum();
        Ok(SearchPasses { text: 2 * once.text + layers + found.div_ceil(parts), ..once })
    }

    /// The best choice of every size from the `scores` of a model of `layers` layers.
    ///
    /// # Errors
    /// As [`Search::pick`]; Request: nothing left to drop, no scores of that metric, a pick that measures as it goes,
    /// or a short list.
    pub fn run(&self, scores: &[Scores], layers: usize) -> Result<Searched> {
        if self.rerank.is_some() || self.losses || self.accuracies {
            return Err(Error::request("choices are measured: that needs the model, and text or questions"));
        }
        self.by_scores(scores, layers, &mut |_, _| Ok(()))
    }

    /// The best choices by their scores, and what is made of them.
    fn by_scores(
        &self,
        scores: &[Scores],
        layers: usize,
        then: &mut dyn FnMut(&Candidates<'_>, &mut [Choice]) -> Result<()>,
    ) -> Result<Searched> {
        let (metric, pick) = (metric(&self.metric)?, self.pick()?);
        let allowed = in_units(&self.protect.allowed(layers), metric);
        self.protect.check(layers, None)?;
        let candidates = Candidates { metric, scores: scores_of(scores, metric.name)?, allowed: &allowed };
        let mut best = pick.choose_all(&candidates)?;
        then(&candidates, &mut best)?;
        Ok(self.searched(best, pick))
    }

    /// [`Search::run`], measuring more where the pick asks for it: then up to `most` layers, or all that may go.
    ///
    /// # Errors
    /// As [`Search::run`], and those of the measurements.
    pub fn run_with(&self, evidence: &mut dyn Evidence, scores: &[Scores], most: Option<usize>) -> Result<Searched> {
        let (pick, layers) = (self.pick()?, evidence.layers());
        self.protect.check(layers, most)?;
        let How::Search { search, .. } = pick.how else {
            let metric = metric(&self.metric)?;
            let parts = metric.subject.unit().per_layer();
            return self.by_scores(scores, layers, &mut |candidates, best| {
                // of the size that is asked for, or of all
                let sizes = most.map_or(1..best.len() + 1, |n| n * parts..n * parts + 1);
                if let Some(length) = self.rerank {
                    rerank::rerank(evidence, (pick, candidates), best, length, sizes)?;
                }
                self.measure_choices(evidence, best)
            });
        };
        let allowed = self.protect.allowed(layers);
        let most = most.unwrap_or_else(|| allowed.len().min(layers - 1));
        let metric = metric(&self.metric)?;
        let most = most * metric.subject.unit().per_layer();
        let mut best = search(evidence, metric, &in_units(&allowed, metric), most, &self.draws)?;
        self.measure_choices(evidence, &mut best)?;
        Ok(self.searched(best, pick))
    }

    /// What is measured of each choice beside its score.
    fn measure_choices(&self, evidence: &mut dyn Evidence, best: &mut [Choice]) -> Result<()> {
        self.measure_losses(evidence, best)?;
        if !self.accuracies {
            return Ok(());
        }
        let sets: Vec<Vec<usize>> = best.iter().map(|choice| choice.drop.clone()).collect();
        let found = rerank::accuracies(evidence, metric(&self.metric)?, &sets)?;
        best.iter_mut().zip(found).for_each(|(choice, kept)| choice.accuracy = Some(kept));
        Ok(())
    }

    /// Measures what the loss rises by without each choice, in one pass, where that is asked for and not known.
    fn measure_losses(&self, evidence: &mut dyn Evidence, best: &mut [Choice]) -> Result<()> {
        if !self.losses {
            return Ok(());
        }
        let (metric, pick) = (metric(&self.metric)?, self.pick()?);
        // the score of such a choice is what the loss rises by without it
        let is_known = matches!(metric.value, Evaluate::Loss) && !matches!(pick.how, How::Layers(_));
        if is_known {
            best.iter_mut().for_each(|choice| choice.loss = Some(Rise { mean: choice.score, stderr: choice.stderr }));
        }
        let mut unknown: Vec<&mut Choice> = best.iter_mut().filter(|choice| choice.loss.is_none()).collect();
        let sets: Vec<Vec<usize>> = unknown.iter().map(|choice| choice.drop.clone()).collect();
        let found = if sets.is_empty() { Vec::new() } else { rerank::losses(evidence, metric, &sets)? };
        unknown.iter_mut().zip(found).for_each(|(choice, rise)| choice.loss = Some(rise));
        Ok(())
    }

    fn searched(&self, best: Vec<Choice>, pick: &Pick) -> Searched {
        Searched {
            metric: self.metric.clone(),
            strategy: pick.name.to_owned(),
            protect_first: self.protect.first,
            protect_last: self.protect.last,
            rerank: self.rerank,
            best,
        }
    }
}

/// These layers, in the units that `metric` is about.
fn in_units(layers: &Range<usize>, metric: &Metric) -> Range<usize> {
    let parts = metric.subject.unit().per_layer();
    layers.start * parts..layers.end * parts
}

/// Searches an analysis again, by another metric, pick or protection. A plan from before is gone.
///
/// # Errors
/// As [`Search::run`].
pub fn search(analysis: &mut Analysis, search: &Search) -> Result<()> {
    // what was measured as it was picked stands as it is
    let found = &analysis.search;
    let is_same = search.searched(Vec::new(), search.pick()?) == Searched { best: Vec::new(), ..found.clone() };
    let is_beside = |choice: &Choice| choice.loss.is_some() || choice.accuracy.is_some();
    let is_measured = search.measures()? || found.best.iter().any(is_beside);
    let layers = analysis.model.layers;
    if is_same && is_measured {
        analysis.follow(found.clone());
    } else if analysis.texts.is_empty() {
        analysis.follow(search.run(&analysis.scores, layers)?);
    } else {
        let texts: Vec<&[Scores]> = analysis.texts.iter().map(|text| &text.scores[..]).collect();
        let found = search.over_texts(&texts, &analysis.scores, layers, None, None)?;
        analysis.follow(found.together);
        analysis.agreement = found.agreement;
        analysis.texts.iter_mut().zip(found.each).for_each(|(text, own)| text.best = own.best);
    }
    Ok(())
}

/// Refuses an analysis, which may be anyone's, whose search is none that this program has.
///
/// # Errors
/// Request: names it.
pub fn check(analysis: &Analysis) -> Result<()> {
    let followed = metric(&analysis.search.metric).and_then(|metric| pick(Some(&analysis.search.strategy), metric));
    followed.map(drop).context(|| "\"search\"")
}
