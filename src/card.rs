//! Model cards, `README.md`: front matter as the hub reads it, what was made of which model, how it is used, what it
//! scored. A card travels with its model, so it names nobody's directories: a model that is not on the hub is called by
//! its last name, and is no `base_model`.

pub(crate) mod results;
mod usage;

use std::fmt::Write;
use std::path::Path;

use crate::plan::{PlannedFor, SubLayer, ranges};
use crate::provenance::Provenance;

/// The file's name.
pub const FILE: &str = "README.md";

/// Keys of a source's front matter that stay true of what is made from it.
const CARRIED: &[&str] = &["language", "license", "license_link", "license_name", "pipeline_tag"];

/// What a card is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind<'a> {
    /// A model with weights of its own.
    Model,
    /// A model in a GGUF file of this name.
    Gguf(&'a str),
    /// A model in four bits.
    FourBit,
    /// An adapter in PEFT's files.
    Adapter,
}

/// A model and the one it was made from.
#[derive(Clone, Copy, Debug)]
pub struct MadeFrom<'a> {
    /// What the card is of.
    pub kind: Kind<'a>,
    /// From the first model on; the last step made this one.
    pub history: &'a Provenance,
    /// The model that the last step started from.
    pub parent: &'a PlannedFor,
    /// Text of its card.
    pub parent_card: Option<&'a str>,
}

impl MadeFrom<'_> {
    /// Whether it is another stack than the first model's.
    #[must_use]
    pub fn is_cut(&self) -> bool {
        let gone = self.history.gone();
        !gone.layers.is_empty() || !gone.are_layers() || self.history.is_rebuilt()
    }

    /// Front matter in the hub's keys, and the title, behind which `what` may stand.
    #[must_use]
    pub fn head(&self, what: &str, tags: &[&str]) -> String {
        let Provenance { origin, layers, inserted, .. } = self.history;
        let mut text = String::from("---\n");
        if let Some((name, _)) = on_hub(self.parent).or_else(|| on_hub(origin)) {
            let is_direct = on_hub(self.parent).is_some() || !self.is_cut();
            let relation = match self.kind {
                Kind::Adapter if is_direct => "adapter",
                Kind::FourBit if is_direct => "quantized",
                _ => "finetune",
            };
            _ = writeln!(text, "base_model: {name}\nbase_model_relation: {relation}");
        }
        let library = if self.kind == Kind::Adapter { "peft" } else { "transformers" };
        _ = writeln!(text, "library_name: {library}");
        for line in carried(self.parent_card.unwrap_or_default()) {
            _ = writeln!(text, "{line}");
        }
        text.push_str("tags:\n");
        let gguf = matches!(self.kind, Kind::Gguf(_)).then_some(&"gguf");
        for tag in tags.iter().chain(gguf) {
            _ = writeln!(text, "- {tag}");
        }
        let depth = match layers.len() == origin.layers {
            _ if self.history.only_grows() => format!("{} layers, {} of them inserted", layers.len(), inserted.len()),
            true => format!("{} layers", origin.layers),
            false => format!("{} of {} layers", layers.len(), origin.layers),
        };
        _ = writeln!(text, "---\n\n# {}, {depth}{what}\n", called(origin));
        text
    }

    /// The first model, and what of it is gone, without a full stop: `[org/name](…) with 4 of its …`.
    #[must_use]
    pub fn lost(&self) -> String {
        let origin = &self.history.origin;
        let (mut model, layers) = (linked(origin), origin.layers);
        let repairs: Vec<&str> = self.history.repairs().collect();
        if !repairs.is_empty() {
            let how = if self.history.trained_in_repair() { "layer by layer" } else { "without training" };
            _ = write!(model, ", repaired {how} ({}),", repairs.join(", "));
        }
        if self.history.only_grows() {
            let model = model.trim_end_matches(',');
            let Provenance { inserted, layers: all, .. } = self.history;
            let (count, places) = (inserted.len(), ranges(inserted.iter().copied()));
            return format!(
                "{model}, its {layers} decoder layers and {count} inserted ones: {places} of {}",
                all.len()
            );
        }
        if self.history.is_rebuilt() {
            let stack: Vec<String> = self.history.layers.iter().map(usize::to_string).collect();
            let model = model.trim_end_matches(',');
            return format!("{model}, its {layers} decoder layers put together anew: {}", stack.join(", "));
        }
        let gone = self.history.gone();
        let mut said = match gone.layers.len() {
            0 if gone.are_layers() => format!("{model} with all its decoder layers"),
            0 => format!("{model} with all its {layers} decoder layers"),
            1 => format!("{model} with decoder layer {} of {layers} removed", ranges(gone.layers)),
            count => {
                format!("{model} with {count} of its {layers} decoder layers removed: {}", ranges(gone.layers))
            }
        };
        for sublayer in SubLayer::ALL {
            let of = gone.sublayers.iter().filter(|(_, without)| without.contains(sublayer)).map(|(layer, _)| *layer);
            let of = ranges(of);
            if !of.is_empty() {
                let part = if sublayer == SubLayer::Mlp { "the MLP" } else { "attention" };
                let _ = write!(said, ", without {part} in {of}");
            }
        }
        said
    }
}

