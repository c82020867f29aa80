//! Layers that learn a gap: against independent PyTorch code on the demo's model (golden/methods/README.md, section 9),
//! by their laws, and as the command writes them.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::Arc;

use candle_core::{Device, Tensor};
use prune::model::{Loss, Residency};
use prune::progress::Silent;
use prune::repair::{Found, LayerTraining, RepairTask, fit, repair};
use safetensors::Dtype;
use serde_json::{Value, json};

use super::{cut_of, goldens, model};
use crate::arch::cases::cases;
use crate::fixture::Llama;
use crate::fixture::desk::{Desk, read};
use crate::fixture::material::shared;

/// `found` is `expected` to `most` of it.
fn near(what: &str, found: f64, expected: &Value, most: f64) {
    let expected = expected.as_f64().unwrap();
    let off = (found - expected).abs() / expected.abs();
    assert!(off <= most, "{what}: {found}, expected {expected}: off by {off:.2e}");
}

/// Every step's error, the errors and losses before and after, and the weights, of both trainings.
#[test]
fn trainings_are_the_references() {
    let Some(material) = goldens::material("streamline.json") else { return };
    let path = shared("golden/methods/streamline.safetensors").unwrap();
    let weights = candle_core::safetensors::load(path, &Device::Cpu).unwrap();
    let (fitting, other) = (material.ids("train_rows"), material.ids("rows"));
    let text = [fitting.clone(), other].concat();
    let judging: Vec<bool> = (0..text.len()).map(|row| row >= fitting.len()).collect();
    let training = Some(LayerTraining { lr: 5e-4, steps: 40, batch: 4 });
    for (name, drop) in [("streamline", "10-12"), ("xmerge", "10")] {
        let (source, cut) = cut_of(material.dir(), drop, None);
        let whole = model(source, Residency::Streamed);
        let pruned = model(Arc::new(cut.blueprint().open().unwrap()), Residency::Streamed);
        for keeps in [true, false] {
            let task = RepairTask {
                whole: &whole,
                cut: &pruned,
                plan: cut.plan(),
                changed: false,
                sequences: &text,
                judging: &judging,
                first: true,
                keeps,
                rank: None,
                training,
                spill: None,
                state: None,
            };
            let repaired = fit(repair(name).unwrap(), &task, &Silent).unwrap();
            let expected = &material.golden[name];
            let Found::Layers(layers) = &repaired.found else { panic!("{name}: no layers") };
            let [layer] = &layers[..] else { panic!("{layers:?}") };
            let stands_for: Vec<usize> = (layer.first..=layer.last).collect();
            assert_eq!(
                (json!(stands_for), json!(layer.layer)),
                (expected["replaced"].clone(), expected["init_layer"].clone())
            );
            assert_eq!(layer.losses.len(), 40);
            for (step, (found, expected)) in
                layer.losses.iter().zip(expected["step_loss"].as_array().unwrap()).enumerate()
            {
                near(&format!("{name} step {step}"), *found, expected, 1e-5);
            }
            near("before", layer.before, &expected["mse_all_training_rows"][0], 1e-5);
            near("after", layer.after, &expected["mse_all_training_rows"][1], 1e-5);
            let loss = |losses: &[Loss]| Loss::total(losses).mean();
            near("dense", loss(&repaired.whole), &material.golden["dense_loss"], 2e-6);
            near("loss before", loss(repaired.losses_at(0.0)), &expected["loss_before"], 5e-6);
            near("loss after", loss(repaired.losses_at(1.0)), &expected["loss_after"], 1e-5);
            let blueprint = Arc::new(cut.blueprint().with(repaired.changes(1.0)).unwrap());
            let written = blueprint.open().unwrap();
            let (mut sum, mut count, mut most) = (0.0, 0, 0.0_f64);
            let place = if name == "streamline" { 9 } else { 10 };
            for (tensor, expected) in
                weights.iter().filter_map(|(own, x)| Some((own.strip_prefix(&format!("{name}."))?, x)))
            {
                let full = format!("model.layers.{place}.{tensor}");
                let found = written.index.load_f32(&full, expected.dims(), &Device::Cpu).unwrap();
                let off: Vec<f32> =
                    (found - expected).unwrap().abs().unwrap().flatten_all().unwrap().to_vec1().unwrap();
                sum += off.iter().map(|x| f64::from(*x)).sum::<f64>();
                most = off.iter().fold(most, |most, x| most.max(f64::from(*x)));
                count += off.len();
            }
            println!("{name}: weights off by {:.1e} in the mean, {most:.1e} at most", sum / count as f64);
            assert!(count > 100_000 && sum / (count as f64) < 1e-6 && most < 2e-3, "{name}: {sum} {count} {most}");
        }
    }
}

