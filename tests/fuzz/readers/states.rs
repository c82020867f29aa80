//! What unfinished work left behind: an evaluation's journal, a search's, a run's state.

use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};

use prune::checkpoint::{MARK, Origin, Workplace};
use prune::commands::analyze::{AnalyzeSettings, analyze};
use prune::commands::run::{RunSettings, run as run_recipe};
use prune::eval::journal::{JOURNAL, Journal, RunId};
use prune::eval::passes::PassTokens;
use prune::eval::request::Answer;
use prune::importance::Unfinished;
use prune::interrupt::Interrupt;
use prune::progress::{Progress, Silent, Unit};
use rand::Rng as _;

use super::super::json as values;
use super::{Feed, Files, small};
use crate::fixture::Llama;

/// `journal.jsonl`.
pub(super) fn journal(dir: &Path) -> Feed {
    let out = dir.join("out");
    let tokens = PassTokens { usual: 8, most: 9 };
    let run =
        RunId { version: "1".into(), model: "m".into(), digest: "d".into(), pass_tokens: tokens, cached_tokens: None };
    let open = move |out: &Path, force: bool| {
        let place = Workplace::open(out, &Origin::program("eval"))?;
        Journal::open(&place, &run, &[1, 2, 3, 4, 5, 0, 0, 1], force)
    };
    let mut good = open(&out, false).unwrap();
    for pass in 0..5 {
        let answer = |at: usize| Answer::LogLikelihood { log_likelihood: -1.0 / (at as f32 + 3.0), greedy: at == 1 };
        good.keep(pass, &(0..pass + 1).map(answer).collect::<Vec<_>>()).unwrap();
    }
    drop(good);
    let files = Files::of(&out);
    Box::new(move |case| {
        files.replace(&[(JOURNAL, values::lines(&mut case.rng, &files.good[JOURNAL]))]);
        let _ = Journal::run(&out);
        let _ = Journal::is_alone(&out);
        let force = case.rng.random();
        let Some(mut journal) = case.heard(open(&out, force)) else { return };
        let kept = [Answer::LogLikelihood { log_likelihood: -0.5, greedy: true }];
        case.heard(journal.keep(7, &kept));
        drop(journal);
        if case.heard(open(&out, false)).is_none_or(|journal| journal.answers(7) != Some(&kept[..])) {
            case.fault("what was kept is gone");
        }
    })
}

/// Stops a search in its second step: after the scores, the whole model and the first step.
#[derive(Default)]
struct Stopping {
    interrupt: Interrupt,
    passes: AtomicUsize,
}

impl Progress for Stopping {
    fn begin(&self, what: &str, _total: u64, _unit: Unit) {
        if what == "measuring losses" && self.passes.fetch_add(1, Ordering::Relaxed) == 3 {
            self.interrupt.request();
        }
    }
    fn advance(&self, _units: u64) {}
    fn end(&self) {}
    fn warn(&self, _message: &str) {}
}

/// What an unfinished search left: settings, scores, and the journal of its candidates.
pub(super) fn search(dir: &Path) -> Feed {
    let (model, text) = (dir.join("model"), dir.join("text.jsonl"));
    Llama { layers: 3, ..small() }.write(&model);
    fs::write(&text, "{\"text\": \"w3 w4 w5 w6\"}\n{\"text\": \"w7 w3 w9\"}\n").unwrap();
    let out = dir.join("out");
    let settings = AnalyzeSettings {
        model: Some(model.display().to_string()),
        data: vec![text.display().to_string()],
        method: Some(prune::methods::method("sleb").unwrap()),
        out: Some(out.clone()),
        force: true,
        ..AnalyzeSettings::default()
    };
    // stopped when the first candidates are in the journal
    let stopping = Stopping::default();
    stopping.interrupt.run(|| analyze(&settings, &stopping).unwrap_err());
    let (work, whole) = (Unfinished::place(&out), dir.join("whole"));
    let files = Files::of(&work);
    let known = analyze(&AnalyzeSettings { out: Some(whole), ..settings.clone() }, &Silent).unwrap().analysis;
    fs::rename(&work, dir.join("kept")).unwrap();
    let kept = dir.join("kept");
    Box::new(move |case| {
        let _ = fs::remove_dir_all(&work);
        fs::create_dir(&work).unwrap();
        for (name, bytes) in &files.good {
            fs::write(work.join(name), bytes).unwrap();
        }
        fs::copy(kept.join(MARK), work.join(MARK)).unwrap();
        let name = case.pick(&["journal.jsonl", "scores.json", "settings.json"]);
        let broken = match name {
            "journal.jsonl" => values::lines(&mut case.rng, &files.good[name]),
            _ => values::changed(&mut case.rng, &files.json(name)),
        };
        fs::write(work.join(name), broken).unwrap();
        let report = case.listen(|progress| analyze(&settings, progress));
        if let Some(analysis) = report.and_then(|report| report.analysis) {
            let is_same = Some(&analysis) == known.as_ref();
            // numbers in the place of others may be believed, settings of another are not
            if name == "settings.json" && !is_same || analysis.search.best.len() != 2 {
                case.fault("what came of it is no search of this model");
            }
        }
    })
}

/// `run.json`.
pub(super) fn run(dir: &Path) -> Feed {
    let (model, recipe) = (dir.join("model"), dir.join("recipe.toml"));
    small().write(&model);
    let toml = format!(
        // nothing whose speed would have to be measured
        "model = {:?}\n[drop]\nlayers = [1]\nstrategies = [\"deepest\"]\n",
        model.display()
    );
    fs::write(&recipe, toml).unwrap();
    let out = dir.join("job");
    let settings = RunSettings { recipe: Some(recipe), out: Some(out.clone()), ..RunSettings::default() };
    run_recipe(&settings, &Silent).unwrap();
    let files = Files::of(&out);
    Box::new(move |case| {
        files.replace(&[("run.json", values::changed(&mut case.rng, &files.json("run.json")))]);
        let settings = RunSettings { dry_run: true, ..settings.clone() };
        case.listen(|progress| run_recipe(&settings, progress));
    })
}
