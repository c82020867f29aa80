//! A fence around readers that panic on files they do not understand.
//!
//! The parquet crate's record reader and the tokenizers crate assert on malformed input. Files are untrusted, so such a
//! panic is a broken file, not a bug to be shown with a backtrace.

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};

thread_local! {
    static FENCED: Cell<bool> = const { Cell::new(false) };
}

/// Whether this thread is in a reader whose panic means a broken file and becomes an error. A program whose panic hook
/// is silent then shows its users the error alone; the library sets no hook, which would be every thread's.
#[must_use]
pub fn is_fenced() -> bool {
    FENCED.get()
}

/// Runs `work`; a panic inside it becomes `Err`, in words for people.
///
/// State that `work` was changing may be half changed: drop it after an `Err`.
pub(super) fn fenced<T>(work: impl FnOnce() -> T) -> Result<T, String> {
    let outer = FENCED.replace(true);
    let result = catch_unwind(AssertUnwindSafe(work));
    FENCED.set(outer);
    // its own words are for programmers
    result.map_err(|_| "it is not what its format allows".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_is_an_error_and_a_value_is_a_value() {
        assert_eq!(fenced(|| 3), Ok(3));
        assert_eq!(
            fenced(|| -> u8 { panic!("column {}\nmore", 7) }),
            Err("it is not what its format allows".to_owned())
        );
        assert!(fenced(is_fenced).unwrap() && !is_fenced());
    }
}
