//! Depth-pruning methods, as one table: what a method removes, what it looks at, how it picks, what it puts at the
//! seam. `analyze`, `cut`, `run`, the report and `prune methods` read it.
//!
//! # Add a method
//! A method whose metric and pick are there is a row of [`METHODS`] and nothing else. A new metric is a row of
//! [`METRICS`]; a new pick is a file in `methods/pick/` and a line in [`PICKS`].
//!
//! ```
//! use prune::methods::{self, METHODS};
//!
//! let tail = methods::method("tail")?;
//! assert!(METHODS.iter().any(|row| row.name == tail.name));
//! // by place alone: no text, no pass over the model
//! assert_eq!(tail.layers(32, 8)?, Some(24..32));
//! # Ok::<(), prune::Error>(())
//! ```

mod goal;
mod pick;
mod rerank;
mod search;
mod table;
mod texts;

use std::borrow::Cow;
use std::ops::Range;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

pub use goal::{Goal, KeepShare, within};
pub use pick::{
    Candidates, LayerSum, MergeBounds, MergeTrial, MergedStack, PICKS, Pick, Policy, Similarity, Step, Work, pick,
    scored,
};
pub use search::{Search, SearchPasses, check, search};
pub use table::METHODS;
pub use texts::{OverTexts, Running};

use crate::importance::{Analysis, Evaluate, METRICS, Metric, Protect, Searched, metric};
use crate::plan::{Dropped, Plan, PlannedFor};
use crate::{Error, Result};

use pick::How;

/// What goes at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum RemovalUnit {
    /// Neighbouring layers.
    Block,
    /// Single layers, wherever they are.
    Layer,
    /// Attentions and MLPs, wherever they are.
    SubLayer,
}

/// What a method looks at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Follows {
    /// Nothing.
    None,
    /// The scores of this metric.
    Scores(&'static str),
    /// What an analysis follows: the first row of the metrics, and what suits it, unless it was told otherwise.
    Analysis,
}

/// One method, a row of [`METHODS`].
#[derive(Debug)]
pub struct Method {
    /// What `--method` and recipes call it.
    pub name: &'static str,
    /// What it is, in a line.
    pub about: &'static str,
    /// Where it comes from.
    pub reference: &'static str,
    /// What goes at a time.
    pub unit: RemovalUnit,
    /// What it looks at.
    pub follows: Follows,
    /// Name of the row of [`PICKS`].
    pub pick: &'static str,
    /// Layers it keeps whatever they score.
    pub keeps: Protect,
}

/// What is to be taken where nothing speaks for another row, and the row that is: before a refit its choices come
/// within the error of those of searches that take a hundred times as long (`.github/guide/cut.md` has the losses).
pub const BEST: (&str, &str) = ("best", "similarity");

/// The row called `name`, or [`BEST`].
///
/// # Errors
/// Request: no such row; the message lists all.
pub fn method(name: &str) -> Result<&'static Method> {
    let name = if name == BEST.0 { BEST.1 } else { name };
    METHODS.iter().find(|row| row.name == name).ok_or_else(|| {
        let known: Vec<_> = METHODS.iter().map(|row| row.name).chain([BEST.0]).collect();
        Error::request(format!("no method is called {name:?}; there are {}", known.join(", ")))
    })
}

impl Method {
    fn how(&self) -> How {
        PICKS.iter().find(|row| row.name == self.pick).map_or(How::Given, |row| row.how)
    }

    /// Whether it has to see text.
    #[must_use]
    pub fn needs_scores(&self) -> bool {
        self.follows != Follows::None
    }

