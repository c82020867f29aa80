//! Requests and files that cannot be cut: one line with the file or flag and the reason, and nothing left behind.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use proptest::prelude::*;
use prune::Error;
use prune::checkpoint::{ByteSize, Checkpoint};
use prune::commands::cut::{CutSettings, cut};
use prune::plan::{Plan, PlannedFor};
use prune::progress::Silent;
use prune::surgery::{Cut, CutOptions, config_edits, edit_config};
use serde_json::{Map, Value, json};

use super::{files, json, names, open, settings};
use crate::fixture::{Llama, write_safetensors};

/// Cuts `source` with changed settings; gives the error, having looked that nothing was left.
fn refused(source: &Path, change: impl Fn(&mut CutSettings)) -> Error {
    let parent = source.parent().unwrap();
    let before = (names(parent), files(source));
    let mut run = CutSettings { drop: Some("1".into()), ..settings(source, &parent.join("deep/out")) };
    change(&mut run);
    let error = cut(&run, &Silent).unwrap_err();
    assert_eq!((names(parent), files(source)), before, "{error}");
    assert!(!error.to_string().contains('\n'), "{error}");
    error
}

fn says(error: &Error, code: u8, words: &[&str]) {
    for word in words {
        assert!(error.to_string().contains(word), "expected {word:?}: {error}");
    }
    assert_eq!(error.exit_code(), code, "{error}");
}

fn source(model: &Llama) -> (tempfile::TempDir, std::path::PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let source = dir.path().join("source");
    model.write(&source);
    (dir, source)
}

fn with(pairs: Value) -> Map<String, Value> {
    pairs.as_object().unwrap().clone()
}

#[test]
fn wrong_requests() {
    let (dir, source) = source(&Llama::default());
    let none = |run: &mut CutSettings| run.drop = None;
    says(&refused(&source, none), 2, &["--plan, --drop, --deepest, --tail, --method or --fraction"]);
    says(&refused(&source, |run| run.deepest = Some(1)), 2, &["--drop and --deepest"]);
    says(&refused(&source, |run| run.model = None), 2, &["which model?"]);
    says(&refused(&source, |run| run.out = None), 2, &["--out"]);
    says(&refused(&source, |run| run.max_shard_size = "5 apples".into()), 2, &["--max-shard-size", "5 apples"]);
    says(&refused(&source, |run| run.model = Some("/nowhere/at/all".into())), 2, &["/nowhere/at/all"]);
    for (drop, word) in [
        ("4", "names layer 4, but the model has 4 layers (0..=3)"),
        ("2-9", "names layer 9"),
        ("x", "`x` in `x`"),
        ("3-1", "names no layer"),
        ("0-3", "drops all 4 layers"),
    ] {
        says(&refused(&source, |run| run.drop = Some(drop.into())), 2, &[word]);
    }
    let deepest = |count| {
        move |run: &mut CutSettings| {
            run.drop = None;
            run.deepest = Some(count);
        }
    };
    says(&refused(&source, deepest(4)), 2, &["--deepest", "the last layer stays"]);
    says(&refused(&source, deepest(0)), 2, &["--deepest"]);
    let fraction = |fraction| {
        move |run: &mut CutSettings| {
            run.drop = None;
            run.fraction = Some(fraction);
        }
    };
    for value in [0.0, 1.0, 0.99, -1.0, f64::NAN] {
        says(&refused(&source, fraction(value)), 2, &["--fraction"]);
    }
    drop(dir);
}

