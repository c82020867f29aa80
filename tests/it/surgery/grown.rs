//! Growths: what is inserted changes nothing or is a copy, the source's own layers stay bit for bit, and a cut of what
//! was inserted gives the source back.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use prune::arch::ModelSpec;
use prune::checkpoint::{ByteSize, Checkpoint};
use prune::commands::cut::cut;
use prune::commands::grow::{GrowReport, GrowSettings, grow};
use prune::model::{Loss, Model, ModelOptions, Residency};
use prune::plan::{Plan, PlannedFor, ranges};
use prune::progress::Silent;
use prune::repair::Decomposed;
use prune::surgery::{Cut, CutOptions, GROWTHS, growth};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use safetensors::Dtype;
use serde_json::{Value, json};

use super::families::{logits, write};
use super::{drop_layers, files, json, open, settings};
use crate::fixture::desk::Desk;
use crate::fixture::material::shared;
use crate::fixture::{Llama, random, write_json, write_weights};

fn grown(model: &Path, out: &Path, after: &str, by: &str) -> GrowReport {
    let settings = GrowSettings {
        model: Some(model.display().to_string()),
        out: Some(out.to_owned()),
        after: Some(after.to_owned()),
        by: Some(growth(by).unwrap()),
        verify: true,
        ..GrowSettings::default()
    };
    grow(&settings, &Silent).unwrap_or_else(|error| panic!("{by} after {after}: {error}"))
}

/// Every tensor with its type, shape and bytes.
fn tensors(dir: &Path) -> BTreeMap<String, (Dtype, Vec<usize>, Vec<u8>)> {
    let checkpoint = open(dir);
    let all = checkpoint.index.tensors.iter();
    all.map(|(name, entry)| (name.clone(), (entry.dtype, entry.shape.clone(), checkpoint.index.read(entry).unwrap())))
        .collect()
}

/// Of every architecture: means change no logit, copies compute what the stack with its layers twice computes, and
/// without what was inserted the model is the source again, tensor by tensor.
#[test]
fn every_architecture_grows() {
    let cases = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/arch");
    let mut seen = 0;
    for entry in std::fs::read_dir(cases).unwrap() {
        let path = entry.unwrap().path();
        let case = super::json(&path);
        let Some(config) = case.get("config").and_then(Value::as_object) else { continue };
        let name = path.file_stem().unwrap().to_str().unwrap();
        // experts on every other layer, which the config says so: a layer more is refused
        if name == "ernie4_5_moe-steps" {
            continue;
        }
        let dir = tempfile::tempdir().unwrap();
        let source = dir.path().join("source");
        let spec = write(&source, config, name.len() as u64);
        let ids: Vec<u32> = (0..24).map(|place| (place * 7 + 3) % spec.vocab_size as u32).collect();
        let whole = logits(&source, &ids, None);
        for (by, after) in
            GROWTHS.iter().flat_map(|by| [(by, vec![0]), (by, (0..spec.layers - 1).step_by(2).collect())])
        {
            let at = format!("{name}, {} after {after:?}", by.name);
            if by.predicts && spec.layers < 3 {
                continue;
            }
            // experts of different layers have no mean, which is refused
            if spec.experts.is_some() && by.name != "copy" {
                continue;
            }
            let out = dir.path().join(&at);
            let report = grown(&source, &out, &ranges(after.iter().copied()), by.name);
            let mut stack: Vec<usize> = (0..spec.layers).chain(after.iter().copied()).collect();
            stack.sort_unstable();
            assert_eq!((report.layers.after as usize, report.inserted.len()), (stack.len(), after.len()), "{at}");
            match by.keeps_function {
                _ if by.predicts => assert_ne!(logits(&out, &ids, None), whole, "{at}"),
                true => assert_eq!((logits(&out, &ids, None), report.distance), (whole.clone(), Some(0.0)), "{at}"),
                false => assert_eq!(logits(&out, &ids, None), logits(&source, &ids, Some(stack)), "{at}"),
            }
            let inserted: Vec<String> = report.inserted.iter().map(ToString::to_string).collect();
            let again = dir.path().join("again");
            drop_layers(&out, &inserted.join(","), &again);
            assert_eq!(tensors(&again), tensors(&source), "{at}");
            assert_eq!(logits(&again, &ids, None), whole, "{at}");
            std::fs::remove_dir_all(again).unwrap();
        }
        seen += 1;
    }
    assert!(seen >= prune::arch::ARCHITECTURES.len(), "{seen}");
}

