//! What a run says of itself while it works: which stage, how many of how many, and for how long it has worked.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use super::view::duration;
use crate::progress::{Progress, Unit};

/// The stages of a run, counted as they come.
pub(super) struct Count<'a> {
    progress: &'a dyn Progress,
    total: usize,
    /// Numbers of the stages that came.
    reached: BTreeMap<String, usize>,
    shared: Arc<Shared>,
}

/// What all stages know.
struct Shared {
    started: Instant,
    /// Seconds that earlier processes have worked on stages that are done.
    before: Mutex<f64>,
    /// Notes that were said: one that every stage has to say is said once.
    said: Mutex<BTreeSet<String>>,
}

impl<'a> Count<'a> {
    pub(super) fn new(progress: &'a dyn Progress, total: usize) -> Self {
        let shared = Shared { started: Instant::now(), before: Mutex::default(), said: Mutex::default() };
        Self { progress, total, reached: BTreeMap::new(), shared: Arc::new(shared) }
    }

    /// It is known now how many stages there are.
    pub(super) fn expect(&mut self, total: usize) {
        self.total = total;
    }

    /// The next stage, or one that came before, called `name`, which an earlier process has done in so many seconds, or
    /// has begun.
    pub(super) fn next(&mut self, name: &str, before: f64) -> Told<'a> {
        let reached = self.reached.len();
        let number = *self.reached.entry(name.to_owned()).or_insert(reached + 1);
        if let (true, Ok(mut all)) = (number > reached, self.shared.before.lock()) {
            *all += before;
        }
        Told {
            name: name.to_owned(),
            number,
            total: self.total.max(self.reached.len()),
            progress: self.progress,
            shared: self.shared.clone(),
        }
    }
}

/// Says which stage a piece of work belongs to.
pub(super) struct Told<'a> {
    name: String,
    number: usize,
    total: usize,
    progress: &'a dyn Progress,
    shared: Arc<Shared>,
}

impl Told<'_> {
    /// `7 of 58, 3 min  deepest-4/healed: healing`.
    fn placed(&self, what: &str) -> String {
        let Self { name, number, total, shared, .. } = self;
        let before = shared.before.lock().map_or(0.0, |before| *before);
        let worked = duration(before + shared.started.elapsed().as_secs_f64());
        format!("{number} of {total}, {worked}  {name}: {what}")
    }
}

impl Progress for Told<'_> {
    fn begin(&self, what: &str, total: u64, unit: Unit) {
        self.progress.begin(&self.placed(what), total, unit);
    }

    fn skip(&self, units: u64) {
        self.progress.skip(units);
    }

    fn detail(&self, text: &str) {
        self.progress.detail(text);
    }

    fn advance(&self, units: u64) {
        self.progress.advance(units);
    }

    fn end(&self) {
        self.progress.end();
    }

    fn reached(&self, message: &str) {
        self.progress.reached(&self.placed(message));
    }

    fn warn(&self, message: &str) {
        self.progress.warn(&format!("{}: {message}", self.name));
    }

    fn note(&self, message: &str) {
        let is_new = self.shared.said.lock().map_or(true, |mut said| said.insert(message.to_owned()));
        if is_new {
            self.progress.note(&format!("{}: {message}", self.name));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Default)]
    struct Heard(Mutex<Vec<String>>);

    impl Heard {
        fn hear(&self, what: String) {
            self.0.lock().unwrap().push(what);
        }
    }

    impl Progress for Heard {
        fn begin(&self, what: &str, total: u64, _unit: Unit) {
            self.hear(format!("begin {what} {total}"));
        }

        fn skip(&self, units: u64) {
            self.hear(format!("skip {units}"));
        }

        fn detail(&self, text: &str) {
            self.hear(text.to_owned());
        }

        fn advance(&self, units: u64) {
            self.hear(format!("advance {units}"));
        }

        fn end(&self) {
            self.hear("end".to_owned());
        }

        fn reached(&self, message: &str) {
            self.hear(format!("reached {message}"));
        }

        fn warn(&self, message: &str) {
            self.hear(format!("warning {message}"));
        }

        fn note(&self, message: &str) {
            self.hear(format!("note {message}"));
        }
    }

    #[test]
    fn nothing_that_a_stage_says_is_lost() {
        let heard = Heard::default();
        let mut count = Count::new(&heard, 60);
        count.next("analysis", 90.0);
        count.expect(58);
        let told = count.next("dense/scores", 0.0);
        told.begin("scoring", 10, Unit::Tokens);
        told.skip(4);
        told.detail("loss 2.0");
        told.advance(6);
        told.end();
        told.warn("short");
        told.reached("done in 3 s");
        // what every stage says is said once
        told.note("computing on a GPU");
        count.next("deepest-2/scores", 0.0).note("computing on a GPU");
        let expected = [
            "begin 2 of 58, 2 min  dense/scores: scoring 10",
            "skip 4",
            "loss 2.0",
            "advance 6",
            "end",
            "warning dense/scores: short",
            "reached 2 of 58, 2 min  dense/scores: done in 3 s",
            "note dense/scores: computing on a GPU",
        ];
        assert_eq!(*heard.0.lock().unwrap(), expected);
    }
}
