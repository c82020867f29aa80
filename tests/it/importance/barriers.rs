//! What lies between two models: against independent PyTorch code on the demo's model (golden/methods/README.md,
//! section 12), against mixed checkpoints that are written out, and by the laws of its definition.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use candle_core::{Device, Tensor};
use half::bf16;
use prune::arch::ModelSpec;
use prune::checkpoint::Checkpoint;
use prune::commands::analyze::{AnalyzeReport, AnalyzeSettings, analyze};
use prune::importance::{Evaluate, Metric, Mixture, Mixtures, Scores, Subject, metric};
use prune::model::{Budget, LoadOptions, Loss, Model, ModelOptions, Residency};
use prune::progress::Silent;
use prune::weights::lora::{Adapters, LoraSettings};
use prune::weights::{Other, between};
use safetensors::{Dtype, SafeTensors};
use serde_json::Value;
use sha2::{Digest, Sha256};

use super::losses::options;
use crate::fixture::desk::{Desk, read};
use crate::fixture::material::shared;
use crate::fixture::{Llama, Named, to_f32, write_safetensors};

const ALL: [&str; 3] = ["barrier", "barrier-swapped", "barrier-cumulative"];

fn named(names: &[&str]) -> Vec<&'static Metric> {
    names.iter().map(|name| metric(name).unwrap()).collect()
}

fn ids() -> Vec<Vec<u32>> {
    (0..9).map(|s| (0..1 + 19 * s).map(|i| (i * 7 + s * 3) % 64).collect()).collect()
}

fn open(dir: &Path) -> Arc<Checkpoint> {
    Arc::new(Checkpoint::open_dir(dir).unwrap())
}

