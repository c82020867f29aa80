//! Progress bars on standard error: only on a terminal, only for work that takes longer than a moment.

use std::sync::Mutex;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use prune::progress::{Progress, Unit};

/// Work shorter than this shows no bar.
const PATIENCE: Duration = Duration::from_secs(1);

/// Draws one bar at a time.
pub(crate) struct Bars {
    quiet: bool,
    current: Mutex<Option<Bar>>,
}

struct Bar {
    bar: ProgressBar,
    started: Instant,
    shown: bool,
}

impl Bars {
    pub(crate) fn new(quiet: bool) -> Self {
        Self { quiet, current: Mutex::new(None) }
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
        bar.set_message(what.to_owned());
        self.with(|current| *current = Some(Bar { bar, started: Instant::now(), shown: false }));
    }

    fn advance(&self, units: u64) {
        self.with(|current| {
            let Some(bar) = current else { return };
            bar.bar.inc(units);
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
        if !self.quiet {
            super::output::note(message);
        }
    }

    fn warn(&self, message: &str) {
        self.with(|current| match current {
            Some(bar) => bar.bar.suspend(|| super::output::warning(message)),
            None => super::output::warning(message),
        });
    }
}
