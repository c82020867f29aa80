//! Layers scored by a task's questions: each share is that of the model that is cut so, whatever memory there is.

use std::fs;
use std::sync::Arc;

use prune::checkpoint::Checkpoint;
use prune::eval::questions::TaskQuestions;
use prune::eval::settings::EvalSettings;
use prune::eval::source::TaskSource;
use prune::importance::{Analysis, Metric, Questions, measure_questions, metric};
use prune::model::{Budget, ModelOptions, Residency};
use prune::progress::Silent;
use serde_json::{Value, json};

use super::losses::{open, options};
use crate::fixture::desk::{Desk, read};
use crate::fixture::material::shared;

const ASKED: &str = "--tasks boolq --data-dir atlas/boolq --limit 24";
const FEW: &str = "--tasks boolq --data-dir atlas/boolq --limit 6";

/// A trained model, and questions that it knows something of.
fn desk() -> Desk {
    let desk = Desk::new();
    assert!(desk.run("demo --extract atlas").status.success());
    desk
}

/// What eval says of a model.
fn accuracy(desk: &Desk, model: &str) -> f64 {
    let report = desk.json(&format!("eval {model} {ASKED} --json"));
    let figures = report["figures"].as_array().unwrap().iter().find(|figure| figure["metric"] == "acc");
    figures.unwrap()["value"].as_f64().unwrap()
}

fn means(report: &Value, metric: &str) -> Vec<Vec<f64>> {
    let scores = report["analysis"]["scores"].as_array().unwrap().iter().find(|own| own["metric"] == metric);
    serde_json::from_value(scores.unwrap()["mean"].clone()).unwrap()
}

#[test]
fn what_is_lost_is_what_the_cut_model_lacks() {
    let desk = desk();
    let whole = accuracy(&desk, "atlas/model");
    let report = desk.json(&format!("analyze atlas/model {ASKED} --metrics layer-accuracy,sublayer-accuracy --json"));
    let (layers, parts) = (means(&report, "layer-accuracy"), means(&report, "sublayer-accuracy"));
    let blocks = desk.json(&format!("analyze atlas/model {FEW} --metrics accuracy --json"));
    assert_eq!(means(&blocks, "accuracy").len(), 16);
    let mut lost = 0;
    for (drop, found) in
        [("0", layers[0][0]), ("3", layers[0][3]), ("9", layers[0][9]), ("attn:2", parts[0][4]), ("mlp:0", parts[0][1])]
    {
        let line = format!("cut atlas/model --drop {drop} --format zeros -o cut --force");
        let line = if drop.contains(':') { line } else { line.replace("--format zeros ", "") };
        assert!(desk.run(&line).status.success(), "{line}");
        let expected = whole - accuracy(&desk, "cut");
        assert!((found - expected).abs() < 1e-12, "{drop}: {found} instead of {expected}");
        lost += usize::from(expected.abs() > 0.01);
    }
    assert!(lost > 1, "the questions tell nothing of the layers");
    // the questions are told, and no text
    let used = &report["analysis"]["data"];
    assert_eq!((&used["asked"], &used["samples"]), (&json!({"tasks": ["boolq"], "questions": 24}), &json!(0)));
    let passes = &report["pass"]["questions"];
    // 32 parts of 16 layers, and single layers out of the same pass
    assert_eq!((&passes["questions"], &report["pass"]["layer_passes"]), (&json!(24), &json!(0)));
    assert!(passes["layer_passes"].as_u64().unwrap() >= 32 * 33 / 2 / 2);
    let dry =
        desk.json(&format!("analyze atlas/model {ASKED} --metrics sublayer-accuracy,layer-accuracy --dry-run --json"));
    assert_eq!(dry["pass"]["questions"], *passes);
}

