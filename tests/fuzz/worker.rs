//! The process that runs cases: capped, watched, and talkative about where it is.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use super::case::Case;
use super::readers::{self, Reader};

/// The cases to run, in the environment: the first and the end.
pub(super) const RANGE: &str = "PRUNE_FUZZ_RANGE";
/// The directory to work in, in the environment.
pub(super) const DIR: &str = "PRUNE_FUZZ_DIR";
/// What was wrong, a line a fault.
pub(super) const FAULTS: &str = "faults";
/// The case that is being run.
const AT: &str = "at";

/// What a case may take beside what the process has when it begins, bytes of addresses. What a data file may ask for is
/// some 64 MiB at a time: a document, its tokens, a window of decompression, the pages of a row.
const ROOM: u64 = 384 << 20;

/// What takes longer hangs. Nothing here takes a tenth of a second on a machine that has nothing else to do.
const PATIENCE: Duration = Duration::from_secs(20);

/// The last panic, wherever it was.
static PANIC: Mutex<Option<String>> = Mutex::new(None);

/// The case that the worker in `dir` came to.
pub(super) fn last(dir: &Path) -> Option<u64> {
    Some(u64::from_le_bytes(fs::read(dir.join(AT)).ok()?.try_into().ok()?))
}

/// The reader of a case.
pub(super) fn name_of(case: u64) -> &'static str {
    let shares = readers::shares();
    let mut place = case % shares.iter().map(|(_, share)| u64::from(*share)).sum::<u64>();
    for (name, share) in shares {
        match place.checked_sub(u64::from(share)) {
            Some(rest) => place = rest,
            None => return name,
        }
    }
    unreachable!("the shares add up")
}

/// Bounds the addresses of this process.
fn cap() {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let size = status.lines().find_map(|line| line.strip_prefix("VmSize:")?.trim().strip_suffix(" kB")).unwrap();
    let most = size.parse::<u64>().unwrap() * 1024 + ROOM;
    let limit = libc::rlimit { rlim_cur: most, rlim_max: most };
    // SAFETY: sets a limit of this process
    assert_eq!(unsafe { libc::setrlimit(libc::RLIMIT_AS, &limit) }, 0);
}

/// Ends the process when a case takes too long.
fn watch(at: &'static AtomicU64) {
    thread::spawn(move || {
        let (mut seen, mut since) = (u64::MAX, Instant::now());
        loop {
            thread::sleep(Duration::from_millis(250));
            let now = at.load(Ordering::Relaxed);
            if now != seen {
                (seen, since) = (now, Instant::now());
            } else if since.elapsed() > PATIENCE {
                let _ = writeln!(std::io::stderr(), "hangs");
                std::process::abort();
            }
        }
    });
}

/// What is wrong with the case.
fn faults(reader: &Reader, case: &mut Case<'_>) -> Vec<String> {
    let ended = catch_unwind(AssertUnwindSafe(|| (reader.feed)(case)));
    let mut faults = std::mem::take(&mut case.faults);
    let panic = PANIC.lock().unwrap().take();
    if ended.is_err() || panic.is_some() {
        faults.push(panic.unwrap_or_else(|| "panicked".to_owned()));
    }
    faults
}

/// Does nothing unless the test beside it started this process.
#[test]
fn worker() {
    static NOW: AtomicU64 = AtomicU64::new(u64::MAX);
    let (Ok(range), Ok(dir)) = (std::env::var(RANGE), std::env::var(DIR)) else { return };
    let dir = Path::new(&dir);
    let (begin, end) = range.split_once(' ').unwrap();
    let (begin, end): (u64, u64) = (begin.parse().unwrap(), end.parse().unwrap());
    std::panic::set_hook(Box::new(|panic| {
        // such a panic becomes an error, which is looked at
        if prune::data::is_fenced() {
            return;
        }
        let text = panic.to_string().lines().collect::<Vec<_>>().join(" ");
        PANIC.lock().unwrap().get_or_insert(text);
    }));
    let readers: Vec<Reader> = readers::all(&dir.join("readers"));
    let at = File::create(dir.join(AT)).unwrap();
    let mut told = File::create(dir.join(FAULTS)).unwrap();
    watch(&NOW);
    cap();
    for number in begin..end {
        at.write_all_at(&number.to_le_bytes(), 0).unwrap();
        NOW.store(number, Ordering::Relaxed);
        let name = name_of(number);
        let reader = readers.iter().find(|reader| reader.name == name).unwrap();
        for fault in faults(reader, &mut Case::new(number, dir)) {
            writeln!(told, "case {number}: {name}: {fault}").unwrap();
        }
    }
    at.write_all_at(&end.to_le_bytes(), 0).unwrap();
}
