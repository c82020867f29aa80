//! One process and many: the same evaluation gives the same bytes; who fails, or is gone, is named.

use std::fs;
use std::path::PathBuf;

use prune::collective::Collective;
use prune::commands::eval::{EvalReport, eval, eval_together};
use prune::eval::settings::EvalSettings;
use prune::interrupt::Interrupt;
use prune::progress::{Progress, Silent, Unit};
use prune::{Error, Result};

use crate::eval::generation::problems;
use crate::eval::shared::{Small, tree};
use crate::fixture::processes::{WAYS, Way, in_each, without_process_1};

/// Choices, texts and answers in the model's own words, in passes that are many and small.
fn settings(small: &Small, out: &str) -> EvalSettings {
    let mut settings = small.settings("model", out);
    // boolq has no examples here
    settings.tasks[1] = "gsm8k".into();
    EvalSettings { few_shot: Some(1), max_length: Some(300), gen_kwargs: Some("max_gen_toks=20".into()), ..settings }
}

/// What came of it in each process; each gets the settings that `settings` makes for its number.
fn together(way: Way, size: usize, settings: impl Fn(usize) -> EvalSettings + Sync) -> Vec<Result<EvalReport>> {
    in_each(way, size, |group| {
        let settings = settings(group.rank());
        eval_together(&settings, group, &Silent)
    })
}

#[test]
fn one_process_is_many() {
    let small = Small::new();
    problems(&small, 40);
    let alone = eval(&settings(&small, "alone"), &Silent).unwrap();
    assert!(alone.passes.passes > 5 && alone.group.is_none(), "{:?}", alone.passes);
    for (way, size) in [(Way::Threads, 2), (Way::Threads, 3), (Way::Tcp, 2), (Way::Tcp, 3)] {
        let out = format!("{way:?}-{size}");
        // what process 0 does with it is its own: the others write nowhere
        let of = |rank: usize| settings(&small, &if rank == 0 { out.clone() } else { format!("{out}-{rank}") });
        for (rank, report) in together(way, size, of).into_iter().enumerate() {
            let report = report.unwrap();
            let group = report.group.unwrap();
            assert_eq!((group.members.rank, group.members.processes), (rank, size));
            assert_eq!(group.passes.iter().sum::<usize>(), alone.passes.passes);
            assert!(group.passes[0] - group.passes[size - 1] <= 1, "{group:?}");
            match rank {
                0 => assert_eq!(report.figures, alone.figures),
                _ => assert!(report.figures.is_empty() && report.written.is_empty()),
            }
            assert!(rank == 0 || !small.path(&format!("{out}-{rank}")).exists());
        }
        assert_eq!(tree(&small.path(&out)), tree(&small.path("alone")), "{way:?}: {size} processes");
        assert!(!small.path(&out).join("journal.jsonl").exists());
        // what is there is found by all of them
        let again = together(way, size, of);
        assert!(again.into_iter().all(|report| report.unwrap().found));
    }
}

/// What stands in the output of process 0 is added to, and the others answer what it does not know.
#[test]
fn tasks_are_added_to_those_that_are_there() {
    let small = Small::new();
    problems(&small, 8);
    let only = |out: &str, task: usize| {
        let all = settings(&small, out);
        EvalSettings { tasks: vec![all.tasks[task].clone()], ..all }
    };
    for task in [0, 1] {
        eval(&only("alone", task), &Silent).unwrap();
    }
    eval(&only("many", 0), &Silent).unwrap();
    let reports: Vec<EvalReport> =
        together(Way::Threads, 2, |_| only("many", 1)).into_iter().map(Result::unwrap).collect();
    assert!(!reports[0].kept.is_empty() && reports[0].kept == reports[1].kept, "{:?}", reports[1].kept);
    assert_eq!(tree(&small.path("many")), tree(&small.path("alone")));
}

/// Stops an evaluation once so many lines are in its journal.
struct Stops {
    journal: PathBuf,
    interrupt: Interrupt,
}

impl Progress for Stops {
    fn begin(&self, _what: &str, _total: u64, _unit: Unit) {}
    fn advance(&self, _units: u64) {
        if fs::read_to_string(&self.journal).is_ok_and(|text| text.lines().count() > 3) {
            self.interrupt.request();
        }
    }
    fn end(&self) {}
    fn warn(&self, _message: &str) {}
}

