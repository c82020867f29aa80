//! A stack of its own for work on a template. Templates are anybody's, and Jinja's parser, its comparisons and its
//! printing call themselves for each level of what lies in each other: how deep that goes is bounded by the template's
//! length and by the steps it may take, and this is room for it.

use crate::data::guard::fenced;
use crate::{Error, Result};

/// Bytes, of which the system gives what is touched.
const STACK: usize = 256 << 20;

/// Does `work` there. A panic in it is an error.
///
/// # Errors
/// Work: no room for the stack, a panic.
pub(super) fn on_deep_stack<T: Send>(work: impl FnOnce() -> T + Send) -> Result<T> {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().stack_size(STACK).spawn_scoped(scope, || fenced(work));
        let thread = thread.map_err(|error| {
            Error::work(format!("no room for the {} MiB that a chat template may need: {error}", STACK >> 20))
        })?;
        let done = thread.join().unwrap_or_else(|_| Err("it ended in the middle".to_owned()));
        done.map_err(|fault| Error::work(format!("the chat template: {fault}")))
    })
}
