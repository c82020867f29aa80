//! Removals of many stacks in one pass against each stack by itself, and against the reference's.

use std::path::Path;
use std::sync::Arc;

use prune::checkpoint::Checkpoint;
use prune::importance::{Measured, Protect, Removals, metric, without};
use prune::methods::{Search, method};
use prune::model::{Budget, Loss, Model, ModelOptions, Residency, StackUnit, Stacks};
use prune::progress::Silent;
use serde_json::Value;

use crate::fixture::Llama;
use crate::fixture::material::shared;

pub(super) fn open(dir: &Path, options: &ModelOptions) -> Model {
    Model::open(Arc::new(Checkpoint::open_dir(dir).unwrap()), options, &Silent).unwrap()
}

pub(super) fn options(residency: Residency) -> ModelOptions {
    ModelOptions { residency: Some(residency), ..ModelOptions::default() }
}

fn ids() -> Vec<Vec<u32>> {
    (0..9).map(|s| (0..1 + 19 * s).map(|i| (i * 7 + s * 3) % 64).collect()).collect()
}

/// Of the sequences under each of `stacks`.
fn losses(model: &Model, stacks: &[Vec<usize>]) -> prune::Result<Vec<Vec<Loss>>> {
    let stacks = Stacks { unit: StackUnit::Layer, stacks, beside_the_first: false };
    model.stack_losses(stacks, &ids(), "losses", &Silent)
}

#[test]
fn together_as_each_by_itself() {
    let dir = tempfile::tempdir().unwrap();
    Llama::default().write(dir.path());
    let layers = 4;
    let stacks: Vec<Vec<usize>> = (1..=layers)
        .flat_map(|n| (0..=layers - n).map(move |l| without(layers, l, n)))
        .chain([vec![0, 1, 1, 2, 3], vec![3, 0], without(layers, 0, 0)])
        .collect();
    let together = |options: &ModelOptions| losses(&open(dir.path(), options), &stacks).unwrap();
    let resident = together(&options(Residency::Resident));
    for (stack, losses) in stacks.iter().zip(&resident) {
        let alone = open(dir.path(), &ModelOptions { places: Some(stack.clone()), ..ModelOptions::default() });
        // the same sequences to a batch
        assert_eq!(losses, &alone.losses(&ids(), 512, "loss", &Silent).unwrap(), "{stack:?}");
    }
    assert_eq!(together(&options(Residency::Streamed)), resident);
    // so little memory that only some stacks go through at a time
    let tight = Budget::new(Some((64 << 20) + 600_000));
    let tight = ModelOptions { budget: tight, ..options(Residency::Streamed) };
    assert_eq!(together(&tight), resident);
    let error = losses(&open(dir.path(), &options(Residency::Resident)), &[vec![0, layers]]).unwrap_err();
    assert!(error.to_string().contains("layers 0..=3"), "{error}");
}

#[test]
fn the_cost_is_half_the_square() {
    let only = |name| Removals::new(16, [metric(name).unwrap()]).layer_passes();
    assert_eq!(only("layer-loss"), 16 * 17 / 2);
    // one block of n from l leaves 16 - l - n layers of its own
    let blocks = (1..=16).map(|n| (0..=16 - n).map(|l| 16 - l - n).sum::<usize>()).sum::<usize>();
    assert_eq!(only("loss"), 16 + blocks);
    // of 32 halves of layers
    assert_eq!(only("sublayer-loss"), 32 * 33 / 2 / 2);
    assert!(Removals::new(16, [metric("angular").unwrap()]).is_empty());
}

#[test]
fn the_reference_without_each_block() {
    let Some(golden) = shared("golden/methods/losses.json") else { return };
    let read = |path: &Path| -> Value { serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap() };
    let (inputs, golden) = (read(&golden.with_file_name("inputs.json")), read(&golden));
    let ids: Vec<Vec<u32>> = serde_json::from_value(inputs["rows"]["ids"].clone()).unwrap();
    let dir = shared("demo/model").unwrap();
    let dense = golden["dense"].as_f64().unwrap();
    let near = |expected: &[Option<f64>], found: &[f64], whole: f64| {
        for (expected, found) in expected.iter().flatten().zip(found) {
            assert!((found + whole - expected).abs() < 1e-4, "{found} {expected}");
        }
    };
    let single: Vec<Option<f64>> = serde_json::from_value(golden["leave_one_layer_out"].clone()).unwrap();
    let blocks: Vec<Vec<Option<f64>>> = serde_json::from_value(golden["block"].clone()).unwrap();
    // streamed has the same bytes, says the first test
    let model = open(&dir, &options(Residency::Resident));
    let whole = Loss::total(&model.losses(&ids, 512, "loss", &Silent).unwrap()).mean();
    assert!((whole - dense).abs() < 1e-4);
    let sublayers: Vec<Option<f64>> = serde_json::from_value(golden["leave_one_sublayer_out"].clone()).unwrap();
    let names = ["loss", "layer-loss", "sublayer-loss"];
    let losses = Removals::new(model.layers(), names.iter().map(|name| metric(name).unwrap()));
    for scores in losses.measure(&model, &ids, &Silent).unwrap() {
        match scores.metric.as_str() {
            "loss" => blocks.iter().zip(&scores.mean).for_each(|(row, found)| near(row, found, whole)),
            "layer-loss" => near(&single, &scores.mean[0], whole),
            _ => near(&sublayers, &scores.mean[0], whole),
        }
    }
}