/// What two processes have begun, one goes on with, or three; and two with what one has begun.
#[test]
fn an_evaluation_goes_on_with_another_number_of_processes() {
    let small = Small::new();
    problems(&small, 40);
    eval(&settings(&small, "whole"), &Silent).unwrap();
    for (begun_by, ended_by) in [(2, 1), (2, 3), (1, 2)] {
        let out = format!("{begun_by}-{ended_by}");
        let settings = settings(&small, &out);
        let journal = small.path(&out).join("journal.jsonl");
        let stops = Stops { journal: journal.clone(), interrupt: Interrupt::new() };
        let begun = match begun_by {
            1 => vec![stops.interrupt.run(|| eval(&settings, &stops))],
            _ => in_each(Way::Threads, begun_by, |group| {
                let leads = group.rank() == 0;
                let run = || eval_together(&settings, group, &stops);
                if leads { stops.interrupt.run(run) } else { run() }
            }),
        };
        assert!(begun.iter().all(|begun| matches!(begun, Err(Error::Interrupted))), "{out}: {begun:?}");
        let kept = fs::read_to_string(journal).unwrap();
        assert!(kept.lines().count() > 3, "{kept}");
        let resumed = match ended_by {
            1 => eval(&settings, &Silent).unwrap().passes.resumed,
            _ => together(Way::Tcp, ended_by, |_| settings.clone()).remove(0).unwrap().passes.resumed,
        };
        assert!(resumed > 0, "{out}");
        assert_eq!(tree(&small.path(&out)), tree(&small.path("whole")), "{out}");
    }
}

#[test]
fn a_dry_run_tells_the_shares() {
    let small = Small::new();
    problems(&small, 40);
    let passes = eval(&settings(&small, "none"), &Silent).unwrap().passes.passes;
    let dry = |_| EvalSettings { dry_run: true, ..settings(&small, "dry") };
    let report = together(Way::Threads, 4, dry).remove(0).unwrap();
    let group = report.group.as_ref().unwrap();
    assert_eq!((group.passes.len(), group.passes.iter().sum::<usize>()), (4, passes));
    assert!(report.text().contains("4 processes"), "{}", report.text());
    let json = serde_json::to_value(&report).unwrap();
    assert_eq!((&json["group"]["processes"], &json["group"]["rank"]), (&4.into(), &0.into()));
    assert!(!small.path("dry").exists());
}

/// Every process ends with what one of them has met, which is named.
#[test]
fn what_differs_is_refused_everywhere() {
    let small = Small::new();
    problems(&small, 4);
    for way in WAYS {
        let refused = |words: &[&str], of: &(dyn Fn(usize) -> EvalSettings + Sync)| {
            for (rank, ended) in together(way, 3, of).into_iter().enumerate() {
                let error = ended.unwrap_err();
                let text = error.to_string();
                assert!(error.exit_code() == 2 && words.iter().all(|word| text.contains(word)), "{rank}: {text}");
            }
            assert!(!small.path("none").exists());
        };
        let own = |rank: usize| if rank == 2 { 7 } else { 1234 };
        refused(&["process 2 of 3", "scores something else", "seed was 1234, is 7"], &|rank| EvalSettings {
            seed: own(rank),
            ..settings(&small, "none")
        });
        // one that cannot begin
        let nowhere = |rank: usize| EvalSettings {
            model: Some(small.path(if rank == 1 { "nowhere" } else { "model" }).display().to_string()),
            ..settings(&small, "none")
        };
        refused(&["nowhere"], &nowhere);
        let shard = |_| EvalSettings { shard: Some("1/2".parse().unwrap()), ..settings(&small, "none") };
        refused(&["--shard"], &shard);
    }
}

/// One that says nothing more is named, and nothing is lost of what was answered.
#[test]
fn who_is_gone_is_named() {
    let small = Small::new();
    problems(&small, 4);
    let settings = settings(&small, "out");
    without_process_1(|group| eval_together(&settings, group, &Silent).map(drop));
    eval(&settings, &Silent).unwrap();
}