#[test]
fn outputs_in_the_way() {
    let (dir, source) = source(&Llama::default());
    let out = dir.path().join("taken");
    fs::create_dir(&out).unwrap();
    fs::write(out.join("precious"), "x").unwrap();
    for force in [false, true] {
        let run = |run: &mut CutSettings| (run.out, run.force) = (Some(out.clone()), force);
        says(&refused(&source, run), 2, &["taken", "precious", "stays"]);
        assert_eq!(names(&out), ["precious"]);
    }
    let inside = source.join("out");
    says(&refused(&source, |run| run.out = Some(inside.clone())), 2, &["source"]);
    let itself = |run: &mut CutSettings| {
        run.out = Some(source.clone());
        run.force = true;
    };
    says(&refused(&source, itself), 2, &["source"]);

    // empty, it is nobody's
    fs::remove_file(out.join("precious")).unwrap();
    says(&refused(&source, |run| run.out = Some(out.clone())), 2, &["taken", "--force"]);
    for layer in ["1", "2"] {
        let forced = CutSettings { drop: Some(layer.into()), force: true, ..settings(&source, &out) };
        cut(&forced, &Silent).unwrap();
        assert!(out.join("prune.json").exists());
    }
}

#[test]
fn plans_that_do_not_fit() {
    let (dir, source) = source(&Llama::default());
    let file = dir.path().join("plan.json");
    let fingerprint = open(&source).fingerprint();
    let model = |fingerprint: &str, layers| PlannedFor {
        id: "org/other".into(),
        revision: None,
        fingerprint: fingerprint.into(),
        layers,
    };
    let refuse = |text: &str| {
        fs::write(&file, text).unwrap();
        refused(&source, |run| {
            run.drop = None;
            run.plan = Some(file.clone());
        })
    };
    let other = Plan::block(model("0123456789abcdef", 4), 1, 1).unwrap().to_json().unwrap();
    says(&refuse(&other), 2, &["org/other", "0123456789ab…", &fingerprint[..12], "source"]);
    let longer = Plan::block(model(&fingerprint, 5), 1, 1).unwrap().to_json().unwrap();
    says(&refuse(&longer), 2, &["5 layers", "4 layers"]);
    let stack = |stack: Value| json!({"for": model(&fingerprint, 4), "stack": stack}).to_string();
    says(&refuse(&stack(json!([]))), 2, &["plan.json", "drops all 4 layers"]);
    says(&refuse(&stack(json!([{"layer": 0}, {"layer": 7}]))), 2, &["plan.json", "keeps layer 7"]);
    let deaf = json!([{"layer": 0, "without": ["attention"]}, {"layer": 1, "without": ["attention"]}]);
    says(&refuse(&stack(deaf)), 2, &["plan.json", "no layer its attention"]);
    says(&refuse(&stack(json!([{"layer": 0, "without": ["ffn"]}]))), 2, &["plan.json", "ffn"]);
    says(&refuse(&stack(json!([{"layer": 0, "made": {"x": {"layer": 4}}}]))), 2, &["plan.json", "layer 4, but"]);
    says(&refuse(&stack(json!([{"merged": [0, 1]}]))), 2, &["plan.json", "merged"]);
    says(&refuse("{"), 2, &["plan.json", "not JSON"]);
    says(&refuse("{\"plan\": null}"), 2, &["plan.json", "--fraction"]);
    // a fraction needs an analysis to choose from
    fs::write(&file, stack(json!([{"layer": 0}]))).unwrap();
    let both = |run: &mut CutSettings| {
        run.drop = None;
        run.plan = Some(file.clone());
        run.fraction = Some(0.5);
    };
    says(&refused(&source, both), 2, &["plan.json", "--fraction and --layers go with an analysis.json"]);
    fs::remove_file(&file).unwrap();
    says(&refused(&source, both), 2, &["plan.json"]);
}

