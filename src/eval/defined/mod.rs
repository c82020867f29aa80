//! Tasks that users define in the YAML files of lm-evaluation-harness (`--include-path`): multiple choice, generated
//! answers, continuations, texts, and groups of them. What such a file leaves to Python is refused by name.
//!
//! [`TaskFiles`] knows which file has which name. A file (`definition`) is its keys, those of its `include`
//! beneath them, each with its line; `read` makes a task (`task`) of one that is asked for, with
//! `form` for what it says of a document, `filters`, `metrics`.
//!
//! ```yaml
//! task: rivers
//! dataset_path: json
//! dataset_kwargs: {data_files: {test: rivers.jsonl}}
//! test_split: test
//! output_type: multiple_choice
//! doc_to_text: "{{question}}\nAnswer:"
//! doc_to_choice: "{{choices}}"
//! doc_to_target: answer
//! ```

mod bbh;
mod columns;
mod data;
mod definition;
mod filters;
mod form;
mod group;
mod index;
mod metrics;
mod own;
mod programs;
mod read;
mod task;
mod yaml;

pub(super) use columns::Columns;
pub(super) use data::files as data_files;
pub(super) use group::Adder;
pub use index::TaskFiles;
pub(super) use own::OWN;
pub(in crate::eval) use read::{kept, nearest};
