//! Thresholded merges: neighbouring layers become one, as long as the final states stay alike. How many go follows from
//! the threshold.
//!
//! A merge is RDSC, θ + Σ (θ_k - θ) over the layers k that follow, with θ as it was before (LaCo, arXiv 2402.11187,
//! eq. 1). Both published programs add in place, so that the sum telescopes to the last layer's weights.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;

use serde::Serialize;

use super::{How, Pick};
use crate::{Error, Result};

const COST: &str = "a pass of the model for each merge that is tried";

pub(super) const LACO: Pick = Pick {
    name: "laco",
    about: "C neighbouring layers become one, from the top down, where the final states stay alike",
    how: How::Merging { merge: laco, cost: COST },
};

pub(super) const SLIDING: Pick = Pick {
    name: "sliding",
    about: "a window of layers becomes one; it grows downwards as long as the final states stay alike",
    how: How::Merging { merge: sliding, cost: COST },
};

/// What bounds the merges.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct MergeBounds {
    /// A merge stays that leaves the final states more alike than this, T.
    pub threshold: f64,
    /// Layers that become one at a time, C; windows have any size.
    pub layers: usize,
    /// Layers to go down by after a merge that stays, I.
    pub interval: usize,
}

/// A layer that is a sum of layers of the source.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct LayerSum {
    /// The one whose norms it has.
    pub base: usize,
    /// What the projections of each layer are taken times.
    pub terms: BTreeMap<usize, f64>,
}

/// A merge that was tried.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct MergeTrial {
    /// Layers of the source that were to be one.
    pub layers: Vec<usize>,
    /// How alike the final states were then.
    pub similarity: f64,
    /// Whether it stays.
    pub stays: bool,
}

/// What came of the merges.
#[derive(Clone, Debug, PartialEq)]
pub struct MergedStack {
    /// The new stack.
    pub stack: Vec<LayerSum>,
    /// How it came about.
    pub trials: Vec<MergeTrial>,
}

/// How alike the final states of a stack are to those of the model.
pub type Similarity<'a> = dyn FnMut(&[LayerSum]) -> Result<f64> + 'a;

impl LayerSum {
    /// Layer `l` as it is.
    fn of(l: usize) -> Self {
        Self { base: l, terms: BTreeMap::from([(l, 1.0)]) }
    }

    /// Whether it is a layer as it is.
    #[must_use]
    pub fn is_copy(&self) -> bool {
        *self == Self::of(self.base)
    }

    /// The first of `layers` and what the others differ from it by.
    fn merged(layers: &[Self]) -> Self {
        let others = layers.len() as f64 - 1.0;
        let mut terms = BTreeMap::new();
        for (at, layer) in layers.iter().enumerate() {
            let factor = if at == 0 { 1.0 - others } else { 1.0 };
            layer.terms.iter().for_each(|(l, times)| *terms.entry(*l).or_insert(0.0) += factor * times);
        }
        // the base stays named, though it may be taken no times
        Self { base: layers[0].base, terms }
    }

    fn layers(layers: &[Self]) -> Vec<usize> {
        layers.iter().flat_map(|layer| layer.terms.keys().copied()).collect()
    }
}

fn whole(layers: usize) -> Vec<LayerSum> {
    (0..layers).map(LayerSum::of).collect()
}

/// `stack` with the layers at `places` as one.
fn with_merged(stack: &[LayerSum], places: RangeInclusive<usize>) -> Vec<LayerSum> {
    let mut merged = stack[..*places.start()].to_vec();
    merged.push(LayerSum::merged(&stack[places.clone()]));
    merged.extend_from_slice(&stack[places.end() + 1..]);
    merged
}

/// LaCo, algorithm 1, over all layers.
fn laco(bounds: &MergeBounds, layers: usize, similarity: &mut Similarity<'_>) -> Result<MergedStack> {
    let MergeBounds { threshold, layers: at_a_time, interval } = *bounds;
    if layers <= at_a_time {
        return Err(Error::request(format!("{at_a_time} layers cannot become one: the model has {layers}")));
    }
    let (mut stack, mut trials) = (whole(layers), Vec::new());
    let mut next = Some(layers - 1 - at_a_time);
    while let Some(low) = next {
        let high = (low + at_a_time).min(stack.len()) - 1;
        let candidate = with_merged(&stack, low..=high);
        let found = similarity(&candidate)?;
        let stays = found > threshold;
        trials.push(MergeTrial { layers: LayerSum::layers(&stack[low..=high]), similarity: found, stays });
        next = low.checked_sub(if stays { interval } else { 1 });
        if stays {
            stack = candidate;
        }
    }
    Ok(MergedStack { stack, trials })
}

