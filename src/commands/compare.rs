//! `prune compare`: two finished evaluations side by side, without scoring again.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::eval::compare::{Comparison, compare as differences};
use crate::eval::finished::Finished;
use crate::progress::Progress;
use crate::{Context, Error, Result};

/// Settings of `prune compare`.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CompareSettings {
    /// Results to compare with: a results file, or a directory with one.
    pub from: Option<PathBuf>,
    /// Results that are compared.
    pub to: Option<PathBuf>,
}

/// What the command found.
#[derive(Debug, Serialize)]
pub struct CompareReport {
    /// The results compared with.
    pub from: Compared,
    /// The results compared.
    pub to: Compared,
    /// Tasks, groups, and all together; each figure of `to` minus that of `from`.
    pub comparisons: Vec<Comparison>,
}

/// One evaluation.
#[derive(Debug, Serialize)]
pub struct Compared {
    /// The model it scored.
    pub model: String,
    /// The results file.
    pub results: PathBuf,
}

/// Runs `prune compare`. Where both kept their samples, tasks are compared document by document; otherwise their
/// figures are taken as those of independent samples.
///
/// # Errors
/// Request: results that are not there, without a task in common, or of other prompts. Work: broken files.
pub fn compare(settings: &CompareSettings, progress: &dyn Progress) -> Result<CompareReport> {
    let open = |path: &Option<PathBuf>, which: &str| {
        let path =
            path.as_deref().ok_or_else(|| Error::request(format!("{which} results? name a file or directory")))?;
        Finished::open(path)
    };
    let (from, to) = (open(&settings.from, "which")?, open(&settings.to, "which other")?);
    let has = |finished: &Finished, task: &str| finished.section("results").is_some_and(|all| all.get(task).is_some());
    let ours = to.side(&|task| has(&from, task))?;
    let theirs = from.side(&|task| has(&to, task))?;
    let paths = || format!("{} and {}", from.path().display(), to.path().display());
    let comparisons = differences(&theirs, &ours, true).context(paths)?;
    if comparisons.iter().any(|comparison| !comparison.paired) {
        progress.warn(
            "some samples are not there (lm-evaluation-harness keeps them with --log_samples): those figures are \
             compared as if other questions had been asked",
        );
    }
    let compared =
        |finished: &Finished| Compared { model: finished.model().to_owned(), results: finished.path().to_owned() };
    Ok(CompareReport { from: compared(&from), to: compared(&to), comparisons })
}
