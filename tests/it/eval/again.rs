//! Results that are there already: found, added to, compared.

use std::fs;

use prune::commands::compare::{CompareSettings, compare};
use prune::commands::eval::eval;
use prune::eval::degenerate::Degenerate;
use prune::eval::settings::EvalSettings;
use prune::progress::Silent;
use serde_json::{Value, json};

use crate::eval::shared::{Small, message, read, tree};
use crate::fixture::{Llama, write_weights};

#[test]
fn a_finished_evaluation_is_found() {
    let small = Small::new();
    let settings = small.settings("model", "out");
    let first = eval(&settings, &Silent).unwrap();
    assert!(!first.found && first.kept.is_empty());
    let before = tree(&small.path("out"));
    let again = eval(&settings, &Silent).unwrap();
    assert!(again.found && again.written.is_empty() && again.figures == first.figures);
    assert!(again.text().starts_with("found     finished before with these settings: "), "{}", again.text());
    // a part of it is there as well, and can be compared
    let part = EvalSettings { tasks: vec!["boolq".into()], against: Some(small.path("out")), ..settings.clone() };
    let part = eval(&part, &Silent).unwrap();
    assert!(part.found && part.comparisons.iter().all(|comparison| comparison.difference == 0.0));
    assert_eq!(before, tree(&small.path("out")));

    // other weights under the same name
    let mut tensors = Llama::default().tensors();
    *tensors.last_mut().unwrap().bytes.last_mut().unwrap() ^= 1;
    write_weights(&small.path("model"), &tensors, 1);
    let (text, code) = message(eval(&settings, &Silent));
    assert!(text.contains("of a model or adapter with other weights") && code == 2, "{text}");
    write_weights(&small.path("model"), &Llama::default().tensors(), 1);
    assert!(eval(&settings, &Silent).unwrap().found, "the same content again");
    // other labels of the same questions
    let data = small.path("data/boolq/validation.jsonl");
    let text = fs::read_to_string(&data).unwrap().replacen("\"label\":0", "\"label\":1", 1);
    fs::write(&data, text).unwrap();
    let (text, code) = message(eval(&settings, &Silent));
    assert!(text.contains("of boolq with other data or settings") && code == 2, "{text}");
    let (text, _) = message(eval(&EvalSettings { few_shot: Some(0), ..settings }, &Silent));
    assert!(text.contains("with other data or settings"), "{text}");
    assert_eq!(before, tree(&small.path("out")));
}

#[test]
fn tasks_are_added() {
    let small = Small::new();
    let all = small.settings("model", "all");
    eval(&all, &Silent).unwrap();
    let text = all.tasks[2].clone();
    // one after the other, the last with a group that is there already
    for tasks in [vec!["mmlu".to_owned()], vec!["boolq".to_owned()], vec![text, "mmlu".to_owned()]] {
        let report = eval(&EvalSettings { tasks, out: Some(small.path("out")), ..all.clone() }, &Silent).unwrap();
        assert!(!report.found);
    }
    assert_eq!(tree(&small.path("all")), tree(&small.path("out")), "the same bytes as all at once");
    // a text of the same name: both are told apart from now on
    let other = small.path("other-text/notes.jsonl");
    fs::create_dir(other.parent().unwrap()).unwrap();
    fs::write(&other, json!({"text": "w5 w6 w7 w8"}).to_string()).unwrap();
    let more = EvalSettings { tasks: vec![format!("text:{}", other.display())], ..all.clone() };
    let report = eval(&EvalSettings { out: Some(small.path("out")), ..more }, &Silent).unwrap();
    assert_eq!(report.kept, ["mmlu_queens", "mmlu_rivers", "boolq", "text_data-notes"]);
    let (results, samples) = read(&small.path("out"));
    assert_eq!(
        samples.keys().collect::<Vec<_>>(),
        ["boolq", "mmlu_queens", "mmlu_rivers", "text_data-notes", "text_other-text-notes"]
    );
    let (whole, _) = read(&small.path("all"));
    assert_eq!(results["results"]["text_data-notes"]["loss,none"], whole["results"]["text_notes"]["loss,none"]);
    assert_eq!(results["results"]["mmlu"], whole["results"]["mmlu"]);
}

