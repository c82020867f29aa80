//! GSM8K (arXiv 2110.14168): word problems of grade school, solved in the model's own words.

use std::sync::LazyLock;

use regex::Regex;

use super::generation::{Generation, INVALID};
use super::{About, Config, Filter, OutputType, Sampler};
use crate::Result;
use crate::eval::fields::{Fields, text};
use crate::eval::metrics::TaskMetric;
use crate::eval::python::strip;

pub(super) const TASK: Generation = Generation {
    about: About {
        name: "gsm8k",
        title: "GSM8K",
        dataset: "openai/gsm8k",
        config: Config::Named("main"),
        split: "test",
        sampler: Sampler::Drawn,
        shots: 5,
        output: OutputType::Generate,
        metrics: &[TaskMetric::EXACT_MATCH],
        filters: &[
            Filter { name: "strict-match", extract: strict, ..Filter::FIRST },
            Filter { name: "flexible-extract", extract: flexible, ..Filter::FIRST },
        ],
        version: 3.0,
        definition: DEFINITION,
        ..About::CHOICE
    },
    context: |row| Ok(format!("Question: {}\nAnswer:", text(row, "question")?)),
    answer,
    until: &["Question:", "</s>", "<|im_end|>"],
    max_gen_toks: None,
    score,
};

const DEFINITION: &str = r#####"{"doc_to_text": "Question: {{question}}\nAnswer:", "doc_to_target": "{{answer}}", "generation_kwargs": {"until": ["Question:", "</s>", "<|im_end|>"], "do_sample": false, "temperature": 0.0}, "filter_list": [{"name": "strict-match", "filter": [{"function": "regex", "regex_pattern": "#### (\\-?[0-9\\.\\,]+)"}, {"function": "take_first"}]}, {"name": "flexible-extract", "filter": [{"function": "regex", "group_select": -1, "regex_pattern": "(-?[$0-9.,]{2,})|(-?[0-9]+)"}, {"function": "take_first"}]}]}"#####;

fn answer(row: &Fields) -> Result<String> {
    text(row, "answer").map(str::to_owned)
}

static STRICT: LazyLock<Option<Regex>> = LazyLock::new(|| Regex::new(r"#### (-?[0-9.,]+)").ok());
static FLEXIBLE: LazyLock<Option<Regex>> = LazyLock::new(|| Regex::new(r"-?[$0-9.,]{2,}|-?[0-9]+").ok());
/// A full stop at the end, where Python's `$` looks also before a line's end.
static STOP: LazyLock<Option<Regex>> = LazyLock::new(|| Regex::new(r"\.(\n?)\z").ok());

/// The first number behind the sign that the examples have in front of theirs.
fn strict(said: &str) -> String {
    let found = STRICT.as_ref().and_then(|strict| Some(strict.captures(said)?.get(1)?.as_str()));
    found.map_or(INVALID, strip).to_owned()
}

/// The last number.
pub(super) fn flexible(said: &str) -> String {
    let found = FLEXIBLE.as_ref().and_then(|flexible| Some(flexible.find_iter(said).last()?.as_str()));
    found.map_or(INVALID, strip).to_owned()
}

/// `exact_match`, with what the task says to ignore.
pub(super) fn score(said: &str, answer: &str) -> f64 {
    f64::from(u8::from(bare(said) == bare(answer)))
}

/// Without commas, dollars, all before the last sign of the answer, a full stop at the end; in lower case.
fn bare(text: &str) -> String {
    let text = text.replace([',', '$'], "");
    let number = text.rfind("#### ").map_or(text.as_str(), |at| &text[at + "#### ".len()..]);
    let number = STOP.as_ref().map_or(number.into(), |stop| stop.replace_all(number, "$1"));
    number.to_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Expected values are of the reference's own filters and metric.
    #[test]
    fn numbers_are_found_as_the_reference_finds_them() {
        for (said, by_sign, last) in [
            ("She has 3 + 4 = 7.\n#### 7", "7", "7"),
            ("#### -1,234.5 apples, or #### 8 of them.", "-1,234.5", "8"),
            ("It costs $1,000.00.", "[invalid]", "$1,000.00."),
            ("Seven", "[invalid]", "[invalid]"),
            ("####7", "[invalid]", "7"),
            ("a 12-3", "[invalid]", "-3"),
        ] {
            assert_eq!((strict(said).as_str(), flexible(said).as_str()), (by_sign, last), "{said:?}");
        }
    }

    #[test]
    fn what_is_ignored_in_a_match() {
        let gold = "He pays 2 * $1,500 = $<<2*1500=3000>>3,000.\n#### 3,000";
        for (said, expected) in [("3000", 1.0), ("$3,000.", 1.0), ("3000.0", 0.0), ("#### 3000.", 1.0), ("", 0.0)] {
            assert_eq!(score(said, gold), expected, "{said:?}");
        }
    }
}