#[test]
fn as_many_layers_as_the_accuracy_allows() {
    let desk = desk();
    let whole = accuracy(&desk, "atlas/model");
    let analyze = format!("analyze atlas/model --data atlas/text/validation.jsonl --samples 3 --seq-len 48 {ASKED}");
    for method in ["similarity", "sleb"] {
        let line = format!("{analyze} --method {method} --keep 0.01 --json");
        let best = desk.json(&line)["analysis"]["search"]["best"].clone();
        let best = best.as_array().unwrap();
        let left: Vec<f64> = best.iter().map(|own| own["accuracy"]["without"].as_f64().unwrap()).collect();
        assert!(best.iter().all(|own| (own["accuracy"]["whole"].as_f64().unwrap() - whole).abs() < 1e-12));
        assert!(best.iter().all(|own| own["accuracy"]["difference_stderr"].as_f64().unwrap() >= 0.0));
        for share in [1.0, 0.8] {
            let line = format!("{analyze} --method {method} --keep boolq={share} -o out --force");
            let held = (1..=left.len()).rev().find(|n| left[n - 1] >= share * whole);
            let output = desk.run(&line);
            let Some(held) = held else {
                let said = String::from_utf8_lossy(&output.stderr);
                assert!(said.contains("cannot be met; the most is an accuracy of"), "{said}");
                continue;
            };
            assert!(output.status.success(), "{line}");
            let analysis = Analysis::read(&desk.path("out/analysis.json")).unwrap();
            let plan = analysis.plan.as_ref().unwrap();
            assert_eq!(plan.why["layers"], held, "{line}: {left:?}");
            assert_eq!(plan.why["accuracy"], left[held - 1]);
            let cut = format!("cut atlas/model --plan out/analysis.json --keep boolq={share} -o cut --force");
            assert!(desk.run(&cut).status.success(), "{cut}");
            assert!((accuracy(&desk, "cut") - left[held - 1]).abs() < 1e-12, "{line}");
            let again = format!("analyze --from out/analysis.json --method {method} --keep {share} --json");
            assert_eq!(desk.json(&again)["analysis"]["plan"]["why"]["layers"], held);
            desk.refused("cut atlas/model --plan out/analysis.json --keep mmlu=0.5 -o x", 2, &["questions of boolq"]);
            let table = String::from_utf8(output.stdout).unwrap();
            assert!(table.contains(&format!("of {whole:.4}")), "{table}");
        }
    }
}

#[test]
fn margins_lens_and_probe_equal_the_references() {
    let (Some(golden), Some(dir)) = (shared("golden/methods/diagnostics.json"), shared("demo/model")) else { return };
    let golden = read(&golden);
    let questions = questions(&dir, &shared("demo/boolq").unwrap(), 60);
    let named: Vec<&Metric> = ["margin", "lens-accuracy", "probe"].iter().map(|name| metric(name).unwrap()).collect();
    let run =
        |options: &ModelOptions| measure_questions(&open(&dir, options), &named, (&questions, None), &Silent).unwrap();
    let found = run(&options(Residency::Resident));
    let rows = |key: &str| -> Vec<f64> { serde_json::from_value(golden.pointer(key).unwrap().clone()).unwrap() };
    let near = |found: &[f64], key: &str, most: f64, from: usize| {
        let expected = rows(key);
        assert_eq!(found.len(), expected.len(), "{key}");
        let apart = found.iter().zip(&expected).skip(from).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
        println!("{key}: {apart:.2e} of {most:.0e}");
        assert!(apart <= most, "{key}: {apart}\n{found:?}\n{expected:?}");
    };
    near(&found[0].mean[0], "/margin", 1e-5, 0);
    near(&found[1].mean[0], "/argmax_accuracy", 1e-12, 0);
    // a question may lie on the border; where all prompts end alike there is nothing to tell
    near(&found[2].mean[0], "/probe/accuracy", 1.0 / 60.0 + 1e-12, 1);
    // from disk, and with so little memory that stacks go one by one
    assert_eq!(run(&options(Residency::Streamed)), found);
    let removed: Vec<&Metric> = vec![metric("layer-accuracy").unwrap()];
    let run = |options: &ModelOptions| {
        measure_questions(&open(&dir, options), &removed, (&questions, None), &Silent).unwrap()
    };
    let tight = ModelOptions { budget: Budget::new(Some(100 << 20)), ..options(Residency::Streamed) };
    assert_eq!(run(&tight), run(&options(Residency::Resident)));
}

