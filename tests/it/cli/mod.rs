//! The binary as a person or a script meets it: exit codes, one-line errors, nothing left behind.

mod configs;
#[cfg(unix)]
mod examples;
mod launched;
mod limits;
mod not_finite;
mod refused;
mod speech;
mod strangers;
mod torchrun;
mod wrong;

use std::fs;

use serde_json::{Value, json};

use crate::fixture::desk::{Desk, read};
use crate::fixture::{Head, Llama};

#[test]
fn analyze_then_cut() {
    let desk = Desk::new();
    let report = desk.json("analyze model --data text.jsonl --layers 2 -o a --csv scores.csv --json");
    for file in ["analysis.json", "heatmap.png", "heatmap.svg", "curves.png", "curves.svg"] {
        assert!(fs::metadata(desk.path("a").join(file)).unwrap().len() > 500, "{file}");
    }
    let analysis = read(&desk.path("a/analysis.json"));
    assert_eq!(report["analysis"]["plan"], analysis["plan"]);
    assert!(
        fs::read_to_string(desk.path("scores.csv")).unwrap().starts_with("metric,n,l,end,mean,stderr\nangular,1,0,0,")
    );

    let cut = desk.json("cut model --plan a/analysis.json -o small --verify --json");
    assert_eq!(cut["layers"], json!({"before": 4, "after": 2}));
    assert_eq!(read(&desk.path("small/config.json"))["num_hidden_layers"], json!(2));
    // the pruned model is a model like any other
    desk.json("analyze small --data text.jsonl --json");

    // another plan of the same scores needs no forward pass and equals a measurement's
    desk.json("analyze --from a/analysis.json --layers 3 --protect-last 1 -o b --json");
    desk.json("analyze model --data text.jsonl --layers 3 --protect-last 1 -o c --json");
    assert_eq!(read(&desk.path("b/analysis.json"))["plan"], read(&desk.path("c/analysis.json"))["plan"]);
}

#[test]
fn memory_and_threads_do_not_change_a_byte() {
    let desk = Desk::new();
    let roomy = desk.json("analyze model --data text.jsonl -o roomy --json");
    assert_eq!(roomy["pass"]["residency"], "resident");
    let tight = desk.json("analyze model --data text.jsonl -o tight --memory 65MiB --threads 1 --json");
    assert_eq!(tight["pass"]["residency"], "streamed");
    let bytes = |name: &str| fs::read(desk.path(name).join("analysis.json")).unwrap();
    assert!(bytes("roomy") == bytes("tight"));
    assert!(
        bytes("roomy") == {
            desk.json("analyze model --data text.jsonl -o again --json");
            bytes("again")
        }
    );
}

#[test]
fn a_config_file_and_flags() {
    let desk = Desk::new();
    fs::write(
        desk.path("a.toml"),
        "model = \"model\"\n[analyze]\nmodel = \"model\"\ndata = \"text.jsonl\"\nlayers = 1\n",
    )
    .unwrap();
    let report = desk.json("analyze --config a.toml --json");
    assert_eq!(report["analysis"]["plan"]["stack"].as_array().unwrap().len(), 3);
    let report = desk.json("analyze --config a.toml --layers 2 --json");
    assert_eq!(report["analysis"]["plan"]["stack"].as_array().unwrap().len(), 2);
    fs::write(desk.path("b.toml"), "[analyze]\nlayer = 1\n").unwrap();
    desk.refused("analyze --config b.toml", 2, &["b.toml", "layer"]);
}

#[test]
fn dry_runs_write_nothing() {
    let desk = Desk::new();
    let before = desk.names();
    let report = desk.json("analyze model --data text.jsonl -o a --dry-run --json");
    assert_eq!(report["pass"]["samples"], 12);
    desk.json("cut model --drop 1 -o b --dry-run --json");
    assert_eq!(desk.names(), before);
}

/// What a cap below the least says is the least: the same for any such cap, and enough.
#[test]
fn a_small_cap_is_told_what_would_do() {
    let desk = Desk::new();
    let line = |cap: &str| format!("analyze model --data text.jsonl --memory {cap}");
    let named = |cap: &str| {
        let said = String::from_utf8(desk.run(&line(cap)).stderr).unwrap();
        let (_, needed) = said.split_once("one pass take ").unwrap_or_else(|| panic!("{said}"));
        needed.split_whitespace().next().unwrap().parse::<u64>().unwrap()
    };
    let needed = named("1MiB");
    assert_eq!(named("40MiB"), needed);
    assert!(desk.run(&line(&format!("{}MiB", needed + 1))).status.success());
}