fn tensors(dir: &Path) -> BTreeMap<String, Vec<f32>> {
    let tensors = candle_core::safetensors::load(dir.join("model.safetensors"), &Device::Cpu).unwrap();
    let numbers = |tensor: Tensor| {
        tensor.to_dtype(candle_core::DType::F32).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap()
    };
    tensors.into_iter().map(|(name, tensor)| (name, numbers(tensor))).collect()
}

const TRAIN: &str = "--data text.jsonl --seq-len 16 --steps 30 --batch 3 --lr 2e-3";

/// In every type: the error falls, the losses that are told are those of what is written, and only the layers that
/// learn differ from the cut alone; each learns as if it were the only one.
#[test]
fn what_is_told_is_what_is_written() {
    for dtype in [Dtype::F32, Dtype::BF16] {
        let desk = Desk::new();
        Llama { layers: 6, dtype, ..Llama::default() }.write(&desk.path("model"));
        assert!(desk.run("cut model --drop 2,4 -o plain").status.success());
        for (name, learners) in [("streamline", [1, 2]), ("xmerge", [2, 3])] {
            let report = desk.json(&format!("cut model --drop 2,4 --repair {name} {TRAIN} -o {name} --verify --json"));
            assert_eq!((&report["layers"]["after"], &report["dropped"]), (&json!(4), &json!([2, 4])));
            let result = &report["repair"]["result"];
            let layers = result["layers"].as_array().unwrap();
            let spans = layers.iter().map(|own| [&own["layer"], &own["first"], &own["last"]]);
            let spans: Vec<Vec<u64>> = spans.map(|own| own.map(|x| x.as_u64().unwrap()).to_vec()).collect();
            match name {
                "streamline" => assert_eq!(spans, [[1, 1, 2], [3, 3, 4]]),
                _ => assert_eq!(spans, [[3, 2, 3], [5, 4, 5]]),
            }
            for layer in layers {
                let of = |key: &str| layer[key].as_f64().unwrap();
                assert!(of("after") < of("before"), "{name} {dtype}: {layer}");
                assert_eq!(layer["losses"].as_array().unwrap().len(), 30);
            }
            let (plain, written) = (tensors(&desk.path("plain")), tensors(&desk.path(name)));
            let changed = written.iter().filter(|(tensor, numbers)| plain[*tensor] != **numbers);
            let changed: Vec<&str> = changed.map(|(tensor, _)| tensor.as_str()).collect();
            let is_learner =
                |tensor: &str| learners.iter().any(|own| tensor.starts_with(&format!("model.layers.{own}.")));
            assert!(changed.iter().all(|tensor| is_learner(tensor)), "{changed:?}");
            assert!(result["tensors"] == json!(18) && changed.len() > 14, "{changed:?}");

            let rows: Vec<Vec<u32>> = {
                use prune::data::{SequenceOptions, Sequences, Shape, SourceOptions, TextSource, Tokenizer};
                let source = TextSource::open(desk.path("text.jsonl"), &SourceOptions::default()).unwrap();
                let shape = Shape { seq_len: 16, ..Shape::default() };
                let options = SequenceOptions { shape, ..SequenceOptions::default() };
                let tokenizer = Tokenizer::open(desk.path("model")).unwrap();
                Sequences::read(&source, &tokenizer, &options, &Silent).unwrap().rows
            };
            let rows: Vec<Vec<u32>> = rows.into_iter().step_by(4).collect();
            let judged = |dir: &str| {
                let checkpoint = prune::checkpoint::Checkpoint::open_dir(&desk.path(dir)).unwrap();
                model(Arc::new(checkpoint), Residency::Resident).loss(&rows, "loss", &Silent).unwrap().mean()
            };
            for (key, dir) in [("whole", "model"), ("cut", "plain"), ("repaired", name)] {
                assert_eq!(result[key].as_f64(), Some(judged(dir)), "{name} {dtype}: {key}");
            }
            let step = read(&desk.path(&format!("{name}/prune.json")))["steps"][0].clone();
            assert_eq!((&step["repair"]["name"], &step["repair"]["layers"][0]["steps"]), (&json!(name), &json!(30)));
            assert!(step["repair"]["layers"][0].get("losses").is_none());
            let card = fs::read_to_string(desk.path(&format!("{name}/README.md"))).unwrap();
            for words in [
                format!("repaired layer by layer ({name})"),
                format!(
                    "--drop 2,4 --repair {name} --data text.jsonl --seq-len 16 --lr 0.002 --steps 30 --batch 3 -o DIR"
                ),
                format!("layer {} of the source stands for {} to {}", spans[0][0], spans[0][1], spans[0][2]),
            ] {
                assert!(card.contains(&words), "{words}: {card}");
            }
            // one gap alone: the same layer, bit for bit
            desk.json(&format!("cut model --drop 2 --repair {name} {TRAIN} -o one --json"));
            let alone = tensors(&desk.path("one"));
            let own = format!("model.layers.{}.mlp.up_proj.weight", learners[0]);
            assert_eq!(alone[&own], written[&own]);
            fs::remove_dir_all(desk.path("one")).unwrap();
        }
    }
}

