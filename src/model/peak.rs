//! The most memory that this process has held: the system's high-water mark, where it can be read and reset.

use std::fs;
use std::hint::black_box;
use std::thread::sleep;
use std::time::Duration;

/// The allocator gives pages back some time after they became free, and only when it is asked for memory again.
const PAUSES: u32 = 12;
const PAUSE: Duration = Duration::from_millis(100);

/// Starts to measure anew: the mark falls to what is held now, after a second in which what is free goes back. False
/// where the system has no such thing (it is Linux's `/proc/self/clear_refs`) or does not allow it.
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
        // tests beside this one hold and release less than half of that
        const HELD: u64 = 512 << 20;
        if !reset() {
            return;
        }
        let held = black_box(vec![1u8; HELD as usize]);
        let with = bytes().unwrap();
        assert!(with >= HELD, "{with}");
        drop(held);
        // the system counts pages by the handful
        let after = bytes().unwrap();
        assert!(after + (16 << 20) >= with, "a mark does not fall by itself: {with} {after}");
        assert!(reset());
        let without = bytes().unwrap();
        assert!(without + HELD / 2 < with, "{without} {with}");
    }
}
