//! What a healing learns from beside text that people wrote: text that a model wrote itself, and what a teacher said of
//! a text.
//!
//! [`SelfGeneration`] lets a model go on with prompts, many at a time, and [`Texts`] keeps what it says as it comes;
//! [`Teaching`] asks a teacher about sequences, and [`TeacherCache`] is what it said. One that was stopped goes on and
//! ends with the same bytes.

mod cache;
mod generation;
mod teaching;
mod texts;

pub use cache::{CACHE, CacheRecord, CacheWriter, CachedSequences, SAID, TeacherCache};
pub use generation::SelfGeneration;
pub use teaching::{Teaching, group};
pub(crate) use texts::GENERATING;
pub use texts::{Counts, Texts};