/// To the byte of every file that holds weights or says what they are: nothing inserted is the source as a cut of
/// nothing writes it, and so is what was inserted and cut again, in shards or not.
#[test]
fn grown_and_cut_is_the_source() {
    for shards in [1, 3] {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        Llama { layers: 5, shards, dtype: Dtype::BF16, ..Llama::default() }.write(&at("model"));
        let source = Arc::new(open(&at("model")));
        let identity = PlannedFor { id: "model".into(), revision: None, fingerprint: source.fingerprint(), layers: 5 };
        let plan = Plan::insert(identity.clone(), &BTreeMap::new(), serde_json::Map::new()).unwrap();
        let options = CutOptions { max_shard_size: ByteSize(5_000_000_000), allow_unsliced: &[], format: None };
        let null = Cut::new(&source, &identity, plan, &options).unwrap();
        assert!(!null.is_growth() && null.edits().is_empty());
        std::fs::create_dir(at("null")).unwrap();
        null.write(&at("null"), &json!({}), false, &Silent).unwrap();
        let written = |name: &str| {
            let mut files = files(&at(name));
            files.retain(|file, _| !["README.md", "prune.json", ".prune"].contains(&file.to_str().unwrap()));
            files
        };
        for (by, after) in [("mean", "0,2-3"), ("copy", "1,4")] {
            let report = grown(&at("model"), &at(by), after, by);
            let inserted: Vec<String> = report.inserted.iter().map(ToString::to_string).collect();
            drop_layers(&at(by), &inserted.join(","), &at(&format!("{by} cut")));
            assert!(written(&format!("{by} cut")) == written("null"), "{by}");
            assert_eq!(written("null")[Path::new("config.json")], written("model")[Path::new("config.json")]);
            let history = json(&at(&format!("{by} cut")).join("prune.json"));
            assert_eq!((history.get("inserted"), &history["layers"]), (None, &json!([0, 1, 2, 3, 4])));
        }
    }
}

