//! Any text of the user's, `text:FILE`: as C4, but nothing is tidied.

use super::rolling::Rolling;
use super::{About, Sampler};

pub(super) const TASK: Rolling = Rolling {
    about: About {
        name: "text",
        title: "text",
        dataset: "",
        sampler: Sampler::First,
        version: 0.0,
        definition: r#"{"doc_to_text": "", "doc_to_target": "text"}"#,
        ..About::TEXT
    },
    prepare: Ok,
    field: "text",
    tidy: str::to_owned,
};
