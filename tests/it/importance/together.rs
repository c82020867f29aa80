//! One process and many: the same analysis gives the same bytes; what differs is refused, who fails is named.

use std::fs;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};

use prune::collective::Collective;
use prune::commands::analyze::{AnalyzeReport, AnalyzeSettings, analyze, analyze_together};
use prune::importance::METRICS;
use prune::interrupt::Interrupt;
use prune::progress::{Progress, Silent, Unit};
use prune::{Error, Result};
use serde_json::json;

use crate::eval::shared::tree;
use crate::fixture::desk::Desk;
use crate::fixture::processes::{WAYS, Way, in_each, without_process_1};
use crate::fixture::{Llama, write_weights};

/// A model of six layers, two texts, questions.
fn desk() -> Desk {
    let desk = Desk::new();
    Llama { layers: 6, ..Llama::default() }.write(&desk.path("model"));
    // several passes of the one, fewer of the other than there are processes
    for (name, documents, longer) in [("text.jsonl", 19, 9), ("code.jsonl", 9, 12)] {
        let lines = (0..documents).map(|line| {
            let word = |word: usize| format!("w{}", 3 + (word * 11 + line * documents) % 37);
            let words: Vec<String> = (0..4 + longer * line).map(word).collect();
            json!({"text": words.join(" ")}).to_string() + "\n"
        });
        fs::write(desk.path(name), lines.collect::<String>()).unwrap();
    }
    let questions = (0..9).map(|at| {
        let words = |from: usize| (from..from + 6).map(|word| format!("w{}", 3 + word % 41)).collect::<Vec<_>>();
        let passage = words(at * 5).join(" ");
        json!({"question": words(at).join(" "), "passage": passage, "idx": at, "label": at % 2}).to_string() + "\n"
    });
    fs::create_dir_all(desk.path("data/boolq")).unwrap();
    fs::write(desk.path("data/boolq/validation.jsonl"), questions.collect::<String>()).unwrap();
    desk
}

fn settings(desk: &Desk, out: &str) -> AnalyzeSettings {
    AnalyzeSettings {
        model: Some(desk.path("model").display().to_string()),
        data: vec![desk.path("text.jsonl").display().to_string()],
        out: Some(desk.path(out)),
        ..AnalyzeSettings::default()
    }
}

fn together(way: Way, size: usize, of: &(dyn Fn(usize) -> AnalyzeSettings + Sync)) -> Vec<Result<AnalyzeReport>> {
    in_each(way, size, |group| {
        let settings = of(group.rank());
        analyze_together(&settings, group, &Silent)
    })
}

/// Two and three processes write what one writes; the others tell nothing.
fn same(desk: &Desk, of: &(dyn Fn(&str) -> AnalyzeSettings + Sync)) {
    analyze(&of("alone"), &Silent).unwrap();
    let alone = tree(&desk.path("alone"));
    for (way, size) in [(Way::Threads, 2), (Way::Tcp, 3)] {
        let reports = together(way, size, &|rank| of(&if rank == 0 { "many".into() } else { format!("many-{rank}") }));
        for (rank, report) in reports.into_iter().enumerate() {
            let report = report.unwrap();
            let group = report.group.unwrap();
            assert_eq!((group.members.rank, group.members.processes, group.leads()), (rank, size, rank == 0));
            assert_eq!((report.analysis.is_some(), report.written.is_empty()), (rank == 0, rank > 0));
            assert!(rank == 0 || !desk.path(&format!("many-{rank}")).exists());
        }
        assert_eq!(tree(&desk.path("many")), alone, "{way:?}: {size} processes");
        fs::remove_dir_all(desk.path("many")).unwrap();
    }
    fs::remove_dir_all(desk.path("alone")).unwrap();
}

/// Every metric of the table that looks at one model, all in one analysis.
#[test]
fn every_score_is_that_of_one_process() {
    let desk = desk();
    let names = METRICS.iter().filter(|metric| metric.mixture().is_none()).map(|metric| metric.name.to_owned());
    let metrics: Vec<String> = names.collect();
    let of = |out: &str| AnalyzeSettings {
        metrics: metrics.clone(),
        tasks: vec!["boolq".into()],
        data_dir: Some(desk.path("data")),
        ..settings(&desk, out)
    };
    same(&desk, &of);
}

