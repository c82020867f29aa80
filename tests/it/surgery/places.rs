//! Places that are more than a layer: less some sub-layers, with tensors made otherwise, twice, in another order.

use std::path::Path;
use std::sync::Arc;

use prune::arch::{ModelSpec, nas_mlp_size};
use prune::checkpoint::Checkpoint;
use prune::commands::analyze::{AnalyzeSettings, analyze};
use prune::commands::cut::{CutReport, CutSettings, cut};
use prune::model::{Batch, Budget, Cache, Loss, Model, ModelOptions, Observer};
use prune::plan::{Made, Place, Plan, PlannedFor, SubLayers, Term};
use prune::progress::Silent;
use serde_json::{Value, json};

use super::{drop_layers, files, json, open, settings};
use crate::fixture::Llama;
use crate::fixture::material::shared;

/// Widths that `block_configs` can say.
fn llama() -> Llama {
    Llama { layers: 5, mlp: 256, ..Llama::default() }
}

fn left_out(model: &Path, drop: &str, format: &str, out: &Path) -> CutReport {
    let (drop, format) = (Some(drop.to_owned()), Some(format.to_owned()));
    cut(&CutSettings { drop, format, ..settings(model, out) }, &Silent).unwrap()
}

fn model(dir: &Path) -> Model {
    Model::open(Arc::new(Checkpoint::open_dir(dir).unwrap()), &ModelOptions::default(), &Silent).unwrap()
}

/// The stream that leaves the last layer, of one sequence.
fn last_stream(dir: &Path) -> Vec<f32> {
    #[derive(Default)]
    struct Last(Vec<f32>);
    impl Observer for Last {
        fn residual(&mut self, _: usize, _: usize, x: &candle_core::Tensor) -> prune::Result<()> {
            self.0 = x.flatten_all()?.to_vec1()?;
            Ok(())
        }
    }
    let (mut last, ids) = (Last::default(), (0..21).map(|i| (i * 5 + 1) % 64).collect::<Vec<u32>>());
    model(dir).run(&[Batch::sequences(&[ids]).unwrap()], &mut last, "running", &Silent).unwrap();
    last.0
}

/// All formats compute the same; two of them save what is left out, one says so with zeros.
#[test]
fn formats_are_one_model() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    llama().write(&at("model"));
    let drop = "1,attn:2,mlp:3";
    let made = ["per-layer", "nas", "zeros"].map(|format| left_out(&at("model"), drop, format, &at(format)));
    for report in &made {
        assert_eq!((report.layers.before, report.layers.after, &report.dropped[..]), (5, 4, &[1][..]));
        assert_eq!(report.notations, None);
        // verified bit for bit, and every place behind one that lacks something is a joint
        let joints: Vec<usize> = report.seams.iter().flatten().map(|seam| seam.layer).collect();
        assert_eq!(joints, [1, 2, 3]);
    }
    let streams = ["per-layer", "nas", "zeros"].map(|format| last_stream(&at(format)));
    assert_eq!(streams[0], streams[1]);
    // a zero that is added changes no bit but a zero's sign
    assert_eq!(streams[0], streams[2]);
    assert_ne!(streams[0], last_stream(&at("model")));
    let [few, same, all] = made.map(|report| report.parameters.after);
    assert!(few == same && few < all, "{few} {same} {all}");
    let tensors = open(&at("per-layer")).index.tensors;
    assert!(!tensors.keys().any(|name| name.starts_with("model.layers.1.self_attn.")), "{tensors:?}");
    assert!(!tensors.contains_key("model.layers.1.input_layernorm.weight"));
    assert!(tensors.contains_key("model.layers.1.post_attention_layernorm.weight"));
    assert!(!tensors.keys().any(|name| name.starts_with("model.layers.2.mlp.")));

    let spec = |format: &str| ModelSpec::from_config(&open(&at(format)).config).unwrap();
    let none = SubLayers::default();
    let expected = [none, SubLayers { attention: true, ..none }, SubLayers { mlp: true, ..none }, none];
    assert_eq!(
        (spec("per-layer").without, spec("nas").without, spec("zeros").without),
        (expected.to_vec(), expected.to_vec(), vec![none; 4])
    );
}

