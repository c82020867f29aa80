//! Repaired cuts as the command writes them: what is said of them is true, they open as any, memory changes nothing.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use prune::arch::ModelSpec;
use prune::checkpoint::Checkpoint;
use prune::commands::cut::{CutReport, CutSettings, cut};
use prune::model::{Model, ModelOptions};
use prune::progress::Silent;
use prune::repair::repair;
use safetensors::Dtype;
use serde_json::{Value, json};

use crate::arch::cases::cases;
use crate::fixture::Llama;
use crate::fixture::desk::Desk;
use crate::fixture::material::shared;

/// A text of words of the fixture, more tokens than any projection is wide.
fn text(dir: &Path) -> PathBuf {
    let path = dir.join("text.jsonl");
    let lines = (0..24).map(|line| {
        let words: Vec<String> = (0..30 + line).map(|word| format!("w{}", 3 + (word * 7 + line * line) % 59)).collect();
        json!({"text": words.join(" ")}).to_string() + "\n"
    });
    fs::write(&path, lines.collect::<String>()).unwrap();
    path
}

fn settings(dir: &Path, name: &str, drop: &str, out: &str) -> CutSettings {
    CutSettings {
        model: Some(dir.join("model").display().to_string()),
        drop: Some(drop.to_owned()),
        repair: Some(repair(name).unwrap()),
        data: Some(dir.join("text.jsonl").display().to_string()),
        out: Some(dir.join(out)),
        verify: true,
        ..CutSettings::default()
    }
}

fn run(settings: &CutSettings) -> CutReport {
    cut(settings, &Silent).unwrap()
}

/// The loss of the model in `dir` on the sequences of the text that judge.
fn judged(dir: &Path, text: &Path) -> f64 {
    use prune::data::{SequenceOptions, Sequences, Shape, SourceOptions, TextSource, Tokenizer};
    let source = TextSource::open(text, &SourceOptions::default()).unwrap();
    let spec = ModelSpec::from_config(&Checkpoint::open_dir(dir).unwrap().config).unwrap();
    let shape = Shape { seq_len: spec.max_positions.min(2048), ..Shape::default() };
    let options = SequenceOptions { shape, ..SequenceOptions::default() };
    let rows = Sequences::read(&source, &Tokenizer::open(dir).unwrap(), &options, &Silent).unwrap().rows;
    let rows: Vec<Vec<u32>> = rows.into_iter().step_by(4).collect();
    let checkpoint = Arc::new(Checkpoint::open_dir(dir).unwrap());
    Model::open(checkpoint, &ModelOptions::default(), &Silent).unwrap().loss(&rows, "loss", &Silent).unwrap().mean()
}

fn files(dir: &Path) -> BTreeMap<String, Vec<u8>> {
    let entries = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    entries.map(|path| (path.file_name().unwrap().to_str().unwrap().to_owned(), fs::read(path).unwrap())).collect()
}