/// Sliding Layer Merging, algorithm 1, from the last layer but one down. A window that is open at the end stays, which
/// the published program loses.
fn sliding(bounds: &MergeBounds, layers: usize, similarity: &mut Similarity<'_>) -> Result<MergedStack> {
    if layers < 3 {
        return Err(Error::request(format!("a window slides below the last layer; the model has {layers}")));
    }
    // windows that are closed, the highest first, and below them the one that is tried, of high - below layers
    let (mut closed, mut trials) = (Vec::new(), Vec::new());
    let (mut high, mut below) = (layers - 2, layers - 3);
    loop {
        let tried = below..=high;
        let found = similarity(&windowed(layers, closed.iter().chain([&tried])))?;
        let stays = found > bounds.threshold;
        trials.push(MergeTrial { layers: tried.collect(), similarity: found, stays });
        let open = below + usize::from(!stays)..=high;
        match (stays, below.checked_sub(1)) {
            (true, Some(lower)) => below = lower,
            (false, Some(lower)) if high - below < 2 => (high, below) = (high - 1, lower),
            // the layer that was one too many begins the next window, which alone is what stands already
            (false, Some(lower)) => {
                closed.push(open);
                (high, below) = (below, lower);
            }
            (_, None) => {
                closed.extend(Some(open).filter(|open| open.end() > open.start()));
                return Ok(MergedStack { stack: windowed(layers, closed.iter()), trials });
            }
        }
    }
}

/// Layers `0..layers`, each of the `windows`, the highest first, as one.
fn windowed<'a>(layers: usize, windows: impl Iterator<Item = &'a RangeInclusive<usize>>) -> Vec<LayerSum> {
    windows.fold(whole(layers), |stack, window| with_merged(&stack, window.clone()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How alike a stack is, by the layers that are merged in it.
    fn by_groups(table: &'static [(&'static [usize], f64)]) -> impl FnMut(&[LayerSum]) -> Result<f64> {
        move |stack| {
            let merged = stack.iter().filter(|layer| !layer.is_copy());
            let merged: Vec<usize> = merged.flat_map(|layer| layer.terms.keys().copied()).collect();
            Ok(table.iter().find(|(group, _)| *group == merged).map_or(0.0, |(_, found)| *found))
        }
    }

    fn tried(found: &MergedStack) -> Vec<(Vec<usize>, bool)> {
        found.trials.iter().map(|trial| (trial.layers.clone(), trial.stays)).collect()
    }

    const BOUNDS: MergeBounds = MergeBounds { threshold: 0.5, layers: 3, interval: 1 };

    #[test]
    fn laco_merges_what_was_merged() {
        let mut similarity = by_groups(&[(&[2, 3, 4], 0.6), (&[1, 2, 3, 4, 5], 0.51)]);
        let found = laco(&BOUNDS, 6, &mut similarity).unwrap();
        // 2, 3, 4 first; then 1, that and 5
        let expected = [(vec![2, 3, 4], true), (vec![1, 2, 3, 4, 5], true), (vec![0, 1, 2, 3, 4, 5], false)];
        assert_eq!(tried(&found), expected);
        let merged = &found.stack[1];
        assert_eq!((found.stack.len(), merged.base), (2, 1));
        assert_eq!(merged.terms, BTreeMap::from([(1, -1.0), (2, -1.0), (3, 1.0), (4, 1.0), (5, 1.0)]));
        assert!(found.stack[0].is_copy());
        let wide = MergeBounds { interval: 3, ..BOUNDS };
        assert_eq!(tried(&laco(&wide, 6, &mut by_groups(&[(&[2, 3, 4], 0.6)])).unwrap()), expected[..1]);
        assert!(laco(&BOUNDS, 3, &mut by_groups(&[])).unwrap_err().to_string().contains("3 layers cannot become one"));
    }

    #[test]
    fn windows_slide() {
        let table: &[(&[usize], f64)] = &[(&[4, 5], 0.9), (&[3, 4, 5], 0.8), (&[1, 2, 3, 4, 5], 0.7)];
        let found = sliding(&BOUNDS, 7, &mut by_groups(table)).unwrap();
        let expected = [
            (vec![4, 5], true),
            (vec![3, 4, 5], true),
            (vec![2, 3, 4, 5], false),
            (vec![1, 2], true),
            (vec![0, 1, 2], false),
        ];
        assert_eq!(tried(&found), expected);
        let bases: Vec<usize> = found.stack.iter().map(|layer| layer.base).collect();
        assert_eq!(bases, [0, 1, 3, 6]);
        assert_eq!(found.stack[2].terms, BTreeMap::from([(3, -1.0), (4, 1.0), (5, 1.0)]));
        // a window that is open at the end stays
        let found = sliding(&BOUNDS, 4, &mut by_groups(&[(&[1, 2], 0.9), (&[0, 1, 2], 0.8)])).unwrap();
        assert_eq!(found.stack.iter().map(|layer| layer.base).collect::<Vec<_>>(), [0, 3]);
        // nothing alike, nothing merged; what is no number does not stay
        for nothing in [0.0, f64::NAN] {
            let found = sliding(&BOUNDS, 5, &mut |_| Ok(nothing)).unwrap();
            assert_eq!(found.stack, whole(5));
            assert_eq!(found.trials.len(), 3);
        }
        assert!(sliding(&BOUNDS, 2, &mut |_| Ok(1.0)).is_err());
    }
}