#[test]
fn wrong_requests() {
    let desk = Desk::new();
    fs::create_dir(desk.path("here")).unwrap();
    desk.refused("analyze nowhere --data text.jsonl", 2, &["nowhere"]);
    desk.refused("analyze model --data nothing.jsonl", 2, &["nothing.jsonl"]);
    desk.refused("analyze model", 2, &["--data"]);
    desk.refused("analyze model --data text.jsonl -o here", 2, &["here", "--force"]);
    desk.refused("analyze model --data text.jsonl --layers 4 -o a", 2, &["4"]);
    desk.refused("analyze model --data text.jsonl --fraction 1.5 -o a", 2, &["fraction", "1.5"]);
    desk.refused("analyze model --data text.jsonl --memory lots", 2, &["--memory", "lots"]);
    desk.refused("analyze model --data text.jsonl --memory 1MiB", 2, &["--memory", "too small"]);
    desk.refused("analyze model --data text.jsonl --text-field body", 2, &["text.jsonl", "body", "text"]);
    desk.refused("analyze model --data text.jsonl --threads 0", 2, &["--threads"]);
    desk.refused("cut model --drop 0-3 -o a", 2, &["at least one must stay"]);
    desk.refused("cut model --drop 4 -o a", 2, &["4", "0..=3"]);
    desk.refused("cut model --drop one -o a", 2, &["one"]);
    desk.refused("cut model --drop 1 -o here", 2, &["here", "--force"]);
    desk.config("model_type", json!("perceptron"));
    desk.config("architectures", json!(["PerceptronForever"]));
    desk.refused("analyze model --data text.jsonl", 2, &["perceptron", "llama", "qwen3"]);
}

#[test]
fn plans_of_another_model() {
    let desk = Desk::new();
    desk.json("analyze model --data text.jsonl --layers 1 -o a --json");
    Llama { layers: 5, ..Llama::default() }.write(&desk.path("other"));
    desk.refused("cut other --plan a/analysis.json -o b", 2, &["a/analysis.json", "other"]);
    fs::write(desk.path("broken.json"), "{\"format\": \"prune-analysis\", \"version\": 1").unwrap();
    desk.refused("cut model --plan broken.json -o b", 2, &["broken.json"]);
}

#[test]
fn broken_checkpoints() {
    let change = |line: &str, words: &[&str], break_it: &dyn Fn(&Desk)| {
        let desk = Desk::new();
        break_it(&desk);
        desk.refused(line, 1, words);
    };
    let analyze = "analyze model --data text.jsonl -o a";
    let weights = |desk: &Desk| desk.path("model/model.safetensors");
    change(analyze, &["model.safetensors"], &|desk| {
        let bytes = fs::read(weights(desk)).unwrap();
        fs::write(weights(desk), &bytes[..bytes.len() - 10]).unwrap();
    });
    change(analyze, &["num_hidden_layers is 3", "layer 3"], &|desk| desk.config("num_hidden_layers", json!(3)));
    change(analyze, &["hidden_size"], &|desk| desk.config("hidden_size", Value::Null));
    change(analyze, &["mlp.gate_proj", "[24, 16]", "[7, 16]"], &|desk| desk.config("intermediate_size", json!(7)));
    change(analyze, &["tokenizer.json"], &|desk| fs::write(desk.path("model/tokenizer.json"), "{}").unwrap());
    change(analyze, &["text.jsonl"], &|desk| fs::write(desk.path("text.jsonl"), "").unwrap());
    change(analyze, &["layers.2.mlp.up_proj.weight", "finite"], &|desk| {
        let model = Llama::default();
        let mut tensors = model.tensors();
        let tensor = tensors.iter_mut().find(|tensor| tensor.name.contains("2.mlp.up_proj")).unwrap();
        tensor.bytes[..4].copy_from_slice(&f32::NAN.to_le_bytes());
        crate::fixture::write_weights(&desk.path("model"), &tensors, 1);
    });
}

