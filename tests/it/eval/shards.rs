//! Shares of an evaluation, put together to the bytes of one process.

use prune::commands::eval::eval;
use prune::eval::settings::EvalSettings;
use prune::progress::Silent;

use crate::eval::generation::problems;
use crate::eval::shared::{Small, message, tree};

fn settings(small: &Small, out: &str) -> EvalSettings {
    let mut settings = small.settings("model", out);
    // boolq has no examples here
    settings.tasks[1] = "gsm8k".into();
    EvalSettings { few_shot: Some(1), max_length: Some(300), gen_kwargs: Some("max_gen_toks=20".into()), ..settings }
}

#[test]
fn three_shares_are_one_evaluation() {
    let small = Small::new();
    problems(&small, 40);
    eval(&settings(&small, "whole"), &Silent).unwrap();
    let names = ["one", "two", "three"];
    let mut passes = 0;
    for (number, name) in names.iter().enumerate() {
        let shard = Some(format!("{}/3", number + 1).parse().unwrap());
        let share = EvalSettings { shard, ..settings(&small, name) };
        let merged = EvalSettings { merge: names.map(|name| small.path(name)).into(), ..settings(&small, "merged") };
        let (text, code) = message(eval(&merged, &Silent));
        assert!(text.contains("--merge") && code == 2, "{text}");
        assert!(!small.path("merged").exists());
        let report = eval(&share, &Silent).unwrap();
        assert!(report.figures.is_empty() && report.written.is_empty() && report.passes.passes > 2);
        assert!(report.text().contains("--merge"), "{}", report.text());
        passes += report.passes.passes;
        // a share that is done is not done again
        assert_eq!(eval(&share, &Silent).unwrap().passes.resumed, report.passes.passes);
    }
    let merged = EvalSettings { merge: names.map(|name| small.path(name)).into(), ..settings(&small, "merged") };
    let report = eval(&merged, &Silent).unwrap();
    assert_eq!((report.passes.passes, report.figures.is_empty()), (passes, false));
    assert_eq!(tree(&small.path("merged")), tree(&small.path("whole")));
    assert!(eval(&merged, &Silent).unwrap().found);
}

#[test]
fn shares_that_are_missing_or_others_are_refused() {
    let small = Small::new();
    problems(&small, 4);
    let share = |out: &str, shard: &str| EvalSettings { shard: Some(shard.parse().unwrap()), ..settings(&small, out) };
    eval(&share("one", "1/2"), &Silent).unwrap();
    let merged = |names: &[&str], base: EvalSettings| {
        let merge = names.iter().map(|name| small.path(name)).collect();
        message(eval(&EvalSettings { merge, out: Some(small.path("merged")), ..base }, &Silent))
    };
    let (text, code) = merged(&["one"], settings(&small, "x"));
    assert!(text.contains("passes are in none of the shares") && text.contains("document") && code == 2, "{text}");
    let (text, code) = merged(&["one", "data"], settings(&small, "x"));
    assert!(text.contains("no share of an evaluation") && code == 2, "{text}");
    let (text, code) = merged(&["one"], EvalSettings { seed: 5, few_shot: Some(0), ..settings(&small, "x") });
    assert!(text.contains("another evaluation") && code == 2, "{text}");
    for (wrong, part) in [
        (EvalSettings { merge: vec![small.path("one")], ..share("x", "1/2") }, "one at a time"),
        (EvalSettings { against: Some(small.path("one")), ..share("x", "1/2") }, "--against"),
        (EvalSettings { out: None, ..share("x", "1/2") }, "--out"),
    ] {
        let (text, code) = message(eval(&wrong, &Silent));
        assert!(text.contains(part) && code == 2, "{text}");
    }
}
