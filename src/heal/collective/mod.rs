//! The processes that train one model together.
//!
//! A step's sequences are packed into micro-batches, each process computes a run of neighbours among them, and the
//! gradients are added up one micro-batch after the other, in their order. So the same step gives the same bytes
//! whatever the number of processes: a sum of floating point numbers hangs on its order, and the order is fixed.
//!
//! # Add a transport
//! One file here with a type that implements [`Collective`], and the place in `commands` that chooses it. What it must
//! keep is the order: `tests/it/heal/together.rs` trains on one and on several and compares bytes.

mod alone;

pub use alone::Alone;

use std::ops::Range;

use super::pass::{Gradients, PassLoss, add};
use crate::Result;

/// What some micro-batches of a step gave.
#[derive(Debug, Default)]
pub struct Sums {
    /// The loss, over their targets.
    pub loss: PassLoss,
    /// Gradients by the name of their parameter.
    pub gradients: Gradients,
}

impl Sums {
    /// Adds what the micro-batches that follow gave.
    ///
    /// # Errors
    /// The device's.
    pub fn add(&mut self, next: Self) -> Result<()> {
        self.loss.loss += next.loss.loss;
        self.loss.cross_entropy += next.loss.cross_entropy;
        self.loss.hidden += next.loss.hidden;
        next.gradients.into_iter().try_for_each(|(name, gradient)| add(&mut self.gradients, name, gradient))
    }
}

/// Some processes, numbered from 0, of which this is one. All make the same steps on the same sequences.
pub trait Collective: Sync {
    /// The number of this process.
    fn rank(&self) -> usize;

    /// How many there are.
    fn size(&self) -> usize;

    /// Adds up what every process computed of a step: `own` has one entry for each micro-batch of [`share`], in order.
    /// The sum goes over all micro-batches in their order, and every process has it.
    ///
    /// # Errors
    /// Work: a process that is gone.
    fn sum(&self, own: Vec<Sums>) -> Result<Sums>;
}

/// The micro-batches, of `count`, that process `rank` of `size` computes: neighbours, the first processes one more
/// where they cannot all have as many.
#[must_use]
pub fn share(count: usize, rank: usize, size: usize) -> Range<usize> {
    let (each, more) = (count / size, count % size);
    let first = rank * each + rank.min(more);
    first..first + each + usize::from(rank < more)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_neighbors_and_all_there_is() {
        for (count, size) in [(0, 1), (1, 1), (5, 1), (5, 2), (2, 3), (12, 5)] {
            let all: Vec<usize> = (0..size).flat_map(|rank| share(count, rank, size)).collect();
            assert_eq!(all, (0..count).collect::<Vec<_>>());
            let lengths: Vec<usize> = (0..size).map(|rank| share(count, rank, size).len()).collect();
            assert!(lengths.iter().max().unwrap() - lengths.iter().min().unwrap() <= 1, "{lengths:?}");
        }
    }
}