/// What vLLM's, TensorRT-LLM's and llama.cpp's readers of `block_configs` ask for: both parts in every block, null
/// where there is nothing, the MLP's width by their formula, attention in the first layer.
#[test]
fn block_configs_are_what_their_readers_ask_for() {
    let dir = tempfile::tempdir().unwrap();
    let (source, out, again) = (dir.path().join("model"), dir.path().join("out"), dir.path().join("again"));
    let llama = llama();
    llama.write(&source);
    left_out(&source, "attn:1,mlp:3", "nas", &out);
    let config = json(&out.join("config.json"));
    assert_eq!(
        (&config["model_type"], &config["architectures"]),
        (&json!("nemotron-nas"), &json!(["DeciLMForCausalLM"]))
    );
    let spec = ModelSpec::from_config(&open(&source).config).unwrap();
    let tensors = open(&out).index.tensors;
    for (layer, block) in config["block_configs"].as_array().unwrap().iter().enumerate() {
        let (attention, ffn) = (&block["attention"], &block["ffn"]);
        let has = |part: &str| tensors.keys().any(|name| name.starts_with(&format!("model.layers.{layer}.{part}.")));
        assert_eq!(attention["no_op"], json!(!has("self_attn")));
        assert_eq!(ffn["no_op"], json!(!has("mlp")));
        assert_eq!((&attention["replace_with_linear"], &ffn["replace_with_linear"]), (&json!(false), &json!(false)));
        match attention["n_heads_in_group"].as_u64() {
            Some(group) => assert_eq!(spec.heads / group as usize, spec.kv_heads),
            None => assert_eq!(attention["no_op"], json!(true)),
        }
        match ffn["ffn_mult"].as_f64() {
            Some(factor) => assert_eq!(nas_mlp_size(factor, spec.hidden_size), Some(spec.mlp_size)),
            None => assert_eq!(ffn["no_op"], json!(true)),
        }
    }
    // what lacks something can be cut once more, layers and parts
    left_out(&out, "2,attn:4", "nas", &again);
    let without = ModelSpec::from_config(&open(&again).config).unwrap().without;
    let names: Vec<String> = without.iter().map(ToString::to_string).collect();
    assert_eq!(names, ["", "attention", "mlp", "attention"]);
    assert_eq!(
        json(&again.join("prune.json"))["without"],
        json!({"1": ["attention"], "2": ["mlp"], "3": ["attention"]})
    );
}

/// No keys and values are kept where there is no attention, and cached decoding is the whole pass all the same.
#[test]
fn a_cache_holds_what_attention_keeps() {
    let dir = tempfile::tempdir().unwrap();
    let (source, out) = (dir.path().join("model"), dir.path().join("out"));
    llama().write(&source);
    left_out(&source, "attn:0,attn:3", "per-layer", &out);
    let model = model(&out);
    let whole = ModelSpec::from_config(&open(&source).config).unwrap();
    assert_eq!(5 * Cache::bytes(model.spec(), 100), 3 * Cache::bytes(&whole, 100));
    let ids: Vec<u32> = (0..21).map(|i| (i * 5 + 1) % 64).collect();
    let mut cache = Cache::new(&model, 21).unwrap();
    let mut streams: Vec<f32> = Vec::new();
    for part in [&ids[..9], &ids[9..10], &ids[10..]] {
        streams.extend(model.extend(&mut cache, part).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap());
    }
    let expected = last_stream(&out);
    let far = streams.iter().zip(&expected).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    assert!(streams.len() == expected.len() && far < 1e-5, "{far}");
}

fn plan_of(dir: &Path, stack: Vec<Place>) -> Plan {
    let checkpoint = open(dir);
    let layers = ModelSpec::from_config(&checkpoint.config).unwrap().layers;
    let planned_for =
        PlannedFor { id: dir.display().to_string(), revision: None, fingerprint: checkpoint.fingerprint(), layers };
    Plan { planned_for, stack, why: serde_json::Map::new() }
}