/// SOLAR's stack, in the files, in the history, and in memory or read from disk.
#[test]
fn a_range_comes_again() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    Llama { layers: 6, ..Llama::default() }.write(&at("model"));
    let run = GrowSettings {
        model: Some(at("model").display().to_string()),
        out: Some(at("out")),
        repeat: Some("2-4".into()),
        max_shard_size: "4KB".into(),
        verify: true,
        ..GrowSettings::default()
    };
    let report = grow(&run, &Silent).unwrap();
    assert_eq!((report.layers.after, &report.inserted[..], report.by), (9, &[5, 6, 7][..], "copy"));
    assert!(report.distance.unwrap() > 0.0 && report.shards.len() > 1);
    let history = json(&at("out/prune.json"));
    assert_eq!((&history["layers"], &history["inserted"]), (&json!([0, 1, 2, 3, 4, 2, 3, 4, 5]), &json!([5, 6, 7])));
    assert_eq!((&history["steps"][0]["step"], &history["steps"][0]["inserted"]), (&json!("grow"), &json!([5, 6, 7])));
    let card = std::fs::read_to_string(at("out/README.md")).unwrap();
    for words in ["9 layers, 3 of them inserted", "prune grow model --repeat 2..=4 -o DIR", "5..=7 of 9", "SOLAR"] {
        assert!(card.contains(words), "{words}: {card}");
    }
    assert!(!card.contains("removed") && !card.contains("remain"), "{card}");
    let (text, tokens): (Vec<Vec<u32>>, _) = ((0..3).map(|row| (row..row + 20).collect()).collect(), 64);
    let losses = [Residency::Resident, Residency::Streamed].map(|residency| {
        let options = ModelOptions { residency: Some(residency), ..ModelOptions::default() };
        let model = Model::open(Arc::new(open(&at("out"))), &options, &Silent).unwrap();
        Loss::total(&model.losses(&text, tokens, "loss", &Silent).unwrap()).mean()
    });
    assert_eq!(losses[0].to_bits(), losses[1].to_bits());
    // and on: layers stay inserted wherever they go
    drop_layers(&at("out"), "0,6", &at("cut"));
    assert_eq!(json(&at("cut/prune.json"))["inserted"], json!([4, 5]));
    // the plan says it as well as the command
    let plan = json!({"for": history["steps"][0]["source"], "stack": history["steps"][0]["stack"]});
    write_json(&at("plan.json"), &plan);
    let planned = prune::commands::cut::CutSettings {
        plan: Some(at("plan.json")),
        max_shard_size: "4KB".into(),
        ..settings(&at("model"), &at("planned"))
    };
    cut(&planned, &Silent).unwrap();
    assert_eq!(tensors(&at("planned")), tensors(&at("out")));
}

/// Families that are not computed, and weights in codes: copies are bit for bit, means are refused with the reason.
#[test]
fn what_has_no_mean_is_copied() {
    let dir = tempfile::tempdir().unwrap();
    let (source, out) = (dir.path().join("source"), dir.path().join("out"));
    let mut rng = ChaCha8Rng::seed_from_u64(3);
    let tensors: Vec<_> =
        (0..4).map(|layer| random(&mut rng, format!("transformer.h.{layer}.mlp.w"), &[3, 5], Dtype::F32)).collect();
    std::fs::create_dir_all(&source).unwrap();
    write_json(&source.join("config.json"), &json!({"model_type": "gpt2", "n_layer": 4}));
    write_weights(&source, &tensors, 2);
    let report = grown(&source, &out, "1,3", "copy");
    assert_eq!((report.identical.unwrap().tensors, report.distance), (6, None));
    let [old, new] = [&source, &out].map(|dir| self::tensors(dir));
    for (place, layer) in [0, 1, 1, 2, 3, 3].into_iter().enumerate() {
        assert_eq!(new[&format!("transformer.h.{place}.mlp.w")], old[&format!("transformer.h.{layer}.mlp.w")]);
    }
    let refused = |model: &Path, after: &str| {
        let run = GrowSettings {
            model: Some(model.display().to_string()),
            after: Some(after.into()),
            dry_run: true,
            ..GrowSettings::default()
        };
        let error = grow(&run, &Silent).unwrap_err();
        assert_eq!(error.exit_code(), 2, "{error}");
        error.to_string()
    };
    assert!(refused(&source, "1").contains("this one is not computed"));
    let desk = Desk::new();
    Llama { hidden: 64, mlp: 128, heads: 4, head_dim: 16, ..Llama::default() }.write(&desk.path("wide"));
    assert!(
        desk.run("heal wide --data text.jsonl --seq-len 16 --steps 1 --batch 1 --rank 2 --save-4bit -o h")
            .status
            .success()
    );
    let four = desk.path("h/base-4bit");
    assert!(refused(&four, "1").contains("is stored in codes"));
    let report = grown(&four, &desk.path("out"), "1", "copy");
    assert!(report.not_computed.is_none() && report.distance.is_some());
    let codes = self::tensors(&desk.path("out"));
    let [one, two] = [1, 2].map(|layer| &codes[&format!("model.layers.{layer}.mlp.up_proj.weight")]);
    assert!(one == two && one.0 == Dtype::U8);
}

