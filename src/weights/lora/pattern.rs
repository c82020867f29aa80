//! Python's regular expressions, as PEFT's configs hold them, read by a matcher whose time is bounded.

use std::fmt;

use regex::{Regex, RegexBuilder};
use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::{Error, Result};

/// Characters of an expression.
const MAX_LENGTH: usize = 4096;
/// Bytes of a compiled expression.
const MAX_COMPILED: usize = 1 << 20;
/// Keys of `rank_pattern` or `alpha_pattern`: one for each linear layer of the largest models, and room.
const MAX_PATTERNS: usize = 1 << 14;

/// What both languages read, each in its own way: sets within sets, possessive repeats, the borders of words.
const OTHERWISE: [&str; 10] = ["[[", "&&", "--", "~~", "++", "*+", "?+", "}+", r"\<", r"\>"];

/// An expression with `before` and `after` around it. Without references to groups and looking around, any text takes
/// time linear in its length.
///
/// # Errors
/// Request: not an expression, or one in Python's syntax that this matcher does not have or reads otherwise.
pub(super) fn expression(before: &str, key: &str, after: &str) -> Result<Regex> {
    let refused = |reason: &str| Error::request(format!("the pattern {key:?} {reason}"));
    if key.len() > MAX_LENGTH {
        let start: String = key.chars().take(40).collect();
        return Err(Error::request(format!("the pattern {start:?}... is longer than {MAX_LENGTH} bytes")));
    }
    if let Some(part) = OTHERWISE.iter().find(|part| key.contains(*part)) {
        return Err(refused(&format!("has {part:?}, which means something else in Python; write it in another way")));
    }
    // alone first: what stands around it must not complete it
    RegexBuilder::new(key)
        .size_limit(MAX_COMPILED)
        .build()
        .and_then(|_| RegexBuilder::new(&format!("{before}{key}{after}")).size_limit(MAX_COMPILED).build())
        .map_err(|error| {
            let error = error.to_string();
            let reason = error.lines().last().unwrap_or_default().trim_start_matches("error: ").to_owned();
            refused(&format!("cannot be read as a regular expression: {reason}"))
        })
}

/// `re.fullmatch(key, module)`.
///
/// # Errors
/// As [`expression`].
pub(super) fn whole(key: &str) -> Result<Regex> {
    expression("^(?:", key, ")$")
}

/// Values for modules by expressions over their paths, the first that matches wins: PEFT's `rank_pattern` and
/// `alpha_pattern`, in the order of the file.
#[derive(Clone, Debug, PartialEq)]
pub struct Patterns<T>(Vec<(String, T)>);

impl<T> Default for Patterns<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<T, const N: usize> From<[(String, T); N]> for Patterns<T> {
    fn from(patterns: [(String, T); N]) -> Self {
        Self(patterns.into())
    }
}

impl<T: Copy> Patterns<T> {
    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Adds a pattern behind the others.
    pub(super) fn push(&mut self, key: String, value: T) {
        self.0.push((key, value));
    }

    /// Key and value, in order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, T)> {
        self.0.iter().map(|(key, value)| (key.as_str(), *value))
    }

    /// Those that match one of `modules`; the others say nothing.
    ///
    /// # Errors
    /// Request: as [`expression`].
    pub(super) fn used(&self, modules: &[String]) -> Result<Self> {
        let compiled = self.compile()?;
        let keys = compiled.0.iter().filter(|(_, key, _)| modules.iter().any(|module| key.is_match(module)));
        Ok(Self(keys.map(|(key, _, value)| ((*key).to_owned(), *value)).collect()))
    }

    /// Ready to match. A key matches the end of a module's path, from the start of one of its parts on, or all of it:
    /// PEFT's `re.match(r"(.*\.)?(KEY)$", module)`, so `^` and leading `.*` are the path's start.
    ///
    /// # Errors
    /// Request: as [`expression`], or more keys than any model has modules.
    pub(super) fn compile(&self) -> Result<Compiled<'_, T>> {
        if self.0.len() > MAX_PATTERNS {
            return Err(Error::request(format!("{} patterns, expected {MAX_PATTERNS} at most", self.0.len())));
        }
        let compiled =
            self.0.iter().map(|(key, value)| Ok((key.as_str(), expression(r"^(?:.*\.)?(?:", key, ")$")?, *value)));
        Ok(Compiled(compiled.collect::<Result<_>>()?))
    }
}

/// [`Patterns`] that can be asked.
pub(super) struct Compiled<'a, T>(Vec<(&'a str, Regex, T)>);

impl<T: Copy> Compiled<'_, T> {
    /// The value for the module at path `module`.
    pub(super) fn of(&self, module: &str) -> Option<T> {
        self.0.iter().find(|(_, key, _)| key.is_match(module)).map(|(.., value)| *value)
    }

    /// The first key that matches none of `modules`.
    pub(super) fn idle(&self, modules: &[&str]) -> Option<&str> {
        let idle = |key: &Regex| !modules.iter().any(|module| key.is_match(module));
        self.0.iter().find(|(_, key, _)| idle(key)).map(|(key, ..)| *key)
    }
}

impl<T: Serialize> Serialize for Patterns<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(key, value)| (key, value)))
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Patterns<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        struct InOrder<T>(std::marker::PhantomData<T>);

        impl<'de, T: Deserialize<'de>> Visitor<'de> for InOrder<T> {
            type Value = Patterns<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a table of numbers by patterns of module names")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> std::result::Result<Self::Value, A::Error> {
                let mut patterns = Vec::new();
                while let Some(pattern) = map.next_entry()? {
                    patterns.push(pattern);
                }
                Ok(Patterns(patterns))
            }
        }

        deserializer.deserialize_map(InOrder(std::marker::PhantomData))
    }
}
