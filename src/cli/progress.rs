//! Progress on standard error, of work that takes longer than a moment: a bar on a terminal; elsewhere a line now and
//! then, of work that has something to say of itself.

use std::io::IsTerminal;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use prune::progress::{Progress, Unit};
use prune::shown::shown;

/// Work shorter than this shows no bar.
const PATIENCE: Duration = Duration::from_secs(1);

/// Lines off a terminal, about, for all of a piece of work.
const LINES: u64 = 20;

/// Draws one bar at a time.
pub(crate) struct Bars {
    quiet: bool,
    is_terminal: bool,
    current: Mutex<Option<Bar>>,
}

struct Bar {
    bar: ProgressBar,
    started: Instant,
    shown: bool,
    what: String,
    total: u64,
    /// Units that an earlier process had done.
    skipped: u64,
    done: u64,
    detail: String,
}

impl Bar {
    /// A line where one is due: after every so many units.
    fn line(&self) -> Option<String> {
        let every = spacing(self.total);
        let elapsed = self.started.elapsed();
        if self.detail.is_empty() || elapsed <= PATIENCE || self.done / every == (self.done - 1) / every {
            return None;
        }
        let Self { what, total, done, detail, .. } = self;
        let left = elapsed.as_secs_f64() * (total - done) as f64 / (done - self.skipped).max(1) as f64;
        Some(format!("{what} {done}/{total}  {detail}  {} left", time(left)))
    }
}

/// Units between two lines: 1, 2 or 5 times a power of ten, so that there are some [`LINES`].
fn spacing(total: u64) -> u64 {
    let least = total.div_ceil(LINES).max(1);
    let power = 10_u64.pow(least.ilog10());
    [power, 2 * power, 5 * power].into_iter().find(|step| *step >= least).unwrap_or(10 * power)
}

/// `40 s`, `12 min`, `3 h 20 min`, `5 days 7 h`: as fine as an estimate is.
pub(crate) fn time(seconds: f64) -> String {
    let minutes = (seconds / 60.0).round() as u64;
    match (minutes, minutes / 60, minutes / (24 * 60)) {
        (0..2, ..) => format!("{} s", seconds.ceil()),
        (_, 0..2, _) => format!("{minutes} min"),
        (_, hours, 0..2) => format!("{hours} h {} min", minutes % 60),
        (_, hours, days) => format!("{days} days {} h", hours % 24),
    }
}

impl Bars {
    pub(crate) fn new(quiet: bool) -> Self {
        Self { quiet, is_terminal: std::io::stderr().is_terminal(), current: Mutex::new(None) }
    }

    fn with(&self, action: impl FnOnce(&mut Option<Bar>)) {
        if let Ok(mut current) = self.current.lock() {
            action(&mut current);
        }
    }
}

fn style(unit: Unit) -> ProgressStyle {
    let template = match unit {
        Unit::Bytes => "{msg} {bar:30} {bytes}/{total_bytes}  {bytes_per_sec}  {eta} left",
        Unit::Tokens => "{msg} {bar:30} {human_pos}/{human_len} tokens  {per_sec}  {eta} left",
        Unit::Items => "{msg} {bar:30} {human_pos}/{human_len}  {per_sec}  {eta} left",
    };
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar())
}

impl Progress for Bars {
    fn begin(&self, what: &str, total: u64, unit: Unit) {
        self.end();
        if self.quiet {
            return;
        }
        let bar = ProgressBar::with_draw_target(Some(total), ProgressDrawTarget::hidden());
        bar.set_style(style(unit));
        let (what, detail, started) = (shown(what).into_owned(), String::new(), Instant::now());
        bar.set_message(what.clone());
        let bar = Bar { bar, started, shown: false, what, total, skipped: 0, done: 0, detail };
        self.with(|current| *current = Some(bar));
    }

    fn skip(&self, units: u64) {
        self.with(|current| {
            let Some(bar) = current else { return };
            bar.skipped += units;
            bar.done += units;
            bar.bar.set_position(bar.done);
            bar.bar.reset_eta();
        });
    }

    fn detail(&self, text: &str) {
        self.with(|current| {
            let Some(bar) = current else { return };
            bar.detail = shown(text).into_owned();
            bar.bar.set_message(format!("{}  {}", bar.what, bar.detail));
        });
    }

    fn advance(&self, units: u64) {
        self.with(|current| {
            let Some(bar) = current else { return };
            bar.bar.inc(units);
            bar.done += units;
            if !self.is_terminal {
                if let Some(line) = bar.line() {
                    super::output::note(&line);
                }
                return;
            }
            if !bar.shown && bar.started.elapsed() > PATIENCE {
                bar.bar.set_draw_target(ProgressDrawTarget::stderr());
                bar.shown = true;
            }
        });
    }

    fn end(&self) {
        self.with(|current| {
            if let Some(bar) = current.take() {
                bar.bar.finish_and_clear();
            }
        });
    }

    fn note(&self, message: &str) {
        if self.quiet {
            return;
        }
        self.with(|current| match current {
            Some(bar) => bar.bar.suspend(|| super::output::note(message)),
            None => super::output::note(message),
        });
    }

    fn warn(&self, message: &str) {
        self.with(|current| match current {
            Some(bar) => bar.bar.suspend(|| super::output::warning(message)),
            None => super::output::warning(message),
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_at_round_numbers() {
        assert_eq!([1, 20, 21, 60, 300, 5000, 48_000].map(spacing), [1, 1, 2, 5, 20, 500, 5000]);
    }

    #[test]
    fn a_line_counts_what_was_done_before() {
        let started = Instant::now().checked_sub(Duration::from_secs(100)).unwrap_or_else(Instant::now);
        let bar = ProgressBar::hidden();
        let mut bar = Bar {
            bar,
            started,
            shown: false,
            what: "healing".into(),
            total: 300,
            skipped: 200,
            done: 220,
            detail: "loss 2.0".into(),
        };
        assert_eq!(bar.line().unwrap(), "healing 220/300  loss 2.0  7 min left");
        bar.done = 221;
        assert_eq!(bar.line(), None);
        bar.done = 240;
        bar.detail.clear();
        assert_eq!(bar.line(), None, "nothing to say");
    }

    #[test]
    fn times_as_fine_as_an_estimate() {
        let shown = [0.2, 89.0, 91.0, 7000.0, 7200.0, 172_000.0, 460_000.0].map(time);
        assert_eq!(shown, ["1 s", "89 s", "2 min", "117 min", "2 h 0 min", "47 h 47 min", "5 days 7 h"]);
    }
}
