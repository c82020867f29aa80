//! What is refused, and how it is said.

use std::fs;
use std::path::PathBuf;

use prune::commands::eval::eval;
use prune::data::{Rules, Special, Tokenizer};
use prune::eval::settings::{Compat, EvalSettings};
use prune::progress::{Progress, Silent, Unit};
use serde_json::Value;

use crate::eval::shared::{Small, message, number, read, tree};
use crate::fixture::Llama;

#[test]
fn an_output_is_never_overwritten_unasked() {
    let small = Small::new();
    let settings = EvalSettings { tasks: vec!["boolq".into()], ..small.settings("model", "out") };
    eval(&settings, &Silent).unwrap();
    let before = tree(&small.path("out"));
    let limited = EvalSettings { limit: Some(9.0), ..settings.clone() };
    let (text, code) = message(eval(&limited, &Silent));
    assert!(text.contains("with other settings (limit: null there, 9.0 here); --force") && code == 2, "{text}");
    fs::create_dir(small.path("strange")).unwrap();
    fs::write(small.path("strange/thesis.tex"), "x").unwrap();
    let (text, code) = message(eval(&EvalSettings { out: Some(small.path("strange")), ..settings.clone() }, &Silent));
    assert!(text.contains("thesis.tex") && code == 2, "{text}");
    assert_eq!(before, tree(&small.path("out")));
    eval(&EvalSettings { force: true, ..settings.clone() }, &Silent).unwrap();
    assert_eq!(before, tree(&small.path("out")));
    let other =
        EvalSettings { force: true, ..EvalSettings { tasks: vec!["boolq".into()], ..small.settings("other", "out") } };
    eval(&other, &Silent).unwrap();
    assert_ne!(before, tree(&small.path("out")));
}

#[test]
fn pruned_against_whole() {
    let small = Small::new();
    eval(&small.settings("model", "whole"), &Silent).unwrap();
    let against = EvalSettings { against: Some(small.path("whole")), ..small.settings("other", "pruned") };
    let report = eval(&against, &Silent).unwrap();
    let (whole, _) = read(&small.path("whole"));
    let (pruned, _) = read(&small.path("pruned"));
    for comparison in &report.comparisons {
        let key = format!("{},none", comparison.metric);
        let figure = |results: &Value| number(&results["results"][&comparison.task][&key]);
        assert!((comparison.difference - (figure(&pruned) - figure(&whole))).abs() < 1e-9, "{comparison:?}");
        assert!(comparison.stderr.is_some());
        if comparison.metric == "acc" {
            let uneven = comparison.gained.unwrap() as f64 - comparison.lost.unwrap() as f64;
            assert!((comparison.difference * comparison.documents as f64 - uneven).abs() < 1e-9, "{comparison:?}");
        }
    }
    let compared: Vec<&str> = report.comparisons.iter().map(|comparison| comparison.task.as_str()).collect();
    assert_eq!(compared, ["mmlu_queens", "mmlu_rivers", "boolq", "text_notes", "text_notes", "mmlu"]);
    let same = EvalSettings { against: Some(small.path("whole")), ..small.settings("model", "again") };
    let report = eval(&same, &Silent).unwrap();
    assert!(report.comparisons.iter().all(|comparison| comparison.difference == 0.0));
    assert!(report.text().contains("against the other run"));
}

#[test]
fn results_that_cannot_be_compared_are_refused() {
    let small = Small::new();
    let boolq = |out: &str| EvalSettings { tasks: vec!["boolq".into()], ..small.settings("model", out) };
    eval(&boolq("boolq"), &Silent).unwrap();
    let against = |settings: EvalSettings, path: PathBuf| {
        message(eval(&EvalSettings { against: Some(path), out: None, ..settings }, &Silent))
    };
    // a model with another tokenizer
    Llama { vocab: 70, ..Llama::default() }.write(&small.path("wide"));
    let wide = EvalSettings { tasks: vec!["boolq".into()], ..small.settings("wide", "x") };
    let (text, code) = against(wide, small.path("boolq"));
    assert!(text.contains("whose tokenizer is not this model's") && code == 2, "{text}");
    // another task, other prompts, no results, something else
    let mmlu = EvalSettings { tasks: vec!["mmlu".into()], ..small.settings("model", "x") };
    assert!(against(mmlu.clone(), small.path("boolq")).0.contains("no task in common"));
    eval(&EvalSettings { out: Some(small.path("shots")), ..mmlu.clone() }, &Silent).unwrap();
    let fewer = EvalSettings { few_shot: Some(2), ..mmlu };
    assert!(against(fewer, small.path("shots")).0.contains("document 0 of mmlu_queens was asked differently"));
    assert_eq!(against(boolq("x"), small.path("model")).1, 2);
    let (text, code) = against(boolq("x"), small.path("data/notes.jsonl"));
    assert!(text.contains("not a results file") && code == 1, "{text}");
    // without samples nothing is compared question by question, and the comparison says so
    let (results, samples): (Vec<_>, Vec<_>) =
        tree(&small.path("boolq")).into_keys().partition(|path| path.to_string_lossy().contains("results_"));
    fs::remove_file(small.path("boolq").join(&samples[0])).unwrap();
    let results = Some(small.path("boolq").join(&results[0]));
    let report = eval(&EvalSettings { against: results, out: None, ..boolq("x") }, &Silent).unwrap();
    assert!(report.comparisons.iter().all(|comparison| !comparison.paired) && !report.comparisons.is_empty());
}

