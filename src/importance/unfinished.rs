//! What an analysis that stopped goes on from: `OUT.analyzing` beside its output, with the settings it was begun with,
//! the scores once they are all there, and every candidate that was measured.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::{Map, Value};

use super::check::check_scores;
use super::journal::Journal;
use super::metrics::Metric;
use super::moments::Scores;
use crate::checkpoint::{Workplace, claim, refuse_other_work, sha256, unfinished, write_file};
use crate::files::{self, Bound};
use crate::progress::{Progress, Silent};
use crate::shown::from_here;
use crate::{Error, Result};

const SETTINGS: &str = "settings.json";
const SCORES: &str = "scores.json";
const JOURNAL: &str = "journal.jsonl";
/// SHA-256 of the file that the output is known by, written before it has its place.
const DONE: &str = "done";
/// All that is ever in the directory.
const ENTRIES: &[&str] = &[SETTINGS, SCORES, JOURNAL, DONE];

/// The directory of an unfinished analysis. Who holds the output's [`Workplace`] works in it.
#[derive(Debug)]
pub struct Unfinished {
    path: PathBuf,
    place: Arc<Workplace>,
}

impl Unfinished {
    /// Where the unfinished analysis of an output lies.
    #[must_use]
    pub fn place(out: &Path) -> PathBuf {
        unfinished(out, "analyzing")
    }

    /// Refuses a directory of that name that is no unfinished analysis.
    ///
    /// # Errors
    /// Request: as said.
    pub fn check(place: &Workplace) -> Result<()> {
        refuse_other_work(&Self::place(place.target()), "analyze", "analysis")
    }

    /// Opens or makes the directory of the analysis whose output `place` is for. `deciding` is all that a measurement
    /// depends on; what was begun with another is begun afresh.
    ///
    /// # Errors
    /// Request: something else is there. Work: it cannot be made.
    pub fn open(place: Arc<Workplace>, deciding: &Map<String, Value>, progress: &dyn Progress) -> Result<Self> {
        Self::check(&place)?;
        let path = Self::place(place.target());
        let settings = path.join(SETTINGS);
        if path.exists() {
            let before: Option<Map<String, Value>> = files::json(&settings, Bound::RECORD).ok();
            if before.as_ref() != Some(deciding) {
                if before.is_some() {
                    let fault = "holds an unfinished analysis of another model or text, or by other settings";
                    progress.note(&format!("{} {fault}: begun afresh", from_here(&path)));
                }
                place.discard(&path)?;
            }
        }
        if !path.exists() {
            claim(&path)?;
            place.make_dir(&path, ENTRIES)?;
            write(&settings, deciding).inspect_err(|_| drop(place.discard(&path)))?;
        }
        Ok(Self { path, place })
    }