#[test]
fn searches_choose_what_one_process_chooses() {
    let desk = desk();
    for method in ["sleb", "greedy", "policy", "finercut"] {
        let Ok(method) = prune::methods::method(method) else { continue };
        same(&desk, &|out| AnalyzeSettings { method: Some(method), ..settings(&desk, out) });
    }
    let two = |out: &str| {
        let own = settings(&desk, out);
        let data = vec![own.data[0].clone(), desk.path("code.jsonl").display().to_string()];
        AnalyzeSettings { data, rerank: Some(3), ..own }
    };
    same(&desk, &two);
}

/// Scores of weights, and plans of what was measured before, need no others.
#[test]
fn what_cannot_be_shared_process_0_does() {
    let desk = desk();
    same(&desk, &|out| AnalyzeSettings { data: Vec::new(), metrics: vec!["magnitude".into()], ..settings(&desk, out) });
    analyze(&settings(&desk, "scores"), &Silent).unwrap();
    let from = Some(desk.path("scores/analysis.json"));
    let of = |out: &str| AnalyzeSettings {
        from: from.clone(),
        layers: Some(2),
        out: Some(desk.path(out)),
        ..AnalyzeSettings::default()
    };
    same(&desk, &of);
}

/// Counts what process 0 is told to measure.
struct Counter(AtomicU64);

impl Progress for Counter {
    fn begin(&self, what: &str, total: u64, _unit: Unit) {
        if what.starts_with("measuring") {
            self.0.fetch_add(total, Ordering::Relaxed);
        }
    }
    fn advance(&self, _units: u64) {}
    fn end(&self) {}
    fn warn(&self, _message: &str) {}
}

/// A process runs its share, not all of it.
#[test]
fn the_work_is_shared() {
    let desk = desk();
    let of = AnalyzeSettings { method: Some(prune::methods::method("sleb").unwrap()), ..settings(&desk, "out") };
    let tokens = |counter: Counter| counter.0.into_inner();
    let alone = Counter(0.into());
    analyze(&AnalyzeSettings { out: None, ..of.clone() }, &alone).unwrap();
    let own = Counter(0.into());
    let reports = in_each(Way::Threads, 3, |group| match group.rank() {
        0 => analyze_together(&of, group, &own),
        _ => analyze_together(&of, group, &Silent),
    });
    assert!(reports.iter().all(Result::is_ok));
    let (alone, own) = (tokens(alone), tokens(own));
    assert!(own > 0 && own * 3 < alone * 2, "{own} of {alone}");
}

/// Stops an analysis once so many lines are in its journal.
struct Stops {
    journal: PathBuf,
    interrupt: Interrupt,
}

impl Progress for Stops {
    fn begin(&self, _what: &str, _total: u64, _unit: Unit) {}
    fn advance(&self, _units: u64) {
        if fs::read_to_string(&self.journal).is_ok_and(|text| text.lines().count() >= 4) {
            self.interrupt.request();
        }
    }
    fn end(&self) {}
    fn warn(&self, _message: &str) {}
}

/// Few tokens take another way through products than many do: who runs with whom must not hang on the processes.
#[test]
fn short_texts_are_those_of_one_process() {
    let desk = desk();
    let line = |words: usize| format!("{{\"text\": \"{}\"}}\n", vec!["w5"; words].join(" "));
    for lengths in [&[2; 6][..], &[2, 9, 1, 4], &[1, 1, 1, 400, 1, 200, 2, 300, 1, 1]] {
        let text: String = lengths.iter().map(|words| line(*words)).collect();
        fs::write(desk.path("text.jsonl"), text).unwrap();
        same(&desk, &|out| settings(&desk, out));
        let metrics = vec!["layer-loss".to_owned(), "js".to_owned()];
        same(&desk, &|out| AnalyzeSettings { metrics: metrics.clone(), ..settings(&desk, out) });
    }
}

