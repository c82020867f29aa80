//! The variants of a run, sorted by what was cut.

use super::super::run::{RunData, Score, ScoreColumn, Variant};
use crate::plan::Dropped;

/// One cut: the model right after it, and healed.
#[derive(Clone, Copy, Debug)]
pub(super) struct Cut<'a> {
    pub(super) strategy: Option<&'a str>,
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
        let (strategy, dropped) = (variant.strategy.as_deref(), &variant.dropped);
        let is_free = |cut: &Cut<'_>| {
            (cut.strategy, cut.dropped) == (strategy, dropped) && cut.state(variant.is_healed).is_none()
        };
        let place = cuts.iter().position(is_free).unwrap_or(cuts.len());
        if place == cuts.len() {
            cuts.push(Cut { strategy, dropped, bare: None, healed: None });
        }
        *if variant.is_healed { &mut cuts[place].healed } else { &mut cuts[place].bare } = Some(variant);
    }
    cuts
}

/// Strategies in the order of the run.
pub(super) fn strategies(data: &RunData) -> Vec<Option<&str>> {
    let mut found = Vec::new();
    for variant in &data.variants {
        if !found.contains(&variant.strategy.as_deref()) {
            found.push(variant.strategy.as_deref());
        }
    }
    found
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