    /// The metric it follows where nothing else is said; `None` where it looks at no scores.
    #[must_use]
    pub fn metric(&self) -> Option<&'static Metric> {
        match self.follows {
            Follows::None => None,
            Follows::Scores(name) => metric(name).ok(),
            Follows::Analysis => METRICS.first(),
        }
    }

    /// Whether it measures anew at each step, so that it needs the model and not only scores.
    #[must_use]
    pub fn is_searched(&self) -> bool {
        matches!(self.how(), How::Search { .. })
    }

    /// Whether a pass or a few tell what it looks at, not one for each candidate.
    #[must_use]
    pub fn is_cheap(&self) -> bool {
        let asks = |metric: &Metric| metric.value.removes() || matches!(metric.value, Evaluate::Coalitions(_));
        !self.is_searched() && !self.merges() && !self.takes_names() && !self.metric().is_some_and(asks)
    }

    /// What to search an analysis for.
    ///
    /// # Errors
    /// Request: a method that looks at no scores.
    pub fn search(&self, protect: Protect) -> Result<Search> {
        let metric = self.metric().ok_or_else(|| {
            Error::request(format!("method {} needs no analysis: prune cut --method {0} --layers N", self.name))
        })?;
        let Protect { first, last } = self.keeps;
        let protect = Protect { first: first.max(protect.first), last: last.max(protect.last) };
        let (metric, strategy) = (metric.name.to_owned(), Some(self.pick.to_owned()));
        Ok(Search { metric, strategy, protect, ..Search::default() })
    }

    /// The `n` layers that go from `layers`, where their place alone decides.
    ///
    /// # Errors
    /// Request: more than can go.
    pub fn layers(&self, layers: usize, n: usize) -> Result<Option<Range<usize>>> {
        match self.how() {
            How::Place(place) => place(layers, n).map(Some),
            How::Blocks(_) | How::Layers(_) | How::Search { .. } | How::Merging { .. } | How::Given => Ok(None),
        }
    }

    /// Whether the user names the layers.
    #[must_use]
    pub fn takes_names(&self) -> bool {
        matches!(self.how(), How::Given)
    }

    /// Whether it merges layers, as many as its threshold lets go.
    #[must_use]
    pub fn merges(&self) -> bool {
        matches!(self.how(), How::Merging { .. })
    }

    /// The stack that its merges make of `layers` layers, within `bounds`.
    ///
    /// # Errors
    /// Request: a method that merges nothing, too few layers. Those of `similarity`.
    pub fn merge(&self, bounds: &MergeBounds, layers: usize, similarity: &mut Similarity<'_>) -> Result<MergedStack> {
        match self.how() {
            How::Merging { merge, .. } => merge(bounds, layers, similarity),
            _ => Err(Error::request(format!("{} merges no layers", self.name))),
        }
    }

    /// Refuses it where a number of layers has to go, which a threshold does not know.
    ///
    /// # Errors
    /// Request: says what takes it.
    pub fn check_counts(&self) -> Result<()> {
        if self.merges() {
            return Err(Error::request(format!(
                "{0} merges as many layers as its threshold lets go, not a number of them: prune cut --method {0} \
                 --threshold T --data TEXT",
                self.name
            )));
        }
        Ok(())
    }

    /// Refuses an analysis that will not have measured what this looks at.
    ///
    /// # Errors
    /// Request: the metric that is missing.
    pub fn check_measured(&self, measured: &[&Metric]) -> Result<()> {
        match self.follows {
            Follows::Scores(name) if measured.iter().all(|metric| metric.name != name) => Err(Error::request(format!(
                "{} needs scores of {name}, which the analysis does not measure: [analyze] metric = \"{name}\"",
                self.name
            ))),
            _ => Ok(()),
        }
    }

    /// The `n` layers that go from `layers`, by `analysis` where scores decide; 2n sub-layers, where it drops those.
    ///
    /// # Errors
    /// Request: more than can go, no analysis, or one that lacks the metric's scores.
    pub fn dropped(&self, layers: usize, n: usize, analysis: Option<&Analysis>) -> Result<Dropped> {
        if let Some(range) = self.layers(layers, n)? {
            return Ok(range.collect());
        }
        self.followed(analysis)?.best(n)
    }

    /// The plan to drop `n` layers of `model`, by `analysis` where scores decide.
    ///
    /// # Errors
    /// As [`Method::dropped`].
    pub fn plan(&self, model: &PlannedFor, n: usize, analysis: Option<&Analysis>) -> Result<Plan> {
        if let Some(layers) = self.layers(model.layers, n)? {
            return Plan::by_place(model.clone(), layers, self.name);
        }
        let mut analysis = self.followed(analysis)?.into_owned();
        analysis.mark(n)?;
        let mut plan = analysis.plan.ok_or_else(|| Error::work("no plan came of the analysis"))?;
        if self.follows != Follows::Analysis {
            plan.why.insert("method".to_owned(), self.name.into());
        }
        Ok(plan)
    }

    /// Whether the search of `analysis` keeps what this keeps.
    fn is_kept(&self, analysis: &Analysis) -> bool {
        let Protect { first, last } = self.keeps;
        analysis.search.protect_first >= first && analysis.search.protect_last >= last
    }

    /// The analysis, searched as this method does.
    fn followed<'a>(&self, analysis: Option<&'a Analysis>) -> Result<Cow<'a, Analysis>> {
        let name = self.name;
        if !self.needs_scores() {
            return Err(Error::request("method given: name the layers, such as --drop 21-28"));
        }
        let analysis = analysis.ok_or_else(|| {
            Error::request(format!(
                "method {name} chooses by scores: run prune analyze --method {name} -o DIR, then give --plan \
                 DIR/analysis.json"
            ))
        })?;
        let is_followed = Some(analysis.search.metric.as_str()) == self.metric().map(|metric| metric.name);
        if self.follows == Follows::Analysis
            || is_followed && analysis.search.strategy == self.pick && self.is_kept(analysis)
        {
            return Ok(Cow::Borrowed(analysis));
        }
        let mut analysis = analysis.clone();
        let protect = Protect { first: analysis.search.protect_first, last: analysis.search.protect_last };
        search(&mut analysis, &self.search(protect)?)?;
        Ok(Cow::Owned(analysis))
    }

    /// What it costs to know, in a few words.
    #[must_use]
    pub fn cost(&self) -> &'static str {
        cost_of(self.how(), self.metric())
    }
}

/// What it cost to know what a search found, in a few words.
#[must_use]
pub fn cost(searched: &Searched) -> &'static str {
    let how = PICKS.iter().find(|row| row.name == searched.strategy).map_or(How::Given, |row| row.how);
    cost_of(how, metric(&searched.metric).ok())
}

fn cost_of(how: How, metric: Option<&Metric>) -> &'static str {
    match (how, metric) {
        (How::Search { cost, .. } | How::Merging { cost, .. }, _) => cost,
        (_, None) => "nothing",
        (_, Some(metric)) => metric.value.cost(),
    }
}

impl Serialize for Method {
    /// As its name.
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name)
    }
}

impl<'de> Deserialize<'de> for &'static Method {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        let name = String::deserialize(deserializer)?;
        method(&name).map_err(serde::de::Error::custom)
    }
}

impl PartialEq for Method {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name
    }
}

impl Eq for Method {}

#[cfg(test)]
mod tests;
