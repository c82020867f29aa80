//! Everything that reads what others wrote, and how each is fed. A new reader is a row in [`TABLE`].

mod adapters;
mod chats;
mod checkpoints;
mod gguf;
mod healings;
mod hub;
mod marks;
mod models;
mod packed;
mod parquet;
mod records;
mod results;
mod rows;
mod settings;
mod states;
mod tasks;
mod tokenizers;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use super::case::Case;
use crate::fixture::Llama;

/// Runs a case.
type Feed = Box<dyn Fn(&mut Case<'_>)>;

/// Name, share of the cases, and what makes the reader's good files in a directory of its own.
type Row = (&'static str, u32, fn(&Path) -> Feed);

const TABLE: &[Row] = &[
    ("header", 48, checkpoints::header),
    ("index", 24, checkpoints::index),
    ("gguf", 40, gguf::gguf),
    ("config", 56, models::config),
    ("weights", 32, models::weights),
    ("four-bit", 24, models::four_bit),
    ("cut", 8, checkpoints::cut),
    ("adapter", 40, adapters::adapter),
    ("plan", 20, records::plan),
    ("analysis", 32, records::analysis),
    ("history", 12, records::history),
    ("small words", 12, records::words),
    ("results", 24, results::results),
    ("journal", 16, states::journal),
    ("heal state", 16, healings::state),
    ("healed", 1, healings::healed),
    ("resumed", 1, healings::resumed),
    ("search state", 4, states::search),
    ("run state", 4, states::run),
    ("marks", 16, marks::marks),
    ("jsonl", 40, rows::jsonl),
    ("json", 20, rows::json),
    ("csv", 32, rows::csv),
    ("text", 16, rows::text),
    ("folder", 4, rows::folder),
    ("packed", 32, packed::packed_files),
    ("parquet", 48, parquet::parquet),
    ("settings", 24, settings::settings),
    ("recipe", 20, settings::recipe),
    ("tokenizer", 24, tokenizers::tokenizer),
    ("chats", 24, chats::chats),
    ("task data", 6, tasks::tasks),
    // by itself: it takes its time
    ("hub", 0, hub::hub),
];

/// A reader, and how it is fed.
pub(super) struct Reader {
    pub(super) name: &'static str,
    pub(super) feed: Feed,
}

/// The only reader to feed, in the environment.
pub(super) const ASKED: &str = "PRUNE_FUZZ_READER";

/// Names and shares of all readers, or of the one that is asked for.
pub(super) fn shares() -> Vec<(&'static str, u32)> {
    let asked = std::env::var(ASKED).ok();
    let Some(asked) = asked else { return TABLE.iter().map(|(name, share, _)| (*name, *share)).collect() };
    let found =
        TABLE.iter().find(|(name, ..)| *name == asked).unwrap_or_else(|| panic!("{ASKED}={asked}: no such reader"));
    vec![(found.0, 1)]
}

/// All readers, their files in `dir`.
pub(super) fn all(dir: &Path) -> Vec<Reader> {
    let shares = shares();
    let is_fed = |name: &str| shares.iter().any(|(fed, share)| *fed == name && *share > 0);
    let wanted = TABLE.iter().filter(|(name, ..)| is_fed(name));
    let made = wanted.map(|(name, _, make)| {
        let place = dir.join(name.replace(' ', "-"));
        fs::create_dir_all(&place).unwrap();
        Reader { name, feed: make(&place) }
    });
    made.collect()
}

/// The smallest model there is.
fn small() -> Llama {
    Llama { layers: 2, hidden: 8, mlp: 8, heads: 2, kv_heads: 1, head_dim: 4, vocab: 16, ..Llama::default() }
}

/// A directory of good files, of which a case replaces some.
struct Files {
    dir: PathBuf,
    good: BTreeMap<String, Vec<u8>>,
    /// What the case before replaced.
    replaced: RefCell<Vec<String>>,
}

impl Files {
    /// Those right in `dir`.
    fn of(dir: &Path) -> Self {
        let files = fs::read_dir(dir).unwrap().map(|file| file.unwrap()).filter(|file| file.path().is_file());
        let good = files.map(|file| (file.file_name().into_string().unwrap(), fs::read(file.path()).unwrap()));
        Self { dir: dir.to_owned(), good: good.collect(), replaced: RefCell::default() }
    }

    /// The bytes of a good one.
    fn bytes(&self, name: &str) -> Vec<u8> {
        self.good[name].clone()
    }

    /// A good one as JSON.
    fn json(&self, name: &str) -> serde_json::Value {
        serde_json::from_slice(&self.good[name]).unwrap()
    }

    /// All are good but these.
    fn replace(&self, files: &[(&str, Vec<u8>)]) {
        for name in self.replaced.take() {
            match self.good.get(&name) {
                Some(good) => fs::write(self.dir.join(&name), good).unwrap(),
                None => fs::remove_file(self.dir.join(&name)).unwrap(),
            }
        }
        for (name, bytes) in files {
            fs::write(self.dir.join(name), bytes).unwrap();
            self.replaced.borrow_mut().push((*name).to_owned());
        }
    }
}
