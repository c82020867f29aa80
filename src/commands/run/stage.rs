//! The doing of a stage: by one process at a time, under a claim. What an unfinished one left goes on, whoever left it.

use std::path::{Path, PathBuf};
use std::time::Instant;

use candle_core::Device;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::cuts::MERGED;
use super::kept::{By, Entry};
use super::state::State;
use super::view::duration;
use crate::checkpoint::{Asked, Lease, Origin, Workplace, claim, has_leftovers, write_new};
use crate::heal::WorkDir;
use crate::importance::Unfinished;
use crate::progress::Progress;
use crate::{Context, Error, Result, interrupt, ops};

/// One stage.
pub(super) struct Stage<'a> {
    /// Its name, which is the path of its output below the run's directory.
    pub(super) name: &'a str,
    /// Digest of everything that decides its result.
    pub(super) key: String,
    /// What has to be there for it to count as done, below the run's directory: another stage is going to read it.
    pub(super) needed: Option<&'a str>,
}

/// What comes of looking at a stage.
#[derive(Debug, PartialEq)]
pub(super) enum Step<T> {
    /// It is done, and this came of it.
    Is(T),
    /// Another process is at it, or it failed there, or what it needs is not done.
    Waits,
}

impl<T> Step<T> {
    /// The same, with what came of it changed.
    pub(super) fn map<U>(self, change: impl FnOnce(T) -> U) -> Step<U> {
        match self {
            Self::Is(done) => Step::Is(change(done)),
            Self::Waits => Step::Waits,
        }
    }
}

/// A stage that is being done.
pub(super) struct Job<'a> {
    /// Where its output goes for now.
    pub(super) out: PathBuf,
    lease: &'a Lease,
}

impl Job<'_> {
    /// Where something else goes for now that is to be called `name`.
    pub(super) fn beside(&self, name: &str) -> PathBuf {
        self.lease.work().join(name)
    }

    /// Gives what was made as `name` its place, and what stood there up.
    ///
    /// # Errors
    /// Work: another process has taken the stage over; the disk's.
    pub(super) fn place(&self, name: &str, to: &Path) -> Result<()> {
        claim(to)?;
        self.lease.place(name, to)
    }

    /// Writes the file at `path`, which is there.
    ///
    /// # Errors
    /// As [`Job::place`].
    pub(super) fn write(&self, path: &Path, bytes: &[u8]) -> Result<()> {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        write_new(&self.beside(name), bytes)?;
        self.place(name, path)
    }
}

/// The directories that a stage makes or may leave, by its output.
fn outputs(out: &Path) -> [PathBuf; 3] {
    [out.to_owned(), WorkDir::place(out), Unfinished::place(out)]
}