/// Losses of `own` and of `other`, which may have an adapter, and the scores of `metrics`.
fn run(
    own: &Path,
    (other, adapters): (&Path, Option<Arc<Adapters>>),
    metrics: &[&'static Metric],
    options: &ModelOptions,
) -> (Vec<Loss>, Vec<Loss>, Vec<Scores>) {
    let (own, other) = (open(own), open(other));
    let spec = ModelSpec::from_config(&own.config).unwrap();
    let mixtures = Mixtures::new(spec.layers, metrics.iter().copied());
    let layers = Other::new(&other, &spec, adapters.clone()).unwrap();
    let load_options = LoadOptions { adapters, ..LoadOptions::default() };
    let theirs = Model::open(other, &ModelOptions { load_options, ..options.clone() }, &Silent).unwrap();
    let theirs = Mixtures::other(&theirs, &ids(), &Silent).unwrap();
    let (blueprint, stacked) = between(&own, &spec, &layers, mixtures.parts()).unwrap();
    let both = Arc::new(Arc::new(blueprint).open().unwrap());
    let model = Model::open_as(stacked, both, options, &Silent).unwrap();
    let (ours, scores) = mixtures.measure(&model, &theirs, &ids(), &Silent).unwrap();
    (ours, theirs, scores)
}

fn mean(losses: &[Loss]) -> f64 {
    Loss::total(losses).mean()
}

/// The losses of a model that is a directory, in the same batches.
fn losses(dir: &Path) -> Vec<Loss> {
    let model = Model::open(open(dir), &options(Residency::Resident), &Silent).unwrap();
    model.losses(&ids(), 512, "loss", &Silent).unwrap()
}

/// `own` with some tensors made of its and `other`'s, all in f32, as a directory.
fn write_mixed(own: &Llama, other: &Llama, dir: &Path, part: impl Fn(&str) -> f32) {
    own.write(dir);
    let tensors = own.tensors().into_iter().zip(other.tensors()).map(|(own, other)| {
        let part = part(&own.name);
        let pairs = to_f32(own.dtype, &own.bytes).into_iter().zip(to_f32(other.dtype, &other.bytes));
        let bytes = pairs.flat_map(|(a, b)| ((1.0 - part) * a + part * b).to_le_bytes()).collect();
        Named { dtype: Dtype::F32, bytes, ..own }
    });
    write_safetensors(&dir.join("model.safetensors"), &tensors.collect::<Vec<_>>());
}

fn is_of(name: &str, layers: std::ops::Range<usize>) -> bool {
    layers.into_iter().any(|layer| name.starts_with(&format!("model.layers.{layer}.")))
}

/// Every mixture computes what a checkpoint of those numbers computes, to the bit.
#[test]
fn a_mixture_is_the_model_of_its_numbers() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    for dtype in [Dtype::F32, Dtype::BF16] {
        let (own, other) = (Llama { dtype, ..Llama::default() }, Llama { dtype, seed: 1, ..Llama::default() });
        own.write(&at("own"));
        other.write(&at("other"));
        let (ours, theirs, scores) = run(&at("own"), (&at("other"), None), &named(&ALL), &options(Residency::Resident));
        assert_eq!((&ours, &theirs), (&losses(&at("own")), &losses(&at("other"))));
        let middle = (mean(&ours) + mean(&theirs)) / 2.0;
        for (scores, (part, below)) in scores.iter().zip([(0.5, false), (1.0, false), (0.5, true)]) {
            for (layer, found) in scores.mean[0].iter().enumerate() {
                let mixed = if below { 0..layer + 1 } else { layer..layer + 1 };
                write_mixed(&own, &other, &at("mixed"), |name| if is_of(name, mixed.clone()) { part } else { 0.0 });
                let alone = losses(&at("mixed"));
                let expected = mean(&alone) - middle;
                assert!((found - expected).abs() < 1e-12, "{} {layer}: {found} {expected}", scores.metric);
                // the error is that of the differences, sequence by sequence
                let known: Vec<usize> = (0..alone.len()).filter(|index| alone[*index].tokens > 0).collect();
                let weight: f64 = known.iter().map(|index| alone[*index].tokens as f64).sum();
                let square = known.iter().map(|index| {
                    let (a, b) = (ours[*index].mean(), theirs[*index].mean());
                    let apart = alone[*index].mean() - (a + b) / 2.0 - expected;
                    (alone[*index].tokens as f64 * apart).powi(2)
                });
                let count = known.len() as f64;
                let error = (count / (count - 1.0) * square.sum::<f64>()).sqrt() / weight;
                assert!((scores.error(1, layer).unwrap() - error).abs() < 1e-9, "{} {layer}", scores.metric);
            }
        }
    }
}

/// A row that is not in the table.
fn mixing(part: f64, below: bool) -> &'static Metric {
    let Metric { name, about, reference, tokens, order, usual, .. } = *metric("barrier").unwrap();
    let value = Evaluate::Mixed(Mixture { part, below });
    Box::leak(Box::new(Metric { name, about, reference, subject: Subject::Layer, tokens, order, value, usual }))
}

#[test]
fn nothing_lies_between_a_model_and_itself_and_the_ends_are_the_models() {
    let dir = tempfile::tempdir().unwrap();
    let (own, other) = (dir.path().join("own"), dir.path().join("other"));
    for dtype in [Dtype::F32, Dtype::F16, Dtype::BF16] {
        Llama { dtype, ..Llama::default() }.write(&own);
        for scores in run(&own, (&own, None), &named(&ALL), &options(Residency::Resident)).2 {
            assert_eq!((scores.mean, scores.stderr), (vec![vec![0.0; 4]], Some(vec![vec![0.0; 4]])), "{dtype}");
        }
    }
    // another model in all but embedding, final norm and head
    let (a, b) = (Llama::default(), Llama { seed: 1, ..Llama::default() });
    a.write(&own);
    write_mixed(&a, &b, &other, |name| if is_of(name, 0..4) { 1.0 } else { 0.0 });
    let ends = [mixing(0.0, true), mixing(0.0, false), mixing(1.0, true)];
    let (ours, theirs, scores) = run(&own, (&other, None), &ends, &options(Residency::Resident));
    let half = (mean(&ours) - mean(&theirs)) / 2.0;
    assert!(half.abs() > 1e-3);
    for none in &scores[..2] {
        assert!(none.mean[0].iter().all(|found| (found - half).abs() < 1e-14), "{none:?} {half}");
    }
    assert!((scores[2].mean[0][3] + half).abs() < 1e-14, "{scores:?} {half}");
}

