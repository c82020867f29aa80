//! The model card of a cut checkpoint: what was dropped, in words, and how to do it again.

use std::fmt::Write;

use super::Cut;
use crate::plan::{Plan, PlannedFor, ranges};
use crate::provenance::Provenance;

/// Keys of the source's front matter that stay true after a cut.
const CARRIED: &[&str] = &["language", "license", "license_link", "license_name", "pipeline_tag"];

/// `README.md` for `cut`, whose history (this cut included) is `history`; `source` is the text of the source's card.
pub(super) fn card(cut: &Cut<'_>, history: &Provenance, source: Option<&str>) -> String {
    let (plan, origin) = (cut.plan(), &history.origin);
    let dropped = plan.dropped();
    let notations = plan.notations();
    let name = origin.name().trim_end_matches('/').rsplit('/').next().unwrap_or_default();
    let mut text = front_matter(origin, source);
    let mut say = |line: &str| {
        text.push_str(line);
        text.push('\n');
    };
    say(&format!("# {name}, {} of {} layers\n", history.layers.len(), origin.layers));
    let gone: Vec<usize> = (0..origin.layers).filter(|layer| !history.layers.contains(layer)).collect();
    let lost = match gone.len() {
        0 => "all its decoder layers".to_owned(),
        1 => format!("decoder layer {} of {} removed", ranges(gone), origin.layers),
        count => format!("{count} of its {} decoder layers removed: {}", origin.layers, ranges(gone)),
    };
    say(&format!("{} with {lost}, counted from 0.", linked(origin)));
    say(&format!(
        "{} of {} parameters remain. Every tensor that was kept is bit for bit the source's, under a new layer number; \
         nothing was trained afterwards.\n",
        short_count(cut.parameters().after),
        short_count(cut.parameters().before)
    ));
    if history.steps.len() > 1 {
        say(&format!(
            "This is step {} on that model; `prune.json` lists them all. This step removed {} of {} layers from {}.\n",
            history.steps.len(),
            dropped.len(),
            plan.planned_for.layers,
            plan.planned_for.id
        ));
    }
    if let Some(reason) = reason(plan) {
        say(&format!("{reason}\n"));
    }
    say("The method is that of *The Unreasonable Ineffectiveness of the Deeper Layers* (arXiv 2403.17887).\n");
    if !dropped.is_empty() {
        say("## The same cut again\n\n```sh");
        let drop = notations.inclusive.replace(", ", ",");
        say(&format!("prune cut {} --drop {drop} -o DIR\n```\n", quoted(&plan.planned_for.pinned())));
        say("In the notations of other tools:\n");
        say(&format!("- llama.cpp: `--prune-layers {}`", notations.llama_cpp));
        say(&format!("- NeMo, which counts from 1: `--drop_layers {}`", notations.nemo));
        say("- mergekit:\n\n```yaml");
        say(&format!("{}```\n", notations.mergekit));
    }
    say("`prune.json` names the source's files, every step and every change to `config.json`.");
    text
}

/// A number of parameters to three digits: `861 M`, `1.10 B`.
#[must_use]
pub fn short_count(count: u64) -> String {
    let (unit, size) = match count {
        0..1000 => return count.to_string(),
        // 999.5 and more would print as a thousand
        1000..999_500 => ("K", 1e3),
        999_500..999_500_000 => ("M", 1e6),
        999_500_000..999_500_000_000 => ("B", 1e9),
        _ => ("T", 1e12),
    };
    let value = count as f64 / size;
    let digits = if value < 9.995 { 2 } else { usize::from(value < 99.95) };
    format!("{value:.digits$} {unit}")
}

/// Front matter in the hub's keys. A directory on someone's disk is no `base_model`.
fn front_matter(origin: &PlannedFor, source: Option<&str>) -> String {
    let mut text = String::from("---\n");
    if origin.revision.is_some() {
        _ = writeln!(text, "base_model: {}\nbase_model_relation: finetune", origin.name());
    }
    text.push_str("library_name: transformers\n");
    for line in carried(source.unwrap_or_default()) {
        _ = writeln!(text, "{line}");
    }
    text.push_str("tags:\n- layer-pruning\n- pruned\n---\n\n");
    text
}

