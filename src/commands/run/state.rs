//! `run.json`: which stages are done, with what they were made from and what came of them. A stage whose key is still
//! the same is not done again.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::Instant;

use candle_core::Device;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest, Sha256};

use super::view::duration;
use crate::checkpoint::{
    Origin, Workplace, adopt, can_work_in, check_place, claim, has_leftovers, lock_dir, work_in, write_file,
};
use crate::files::{self, Bound};
use crate::heal::WorkDir;
use crate::importance::Unfinished;
use crate::progress::Progress;
use crate::{Context, Error, Result, ops};

/// Name of the state's file.
pub(super) const FILE: &str = "run.json";

/// A run's directory and what is done in it. No other process works there meanwhile.
#[derive(Debug)]
pub(super) struct State {
    dir: PathBuf,
    kept: Kept,
    /// `None` where the system locks no directories.
    _lock: Option<File>,
}

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Kept {
    prune: String,
    stages: BTreeMap<String, Entry>,
}

impl Kept {
    fn read(path: &Path) -> Result<Self> {
        if !path.exists() {
            return Ok(Self { prune: env!("CARGO_PKG_VERSION").to_owned(), stages: BTreeMap::new() });
        }
        let broken = |error: serde_json::Error| Error::work(format!("not the state of a run: {error}"));
        serde_json::from_value(files::json(path, Bound::RECORD)?).map_err(broken).context(|| path.display())
    }
}

/// A stage that was begun.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    /// Digest of everything that decides its result.
    key: String,
    /// Seconds of work on it, by all processes; what was killed could not count its own.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    seconds: Option<f64>,
    /// What came of it; absent while it is not finished.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    report: Option<Value>,
}

/// One stage.
pub(super) struct Stage<'a> {
    /// Its name, which is the path of its output below the run's directory.
    pub(super) name: &'a str,
    /// Digest of everything that decides its result.
    pub(super) key: String,
    /// What has to be there for it to count as done, below the run's directory: another stage is going to read it.
    pub(super) needed: Option<&'a str>,
}

/// Refuses a directory in which something else than a run is.
///
/// # Errors
/// Request: as said.
fn refuse_other(dir: &Path) -> Result<()> {
    check_place(dir)?;
    if dir.exists() && !can_work_in(dir, "run")? {
        let fault = format!("{} exists and holds no run (no {FILE}): name another directory", dir.display());
        return Err(Error::request(fault));
    }
    Ok(())
}

/// The digest of what decides a result.
pub(super) fn key(of: &Value) -> String {
    let text = format!("{} {of}", env!("CARGO_PKG_VERSION"));
    Sha256::digest(text).iter().take(16).map(|byte| format!("{byte:02x}")).collect()
}

impl State {
    /// Opens the run in `dir`, or begins one there.
    ///
    /// # Errors
    /// Request: the directory holds something else, or another run works there. Work: a broken state.
    pub(super) fn open(dir: &Path) -> Result<Self> {
        let path = dir.join(FILE);
        refuse_other(dir)?;
        if !dir.exists() || has_leftovers(dir) {
            let place = Workplace::open(dir, &Origin::program("run"))?;
            if !dir.exists() {
                place.make_dir(place.target(), &[FILE])?;
            }
        }
        let lock = lock_dir(dir)?;
        refuse_other(dir)?;
        work_in(dir, "run")?;
        let kept = Kept::read(&path)?;
        // where an earlier version left no mark, its own record says what is a run's
        let mut parts: Vec<String> =
            kept.stages.keys().flat_map(|name| [name.clone(), format!("{name}.healing")]).collect();
        parts.extend(kept.stages.keys().filter_map(|name| Some(name.split_once('/')?.0.to_owned())));
        adopt(dir, &parts.iter().map(String::as_str).collect::<Vec<_>>())?;
        let state = Self { dir: dir.to_owned(), kept, _lock: lock };
        // a run that was killed in its last write saves nothing again: what it left there goes here
        if !path.exists() || has_leftovers(&path) {
            state.save()?;
        }
        Ok(state)
    }