/// In memory or from disk, much memory or little, the whole stack or a few at a time: the same bits.
#[test]
fn residency_does_not_change_a_bit() {
    let dir = tempfile::tempdir().unwrap();
    let (own, other) = (dir.path().join("own"), dir.path().join("other"));
    Llama { dtype: Dtype::BF16, layers: 6, ..Llama::default() }.write(&own);
    Llama { dtype: Dtype::F16, layers: 6, seed: 1, shards: 2, ..Llama::default() }.write(&other);
    let with = |options: &ModelOptions| run(&own, (&other, None), &named(&ALL), options);
    let one = with(&options(Residency::Resident));
    assert_eq!(with(&options(Residency::Streamed)), one);
    let budget = Budget::new(Some((64 << 20) + 600_000));
    assert_eq!(with(&ModelOptions { budget, ..options(Residency::Streamed) }), one);
}

/// An adapter is the model that it makes of the one it is for; four bits are the numbers they stand for.
#[test]
fn adapters_and_four_bits() {
    let desk = Desk::new();
    Llama { hidden: 64, mlp: 128, heads: 4, head_dim: 16, ..Llama::default() }.write(&desk.path("model"));
    let spec = ModelSpec::from_config(&open(&desk.path("model")).config).unwrap();
    let settings = LoraSettings { rank: 2, alpha: Some(4.0), ..LoraSettings::default() };
    let mut adapters = Adapters::new(&spec, &settings, 7, &Device::Cpu).unwrap();
    let nothing = Arc::new(adapters.clone());
    let resident = options(Residency::Resident);
    let with = |adapters: Arc<Adapters>| {
        run(&desk.path("model"), (&desk.path("model"), Some(adapters)), &named(&ALL), &resident)
    };
    for scores in with(nothing).2 {
        assert_eq!(scores.mean, [[0.0; 4]]);
    }
    for adapter in adapters.modules.values_mut() {
        let (rows, rank) = adapter.b.dims2().unwrap();
        let numbers: Vec<f32> = (0..rows * rank).map(|i| ((i * 37 + rows) % 19) as f32 / 40.0 - 0.2).collect();
        adapter.b = Tensor::from_vec(numbers, (rows, rank), &Device::Cpu).unwrap();
    }
    fs::create_dir_all(desk.path("adapter")).unwrap();
    adapters.write(&desk.path("adapter"), &spec, "model").unwrap();
    let found = with(Arc::new(adapters));
    assert!(desk.run("merge model --adapter adapter -o merged").status.success());
    let merged = run(&desk.path("model"), (&desk.path("merged"), None), &named(&ALL), &resident);
    // the adapter's own pass adds the update to the outputs instead of the weights
    assert!((mean(&found.1) - mean(&merged.1)).abs() < 1e-6);
    assert!((mean(&found.0) - mean(&found.1)).abs() > 1e-4);
    let close = |one: &[Scores], other: &[Scores], most: f64| {
        for (a, b) in one.iter().zip(other) {
            let pairs = a.mean[0].iter().zip(&b.mean[0]);
            assert!(pairs.clone().all(|(a, b)| (a - b).abs() < most), "{}: {a:?} {b:?}", a.metric);
        }
    };
    close(&found.2, &merged.2, 1e-6);
    let line = "analyze model --data text.jsonl --metrics barrier,barrier-swapped,barrier-cumulative --json";
    let by = |other: &str| {
        let report = desk.json(&format!("{line} --against {other}"));
        assert_eq!(report["analysis"]["against"]["model"]["id"], other);
        let scores = report["analysis"]["scores"].as_array().unwrap()[1..].iter();
        scores.map(|scores| serde_json::from_value(scores.clone()).unwrap()).collect::<Vec<Scores>>()
    };
    close(&by("adapter"), &by("merged"), 1e-6);

    assert!(desk.run("merge model --adapter adapter --save-4bit -o four").status.success());
    let own = run(&desk.path("four"), (&desk.path("four"), None), &named(&ALL), &resident);
    assert!(own.2.iter().flat_map(|scores| &scores.mean[0]).all(|value| value.abs() < 1e-6), "{:?}", own.2);
    let mixed = run(&desk.path("four"), (&desk.path("model"), None), &named(&ALL), &resident);
    assert!(mixed.2.iter().flat_map(|scores| &scores.mean[0]).all(|value| value.is_finite() && *value != 0.0));
    let streamed = run(&desk.path("four"), (&desk.path("model"), None), &named(&ALL), &options(Residency::Streamed));
    assert_eq!(streamed, mixed);
}

