//! Questions at validations: the answers are those of `prune eval`, and they can say which step is the best.

use std::fs;

use prune::commands::eval::eval;
use prune::commands::heal::heal;
use prune::eval::settings::EvalSettings;
use prune::heal::schedule::Decay;
use prune::heal::{BestBy, HealSettings, Quant};
use prune::progress::Silent;
use serde_json::{Value, json};

use crate::fixture::desk::{Desk, read};
use crate::fixture::impatient::Impatient;

/// A learning rate under which answers change, whole weights so that the written model is the trained one.
fn settings(desk: &Desk, out: &str, best_by: BestBy) -> HealSettings {
    let text = |name: &str| Some(desk.path(name).display().to_string());
    HealSettings {
        model: text("model"),
        data: text("text.jsonl").into_iter().collect(),
        eval_data: text("text.jsonl"),
        eval_tasks: vec!["piqa".into()],
        eval_data_dir: Some(desk.path("piqa.jsonl")),
        eval_limit: Some(30.0),
        best_by,
        steps: 6,
        batch: 2,
        seq_len: Some(8),
        rank: 2.into(),
        dropout: 0.0,
        eval_every: 1,
        lr: 0.3,
        schedule: Decay::Constant,
        warmup: Some(0.0),
        quant: Quant::None,
        out: Some(desk.path(out)),
        ..HealSettings::default()
    }
}

fn questions(desk: &Desk) {
    let words = |from: usize, len: usize| (from..from + len).map(|n| format!("w{}", 3 + n % 29)).collect::<Vec<_>>();
    let row = |n: usize| {
        let text = |from: usize, len: usize| words(from, len).join(" ");
        let row = json!({"goal": text(n, 3), "sol1": text(5 * n, 2), "sol2": text(7 * n + 1, 2), "label": n % 2});
        row.to_string() + "\n"
    };
    fs::write(desk.path("piqa.jsonl"), (0..40).map(row).collect::<String>()).unwrap();
}

fn accuracy(desk: &Desk, model: &str) -> f64 {
    let settings = EvalSettings {
        model: Some(desk.path(model).display().to_string()),
        tasks: vec!["piqa".into()],
        data_dir: Some(desk.path("piqa.jsonl")),
        limit: Some(30.0),
        ..EvalSettings::default()
    };
    eval(&settings, &Silent).unwrap().figures[0].value
}

/// Step, loss and share of right answers of each validation.
fn validations(desk: &Desk, out: &str) -> Vec<(u64, f64, f64)> {
    let text = fs::read_to_string(desk.path(out).join("log.jsonl")).unwrap();
    let lines = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    let validation = |line: Value| {
        let loss = line["val_loss"].as_f64()?;
        assert_eq!(line["accuracy"], line["tasks"]["piqa"], "one task is all of them");
        Some((line["step"].as_u64()?, loss, line["accuracy"].as_f64().unwrap()))
    };
    lines.filter_map(validation).collect()
}

#[test]
fn answers_are_those_of_eval() {
    let desk = Desk::new();
    questions(&desk);
    let result = heal(&settings(&desk, "healed", BestBy::Accuracy), &Silent).unwrap().result.unwrap();
    let all = validations(&desk, "healed");
    assert_eq!(all.len(), 7);
    assert!(all.iter().any(|own| own.2 != all[0].2), "no answer changes: {all:?}");
    let best = all.iter().fold(all[0], |best, own| if own.2 > best.2 { *own } else { best });
    assert_eq!((result.best_step, result.best_accuracy), (Some(best.0 as usize), Some(best.2)));
    assert_eq!((accuracy(&desk, "model"), accuracy(&desk, "healed/merged")), (all[0].2, best.2));
    let state = read(&desk.path("healed/trainer_state.json"));
    assert_eq!(state["best_metric"], json!(best.2));

    // the same course by loss, of which another step may be the best
    let by_loss = heal(&settings(&desk, "by-loss", BestBy::Loss), &Silent).unwrap().result.unwrap();
    assert_eq!(validations(&desk, "by-loss"), all);
    let best = all.iter().fold(all[0], |best, own| if own.1 < best.1 { *own } else { best });
    assert_eq!((by_loss.best_step, by_loss.best_accuracy), (Some(best.0 as usize), Some(best.2)));

    let impatient = Impatient::default();
    let stopped = settings(&desk, "stopped", BestBy::Accuracy);
    impatient.interrupt.run(|| heal(&stopped, &impatient)).unwrap_err();
    assert!(heal(&stopped, &Silent).unwrap().steps_before > 0);
    let adapter = |out: &str| fs::read(desk.path(out).join("adapter/adapter_model.safetensors")).unwrap();
    assert!(adapter("stopped") == adapter("healed") && validations(&desk, "stopped") == all);
}

#[test]
fn what_cannot_be_asked_is_refused_before_the_work() {
    let desk = Desk::new();
    questions(&desk);
    let heal = "heal model --data text.jsonl --seq-len 8 --steps 2 -o healed";
    let eval = format!("{heal} --eval-data text.jsonl");
    for (line, parts) in [
        (format!("{heal} --eval-tasks piqa"), ["eval_tasks", "--eval-data"]),
        (format!("{eval} --eval-limit 5"), ["eval_limit", "eval_tasks"]),
        (format!("{eval} --best-by accuracy"), ["best_by", "eval_tasks"]),
        (format!("{eval} --eval-tasks gsm8k --eval-data-dir ."), ["gsm8k", "questions with choices"]),
        (format!("{eval} --eval-tasks bolq --eval-data-dir ."), ["--eval-tasks", "did you mean boolq?"]),
    ] {
        desk.refused(&line, 2, &parts);
    }
    assert!(!desk.path("healed").exists() && !desk.path("healed.healing").exists());
}
