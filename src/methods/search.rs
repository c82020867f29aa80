//! From the scores of an analysis to its best choice of every size.

use super::pick::{Candidates, Pick, pick};
use crate::importance::{Analysis, Protect, Scores, Searched, metric, scores_of};
use crate::{Context, Result};

/// What to follow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Search {
    /// Name of a row of [`METRICS`](crate::importance::METRICS).
    pub metric: String,
    /// Name of a row of [`PICKS`](super::PICKS), or the one that suits the metric.
    pub strategy: Option<String>,
    /// Layers that must stay.
    pub protect: Protect,
}

impl Search {
    /// The pick, after making sure that it goes with the metric.
    ///
    /// # Errors
    /// Request: a metric or pick that is not there, or that do not go together.
    pub fn pick(&self) -> Result<&'static Pick> {
        pick(self.strategy.as_deref(), metric(&self.metric)?)
    }

    /// The best choice of every size from the `scores` of a model of `layers` layers.
    ///
    /// # Errors
    /// As [`Search::pick`]; Request: nothing left to drop, no scores of that metric.
    pub fn run(&self, scores: &[Scores], layers: usize) -> Result<Searched> {
        let (metric, pick) = (metric(&self.metric)?, self.pick()?);
        let allowed = self.protect.allowed(layers);
        self.protect.check(layers, None)?;
        let candidates = Candidates { metric, scores: scores_of(scores, metric.name)?, allowed: &allowed };
        Ok(Searched {
            metric: metric.name.to_owned(),
            strategy: pick.name.to_owned(),
            protect_first: self.protect.first,
            protect_last: self.protect.last,
            best: pick.choose_all(&candidates)?,
        })
    }
}

/// Searches an analysis again, by another metric, pick or protection. A plan from before is gone.
///
/// # Errors
/// As [`Search::run`].
pub fn search(analysis: &mut Analysis, search: &Search) -> Result<()> {
    let searched = search.run(&analysis.scores, analysis.model.layers)?;
    analysis.follow(searched);
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
