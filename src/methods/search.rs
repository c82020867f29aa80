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
        Ok(self.rerank.is_some() || self.losses || self.pick()?.measures())
    }

    /// Layers that it computes for each token of `texts` sequences beside what the scores are made of, at most, for
    /// choices of up to `most` layers of `layers`.
    ///
    /// # Errors
    /// As [`Search::pick`].
    pub fn passes(&self, layers: usize, most: usize, texts: usize) -> Result<usize> {
        let work = Work { layers, most, texts, draws: &self.draws };
        let listed = self.rerank.map_or(0, |length| layers + (1..=most).map(|n| length * (layers - n)).sum::<usize>());
        let losses = if self.losses { layers + (1..=most).map(|n| layers - n).sum::<usize>() } else { 0 };
        Ok(listed + losses + self.pick()?.passes(metric(&self.metric)?, &work))
    }

    /// [`Search::passes`] over several texts, of `sequences` in all: each searches by itself, all do together, and what
    /// was found is run on every text.
    ///
    /// # Errors
    /// As [`Search::pick`].
    pub fn passes_over(&self, texts: usize, layers: usize, most: usize, sequences: usize) -> Result<usize> {
        let once = self.passes(layers, most, sequences)?;
        if texts < 2 || !(self.rerank.is_some() || self.pick()?.measures()) {
            return Ok(once * texts.min(2));
        }
        let parts = metric(&self.metric)?.subject.unit().per_layer();
        let found: usize = (1..=most * parts).map(|n| (texts + 1) * (layers * parts - n)).sum();
        Ok(2 * once + layers + found.div_ceil(parts))
    }

    /// The best choice of every size from the `scores` of a model of `layers` layers.
    ///
    /// # Errors
    /// As [`Search::pick`]; Request: nothing left to drop, no scores of that metric, a pick that measures as it goes,
    /// or a short list.
    pub fn run(&self, scores: &[Scores], layers: usize) -> Result<Searched> {
        if self.rerank.is_some() || self.losses {
            return Err(Error::request("losses of choices are measured: that needs the model and text"));
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
                self.measure_losses(evidence, best)
            });
        };
        let allowed = self.protect.allowed(layers);
        let most = most.unwrap_or_else(|| allowed.len().min(layers - 1));
        let metric = metric(&self.metric)?;
        let most = most * metric.subject.unit().per_layer();
        let mut best = search(evidence, metric, &in_units(&allowed, metric), most, &self.draws)?;
        self.measure_losses(evidence, &mut best)?;
        Ok(self.searched(best, pick))
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

/// The most of `layers` layers that can go so that the loss rises by no more than `most_loss`, by the choices of
/// `searched` whose loss is known; sizes are measured one by one, for a larger cut may cost less than a smaller one. A
/// choice that leaves no layer its attention is none.
///
/// # Errors
/// Request: losses that were not measured. Work: no choice is within it; says the least.
pub fn within(searched: &Searched, layers: usize, most_loss: f64) -> Result<usize> {
    let subject = metric(&searched.metric)?.subject;
    let parts = subject.unit().per_layer();
    let attends = |choice: &Choice| {
        let gone = subject.gone(&choice.drop);
        let lacks =
            |layer: usize| gone.layers.contains(&layer) || gone.sublayers.get(&layer).is_some_and(|of| of.attention);
        !(0..layers).all(lacks)
    };
    // whole layers' worth
    let sizes = searched.best.iter().skip(parts - 1).step_by(parts).enumerate();
    let known = sizes.filter(|(_, choice)| attends(choice));
    let known = known.map(|(place, choice)| choice.loss.map(|loss| (place + 1, loss)));
    let Some(known) = known.collect::<Option<Vec<_>>>() else {
        return Err(Error::request(
            "the analysis has not measured the loss of every size: --max-loss with a model does",
        ));
    };
    if let Some((layers, _)) = known.iter().rev().find(|(_, loss)| loss.mean <= most_loss) {
        return Ok(*layers);
    }
    let least = known.iter().min_by(|a, b| a.1.mean.total_cmp(&b.1.mean));
    let (layers, least) = least.ok_or_else(|| Error::work("an analysis without choices"))?;
    let error = least.stderr.map_or_else(String::new, |error| format!(" ± {error:.4}"));
    Err(Error::work(format!(
        "--max-loss {most_loss:+}: cannot be met; the least is {:+.4}{error}, without {layers} of the layers",
        least.mean
    )))
}

/// Searches an analysis again, by another metric, pick or protection. A plan from before is gone.
///
/// # Errors
/// As [`Search::run`].
pub fn search(analysis: &mut Analysis, search: &Search) -> Result<()> {
    // what was measured as it was picked stands as it is
    let found = &analysis.search;
    let is_same = search.searched(Vec::new(), search.pick()?) == Searched { best: Vec::new(), ..found.clone() };
    let is_measured = search.measures()? || found.best.iter().any(|choice| choice.loss.is_some());
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
