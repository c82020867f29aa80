//! Any text of the user's, `text:FILE`: as C4, but nothing is tidied.

use super::{Config, Form, PERPLEXITY, Release, Sampler, Task, as_it_is};
use crate::Result;
use crate::eval::fields::{Fields, text};
use crate::eval::text::Text;

pub(super) const TASK: Task = Task {
    name: "text",
    title: "text",
    dataset: "",
    config: Config::None,
    file: None,
    split: "validation",
    shots_split: "train",
    sampler: Sampler::First,
    shots: 0,
    release: Release::Hub,
    form: Form::Text { prepare: as_it_is, read },
    metrics: PERPLEXITY,
    version: 0.0,
    definition: r#"{"doc_to_text": "", "doc_to_target": "text"}"#,
};

fn read(row: &Fields) -> Result<Text> {
    let text = text(row, "text")?;
    Ok(Text::new(text, text.to_owned()))
}
