//! One case: its numbers by chance, its place, and what was wrong with it.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use prune::progress::{Progress, Unit};
use prune::shown::shown_message;
use prune::{Error, Result};
use rand::{Rng as _, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// Numbers by chance.
pub(super) type Rng = ChaCha8Rng;

/// Characters of a message at most: a screen has some more.
const MOST: usize = 1000;

/// What only a programmer says.
const RAW: [&str; 7] = [
    "panicked",
    "called `Result::",
    "called `Option::",
    "assertion",
    "out of range for slice",
    "overflow when",
    "attempt to ",
];

/// What a case has at hand.
pub(super) struct Case<'a> {
    pub(super) rng: Rng,
    dir: &'a Path,
    pub(super) faults: Vec<String>,
}

impl<'a> Case<'a> {
    pub(super) fn new(number: u64, dir: &'a Path) -> Self {
        Self { rng: Rng::seed_from_u64(number), dir, faults: Vec::new() }
    }

    /// Whether it is one of so many cases.
    pub(super) fn is_one_in(&mut self, cases: u32) -> bool {
        self.rng.random_ratio(1, cases)
    }

    pub(super) fn pick<'t, T: ?Sized>(&mut self, from: &[&'t T]) -> &'t T {
        from[self.rng.random_range(0..from.len())]
    }

    /// An empty directory.
    pub(super) fn fresh(&self) -> PathBuf {
        let dir = self.dir.join("case");
        if dir.exists() {
            fs::remove_dir_all(&dir).unwrap();
        }
        fs::create_dir(&dir).unwrap();
        dir
    }

    /// Looks at what is said when it does not go on.
    pub(super) fn heard<T>(&mut self, result: Result<T>) -> Option<T> {
        match result {
            Ok(value) => Some(value),
            Err(Error::Interrupted) => {
                self.fault("nobody interrupted it");
                None
            }
            Err(error) => {
                self.message(&error.to_string());
                None
            }
        }
    }

    /// A message is a line of its own, no longer than a screen, in words for a person.
    pub(super) fn message(&mut self, text: &str) {
        let odd =
            |c: char| c.is_control() || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}');
        if text.trim().is_empty() {
            self.fault("says nothing");
        } else if text.contains(odd) {
            self.fault(&format!("says a control character: {}", text.escape_debug()));
        } else if text.chars().count() > MOST {
            self.fault(&format!("says {} characters: {text}", text.chars().count()));
        } else if RAW.iter().any(|raw| text.contains(raw)) {
            self.fault(&format!("says {text}"));
        }
    }

    pub(super) fn fault(&mut self, what: &str) {
        self.faults.push(what.escape_debug().to_string());
    }

    /// Looks at every warning of `work`.
    pub(super) fn listen<T>(&mut self, work: impl FnOnce(&dyn Progress) -> Result<T>) -> Option<T> {
        let ear = Ear(Mutex::default());
        let result = work(&ear);
        for warning in ear.0.into_inner().unwrap() {
            // as the command line shows them
            self.message(&shown_message(&warning));
        }
        self.heard(result)
    }
}

/// Hears warnings and notes.
struct Ear(Mutex<Vec<String>>);

impl Progress for Ear {
    fn begin(&self, _what: &str, _total: u64, _unit: Unit) {}
    fn advance(&self, _units: u64) {}
    fn end(&self) {}
    fn warn(&self, message: &str) {
        self.0.lock().unwrap().push(message.to_owned());
    }
    fn note(&self, message: &str) {
        self.warn(message);
    }
}
