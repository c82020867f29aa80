//! The same bytes whatever a pass holds and however often a run is killed.

use std::fs;
use std::path::Path;

use prune::commands::eval::eval;
use prune::eval::settings::{ChatTemplate, EvalSettings};
use prune::progress::Silent;

use crate::eval::generation::{generation, problems};
use crate::eval::shared::{Small, read, tree};
use crate::fixture::killer::Killer;

#[test]
fn the_same_run_gives_the_same_bytes_whatever_a_pass_holds() {
    let small = Small::new();
    let a = eval(&small.settings("model", "a"), &Silent).unwrap();
    eval(&small.settings("model", "b"), &Silent).unwrap();
    assert_eq!(tree(&small.path("a")), tree(&small.path("b")));
    assert!(a.passes.passes > 8, "{:?}", a.passes);
    let whole = EvalSettings { pass_tokens: Some(100_000), ..small.settings("model", "c") };
    let c = eval(&whole, &Silent).unwrap();
    assert_eq!(c.passes.passes, 1);
    for (few, many) in c.figures.iter().zip(&a.figures) {
        assert!((few.value - many.value).abs() < 1e-5 * few.value.abs().max(1.0), "{few:?} {many:?}");
    }
}

#[test]
#[ignore = "runs only as the victim of the tests below"]
fn victim() {
    let Ok(dir) = std::env::var("PRUNE_TEST_EVAL") else { return };
    let lines = std::env::var("PRUNE_TEST_LINES").unwrap().parse().unwrap();
    let settings: EvalSettings =
        serde_json::from_str(&fs::read_to_string(Path::new(&dir).join("settings.json")).unwrap()).unwrap();
    let journal = settings.out.as_ref().unwrap().join("journal.jsonl");
    eval(&settings, &Killer { journal, lines }).unwrap();
}

/// Kills an evaluation once there are so many lines in its journal, and lets it go on.
fn killed_and_resumed(small: &Small, settings: &EvalSettings, lines: usize) {
    let killed = EvalSettings { out: Some(small.path("killed")), ..settings.clone() };
    fs::write(small.path("settings.json"), serde_json::to_string(&killed).unwrap()).unwrap();
    let status = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "eval::killed::victim", "--ignored"])
        .env("PRUNE_TEST_EVAL", small.dir.path())
        .env("PRUNE_TEST_LINES", lines.to_string())
        .output()
        .unwrap();
    assert!(!status.status.success());
    let kept = fs::read_to_string(small.path("killed/journal.jsonl")).unwrap();
    assert!(kept.lines().count() >= lines);
    // the last line may have been cut short
    fs::write(small.path("killed/journal.jsonl"), &kept[..kept.len() - 3]).unwrap();
    let report = eval(&killed, &Silent).unwrap();
    assert!(report.passes.resumed >= lines - 2 && report.passes.resumed < report.passes.passes, "{:?}", report.passes);
    eval(settings, &Silent).unwrap();
    assert_eq!(tree(&small.path("killed")), tree(&settings.out.clone().unwrap()));
    assert!(!small.path("killed/journal.jsonl").exists());
}

#[test]
fn a_killed_run_goes_on_and_ends_with_the_same_bytes() {
    let small = Small::new();
    killed_and_resumed(&small, &small.settings("model", "whole"), 5);
}

#[test]
fn answers_that_were_given_before_the_kill_stand() {
    let small = Small::new();
    problems(&small, 40);
    // a line for the run, one for each batch of sixteen answers
    killed_and_resumed(&small, &generation(&small, "whole"), 3);
}

/// The same of a chat model, asked in conversations.
#[test]
fn answers_of_a_conversation_stand_as_well() {
    let small = Small::new();
    problems(&small, 40);
    let template = "{% for message in messages %}w3 {{ message.content }} w4 {% endfor %}";
    fs::write(small.path("model/chat_template.jinja"), template).unwrap();
    let settings = EvalSettings {
        apply_chat_template: Some(ChatTemplate::Applied(true)),
        system_instruction: Some("w7 w8".into()),
        gen_kwargs: Some("max_gen_toks=40".into()),
        ..generation(&small, "whole")
    };
    killed_and_resumed(&small, &settings, 3);
}

/// A text that is never said ends no answer: the number of tokens does.
#[test]
fn a_stop_string_that_never_comes_is_no_end() {
    let small = Small::new();
    problems(&small, 3);
    let until = |out: &str, until: &str| EvalSettings {
        gen_kwargs: Some(format!("{{\"until\": [\"{until}\"], \"max_gen_toks\": 9}}")),
        ..generation(&small, out)
    };
    eval(&until("never", "no such text"), &Silent).unwrap();
    let said = |out: &str| -> Vec<String> {
        let (_, samples) = read(&small.path(out));
        samples["gsm8k"].iter().map(|line| line["resps"][0][0].as_str().unwrap().to_owned()).collect()
    };
    let whole = said("never");
    assert!(whole.iter().any(|text| text.split(' ').count() == 9), "{whole:?}");
    // one that comes at once leaves nothing
    let first = whole[0].split(' ').next().unwrap();
    eval(&until("once", first), &Silent).unwrap();
    assert_eq!(said("once")[0], "");
}