/// The second model of the references, written as an ordinary checkpoint.
fn write_second(model: &Path, differences: &Path, dir: &Path) {
    fs::create_dir_all(dir).unwrap();
    for file in ["config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json"] {
        fs::copy(model.join(file), dir.join(file)).unwrap();
    }
    let (model, differences) = (fs::read(model.join("model.safetensors")).unwrap(), fs::read(differences).unwrap());
    let (model, differences) =
        (SafeTensors::deserialize(&model).unwrap(), SafeTensors::deserialize(&differences).unwrap());
    let mut names = model.names();
    names.sort_unstable();
    let mut all = Sha256::new();
    let tensors = names.into_iter().map(|name| {
        let (own, steps) = (model.tensor(name).unwrap(), differences.tensor(&format!("{name}.q")).unwrap());
        let scale = to_f32(Dtype::F32, differences.tensor(&format!("{name}.scale")).unwrap().data())[0];
        let numbers = to_f32(own.dtype(), own.data()).into_iter().zip(steps.data());
        let moved = numbers.map(|(w, q)| bf16::from_f32(w + f32::from(*q as i8) * scale));
        let bytes: Vec<u8> = moved.flat_map(bf16::to_le_bytes).collect();
        all.update(&bytes);
        Named { name: name.to_owned(), dtype: Dtype::BF16, shape: own.shape().to_vec(), bytes }
    });
    let tensors: Vec<Named> = tensors.collect();
    write_safetensors(&dir.join("model.safetensors"), &tensors);
    let expected = "92485e91748a20a80a7d088d00bf3da14e21977d413ad1da5ada36afe202de21";
    assert_eq!(format!("{:x}", all.finalize()), expected);
}