/// What two processes have measured one goes on with, and what one has three.
#[test]
fn a_search_goes_on_with_another_number_of_processes() {
    let desk = desk();
    let of =
        |out: &str| AnalyzeSettings { method: Some(prune::methods::method("sleb").unwrap()), ..settings(&desk, out) };
    analyze(&of("whole"), &Silent).unwrap();
    for (begun_by, ended_by) in [(2, 1), (1, 3)] {
        let out = format!("{begun_by}-{ended_by}");
        let settings = of(&out);
        let journal = desk.path(&format!("{out}.analyzing/journal.jsonl"));
        let stops = Stops { journal, interrupt: Interrupt::new() };
        let begun = match begun_by {
            1 => vec![stops.interrupt.run(|| analyze(&settings, &stops))],
            _ => in_each(Way::Threads, begun_by, |group| match group.rank() {
                0 => stops.interrupt.run(|| analyze_together(&settings, group, &stops)),
                _ => analyze_together(&settings, group, &Silent),
            }),
        };
        assert!(begun.iter().all(|begun| matches!(begun, Err(Error::Interrupted))), "{out}: {begun:?}");
        let report = match ended_by {
            1 => analyze(&settings, &Silent).unwrap(),
            _ => together(Way::Tcp, ended_by, &|_| settings.clone()).remove(0).unwrap(),
        };
        assert!(report.pass.unwrap().recalled >= 4);
        assert_eq!(tree(&desk.path(&out)), tree(&desk.path("whole")), "{out}");
    }
}

/// Every process ends with what one of them has met, which is named.
#[test]
fn what_differs_is_refused_everywhere() {
    let desk = desk();
    for way in WAYS {
        let refused = |words: &[&str], of: &(dyn Fn(usize) -> AnalyzeSettings + Sync)| {
            for (rank, ended) in together(way, 3, of).into_iter().enumerate() {
                let error = ended.unwrap_err();
                let text = error.to_string();
                assert!(error.exit_code() == 2 && words.iter().all(|word| text.contains(word)), "{rank}: {text}");
            }
            assert!(!desk.path("none").exists() && !desk.path("none.analyzing").exists());
        };
        let base = || settings(&desk, "none");
        refused(&["process 2 of 3", "analyzes something else", "samples"], &|rank| AnalyzeSettings {
            samples: (rank == 2).then_some(2),
            ..base()
        });
        // one that cannot begin
        refused(&["layers"], &|rank| AnalyzeSettings { layers: (rank == 1).then_some(60), ..base() });
    }
    let dry = |_| AnalyzeSettings { dry_run: true, ..settings(&desk, "none") };
    let report = together(Way::Threads, 3, &dry).remove(0).unwrap();
    assert_eq!(report.group.as_ref().unwrap().members.processes, 3);
    assert!(report.text(false).contains("3 processes"), "{}", report.text(false));
    assert!(!desk.path("none").exists());
}

/// Who meets a number that is none says in which text, counted through all of them.
#[test]
fn the_text_that_breaks_is_named_by_its_number() {
    let desk = desk();
    let model = Llama { layers: 6, ..Llama::default() };
    let mut tensors = model.tensors();
    let embedding = tensors.iter_mut().find(|tensor| tensor.name == "model.embed_tokens.weight").unwrap();
    embedding.bytes[4 * 60 * model.hidden..][..4].copy_from_slice(&f32::NAN.to_le_bytes());
    write_weights(&desk.path("model"), &tensors, 1);
    let line =
        |text: usize| format!("{{\"text\": \"{}{}\"}}\n", "w5 w6 ".repeat(50), if text == 17 { "w60" } else { "w7" });
    fs::write(desk.path("text.jsonl"), (0..20).map(line).collect::<String>()).unwrap();
    for metric in ["angular", "layer-loss", "js", "shapley"] {
        let of = AnalyzeSettings { metrics: vec![metric.into()], ..settings(&desk, "none") };
        let alone = analyze(&of, &Silent).unwrap_err().to_string();
        assert!(alone.contains("text 17, token 101"), "{alone}");
        for ended in together(Way::Threads, 3, &|_| of.clone()) {
            let said = ended.unwrap_err().to_string();
            assert!(said.contains("text 17, token 101"), "{metric}: {said}");
        }
    }
}

/// One that says nothing more is named, and the others end.
#[test]
fn who_is_gone_is_named() {
    let desk = desk();
    let settings = settings(&desk, "out");
    without_process_1(|group| analyze_together(&settings, group, &Silent).map(drop));
    assert!(!desk.path("out").exists());
}
