//! The model card of a grown checkpoint: which layers were inserted, how they were made, and how to do it again.

use super::Cut;
use super::card::{kind, short_count, trained_since};
use super::grow::growth;
use crate::card::{MadeFrom, called, pinned, quoted};
use crate::provenance::Provenance;

/// `README.md` for the growth `cut`, whose history (this growth included) is `history`; `source` is the text of the
/// source's card.
pub(super) fn card(cut: &Cut, history: &Provenance, source: Option<&str>) -> String {
    let plan = cut.plan();
    let parent = &plan.planned_for;
    let files = cut.files();
    let made = MadeFrom { kind: kind(&files), history, parent, parent_card: source };
    let mut text = made.head("", &["depth-up-scaling"]);
    let mut say = |line: &str| {
        text.push_str(line);
        text.push('\n');
    };
    say(&format!("{}, counted from 0.", made.lost()));
    say(&format!(
        "It has {} parameters instead of {}. Every layer of the source is there bit for bit, under a new number; {}.\n",
        short_count(cut.parameters().after),
        short_count(cut.parameters().before),
        trained_since(history)
    ));
    if history.steps.len() > 1 {
        say(&format!(
            "This is step {} on that model; `prune.json` lists them all. This step inserted {} layers into {} of {}.\n",
            history.steps.len(),
            plan.inserted().len(),
            plan.planned_for.layers,
            called(parent)
        ));
    }
    let said = |key: &str| plan.why.get(key).and_then(serde_json::Value::as_str);
    let by = said("by").and_then(|name| growth(name).ok());
    if let Some(by) = by {
        say(&format!("The inserted layers were made by `{}`: {} ({}).\n", by.name, by.about, by.reference));
    }
    say(&made.usage());
    let flags = match (said("after"), said("repeat"), by) {
        (Some(after), _, Some(by)) => Some(format!("--after {after} --by {}", by.name)),
        (None, Some(repeat), _) => Some(format!("--repeat {repeat}")),
        _ => None,
    };
    match flags {
        Some(flags) => {
            say("## The same growth again\n\n```sh");
            let flags = flags.replace(", ", ",");
            say(&format!("prune grow {} {flags} -o DIR\n```\n", quoted(&pinned(parent))));
        }
        None => say(&format!("Place by place, layers of {}: {}.\n", called(parent), plan.in_words())),
    }
    say(
        "`prune heal --layers-to-transform inserted` trains adapters on the inserted layers alone, with `--train layers`",
    );
    say("all their weights.\n");
    say("`prune.json` names the source's files, every step and every change to `config.json`.");
    text
}
