//! The model card of a cut checkpoint: what was dropped, in words, and how to do it again.

use serde_json::Value;

use super::Cut;
use crate::card::{Kind, MadeFrom, called, pinned, placeless, quoted};
use crate::plan::Plan;
use crate::provenance::Provenance;

/// `README.md` for `cut`, whose history (this cut included) is `history`; `source` is the text of the source's card.
pub(super) fn card(cut: &Cut, history: &Provenance, source: Option<&str>) -> String {
    let mut plan = cut.plan().clone();
    let parent = plan.planned_for.clone();
    let files = cut.files();
    let made = MadeFrom { kind: kind(&files), history, parent: &parent, parent_card: source };
    // what other tools are told names no directory either
    (plan.planned_for.id, plan.planned_for.revision) = (pinned(&parent), None);
    let dropped = plan.dropped();
    let mut text = made.head("", &["layer-pruning", "pruned"]);
    let mut say = |line: &str| {
        text.push_str(line);
        text.push('\n');
    };
    let counted = if !made.is_cut() { "" } else { ", counted from 0" };
    say(&format!("{}{counted}.", made.lost()));
    let then = trained_since(history);
    let is_copied = plan.stack.iter().all(|place| place.made.is_empty());
    let kept = match (is_copied, cut.repair()) {
        (_, Some(_)) => "Every tensor that was not made anew",
        (true, None) => "Every tensor that was kept",
        (false, None) => "Every tensor that the plan did not make anew",
    };
    let how = match cut.stored() {
        Some((stored, _)) => format!("has the source's numbers, matrices in {},", stored.name),
        None => "is bit for bit the source's,".to_owned(),
    };
    say(&format!(
        "{} of {} parameters remain. {kept} {how} under a new layer number; {then}.\n",
        short_count(cut.parameters().after),
        short_count(cut.parameters().before)
    ));
    if history.steps.len() > 1 {
        say(&format!(
            "This is step {} on that model; `prune.json` lists them all. This step removed {} of {} layers from {}.\n",
            history.steps.len(),
            dropped.len(),
            plan.planned_for.layers,
            called(&parent)
        ));
    }
    if let Some(reason) = reason(&plan) {
        say(&format!("{reason}\n"));
    }
    if let Some(repair) = cut.repair() {
        say(&format!("{}\n", repaired(repair)));
    }
    if is_the_papers(&plan) {
        say("The method is that of *The Unreasonable Ineffectiveness of the Deeper Layers* (arXiv 2403.17887).\n");
    }
    say(&made.usage());
    let gone = plan.gone();
    let mut flags = cut.repair().map(flags).unwrap_or_default();
    if let Some((stored, _)) = cut.stored() {
        flags += &format!(" --to gguf --type {}", stored.name);
    }
    if !plan.only_drops() {
        say(&format!("Place by place, layers of {}: {}.\n", called(&parent), plan.in_words()));
    } else if let (Some(format), false) = (cut.format(), gone.are_layers()) {
        say("## The same cut again\n\n```sh");
        let drop = gone.to_string().replace(", ", ",");
        say(&format!("prune cut {} --drop {drop} --format {format}{flags} -o DIR\n```\n", quoted(&pinned(&parent))));
    }
    if let Some(notations) = plan.notations().filter(|_| !dropped.is_empty()) {
        say("## The same cut again\n\n```sh");
        let drop = notations.inclusive.replace(", ", ",");
        say(&format!("prune cut {} --drop {drop}{flags} -o DIR\n```\n", quoted(&pinned(&parent))));
        say("In the notations of other tools:\n");
        say(&format!("- llama.cpp: `--prune-layers {}`", notations.llama_cpp));
        say(&format!("- NeMo, which counts from 1: `--drop_layers {}`", notations.nemo));
        say("- mergekit:\n\n```yaml");
        say(&format!("{}```\n", notations.mergekit));
    }
    say("`prune.json` names the source's files, every step and every change to `config.json`.");
    text
}

/// What the card of something in these weight files is of.
pub(super) fn kind(files: &[(String, u64)]) -> Kind<'_> {
    match files {
        [(file, _)] if file.ends_with(".gguf") => Kind::Gguf(file),
        _ => Kind::Model,
    }
}