fn questions(model: &std::path::Path, data: &std::path::Path, limit: usize) -> TaskQuestions {
    let checkpoint = Arc::new(Checkpoint::open_dir(model).unwrap());
    let spec = prune::arch::ModelSpec::from_config(&checkpoint.config).unwrap();
    let settings =
        EvalSettings { tasks: vec!["boolq".to_owned()], limit: Some(limit as f64), ..EvalSettings::default() };
    let source = TaskSource::open(data).unwrap();
    let questions = TaskQuestions::open(&settings, &source, (&checkpoint, &spec, Budget::new(None)), &Silent).unwrap();
    assert_eq!((Questions::choices(&questions).len(), questions.requests()), (limit, 2 * limit));
    questions
}

#[test]
fn what_goes_with_questions_and_what_does_not() {
    let desk = desk();
    let row =
        json!({"question_stem": "w1 w2", "choices": {"text": ["w3", "w4"], "label": ["A", "B"]}, "answerKey": "B"});
    fs::write(desk.path("open.jsonl"), format!("{row}\n")).unwrap();
    let winogrande = json!({"sentence": "w1 _ w2", "option1": "w3", "option2": "w4", "answer": "1"});
    fs::write(desk.path("wino.jsonl"), format!("{winogrande}\n{winogrande}\n")).unwrap();
    let wino = "--tasks winogrande --data-dir wino.jsonl";
    for (line, words) in [
        ("--metrics layer-accuracy", &["--tasks names them"][..]),
        ("--data text.jsonl --metrics margin", &["margin looks at questions", "--tasks"]),
        ("--data text.jsonl --tasks boolq --data-dir atlas/boolq", &["no score that is measured", "layer-accuracy"]),
        ("--data text.jsonl --limit 5", &["--limit goes with --tasks"]),
        ("--data text.jsonl --few-shot 5", &["--few-shot goes with --tasks"]),
        ("--data text.jsonl --data-dir atlas/boolq", &["--data-dir goes with --tasks"]),
        ("--tasks gsm8k --metrics layer-accuracy", &["--tasks gsm8k", "questions with choices", "mmlu, boolq"]),
        ("--tasks bolq --metrics layer-accuracy", &["did you mean boolq?"]),
        ("--tasks boolq --data-dir nowhere --metrics layer-accuracy", &["nowhere"]),
        ("--tasks boolq --limit -1 --metrics layer-accuracy", &["--limit -1"]),
        ("--tasks openbookqa --data-dir open.jsonl --metrics margin", &["which text?", "angular"]),
        (
            "--tasks openbookqa --data-dir open.jsonl --metrics probe,layer-accuracy",
            &["probe", "at least two questions"],
        ),
        (
            "--tasks openbookqa --data-dir open.jsonl --metric layer-accuracy --strategy policy",
            &["strategy policy draws a few texts", "greedy and beam"],
        ),
        ("--data text.jsonl --data val.jsonl --tasks boolq --metric layer-accuracy", &["--tasks goes with one text"]),
        (&format!("{wino} --metrics layer-accuracy,probe"), &["probe", "winogrande, document 0", "texts of their own"]),
        (&format!("{wino} --metrics layer-accuracy --max-loss 0.1"), &["which text?", "--max-loss"]),
        ("--data text.jsonl --keep 0.9", &["--keep: of which task?"]),
        ("--data text.jsonl --keep boolq=1.5", &["--keep boolq=1.5", "above 0 and up to 1"]),
        ("--data text.jsonl --keep boolq=0.9 --tasks mmlu", &["--keep boolq and --tasks mmlu"]),
    ] {
        desk.refused(&format!("analyze model {line} -o a"), 2, words);
    }
    assert_eq!(desk.run("analyze model --data text.jsonl --keep boolq=0.9 --layers 2").status.code(), Some(2));
    desk.refused("cut model --keep 0.9 -o a", 2, &["give --plan"]);
    assert!(desk.run("analyze model --data text.jsonl --layers 2 -o plain").status.success());
    desk.refused("cut model --plan plain/analysis.json --keep 0.9 -o a", 2, &["--keep with a model does"]);
}

