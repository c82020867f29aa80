//! A run that ends when validation gets no better.

use std::fs;

use prune::commands::heal::heal;
use prune::heal::schedule::Decay;
use prune::heal::{HealSettings, Quant};
use prune::progress::Silent;
use serde_json::{Value, json};

use crate::fixture::desk::{Desk, read};
use crate::fixture::impatient::Impatient;

/// A learning rate that soon does harm, whole weights so that the written model is the trained one.
fn settings(desk: &Desk, out: &str, patience: Option<usize>) -> HealSettings {
    let text = |name: &str| Some(desk.path(name).display().to_string());
    HealSettings {
        model: text("model"),
        data: text("text.jsonl").into_iter().collect(),
        eval_data: text("text.jsonl"),
        steps: 12,
        batch: 2,
        seq_len: Some(8),
        rank: 2.into(),
        dropout: 0.0,
        eval_every: 1,
        lr: 3.0,
        schedule: Decay::Constant,
        warmup: Some(0.0),
        quant: Quant::None,
        patience,
        out: Some(desk.path(out)),
        ..HealSettings::default()
    }
}

fn validations(desk: &Desk, out: &str) -> Vec<(usize, f64)> {
    let text = fs::read_to_string(desk.path(out).join("log.jsonl")).unwrap();
    let lines = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    lines.filter_map(|line| Some((line["step"].as_u64()? as usize, line["val_loss"].as_f64()?))).collect()
}

/// It ends so many validations after the best one, whose weights are written; stopped and gone on with, with the same
/// bytes.
#[test]
fn ends_after_the_best() {
    let desk = Desk::new();
    heal(&settings(&desk, "whole", None), &Silent).unwrap();
    let all = validations(&desk, "whole");
    assert_eq!(all.len(), 13);
    // where the rule ends the run, told from all of its validations
    let expected = (0..all.len()).find(|at| {
        let best = (0..=*at).min_by(|a, b| all[*a].1.total_cmp(&all[*b].1)).unwrap();
        at - best >= 3
    });
    let expected = expected.expect("this learning rate does no harm");
    assert!(expected < 12, "{all:?}");

    let report = heal(&settings(&desk, "early", Some(3)), &Silent).unwrap();
    let result = report.result.unwrap();
    assert_eq!((result.steps, validations(&desk, "early")), (expected, all[..=expected].to_vec()));
    assert_eq!(result.best_step, Some(expected - 3));
    let (best, written) = (result.best_loss.unwrap(), result.measured.unwrap().healed);
    assert!((best - written).abs() < 1e-5, "{best} {written}");
    let state = read(&desk.path("early/trainer_state.json"));
    assert_eq!((&state["global_step"], &state["max_steps"]), (&json!(expected), &json!(12)));
    assert_eq!(heal(&settings(&desk, "early", Some(3)), &Silent).unwrap().result.unwrap().steps, expected);

    let impatient = Impatient::default();
    impatient.interrupt.run(|| heal(&settings(&desk, "stopped", Some(3)), &impatient)).unwrap_err();
    let report = heal(&settings(&desk, "stopped", Some(3)), &Silent).unwrap();
    assert!(report.steps_before > 0);
    let adapter = "adapter/adapter_model.safetensors";
    assert!(
        fs::read(desk.path("stopped").join(adapter)).unwrap() == fs::read(desk.path("early").join(adapter)).unwrap()
    );
}

#[test]
fn is_a_number_of_validations() {
    let desk = Desk::new();
    let heal = "heal model --data text.jsonl --seq-len 8 --steps 2 -o healed --patience 2";
    desk.refused(heal, 2, &["patience", "eval_data"]);
    desk.refused(&format!("{heal} --eval-data text.jsonl --eval-every 0"), 2, &["patience", "eval_every"]);
}