#[test]
fn configs_that_are_not_understood() {
    let unknown = Llama { config: with(json!({"layer_gain": [1.0, 1.0, 1.0, 1.0]})), ..Llama::default() };
    let (dir, path) = source(&unknown);
    says(
        &refused(&path, |_| ()),
        2,
        &["config.json", "`layer_gain` is a list of 4 values", "--allow-unsliced layer_gain"],
    );
    let out = dir.path().join("out");
    let allow = vec!["layer_gain".to_owned()];
    let allowed = CutSettings { drop: Some("1".into()), allow_unsliced: allow, ..settings(&path, &out) };
    cut(&allowed, &Silent).unwrap();
    assert_eq!(json(&out.join("config.json"))["layer_gain"], json!([1.0, 1.0, 1.0, 1.0]));
    says(
        &refused(&path, |run| run.allow_unsliced = vec!["layer_gain".into(), "nothing".into()]),
        2,
        &["--allow-unsliced nothing"],
    );

    for (change, code, word) in [
        (json!({"is_encoder_decoder": true}), 2, "this model has two"),
        (json!({"num_hidden_layers": null}), 1, "num_hidden_layers"),
        (json!({"num_hidden_layers": 5}), 1, "5"),
        (json!({"num_hidden_layers": 3}), 1, "3"),
        (json!({"hidden_size": 32}), 1, "hidden_size"),
        (json!({"layer_types": ["full_attention"]}), 1, "layer_types"),
    ] {
        let (_dir, source) = source(&Llama { config: with(change.clone()), ..Llama::default() });
        let error = refused(&source, |_| ());
        if change.get("hidden_size").is_some() {
            says(&error, code, &["shape"]);
        } else {
            says(&error, code, &["config.json", word]);
        }
    }
}

#[test]
fn weights_that_are_broken() {
    let (_dir, path) = source(&Llama { shards: 2, ..Llama::default() });
    fs::remove_file(path.join("model-00002-of-00002.safetensors")).unwrap();
    says(&refused(&path, |_| ()), 1, &["model-00002-of-00002.safetensors is missing"]);

    let (_dir, path) = source(&Llama::default());
    let bytes = fs::read(path.join("model.safetensors")).unwrap();
    fs::write(path.join("model.safetensors"), &bytes[..bytes.len() - 1]).unwrap();
    says(&refused(&path, |_| ()), 1, &["model.safetensors", "truncated"]);

    let model = Llama::default();
    let (_dir, path) = source(&model);
    let tensors: Vec<_> =
        model.tensors().into_iter().filter(|t| t.name != "model.layers.2.mlp.up_proj.weight").collect();
    write_safetensors(&path.join("model.safetensors"), &tensors);
    says(&refused(&path, |_| ()), 1, &["model.layers.2.mlp.up_proj.weight"]);
}

const OPTIONS: CutOptions<'_> =
    CutOptions { max_shard_size: ByteSize(5_000_000_000), allow_unsliced: &[], format: None };

/// A shard changes after everything was checked and before it is read.
#[test]
fn a_source_that_changes_while_it_is_cut() {
    let (dir, path) = source(&Llama { shards: 2, ..Llama::default() });
    let checkpoint = Arc::new(Checkpoint::open_dir(&path).unwrap());
    let model = PlannedFor { id: "x".into(), revision: None, fingerprint: checkpoint.fingerprint(), layers: 4 };
    let plan = Plan::block(model.clone(), 1, 1).unwrap();
    let decided = Cut::new(&checkpoint, &model, plan, &OPTIONS).unwrap();
    let shard = path.join("model-00002-of-00002.safetensors");
    let bytes = fs::read(&shard).unwrap();
    fs::write(&shard, &bytes[..bytes.len() - 4]).unwrap();
    let out = dir.path().join("out");
    fs::create_dir(&out).unwrap();
    let error = decided.blueprint().write(&out, &Silent).unwrap_err();
    says(&error, 1, &["model-00002-of-00002.safetensors", "changed"]);
}

