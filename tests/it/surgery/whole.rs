//! Cuts that succeed, tensor by tensor.

use std::collections::BTreeMap;
use std::fs;

use proptest::prelude::*;
use prune::checkpoint::write_file;
use prune::commands::analyze::{AnalyzeSettings, analyze};
use prune::commands::cut::{CutSettings, cut};
use prune::plan::{Plan, PlannedFor};
use prune::progress::Silent;
use prune::surgery::layer_count;
use safetensors::Dtype;
use serde_json::json;

use super::{drop_layers, files, names, open, settings};
use crate::fixture::{Head, Llama};

/// dtype, shape and bytes by name.
type Tensors = BTreeMap<String, (Dtype, Vec<usize>, Vec<u8>)>;

/// Every tensor in `dir`, read by the `safetensors` crate.
fn tensors(dir: &std::path::Path) -> Tensors {
    let mut all = Tensors::new();
    for name in names(dir).iter().filter(|name| name.ends_with(".safetensors")) {
        let bytes = fs::read(dir.join(name)).unwrap();
        let (_, metadata) = safetensors::SafeTensors::read_metadata(&bytes).unwrap();
        assert_eq!(metadata.metadata().as_ref().unwrap()["format"], "pt", "{name}");
        for (name, view) in safetensors::SafeTensors::deserialize(&bytes).unwrap().tensors() {
            all.insert(name, (view.dtype(), view.shape().to_vec(), view.data().to_vec()));
        }
    }
    all
}

/// What a cut that keeps `kept` should hold, by the model's own names.
fn expected(model: &Llama, kept: &[usize]) -> Tensors {
    let renamed = model.tensors().into_iter().filter_map(|tensor| {
        let mut name = tensor.name.clone();
        if let Some(rest) = name.strip_prefix("model.layers.") {
            let (layer, rest) = rest.split_once('.').unwrap();
            let new = kept.iter().position(|kept| kept.to_string() == layer)?;
            name = format!("model.layers.{new}.{rest}");
        }
        Some((name, (tensor.dtype, tensor.shape, tensor.bytes)))
    });
    renamed.collect()
}

fn variants() -> Vec<Llama> {
    let plain = || Llama { layers: 6, ..Llama::default() };
    vec![
        plain(),
        Llama { dtype: Dtype::BF16, shards: 3, ..plain() },
        Llama { dtype: Dtype::F16, head: Head::Tied, ..plain() },
        Llama { dtype: Dtype::BF16, head: Head::TiedHeadOnly, shards: 2, ..plain() },
        // numbers of two digits sort differently as text
        Llama { layers: 13, ..plain() },
    ]
}

#[test]
fn kept_tensors_keep_their_bytes() {
    for model in variants() {
        let dir = tempfile::tempdir().unwrap();
        let (source, out) = (dir.path().join("source"), dir.path().join("out"));
        model.write(&source);
        let report = drop_layers(&source, "1,3-4", &out);
        let kept: Vec<usize> = (0..model.layers).filter(|layer| ![1, 3, 4].contains(layer)).collect();
        assert_eq!(tensors(&out), expected(&model, &kept), "{model:?}");
        assert_eq!((report.dropped.as_slice(), report.layers.after), (&[1, 3, 4][..], kept.len() as u64));
        assert_eq!(report.identical.unwrap().tensors, tensors(&out).len());
        assert_eq!(names(dir.path()), ["out", "source"], "nothing else is left");

        let numbers = |dir: &std::path::Path| -> u64 {
            tensors(dir).values().map(|(_, shape, _)| shape.iter().product::<usize>() as u64).sum()
        };
        assert_eq!((report.parameters.before, report.parameters.after), (numbers(&source), numbers(&out)));
    }
}

#[test]
fn what_is_not_a_layer_comes_along() {
    let dir = tempfile::tempdir().unwrap();
    let (source, out) = (dir.path().join("source"), dir.path().join("out"));
    Llama::default().write(&source);
    fs::write(source.join("chat_template.jinja"), "{{ messages }}").unwrap();
    fs::write(source.join("pytorch_model.bin"), "not wanted").unwrap();
    drop_layers(&source, "2", &out);
    let (before, after) = (files(&source), files(&out));
    let carried =
        ["LICENSE", "chat_template.jinja", "generation_config.json", "tokenizer.json", "tokenizer_config.json"];
    for name in carried.map(std::path::Path::new) {
        assert_eq!(after[name], before[name], "{}", name.display());
    }
    let made = [".prune", "README.md", "config.json", "model.safetensors", "prune.json"];
    let mut expected: Vec<&str> = carried.into_iter().chain(made).collect();
    expected.sort_unstable();
    assert_eq!(names(&out), expected);
    let text = |name: &str, files: &std::collections::BTreeMap<_, Vec<u8>>| {
        String::from_utf8(files[std::path::Path::new(name)].clone()).unwrap()
    };
    let layers = |count: usize| format!("\"num_hidden_layers\": {count}");
    assert_eq!(text("config.json", &after), text("config.json", &before).replace(&layers(4), &layers(3)));
}

