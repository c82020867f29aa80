//! Metrics against independent PyTorch code on the demo's model: golden/methods/README.md, sections 3, 4, 7 and 13.

use std::collections::BTreeMap;
use std::sync::Arc;

use prune::checkpoint::Checkpoint;
use prune::importance::{Evaluate, METRICS, Metric, Removals, Scores, Subject, measure, measure_weights, metric};
use prune::model::{Budget, Loss, Model, ModelOptions, Residency};
use prune::progress::Silent;
use serde_json::Value;

use super::losses::{open, options};
use crate::fixture::Llama;
use crate::fixture::material::shared;

/// The golden file, the demo's model and the text of the common protocol.
fn material(name: &str) -> Option<(Value, std::path::PathBuf, Vec<Vec<u32>>)> {
    let path = shared(&format!("golden/methods/{name}"))?;
    let read =
        |path: &std::path::Path| -> Value { serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap() };
    let inputs = read(&path.with_file_name("inputs.json"));
    let ids = serde_json::from_value(inputs["rows"]["ids"].clone()).unwrap();
    Some((read(&path), shared("demo/model")?, ids))
}

fn rows(value: &Value) -> Vec<f64> {
    serde_json::from_value(value.clone()).unwrap()
}

fn scores(dir: &std::path::Path, names: &[&str], ids: &[Vec<u32>]) -> BTreeMap<String, Scores> {
    let metrics: Vec<&Metric> = names.iter().map(|name| metric(name).unwrap()).collect();
    let model = open(dir, &options(Residency::Resident));
    let found = measure(&model, &metrics, ids, &Silent).unwrap();
    found.into_iter().map(|scores| (scores.metric.clone(), scores)).collect()
}

/// The largest difference, said, and held below `most`; relative to the value, or to the largest where it is given.
fn near(what: &str, found: &[f64], expected: &[f64], most: f64, relative: bool) {
    assert_eq!(found.len(), expected.len(), "{what}");
    let difference = |(a, b): (&f64, &f64)| if relative { (a - b).abs() / b.abs() } else { (a - b).abs() };
    let largest = found.iter().zip(expected).map(difference).fold(0.0, f64::max);
    println!("{what}: {largest:.2e} of {most:.0e}");
    assert!(largest <= most, "{what}: {largest} above {most}\n{found:?}\n{expected:?}");
}

#[test]
fn scores_of_one_pass_of_gradients_and_of_weights() {
    let Some((golden, dir, ids)) = material("scores.json") else { return };
    let names = [
        "relative-growth",
        "block-influence",
        "quiet-on-both",
        "magnitude",
        "taylor",
        "gradient",
        "ggr",
        "gate",
        "gate-sublayers",
        "gate-fisher",
        "gate-fisher-sublayers",
        "gate-fisher-pairs",
        "outliers",
        "outliers-3",
        "lamp",
    ];
    let found = scores(&dir, &names, &ids);
    let of = |name: &str| found[name].mean[0].as_slice();
    near("relative growth", of("relative-growth"), &rows(&golden["relative_magnitude"]), 5e-6, false);
    near("block influence", of("block-influence"), &rows(&golden["block_influence"]), 1e-7, false);
    near("quiet on both", of("quiet-on-both"), &rows(&golden["quiet_on_both"]["max_z"]), 5e-6, false);
    let mut order: Vec<usize> = (0..16).collect();
    order.sort_by(|a, b| of("quiet-on-both")[*a].total_cmp(&of("quiet-on-both")[*b]));
    assert_eq!(serde_json::to_value(order).unwrap(), golden["quiet_on_both"]["order"]);
    near("magnitude", of("magnitude"), &rows(&golden["magnitude"]), 1e-9, true);
    near("taylor", of("taylor"), &rows(&golden["taylor"]), 1e-5, true);
    near("gradient", of("gradient"), &rows(&golden["gradient"]), 1e-5, true);
    let counts: Vec<f64> = of("ggr").iter().map(|share| share * golden["ggr"]["k"].as_f64().unwrap()).collect();
    near("counts of largest gradients", &counts, &rows(&golden["ggr"]["count"]), 5.0, false);
    let gates = &golden["gates"];
    for (name, key, sign) in [
        ("gate", "first_order_layer", -1.0),
        ("gate-sublayers", "first_order_sublayer", -1.0),
        ("gate-fisher", "diag_fisher_layer", 1.0),
        ("gate-fisher-sublayers", "diag_fisher_sublayer", 1.0),
    ] {
        let expected: Vec<f64> = rows(&gates[key]).iter().map(|value| sign * value).collect();
        let largest = expected.iter().map(|value| value.abs()).fold(0.0, f64::max);
        near(name, of(name), &expected, if sign < 0.0 { 1e-6 } else { 1e-5 * largest }, false);
    }
    // each diagonal of the matrix
    let matrix: Vec<Vec<f64>> = gates["H_layer"].as_array().unwrap().iter().map(rows).collect();
    let expected =
        (0..16).flat_map(|apart| matrix[..16 - apart].iter().enumerate().map(move |(l, row)| row[l + apart]));
    let expected: Vec<f64> = expected.collect();
    let largest = expected.iter().map(|value| value.abs()).fold(0.0, f64::max);
    let pairs = found["gate-fisher-pairs"].mean.concat();
    near("Fisher matrix", &pairs, &expected, 1e-5 * largest, false);
    near("outliers of 3", of("outliers-3"), &rows(&golden["owl"]["M3"]), 1e-3, false);
    near("outliers of 5", of("outliers"), &rows(&golden["owl"]["M5"]), 1e-3, false);
    let kept: Vec<Vec<u64>> = serde_json::from_value(golden["lamp"]["kept_per_tensor"].clone()).unwrap();
    let weights = golden["lamp"]["weights"].as_f64().unwrap() / 16.0;
    let counts: Vec<f64> = of("lamp").iter().map(|density| (density * weights).round()).collect();
    let expected: Vec<f64> = kept.iter().map(|layer| layer.iter().sum::<u64>() as f64).collect();
    near("counts of LAMP", &counts, &expected, 0.0, false);
    // and without a model around the weights
    let checkpoint = Checkpoint::open_dir(&dir).unwrap();
    let spec = prune::arch::ModelSpec::from_config(&checkpoint.config).unwrap();
    let alone = measure_weights(&checkpoint, &spec, &[metric("magnitude").unwrap(), metric("lamp").unwrap()], &Silent);
    for scores in alone.unwrap() {
        assert_eq!(scores, found[&scores.metric]);
    }
}