impl State {
    /// Does `stage` unless it is done or another process is at it, and keeps what came of it. What an earlier run with
    /// another recipe left in its place is removed first; what an unfinished one left is there to go on from.
    ///
    /// # Errors
    /// Those of `work`, the stage's name in front; the disk's. Request: another run with another recipe works there.
    pub(super) fn run<T: Serialize + DeserializeOwned>(
        &mut self,
        stage: &Stage<'_>,
        progress: &dyn Progress,
        work: impl FnOnce(&Job<'_>, &dyn Progress) -> Result<T>,
    ) -> Result<Step<T>> {
        let name = stage.name;
        self.waits.remove(name);
        if self.is_done(stage) {
            return self.report(name).map(Step::Is);
        }
        if self.has_failed(stage)? {
            return Ok(Step::Waits);
        }
        let before = self.kept.stages.get(name).map_or(0, |entry| entry.claim);
        let lease = match self.leases.ask(name, &stage.key, before)? {
            Asked::Granted(lease) => lease,
            Asked::Held(holder) if holder.about != stage.key => return Err(self.other_recipe(stage)),
            Asked::Held(holder) => {
                self.waits.insert(name.to_owned(), holder);
                return Ok(Step::Waits);
            }
        };
        // what others did until now
        self.refresh()?;
        if self.is_done(stage) {
            return self.report(name).map(Step::Is);
        }
        if self.has_failed(stage)? {
            return Ok(Step::Waits);
        }
        // what another stage's settings asked for holds no longer
        ops::settle_dtype(&Device::Cpu, "f32")?;
        let done = self.work(stage, &lease, progress, work);
        match done {
            Err(_) if lease.is_lost() && interrupt::check().is_ok() => {
                progress.warn("this process was not heard of for too long, and another has taken the stage over");
                Ok(Step::Waits)
            }
            done => done.map(Step::Is),
        }
    }

    fn work<T: Serialize>(
        &mut self,
        stage: &Stage<'_>,
        lease: &Lease,
        progress: &dyn Progress,
        work: impl FnOnce(&Job<'_>, &dyn Progress) -> Result<T>,
    ) -> Result<T> {
        let (name, place) = (stage.name, self.dir.join(stage.name));
        self.begin(stage, lease, &place, progress)?;
        let before = self.worked(stage);
        let by = Some(By { host: lease.host().to_owned(), pid: std::process::id(), shard: lease.shard() });
        let begun = Entry { key: stage.key.clone(), seconds: before, claim: lease.number(), by, ..Entry::default() };
        self.update(|kept| kept.put(name, begun.clone()))?;
        let leaf = place.file_name().and_then(|name| name.to_str()).unwrap_or(name);
        let job = Job { out: lease.work().join(leaf), lease };
        outputs(&job.out).iter().try_for_each(|made| claim(made))?;
        let started = Instant::now();
        let report = lease.interrupt().run(|| work(&job, progress)).and_then(|report| {
            let value = serde_json::to_value(&report).map_err(|error| Error::work(error.to_string()))?;
            if job.out.exists() {
                self.make_room(&[&place])?;
                lease.place(leaf, &place)?;
            }
            Ok((report, value))
        });
        let seconds = started.elapsed().as_secs_f64();
        let all = Some(before.unwrap_or(0.0) + seconds);
        let (report, value) = match report {
            Ok(done) => done,
            Err(error) => {
                let fault = match &error {
                    Error::Interrupted => None,
                    error => error.to_string().lines().next().map(str::to_owned),
                };
                // the error that there is says more than one of counting
                if !lease.is_lost() {
                    drop(self.leave(lease, &place));
                    let ended = Entry { seconds: all, error: fault, ..begun };
                    drop(self.update(|kept| kept.put(name, ended.clone())));
                }
                return Err(error).context(|| name);
            }
        };
        self.update(|kept| kept.put(name, Entry { seconds: all, report: Some(value.clone()), ..begun.clone() }))?;
        if self.kept.stages.get(name).is_none_or(|entry| entry.claim != lease.number()) {
            lease.check()?;
        }
        self.made.push(name.to_owned());
        let took = if seconds < 60.0 { format!("{seconds:.1} s") } else { duration(seconds) };
        progress.reached(&format!("done in {took}"));
        Ok(report)
    }

    /// Clears the place of what another recipe left, or takes what is unfinished to where the work goes on.
    fn begin(&self, stage: &Stage<'_>, lease: &Lease, place: &Path, progress: &dyn Progress) -> Result<()> {
        if has_leftovers(place) {
            // of a run of an earlier version
            drop(Workplace::open(place, &Origin::program("run"))?);
        }
        let before = self.kept.stages.get(stage.name);
        if before.is_some_and(|entry| entry.key == stage.key) {
            return outputs(place).iter().try_for_each(|left| lease.take_in(left));
        }
        if before.is_some_and(|entry| entry.report.is_some()) {
            progress.warn("what decides it has changed since; made again");
        }
        lease.clear()?;
        // somebody else's is told here
        outputs(place).iter().take(2).try_for_each(|left| self.list(left))?;
        outputs(place).iter().try_for_each(|left| lease.discard(left, false))
    }

    /// Puts what is unfinished beside where it would stand, for the next to go on from.
    fn leave(&self, lease: &Lease, place: &Path) -> Result<()> {
        for left in outputs(place) {
            let name = left.file_name().and_then(|name| name.to_str()).unwrap_or_default().to_owned();
            if lease.work().join(&name).is_dir() {
                self.make_room(&[&left])?;
                lease.place(&name, &left)?;
            }
        }
        Ok(())
    }

    /// Removes the models that can be made again from the adapter.
    ///
    /// # Errors
    /// The disk's.
    pub(super) fn tidy(&self, model: &str, healed: &str) -> Result<()> {
        let has_adapter = self.dir().join(healed).join("adapter").exists();
        for (name, can_go) in [(model.to_owned(), true), (format!("{healed}/{MERGED}"), has_adapter)] {
            let path = self.dir().join(&name);
            if can_go && (path.exists() || has_leftovers(&path)) {
                // another process that is at it does the same
                let Asked::Granted(lease) = self.leases.ask(&format!("{name}/tidy"), "", 0)? else { continue };
                if has_leftovers(&path) {
                    drop(Workplace::open(&path, &Origin::program("run"))?);
                }
                lease.discard(&path, false)?;
            }
        }
        Ok(())
    }
}