#[test]
fn compat_takes_the_tokenizer_rules_of_its_time() {
    let small = Small::new();
    let own = |name: &str| std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/tokens/llama2").join(name);
    let vocab = Tokenizer::open(own("")).unwrap().vocab_size();
    Llama { vocab, ..Llama::default() }.write(&small.path("llama2"));
    for file in ["tokenizer.json", "tokenizer_config.json"] {
        fs::copy(own(file), small.path("llama2").join(file)).unwrap();
    }
    // leading spaces are what transformers 5 tokenises in its own way
    let text = "  two words  and more";
    fs::write(small.path("spaces.jsonl"), serde_json::json!({"text": text}).to_string()).unwrap();
    let asked = |compat| {
        let tasks = vec![format!("text:{}", small.path("spaces.jsonl").display())];
        let settings = EvalSettings { tasks, compat, out: None, dry_run: true, ..small.settings("llama2", "x") };
        eval(&EvalSettings { bos: Some(false), data_dir: None, ..settings }, &Silent).unwrap().passes.tokens_asked
    };
    let tokens = |rules| {
        let tokenizer = Tokenizer::open_as(small.path("llama2"), rules).unwrap();
        tokenizer.encode(text, Special::None).unwrap().len()
    };
    assert_eq!(asked(None), tokens(Rules::File));
    assert_eq!(asked(Some(Compat::V0_4_0)), tokens(Rules::File));
    assert_eq!(asked(Some(Compat::V0_4_13)), tokens(Rules::Transformers5));
    assert_ne!(tokens(Rules::File), tokens(Rules::Transformers5));
}

#[test]
fn what_is_wrong_is_named() {
    let small = Small::new();
    let base = EvalSettings { out: None, ..small.settings("model", "x") };
    let run = |settings: EvalSettings| message(eval(&settings, &Silent));
    let tasks =
        |names: &[&str]| EvalSettings { tasks: names.iter().map(|name| (*name).to_owned()).collect(), ..base.clone() };
    for (settings, part, code) in [
        (tasks(&["piqa"]), "the validation split of piqa is not there", 2),
        (tasks(&["mmlu_anatomy"]), "subject anatomy", 2),
        (tasks(&["mmlu_kings"]), "there is no task", 2),
        (tasks(&[]), "at least one task", 2),
        (EvalSettings { few_shot: Some(6), ..base.clone() }, "--few-shot 6", 2),
        (EvalSettings { data_dir: Some(small.path("nowhere")), ..base.clone() }, "nowhere", 2),
        (EvalSettings { model: None, ..base.clone() }, "which model", 2),
        (
            EvalSettings {
                max_length: Some(1),
                tasks: vec!["boolq".into()],
                compat: Some(Compat::V0_4_0),
                ..base.clone()
            },
            "",
            0,
        ),
    ] {
        if code == 0 {
            eval(&settings, &Silent).unwrap();
            continue;
        }
        let (text, found) = run(settings);
        assert!(text.contains(part) && found == code, "{text} ({found})");
    }
    // a missing subject among the 57
    let folder = small.path("partial");
    for split in ["dev", "test"] {
        fs::create_dir_all(folder.join(split)).unwrap();
        fs::write(folder.join(format!("{split}/anatomy_{split}.csv")), "q,a,b,c,d,A\n".repeat(5)).unwrap();
    }
    let (text, code) = run(EvalSettings { tasks: vec!["mmlu".into()], data_dir: Some(folder), ..base.clone() });
    assert!(text.contains("subject abstract_algebra") && code == 2, "{text}");
    // a malformed row, by file and row
    let broken = small.path("broken.jsonl");
    fs::write(&broken, "{\"question\": \"w5\", \"passage\": \"w6\", \"label\": 1}\n{\"question\": \"w5\"}\n").unwrap();
    let (text, code) = run(EvalSettings { tasks: vec!["boolq".into()], data_dir: Some(broken), ..base });
    assert!(text.contains("broken.jsonl line 2") && code == 1, "{text}");
}

#[test]
fn long_prompts_warn_and_a_dry_run_scores_nothing() {
    #[derive(Default)]
    struct Warnings(std::sync::Mutex<Vec<String>>);
    impl Progress for Warnings {
        fn begin(&self, _what: &str, _total: u64, _unit: Unit) {}
        fn advance(&self, _units: u64) {}
        fn end(&self) {}
        fn warn(&self, message: &str) {
            self.0.lock().unwrap().push(message.to_owned());
        }
    }
    let small = Small::new();
    let warnings = Warnings::default();
    let settings = EvalSettings { max_length: Some(20), dry_run: true, ..small.settings("model", "dry") };
    let report = eval(&settings, &warnings).unwrap();
    assert!(warnings.0.lock().unwrap()[0].contains("lose their beginning"));
    assert!(report.figures.is_empty() && report.passes.seconds.is_none() && !small.path("dry").exists());
    assert!(report.text().contains("dry run"));
}