/// Streams that wait in a file give the same bytes as those in memory; first tokens that are left out give others.
#[test]
fn memory_changes_no_byte() {
    let desk = Desk::new();
    let rows = (0..60).map(|row| {
        let words: Vec<String> = (0..60).map(|word| format!("w{}", 3 + (word * 7 + row * row) % 59)).collect();
        json!({"text": words.join(" ")}).to_string() + "\n"
    });
    fs::write(desk.path("long.jsonl"), rows.collect::<String>()).unwrap();
    let line = "cut model --drop 1,2 --repair streamline --data long.jsonl --seq-len 64 --steps 5 --batch 4 --json";
    let dry = desk.json(&format!("{line} --dry-run"))["repair"].clone();
    assert!(dry["result"].is_null() && dry["expected_seconds"].as_f64().unwrap() > 0.0);
    let needed = dry["memory_bytes"].as_u64().unwrap();
    let rich = desk.json(&format!("{line} -o rich"));
    assert_eq!(rich["repair"]["memory_bytes"], dry["memory_bytes"]);
    let poor = desk.json(&format!("{line} -o poor --memory {}", (64 << 20) + needed - 1));
    assert!(poor["repair"]["memory_bytes"].as_u64().unwrap() < needed, "{poor}");
    let bytes = |name: &str| fs::read(desk.path(name).join("model.safetensors")).unwrap();
    assert!(bytes("rich") == bytes("poor"));
    desk.json(&format!("{line} -o without --leave-out-first"));
    assert!(bytes("rich") != bytes("without"));
    let names = desk.names();
    assert_eq!(names, ["long.jsonl", "model", "poor", "rich", "text.jsonl", "without"]);
}

/// Every family learns: fused projections, biases, norms of heads, windows.
#[test]
fn every_family_learns() {
    for (name, case) in cases() {
        let dir = tempfile::tempdir().unwrap();
        case.write(dir.path());
        let spec = case.spec();
        let text: Vec<Vec<u32>> =
            (0..8).map(|row| (0..24).map(|at| (at * 7 + row * 5 + 1) % spec.vocab_size as u32).collect()).collect();
        let judging: Vec<bool> = (0..8).map(|row| row % 4 == 0).collect();
        let (source, cut) = cut_of(dir.path(), "1", None);
        let whole = model(source, Residency::Streamed);
        let pruned = model(Arc::new(cut.blueprint().open().unwrap()), Residency::Streamed);
        for repair_name in ["streamline", "xmerge"] {
            let task = RepairTask {
                whole: &whole,
                cut: &pruned,
                plan: cut.plan(),
                changed: false,
                sequences: &text,
                judging: &judging,
                first: true,
                keeps: true,
                rank: None,
                training: Some(LayerTraining { lr: 1e-3, steps: 20, batch: 6 }),
                spill: None,
                state: None,
            };
            let repaired = fit(repair(repair_name).unwrap(), &task, &Silent).unwrap();
            let Found::Layers(layers) = &repaired.found else { panic!("{name}: no layers") };
            assert!(layers[0].after < layers[0].before, "{name} {repair_name}: {:?}", layers[0]);
            let blueprint = Arc::new(cut.blueprint().with(repaired.changes(1.0)).unwrap());
            let written = model(Arc::new(blueprint.open().unwrap()), Residency::Resident);
            let judges: Vec<Vec<u32>> = text.iter().step_by(4).cloned().collect();
            let loss = written.loss(&judges, "loss", &Silent).unwrap().mean();
            assert_eq!(loss, Loss::total(repaired.losses_at(1.0)).mean(), "{name} {repair_name}");
        }
    }
}