/// Two writers of the same tensors give files of the same bytes: ours, and the `safetensors` crate's.
#[test]
fn a_cut_that_drops_nothing_changes_nothing() {
    for model in variants() {
        let dir = tempfile::tempdir().unwrap();
        let (source, out) = (dir.path().join("source"), dir.path().join("out"));
        model.write(&source);
        let checkpoint = open(&source);
        let planned_for = PlannedFor {
            id: "any".into(),
            revision: None,
            fingerprint: checkpoint.fingerprint(),
            layers: layer_count(&checkpoint.config).unwrap(),
        };
        let plan = Plan::drop_layers(planned_for, &[].into()).unwrap();
        let file = dir.path().join("plan.json");
        write_file(&file, false, plan.to_json().unwrap().as_bytes()).unwrap();
        let report = cut(&CutSettings { plan: Some(file), ..settings(&source, &out) }, &Silent).unwrap();
        assert_eq!(tensors(&out), tensors(&source));
        assert_eq!(
            files(&out)[std::path::Path::new("config.json")],
            files(&source)[std::path::Path::new("config.json")]
        );
        assert!(report.config.is_empty() && report.dropped.is_empty());
        if model.shards == 1 {
            let weights = std::path::Path::new("model.safetensors");
            assert_eq!(files(&out)[weights], files(&source)[weights]);
        }
    }
}

#[test]
fn shards_stay_below_their_size() {
    let dir = tempfile::tempdir().unwrap();
    let (source, out) = (dir.path().join("source"), dir.path().join("out"));
    let model = Llama { layers: 8, dtype: Dtype::BF16, shards: 2, ..Llama::default() };
    model.write(&source);
    let sharded = CutSettings { drop: Some("3-5".into()), max_shard_size: "5KB".into(), ..settings(&source, &out) };
    let report = cut(&sharded, &Silent).unwrap();
    let count = report.shards.len();
    assert!(count >= 4, "{:?}", report.shards);
    for (place, shard) in report.shards.iter().enumerate() {
        assert_eq!(shard.file, format!("model-{:05}-of-{count:05}.safetensors", place + 1));
        assert_eq!(fs::metadata(out.join(&shard.file)).unwrap().len(), shard.bytes);
    }
    assert_eq!(tensors(&out), expected(&model, &[0, 1, 2, 6, 7]));
    let index = super::json(&out.join("model.safetensors.index.json"));
    assert_eq!(index["metadata"]["total_size"], json!(report.bytes.after));
    assert_eq!(index["weight_map"].as_object().unwrap().len(), tensors(&out).len());
}

#[test]
fn the_same_cut_gives_the_same_bytes() {
    let dir = tempfile::tempdir().unwrap();
    let source = dir.path().join("source");
    Llama { layers: 6, shards: 2, ..Llama::default() }.write(&source);
    let [one, two] = ["one", "deep/er/two"].map(|name| dir.path().join(name));
    drop_layers(&source, "1-2", &one);
    drop_layers(&source, "2,1", &two);
    assert_eq!(files(&one), files(&two));
}

#[test]
fn every_way_to_say_what_goes() {
    let dir = tempfile::tempdir().unwrap();
    let source = dir.path().join("source");
    Llama { layers: 8, ..Llama::default() }.write(&source);
    let base = CutSettings { model: Some(source.to_str().unwrap().into()), dry_run: true, ..CutSettings::default() };
    for (settings, dropped) in [
        (CutSettings { drop: Some("2-3,5".into()), ..base.clone() }, vec![2, 3, 5]),
        (CutSettings { deepest: Some(3), ..base.clone() }, vec![4, 5, 6]),
        (CutSettings { fraction: Some(0.25), ..base.clone() }, vec![5, 6]),
        (CutSettings { fraction: Some(0.01), ..base.clone() }, vec![6]),
    ] {
        assert_eq!(cut(&settings, &Silent).unwrap().dropped, dropped, "{settings:?}");
    }
}