/// Name and commit of a model of the hub: as it was given, or as the hub's cache, in which its directory lies, has it.
fn on_hub(model: &PlannedFor) -> Option<(String, String)> {
    if let Some(revision) = &model.revision {
        return Some((model.repository(), revision.clone()));
    }
    let parts: Vec<&str> = Path::new(&model.id).components().filter_map(|part| part.as_os_str().to_str()).collect();
    let [.., repo, "snapshots", commit] = parts[..] else { return None };
    let (org, name) = repo.strip_prefix("models--")?.split_once("--")?;
    let is_commit = commit.len() == 40 && commit.bytes().all(|byte| byte.is_ascii_hexdigit());
    is_commit.then(|| (format!("{org}/{name}"), commit.to_owned()))
}

/// A model's name on the hub, or the last name of its directory.
#[must_use]
pub fn called(model: &PlannedFor) -> String {
    on_hub(model).map_or_else(|| last_name(&model.id).to_owned(), |(name, _)| name)
}

/// The same with the commit, where it is known.
#[must_use]
pub fn pinned(model: &PlannedFor) -> String {
    on_hub(model).map_or_else(|| called(model), |(name, commit)| format!("{name}@{commit}"))
}

/// A model in running text.
#[must_use]
pub fn linked(model: &PlannedFor) -> String {
    match on_hub(model) {
        Some((name, commit)) => format!("[{name}](https://huggingface.co/{name}) at revision `{commit}`"),
        None => format!("`{}`", called(model)),
    }
}

/// What is called `text`, without the directories of the machine it lies on; names on the hub stay.
#[must_use]
pub fn placeless(text: &str) -> &str {
    let path = Path::new(text);
    let is_here = text.starts_with(['.', '~']) || path.is_absolute() || path.exists();
    if is_here { last_name(text) } else { text }
}

fn last_name(path: &str) -> &str {
    let name = Path::new(path).file_name().and_then(|name| name.to_str());
    name.unwrap_or_else(|| path.trim_end_matches(['/', '\\']))
}

/// `card` with `body` under the heading `title`, in the place of what stood there.
#[must_use]
pub fn with_section(card: &str, title: &str, body: &str) -> String {
    let section = format!("## {title}\n\n{}\n", body.trim());
    match place(card, title) {
        Some((start, end)) => format!("{}{section}{}{}", &card[..start], gap(&card[end..]), &card[end..]),
        None => format!("{}\n\n{section}", card.trim_end()),
    }
}

/// What stands in `card` under the heading `title`.
#[must_use]
pub fn section<'a>(card: &'a str, title: &str) -> Option<&'a str> {
    let (start, end) = place(card, title)?;
    card[start..end].split_once('\n').map(|(_, body)| body.trim())
}

fn gap(rest: &str) -> &'static str {
    if rest.is_empty() { "" } else { "\n" }
}

/// Where a section begins and ends.
fn place(card: &str, title: &str) -> Option<(usize, usize)> {
    let heading = format!("## {title}\n");
    let start = if card.starts_with(&heading) { 0 } else { card.find(&format!("\n{heading}"))? + 1 };
    let end = card[start + heading.len()..].find("\n## ").map_or(card.len(), |at| start + heading.len() + at + 1);
    Some((start, end))
}