/// Both directions, through the command: losses to 2e-6, barriers to 3e-6.
#[test]
fn the_references_barriers() {
    let Some(golden) = shared("golden/methods/connectivity.json") else { return };
    let (first, text) = (shared("demo/model").unwrap(), shared("demo/text/validation.jsonl").unwrap());
    let dir = tempfile::tempdir().unwrap();
    let second = dir.path().join("second");
    write_second(&first, &golden.with_file_name("second.safetensors"), &second);
    let golden = read(&golden);
    let number = |value: &Value| value.as_f64().unwrap();
    for (own, other, base, names) in
        [(&first, &second, "base_first", &ALL[..]), (&second, &first, "base_second", &ALL[..2])]
    {
        let name = |path: &Path| Some(path.display().to_string());
        let settings = AnalyzeSettings {
            model: name(own),
            against: name(other),
            data: name(&text).into_iter().collect(),
            samples: Some(24),
            seq_len: Some(128),
            metrics: names.iter().map(ToString::to_string).collect(),
            ..AnalyzeSettings::default()
        };
        let AnalyzeReport { analysis, pass, .. } = analyze(&settings, &Silent).unwrap();
        let analysis = analysis.unwrap();
        assert_eq!((analysis.data.tokens, analysis.data.samples), (1860, 24));
        // the first of them is the barrier of layer 0
        let cumulative = if names.len() > 2 { 16 * 15 / 2 } else { 0 };
        assert_eq!(pass.unwrap().layer_passes, 16 + 16 + 16 + 16 * 17 + cumulative);
        let against = analysis.against.as_ref().unwrap();
        let ends = if base == "base_first" { ["loss_first", "loss_second"] } else { ["loss_second", "loss_first"] };
        let mut near = vec![(against.own_loss, number(&golden[ends[0]])), (against.loss, number(&golden[ends[1]]))];
        let middle = (against.own_loss + against.loss) / 2.0;
        let mut barriers = 0.0_f64;
        for (at, name) in names.iter().take(2).enumerate() {
            for (layer, found) in analysis.scores(name).unwrap().mean[0].iter().enumerate() {
                near.push((found + middle, number(&golden[base]["loss"][layer][at + 1])));
                barriers = barriers.max((found - number(&golden[base]["barrier"][layer][at + 1])).abs());
            }
        }
        if let Some(name) = names.get(2) {
            let all = golden["all_layers"]["loss"][1].clone();
            for (layer, found) in analysis.scores(name).unwrap().mean[0].iter().enumerate() {
                near.push((found + middle, number(&golden["cumulative_from_bottom_alpha_0.5"][layer])));
                if layer == 15 {
                    near.push((found + middle, number(&all)));
                }
            }
        }
        let losses = near.iter().map(|(found, expected)| (found - expected).abs()).fold(0.0, f64::max);
        println!("{base}: losses {losses:.2e} of 2e-6, barriers {barriers:.2e} of 3e-6");
        assert!(losses < 2e-6 && barriers < 3e-6, "{base}: {losses} {barriers}\n{near:?}");
    }
}

fn desk() -> Desk {
    let desk = Desk::new();
    Llama { seed: 1, ..Llama::default() }.write(&desk.path("other"));
    desk
}

const ANALYZE: &str = "analyze model --data text.jsonl";

#[test]
fn what_does_not_go_together_is_refused_before_the_work() {
    let desk = desk();
    Llama { layers: 5, ..Llama::default() }.write(&desk.path("deeper"));
    Llama { vocab: 70, ..Llama::default() }.write(&desk.path("wordy"));
    Llama { mlp: 32, ..Llama::default() }.write(&desk.path("wider"));
    let spec = ModelSpec::from_config(&open(&desk.path("deeper")).config).unwrap();
    fs::create_dir_all(desk.path("adapter")).unwrap();
    let adapters = Adapters::new(&spec, &LoraSettings::default(), 0, &Device::Cpu).unwrap();
    adapters.write(&desk.path("adapter"), &spec, "deeper").unwrap();
    fs::create_dir_all(desk.path("healed/merged")).unwrap();
    let against = |other: &str| format!("{ANALYZE} --metrics barrier --against {other}");
    for (line, words) in [
        (format!("{ANALYZE} --metrics barrier"), vec!["barrier compares two models", "--against"]),
        (format!("{ANALYZE} --metrics layer-loss,barrier-swapped"), vec!["barrier-swapped", "--against"]),
        (
            format!("{ANALYZE} --against other"),
            vec!["--against", "--metrics barrier,barrier-swapped,barrier-cumulative"],
        ),
        (format!("{ANALYZE} --against other --metrics cka"), vec!["--metrics barrier"]),
        (against("deeper"), vec!["--against", "num_hidden_layers is 4 in model, 5 in deeper"]),
        (against("wordy"), vec!["--against", "vocab_size is 64 in model, 70 in wordy"]),
        (against("wider"), vec!["--against", "intermediate_size is 24 in model, 32 in wider"]),
        (against("adapter"), vec!["--against", "adapter"]),
        (against("healed"), vec!["--against", "name healed/merged"]),
        (against("./nowhere"), vec!["--against", "no such directory"]),
        (against("text.jsonl"), vec!["--against", "not a directory"]),
        (format!("{} --memory 1MB", against("other")), vec!["--memory"]),
        (
            format!("{} --metric barrier", against("other")),
            vec!["barrier compares two models' layers", "a plan cannot follow it"],
        ),
        (format!("{} --metric barrier --strategy greedy", against("other")), vec!["greedy"]),
        ("analyze model --metrics barrier --against other".to_owned(), vec!["which text?", "--data", "barrier"]),
        ("analyze model --metrics magnitude,barrier --against other".to_owned(), vec!["which text?", "barrier"]),
    ] {
        desk.refused(&line, 2, &words);
        desk.refused(&format!("{line} --dry-run"), 2, &words);
    }
    let clash = desk.run("analyze --from a.json --against other");
    assert_eq!(clash.status.code(), Some(2));
}

