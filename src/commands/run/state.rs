//! The state of a run's stages, which all that work at it share. A stage whose key is still the same is not done again.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde::de::DeserializeOwned;
use serde_json::Value;
use sha2::{Digest, Sha256};

use super::REPORT;
use super::kept::{Entry, FILE, Kept};
use super::place::{prepare, refuse_other};
use super::stage::Stage;
use super::worker::Worker;
use crate::checkpoint::{
    Asked, Holder, Lease, Leases, Origin, Sharing, Workplace, claim, create_dir, has_leftovers, is_listed, made_by,
    write_new,
};
use crate::interrupt::{self, Interrupt};
use crate::{Context, Error, Result};

/// A run's directory and what is done in it.
#[derive(Debug)]
pub(super) struct State {
    pub(super) dir: PathBuf,
    pub(super) kept: Kept,
    pub(super) leases: Leases,
    is_shared: bool,
    /// Claims that were known when this process came.
    opened: BTreeMap<String, u64>,
    /// Stages that this process has done.
    pub(super) made: Vec<String>,
    /// Stages that other processes hold, and what failed there, as the last look at each found it.
    pub(super) waits: BTreeMap<String, Holder>,
    fails: BTreeMap<String, String>,
    /// `None` where the system locks no directories.
    _lock: Option<File>,
}

/// The digest of what decides a result.
pub(super) fn key(of: &Value) -> String {
    let text = format!("{} {of}", env!("CARGO_PKG_VERSION"));
    Sha256::digest(text).iter().take(16).map(|byte| format!("{byte:02x}")).collect()
}

/// How long processes that come at once try to make one directory.
const OPENING: Duration = Duration::from_secs(3);
/// How long one who is to stop still waits for others.
const PATIENCE: Duration = Duration::from_secs(2);

impl State {
    /// Opens the run in `dir`, or begins one there.
    ///
    /// # Errors
    /// Request: the directory holds something else, or another run works there. Work: a broken state.
    pub(super) fn open(dir: &Path, worker: &Worker) -> Result<Self> {
        let sharing = if worker.shard.is_some() { Sharing::Shared } else { Sharing::Alone };
        let began = Instant::now();
        let (lock, kept) = loop {
            // others may be making it just now
            let is_settled = made_by(dir).is_some() && !has_leftovers(dir);
            match prepare(dir, sharing) {
                Err(_) if sharing == Sharing::Shared && !is_settled && began.elapsed() < OPENING => {
                    interrupt::check()?;
                    std::thread::sleep(Duration::from_millis(50));
                }
                prepared => break prepared?,
            }
        };
        let leases = Leases::of(dir, "run", worker.timeout, worker.shard.map(|shard| shard.to_string()));
        leases.sweep(sharing == Sharing::Alone && lock.is_some());
        let opened = kept.stages.iter().map(|(name, entry)| (name.clone(), entry.claim)).collect();
        let mut state =
            Self { opened, leases, is_shared: worker.shard.is_some(), _lock: lock, ..Self::seen(dir, kept) };
        // a run of an earlier version that was killed in its last write
        let path = dir.join(FILE);
        if has_leftovers(&path) {
            drop(Workplace::open_file(&path, &Origin::program("run"))?);
        }
        state.update(|_| ())?;
        Ok(state)
    }

    /// What is done in `dir`, to look at: nothing is made, nothing is locked. Without a directory nothing is done.
    ///
    /// # Errors
    /// Request: the directory holds something else. Work: a broken state.
    pub(super) fn look(dir: Option<&Path>) -> Result<Self> {
        let Some(dir) = dir else { return Ok(Self::seen(Path::new(""), Kept::default())) };
        refuse_other(dir)?;
        Ok(Self::seen(dir, Kept::read(&dir.join(FILE))?))
    }

    fn seen(dir: &Path, kept: Kept) -> Self {
        Self {
            dir: dir.to_owned(),
            kept,
            leases: Leases::of(dir, "run", Duration::MAX, None),
            is_shared: false,
            opened: BTreeMap::new(),
            made: Vec::new(),
            waits: BTreeMap::new(),
            fails: BTreeMap::new(),
            _lock: None,
        }
    }

    /// The run's directory.
    pub(super) fn dir(&self) -> &Path {
        &self.dir
    }

    /// Stages that this process has done.
    pub(super) fn made(&self) -> &[String] {
        &self.made
    }

    /// Whether `stage` need not be done.
    pub(super) fn is_done(&self, stage: &Stage<'_>) -> bool {
        let done = self.kept.stages.get(stage.name).is_some_and(|e| e.key == stage.key && e.report.is_some());
        done && stage.needed.is_none_or(|path| self.dir.join(path).exists())
    }

    /// Lists what is going to stand in the run's directory, and makes the directories around it.
    ///
    /// # Errors
    /// Request: somebody else's stands there. Work: the disk's.
    pub(super) fn make_room(&self, paths: &[&Path]) -> Result<()> {
        for path in paths {
            self.list(path)?;
            path.parent().filter(|parent| *parent != self.dir).map_or(Ok(()), create_dir)?;
        }
        Ok(())
    }

    /// Lists what is going to stand in the run's directory.
    ///
    /// # Errors
    /// As [`State::make_room`].
    pub(super) fn list(&self, path: &Path) -> Result<()> {
        if is_listed(path)? {
            return Ok(());
        }
        let _one_at_a_time = self.alone()?;
        claim(path)
    }

