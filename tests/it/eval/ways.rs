//! The same questions ranked, answered in one token, and answered behind a chain of thought.

use prune::commands::eval::eval;
use prune::eval::settings::EvalSettings;
use prune::eval::ways::AnswerWay;
use prune::progress::Silent;

use crate::eval::shared::{Small, message, number, read};

#[test]
fn the_same_questions_in_three_ways() {
    let small = Small::new();
    let ways = vec![AnswerWay::Ranked, AnswerWay::Token, AnswerWay::Chain];
    let settings = |ways: &[AnswerWay], out: &str| EvalSettings {
        tasks: vec!["mmlu".into()],
        few_shot: Some(1),
        limit: Some(6.0),
        gen_kwargs: Some("max_gen_toks=16".into()),
        ways: ways.to_vec(),
        ..small.settings("model", out)
    };
    let report = eval(&settings(&ways, "out"), &Silent).unwrap();
    let groups: Vec<&str> =
        report.figures.iter().filter(|figure| figure.depth == 0).map(|figure| figure.task.as_str()).collect();
    assert!(["mmlu", "mmlu_token", "mmlu_chain"].iter().all(|name| groups.contains(name)), "{groups:?}");
    let (results, samples) = read(&small.path("out"));
    let ranked = &samples["mmlu_queens"];
    for (way, lines, tokens) in [("token", 6, 1.0), ("chain", 12, 16.0)] {
        let own = &samples[&format!("mmlu_queens_{way}")];
        assert_eq!(own.len(), lines);
        for (line, ranked) in own.iter().zip(ranked) {
            assert_eq!((&line["doc_id"], &line["doc_hash"]), (&ranked["doc_id"], &ranked["doc_hash"]));
            assert!(number(&line["generations"][0]["tokens"]) <= tokens);
        }
        let entry = &results["results"][format!("mmlu_queens_{way}")];
        assert!(number(&entry["generated_tokens,none"]) <= tokens);
        let group = &results["results"][format!("mmlu_{way}")];
        let filter = if way == "token" { "none" } else { "flexible-extract" };
        assert!((0.0..=1.0).contains(&number(&group[format!("exact_match,{filter}")])), "{group}");
    }
    let prompt = |task: &str| samples[task][0]["arguments"]["gen_args_0"]["arg_0"].as_str().unwrap().to_owned();
    assert_eq!(prompt("mmlu_queens_token"), prompt("mmlu_queens"), "one token follows what ranking reads");
    let chain = prompt("mmlu_queens_chain");
    assert!(chain.ends_with("Think step by step. End with \"The answer is X.\", where X is one of A, B, C, D.\n"));
    assert_eq!(chain.matches("Think step by step").count(), 1, "no examples");

    // the ranked figures are those of ranking alone, whose results are added to
    let alone = eval(&settings(&[], "alone"), &Silent).unwrap();
    let ranked = |task: &str| report.figures.iter().find(|figure| figure.task == task).cloned();
    assert!(alone.figures.iter().all(|figure| ranked(&figure.task).as_ref() == Some(figure)));
    let more = eval(&settings(&ways, "alone"), &Silent).unwrap();
    assert_eq!(more.kept.len(), 2);
    assert_eq!(more.figures, report.figures);

    let texts = format!("text:{}", small.path("data/notes.jsonl").display());
    let refused = EvalSettings { tasks: vec![texts], ways, ..small.settings("model", "none") };
    let (text, code) = message(eval(&refused, &Silent));
    assert!(text.contains("--ways: none of the tasks has choices") && code == 2, "{text}");
    assert!(!small.path("none").exists());
}
