//! A lease in hand: signs of life, and what is done under it.

use std::fs::{self, File};
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::{Builder, JoinHandle};
use std::time::{Duration, Instant};

use super::{BEAT, GONE, Holder, holder, numbers, place, stands};
use crate::checkpoint::belongings::{self, refuse_strangers};
use crate::checkpoint::mark::{MARK, adopt, claim};
use crate::checkpoint::output::{sync_dir, sync_tree};
use crate::interrupt::{self, Interrupt};
use crate::{Error, Result};

/// A lease that this process holds. Dropped, it is given up, and what was made under it and has no place yet is gone.
#[derive(Debug)]
pub(crate) struct Lease {
    pub(super) dir: PathBuf,
    pub(super) number: u64,
    work: PathBuf,
    holder: Holder,
    life: Arc<Life>,
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
    _lock: File,
}

/// Whether the lease still is this process's.
#[derive(Debug)]
struct Life {
    /// The directory that all work in.
    home: PathBuf,
    /// The lease's.
    dir: PathBuf,
    slug: String,
    number: u64,
    /// The holder's.
    id: String,
    is_lost: AtomicBool,
    interrupt: Interrupt,
}

impl Life {
    /// Whether another process has taken the lease over.
    fn is_over(&self) -> bool {
        let is_succeeded = || numbers(&self.home, &self.slug).is_ok_and(|all| all.iter().any(|n| *n > self.number));
        // one who was slow to see that this one was succeeded may have taken its number
        let is_another = || holder(&self.dir).is_some_and(|standing| standing.id != self.id);
        if !self.is_lost.load(Ordering::Relaxed) && (!self.dir.exists() || is_succeeded() || is_another()) {
            self.lose();
        }
        self.is_lost.load(Ordering::Relaxed)
    }

    fn lose(&self) {
        self.is_lost.store(true, Ordering::Relaxed);
        self.interrupt.request();
    }
}

impl Lease {
    /// Shows that the holder of the lease that was just made in `dir` lives, until it is dropped.
    pub(super) fn start(
        home: &Path,
        dir: PathBuf,
        (slug, number, out): (String, u64, String),
        (interval, timeout): (Duration, Duration),
        (holder, lock): (Holder, File),
    ) -> Result<Self> {
        let interrupt = Interrupt::of_part(&interrupt::current());
        let (home, is_lost) = (home.to_owned(), AtomicBool::new(false));
        let life = Life { home, dir: dir.clone(), slug, number, id: holder.id.clone(), is_lost, interrupt };
        let life = Arc::new(life);
        let (stop, stopped) = channel();
        let beating = life.clone();
        let beat = move || {
            let (mut beats, mut heard) = (0u64, Instant::now());
            while stopped.recv_timeout(interval) == Err(RecvTimeoutError::Timeout) {
                if beating.is_over() {
                    return;
                }
                beats += 1;
                match fs::write(beating.dir.join(BEAT), beats.to_string()) {
                    Ok(()) => heard = Instant::now(),
                    // others may be hearing nothing
                    Err(_) if heard.elapsed() > timeout / 2 => return beating.lose(),
                    Err(_) => {}
                }
            }
        };
        let thread = Builder::new().name("lease".into()).spawn(beat);
        let thread = thread.map_err(|error| Error::work(format!("no further thread: {error}")))?;
        Ok(Self { work: dir.join(out), holder, dir, number, life, stop: Some(stop), thread: Some(thread), _lock: lock })
    }

    /// Name of the machine, as others see it.
    pub(crate) fn host(&self) -> &str {
        &self.holder.host
    }

    /// Which of several the holder calls itself.
    pub(crate) fn shard(&self) -> Option<String> {
        self.holder.shard.clone()
    }

    /// Its number.
    pub(crate) fn number(&self) -> u64 {
        self.number
    }

    /// Where to work.
    pub(crate) fn work(&self) -> &Path {
        &self.work
    }

    /// Asked for when the lease is lost, and when the work that it is a part of is to stop.
    pub(crate) fn interrupt(&self) -> &Interrupt {
        &self.life.interrupt
    }

    /// Whether another process has taken it over.
    pub(crate) fn is_lost(&self) -> bool {
        self.life.is_over()
    }