#[test]
fn what_cannot_grow_is_refused() {
    let desk = Desk::new();
    for (words, said) in [
        ("", vec!["--after", "--repeat"]),
        ("--after 4", vec!["--after", "names layer 4, but the model has 4 layers (0..=3)"]),
        ("--after 1,1", vec!["names layer 1 twice"]),
        ("--after x", vec!["`x` in `x`"]),
        ("--after attn:1", vec!["whole layers are inserted"]),
        ("--after 3", vec!["--by mean after layer 3", "it is the last", "--by copy"]),
        ("--repeat 1,3", vec!["--repeat", "1, 3 are no range"]),
        ("--repeat 2-4", vec!["names layer 4"]),
        ("--repeat 1-2 --by mean", vec!["--repeat copies"]),
        ("--after 1 --max-shard-size x", vec!["--max-shard-size"]),
        ("--after 1 --allow-unsliced mystery", vec!["no such key"]),
    ] {
        desk.refused(&format!("grow model {words} -o out"), 2, &said);
        desk.refused(&format!("grow model {words} -o out --dry-run"), 2, &said);
    }
    std::fs::create_dir(desk.path("taken")).unwrap();
    std::fs::write(desk.path("taken/mine"), "mine").unwrap();
    desk.refused("grow model --after 1 -o taken", 2, &["taken"]);
    desk.config("is_encoder_decoder", json!(true));
    for way in ["--after 1", "--repeat 0-1"] {
        desk.refused(&format!("grow model {way} -o out"), 2, &["is_encoder_decoder"]);
    }
    desk.config("is_encoder_decoder", Value::Null);
    // a kind every second layer, by a key that no list spells out
    desk.config("expert_layer_period", json!(2));
    desk.refused(
        "grow model --after 1 --by copy -o out",
        2,
        &["expert_layer_period", "drop or repeat a multiple of 2"],
    );
    assert!(desk.run("grow model --repeat 0-1 -o out --dry-run").status.success());
}

/// Where windows alternate, an inserted layer has that of the layer before it, and the command says so.
#[test]
fn an_inserted_layer_is_of_the_kind_before_it() {
    let desk = Desk::new();
    desk.config("model_type", json!("qwen2"));
    desk.config("architectures", json!(["Qwen2ForCausalLM"]));
    desk.config("use_sliding_window", json!(true));
    desk.config("sliding_window", json!(4));
    let types = ["sliding_attention", "full_attention", "sliding_attention", "full_attention"];
    desk.config("layer_types", json!(types));
    let path = desk.path("model/model.safetensors");
    let mut tensors = candle_core::safetensors::load(&path, &candle_core::Device::Cpu).unwrap();
    let zeros = |name: &str| {
        let rows = tensors[&format!("{name}.weight")].dim(0).unwrap();
        candle_core::Tensor::zeros(rows, candle_core::DType::F32, &candle_core::Device::Cpu).unwrap()
    };
    let modules = (0..4).flat_map(|l| ["q", "k", "v"].map(|part| format!("model.layers.{l}.self_attn.{part}_proj")));
    let biases: Vec<_> = modules.map(|name| (format!("{name}.bias"), zeros(&name))).collect();
    tensors.extend(biases);
    candle_core::safetensors::save(&tensors, &path).unwrap();
    let output = desk.run("grow model --after 0-1 -o out --verify");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.contains("inserted layers 1, 3 have the attention window"), "{said}");
    let [s, f] = [types[0], types[1]];
    assert_eq!(json(&desk.path("out/config.json"))["layer_types"], json!([s, s, f, f, s, f]));
}