/// In every type: the losses that are told are those of what is written, to the bit, and only what the repair makes
/// differs from the cut alone.
#[test]
fn what_is_told_is_what_is_written() {
    for dtype in [Dtype::F32, Dtype::BF16, Dtype::F16] {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        Llama { layers: 6, dtype, ..Llama::default() }.write(&at("model"));
        let text = text(dir.path());
        let drop = "2,4";
        let plain = CutSettings {
            drop: Some(drop.into()),
            model: settings(dir.path(), "refit", drop, "x").model,
            ..Default::default()
        };
        run(&CutSettings { out: Some(at("plain")), ..plain });
        let cut_loss = judged(&at("plain"), &text);
        for name in ["refit", "fold", "fold-plain", "joint", "scale"] {
            let report = run(&settings(dir.path(), name, drop, name));
            let result = report.repair.as_ref().unwrap().result.as_ref().unwrap();
            assert_eq!(result.cut, cut_loss, "{name} {dtype}");
            assert_eq!(result.repaired, judged(&at(name), &text), "{name} {dtype}");
            assert_eq!(result.whole, judged(&at("model"), &text), "{name} {dtype}");
            assert!((result.change - (result.repaired - result.cut)).abs() < 1e-12);
            let (ours, theirs) =
                (Checkpoint::open_dir(&at(name)).unwrap(), Checkpoint::open_dir(&at("plain")).unwrap());
            assert_eq!(ours.config, theirs.config);
            let bytes = |checkpoint: &Checkpoint, tensor: &str| {
                let entry = checkpoint.entry(tensor).unwrap();
                let mut bytes = vec![0; entry.len as usize];
                checkpoint.read_range(entry, 0, &mut bytes).unwrap();
                (entry.dtype, entry.shape.clone(), bytes)
            };
            let all: Vec<&String> = ours.tensors.keys().collect();
            assert_eq!(all, theirs.tensors.keys().collect::<Vec<_>>());
            let changed: Vec<_> = all.iter().filter(|tensor| bytes(&ours, tensor) != bytes(&theirs, tensor)).collect();
            assert_eq!(changed.len(), result.tensors, "{name} {dtype}: {changed:?}");
            let is_output = |tensor: &str| tensor.ends_with("o_proj.weight") || tensor.ends_with("down_proj.weight");
            assert!(changed.iter().all(|tensor| is_output(tensor)), "{changed:?}");
            match name {
                // behind the first seam everything that was fitted, before it nothing but the last MLP
                "refit" => {
                    assert!(result.repaired <= result.cut && result.projections.len() == 5, "{result:?}");
                    assert!(result.steps.iter().all(|(_, loss)| *loss >= result.repaired));
                }
                "fold" | "fold-plain" => assert_eq!((result.tensors, result.seams.len()), (2, 2)),
                // later projections are divided, those of the last layer too
                _ => assert_eq!(result.seams.len(), 2),
            }
            for seam in &result.seams {
                assert!(seam.explained > 0.0 || name == "scale", "{name}: {seam:?}");
            }
            let step = serde_json::from_slice::<Value>(&fs::read(at(name).join("prune.json")).unwrap()).unwrap();
            let step = step["steps"][0].clone();
            assert_eq!(
                (&step["repair"]["name"], &step["repair"]["text"]["data"]),
                (&json!(name), &json!("text.jsonl"))
            );
            assert_eq!(step["repair"]["loss"]["repaired"].as_f64(), Some(result.repaired));
            let card = fs::read_to_string(at(name).join("README.md")).unwrap();
            assert!(card.contains(&format!("repaired without training ({name})")), "{card}");
            assert!(card.contains(&format!("--drop {drop} --repair {name} --data text.jsonl -o DIR")), "{card}");
            assert!(!card.contains("Every tensor that was kept"), "{card}");
        }
    }
}

/// Every family: a layer less, repaired in every way that it has the tensors for.
#[test]
fn every_family_is_repaired() {
    for (name, case) in cases() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        fs::create_dir(at("model")).unwrap();
        case.write(&at("model"));
        let spec = case.spec();
        // words are what the fixture's tokenizer has; families bring none of their own
        let tokenizer = tempfile::tempdir().unwrap();
        Llama { vocab: spec.vocab_size, ..Llama::default() }.write(tokenizer.path());
        for file in ["tokenizer.json", "tokenizer_config.json"] {
            fs::copy(tokenizer.path().join(file), at("model").join(file)).unwrap();
        }
        let text = text(dir.path());
        for repair in ["refit", "fold", "scale", "bias"] {
            let settings = settings(dir.path(), repair, "1", repair);
            if !spec.adds_plainly() {
                let error = cut(&settings, &Silent).unwrap_err();
                assert!(error.to_string().contains("does not add what its output projections give"), "{name}: {error}");
                continue;
            }
            if spec.experts.is_some() {
                let error = cut(&settings, &Silent).unwrap_err();
                assert!(error.to_string().contains("has experts with one each"), "{name}: {error}");
                continue;
            }
            if repair == "bias" && !spec.mlp_bias {
                let error = cut(&settings, &Silent).unwrap_err();
                assert!(error.to_string().contains("has no bias that could hold it"), "{name}: {error}");
                continue;
            }
            let report = cut(&settings, &Silent).unwrap_or_else(|error| panic!("{name} {repair}: {error}"));
            let result = report.repair.unwrap().result.unwrap();
            assert_eq!(result.repaired, judged(&at(repair), &text), "{name} {repair}");
            assert!(repair != "refit" || result.repaired <= result.cut, "{name}: {result:?}");
            if repair == "scale" {
                // biases are divided as well: o and down of all later layers, and what they have of biases
                let later = spec.layers - 2;
                let biases = later * (usize::from(spec.o_bias) + usize::from(spec.mlp_bias));
                assert_eq!(result.tensors, 2 * later + biases, "{name}");
            }
            let again = ModelSpec::from_config(&Checkpoint::open_dir(&at(repair)).unwrap().config).unwrap();
            assert_eq!(again.layers, spec.layers - 1);
        }
    }
}

