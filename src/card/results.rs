//! Figures in the front matter of a model card, `model-index`, as the hub shows them beside a model.

use std::fmt::Write;

use serde_json::json;

/// A figure of a data set.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct CardResult {
    /// The data set's name for people.
    pub(crate) name: String,
    /// Its name on the hub, or what stands for one.
    pub(crate) dataset: String,
    /// `acc`, `loss`.
    pub(crate) metric: String,
    /// How much.
    pub(crate) value: f64,
}

const KEY: &str = "model-index:";

/// `card` with `results` of the model called `model` in its front matter, in the place of those that were there. A card
/// without front matter stays as it is; figures that are no numbers are left out.
#[must_use]
pub(crate) fn with_results(card: &str, model: &str, results: &[CardResult]) -> String {
    let Some((front, rest)) = card.strip_prefix("---\n").and_then(|card| card.split_once("\n---\n")) else {
        return card.to_owned();
    };
    let mut is_ours = false;
    let kept = front.lines().filter(|line| {
        // what is indented, or an item of a list, belongs to the key before it
        if !line.starts_with([' ', '-', '\t']) {
            is_ours = line.trim_end() == KEY;
        }
        !is_ours
    });
    let mut text = String::from("---\n");
    kept.for_each(|line| _ = writeln!(text, "{line}"));
    let results: Vec<&CardResult> = results.iter().filter(|result| result.value.is_finite()).collect();
    if !results.is_empty() {
        // strings as JSON has them, which YAML reads too
        _ = writeln!(text, "{KEY}\n- name: {}\n  results:", json!(model));
    }
    for CardResult { name, dataset, metric, value } in results {
        _ = writeln!(
            text,
            "  - task:\n      type: text-generation\n    dataset:\n      name: {}\n      type: {}\n    metrics:\n    - \
             type: {}\n      value: {value}",
            json!(name),
            json!(dataset),
            json!(metric)
        );
    }
    text + "---\n" + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn they_take_the_place_of_those_before() {
        let card = "---\nbase_model: org/name\ntags:\n- pruned\n---\n\n# T\n\n---\nno front matter\n";
        let result = |value| CardResult {
            name: "BoolQ \"x\"".into(),
            dataset: "aps/super_glue".into(),
            metric: "acc".into(),
            value,
        };
        let once = with_results(card, "T", &[result(0.5), result(f64::NAN)]);
        assert_eq!(
            once,
            "---\nbase_model: org/name\ntags:\n- pruned\nmodel-index:\n- name: \"T\"\n  results:\n  - task:\n      type: \
             text-generation\n    dataset:\n      name: \"BoolQ \\\"x\\\"\"\n      type: \"aps/super_glue\"\n    \
             metrics:\n    - type: \"acc\"\n      value: 0.5\n---\n\n# T\n\n---\nno front matter\n"
        );
        assert_eq!(with_results(&once, "T", &[result(0.5)]), once);
        assert!(with_results(&once, "T", &[result(0.75)]).contains("value: 0.75\n---\n"));
        assert_eq!(with_results(&once, "T", &[]), card);
        for plain in ["# T\n", "", "---\nnever ends\n"] {
            assert_eq!(with_results(plain, "T", &[result(0.5)]), plain);
        }
    }
}