/// Llama SLayer's growth of the demo's model: the loss is the dense one to the bit (golden/methods/README.md, 11).
#[test]
fn the_references_growth_changes_nothing() {
    let Some(golden) = shared("golden/methods/insertion.json") else { return };
    let demo = shared("demo/model").unwrap();
    let golden = json(&golden);
    let ids: Vec<Vec<u32>> = {
        let inputs = json(&shared("golden/methods/inputs.json").unwrap());
        serde_json::from_value(inputs["rows"]["ids"].clone()).unwrap()
    };
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("out");
    let report = grown(&demo, &out, "1,3,5,7", "mean");
    assert_eq!((report.layers.after, &report.inserted[..]), (20, &[2, 5, 8, 11][..]));
    let loss = |dir: &Path| {
        let checkpoint = Arc::new(Checkpoint::open_dir(dir).unwrap());
        let model = Model::open(checkpoint, &ModelOptions::default(), &Silent).unwrap();
        Loss::total(&model.losses(&ids, 512, "loss", &Silent).unwrap()).mean()
    };
    let (dense, found) = (loss(&demo), loss(&out));
    assert_eq!(found.to_bits(), dense.to_bits());
    let expected = golden["slayer"]["loss"].as_f64().unwrap();
    assert!((found - expected).abs() < 2e-6, "{found} {expected}");
}

/// LESA's basis of all layers against PyTorch's on the demo's model, golden/methods/README.md, section 11; and what is
/// learned there: inserted norms are means, and a seed is what it is.
#[test]
fn a_predicted_layer_is_learned_in_the_references_basis() {
    let (Some(golden), Some(demo)) = (shared("golden/methods/insertion.json"), shared("demo/model")) else { return };
    let golden = &json(&golden)["lesa"];
    let checkpoint = open(&demo);
    let spec = ModelSpec::from_config(&checkpoint.config).unwrap();
    for role in spec.roles(0).into_iter().filter(|role| role.is_linear()) {
        let all = Decomposed::new(&checkpoint, &spec, role).unwrap();
        let expected: Vec<f64> =
            serde_json::from_value(golden[&*spec.module(role)]["singular_values"].clone()).unwrap();
        assert!(all.singular_values.len() >= expected.len(), "{role:?}");
        for (found, expected) in all.singular_values.iter().zip(&expected) {
            assert!((found - expected).abs() < 1e-6 * expected, "{role:?}: {found}, expected {expected}");
        }
    }
    let dir = tempfile::tempdir().unwrap();
    let learned = |seed: u64, out: &str| {
        let settings = GrowSettings {
            model: Some(demo.display().to_string()),
            out: Some(dir.path().join(out)),
            after: Some("3".to_owned()),
            by: Some(growth("lesa").unwrap()),
            seed,
            ..GrowSettings::default()
        };
        grow(&settings, &Silent).unwrap()
    };
    let report = learned(0, "a");
    for own in &report.learned {
        println!("{}: {:.3e}, by means {:.3e}", own.module, own.error, own.of_means);
        // a few hundred rows teach little, and rows of far layers have little to do with each other
        assert!(own.error > 0.0 && own.error < 2.0 * own.of_means, "{own:?}");
    }
    learned(0, "b");
    learned(1, "c");
    let [a, b, c] = ["a", "b", "c"].map(|name| tensors(&dir.path().join(name)));
    assert!(a == b && a != c);
    let norm = "model.layers.4.input_layernorm.weight";
    let read = |name: &str| -> Vec<f32> {
        checkpoint.index.load_f32(name, &[128], &candle_core::Device::Cpu).unwrap().to_vec1().unwrap()
    };
    let (below, above) = (read("model.layers.3.input_layernorm.weight"), read(norm));
    let grown = open(&dir.path().join("a"));
    let made: Vec<f32> = grown.index.load_f32(norm, &[128], &candle_core::Device::Cpu).unwrap().to_vec1().unwrap();
    for ((below, above), made) in below.iter().zip(&above).zip(made) {
        assert!((0.5 * (below + above) - made).abs() < 4e-3 * made.abs());
    }
}