/// Layers from the bottom, sub-layers alone, zeros in their place: what is left out stays out.
#[test]
fn any_plan_in_order_is_refitted() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    Llama { layers: 6, ..Llama::default() }.write(&at("model"));
    let text = text(dir.path());
    for (drop, format, projections) in [
        ("0", None, 10),
        ("0-1,5", None, 6),
        ("attn:2,mlp:4", Some("per-layer"), 7),
        ("attn:2,mlp:4", Some("zeros"), 7),
    ] {
        let out = format!("{drop} {}", format.unwrap_or("layers"));
        let settings = CutSettings { format: format.map(str::to_owned), ..settings(dir.path(), "refit", drop, &out) };
        let report = run(&settings);
        let result = report.repair.unwrap().result.unwrap();
        assert_eq!(result.projections.len(), projections, "{out}");
        assert_eq!(result.repaired, judged(&at(&out), &text), "{out}");
        assert!(result.repaired <= result.cut, "{out}");
        if format == Some("zeros") {
            let checkpoint = Checkpoint::open_dir(&at(&out)).unwrap();
            let zero = checkpoint.load("model.layers.2.self_attn.o_proj.weight", &[16, 16], &candle_core::Device::Cpu);
            let sum: f32 = zero.unwrap().abs().unwrap().sum_all().unwrap().to_scalar().unwrap();
            assert_eq!(sum, 0.0);
        }
    }
}

/// So little memory that what enters a projection is computed twice: the same files, and still less is refused.
#[test]
fn memory_changes_no_byte() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    Llama { layers: 5, dtype: Dtype::BF16, ..Llama::default() }.write(&at("model"));
    text(dir.path());
    for name in ["refit", "joint"] {
        let rich = settings(dir.path(), name, "2", &format!("rich {name}"));
        let dry = run(&CutSettings { dry_run: true, ..rich.clone() }).repair.unwrap();
        assert!(dry.result.is_none() && dry.expected_seconds.is_some_and(f64::is_finite));
        assert!(!at(&format!("rich {name}")).exists());
        let told = run(&rich).repair.unwrap();
        assert_eq!(
            (told.memory_bytes, told.fitted_on, told.judged_by),
            (dry.memory_bytes, dry.fitted_on, dry.judged_by)
        );
        // what is kept for the program itself comes on top
        let with = |memory: u64, out: &str| {
            let out = Some(at(out));
            CutSettings { memory: Some(((64 << 20) + memory).to_string()), out, ..rich.clone() }
        };
        let poor = format!("poor {name}");
        let told = run(&with(dry.memory_bytes - 1, &poor)).repair.unwrap();
        assert!(told.memory_bytes < dry.memory_bytes, "{told:?}");
        assert!(files(&at(&poor)) == files(&at(&format!("rich {name}"))), "{name}");
        let error = cut(&with(told.memory_bytes / 2, "none"), &Silent).unwrap_err();
        assert!(error.to_string().contains("which --samples and --seq-len make fewer"), "{error}");
        assert!(error.exit_code() == 2 && !at("none").exists());
    }
}

/// A trained model gets better by it: the stories model without a layer.
#[test]
fn the_stories_model_is_better_for_it() {
    let (Some(model), Some(text)) =
        (shared("data/stories260K"), shared("data/tinystories/tiny_stories_train_head.jsonl"))
    else {
        return;
    };
    let dir = tempfile::tempdir().unwrap();
    let settings = CutSettings {
        model: Some(model.display().to_string()),
        drop: Some("2".into()),
        repair: Some(repair("refit").unwrap()),
        data: Some(text.display().to_string()),
        samples: Some(64),
        seq_len: Some(128),
        out: Some(dir.path().join("out")),
        ..CutSettings::default()
    };
    let report = run(&settings);
    println!("{report}");
    let result = report.repair.unwrap().result.unwrap();
    let gain = result.cut - result.repaired;
    assert!(gain > 3.0 * result.change_stderr.unwrap() && gain > 0.3 * (result.cut - result.whole), "{result:?}");
}