#[test]
fn an_analysis_has_the_best_block_of_every_size() {
    let dir = tempfile::tempdir().unwrap();
    let (source, data, out) = (dir.path().join("source"), dir.path().join("text.txt"), dir.path().join("analysis"));
    Llama { layers: 8, ..Llama::default() }.write(&source);
    fs::write(&data, "w3 w9 w27 w14 w5\n\nw60 w11 w8 w8 w40 w33\n\nw4 w5 w6 w7\n").unwrap();
    let measured = AnalyzeSettings {
        model: Some(source.to_str().unwrap().into()),
        data: vec![data.to_str().unwrap().into()],
        layers: Some(3),
        out: Some(out.clone()),
        ..AnalyzeSettings::default()
    };
    let analysis = analyze(&measured, &Silent).unwrap().analysis.unwrap();
    let file = Some(out.join("analysis.json"));
    let base = CutSettings { model: measured.model, plan: file, dry_run: true, ..CutSettings::default() };
    assert_eq!(cut(&base, &Silent).unwrap().dropped, analysis.search.best[2].drop, "the plan it marks");
    for n in 1..=7 {
        let settings = CutSettings { fraction: Some(n as f64 / 8.0), ..base.clone() };
        assert_eq!(cut(&settings, &Silent).unwrap().dropped, analysis.search.best[n - 1].drop);
    }
}

#[test]
fn a_dry_run_says_what_a_run_does_and_writes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let (source, out) = (dir.path().join("source"), dir.path().join("parent/out"));
    Llama { layers: 6, ..Llama::default() }.write(&source);
    let run = CutSettings { drop: Some("1-2".into()), max_shard_size: "20KB".into(), ..settings(&source, &out) };
    let dry = cut(&CutSettings { dry_run: true, ..run.clone() }, &Silent).unwrap();
    assert_eq!(names(dir.path()), ["source"]);
    assert!(dry.disk_free.unwrap() > dry.disk_needed && dry.identical.is_none());
    let done = cut(&run, &Silent).unwrap();
    assert_eq!((&dry.shards, &dry.config, dry.parameters), (&done.shards, &done.config, done.parameters));
    let weights = fs::read_dir(&out).unwrap().map(|entry| entry.unwrap());
    let weights = weights.filter(|entry| entry.file_name().to_str().unwrap().ends_with(".safetensors"));
    assert_eq!(weights.map(|entry| entry.metadata().unwrap().len()).sum::<u64>(), dry.disk_needed);
    let page = dry.to_string();
    for word in ["layers       6 -> 4", "1..=2", "--prune-layers 1,2", "--drop_layers 2 3", "[0, 1] [3, 6]", "dry run"]
    {
        assert!(page.contains(word), "{word}: {page}");
    }
}

#[test]
#[cfg(unix)]
fn outputs_are_as_readable_as_any_directory() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().unwrap();
    let (source, out, plain) = (dir.path().join("source"), dir.path().join("out"), dir.path().join("plain"));
    Llama::default().write(&source);
    drop_layers(&source, "1", &out);
    fs::create_dir(&plain).unwrap();
    let mode = |path: &std::path::Path| fs::metadata(path).unwrap().permissions().mode();
    assert_eq!(mode(&out), mode(&plain));
    assert_eq!(mode(&out.join("model.safetensors")), mode(&source.join("config.json")));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn any_layers_may_go(
        dropped in proptest::collection::btree_set(0usize..7, 1..7),
        head in prop_oneof![Just(Head::Own), Just(Head::Tied), Just(Head::TiedHeadOnly)],
        shards in 1usize..4,
        shard_bytes in 1u64..40_000,
    ) {
        let dir = tempfile::tempdir().unwrap();
        let (source, out) = (dir.path().join("source"), dir.path().join("out"));
        let model = Llama { layers: 7, head, shards, ..Llama::default() };
        model.write(&source);
        let layers: Vec<String> = dropped.iter().map(ToString::to_string).collect();
        let run = CutSettings {
            drop: Some(layers.join(",")),
            max_shard_size: shard_bytes.to_string(),
            ..settings(&source, &out)
        };
        cut(&run, &Silent).unwrap();
        let kept: Vec<usize> = (0..7).filter(|layer| !dropped.contains(layer)).collect();
        prop_assert_eq!(tensors(&out), expected(&model, &kept));
        prop_assert_eq!(layer_count(&open(&out).config).unwrap(), kept.len());
    }
}