    /// What is done in `dir`, to look at: nothing is made, nothing is locked. Without a directory nothing is done.
    ///
    /// # Errors
    /// Request: the directory holds something else. Work: a broken state.
    pub(super) fn look(dir: Option<&Path>) -> Result<Self> {
        let Some(dir) = dir else { return Ok(Self { dir: PathBuf::new(), kept: Kept::default(), _lock: None }) };
        refuse_other(dir)?;
        Ok(Self { dir: dir.to_owned(), kept: Kept::read(&dir.join(FILE))?, _lock: None })
    }

    /// The run's directory.
    pub(super) fn dir(&self) -> &Path {
        &self.dir
    }

    /// Whether `stage` need not be done.
    pub(super) fn is_done(&self, stage: &Stage<'_>) -> bool {
        let done = self.kept.stages.get(stage.name).is_some_and(|e| e.key == stage.key && e.report.is_some());
        done && stage.needed.is_none_or(|path| self.dir.join(path).exists())
    }

    /// Does `stage` unless it is done, and keeps what came of it. What an earlier run with another recipe left in its
    /// place is removed first; what an unfinished one left is there to go on from.
    ///
    /// # Errors
    /// Those of `work`, the stage's name in front; the disk's.
    pub(super) fn run<T: Serialize + DeserializeOwned>(
        &mut self,
        stage: &Stage<'_>,
        progress: &dyn Progress,
        work: impl FnOnce(&Path, &dyn Progress) -> Result<T>,
    ) -> Result<T> {
        let (name, out) = (stage.name, self.dir.join(stage.name));
        if self.is_done(stage) {
            return self.report(name);
        }
        // what another stage's settings asked for holds no longer
        ops::settle_dtype(&Device::Cpu, "f32")?;
        if self.kept.stages.get(name).is_none_or(|entry| entry.key != stage.key) {
            if self.kept.stages.get(name).is_some_and(|entry| entry.report.is_some()) {
                progress.warn("what decides it has changed since; made again");
            }
            claim(&out)?;
            claim(&WorkDir::place(&out))?;
            let place = Workplace::open(&out, &Origin::program("run"))?;
            for left in [out.clone(), WorkDir::place(&out), Unfinished::place(&out)] {
                place.discard(&left)?;
            }
        }
        let before = self.worked(stage);
        let begun = Entry { key: stage.key.clone(), seconds: before, report: None };
        self.kept.stages.insert(name.to_owned(), begun.clone());
        self.save()?;
        let started = Instant::now();
        let report = work(&out, progress);
        let seconds = started.elapsed().as_secs_f64();
        let all = Some(before.unwrap_or(0.0) + seconds);
        let report = match report {
            Ok(report) => report,
            Err(error) => {
                self.kept.stages.insert(name.to_owned(), Entry { seconds: all, ..begun });
                // the error that there is says more than one of counting
                drop(self.save());
                return Err(error).context(|| name);
            }
        };
        let value = serde_json::to_value(&report).map_err(|error| Error::work(error.to_string()))?;
        self.kept.stages.insert(name.to_owned(), Entry { seconds: all, report: Some(value), ..begun });
        self.save()?;
        let took = if seconds < 60.0 { format!("{seconds:.1} s") } else { duration(seconds) };
        progress.reached(&format!("done in {took}"));
        Ok(report)
    }

    /// Seconds that earlier processes have worked on `stage` as it is now.
    pub(super) fn worked(&self, stage: &Stage<'_>) -> Option<f64> {
        self.kept.stages.get(stage.name).filter(|entry| entry.key == stage.key)?.seconds
    }

    /// Seconds that each stage took.
    pub(super) fn seconds(&self) -> BTreeMap<String, f64> {
        self.kept.stages.iter().filter_map(|(name, entry)| Some((name.clone(), entry.seconds?))).collect()
    }

    fn report<T: DeserializeOwned>(&self, name: &str) -> Result<T> {
        let value = self.kept.stages.get(name).and_then(|entry| entry.report.clone()).unwrap_or_default();
        let broken = |error: serde_json::Error| Error::work(format!("{name}: {error}"));
        serde_json::from_value(value).map_err(broken).context(|| self.dir.join(FILE).display().to_string())
    }

    fn save(&self) -> Result<()> {
        let text = serde_json::to_string_pretty(&self.kept).map_err(|error| Error::work(error.to_string()))?;
        write_file(&self.dir.join(FILE), true, (text + "\n").as_bytes())
    }
}