#[test]
fn what_cannot_be_learned_is_refused() {
    let desk = Desk::new();
    let line = |drop: &str, name: &str, more: &str| {
        format!("cut model --drop {drop} --repair {name} --data text.jsonl --seq-len 16 {more} -o out")
    };
    for (line, words) in [
        (line("0", "streamline", ""), vec!["first layers", "xmerge trains the one behind"]),
        (line("3", "xmerge", ""), vec!["last layers", "streamline trains the one before"]),
        (line("attn:1", "streamline", "--format zeros"), vec!["whole layers"]),
        (line("1", "streamline", "--lr 0"), vec!["--lr 0", "above 0"]),
        (line("1", "xmerge", "--steps 0"), vec!["--steps 0", "1 or more"]),
        (line("1", "xmerge", "--batch 0"), vec!["--batch 0", "1 or more"]),
        (line("1", "xmerge", "--batch 10"), vec!["--batch 10: 9 sequences"]),
        (line("1", "refit", "--lr 1e-3"), vec!["--lr goes with", "streamline and xmerge"]),
        (line("1", "fold", "--steps 3"), vec!["--steps goes with", "streamline and xmerge"]),
        ("cut model --drop 1 --batch 3 -o out".to_owned(), vec!["--batch goes with", "streamline and xmerge"]),
        ("cut model --drop 1 --repair streamline -o out".to_owned(), vec!["streamline", "--data"]),
    ] {
        desk.refused(&line, 2, &words);
        desk.refused(&format!("{line} --dry-run"), 2, &words);
    }
    // a rate that lets the training diverge is told, and nothing is left
    desk.refused(&line("1", "streamline", "--lr 1e30 --steps 5"), 1, &["streamline", "layer 0"]);
    // as a recipe asks for it
    let recipe = "model = 'model'\n[drop]\ngiven = ['2']\n[repair]\nmethods = ['refit', 'streamline']\ndata = \
                  'text.jsonl'\nseq_len = 16\nsteps = 2\nbatch = 2\n";
    fs::write(desk.path("recipe.toml"), recipe).unwrap();
    assert!(desk.run("run recipe.toml -o job").status.success());
    let step = |name: &str| read(&desk.path(&format!("job/given-2-{name}/model/prune.json")))["steps"][0].clone();
    assert_eq!(step("streamline")["repair"]["layers"][0]["steps"], 2);
    assert!(step("refit")["repair"].get("layers").is_none());
}

/// A trained model gets better by it: the stories model without a layer.
#[test]
fn the_stories_model_is_better_for_it() {
    let (Some(from), Some(text)) =
        (shared("data/stories260K"), shared("data/tinystories/tiny_stories_train_head.jsonl"))
    else {
        return;
    };
    let desk = Desk::new();
    let (from, text) = (from.display(), text.display());
    let report = desk.json(&format!(
        "cut {from} --drop 2 --repair streamline --data {text} --samples 128 --seq-len 128 --lr 1e-3 -o out --json"
    ));
    let result = &report["repair"]["result"];
    let of = |key: &str| result[key].as_f64().unwrap();
    println!("{} -> {} of {}: {}", of("cut"), of("repaired"), of("whole"), result["layers"][0]["after"]);
    let gain = of("cut") - of("repaired");
    assert!(gain > 3.0 * of("change_stderr") && gain > 0.3 * (of("cut") - of("whole")), "{result}");
}