fn by_plan(model: &Path, stack: Vec<Place>, out: &Path) -> prune::Result<CutReport> {
    let path = out.with_extension("plan.json");
    std::fs::write(&path, plan_of(model, stack).to_json().unwrap()).unwrap();
    cut(&CutSettings { plan: Some(path), ..settings(model, out) }, &Silent)
}

/// Layers come again, in another order, as copies of their bytes.
#[test]
fn layers_come_again() {
    let dir = tempfile::tempdir().unwrap();
    let (source, out) = (dir.path().join("model"), dir.path().join("out"));
    Llama { shards: 2, ..llama() }.write(&source);
    let stack = [0, 1, 2, 1, 2, 4].map(Place::of).to_vec();
    let report = by_plan(&source, stack.clone(), &out).unwrap();
    assert_eq!((report.layers.after, &report.dropped[..], report.notations), (6, &[3][..], None));
    let (ours, theirs) = (open(&out), open(&source));
    for (place, layer) in stack.iter().map(|place| place.layer).enumerate() {
        for (name, entry) in &theirs.index.tensors {
            let Some(within) = name.strip_prefix(&format!("model.layers.{layer}.")) else { continue };
            let copy = ours.index.entry(&format!("model.layers.{place}.{within}")).unwrap();
            let read = |checkpoint: &Checkpoint, entry| {
                let mut bytes = vec![0; checkpoint.index.entry(entry).unwrap().len as usize];
                checkpoint.index.read_range(checkpoint.index.entry(entry).unwrap(), 0, &mut bytes).unwrap();
                bytes
            };
            assert_eq!(read(&ours, &copy.name), read(&theirs, &entry.name), "{name}");
        }
    }
    let history = json(&out.join("prune.json"));
    assert_eq!(history["layers"], json!([0, 1, 2, 1, 2, 4]));
    let card = std::fs::read_to_string(out.join("README.md")).unwrap();
    assert!(card.contains("put together anew: 0, 1, 2, 1, 2, 4") && !card.contains("prune cut"), "{card}");
    assert_eq!(report.stack.as_deref(), Some("0, 1, 2, 1, 2, 4"));
    // and go again
    let report = drop_layers(&out, "3-4", &dir.path().join("again"));
    assert_eq!(report.layers.after, 4);
}

/// Every tensor of a layer, as the mean of those of its neighbours.
fn mean(model: &Path, layer: usize) -> Place {
    let term = |layer| Term { times: 0.5, of: Made::Layer(layer) };
    let made = Made::Sum(vec![term(layer - 1), term(layer + 1)]);
    let prefix = format!("model.layers.{layer}.");
    let checkpoint = open(model);
    let names = checkpoint.index.tensors.keys().filter_map(|name| Some(name.strip_prefix(&prefix)?.to_owned()));
    Place { made: names.map(|name| (name, made.clone())).collect(), ..Place::of(layer) }
}

fn numbers(dir: &Path, name: &str) -> Vec<f32> {
    let checkpoint = open(dir);
    let shape = checkpoint.index.entry(name).unwrap().shape.clone();
    let tensor = checkpoint.index.load_f32(name, &shape, &candle_core::Device::Cpu).unwrap();
    tensor.flatten_all().unwrap().to_vec1().unwrap()
}