#[test]
fn verification_sees_a_single_byte() {
    let (dir, path) = source(&Llama::default());
    let checkpoint = Arc::new(Checkpoint::open_dir(&path).unwrap());
    let model = PlannedFor { id: "x".into(), revision: None, fingerprint: checkpoint.fingerprint(), layers: 4 };
    let plan = Plan::block(model.clone(), 1, 2).unwrap();
    let decided = Cut::new(&checkpoint, &model, plan, &OPTIONS).unwrap();
    let out = dir.path().join("out");
    fs::create_dir(&out).unwrap();
    decided.write(&out, &json!({}), false, &Silent).unwrap();
    decided.blueprint().verify(&open(&out), &Silent).unwrap();

    let weights = out.join("model.safetensors");
    let good = fs::read(&weights).unwrap();
    let entry = open(&out).index.entry("model.layers.1.mlp.down_proj.weight").unwrap().clone();
    let mut bad = good.clone();
    bad[entry.begin as usize + 5] ^= 1;
    fs::write(&weights, &bad).unwrap();
    let error = decided.blueprint().verify(&open(&out), &Silent).unwrap_err();
    says(
        &error,
        1,
        &["model.layers.1.mlp.down_proj.weight differs from model.layers.3.mlp.down_proj.weight", "byte 5"],
    );
    fs::write(&weights, &good).unwrap();

    let config = out.join("config.json");
    let text = fs::read_to_string(&config).unwrap();
    fs::write(&config, text.replace("10000.0", "10001.0")).unwrap();
    says(&decided.blueprint().verify(&open(&out), &Silent).unwrap_err(), 1, &["config.json"]);
}

/// Keys with a meaning for the cut, and one without.
const KEYS: &[&str] = &[
    "layer_types",
    "no_rope_layers",
    "no_rope_layer_interval",
    "sliding_window_pattern",
    "max_window_layers",
    "mlp_only_layers",
    "per_layer_config",
    "eos_token_id",
    "model_type",
    "use_sliding_window",
    "quantization_config",
    "num_kv_shared_layers",
    "num_hidden_layers",
    "0",
    "layers.1.mlp",
    "anything",
];

fn any_value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        (0u64..8).prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        prop_oneof!["[a-z.0-9]{0,8}", "model\\.layers\\.[0-9]{1,3}\\.[a-z]{1,3}", Just("smollm3".to_owned())]
            .prop_map(Value::from),
    ];
    leaf.prop_recursive(3, 24, 6, |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..7).prop_map(Value::from),
            proptest::collection::vec((proptest::sample::select(KEYS), inner), 0..5)
                .prop_map(|pairs| pairs.into_iter().map(|(key, value)| (key.to_owned(), value)).collect()),
        ]
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(3000))]

    #[test]
    fn any_config_is_edited_or_refused(
        values in proptest::collection::vec((proptest::sample::select(KEYS), any_value()), 0..6),
        layers in 1usize..7,
        keep in proptest::collection::vec(any::<bool>(), 7),
        allowed in proptest::sample::subsequence(KEYS, 0..3),
        pretty: bool,
    ) {
        let mut config: Map<String, Value> = values.into_iter().map(|(key, value)| (key.to_owned(), value)).collect();
        config.insert("num_hidden_layers".into(), json!(layers));
        let kept: Vec<usize> = (0..layers).filter(|layer| keep[*layer]).collect();
        let allowed: Vec<String> = allowed.into_iter().map(str::to_owned).collect();
        match config_edits(&config, &kept, &allowed) {
            Err(error) => prop_assert!(!error.to_string().contains('\n'), "{}", error),
            Ok(edits) => {
                let value = Value::Object(config.clone());
                let text = if pretty { serde_json::to_string_pretty(&value).unwrap() } else { value.to_string() };
                let edited: Map<String, Value> = serde_json::from_str(&edit_config(&text, &edits).unwrap()).unwrap();
                prop_assert_eq!(&edited["num_hidden_layers"], &json!(kept.len()));
                // what no edit names is as it was
                let named = |key: &str| edits.iter().any(|edit| edit.key.split('.').next() == Some(key));
                for (key, value) in config.iter().filter(|(key, _)| !named(key)) {
                    prop_assert_eq!(edited.get(key), Some(value));
                }
                prop_assert!(kept.len() < layers || edits.is_empty());
            }
        }
    }
}