#[test]
fn alignment_of_what_leaves_the_last_layer() {
    let Some((golden, dir, ids)) = material("cka.json") else { return };
    let names = ["cka", "cka-debiased", "cka-rest", "cka-debiased-rest"];
    let found = scores(&dir, &names, &ids);
    let keys = ["biased", "debiased", "biased_without_first_token", "debiased_without_first_token"];
    for (name, key) in names.into_iter().zip(keys) {
        near(name, &found[name].mean[0], &rows(&golden[key]), 1e-6, false);
    }
}

#[test]
fn loss_at_every_depth() {
    let Some((golden, dir, ids)) = material("diagnostics.json") else { return };
    let found = scores(&dir, &["logit-lens"], &ids);
    near("logit lens", &found["logit-lens"].mean[0], &rows(&golden["logit_lens_loss"]), 1e-5, false);
}

#[test]
fn distances_without_each_sublayer() {
    let Some((golden, dir, ids)) = material("finercut.json") else { return };
    let model = open(&dir, &options(Residency::Resident));
    let distances = [
        ("js", "js", 1e-6, false),
        ("js-reversed", "js_reversed", 1e-6, false),
        ("kl", "kl", 1e-6, false),
        ("logit-angular", "angular", 1e-6, true),
        ("logit-norm", "norm", 1e-5, true),
    ];
    // the rows of layers, for single sub-layers
    let own = distances.map(|(name, ..)| {
        let Metric { name, about, reference, tokens, order, value, usual, .. } = *metric(name).unwrap();
        let row = Metric { name, about, reference, subject: Subject::SubLayer, tokens, order, value, usual };
        &*Box::leak(Box::new(row))
    });
    let found = Removals::new(16, own).measure(&model, &ids, &Silent).unwrap();
    let found: Vec<Vec<f64>> = found.into_iter().map(|scores| scores.mean.concat()).collect();
    for ((name, key, most, relative), found) in distances.into_iter().zip(&found) {
        // far from the dense model the reference's own f32 differs from its f64 by more
        near(name, found, &rows(&golden["by"][key]["first_step_values"]), most, relative);
    }
}

/// All layers in memory or read from disk, much memory or little: the same bits of every metric.
#[test]
fn residency_does_not_change_a_bit() {
    let dir = tempfile::tempdir().unwrap();
    Llama::default().write(dir.path());
    let ids: Vec<Vec<u32>> = (0..9).map(|s| (0..2 + 19 * s).map(|i| (i * 7 + s * 3) % 64).collect()).collect();
    let is_apart = |value: Evaluate| matches!(value, Evaluate::Pair(_) | Evaluate::Mixed(_)) || value.asks_questions();
    let is_alone = |row: &&Metric| !is_apart(row.value);
    let all: Vec<&Metric> = METRICS.iter().filter(is_alone).collect();
    let run = |options: &ModelOptions| measure(&open(dir.path(), options), &all, &ids, &Silent).unwrap();
    let one = run(&options(Residency::Resident));
    let mut names: Vec<&str> = all.iter().map(|row| row.name).collect();
    names.extend(["block-influence", "relative-growth"]);
    assert!(names.iter().all(|name| one.iter().any(|scores| scores.metric == *name)));
    assert_eq!(run(&options(Residency::Streamed)), one);
    let tight = Budget::new(Some((64 << 20) + 600_000));
    let tight = run(&ModelOptions { budget: tight, ..options(Residency::Streamed) });
    let exact =
        |scores: &&Scores| !matches!(metric(&scores.metric).unwrap().value, Evaluate::Pair(_) | Evaluate::Scores(..));
    assert_eq!(tight.iter().filter(exact).collect::<Vec<_>>(), one.iter().filter(exact).collect::<Vec<_>>());
}

