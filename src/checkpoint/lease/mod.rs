//! Leases: of several processes, on several machines that share a file system, one at a time does a piece of work, and
//! one that has died or fallen silent is succeeded.
//!
//! A lease is a hidden directory in the directory that all work in, with a number: the highest is the one that holds.
//!
//! ```text
//! .WORK.3.prune/.prune        the mark
//! .WORK.3.prune/holder.json   who holds it
//! .WORK.3.prune/lock          which machine; locked for as long as the process lives
//! .WORK.3.prune/beat          a number that the holder makes larger now and then
//! .WORK.3.prune/out-ID/       where the holder works; what is finished is renamed from here to its place
//! .WORK.3.prune/from/         what the one before left there, while it is copied
//! ```
//!
//! It is made under another name and renamed, which fails where a lease of that number stands: one of several wins. Who
//! has seen the beat stand still for the time-out, by its own clock alone, takes the next number, and then moves all
//! out of the holder's `out-ID` and removes that. A holder that was only stopped finds nothing left to rename when it
//! wakes, so that it cannot touch what the other writes, whatever it believes.
//!
//! What this asks of a file system that machines share: renaming a directory is one step, and is refused where the new
//! name is that of a directory with something in it; a file that is opened shows what was in it when another machine
//! last closed it; who has made an entry in a directory then sees those that others made before. POSIX says the first,
//! NFS (versions 3 and 4) all three. Nothing is asked of clocks or of locks: those tell at once that a process of the
//! same machine has died, where there are any.

mod held;
mod succeed;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

pub(crate) use held::Lease;

use super::belongings;
use super::fingerprint::hex;
use super::mark::{MARK, mark};
use crate::files::{self, Bound};
use crate::{Error, Result, interrupt};

const HOLDER: &str = "holder.json";
const LOCK: &str = "lock";
const BEAT: &str = "beat";
const FROM: &str = "from";
const GONE: &str = "gone";
const OUT: &str = "out-";
/// Before another try, where another process was faster.
const PAUSE: Duration = Duration::from_millis(5);

/// Who holds a lease.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Holder {
    /// The piece of work.
    pub(crate) what: String,
    /// What decides what comes of it.
    pub(crate) about: String,
    /// Name of the machine.
    pub(crate) host: String,
    /// What tells machines apart, of one that was started again from what it was before.
    machine: String,
    /// Number of the process there.
    pub(crate) pid: u32,
    /// Which of several it calls itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) shard: Option<String>,
    /// Since when, in seconds since 1970 by that machine's clock: to be shown.
    pub(crate) since: u64,
    id: String,
}

impl std::fmt::Display for Holder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "process {} on {}", self.pid, self.host)
    }
}

/// What comes of asking for a lease.
#[derive(Debug)]
pub(crate) enum Asked {
    /// It is the asker's.
    Granted(Lease),
    /// Another process has it.
    Held(Holder),
}

/// A lease that stands in a directory.
#[derive(Debug)]
pub(crate) struct Standing {
    /// Who holds it.
    pub(crate) holder: Holder,
    /// When the holder was last heard of, by the clock of the file system.
    pub(crate) heard: Option<SystemTime>,
    /// The holder is known to be dead.
    pub(crate) is_dead: bool,
}

/// The leases of a directory.
#[derive(Debug)]
pub(crate) struct Leases {
    dir: PathBuf,
    command: &'static str,
    timeout: Duration,
    shard: Option<String>,
    watched: Mutex<BTreeMap<String, Watched>>,
}

/// What was seen of another holder's beat.
#[derive(Debug)]
struct Watched {
    beat: Vec<u8>,
    looked: Instant,
    silent: Duration,
}

impl Leases {
    /// Those in `dir`, for `command`, whose holders are succeeded when nothing is heard of them for `timeout`.
    pub(crate) fn of(dir: &Path, command: &'static str, timeout: Duration, shard: Option<String>) -> Self {
        Self { dir: dir.to_owned(), command, timeout, shard, watched: Mutex::default() }
    }

    /// Between two signs of life.
    fn interval(&self) -> Duration {
        (self.timeout / 8).min(Duration::from_secs(15))
    }

    /// How long one who waits sleeps between two looks.
    pub(crate) fn glance(&self) -> Duration {
        (self.interval() / 4).clamp(PAUSE, Duration::from_secs(2))
    }

