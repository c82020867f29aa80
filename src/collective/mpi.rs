//! Messages over MPI, through the crate `mpi` (rsmpi).

use std::collections::VecDeque;
use std::mem;
use std::time::{Duration, Instant};

use ::mpi::Threading;
use ::mpi::environment::Universe;
use ::mpi::request::{Request, StaticScope};
use ::mpi::topology::SimpleCommunicator;
use ::mpi::traits::{Communicator, Destination, Equivalence, Source};

use super::launcher::Launched;
use super::transport::Transport;
use crate::{Error, Result};

/// How long a message that has begun to come may take when all is done.
const UNREAD: Duration = Duration::from_secs(2);

/// Bytes that MPI reads from or writes to until the request is done; an undone one is never freed.
struct Moving {
    request: Option<Request<'static, [u8], StaticScope>>,
    /// From [`Box::into_raw`].
    bytes: *mut [u8],
    /// Who sent it, or gets it.
    with: usize,
}

impl Moving {
    /// Whether MPI is done with the bytes.
    fn is_done(&mut self) -> bool {
        self.request = self.request.take().and_then(|request| request.test().err());
        self.request.is_none()
    }

    /// The bytes, once MPI is done with them.
    fn into_bytes(self) -> Vec<u8> {
        // SAFETY: made by Box::into_raw and taken back once; nobody else has them as the request is done
        unsafe { Box::from_raw(self.bytes) }.into_vec()
    }
}

/// All processes that MPI started.
struct Mpi {
    universe: Universe,
    world: SimpleCommunicator,
    rank: usize,
    size: usize,
    on_this_machine: usize,
    going: Vec<Moving>,
    coming: VecDeque<Moving>,
}

/// Starts MPI in this thread, in which all is done with it.
///
/// # Errors
/// Work: it runs already. Request: it finds other processes than the launcher says.
pub(super) fn open(launched: &Launched) -> Result<Box<dyn Transport>> {
    let started = ::mpi::initialize_with_threading(Threading::Funneled);
    let (universe, _) = started.ok_or_else(|| Error::work("MPI has been started in this process before"))?;
    let world = universe.world();
    let (rank, size) = (world.rank() as usize, world.size() as usize);
    if (rank, size) != (launched.rank, launched.size) {
        let Launched { launcher, size: expected, .. } = launched;
        return Err(Error::request(format!(
            "{launcher} has started {expected} processes, MPI finds {size}: prune was built with another MPI than the \
             one that starts it; under Slurm srun --mpi=pmix"
        )));
    }
    let on_this_machine = world.split_shared(world.rank()).size() as usize;
    let (going, coming) = (Vec::new(), VecDeque::new());
    Ok(Box::new(Mpi { universe, world, rank, size, on_this_machine, going, coming }))
}

impl Transport for Mpi {
    fn rank(&self) -> usize {
        self.rank
    }

    fn size(&self) -> usize {
        self.size
    }

    fn on_this_machine(&self) -> usize {
        self.on_this_machine
    }

    fn send(&mut self, to: usize, message: Vec<u8>) -> Result<()> {
        let bytes = Box::into_raw(message.into_boxed_slice());
        // SAFETY: the bytes stay where they are, unwritten, until the request is done
        let read: &'static [u8] = unsafe { &*bytes };
        let request = self.world.process_at_rank(to as i32).immediate_send(StaticScope, read);
        self.going.push(Moving { request: Some(request), bytes, with: to });
        Ok(())
    }

    fn receive(&mut self) -> Result<Option<(usize, Vec<u8>)>> {
        while let Some((message, status)) = self.world.any_process().immediate_matched_probe() {
            let size = status.count(u8::equivalent_datatype());
            let size = usize::try_from(size).map_err(|_| Error::work("MPI: a message of no size"))?;
            let bytes = Box::into_raw(vec![0_u8; size].into_boxed_slice());
            // SAFETY: the bytes stay where they are, and nobody looks at them, until the request is done
            let written: &'static mut [u8] = unsafe { &mut *bytes };
            let request = message.immediate_matched_receive_into(StaticScope, written);
            let with = usize::try_from(status.source_rank()).unwrap_or(usize::MAX);
            self.coming.push_back(Moving { request: Some(request), bytes, with });
        }
        // those of a process in the order they were sent in; another's need not wait for them
        let mut is_held_up = vec![false; self.size];
        let first = self.coming.iter_mut().position(|coming| match is_held_up.get_mut(coming.with) {
            Some(is_held_up) => !*is_held_up && (coming.is_done() || mem::replace(is_held_up, true)),
            None => false,
        });
        let come = first.and_then(|first| self.coming.remove(first));
        Ok(come.map(|come| (come.with, come.into_bytes())))
    }

    fn pending(&mut self) -> usize {
        let mut still = Vec::with_capacity(self.going.len());
        for mut going in self.going.drain(..) {
            if going.is_done() {
                drop(going.into_bytes());
            } else {
                still.push(going);
            }
        }
        self.going = still;
        self.going.len()
    }

    fn finish(mut self: Box<Self>) {
        // what has come and is not read is a sign of life
        let started = Instant::now();
        while !self.coming.is_empty() && self.receive().is_ok() {
            if started.elapsed() > UNREAD {
                return self.abandon();
            }
        }
        // MPI_Finalize, which waits for the others
        drop(self.universe);
    }

    fn abandon(self: Box<Self>) {
        // the requests that are not done keep their bytes; MPI_Finalize would wait for processes that are gone
        mem::forget(self);
    }
}