/// A recipe's analysis asks as well, and is done again when the questions change.
#[test]
fn a_recipe_asks_and_asks_again() {
    let desk = Desk::new();
    let row = |at: usize| {
        let choices = json!({"text": ["w3", "w4"], "label": ["A", "B"]});
        json!({"question_stem": format!("w{at} w2"), "choices": choices, "answerKey": "B"}).to_string() + "\n"
    };
    let write = |rows: usize| fs::write(desk.path("kept/open.jsonl"), (1..=rows).map(row).collect::<String>()).unwrap();
    fs::create_dir(desk.path("kept")).unwrap();
    write(6);
    let recipe = "model = \"model\"\n[drop]\nmethods = [\"similarity\"]\nlayers = [1]\n[analyze]\ndata = \"text.jsonl\"\n\
                  tasks = [\"openbookqa\"]\ndata_dir = \"open.jsonl\"\nmetric = \"layer-accuracy\"\n";
    fs::write(desk.path("kept/recipe.toml"), recipe).unwrap();
    for rows in [6, 6, 9] {
        write(rows);
        let output = desk.run("run kept/recipe.toml -o out");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let analysis = read(&desk.path("out/analysis/analysis.json"));
        assert_eq!(analysis["data"]["asked"]["questions"], rows);
    }
    let report = read(&desk.path("out/report.json"));
    assert_eq!(report["costs"]["similarity"], "a pass over questions, for every candidate's layers");
}

/// A task file that asks BoolQ's questions scores layers as BoolQ does; at validations of a healing too.
#[test]
fn tasks_of_ones_own_score_layers_and_steps() {
    let desk = desk();
    fs::create_dir(desk.path("tasks")).unwrap();
    let file = "task: mine\ndataset_path: json\ndataset_kwargs: {data_files: {validation: \
                atlas/boolq/validation.jsonl}}\nvalidation_split: validation\noutput_type: multiple_choice\ndoc_to_text: \
                \"{{passage}}\\nQuestion: {{question}}?\\nAnswer:\"\ndoc_to_target: label\ndoc_to_choice: [\"no\", \
                \"yes\"]\n";
    fs::write(desk.path("tasks/mine.yaml"), file).unwrap();
    let analyze = |asked: &str| desk.json(&format!("analyze atlas/model {asked} --metrics layer-accuracy --json"));
    let own = analyze("--tasks mine --include-path tasks --limit 6");
    assert_eq!(means(&own, "layer-accuracy"), means(&analyze(FEW), "layer-accuracy"));
    desk.refused("analyze atlas/model --data atlas/text --include-path tasks", 2, &["--include-path", "--tasks"]);
    let heal = "heal atlas/model --data atlas/text/train.jsonl --eval-data atlas/text/validation.jsonl --eval-samples 1 \
                --seq-len 16 --steps 1 --batch 1 --quant none -o healed --eval-tasks mine --eval-include-path tasks \
                --eval-limit 6";
    assert!(desk.run(heal).status.success());
    let log = fs::read_to_string(desk.path("healed/log.jsonl")).unwrap();
    let lines: Vec<Value> = log.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert!(lines.iter().any(|line| line["tasks"]["mine"].is_number()), "{log}");
}