    /// Nobody else writes the run's own files while this is held. One who is to stop says so there first, unless that
    /// takes long.
    fn alone(&self) -> Result<Lease> {
        let began = Instant::now();
        loop {
            match Interrupt::new().run(|| self.leases.ask(FILE, "", 0))? {
                Asked::Granted(lease) => return Ok(lease),
                Asked::Held(_) if began.elapsed() < PATIENCE => std::thread::sleep(Duration::from_millis(5)),
                Asked::Held(_) => {
                    interrupt::check()?;
                    std::thread::sleep(Duration::from_millis(50));
                }
            }
        }
    }

    /// Changes what all know.
    ///
    /// # Errors
    /// Work: a broken state; the disk's. Interrupted, where others do not let go.
    pub(super) fn update(&mut self, change: impl Fn(&mut Kept)) -> Result<()> {
        let path = self.dir.join(FILE);
        loop {
            let lease = self.alone()?;
            let before = Kept::read(&path)?;
            let mut kept = before.clone();
            change(&mut kept);
            if kept != before || !path.exists() {
                write_new(&lease.work().join(FILE), kept.text()?)?;
                claim(&path)?;
                match lease.place(FILE, &path) {
                    Err(_) if lease.is_lost() => continue,
                    placed => placed?,
                }
            }
            self.kept = kept;
            return Ok(());
        }
    }

    pub(super) fn refresh(&mut self) -> Result<()> {
        self.kept = Kept::read(&self.dir.join(FILE))?;
        Ok(())
    }

    /// Says which stages there are before the report.
    ///
    /// # Errors
    /// The disk's.
    pub(super) fn plan(&mut self, names: &[String]) -> Result<()> {
        self.update(|kept| kept.planned = [names, &[REPORT.to_owned()]].concat())
    }

    /// Has `stage` done again, in a run that shares its directory only where what decides it is other than it was.
    ///
    /// # Errors
    /// The disk's.
    pub(super) fn renew(&mut self, stage: &Stage<'_>) -> Result<()> {
        let is_shared = self.is_shared;
        self.update(|kept| {
            if let Some(entry) = kept.stages.get_mut(stage.name).filter(|entry| !is_shared || entry.key != stage.key) {
                *entry = Entry { key: stage.key.clone(), claim: entry.claim, ..Entry::default() };
            }
        })
    }

    /// What the stages are made from and how often each was begun, as one digest.
    pub(super) fn digest(&self, names: &[String], of: &Value) -> String {
        let entries = names.iter().map(|name| self.kept.stages.get(name).map(|entry| (&entry.key, entry.claim)));
        key(&serde_json::json!([of, names, entries.collect::<Vec<_>>()]))
    }

    /// Whether another process has failed at `stage` since this one came: it would fail here as well.
    pub(super) fn has_failed(&mut self, stage: &Stage<'_>) -> Result<bool> {
        self.fails.remove(stage.name);
        let Some(entry) = self.kept.stages.get(stage.name) else { return Ok(false) };
        let is_new = self.is_shared && entry.claim > self.opened.get(stage.name).copied().unwrap_or(0);
        if is_new && entry.key != stage.key && !entry.key.is_empty() {
            return Err(self.other_recipe(stage));
        }
        let (true, Some(error)) = (is_new, &entry.error) else { return Ok(false) };
        let on = entry.by.as_ref().map_or_else(String::new, |by| format!(" (process {} on {})", by.pid, by.host));
        self.fails.insert(stage.name.to_owned(), format!("{error}{on}"));
        Ok(true)
    }

    pub(super) fn other_recipe(&self, stage: &Stage<'_>) -> Error {
        let (name, dir) = (stage.name, self.dir.display());
        Error::request(format!("{name}: another run works in {dir} by another recipe or other data; wait for its end"))
    }

    /// Begins a look at all stages.
    ///
    /// # Errors
    /// Work: a broken state.
    pub(super) fn look_again(&mut self) -> Result<()> {
        (self.waits, self.fails) = (BTreeMap::new(), BTreeMap::new());
        self.refresh()
    }

    /// Stages that other processes hold.
    pub(super) fn waits(&self) -> &BTreeMap<String, Holder> {
        &self.waits
    }

    /// The first stage that failed in another process, with what it said.
    pub(super) fn failed(&self) -> Option<Error> {
        self.fails.iter().next().map(|(name, error)| Error::work(format!("{name} failed: {error}")))
    }

    /// Waits until another process has done something, or has gone.
    ///
    /// # Errors
    /// Interrupted.
    pub(super) fn wait(&self) -> Result<()> {
        let path = self.dir.join(FILE);
        let before = fs::read(&path).ok();
        loop {
            let until = Instant::now() + self.leases.glance();
            while Instant::now() < until {
                interrupt::check()?;
                std::thread::sleep(Duration::from_millis(20).min(self.leases.glance()));
            }
            let is_free = self.waits.is_empty() || self.waits.keys().any(|name| !self.leases.is_held(name));
            if is_free || fs::read(&path).ok() != before {
                return Ok(());
            }
        }
    }

    /// Seconds that earlier processes have worked on `stage` as it is now.
    pub(super) fn worked(&self, stage: &Stage<'_>) -> Option<f64> {
        self.kept.stages.get(stage.name).filter(|entry| entry.key == stage.key)?.seconds
    }

    /// Seconds that each stage took.
    pub(super) fn seconds(&self) -> BTreeMap<String, f64> {
        self.kept.stages.iter().filter_map(|(name, entry)| Some((name.clone(), entry.seconds?))).collect()
    }

    pub(super) fn report<T: DeserializeOwned>(&self, name: &str) -> Result<T> {
        let value = self.kept.stages.get(name).and_then(|entry| entry.report.clone()).unwrap_or_default();
        let broken = |error: serde_json::Error| Error::work(format!("{name}: {error}"));
        serde_json::from_value(value).map_err(broken).context(|| self.dir.join(FILE).display().to_string())
    }
}

#[cfg(test)]
mod tests;