/// Tensors are sums, products and stored ones, rounded once to the layer's own type.
#[test]
fn tensors_are_made_otherwise() {
    let dir = tempfile::tempdir().unwrap();
    let (source, out) = (dir.path().join("model"), dir.path().join("out"));
    llama().write(&source);
    let d = ModelSpec::from_config(&open(&source).config).unwrap().hidden_size;
    // twice the identity, in a file beside the plan
    let twice: Vec<f32> = (0..d * d).map(|i| if i % (d + 1) == 0 { 2.0 } else { 0.0 }).collect();
    let bytes: Vec<u8> = twice.iter().flat_map(|x| x.to_le_bytes()).collect();
    let view = safetensors::tensor::TensorView::new(safetensors::Dtype::F32, vec![d, d], &bytes).unwrap();
    safetensors::serialize_to_file([("T", view)], None, &dir.path().join("T.safetensors")).unwrap();

    let mut stack: Vec<Place> = (0..5).map(Place::of).collect();
    stack[2] = mean(&source, 2);
    let stored = Made::Stored { file: "T.safetensors".into(), tensor: "T".into() };
    let down = "mlp.down_proj.weight".to_owned();
    stack[3].made.insert(down.clone(), Made::Matmul(Box::new(stored), Box::new(Made::Layer(3))));
    stack[4].made.insert("self_attn.o_proj.weight".to_owned(), Made::Zeros);
    let report = by_plan(&source, stack, &out).unwrap();
    assert_eq!((report.layers.after, report.parameters.before), (5, report.parameters.after));

    let of = |dir: &Path, layer: usize, name: &str| numbers(dir, &format!("model.layers.{layer}.{name}"));
    for name in ["mlp.up_proj.weight", "input_layernorm.weight"] {
        let (below, above) = (of(&source, 1, name), of(&source, 3, name));
        let expected: Vec<f32> = below.iter().zip(&above).map(|(a, b)| 0.5 * a + 0.5 * b).collect();
        assert_eq!(of(&out, 2, name), expected, "{name}");
    }
    let expected: Vec<f32> = of(&source, 3, &down).iter().map(|x| 2.0 * x).collect();
    assert_eq!(of(&out, 3, &down), expected);
    assert!(of(&out, 4, "self_attn.o_proj.weight").iter().all(|x| *x == 0.0));
    let history = json(&out.join("prune.json"));
    assert_eq!(history["steps"][0]["stack"][3]["made"][&down]["matmul"][0]["stored"]["file"], "T.safetensors");
    assert_eq!(history["steps"][0]["stored"]["T.safetensors"].as_str().map(str::len), Some(64));
    // the same plan again, from another directory and into the same bytes
    let again = dir.path().join("again");
    let plan = Some(out.with_extension("plan.json"));
    cut(&CutSettings { plan, ..settings(&source, &again) }, &Silent).unwrap();
    assert_eq!(files(&again), files(&out));
}

/// What cannot be is refused before anything is written.
#[test]
fn what_cannot_be_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let (source, out) = (dir.path().join("model"), dir.path().join("out"));
    llama().write(&source);
    let with = |name: &str, made: Made| {
        let mut stack: Vec<Place> = (0..5).map(Place::of).collect();
        stack[1].made.insert(name.to_owned(), made);
        stack
    };
    let stored = |file: &str| Made::Stored { file: file.into(), tensor: "T".into() };
    for (stack, word) in [
        (with("mlp.dwn_proj.weight", Made::Zeros), "mlp.dwn_proj.weight"),
        (
            with("mlp.down_proj.weight", stored("nowhere.safetensors")),
            "nowhere.safetensors: the plan takes a tensor from this file, and it is no file",
        ),
        (
            with("mlp.down_proj.weight", Made::Matmul(Box::new(Made::Layer(1)), Box::new(Made::Layer(1)))),
            "do not go together",
        ),
    ] {
        let error = by_plan(&source, stack, &out).unwrap_err();
        assert!(error.exit_code() == 2 && error.to_string().contains(word), "{error}");
    }
    let refused = |drop: &str, format: Option<&str>| {
        let (drop, format) = (Some(drop.to_owned()), format.map(str::to_owned));
        let error = cut(&CutSettings { drop, format, ..settings(&source, &out) }, &Silent).unwrap_err();
        assert_eq!(error.exit_code(), 2, "{error}");
        error.to_string()
    };
    assert!(refused("attn:2", None).contains("--format zeros"));
    assert!(refused("attn:0-4", Some("zeros")).contains("no layer its attention"));
    assert!(refused("attn:0", Some("nas")).contains("attention in the first layer"));
    assert!(refused("attn:2", Some("gguf")).contains("per-layer, nas, zeros"));
    left_out(&source, "attn:2", "per-layer", &dir.path().join("once"));
    Llama { layers: 5, mlp: 250, ..Llama::default() }.write(&dir.path().join("odd"));
    for (model, drop, format, word) in [
        // zeros cannot say what other layers lack
        ("once", "attn:3", "zeros", "lack parts already"),
        ("once", "attn:2", "per-layer", "attention of layer 2, which has none"),
        ("odd", "attn:2", "nas", "no multiple of 256"),
    ] {
        let (drop, format) = (Some(drop.to_owned()), Some(format.to_owned()));
        let error = cut(&CutSettings { drop, format, ..settings(&dir.path().join(model), &out) }, &Silent).unwrap_err();
        assert!(error.exit_code() == 2 && error.to_string().contains(word), "{error}");
    }
    assert!(!out.exists());
}