#[test]
fn two_results_are_compared() {
    let small = Small::new();
    eval(&small.settings("model", "whole"), &Silent).unwrap();
    let against = EvalSettings { against: Some(small.path("whole")), ..small.settings("other", "pruned") };
    let live = eval(&against, &Silent).unwrap();
    let settings = CompareSettings { from: Some(small.path("whole")), to: Some(small.path("pruned")) };
    let report = compare(&settings, &Silent).unwrap();
    // what eval --against says, and all questions together
    let (all, rest): (Vec<_>, Vec<_>) = report.comparisons.into_iter().partition(|comparison| comparison.task == "all");
    assert_eq!(rest, live.comparisons);
    assert_eq!((all.len(), all[0].metric.as_str(), all[0].documents), (1, "acc", 84));
    assert!(rest.iter().chain(&all).all(|comparison| comparison.paired));
    // without samples: as independent figures
    for file in tree(&small.path("whole")).into_keys().filter(|path| path.to_string_lossy().contains("samples_")) {
        fs::remove_file(small.path("whole").join(file)).unwrap();
    }
    let apart = compare(&settings, &Silent).unwrap();
    assert!(apart.comparisons.iter().all(|comparison| !comparison.paired && comparison.p.is_none()));
    let boolq = |all: &[prune::eval::compare::Comparison]| {
        all.iter().find(|comparison| comparison.task == "boolq").map(|comparison| comparison.difference).unwrap()
    };
    assert!((boolq(&apart.comparisons) - boolq(&rest)).abs() < 1e-12);
    assert!(apart.text().contains("not paired"), "{}", apart.text());
}

#[test]
fn results_of_the_reference_are_compared() {
    let dir = tempfile::tempdir().unwrap();
    // as lm-evaluation-harness writes them: a metric of its own, and no word of this program
    let write = |name: &str, right: &[u8]| {
        let out = dir.path().join(name);
        fs::create_dir(&out).unwrap();
        let mean = right.iter().map(|right| f64::from(*right)).sum::<f64>() / right.len() as f64;
        let results = json!({
            "results": {"gsm8k": {"alias": "gsm8k", "exact_match,strict": mean, "exact_match_stderr,strict": 0.2}},
            "higher_is_better": {"gsm8k": {"exact_match": true}}, "n-samples": {"gsm8k": {"effective": right.len()}},
            "model_name": name,
        });
        fs::write(out.join("results_1.json"), results.to_string()).unwrap();
        let line = |(id, right): (usize, &u8)| {
            json!({"doc_id": id, "prompt_hash": "h", "filter": "strict", "exact_match": f64::from(*right)}).to_string()
                + "\n"
        };
        fs::write(out.join("samples_gsm8k_1.jsonl"), right.iter().enumerate().map(line).collect::<String>()).unwrap();
        Some(out)
    };
    let settings = CompareSettings { from: write("a", &[1, 0, 0, 1]), to: write("b", &[1, 1, 1, 1]) };
    let report = compare(&settings, &Silent).unwrap();
    let [found] = &report.comparisons[..] else { panic!("{report:?}") };
    assert_eq!((found.metric.as_str(), found.documents, found.difference, found.paired), ("exact_match", 4, 0.5, true));
    assert_eq!((report.from.model.as_str(), report.to.model.as_str()), ("a", "b"));
}

#[test]
fn one_answer_and_worse_than_guessing() {
    let small = Small::new();
    // a head that is far too sure; "no" and "yes" are both unknown words, so that the first wins every tie
    let mut settings = small.settings("model", "out");
    settings.tasks = vec!["boolq".into(), settings.tasks[2].clone()];
    let mut tensors = Llama::default().tensors();
    let head = tensors.last_mut().unwrap();
    for bytes in head.bytes.chunks_exact_mut(4) {
        let value = f32::from_le_bytes((&*bytes).try_into().unwrap());
        bytes.copy_from_slice(&(value * 30.0).to_le_bytes());
    }
    write_weights(&small.path("model"), &tensors, 1);
    let report = eval(&settings, &Silent).unwrap();
    let figure = |metric: &str| report.figures.iter().find(|figure| figure.metric == metric).unwrap();
    assert_eq!((figure("acc").majority, figure("acc").degenerate), (Some(1.0), Some(Degenerate::OneAnswer)));
    assert!(figure("loss_per_log_vocab").value > 1.0);
    assert_eq!(figure("loss").degenerate, Some(Degenerate::AboveGuessing));
    let text = report.text();
    assert!(text.contains("boolq acc is degenerate: one answer to every question (100.0 % of them)"), "{text}");
    assert!(text.contains("loss is degenerate: worse than guessing"), "{text}");
    let (results, _) = read(&small.path("out"));
    assert_eq!(results["results"]["boolq"]["majority_answer,none"], json!(1.0));
    assert!(results["results"]["text_notes"].get("majority_answer,none").is_none_or(Value::is_null));
    // such a model is better than none
    eval(&EvalSettings { out: Some(small.path("other-out")), ..small.settings("other", "x") }, &Silent).unwrap();
    let settings = CompareSettings { from: Some(small.path("other-out")), to: Some(small.path("out")) };
    let report = compare(&settings, &Silent).unwrap();
    let acc = report.comparisons.iter().find(|found| found.task == "boolq").unwrap();
    assert_eq!(acc.degenerate, Some(Degenerate::OneAnswer));
    assert!(report.text().contains("degenerate: one answer to every question"), "{}", report.text());
}
