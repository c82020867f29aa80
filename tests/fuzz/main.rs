//! Files that others wrote, broken in every way: whatever a file says, the library reads it or says in a line what is
//! wrong with it. See `tests/README.md`.
//!
//! The cases are numbered: a number is the seed of all that is done in it, so that each can be had again alone.
//! Processes of their own run a batch each, under a cap on their address space, and this one sees how they end.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, reason = "a test fails where it unwraps")]

mod bytes;
mod case;
#[path = "../fixture/mod.rs"]
#[allow(dead_code, reason = "other tests use the rest of it")]
mod fixture;
mod json;
mod readers;
mod tensors;
mod worker;

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use tempfile::TempDir;

/// Cases of a run in CI.
const CASES: u64 = 100_000;

/// Cases of a process.
const BATCH: u64 = 2500;

/// Cases of the hub in CI. They wait more than they work: a download that breaks is tried again after a while.
const HUB_CASES: u64 = 1000;

/// Processes that ask the hub at once.
const HUB_PROCESSES: u64 = 8;

/// After so many faults there is enough to do.
const ENOUGH: usize = 40;

/// A number that is asked for in the environment.
fn asked(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{name}={text}: expected a number")))
}

/// What was wrong, and how many cases there were.
#[derive(Default)]
struct Found {
    faults: Mutex<Vec<String>>,
    cases: AtomicU64,
}

impl Found {
    fn is_enough(&self) -> bool {
        self.faults.lock().unwrap().len() >= ENOUGH
    }

    /// Runs the cases from `first` to `end`, those of `reader` if there is one.
    fn batch(&self, mut first: u64, end: u64, reader: Option<&str>, scratch: &Path) {
        while first < end && !self.is_enough() {
            let dir = scratch.join(format!("from-{first}"));
            fs::create_dir(&dir).unwrap();
            let noise = dir.join("stderr");
            let mut worker = Command::new(std::env::current_exe().unwrap());
            worker.args(["--exact", "worker::worker", "--nocapture", "--test-threads=1"]);
            worker.env(worker::RANGE, format!("{first} {end}")).env(worker::DIR, &dir).env("HF_HUB_OFFLINE", "1");
            // a thread of malloc's arenas takes 64 MiB of addresses
            worker.envs([("MALLOC_ARENA_MAX", "1"), ("RAYON_NUM_THREADS", "1"), ("CANDLE_NUM_THREADS", "1")]);
            worker.envs(reader.map(|reader| (readers::ASKED, reader)));
            worker.env_remove("RUST_BACKTRACE").stdin(Stdio::null()).stdout(Stdio::null());
            let status = worker.stderr(fs::File::create(&noise).unwrap()).status().unwrap();
            let mut faults = self.faults.lock().unwrap();
            let told = fs::read_to_string(dir.join(worker::FAULTS)).unwrap_or_default();
            faults.extend(told.lines().map(str::to_owned));
            let last = worker::last(&dir);
            let from = first;
            if status.success() && last == Some(end) {
                first = end;
            } else {
                let noise = fs::read_to_string(&noise).unwrap_or_default();
                let noise = noise.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or_default();
                let case = last.unwrap_or_else(|| panic!("the worker did not begin: {status}: {noise}"));
                faults.push(format!("case {case}: the process ended with {status}: {noise}"));
                first = case + 1;
            }
            self.cases.fetch_add(first - from, Ordering::Relaxed);
            if asked(CASE).is_none() {
                fs::remove_dir_all(&dir).unwrap();
            }
        }
    }

    /// Runs `cases` cases, a batch in each of some processes at a time.
    fn all(&self, cases: u64, batch: u64, processes: u64, reader: Option<&str>, scratch: &Path) {
        let next = AtomicU64::new(0);
        let work = || {
            loop {
                let first = next.fetch_add(batch, Ordering::Relaxed);
                if first >= cases || self.is_enough() {
                    return;
                }
                self.batch(first, cases.min(first + batch), reader, scratch);
            }
        };
        thread::scope(|scope| (0..processes).for_each(|_| drop(scope.spawn(work))));
        let faults = self.faults.lock().unwrap();
        assert!(faults.is_empty(), "{CASE}=NUMBER runs one alone, see tests/README.md:\n{}", faults.join("\n"));
        assert_eq!(self.cases.load(Ordering::Relaxed), cases);
    }
}

/// Files of the cases, in memory where the system has a place for them: a disk would have to keep up.
fn scratch() -> TempDir {
    let memory = Path::new("/dev/shm");
    if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() }.unwrap()
}

/// The one case to run, in the environment.
const CASE: &str = "PRUNE_FUZZ_CASE";

/// The cases of all readers, or of one that is asked for, on every core.
#[test]
fn whatever_a_file_says_it_is_read_or_refused_in_a_line() {
    let (found, scratch) = (Found::default(), scratch());
    if let Some(case) = asked(CASE) {
        found.batch(case, case + 1, None, scratch.path());
        // the files of the case, to be looked at
        let faults = found.faults.into_inner().unwrap();
        assert!(faults.is_empty(), "{}\nits files are in {}", faults.join("\n"), scratch.keep().display());
        return;
    }
    let processes = thread::available_parallelism().map_or(1, usize::from) as u64;
    found.all(asked("PRUNE_FUZZ_CASES").unwrap_or(CASES), BATCH, processes, None, scratch.path());
}

/// Beside the others, which have work for the cores.
#[test]
fn whatever_a_hub_answers_nothing_outside_of_the_cache_changes() {
    if asked(CASE).is_some() || std::env::var(readers::ASKED).is_ok() {
        return;
    }
    let cases = asked("PRUNE_FUZZ_CASES").map_or(HUB_CASES, |cases| cases.div_ceil(CASES / HUB_CASES));
    let batch = cases.div_ceil(HUB_PROCESSES);
    Found::default().all(cases, batch, HUB_PROCESSES, Some("hub"), scratch().path());
}