    /// The scores of `metrics` of a model of `layers` layers, where they were all measured.
    #[must_use]
    pub fn scores(&self, metrics: &[&'static Metric], layers: usize) -> Option<Vec<Scores>> {
        let scores: Vec<Scores> = files::json(&self.path.join(SCORES), Bound::ANALYSIS).ok()?;
        let is_sound = |(scores, metric): (&Scores, &&Metric)| {
            scores.metric == metric.name && check_scores(scores, &metric.subject.rows(layers)).is_ok()
        };
        (scores.len() == metrics.len() && scores.iter().zip(metrics).all(is_sound)).then_some(scores)
    }

    /// Keeps them.
    ///
    /// # Errors
    /// Work: the disk is full.
    pub fn keep_scores(&self, scores: &[Scores]) -> Result<()> {
        write(&self.path.join(SCORES), scores)
    }

    /// The journal of what is measured on sequences of these lengths.
    ///
    /// # Errors
    /// As [`Journal::open`].
    pub fn journal(&self, lengths: Vec<usize>) -> Result<Journal> {
        Journal::open(&self.path.join(JOURNAL), lengths)
    }

    /// Says that the output comes next, whose file `known_by` is made.
    ///
    /// # Errors
    /// Work: the disk is full.
    pub fn note_done(place: &Workplace, known_by: &Path) -> Result<()> {
        let path = Self::place(place.target());
        match path.exists() && Self::check(place).is_ok() {
            true => write_file(&path.join(DONE), true, sha256(known_by, &Silent)?.as_bytes()),
            false => Ok(()),
        }
    }

    /// Whether the output whose file `known_by` is came of what lies beside it, which a kill kept from being removed.
    #[must_use]
    pub fn is_done(out: &Path, known_by: &Path) -> bool {
        let done = files::read_text(&Self::place(out).join(DONE), files::NOTE);
        done.is_ok_and(|done| known_by.is_file() && sha256(known_by, &Silent).is_ok_and(|known| known == done))
    }

    /// Removes what lies beside the output that `place` is for: it is done.
    ///
    /// # Errors
    /// Request: somebody else's files are in it; it stays. Work: it cannot be removed.
    pub fn remove(place: &Workplace) -> Result<()> {
        place.discard(&Self::place(place.target()))
    }

    /// After an analysis that failed: the directory goes unless something was measured.
    pub fn close(self) {
        let is_kept = |name: &str| self.path.join(name).metadata().is_ok_and(|file| file.len() > 0);
        if !is_kept(SCORES) && !is_kept(JOURNAL) {
            // what stays behind is begun afresh by the next one
            drop(self.place.discard(&self.path));
        }
    }
}

fn write(path: &Path, value: &(impl serde::Serialize + ?Sized)) -> Result<()> {
    let text = serde_json::to_vec(value).map_err(|error| Error::work(error.to_string()))?;
    write_file(path, true, &text)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::{Moments, metric};
    use super::*;
    use crate::checkpoint::Origin;

    #[test]
    fn another_model_text_or_setting_begins_afresh() {
        let dir = tempfile::tempdir().unwrap();
        let out = dir.path().join("out");
        let open = |seed: u64| {
            let place = Arc::new(Workplace::open(&out, &Origin::program("analyze")).unwrap());
            let deciding = Map::from_iter([("seed".to_owned(), json!(seed))]);
            Unfinished::open(place, &deciding, &Silent).unwrap()
        };
        let metrics = [metric("layer-loss").unwrap(), metric("js").unwrap()];
        let scores = metrics.map(|metric| {
            let mut moments = Moments::new(vec![4]);
            moments.push(1.0, &[0.1, 1.0 / 3.0, 0.3, 1e-300]);
            moments.push(3.0, &[0.2, 0.7, -0.3, 5.0]);
            moments.finish(metric.name)
        });
        let work = open(1);
        assert_eq!(work.scores(&metrics, 4), None);
        work.keep_scores(&scores).unwrap();
        drop(work);
        let work = open(1);
        assert_eq!(work.scores(&metrics, 4), Some(scores.to_vec()));
        assert_eq!((work.scores(&metrics, 5), work.scores(&metrics[..1], 4)), (None, None));
        work.close();
        assert_eq!(open(2).scores(&metrics, 4), None);
        open(2).close();
        assert!(!Unfinished::place(&out).exists(), "nothing was measured");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn somebody_elses_directory_stays() {
        let dir = tempfile::tempdir().unwrap();
        let theirs = dir.path().join("out.analyzing");
        std::fs::create_dir(&theirs).unwrap();
        std::fs::write(theirs.join("settings.json"), "{}").unwrap();
        let place = Arc::new(Workplace::open(&dir.path().join("out"), &Origin::program("analyze")).unwrap());
        let error = Unfinished::open(place, &Map::new(), &Silent).unwrap_err();
        assert!(error.exit_code() == 2 && error.to_string().contains("no unfinished analysis"), "{error}");
        assert_eq!(std::fs::read_to_string(theirs.join("settings.json")).unwrap(), "{}");
    }
}