#[test]
fn every_head_of_the_family() {
    for head in [Head::Own, Head::Tied, Head::TiedHeadOnly] {
        let desk = Desk::new();
        Llama { head, ..Llama::default() }.write(&desk.path("m"));
        desk.json("analyze m --data text.jsonl --json");
        desk.json("cut m --drop 1-2 -o small --verify --json");
    }
}

#[test]
fn the_demo_extracts_and_runs() {
    let desk = Desk::new();
    desk.json("demo --extract atlas --json");
    assert!(desk.path("atlas/model/model.safetensors").exists());
    desk.refused("demo --extract atlas", 2, &["atlas", "--force"]);
    desk.refused("demo --extract model --force", 2, &["model", "stays"]);
    // a demo somebody has changed goes on from what is there
    fs::create_dir(desk.path("demo")).unwrap();
    fs::rename(desk.path("atlas"), desk.path("demo/atlas")).unwrap();
    let recipe = fs::read_to_string(desk.path("demo/atlas/recipe.toml")).unwrap();
    let changes = [
        ("layers = [2, 5, 8]", "layers = [4]"),
        ("samples = 128", "samples = 8"),
        ("eval_samples = 50", "eval_samples = 4"),
        ("steps = 20", "steps = 2"),
        ("batch = 8", "batch = 2"),
        ("limit = 100", "limit = 4"),
        ("tokens = 32", "tokens = 4"),
        ("repetitions = 3", "repetitions = 1"),
    ];
    let short = changes.iter().fold(recipe, |text, (long, short)| {
        assert!(text.contains(long), "{long}");
        text.replace(long, short)
    });
    fs::write(desk.path("demo/atlas/recipe.toml"), short).unwrap();
    let report = desk.json("demo -o demo --json");
    let data = &report["run"]["data"];
    assert_eq!(data["variants"].as_array().unwrap().len(), 4, "{data}");
    assert!(data["caveat"].as_str().unwrap().contains("stochastic depth"));
    // the reference: transformers in f32, distance between neighbours at the last layer
    let last = data["distances"]["mean"][0][15].as_f64().unwrap();
    assert!((last - 0.037).abs() < 1e-3, "{last}");
    assert!(desk.path("demo/run/report.html").exists());
}

#[test]
fn cut_heal_merge_eval() {
    let desk = Desk::new();
    desk.json("cut model --drop 1 -o small --json");
    let heal = "heal small --data text.jsonl --eval-data text.jsonl --seq-len 8 --rank 2 --steps 6 --batch 2 \
                --eval-every 3 --warmup 1 --lr 0.05 -o healed --json";
    let report = desk.json(heal);
    let result = &report["result"];
    assert!(result["best_loss"].as_f64().unwrap() < result["loss_before"].as_f64().unwrap(), "{result}");
    desk.json("merge small --adapter healed/adapter -o merged --json");
    let weights = |dir: &str| fs::read(desk.path(dir).join("model.safetensors")).unwrap();
    assert!(weights("merged") == weights("healed/merged"));
    assert!(weights("merged") != weights("small"));
    let loss = |model: &str| {
        let report = desk.json(&format!("eval {model} --tasks text:text.jsonl --json"));
        let figures = report["figures"].as_array().unwrap();
        figures.iter().find(|figure| figure["metric"] == "loss").unwrap()["value"].as_f64().unwrap()
    };
    assert!(loss("merged") < loss("small"));
    assert!((loss("small --adapter healed/adapter") - loss("merged")).abs() < 1e-5);
    let says = |model: &str| {
        desk.json(&format!("sample {model} --prompt w5 --tokens 5 --json"))["continuations"][0]["text"].clone()
    };
    assert_eq!(says("small --adapter healed/adapter"), says("merged"));
    desk.refused("sample model --adapter healed/adapter --prompt w5", 2, &["healed/adapter"]);
    desk.refused("eval model --adapter healed/adapter --tasks text:text.jsonl", 2, &["healed/adapter"]);
    desk.refused("eval small --adapter small --tasks text:text.jsonl", 2, &["adapter_config.json"]);
    desk.refused("merge model --adapter healed/adapter -o other", 2, &["healed/adapter"]);
    desk.refused("eval small --tasks riddles", 2, &["riddles"]);
    desk.refused("heal small --data text.jsonl --steps 0 -o none", 2, &["steps"]);
}