/// A cut with linear maps: scored as it was judged, cut again with its maps under other numbers, spoken with, healed
/// through them, and told on its card; its sub-layers are not taken apart, and it is not repaired again.
#[test]
fn linear_maps_stand_behind_layers() {
    let desk = Desk::new();
    Llama { layers: 6, ..Llama::default() }.write(&desk.path("model"));
    let written = text(&desk.path(""));
    for (name, flags, shapes) in [
        ("operator", "", vec!["model.layers.1.seam_map.weight", "model.layers.2.seam_map.weight"]),
        (
            "reduced-rank",
            "--rank 3",
            vec!["model.layers.1.seam_map.expand.weight", "model.layers.2.seam_map.expand.weight"],
        ),
        ("patch", "", vec!["model.layers.1.seam_map.weight"]),
        ("patch-diagonal", "", vec!["model.layers.1.seam_map.weight"]),
    ] {
        let line = format!("cut model --drop 2,4 --repair {name} {flags} --data text.jsonl -o {name} --verify --json");
        let report = desk.json(&line);
        let result = &report["repair"]["result"];
        let loss = judged(&desk.path(name), &written);
        assert!((loss - result["repaired"].as_f64().unwrap()).abs() < 2e-5, "{name}: {loss} {result}");
        let config: Value = serde_json::from_slice(&fs::read(desk.path(name).join("config.json")).unwrap()).unwrap();
        assert_eq!(config["model_type"], "llama-seam-maps");
        let tensors =
            candle_core::safetensors::load(desk.path(name).join("model.safetensors"), &candle_core::Device::Cpu);
        let tensors = tensors.unwrap();
        assert!(shapes.iter().all(|name| tensors.contains_key(*name)), "{name}: {:?}", tensors.keys());
        let card = fs::read_to_string(desk.path(name).join("README.md")).unwrap();
        assert!(card.contains("No other program knows these maps") && !card.contains("from_pretrained"), "{card}");
    }
    // of layers 0, 1, 3, 5 with maps behind the second and the third
    let again = desk.json("cut operator --drop 0 -o again --verify --json");
    assert_eq!(again["layers"]["after"], 3);
    let config: Value = serde_json::from_slice(&fs::read(desk.path("again/config.json")).unwrap()).unwrap();
    assert_eq!(config["seam_maps"], json!({"0": "full", "1": "full"}));
    let less = desk.json("cut operator --drop attn:1 --format per-layer -o less --verify --json");
    assert_eq!(less["without"], json!({"1": ["attention"]}));
    desk.refused("cut operator --drop 1 --repair fold --data text.jsonl -o more", 2, &["seam_maps"]);
    for drop in ["attn:2", "mlp:2,attn:4"] {
        let line = format!("cut model --drop {drop} --format per-layer --repair operator --data text.jsonl --force");
        let report = desk.json(&format!("{line} -o parts --verify --json"));
        let loss = judged(&desk.path("parts"), &written);
        assert!((loss - report["repair"]["result"]["repaired"].as_f64().unwrap()).abs() < 2e-5, "{drop}: {report}");
    }
    desk.refused("cut model --drop 2 --repair fold --rank 3 --data text.jsonl -o x", 2, &["--rank", "reduced-rank"]);
    let healed = desk.json(
        "heal operator --data text.jsonl --eval-data text.jsonl --seq-len 16 --batch 2 --steps 4 --rank 2 -o healed \
         --json",
    );
    assert!(healed["result"]["measured"]["healed"].as_f64().is_some(), "{healed}");
    let model = Checkpoint::open_dir(&desk.path("healed/merged"));
    assert_eq!(model.unwrap().config["seam_maps"], json!({"1": "full", "2": "full"}));
    assert!(desk.run("sample operator --prompt w5 --tokens 5").status.success());
}