    /// Gives what is called `name` where the holder works its place at `to`, which is listed there; what stands there
    /// is removed.
    ///
    /// # Errors
    /// Work: the lease is lost, and nothing has changed; the file system's. Request: somebody else's files stand there.
    pub(crate) fn place(&self, name: &str, to: &Path) -> Result<()> {
        let from = self.work.join(name);
        let at = |error: io::Error| Error::io(to, &error);
        sync_tree(&from).map_err(at)?;
        self.check()?;
        self.discard(to, true)?;
        match fs::rename(&from, to) {
            Err(error) if error.kind() == ErrorKind::NotFound && self.is_lost() => return self.check(),
            done => done.map_err(at)?,
        }
        sync_dir(to.parent().unwrap_or(to)).map_err(at)
    }

    /// Moves the directory at `from`, if there is one, to where the holder works.
    ///
    /// # Errors
    /// Work: the lease is lost; the file system's.
    pub(crate) fn take_in(&self, from: &Path) -> Result<()> {
        let (true, Some(name)) = (from.is_dir(), from.file_name()) else { return Ok(()) };
        self.check()?;
        adopt(from, &[])?;
        let to = self.work.join(name);
        if to.exists() {
            // what the one before worked at is the newer
            return self.discard(from, false);
        }
        claim(&to)?;
        fs::rename(from, &to).map_err(|error| Error::io(from, &error))
    }

    /// Removes what is at `path`; with `dirs_alone` nothing but a directory, since a file is replaced in one step.
    ///
    /// # Errors
    /// Request: somebody else's files are in it; it stays. Work: the lease is lost; the file system's.
    pub(crate) fn discard(&self, path: &Path, dirs_alone: bool) -> Result<()> {
        let Ok(metadata) = path.symlink_metadata() else { return Ok(()) };
        if dirs_alone && !metadata.is_dir() {
            return Ok(());
        }
        if metadata.is_dir() {
            refuse_strangers(path)?;
        }
        self.check()?;
        if metadata.is_dir() {
            adopt(path, &[])?;
        }
        let gone = self.dir.join(GONE);
        let at = |error: io::Error| Error::io(path, &error);
        belongings::clear(&gone).map_err(at)?;
        fs::rename(path, &gone).map_err(at)?;
        belongings::clear(&gone).map(drop).map_err(at)
    }

    /// Refuses to go on without the lease.
    ///
    /// # Errors
    /// Work: it is lost.
    pub(crate) fn check(&self) -> Result<()> {
        match self.is_lost() {
            true => Err(Error::work("another process has taken this over")),
            false => Ok(()),
        }
    }

    /// Removes what an earlier holder left unfinished.
    ///
    /// # Errors
    /// As [`Lease::discard`].
    pub(crate) fn clear(&self) -> Result<()> {
        let entries = fs::read_dir(&self.work).map_err(|error| Error::io(&self.work, &error))?;
        let paths = entries.flatten().map(|entry| entry.path()).filter(|path| !path.ends_with(MARK));
        paths.collect::<Vec<_>>().iter().try_for_each(|path| self.discard(path, false))
    }

    /// Removes a lease that was taken too late: one with a higher number stands.
    pub(super) fn withdraw(self) {
        if stands(&self.dir, &self.holder) {
            self.leave();
        }
    }

    /// Removes it; it loses its name before its files.
    fn leave(&self) {
        let gone = Self::departed(&self.dir, &super::id());
        if fs::rename(&self.dir, &gone).is_ok() {
            drop(belongings::clear(&gone));
        }
    }

    /// The leases with lower numbers.
    pub(super) fn lower(&self, slug: &str) -> Result<Vec<PathBuf>> {
        let home = &self.life.home;
        let lower = numbers(home, slug)?.into_iter().rev().filter(|number| *number < self.number);
        Ok(lower.map(|number| place(home, slug, number)).collect())
    }

    /// The name under which the lease in `dir` goes.
    pub(super) fn departed(dir: &Path, id: &str) -> PathBuf {
        let name = dir.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let slug = name.strip_suffix(MARK).and_then(|name| name.rsplit_once('.')).map_or(name, |(slug, _)| slug);
        dir.with_file_name(format!("{slug}.p{id}{MARK}"))
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
        // of one that is lost, what is there is the successor's to remove
        if !self.is_lost() {
            self.leave();
        }
    }
}

#[cfg(test)]
impl Lease {
    /// As one that is stopped.
    pub(super) fn fall_silent(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }

    /// As one whose process is killed; what it held stays.
    pub(super) fn die(&mut self) {
        self.fall_silent();
        self.life.lose();
        // the lock of a process that is gone
        drop(std::mem::replace(&mut self._lock, tempfile::tempfile().unwrap()));
    }

    /// As one that has not looked yet.
    pub(super) fn believe(&self) {
        self.life.is_lost.store(false, Ordering::Relaxed);
    }
}