#[test]
fn a_plan_does_not_follow_it_and_a_dry_run_tells_what_it_takes() {
    let desk = desk();
    let line = format!("{ANALYZE} --against other --metrics barrier,barrier-swapped --layers 1");
    let dry = desk.json(&format!("{line} --dry-run --json"));
    assert!(!desk.path("a").exists() && dry["analysis"].is_null());
    let output = desk.run(&format!("{line} -o a --csv a/scores.csv"));
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}");
    assert!(said.contains("against other: its layers in memory") && said.contains("barrier-swapped"), "{said}");
    assert!(said.contains("with no layer mixed") && said.contains("barriers.svg"), "{said}");
    let pass = desk.json(&format!("{line} --json"))["pass"].clone();
    for key in ["layer_passes", "against", "tokens", "weight_bytes", "residency"] {
        assert_eq!(dry["pass"][key], pass[key], "{key}");
    }
    assert_eq!(pass["layer_passes"], 4 + 4 + 4 + 4 * 5);
    let analysis = read(&desk.path("a/analysis.json"));
    assert_eq!((&analysis["search"]["metric"], &analysis["settings"]["against"]), (&"angular".into(), &"other".into()));
    let svg = fs::read_to_string(desk.path("a/barriers.svg")).unwrap();
    assert!(svg.contains("model with layers of other") && svg.contains("barrier-swapped"));
    let lines = fs::read_to_string(desk.path("a/scores.csv")).unwrap();
    assert_eq!(lines.lines().filter(|line| line.starts_with("barrier-swapped,1,")).count(), 4);

    // the same from the file, and no plan by it
    let output = desk.run("analyze --from a/analysis.json --layers 2 -o again");
    assert!(output.status.success() && desk.path("again/barriers.png").exists());
    assert_eq!(read(&desk.path("again/analysis.json"))["against"], analysis["against"]);
    desk.refused("analyze --from a/analysis.json --metric barrier --layers 1", 2, &["a plan cannot follow it"]);
    desk.refused("analyze --from a/analysis.json --metric barrier-swapped", 2, &["a plan cannot follow it"]);
    let mut edited = analysis;
    edited["search"]["metric"] = "barrier".into();
    edited["search"]["strategy"] = "lowest".into();
    fs::write(desk.path("edited.json"), edited.to_string()).unwrap();
    desk.refused("cut model --plan edited.json --layers 1 -o cut", 2, &["barrier"]);
    // nothing of it where it is not asked for
    assert!(desk.run(&format!("{ANALYZE} -o plain")).status.success());
    assert!(read(&desk.path("plain/analysis.json")).get("against").is_none());
    assert!(!desk.path("plain/barriers.svg").exists());
}