/// A table; every row has as many cells as the head.
#[must_use]
pub fn table(head: &[&str], rows: &[Vec<String>]) -> String {
    // what a name holds must not end its cell
    let line = |cells: &mut dyn Iterator<Item = String>| {
        let cells: Vec<String> = cells.map(|cell| cell.replace('|', "\\|")).collect();
        format!("| {} |\n", cells.join(" | "))
    };
    let mut text = line(&mut head.iter().map(|name| (*name).to_owned()));
    text += &format!("|{}\n", "---|".repeat(head.len()));
    rows.iter().for_each(|row| text += &line(&mut row.iter().cloned()));
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

/// A word of a shell command.
#[must_use]
pub fn quoted(word: &str) -> String {
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

    fn model(id: &str, revision: Option<&str>, layers: usize) -> PlannedFor {
        PlannedFor { id: id.into(), revision: revision.map(str::to_owned), fingerprint: "00ff".into(), layers }
    }

    #[test]
    fn the_license_is_carried_and_nothing_else() {
        let card = "---\nlicense: other\nlicense_name: x\ndatasets:\n- a\nlanguage:\n- en\n- de\n# note\ntags: [a]\n---\n# T\n";
        assert_eq!(carried(card), ["license: other", "license_name: x", "language:", "- en", "- de", "# note"]);
        for card in ["", "# T\n", "---\nlicense: mit\n", "text\n---\nlicense: mit\n---\n"] {
            assert!(carried(card).is_empty(), "{card}");
        }
    }

    #[test]
    fn the_hub_learns_what_the_model_was_made_from() {
        let origin = model("org/name@main", Some("abc123"), 4);
        let mut history = Provenance::new(origin.clone());
        history.push_stack(serde_json::Map::new(), &[0, 1, 3].map(crate::plan::Place::of));
        let cut = model("/home/me/cut", None, 3);
        let head = |kind, parent: &PlannedFor| {
            let made = MadeFrom {
                kind,
                history: &history,
                parent,
                parent_card: Some("---\nlicense: mit\nbase_model: other/one\n---\n"),
            };
            made.head("", &["pruned"])
        };
        let expected = "---\nbase_model: org/name\nbase_model_relation: finetune\nlibrary_name: transformers\n\
                        license: mit\ntags:\n- pruned\n---\n\n# org/name, 3 of 4 layers\n\n";
        assert_eq!(head(Kind::Model, &origin), expected);
        assert_eq!(head(Kind::Model, &cut), expected);
        // an adapter of the cut is none of the whole model
        assert!(
            head(Kind::Adapter, &cut)
                .starts_with("---\nbase_model: org/name\nbase_model_relation: finetune\nlibrary_name: peft\n")
        );
        let pushed = model("me/cut", Some("def"), 3);
        assert!(head(Kind::Adapter, &pushed).starts_with("---\nbase_model: me/cut\nbase_model_relation: adapter\n"));
        assert_eq!(linked(&origin), "[org/name](https://huggingface.co/org/name) at revision `abc123`");
    }

    #[test]
    fn no_directory_of_this_machine_is_named() {
        let commit = "0123456789abcdef0123456789abcdef01234567";
        let cached = format!("/home/me/.cache/huggingface/hub/models--org--some--name/snapshots/{commit}");
        for (id, name, exact) in [
            ("/home/me/models/llama", "llama", "llama"),
            ("models/llama/", "llama", "llama"),
            ("../llama", "llama", "llama"),
            (cached.as_str(), "org/some--name", &format!("org/some--name@{commit}")),
        ] {
            let local = model(id, None, 2);
            assert_eq!((called(&local).as_str(), pinned(&local).as_str()), (name, exact));
            let history = Provenance::new(local.clone());
            for kind in [Kind::Model, Kind::Gguf("m.gguf"), Kind::FourBit, Kind::Adapter] {
                let made = MadeFrom { kind, history: &history, parent: &local, parent_card: None };
                let text = made.head("", &[]) + &made.lost() + &made.usage() + &made.again("DIR").unwrap();
                assert!(!text.contains("/home") && !text.contains("../"), "{text}");
                assert_eq!(text.contains("base_model:"), id == cached, "{text}");
            }
        }
        let dir = tempfile::tempdir().unwrap();
        let here = dir.path().join("text.jsonl");
        std::fs::write(&here, "x").unwrap();
        assert_eq!(placeless(here.to_str().unwrap()), "text.jsonl");
        for stays in ["allenai/c4", "hub:datasets/org/name/a.jsonl", "nf4"] {
            assert_eq!(placeless(stays), stays);
        }
        assert_eq!((placeless("/gone/text.jsonl"), placeless("~/a/b")), ("text.jsonl", "b"));
    }

    #[test]
    fn sections_take_the_place_of_their_kind() {
        let card = "# T\n\nText.\n\n## Scores\n\nold\n\n## Usage\n\nso\n";
        assert_eq!(with_section(card, "Scores", "new"), "# T\n\nText.\n\n## Scores\n\nnew\n\n## Usage\n\nso\n");
        assert_eq!(with_section(card, "Usage", "thus\n"), "# T\n\nText.\n\n## Scores\n\nold\n\n## Usage\n\nthus\n");
        assert_eq!(with_section("# T\n", "Scores", "new"), "# T\n\n## Scores\n\nnew\n");
        assert_eq!((section(card, "Scores"), section(card, "Healing")), (Some("old"), None));
        let again = with_section(card, "Scores", "old");
        assert_eq!(again, card);
        assert_eq!(table(&["a", "b"], &[vec!["1|2".into(), "3".into()]]), "| a | b |\n|---|---|\n| 1\\|2 | 3 |\n");
    }

    #[test]
    fn shell_words() {
        assert_eq!(quoted("org/name@abc"), "org/name@abc");
        assert_eq!(quoted("my models/it's"), r"'my models/it'\''s'");
        assert_eq!([quoted(""), quoted("$HOME"), quoted("a=[2]")], ["''", "'$HOME'", "'a=[2]'"]);
    }
}
