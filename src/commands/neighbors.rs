//! What other programs compute while something is timed.

use std::fs;
use std::time::Instant;

/// Clock ticks a second that Linux counts processor time in, whatever its own clock does.
const TICKS: f64 = 100.0;

/// A start of the watch; nothing where the system does not tell.
pub(super) struct Neighbors {
    started: Instant,
    /// Busy seconds of all processors, and of this process.
    busy: (f64, f64),
}

impl Neighbors {
    pub(super) fn watch() -> Option<Self> {
        Some(Self { started: Instant::now(), busy: busy()? })
    }

    /// Processors that others kept busy since, on average.
    pub(super) fn processors(&self) -> Option<f64> {
        let (all, own) = busy()?;
        let others = (all - self.busy.0) - (own - self.busy.1);
        Some((others / self.started.elapsed().as_secs_f64().max(1e-3)).max(0.0))
    }
}

fn busy() -> Option<(f64, f64)> {
    let all = fs::read_to_string("/proc/stat").ok()?;
    let own = fs::read_to_string("/proc/self/stat").ok()?;
    Some((all_busy(&all)?, own_busy(&own)?))
}

/// user + nice + system + irq + softirq + steal, of the first line.
fn all_busy(stat: &str) -> Option<f64> {
    let numbers: Vec<f64> = stat.lines().next()?.split_whitespace().skip(1).filter_map(|n| n.parse().ok()).collect();
    let at = |place: usize| numbers.get(place).copied().unwrap_or(0.0);
    (numbers.len() > 3).then(|| (at(0) + at(1) + at(2) + at(5) + at(6) + at(7)) / TICKS)
}

/// utime + stime: the 14th and 15th field; the name before them may hold anything but ends at the last parenthesis.
fn own_busy(stat: &str) -> Option<f64> {
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    Some((fields.get(11)?.parse::<f64>().ok()? + fields.get(12)?.parse::<f64>().ok()?) / TICKS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_added_up() {
        assert_eq!(all_busy("cpu  100 10 50 9000 70 1 2 3 0 0\ncpu0 1 2 3 4"), Some(1.66));
        assert_eq!(own_busy("7 (a ) b) S 1 2 3 4 5 6 7 8 9 10 250 50 0 0"), Some(3.0));
        assert_eq!((all_busy(""), own_busy("")), (None, None));
    }
}