    /// Asks for the lease of `what`; its number is higher than `after`, and than that of any that is succeeded. `about`
    /// decides what comes of the work. Where another process's is succeeded, what that one left is where the new
    /// holder works.
    ///
    /// # Errors
    /// Work: the file system's. Interrupted.
    pub(crate) fn ask(&self, what: &str, about: &str, after: u64) -> Result<Asked> {
        let slug = slug(what);
        loop {
            interrupt::check()?;
            let seen = numbers(&self.dir, &slug)?.into_iter().map(|number| (number, place(&self.dir, &slug, number)));
            let seen: Vec<_> = seen.map(|(number, dir)| (number, holder(&dir), dir)).collect();
            if seen.iter().any(|(_, holder, dir)| holder.is_none() && !dir.exists()) {
                // one went while this one looked: another may stand by now, under any number
                continue;
            }
            if let Some((_, Some(holder), dir)) = seen.iter().rev().find(|(_, holder, _)| holder.is_some())
                && !self.is_over(dir, holder)
            {
                return Ok(Asked::Held(holder.clone()));
            }
            let number = seen.last().map_or(0, |(number, ..)| *number).max(after) + 1;
            let Some(lease) = self.take(what, about, number)? else {
                std::thread::sleep(PAUSE);
                continue;
            };
            // only now are all surely seen that others have: one with a higher number, or one that came when those that
            // are over had been succeeded and their successor had gone
            let is_known = |holder: Holder| seen.iter().any(|(_, seen, _)| seen.as_ref() == Some(&holder));
            let came = |n: u64| n > number || n < number && !holder(&place(&self.dir, &slug, n)).is_none_or(is_known);
            if numbers(&self.dir, &slug)?.into_iter().any(came) {
                lease.withdraw();
                std::thread::sleep(PAUSE);
                continue;
            }
            lease.succeed_all(&slug)?;
            return Ok(Asked::Granted(lease));
        }
    }

    /// Whether another process than this works at `what`, as far as can be told.
    pub(crate) fn is_held(&self, what: &str) -> bool {
        let slug = slug(what);
        let last = numbers(&self.dir, &slug).ok().and_then(|numbers| numbers.last().copied());
        last.is_some_and(|number| {
            let dir = place(&self.dir, &slug, number);
            holder(&dir).is_some_and(|holder| !self.is_over(&dir, &holder))
        })
    }

    /// Whether the holder in `dir` has died, or was silent for too long while this one watched.
    fn is_over(&self, dir: &Path, holder: &Holder) -> bool {
        if is_dead(dir, holder) {
            return true;
        }
        let beat = fs::read(dir.join(BEAT)).unwrap_or_default();
        let now = Instant::now();
        let Ok(mut watched) = self.watched.lock() else { return false };
        match watched.get_mut(&holder.id) {
            Some(known) if known.beat == beat => {
                // one that did not look for long has not heard for as long, but it did not listen either
                known.silent += (now - known.looked).min(2 * self.interval());
                known.looked = now;
                known.silent > self.timeout && stands(dir, holder)
            }
            _ => {
                watched.insert(holder.id.clone(), Watched { beat, looked: now, silent: Duration::ZERO });
                false
            }
        }
    }

    /// Makes the lease of this number, unless one stands there.
    fn take(&self, what: &str, about: &str, number: u64) -> Result<Option<Lease>> {
        let (slug, id) = (slug(what), id());
        let new = self.dir.join(format!(".{slug}.p{id}{MARK}"));
        let at = |error: io::Error| Error::io(&new, &error);
        let out = format!("{OUT}{id}");
        fs::create_dir(&new).map_err(at)?;
        mark(&new, self.command, &[HOLDER, LOCK, BEAT, FROM, GONE, &out])?;
        let mut lock = File::create_new(new.join(LOCK)).map_err(at)?;
        let is_locked = lock.try_lock().is_ok();
        lock.write_all(if is_locked { machine() } else { String::new() }.as_bytes()).map_err(at)?;
        let holder = Holder {
            what: what.to_owned(),
            about: about.to_owned(),
            host: sysinfo::System::host_name().unwrap_or_default(),
            machine: machine(),
            pid: std::process::id(),
            shard: self.shard.clone(),
            since: SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs()),
            id: id.clone(),
        };
        let text = serde_json::to_vec(&holder).map_err(|error| Error::work(error.to_string()))?;
        fs::write(new.join(BEAT), "0").and_then(|()| fs::create_dir(new.join(&out))).map_err(at)?;
        mark(&new.join(&out), self.command, &[])?;
        fs::write(new.join(HOLDER), text).map_err(at)?;
        let dir = place(&self.dir, &slug, number);
        match fs::rename(&new, &dir) {
            Ok(()) => {}
            // an answer of a server may be lost, and what it said no to have been done
            Err(_) if self::holder(&dir).is_some_and(|standing| standing.id == id) => {}
            Err(error) => {
                drop(belongings::clear(&new));
                return match error.kind() {
                    ErrorKind::DirectoryNotEmpty | ErrorKind::AlreadyExists | ErrorKind::NotFound => Ok(None),
                    _ if dir.exists() => Ok(None),
                    _ => Err(Error::io(&dir, &error)),
                };
            }
        }
        Lease::start(&self.dir, dir, (slug, number, out), (self.interval(), self.timeout), (holder, lock)).map(Some)
    }

    /// Removes what processes that died left of leases that they had not got yet, or had given up; and with nobody else
    /// here, where the holder is `alone`, leases under which nothing was made.
    pub(crate) fn sweep(&self, alone: bool) {
        for entry in fs::read_dir(&self.dir).into_iter().flatten().flatten() {
            let (dir, name) = (entry.path(), entry.file_name().to_string_lossy().into_owned());
            let holder = holder(&dir);
            let is_left = match &holder {
                Some(holder) if is_dead(&dir, holder) => is_new(&name) || alone && succeed::is_empty(&dir),
                Some(_) => false,
                None => is_new(&name) && (alone || is_free(&dir)),
            };
            if is_left {
                drop(belongings::clear(&dir));
            }
        }
    }
}