/// Lines of the carried keys in the YAML front matter of a card, continuation lines included.
fn carried(card: &str) -> Vec<&str> {
    let mut lines = card.lines();
    if lines.next().map(str::trim_end) != Some("---") {
        return Vec::new();
    }
    let block: Vec<&str> = lines.by_ref().take_while(|line| line.trim_end() != "---").collect();
    // a block that never ends is no front matter
    if block.len() + 1 >= card.lines().count() {
        return Vec::new();
    }
    let mut keep = false;
    let wanted = block.into_iter().filter(|line| {
        if !line.starts_with([' ', '-', '#', '\t']) && !line.is_empty() {
            keep = line.split_once(':').is_some_and(|(key, _)| CARRIED.contains(&key.trim_end()));
        }
        keep
    });
    wanted.collect()
}

/// How the layers were chosen, for the strategies that have a sentence.
fn reason(plan: &Plan) -> Option<String> {
    let strategy = plan.why.get("strategy")?.as_str()?;
    match strategy {
        "given" => Some("The layers were named by hand.".to_owned()),
        "deepest" => Some("These are the deepest layers but the last, a choice that needs no measurement.".to_owned()),
        _ => {
            let mut said = plan.why.clone();
            said.shift_remove("strategy");
            let facts = said.iter().filter(|(_, value)| !value.is_object() && !value.is_array());
            let facts: Vec<String> = facts.map(|(key, value)| format!("{key} {}", plain(value))).collect();
            Some(format!("They were chosen by the strategy `{strategy}` ({}).", facts.join(", ")))
        }
    }
}

fn plain(value: &serde_json::Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

fn linked(model: &PlannedFor) -> String {
    let name = model.name();
    match &model.revision {
        Some(revision) => format!("[{name}](https://huggingface.co/{name}) at revision `{revision}`"),
        None => format!("`{name}`"),
    }
}

/// A word of a shell command.
fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-@:+".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_licence_is_carried_and_nothing_else() {
        let card = "---\nlicense: other\nlicense_name: x\ndatasets:\n- a\nlanguage:\n- en\n- de\n# note\ntags: [a]\n---\n# T\n";
        assert_eq!(carried(card), ["license: other", "license_name: x", "language:", "- en", "- de", "# note"]);
        for card in ["", "# T\n", "---\nlicense: mit\n", "text\n---\nlicense: mit\n---\n"] {
            assert!(carried(card).is_empty(), "{card}");
        }
    }

    #[test]
    fn the_hub_learns_what_the_model_was_made_from() {
        let origin = PlannedFor {
            id: "org/name@main".into(),
            revision: Some("abc123".into()),
            fingerprint: "00ff".into(),
            layers: 4,
        };
        let text = front_matter(&origin, Some("---\nlicense: mit\nbase_model: other/one\n---\n"));
        let expected = "---\nbase_model: org/name\nbase_model_relation: finetune\nlibrary_name: transformers\n\
                        license: mit\ntags:\n- layer-pruning\n- pruned\n---\n\n";
        assert_eq!(text, expected);
        assert_eq!(linked(&origin), "[org/name](https://huggingface.co/org/name) at revision `abc123`");
    }

    #[test]
    fn three_digits_of_a_count() {
        let shown = [7, 999, 1000, 999_499, 999_500, 860_932_096, 1_104_218_112, 9_994_999, 9_995_000, 99_950_000]
            .map(short_count);
        let expected = ["7", "999", "1.00 K", "999 K", "1.00 M", "861 M", "1.10 B", "9.99 M", "10.0 M", "100 M"];
        assert_eq!(shown, expected);
        assert_eq!(short_count(2_000_000_000_000), "2.00 T");
    }

    #[test]
    fn shell_words() {
        assert_eq!(quoted("org/name@abc"), "org/name@abc");
        assert_eq!(quoted("my models/it's"), r"'my models/it'\''s'");
    }
}
