//! What unfinished work left behind: an evaluation's journal, a run's state.

use std::fs;
use std::path::Path;

use prune::checkpoint::{Origin, Workplace};
use prune::commands::run::{RunSettings, run as run_recipe};
use prune::eval::journal::{JOURNAL, Journal, RunId};
use prune::eval::passes::PassTokens;
use prune::eval::request::Answer;
use prune::progress::Silent;
use rand::Rng as _;

use super::super::json as values;
use super::{Feed, Files, small};

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
