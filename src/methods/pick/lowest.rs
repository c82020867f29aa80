//! The n layers that score best one by one, wherever they are.

use super::{Candidates, How, Pick};
use crate::importance::Choice;

pub(super) const PICK: Pick = Pick {
    name: "lowest",
    about: "the n layers that score best one by one, wherever they are",
    how: How::Layers(lowest),
};

fn lowest(candidates: &Candidates<'_>, n: usize) -> Choice {
    let ranked = candidates.ranked(1, candidates.allowed.clone());
    let (dropped, kept) = ranked.split_at(n);
    let sorted = |mut layers: Vec<usize>| {
        layers.sort_unstable();
        layers
    };
    let instead = |other: usize| {
        let mut layers = dropped[..n - 1].to_vec();
        layers.push(other);
        sorted(layers)
    };
    candidates.choice(1, sorted(dropped.to_vec()), dropped[n - 1], kept, instead)
}
