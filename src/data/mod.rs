//! Text in, token sequences out; the same from the same seed, whatever the number of threads.
//!
//! A data file is read as [`rows()`]: JSON objects one after the other, whatever the file's format. A [`TextSource`] is
//! one or several such files seen as documents (one field of each row). [`Sequences`] are documents turned into token
//! sequences for a measurement, [`TrainStream`] is an endless, resumable stream of them for training. [`Tokenizer`]
//! gives the ids that the checkpoint's `tokenizer.json` gives. Rows may hold conversations: [`chat`] makes text of
//! them, and [`marked`] is how what is not learned of it is told from what is.

pub mod chat;
mod chunk;
mod csv;
mod documents;
mod ends;
mod find;
mod folder;
mod footer;
mod guard;
mod input;
mod json;
mod longest;
mod looks;
pub mod marked;
mod mixture;
pub(crate) mod names;
mod non_finite;
mod object;
mod pack;
mod pages;
mod parquet;
mod parts;
mod piece;
mod position;
mod prompts;
mod rebuilt;
pub mod rows;
mod separate;
mod sequences;
mod source;
mod special;
mod spoken;
mod stream;
mod text;
mod tokenizer;
mod tokenizer_memory;
mod unpack;
mod value;
mod windows;

pub(crate) use chat::{PromptTemplate, python_float, python_quoted};
pub use documents::{Documents, PassedOver};
pub use ends::end_tokens;
pub(crate) use ends::repetition_penalty;
pub use find::{Fetch, Purpose};
pub(crate) use folder::names_below;
pub use guard::is_fenced;
pub use longest::Longest;
pub use mixture::{Ingredient, Share, Shares, TextMixture, shares};
pub use pack::{Packing, Shape, Tally};
pub use position::Position;
pub use prompts::{PromptOptions, RowPrompt, RowPrompts};
pub(crate) use rows::is_of_format;
pub use rows::{ReadOptions, Row, RowPlace, Rows, TextSplit, endings, rows, rows_with};
pub use separate::{Attention, Separator};
pub use sequences::{SequenceOptions, Sequences};
pub use source::{BadRow, Document, SourceOptions, TextSource};
pub use spoken::Spoken;
pub use stream::{StreamOptions, TrainStream};
pub use tokenizer::{Rules, Special, Tokenizer};
pub(crate) use tokenizer_memory::tokenizer_memory;