/// A layer without attention is analysed as any other: its block has a distance, its removal a loss.
#[test]
fn what_lacks_attention_is_analyzed() {
    let dir = tempfile::tempdir().unwrap();
    let (source, out) = (dir.path().join("model"), dir.path().join("out"));
    prune::pico::write(&source).unwrap();
    left_out(&source, "attn:1", "per-layer", &out);
    let text = dir.path().join("text.txt");
    std::fs::write(&text, "w3 w1 w4 w1 w5 w9 w2 w6 w5 w3 w5 w8 w9 w7 w9").unwrap();
    let settings = AnalyzeSettings {
        model: Some(out.display().to_string()),
        data: vec![text.display().to_string()],
        layers: Some(1),
        ..AnalyzeSettings::default()
    };
    assert!(analyze(&settings, &Silent).unwrap().analysis.unwrap().plan.is_some());
    // what looks at every part does not find them
    for dry_run in [true, false] {
        let metrics = vec!["sublayer-loss".to_owned()];
        let error = analyze(&AnalyzeSettings { metrics, dry_run, ..settings.clone() }, &Silent).unwrap_err();
        assert!(error.exit_code() == 2 && error.to_string().contains("layer 1 of this model has no attention"));
    }
}

/// Losses of the demo's model without single sub-layers, and with a layer made of its neighbours, against the
/// reference's: golden/methods/README.md, sections 1 and 11.
#[test]
fn losses_are_the_references() {
    let Some(golden) = shared("golden/methods/losses.json") else { return };
    let demo = shared("demo/model").unwrap();
    let inputs = json(&golden.with_file_name("inputs.json"));
    let ids: Vec<Vec<u32>> = serde_json::from_value(inputs["rows"]["ids"].clone()).unwrap();
    let loss = |dir: &Path| {
        let options = ModelOptions { budget: Budget::new(None), ..ModelOptions::default() };
        let model = Model::open(Arc::new(Checkpoint::open_dir(dir).unwrap()), &options, &Silent).unwrap();
        Loss::total(&model.losses(&ids, 512, "loss", &Silent).unwrap()).mean()
    };
    let close = |what: &str, found: f64, expected: &Value, within: f64| {
        let expected = expected.as_f64().unwrap();
        assert!((found - expected).abs() < within, "{what}: {found} {expected}");
    };
    let dir = tempfile::tempdir().unwrap();
    let single = &json(&golden)["leave_one_sublayer_out"];
    for (index, part) in [(0, "attn:0"), (9, "mlp:4"), (30, "attn:15")] {
        let out = dir.path().join(index.to_string());
        left_out(&demo, part, "per-layer", &out);
        close(part, loss(&out), &single[index], 1e-5);
    }
    // the reference keeps what it makes in f32, we in the model's bf16
    let neighbors = &json(&golden.with_file_name("insertion.json"))["neighbour_mean_loss"];
    let mut stack: Vec<Place> = (0..16).map(Place::of).collect();
    stack[5] = mean(&demo, 5);
    let out = dir.path().join("mean");
    by_plan(&demo, stack, &out).unwrap();
    close("mean", loss(&out), &neighbors[5], 2e-4);
}
