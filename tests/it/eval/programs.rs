//! Programs that a model writes: written in the common layout, run when the user says so; and drawn answers.

use std::fs;
use std::path::PathBuf;

use prune::commands::eval::eval;
use prune::eval::settings::EvalSettings;
use prune::progress::Silent;
use serde_json::{Value, json};

use crate::eval::generation::{generation, problems};
use crate::eval::shared::{Small, lines, message, read, tree};

/// Problems of which the first is solved by its prompt, whatever follows in the comment, and the second is not.
fn humaneval(small: &Small) {
    let row = |id: usize, value: usize| {
        json!({
            "task_id": format!("HumanEval/{id}"), "prompt": format!("def f():\n    return {value}\n# w5 w6"),
            "entry_point": "f", "test": "def check(candidate):\n    assert candidate() == 1\n",
        })
    };
    fs::create_dir_all(small.path("data/openai_humaneval")).unwrap();
    fs::write(small.path("data/openai_humaneval/test.jsonl"), format!("{}\n{}\n", row(0, 1), row(1, 2))).unwrap();
}

fn settings(small: &Small, task: &str, out: &str) -> EvalSettings {
    EvalSettings {
        tasks: vec![task.into()],
        max_length: None,
        few_shot: None,
        gen_kwargs: Some("max_gen_toks=6".into()),
        ..generation(small, out)
    }
}

fn programs(small: &Small, out: &str) -> Vec<Value> {
    let files = tree(&small.path(out)).into_keys();
    let found: Vec<PathBuf> = files.filter(|path| path.display().to_string().contains("programs_")).collect();
    assert_eq!(found.len(), 1, "{found:?}");
    lines(&small.path(out).join(&found[0]))
}

#[test]
fn programs_run_when_the_user_says_so() {
    let small = Small::new();
    humaneval(&small);
    let asked = settings(&small, "humaneval", "out");
    let (text, code) = message(eval(&asked, &Silent));
    assert!(text.contains("humaneval") && text.contains("--run-code false") && code == 2, "{text}");
    let dry = EvalSettings { dry_run: true, ..asked.clone() };
    assert_eq!(message(eval(&dry, &Silent)), (text, 2));
    assert!(!small.path("out").exists());

    let written = EvalSettings { run_code: Some(false), ..asked.clone() };
    let report = eval(&written, &Silent).unwrap();
    let is_of_text = |name: &str| ["repeated_suffix", "cut_at_limit", "generated_tokens"].contains(&name);
    assert!(report.figures.iter().all(|figure| is_of_text(&figure.metric)) && report.written.len() == 3, "{report:?}");
    let (results, samples) = read(&small.path("out"));
    assert!(results["results"]["humaneval"]["pass@1,create_test"].is_null(), "{results}");
    for (program, sample) in programs(&small, "out").iter().zip(&samples["humaneval"]) {
        let said = &sample["resps"][0][0];
        assert_eq!(program, &json!({"task_id": sample["doc"]["task_id"], "completion": said}));
        let whole = format!("{}{}", sample["doc"]["prompt"].as_str().unwrap(), said.as_str().unwrap());
        assert_eq!(sample["filtered_resps"], json!([[whole]]));
    }
    assert!(eval(&written, &Silent).unwrap().found);

    // the same directory gains the score
    let scored = EvalSettings { run_code: Some(true), ..asked.clone() };
    let report = eval(&scored, &Silent).unwrap();
    let figure = &report.figures[0];
    assert_eq!((figure.metric.as_str(), figure.value, figure.stderr), ("pass@1,create_test", 0.5, Some(0.5)));
    let (_, samples) = read(&small.path("out"));
    let passed: Vec<&Value> = samples["humaneval"].iter().map(|line| &line["passed"]).collect();
    assert_eq!(passed, [&json!([true]), &json!([false])]);
    let again = eval(&scored, &Silent).unwrap();
    assert!(again.found && again.figures == report.figures);
}

