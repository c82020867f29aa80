//! The most memory that this process has held: the system's high-water mark, where it can be read and reset.

use std::fs;
use std::hint::black_box;
use std::thread::sleep;
use std::time::Duration;

/// The allocator gives pages back some time after they became free, and only when it is asked for memory again.
const PAUSES: u32 = 12;
const PAUSE: Duration = Duration::from_millis(100);

/// Starts to measure anew: the mark falls to what is held now, after a second in which what is free goes back. False where the system has no such thing (it is Linux's
/// `/proc/self/clear_refs`) or does not allow it.
#[must_use]
pub fn reset() -> bool {
    for _ in 0..PAUSES {
        sleep(PAUSE);
        drop(black_box(vec![0u8; 1 << 20]));
    }
    fs::write("/proc/self/clear_refs", "5").is_ok()
}

/// Most bytes in memory since the last [`reset`]; `None` where the system does not say.
#[must_use]
pub fn bytes() -> Option<u64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib << 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mark_rises_with_what_is_held_and_falls_when_reset() {
        if !reset() {
            return;
        }
        let before = bytes().unwrap();
        let held = std::hint::black_box(vec![1u8; 64 << 20]);
        let with = bytes().unwrap();
        assert!(with >= before + (60 << 20), "{before} {with}");
        drop(held);
        assert!(bytes().unwrap() >= with, "a mark does not fall by itself");
        assert!(reset());
        assert!(bytes().unwrap() < with);
    }
}
