//! The variants of a run, sorted by what was cut.

use super::super::run::{RunData, Score, ScoreColumn, Variant};
use crate::plan::Dropped;

/// A way to cut: what chose, and what repaired.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Way<'a> {
    pub(super) strategy: Option<&'a str>,
    pub(super) repair: Option<&'a str>,
}

impl<'a> Way<'a> {
    /// That of a model.
    pub(super) fn of(variant: &'a Variant) -> Self {
        Self { strategy: variant.strategy.as_deref(), repair: variant.repair.as_deref() }
    }
}

/// One cut: the model right after it and its repair, and healed.
#[derive(Clone, Copy, Debug)]
pub(super) struct Cut<'a> {
    pub(super) way: Way<'a>,
    pub(super) dropped: &'a Dropped,
    pub(super) bare: Option<&'a Variant>,
    pub(super) healed: Option<&'a Variant>,
}

impl<'a> Cut<'a> {
    /// The model right after the cut, or healed.
    pub(super) fn state(&self, is_healed: bool) -> Option<&'a Variant> {
        if is_healed { self.healed } else { self.bare }
    }

    /// Both models, as far as they are there.
    pub(super) fn models(&self) -> impl Iterator<Item = &'a Variant> {
        self.bare.into_iter().chain(self.healed)
    }
}

/// Every cut, in the order of the run.
pub(super) fn cuts(data: &RunData) -> Vec<Cut<'_>> {
    let mut cuts: Vec<Cut<'_>> = Vec::new();
    for variant in &data.variants {
        let (way, dropped) = (Way::of(variant), &variant.dropped);
        let is_free =
            |cut: &Cut<'_>| (cut.way, cut.dropped) == (way, dropped) && cut.state(variant.is_healed).is_none();
        let place = cuts.iter().position(is_free).unwrap_or(cuts.len());
        if place == cuts.len() {
            cuts.push(Cut { way, dropped, bare: None, healed: None });
        }
        *if variant.is_healed { &mut cuts[place].healed } else { &mut cuts[place].bare } = Some(variant);
    }
    cuts
}

/// What `of` says of the variants, each once, in the order of the run.
fn each<'a, T: PartialEq>(data: &'a RunData, of: impl Fn(&'a Variant) -> T) -> Vec<T> {
    let mut found = Vec::new();
    for one in data.variants.iter().map(of) {
        if !found.contains(&one) {
            found.push(one);
        }
    }
    found
}

/// Ways to cut in the order of the run.
pub(super) fn ways(data: &RunData) -> Vec<Way<'_>> {
    each(data, Way::of)
}

/// Strategies in the order of the run.
pub(super) fn strategies(data: &RunData) -> Vec<Option<&str>> {
    each(data, |variant| variant.strategy.as_deref())
}

/// Repairs in the order of the run, `None` for plain cuts.
pub(super) fn repairs(data: &RunData) -> Vec<Option<&str>> {
    each(data, |variant| variant.repair.as_deref())
}

/// Whether any cut was repaired.
pub(super) fn has_repairs(data: &RunData) -> bool {
    data.variants.iter().any(|variant| variant.repair.is_some())
}

/// Measures that a summary shows, with their places.
pub(super) fn shown(data: &RunData) -> impl Iterator<Item = (usize, &ScoreColumn)> {
    data.measures.iter().enumerate().filter(|(_, measure)| measure.depth == 0)
}

/// A variant's figure of the measure at `place`.
pub(super) fn score(variant: &Variant, place: usize) -> Option<Score> {
    variant.scores.get(place).copied().flatten()
}

/// The share of the model's layers that a variant is without.
pub(super) fn fraction(data: &RunData, variant: &Variant) -> f64 {
    variant.dropped.size().layers() / data.dense.layers.max(1) as f64
}
