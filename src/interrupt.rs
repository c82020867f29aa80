//! Ctrl-C and SIGTERM: a flag that long loops look at between two steps, so that they stop at a place to resume from.

use std::sync::atomic::{AtomicBool, Ordering};

use crate::{Error, Result};

static INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// Asks every loop to stop at its next [`check`].
pub fn request() {
    INTERRUPTED.store(true, Ordering::Relaxed);
}

/// Forgets an earlier [`request`]: whoever was told of the interruption may begin another piece of work. The program
/// ends after one; a user of the library need not.
pub fn clear() {
    INTERRUPTED.store(false, Ordering::Relaxed);
}

/// Called by loops between two steps.
///
/// # Errors
/// [`Error::Interrupted`] once [`request`] was called, until [`clear`] is.
pub fn check() -> Result<()> {
    if INTERRUPTED.load(Ordering::Relaxed) { Err(Error::Interrupted) } else { Ok(()) }
}