/// Removes the run in `dir`, if there is one.
///
/// # Errors
/// Request: another run works there, or somebody else's files are in it. Work: the file system's.
pub(in crate::commands) fn forget(dir: &Path) -> Result<()> {
    if dir.symlink_metadata().is_err() {
        return Ok(());
    }
    drop(State::open(dir)?);
    let place = Workplace::open(dir, &Origin::program("run"))?;
    let _lock = lock_dir(dir)?;
    place.discard(dir)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::checkpoint::{OutputDir, write_new};
    use crate::progress::Silent;

    fn stage<'a>(name: &'a str, key: &str) -> Stage<'a> {
        Stage { name, key: key.to_owned(), needed: Some(name) }
    }

    fn make(state: &mut State, stage: &Stage<'_>, result: usize) -> Result<usize> {
        state.run(stage, &Silent, |out, _| {
            let made = OutputDir::create(out, true, &Origin::program("test"))?;
            write_new(&made.path().join("file"), result.to_string())?;
            made.commit().map(|()| result)
        })
    }

    #[test]
    fn what_is_done_stays_done_until_it_changes() {
        let dir = tempfile::tempdir().unwrap();
        let run = dir.path().join("run");
        let mut state = State::open(&run).unwrap();
        assert!(State::open(&run).unwrap_err().to_string().contains("another run"));
        let other = OutputDir::create(&run, true, &Origin::program("cut")).unwrap_err().to_string();
        assert!(other.contains("another run"), "nor does another command replace it meanwhile: {other}");
        assert_eq!(make(&mut state, &stage("a/b", "1"), 7).unwrap(), 7);
        assert_eq!(make(&mut state, &stage("a/b", "1"), 8).unwrap(), 7, "not done again");
        drop(state);
        let mut state = State::open(&run).unwrap();
        assert_eq!(make(&mut state, &stage("a/b", "1"), 8).unwrap(), 7, "nor by the next process");
        assert_eq!(make(&mut state, &stage("a/b", "2"), 9).unwrap(), 9);
        assert_eq!(fs::read_to_string(run.join("a/b/file")).unwrap(), "9");

        fs::remove_dir_all(run.join("a")).unwrap();
        let unneeded = Stage { needed: None, ..stage("a/b", "2") };
        assert_eq!(make(&mut state, &unneeded, 1).unwrap(), 9);
        assert_eq!(make(&mut state, &stage("a/b", "2"), 1).unwrap(), 1, "its output is gone and needed");
        drop(state);
        // killed between putting the state in its place and removing what it was written in
        let left = run.join(".run.json.prune");
        fs::create_dir(&left).unwrap();
        drop(State::open(&run).unwrap());
        assert!(!left.exists());
    }

    #[test]
    fn an_unfinished_stage_goes_on_where_it_was() {
        let dir = tempfile::tempdir().unwrap();
        let mut state = State::open(dir.path()).unwrap();
        let fail = |state: &mut State, key: &str| {
            let failed = state.run::<usize>(&stage("a", key), &Silent, |out, _| {
                let before = out.join("half").exists();
                if !before {
                    let made = OutputDir::create(out, true, &Origin::program("test"))?;
                    write_new(&made.path().join("half"), "x")?;
                    made.commit()?;
                }
                Err(Error::work(format!("found {before}")))
            });
            failed.unwrap_err().to_string()
        };
        assert_eq!(fail(&mut state, "1"), "a: found false");
        let worked = |state: &State, key: &str| state.worked(&stage("a", key));
        let before = worked(&state, "1").unwrap();
        assert_eq!(fail(&mut state, "1"), "a: found true");
        assert!(worked(&state, "1").unwrap() > before, "all processes count");
        assert_eq!(worked(&state, "2"), None);
        assert_eq!(fail(&mut state, "2"), "a: found false", "another recipe's leftovers are gone");
    }

    #[test]
    fn other_directories_are_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("thesis.tex"), "x").unwrap();
        let error = State::open(dir.path()).unwrap_err();
        assert!(error.to_string().contains("holds no run") && error.exit_code() == 2, "{error}");
        fs::write(dir.path().join(FILE), "{}").unwrap();
        assert!(State::open(dir.path()).unwrap_err().to_string().contains(FILE));
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2);
        assert_eq!(key(&serde_json::json!({"a": 1})).len(), 32);
    }
}
