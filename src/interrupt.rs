//! Ctrl-C and SIGTERM: a flag that long loops look at between two steps, so that they stop at a place to resume from.

use std::sync::atomic::{AtomicBool, Ordering};

use crate::{Error, Result};

static INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// Asks every loop to stop at its next [`check`].
pub fn request() {
    INTERRUPTED.store(true, Ordering::Relaxed);
}

/// Called by loops between two steps.
///
/// # Errors
/// [`Error::Interrupted`] once [`request`] was called.
pub fn check() -> Result<()> {
    if INTERRUPTED.load(Ordering::Relaxed) { Err(Error::Interrupted) } else { Ok(()) }
}