/// Every lease that holds in `dir`, by what it is for.
///
/// # Errors
/// Work: the file system's.
pub(crate) fn standing(dir: &Path) -> Result<BTreeMap<String, Standing>> {
    let mut found: BTreeMap<String, (u64, Standing)> = BTreeMap::new();
    for entry in fs::read_dir(dir).map_err(|error| Error::io(dir, &error))?.flatten() {
        let (path, name) = (entry.path(), entry.file_name().to_string_lossy().into_owned());
        let number = name.strip_suffix(MARK).and_then(|name| name.rsplit_once('.')?.1.parse::<u64>().ok());
        let (Some(number), Some(holder)) = (number, holder(&path)) else { continue };
        let heard = fs::metadata(path.join(BEAT)).and_then(|beat| beat.modified()).ok();
        let is_dead = is_dead(&path, &holder);
        if found.get(&holder.what).is_none_or(|(known, _)| *known < number) {
            found.insert(holder.what.clone(), (number, Standing { holder, heard, is_dead }));
        }
    }
    Ok(found.into_iter().map(|(what, (_, standing))| (what, standing)).collect())
}

/// A name of one part.
fn slug(what: &str) -> String {
    what.replace('/', "@")
}

fn place(dir: &Path, slug: &str, number: u64) -> PathBuf {
    dir.join(format!(".{slug}.{number}{MARK}"))
}

/// Numbers of the leases of `slug`, in order.
fn numbers(dir: &Path, slug: &str) -> Result<Vec<u64>> {
    let start = format!(".{slug}.");
    let number = |name: &str| name.strip_prefix(&start)?.strip_suffix(MARK)?.parse().ok();
    let entries = fs::read_dir(dir).map_err(|error| Error::io(dir, &error))?;
    let mut numbers: Vec<u64> =
        entries.flatten().filter_map(|entry| number(&entry.file_name().to_string_lossy())).collect();
    numbers.sort_unstable();
    Ok(numbers)
}

/// Whether a directory is called as a lease that has no number yet.
fn is_new(name: &str) -> bool {
    let id = name.strip_suffix(MARK).and_then(|name| name.rsplit_once(".p").map(|(_, id)| id));
    name.starts_with('.') && id.is_some_and(|id| id.len() == 16 && id.bytes().all(|byte| byte.is_ascii_hexdigit()))
}

fn holder(dir: &Path) -> Option<Holder> {
    files::json(&dir.join(HOLDER), Bound { bytes: files::NOTE, values: 100 }).ok()
}

/// Whether the holder was a process of this machine and is gone. One that gives its lease up unlocks it when it does
/// not stand there any more: what stands there before and after is dead.
fn is_dead(dir: &Path, holder: &Holder) -> bool {
    holder.machine == machine() && is_free(dir) && stands(dir, holder)
}

/// Whether the lease in `dir` is still that of `holder`.
fn stands(dir: &Path, holder: &Holder) -> bool {
    self::holder(dir).is_some_and(|standing| standing.id == holder.id)
}

/// Whether the lock in `dir` was that of a process of this machine, and is free.
fn is_free(dir: &Path) -> bool {
    let path = dir.join(LOCK);
    fs::read(&path).is_ok_and(|text| text == machine().as_bytes())
        && File::open(&path).is_ok_and(|lock| lock.try_lock_shared().is_ok())
}

/// This machine, since it was started.
pub(crate) fn machine() -> String {
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id");
    boot.map_or_else(|_| sysinfo::System::host_name().unwrap_or_default(), |boot| boot.trim().to_owned())
}

/// What no other lease is called.
fn id() -> String {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.as_nanos());
    let of = format!("{} {} {now} {count} {:?}", machine(), std::process::id(), std::thread::current().id());
    hex(&Sha256::digest(of)[..8])
}

#[cfg(test)]
mod tests;
