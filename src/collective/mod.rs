//! The processes that do one piece of work together.
//!
//! Healing: a step's sequences are packed into micro-batches, each process computes a run of neighbours among them, and
//! the gradients are added up one micro-batch after the other, in their order. So the same step gives the same bytes
//! whatever the number of processes: a sum of floating point numbers hangs on its order, and the order is fixed.
//!
//! Evaluating: passes of questions are shared out, and what comes of each is told to process 0, which keeps it as if it
//! had computed it itself.
//!
//! Several are a [`ProcessGroup`]: the launcher's variables say which of how many this one is ([`Launched`]), a thread
//! sends and receives, process 0 leads. What it saves and writes is all there is of the work: the others get what they
//! need from it, and a run may go on with another number of them.
//!
//! # Add a transport
//! One file or folder here with a type that implements [`Transport`], and a place for it in [`ProcessGroup::start`].
//! `tests/it/heal/together.rs` trains on one process and on several over the transport of the tests and compares bytes.

mod agree;
mod alone;
mod chain;
mod group;
mod launcher;
mod message;
#[cfg(feature = "mpi")]
mod mpi;
mod post;
mod sums;
mod tcp;
mod transport;

pub use agree::{Members, RANK_TIMEOUT, check_rank_timeout, is_patient};
pub use alone::Alone;
pub use group::ProcessGroup;
pub use launcher::Launched;
pub(crate) use sums::add;
pub use sums::{Gradients, PassLoss, Sums};
pub use tcp::Meeting;
pub use transport::Transport;

use std::ops::Range;
use std::time::Duration;

use crate::{Error, Result};

/// Some processes, numbered from 0, of which this is one. All make the same steps on the same sequences.
pub trait Collective: Sync {
    /// The number of this process.
    fn rank(&self) -> usize;

    /// How many there are.
    fn size(&self) -> usize;

    /// Adds up what every process computed of a step: `own` has one entry for each micro-batch of [`share`], in order,
    /// or, of process 0, their sum. The sum goes over all micro-batches in their order, and every process has it: where
    /// it was where one is alone, else in main memory.
    ///
    /// # Errors
    /// Work: a process that is gone. What another one met. Interrupted.
    fn sum(&self, own: Vec<Sums>) -> Result<Sums>;

    /// Gives every process what process 0 has; what the others give is not looked at.
    ///
    /// # Errors
    /// As [`Collective::sum`].
    fn broadcast(&self, own: Vec<u8>) -> Result<Vec<u8>>;

    /// Lets process 0 wait until all others have come here.
    ///
    /// # Errors
    /// As [`Collective::sum`].
    fn gather(&self) -> Result<()>;
}

impl ProcessGroup {
    /// Joins the other processes that the launcher has started: over MPI where this build has it and the launcher too,
    /// else over TCP. One that is not heard of for `patience` is taken for dead.
    ///
    /// # Errors
    /// Request: nothing says where they meet. Work: they do not meet.
    pub fn start(launched: &Launched, patience: Duration) -> Result<Self> {
        let launched = launched.clone();
        #[cfg(feature = "mpi")]
        if launched.has_mpi() {
            return Self::join(move || mpi::open(&launched), patience);
        }
        let Launched { launcher, size, said, meeting, .. } = &launched;
        let Some(meeting) = meeting.clone() else {
            let or_mpi = if launched.has_mpi() { ", build prune with --features mpi" } else { "" };
            return Err(Error::request(format!(
                "{launcher} has started {size} processes ({said}), and nothing says where they meet: set MASTER_ADDR to \
                 the machine of process 0 and MASTER_PORT to a port that is free there{or_mpi}, or start one process; \
                 as they are each would do the same alone"
            )));
        };
        Self::join(move || tcp::open(&launched, &meeting, patience), patience)
    }
}

/// Bytes that process `rank` of `size` sends in a step of `trained` numbers, the messages' heads apart: sums of f32 up
/// the chain of processes, and down again.
#[must_use]
pub fn sent_bytes(trained: u64, rank: usize, size: usize) -> u64 {
    let (up, down) = (rank + 1 < size, rank > 0);
    4 * trained * (u64::from(up) + u64::from(down))
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

    /// Llama-2-7B cut to 24 layers, rank 64 on the three matrices of the MLP.
    #[test]
    fn what_a_step_sends() {
        let trained = 24 * 3 * 64 * (4096 + 11008);
        assert_eq!(trained, 69_599_232);
        let sent: Vec<u64> = (0..4).map(|rank| sent_bytes(trained, rank, 4)).collect();
        assert_eq!(sent, [278_396_928, 556_793_856, 556_793_856, 278_396_928]);
        assert_eq!(
            [sent_bytes(trained, 0, 2), sent_bytes(trained, 1, 2), sent_bytes(trained, 0, 1)],
            [sent[0], sent[0], 0]
        );
    }

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
