//! `run.json`: which stages are done, with what they were made from and what came of them. All that work at a run
//! write it, one after the other, each from what the one before wrote.

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::checkpoint::Holder;
use crate::files::{self, Bound};
use crate::{Context, Error, Result};

/// Name of the file.
pub(super) const FILE: &str = "run.json";

/// What the file holds.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Kept {
    prune: String,
    /// Every stage of the last run, in order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) planned: Vec<String>,
    pub(super) stages: BTreeMap<String, Entry>,
}

/// A stage that was begun.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Entry {
    /// Digest of everything that decides its result.
    pub(super) key: String,
    /// Seconds of work on it, by all processes; what was killed could not count its own.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub(super) seconds: Option<f64>,
    /// What came of it; absent while it is not finished.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub(super) report: Option<Value>,
    /// Why it failed.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub(super) error: Option<String>,
    /// Number of the claim under which it was worked on; earlier versions made none.
    #[serde(skip_serializing_if = "is_none", default)]
    pub(super) claim: u64,
    /// Who worked on it last.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub(super) by: Option<By>,
}

fn is_none(claim: &u64) -> bool {
    *claim == 0
}

/// A process that worked on a stage.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct By {
    /// Name of its machine.
    pub(super) host: String,
    /// Its number there.
    pub(super) pid: u32,
    /// Which of several it was, `2/4`.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub(super) shard: Option<String>,
}

impl From<Holder> for By {
    fn from(holder: Holder) -> Self {
        Self { host: holder.host, pid: holder.pid, shard: holder.shard }
    }
}

impl Kept {
    /// What the file at `path` holds; nothing where there is none.
    ///
    /// # Errors
    /// Work: not the state of a run.
    pub(super) fn read(path: &Path) -> Result<Self> {
        if !path.exists() {
            return Ok(Self { prune: env!("CARGO_PKG_VERSION").to_owned(), ..Self::default() });
        }
        let broken = |error: serde_json::Error| Error::work(format!("not the state of a run: {error}"));
        serde_json::from_value(files::json(path, Bound::RECORD)?).map_err(broken).context(|| path.display())
    }

    /// The file's text.
    ///
    /// # Errors
    /// None that can be met.
    pub(super) fn text(&self) -> Result<String> {
        serde_json::to_string_pretty(self).map(|text| text + "\n").map_err(|error| Error::work(error.to_string()))
    }

    /// Puts `entry` in the place of an earlier claim's or its own.
    pub(super) fn put(&mut self, name: &str, entry: Entry) {
        if self.stages.get(name).is_none_or(|before| before.claim <= entry.claim) {
            self.stages.insert(name.to_owned(), entry);
        }
    }
}