/// SLEB's order and the best of a beam of four, of the demo's model: golden/methods/README.md, section 2.
#[test]
fn searches_as_the_reference() {
    let Some(path) = shared("golden/methods/greedy.json") else { return };
    let read = |path: &Path| -> Value { serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap() };
    let (inputs, golden) = (read(&path.with_file_name("inputs.json")), read(&path));
    let ids: Vec<Vec<u32>> = serde_json::from_value(inputs["rows"]["ids"].clone()).unwrap();
    let model = open(&shared("demo/model").unwrap(), &options(Residency::Resident));
    let whole = Loss::total(&model.losses(&ids, 512, "loss", &Silent).unwrap()).mean();
    let best = |name: &str, most: usize| {
        let search = method(name).unwrap().search(Protect::default()).unwrap();
        search.run_with(&mut Measured::new(&model, &ids, &Silent).unwrap(), &[], Some(most)).unwrap().best
    };
    let order: Vec<usize> = serde_json::from_value(golden["sleb"]["order"].clone()).unwrap();
    for (step, choice) in best("sleb", 4).iter().enumerate() {
        let mut expected = order[..=step].to_vec();
        expected.sort_unstable();
        let loss = golden["sleb"]["loss"][step].as_f64().unwrap();
        assert_eq!(choice.drop, expected);
        assert!((choice.score + whole - loss).abs() < 1e-5, "{} {loss}", choice.score + whole);
    }
    for (choice, size) in best("beam", 3).iter().zip(golden["beam"]["sizes"].as_array().unwrap()) {
        let sets: Vec<Vec<usize>> = serde_json::from_value(size["sets"].clone()).unwrap();
        assert_eq!((&choice.drop, &choice.runner_up.as_ref().unwrap().drop), (&sets[0], &sets[1]));
        assert!((choice.score + whole - size["loss"][0].as_f64().unwrap()).abs() < 1e-5);
    }
}

/// FinerCut's first choices by divergence and by loss, of the demo's model: golden/methods/README.md, section 3.
#[test]
fn sublayers_go_as_the_reference_takes_them() {
    let Some(path) = shared("golden/methods/finercut.json") else { return };
    let read = |path: &Path| -> Value { serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap() };
    let (inputs, golden) = (read(&path.with_file_name("inputs.json")), read(&path));
    let ids: Vec<Vec<u32>> = serde_json::from_value(inputs["rows"]["ids"].clone()).unwrap();
    let model = open(&shared("demo/model").unwrap(), &options(Residency::Resident));
    let whole = Loss::total(&model.losses(&ids, 512, "loss", &Silent).unwrap()).mean();
    for (metric, key, whole, within) in [("sublayer-js", "js", 0.0, 1e-6), ("sublayer-loss", "loss", whole, 1e-5)] {
        let search =
            Search { metric: metric.to_owned(), ..method("finercut").unwrap().search(Protect::default()).unwrap() };
        let mut evidence = Measured::new(&model, &ids, &Silent).unwrap();
        // two layers' worth
        let best = search.run_with(&mut evidence, &[], Some(2)).unwrap().best;
        let order: Vec<usize> = serde_json::from_value(golden["by"][key]["order"].clone()).unwrap();
        assert_eq!(best.len(), 4);
        for (step, choice) in best.iter().enumerate() {
            let mut expected = order[..=step].to_vec();
            expected.sort_unstable();
            let value = golden["by"][key]["value"][step].as_f64().unwrap();
            assert_eq!(choice.drop, expected, "{metric}");
            assert!((choice.score + whole - value).abs() < within, "{metric}: {} {value}", choice.score + whole);
        }
    }
}
