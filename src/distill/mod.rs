//! What a healing learns from beside text that people wrote: text that a model wrote itself.
//!
//! [`Generation`] lets a model go on with prompts, many at a time, and [`Texts`] keeps what it says as it comes, so that
//! one that was stopped goes on and ends with the same bytes.

mod generation;
mod texts;

pub use generation::Generation;
pub(crate) use texts::GENERATING;
pub use texts::{Counts, Texts};
