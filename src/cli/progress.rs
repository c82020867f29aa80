//! Progress on standard error, of work that takes longer than a moment: a bar on a terminal; elsewhere a line after
//! every so many steps of work that has something to say of itself, one a minute of other work, and one for each stage.

use std::fmt;
use std::io::IsTerminal;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressState, ProgressStyle};
use prune::checkpoint::ByteSize;
use prune::progress::{Progress, Unit};
use prune::shown::shown;

/// Work shorter than this shows no bar.
const PATIENCE: Duration = Duration::from_secs(1);

/// Lines off a terminal, about, for all of a piece of work.
const LINES: u64 = 20;

/// Off a terminal nobody waits longer than this for a line.
const MINUTE: Duration = Duration::from_secs(60);

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
    unit: Unit,
    total: u64,
    /// Units that an earlier process had done.
    skipped: u64,
    done: u64,
    detail: String,
    /// When the last line was written, or the work begun.
    told: Instant,
}

impl Bar {
    /// A line where one is due, `units` more being done: after every so many of them, or after a minute.
    fn line(&mut self, units: u64) -> Option<String> {
        let every = spacing(self.total);
        let elapsed = self.started.elapsed();
        let is_round = self.done / every > self.done.saturating_sub(units) / every;
        let is_due = !self.detail.is_empty() && elapsed > PATIENCE && is_round;
        if !is_due && self.told.elapsed() < MINUTE {
            return None;
        }
        self.told = Instant::now();
        let Self { what, total, done, detail, .. } = self;
        let left = total.saturating_sub(*done) as f64 / (*done - self.skipped).max(1) as f64;
        let left = time(elapsed.as_secs_f64() * left);
        let counted = match self.unit {
            Unit::Bytes => format!("{} of {}", ByteSize(*done), ByteSize(*total)),
            Unit::Tokens => format!("{done}/{total} tokens"),
            Unit::Items => format!("{done}/{total}"),
        };
        let detail = if detail.is_empty() { String::new() } else { format!("{detail}  ") };
        Some(format!("{what} {counted}  {detail}{left} left"))
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

/// The bar takes what the rest of the line leaves; what has a detail says in it how fast it is.
fn style(unit: Unit, has_detail: bool) -> ProgressStyle {
    let template = match (unit, has_detail) {
        (Unit::Bytes, _) => "{msg} {bar:20} {bytes}/{total_bytes}  {bytes_per_sec}  {eta} left",
        (Unit::Tokens, _) => "{msg} {bar:20} {human_pos}/{human_len} tokens  {rate}/s  {eta} left",
        (Unit::Items, false) => "{msg} {bar:20} {human_pos}/{human_len}  {rate}/s  {eta} left",
        (Unit::Items, true) => "{prefix} {wide_bar} {human_pos}/{human_len}  {msg}  {eta} left",
    };
    let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
    style.with_key("rate", |state: &ProgressState, text: &mut dyn fmt::Write| {
        let _ = text.write_str(&rate(state.per_sec()));
    })
}

/// Three digits of a speed.
fn rate(speed: f64) -> String {
    match speed {
        slow if slow < 9.995 => format!("{slow:.2}"),
        slow if slow < 99.95 => format!("{slow:.1}"),
        fast => format!("{fast:.0}"),
    }
}

impl Progress for Bars {
    fn begin(&self, what: &str, total: u64, unit: Unit) {
        self.end();
        if self.quiet {
            return;
        }
        let bar = ProgressBar::with_draw_target(Some(total), ProgressDrawTarget::hidden());
        bar.set_style(style(unit, false));
        let (what, detail, started) = (shown(what).into_owned(), String::new(), Instant::now());
        bar.set_message(what.clone());
        bar.set_prefix(what.clone());
        let bar = Bar { bar, started, shown: false, what, unit, total, skipped: 0, done: 0, detail, told: started };
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
            if bar.detail.is_empty() {
                bar.bar.set_style(style(bar.unit, true));
            }
            bar.detail = shown(text).into_owned();
            bar.bar.set_message(bar.detail.clone());
        });
    }

    fn advance(&self, units: u64) {
        self.with(|current| {
            let Some(bar) = current else { return };
            bar.bar.inc(units);
            bar.done += units;
            if !self.is_terminal {
                if let Some(line) = bar.line(units) {
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

    fn reached(&self, message: &str) {
        if !self.is_terminal {
            self.note(message);
        }
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
            unit: Unit::Items,
            total: 300,
            skipped: 200,
            done: 220,
            detail: "loss 2.0".into(),
            told: Instant::now(),
        };
        assert_eq!(bar.line(1).unwrap(), "healing 220/300  loss 2.0  7 min left");
        bar.done = 221;
        assert_eq!(bar.line(1), None);
        bar.done = 240;
        bar.detail.clear();
        assert_eq!(bar.line(1), None, "nothing to say");
        // but nobody waits longer than a minute
        bar.told = started;
        bar.unit = Unit::Tokens;
        assert_eq!(bar.line(0).unwrap(), "healing 240/300 tokens  3 min left");
        assert_eq!(bar.line(1), None, "it was just said");
        (bar.unit, bar.told) = (Unit::Bytes, started);
        assert_eq!(bar.line(1).unwrap(), "healing 240 B of 300 B  3 min left");
    }

    #[test]
    fn speeds_in_three_digits() {
        assert_eq!([0.3016, 9.994, 10.0, 788.22, 1296.19].map(rate), ["0.30", "9.99", "10.0", "788", "1296"]);
    }

    #[test]
    fn times_as_fine_as_an_estimate() {
        let shown = [0.2, 89.0, 91.0, 7000.0, 7200.0, 172_000.0, 460_000.0].map(time);
        assert_eq!(shown, ["1 s", "89 s", "2 min", "117 min", "2 h 0 min", "47 h 47 min", "5 days 7 h"]);
    }
}
