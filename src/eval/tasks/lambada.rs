//! LAMBADA (arXiv 1606.06031): the last word of a passage, in OpenAI's rendering of the texts.

use super::continuation::SingleContinuation;
use super::{About, Config, OutputType, Sampler, TaskMetric};
use crate::Result;
use crate::eval::fields::{Fields, text};

pub(super) const TASK: SingleContinuation = SingleContinuation {
    about: About {
        name: "lambada_openai",
        title: "LAMBADA",
        dataset: "EleutherAI/lambada_openai",
        config: Config::Named("default"),
        file: Some("data/lambada_test.jsonl"),
        split: "test",
        shots_split: "test",
        sampler: Sampler::Drawn,
        output: OutputType::LogLikelihood,
        metrics: &[TaskMetric::PERPLEXITY, TaskMetric::ACC_GREEDY],
        version: 1.0,
        definition: r#"{"doc_to_text": "{{text.split(' ')[:-1]|join(' ')}}", "doc_to_target": "{{' '+text.split(' ')[-1]}}"}"#,
        ..About::CHOICE
    },
    halves,
};

/// All but the last word, and that word with the space in front of it.
fn halves(row: &Fields) -> Result<(String, String)> {
    let passage = text(row, "text")?;
    let (before, word) = passage.rsplit_once(' ').unwrap_or(("", passage));
    Ok((before.to_owned(), format!(" {word}")))
}