/// The tensors of `dir`'s model, with `change` made to them, in a directory of its own; the loss of `ids` there.
fn loss_with(dir: &std::path::Path, ids: &[Vec<u32>], change: impl Fn(&str, &mut [f32])) -> Vec<Loss> {
    let other = tempfile::tempdir().unwrap();
    for name in ["config.json", "tokenizer.json"] {
        std::fs::copy(dir.join(name), other.path().join(name)).unwrap();
    }
    let cpu = candle_core::Device::Cpu;
    let tensors = candle_core::safetensors::load(dir.join("model.safetensors"), &cpu).unwrap();
    let changed = tensors.into_iter().map(|(name, tensor)| {
        let mut numbers: Vec<f32> = tensor.flatten_all().unwrap().to_vec1().unwrap();
        change(&name, &mut numbers);
        (name, candle_core::Tensor::from_vec(numbers, tensor.shape(), &cpu).unwrap())
    });
    let changed: std::collections::HashMap<_, _> = changed.collect();
    candle_core::safetensors::save(&changed, other.path().join("model.safetensors")).unwrap();
    let checkpoint = Arc::new(Checkpoint::open_dir(other.path()).unwrap());
    let model = Model::open(checkpoint, &options(Residency::Resident), &Silent).unwrap();
    model.losses(ids, 512, "loss", &Silent).unwrap()
}

/// A step along the gradient of a tensor changes the loss as the gradient says, and so does a factor before an update.
#[test]
fn gradients_equal_finite_differences() {
    let dir = tempfile::tempdir().unwrap();
    prune::pico::write(dir.path()).unwrap();
    let ids: Vec<Vec<u32>> = (3..7).map(|s| (0..9 * s).map(|i| (i * i * 5 + s * 3 + i) % 64).collect()).collect();
    let model = open(dir.path(), &options(Residency::Streamed));
    let wanted = prune::model::WantedGradients { weights: true, gates: true };
    let mut layers = Vec::new();
    let mut see = |layer| {
        layers.push(layer);
        Ok(())
    };
    let dense = model.gradients(&ids, wanted, "gradients", &Silent, &mut see).unwrap();
    assert!((dense.mean() - Loss::total(&model.losses(&ids, 512, "loss", &Silent).unwrap()).mean()).abs() < 1e-6);
    assert_eq!(layers.iter().map(|layer| layer.place).collect::<Vec<_>>(), [3, 2, 1, 0]);
    let layer = &layers[1];
    assert_eq!(layer.weights.len(), 9);
    for (role, is_bias, gradient) in &layer.weights {
        assert!(!is_bias);
        let name = model.spec().layer_tensor(2, *role).name;
        let gradient: Vec<f32> = gradient.flatten_all().unwrap().to_vec1().unwrap();
        let norm = gradient.iter().map(|g| f64::from(g * g)).sum::<f64>().sqrt();
        let step = 0.05;
        let at = |sign: f64| {
            let losses = loss_with(dir.path(), &ids, |tensor, numbers| {
                if tensor == name {
                    let scale = (sign * step / norm) as f32;
                    numbers.iter_mut().zip(&gradient).for_each(|(w, g)| *w += scale * g);
                }
            });
            Loss::total(&losses).mean()
        };
        let slope = (at(1.0) - at(-1.0)) / (2.0 * step);
        assert!(norm > 1e-4 && (slope - norm).abs() < 0.02 * norm, "{name}: {slope} {norm}");
    }
    for (gate, matrix) in layer.gates.iter().zip(["self_attn.o_proj", "mlp.down_proj"]) {
        let name = format!("model.layers.2.{matrix}.weight");
        let at = |factor: f32| {
            loss_with(dir.path(), &ids, |tensor, numbers| {
                if tensor == name {
                    numbers.iter_mut().for_each(|w| *w *= factor);
                }
            })
        };
        let (above, below) = (at(1.02), at(0.98));
        for (sequence, found) in gate.iter().enumerate() {
            let slope = (above[sequence].mean() - below[sequence].mean()) / 0.04;
            assert!((slope - found).abs() < 1e-3 * slope.abs().max(0.02), "{matrix} of {sequence}: {slope} {found}");
        }
    }
}