/// Whether anything was trained on the way, in words.
pub(super) fn trained_since(history: &Provenance) -> &'static str {
    let is_surgery = |step: &Value| ["cut", "grow"].iter().any(|own| step == own);
    match history.steps.iter().any(|step| step.get("step").is_some_and(|step| !is_surgery(step))) {
        true => "what was trained before is in `prune.json`",
        false => "nothing was trained afterwards",
    }
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

/// What a repair did, in a sentence or two.
fn repaired(repair: &Value) -> String {
    let text = |key: &str| repair[key].as_str().unwrap_or_default().to_owned();
    let loss = |key: &str| repair["loss"][key].as_f64().unwrap_or(f64::NAN);
    if repair["text"].is_null() {
        return format!("The cut was repaired without training, by `{}`: {}.", text("name"), text("about"));
    }
    let how = match repair["layers"].as_array() {
        Some(layers) => {
            let one = |layer: &Value| {
                format!("layer {} of the source stands for {} to {}", layer["layer"], layer["first"], layer["last"])
            };
            format!("by training single layers ({})", layers.iter().map(one).collect::<Vec<_>>().join("; "))
        }
        None => "without training".to_owned(),
    };
    format!(
        "The cut was repaired {how}, by `{}`: {}. It was fitted on {} tokens of {}; on {} others, which \
         judged it, the loss is {:.4} nats a token, {:.4} before the repair and {:.4} before the cut.",
        text("name"),
        text("about"),
        repair["fitted_on"]["tokens"],
        placeless(repair["text"]["data"].as_str().unwrap_or_default()),
        repair["judged_by"]["tokens"],
        loss("repaired"),
        loss("cut"),
        loss("whole"),
    )
}

/// The flags that make the same repair.
fn flags(repair: &Value) -> String {
    let mut flags = format!(" --repair {}", plain(&repair["name"]));
    for (key, value) in repair["text"].as_object().into_iter().flatten() {
        flags += &format!(" --{} {}", key.replace('_', "-"), quoted(&plain(value)));
    }
    flags
}

/// How the layers were chosen, for the strategies that have a sentence.
fn reason(plan: &Plan) -> Option<String> {
    let strategy = plan.why.get("strategy")?.as_str()?;
    match strategy {
        "given" => Some("The layers were named by hand.".to_owned()),
        "deepest" => Some("These are the deepest layers but the last, a choice that needs no measurement.".to_owned()),
        "tail" => Some("These are the last layers, a choice that needs no measurement.".to_owned()),
        _ => {
            let mut said = plan.why.clone();
            said.shift_remove("strategy");
            // of lists, the texts
            let is_fact = |key: &str, value: &Value| !value.is_object() && (!value.is_array() || key == "data");
            let facts = said.iter().filter(|(key, value)| is_fact(key, value));
            let facts: Vec<String> = facts.map(|(key, value)| format!("{key} {}", plain(value))).collect();
            Some(format!("They were chosen by the strategy `{strategy}` ({}).", facts.join(", ")))
        }
    }
}

/// Whether the layers went as the paper lets them go: a block by its own distance, or what needs no measurement.
fn is_the_papers(plan: &Plan) -> bool {
    let of = |key: &str| plan.why.get(key).and_then(Value::as_str);
    plan.only_drops_layers()
        && of("metric").is_none_or(|metric| metric.starts_with("angular"))
        && of("strategy") != Some("tail")
}

fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => placeless(text).to_owned(),
        Value::Array(values) => values.iter().map(plain).collect::<Vec<_>>().join(" + "),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn three_digits_of_a_count() {
        let shown = [7, 999, 1000, 999_499, 999_500, 860_932_096, 1_104_218_112, 9_994_999, 9_995_000, 99_950_000]
            .map(short_count);
        let expected = ["7", "999", "1.00 K", "999 K", "1.00 M", "861 M", "1.10 B", "9.99 M", "10.0 M", "100 M"];
        assert_eq!(shown, expected);
        assert_eq!(short_count(2_000_000_000_000), "2.00 T");
    }
}
