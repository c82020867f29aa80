//! Ctrl-C and SIGTERM: long loops look between two steps whether they are to stop, so that they stop at a place to
//! resume from.
//!
//! Nothing of this holds for a process. A piece of work is done under an [`Interrupt`], which any thread may ask for;
//! of two pieces of work beside each other, each has its own.

use std::cell::RefCell;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{RecvTimeoutError, sync_channel};
use std::thread;
use std::time::Duration;

use crate::{Error, Result};

thread_local! {
    /// What this thread works under; `None` is nothing that could be asked for.
    static CURRENT: RefCell<Option<Interrupt>> = const { RefCell::new(None) };
}

/// The wish that a piece of work stop. Clones are the same wish.
#[derive(Clone, Debug, Default)]
pub struct Interrupt(Arc<Wish>);

#[derive(Debug, Default)]
struct Wish {
    asked: AtomicBool,
    /// Of the work that this one is a part of: what stops that stops this.
    whole: Option<Interrupt>,
}

impl Interrupt {
    /// A wish that nobody has.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// A wish that a part of the work under `whole` stop; the rest goes on.
    #[must_use]
    pub fn of_part(whole: &Self) -> Self {
        Self(Arc::new(Wish { asked: AtomicBool::new(false), whole: Some(whole.clone()) }))
    }

    /// Asks every loop that works under this one to stop at its next [`check`]; it stays asked for.
    pub fn request(&self) {
        self.0.asked.store(true, Ordering::Relaxed);
    }

    /// Does `work` on this thread under this one: inside, [`check`] is [`Interrupt::check`].
    pub fn run<R>(&self, work: impl FnOnce() -> R) -> R {
        /// Puts back what was there before, however the work ends.
        struct Before(Option<Interrupt>);
        impl Drop for Before {
            fn drop(&mut self) {
                CURRENT.replace(self.0.take());
            }
        }
        let _before = Before(CURRENT.replace(Some(self.clone())));
        work()
    }

    /// What a loop asks between two steps.
    ///
    /// # Errors
    /// [`Error::Interrupted`] once [`Interrupt::request`] was called.
    pub fn check(&self) -> Result<()> {
        match self.0.asked.load(Ordering::Relaxed) {
            true => Err(Error::Interrupted),
            false => self.0.whole.as_ref().map_or(Ok(()), Self::check),
        }
    }
}

/// What this thread works under, for others that do parts of its work.
#[must_use]
pub fn current() -> Interrupt {
    CURRENT.with_borrow(|current| current.clone().unwrap_or_default())
}

/// Called by loops between two steps.
///
/// # Errors
/// [`Error::Interrupted`] once the work that this thread does under [`Interrupt::run`] is asked to stop.
pub fn check() -> Result<()> {
    CURRENT.with_borrow(|current| current.as_ref().map_or(Ok(()), Interrupt::check))
}

/// Does `work` on a thread of the pool, where every op is then, under what this one works under.
pub(crate) fn in_pool<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    let own = current();
    rayon::scope(|_| own.run(work))
}

/// How often a thread that waits for another looks whether it is to stop.
const GLANCE: Duration = Duration::from_millis(50);

/// Does `work`, which never looks whether it is to stop, on a thread of its own. Once that is asked for, it is left
/// behind: it ends when it is done, or with the process.
///
/// # Errors
/// [`Error::Interrupted`]; Work: no thread, or one that panicked.
pub(crate) fn apart<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T> {
    let (done, waiting) = sync_channel(1);
    let spawned = thread::Builder::new().spawn(move || drop(done.send(work())));
    spawned.map_err(|error| Error::work(format!("no further thread: {error}")))?;
    loop {
        match waiting.recv_timeout(GLANCE) {
            Ok(made) => return Ok(made),
            Err(RecvTimeoutError::Timeout) => check()?,
            Err(RecvTimeoutError::Disconnected) => return Err(Error::work("a thread ended before its work")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_that_never_looks_is_left_behind() {
        assert_eq!(apart(|| 3).unwrap(), 3);
        let interrupt = Interrupt::new();
        interrupt.request();
        let (kept, forever) = sync_channel::<()>(0);
        assert!(matches!(interrupt.run(|| apart(move || forever.recv().is_err())), Err(Error::Interrupted)));
        drop(kept);
    }

    #[test]
    fn the_pool_looks_as_well() {
        let interrupt = Interrupt::new();
        interrupt.request();
        assert!(interrupt.run(|| in_pool(check)).is_err() && in_pool(check).is_ok());
    }

    #[test]
    fn a_part_stops_alone_and_with_the_whole() {
        let whole = Interrupt::new();
        let (one, other) = (Interrupt::of_part(&whole), Interrupt::of_part(&whole));
        one.request();
        assert!(one.check().is_err() && other.check().is_ok() && whole.check().is_ok());
        whole.request();
        assert!(other.check().is_err());
    }

    #[test]
    fn each_piece_of_work_has_its_own() {
        let (one, other) = (Interrupt::new(), Interrupt::new());
        one.clone().request();
        assert!(check().is_ok() && other.check().is_ok());
        one.run(|| {
            assert!(matches!(check(), Err(Error::Interrupted)));
            other.run(|| assert!(check().is_ok()));
            // another thread is told what it works under
            let own = current();
            std::thread::scope(|scope| {
                scope.spawn(|| assert!(check().is_ok() && own.check().is_err()));
                scope.spawn(|| own.run(|| assert!(check().is_err())));
            });
            assert!(std::panic::catch_unwind(|| other.run(|| assert!(check().is_err(), "as it should"))).is_err());
            assert!(check().is_err());
        });
        assert!(check().is_ok());
    }
}