#[test]
fn flags_of_programs_alone_are_refused() {
    let small = Small::new();
    let boolq = EvalSettings { tasks: vec!["boolq".into()], ..small.settings("model", "out") };
    let run = |settings: EvalSettings| message(eval(&settings, &Silent));
    let (text, code) = run(EvalSettings { run_code: Some(true), ..boolq.clone() });
    assert!(text.contains("none of the tasks asks for programs") && code == 2, "{text}");
    let (text, code) = run(EvalSettings { python: Some("python3".into()), ..boolq.clone() });
    assert!(text.contains("--python") && code == 2, "{text}");
    let (text, code) = run(EvalSettings { run_code: Some(false), out: None, ..boolq.clone() });
    assert!(text.contains("--out") && code == 2, "{text}");
    humaneval(&small);
    let none = EvalSettings { run_code: Some(true), python: Some("no-python".into()), ..boolq };
    let (text, code) = run(EvalSettings { tasks: vec!["humaneval".into()], ..none });
    assert!(text.contains("no-python") && code == 2, "{text}");
    assert!(!small.path("out").exists());
}

fn said(small: &Small, out: &str, task: &str) -> Vec<Value> {
    let filter = |line: &&Value| line["filter"] != "flexible-extract";
    read(&small.path(out)).1[task].iter().filter(filter).map(|line| line["resps"][0].clone()).collect()
}

#[test]
fn drawn_answers_hang_on_seed_and_document_alone() {
    let small = Small::new();
    problems(&small, 20);
    let drawn = |out: &str, kwargs: &str| {
        let settings = EvalSettings { gen_kwargs: Some(kwargs.into()), ..generation(&small, out) };
        EvalSettings { pass_tokens: None, ..settings }
    };
    let warm = "do_sample=true,temperature=1.5,max_gen_toks=12";
    eval(&drawn("a", warm), &Silent).unwrap();
    eval(&EvalSettings { limit: Some(3.0), ..drawn("few", warm) }, &Silent).unwrap();
    eval(&drawn("greedy", "max_gen_toks=12"), &Silent).unwrap();
    eval(
        &EvalSettings {
            few_shot: Some(0),
            ..drawn("nothing", "do_sample=true,top_k=1,temperature=1.5,max_gen_toks=12")
        },
        &Silent,
    )
    .unwrap();
    let all = said(&small, "a", "gsm8k");
    assert_eq!(all[..3], said(&small, "few", "gsm8k"));
    assert_ne!(all, said(&small, "greedy", "gsm8k"));
    // a temperature that changes nothing is refused
    let (text, code) = message(eval(&drawn("cold", "temperature=1.5"), &Silent));
    assert!(text.contains("gsm8k says do_sample false") && code == 2, "{text}");
    // of one token the likeliest is drawn
    eval(&EvalSettings { few_shot: Some(0), ..drawn("likeliest", "max_gen_toks=12") }, &Silent).unwrap();
    assert_eq!(said(&small, "nothing", "gsm8k"), said(&small, "likeliest", "gsm8k"));
    let (results, samples) = read(&small.path("a"));
    assert_eq!(results["config"]["gen_kwargs"], json!({"do_sample": true, "temperature": 1.5, "max_gen_toks": 12}));
    let told = &samples["gsm8k"][0]["arguments"]["gen_args_0"]["arg_1"];
    assert_eq!((&told["temperature"], &told["until"][0]), (&json!(1.5), &json!("Question:")));
}

#[test]
fn several_answers_to_a_question_are_drawn() {
    let small = Small::new();
    humaneval(&small);
    let warm = Some("temperature=2.0,max_gen_toks=3,do_sample=true".to_owned());
    let asked = EvalSettings { gen_kwargs: warm, run_code: Some(false), ..settings(&small, "humaneval_64", "out") };
    let report = eval(&asked, &Silent).unwrap();
    assert_eq!((report.passes.documents, report.passes.requests), (2, 128));
    let answers = said(&small, "out", "humaneval_64");
    for own in &answers {
        let own: Vec<&str> = own.as_array().unwrap().iter().map(|text| text.as_str().unwrap()).collect();
        let different: std::collections::BTreeSet<&&str> = own.iter().collect();
        assert!(own.len() == 64 && different.len() > 8, "{own:?}");
    }
    assert_eq!(programs(&small, "out").len(), 128);
    assert!(eval(&asked, &Silent).unwrap().found);
    // fewer answers than are asked for make no figure
    let one = EvalSettings { gen_kwargs: Some("do_sample=true,temperature=0".into()), ..asked };
    let (text, code) = message(eval(&EvalSettings { out: Some(small.path("x")), ..one }, &Silent));
    assert!(text.contains("--gen-kwargs: humaneval_64") && code == 2, "{text}");
}
