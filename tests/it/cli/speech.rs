//! `sample`, `bench`, `doctor` and `completions` as a person or a script meets them.

use std::fs;
use std::process::Command;
use std::sync::Arc;

use candle_core::Tensor;
use prune::checkpoint::Checkpoint;
use prune::model::{Batch, Model, ModelOptions, Observer, SamplingParams};
use prune::progress::Silent;
use serde_json::{Value, json};

use super::Desk;

#[test]
fn a_model_speaks() {
    let desk = Desk::new();
    desk.json("demo --extract atlas --json");
    desk.json("cut atlas/model --drop 9-12 -o small --json");
    let said =
        |more: &str| desk.json(&format!("sample atlas/model --prompt moon {more} --json"))["continuations"].clone();
    let greedy = said("--tokens 20");
    assert_eq!(
        (&greedy[0]["tokens"], &greedy[0]["ended"], &greedy[0]["layers"]),
        (&json!(20), &json!("length"), &json!(16))
    );
    assert!(greedy[0]["text"].as_str().unwrap().split_whitespace().count() > 5, "{greedy}");
    // the shape of the draw, and its seed
    let text = |more: &str| said(&format!("--tokens 20 {more}"))[0]["text"].clone();
    for same in ["--top-k 1 --seed 4", "--temperature 0", "--top-p 0.000001", "--temperature 0.0001"] {
        assert_eq!(text(same), greedy[0]["text"], "{same}");
    }
    assert_eq!(text("--temperature 1 --seed 4"), text("--temperature 1 --seed 4"));
    assert_ne!(text("--temperature 1 --seed 4"), text("--temperature 1 --seed 5"));
    assert_ne!(text("--top-k 50 --top-p 0.95 --seed 4"), text("--top-k 50 --top-p 0.95 --seed 5"));
    // beside the cut model's; the same texts where the layers are read for every token
    let both = said("--tokens 20 --against small");
    assert_eq!((&both[0]["text"], &both[1]["layers"]), (&greedy[0]["text"], &json!(12)));
    assert_ne!(both[0]["text"], both[1]["text"]);
    assert_eq!(text("--memory 68MiB --threads 1"), greedy[0]["text"]);
    // an end of text ends it, and what came before is what is printed
    let whole = said("--tokens 200");
    assert_eq!(whole[0]["ended"], json!("end_of_text"), "{whole}");
    let printed = String::from_utf8(desk.run("sample atlas/model --prompt moon --tokens 200").stdout).unwrap();
    assert_eq!(printed.trim_end(), format!("moon{}", whole[0]["text"].as_str().unwrap()).trim_end());
    desk.refused("sample atlas/model --prompt moon --tokens 0", 2, &["--tokens"]);
    desk.refused("sample atlas/model --prompt moon --temperature -1", 2, &["--temperature -1"]);
    desk.refused("sample atlas/model --prompt moon --temperature 0 --top-k 3", 2, &["--temperature 0"]);
    desk.refused("sample atlas/model --prompt moon --top-k 0", 2, &["--top-k"]);
    desk.refused("sample atlas/model --prompt moon --top-p 1.5", 2, &["--top-p 1.5"]);
    desk.refused("sample atlas/model --prompt moon --memory 1MiB", 2, &["--memory", "tokenizer.json"]);
    desk.refused("sample atlas/model --prompt moon --against nowhere", 2, &["nowhere"]);
}

/// Greedy text is what passes over the whole sequence find likeliest, token by token.
#[test]
fn greedy_text_is_the_likeliest() {
    struct Last(Option<Tensor>);
    impl Observer for Last {
        fn residual(&mut self, _: usize, _: usize, x: &Tensor) -> prune::Result<()> {
            self.0 = Some(x.clone());
            Ok(())
        }
    }
    let desk = Desk::new();
    let checkpoint = Arc::new(Checkpoint::open_dir(&desk.path("model")).unwrap());
    let model = Model::open(checkpoint, &ModelOptions::default(), &Silent).unwrap();
    let prompt = vec![1, 9, 12];
    let found = model.generate(&prompt, 20, &[], &SamplingParams::default(), &mut |_| Ok(())).unwrap();
    let mut ids = prompt.clone();
    for _ in 0..20 {
        let mut last = Last(None);
        model.run(&[Batch::sequences(&[&ids]).unwrap()], &mut last, "test", &Silent).unwrap();
        let x = last.0.unwrap().narrow(0, ids.len() - 1, 1).unwrap();
        ids.push(model.logits(&x).unwrap().squeeze(0).unwrap().argmax(0).unwrap().to_scalar().unwrap());
    }
    assert_eq!(found.ids, ids[prompt.len()..]);
    // it ends before the first of the end tokens
    let end = found.ids[7];
    let first = found.ids.iter().position(|id| *id == end).unwrap();
    let ended = model.generate(&prompt, 20, &[end], &SamplingParams::default(), &mut |_| Ok(())).unwrap();
    assert_eq!(ended.ids, found.ids[..first]);
}

#[test]
fn speed_is_measured() {
    let desk = Desk::new();
    desk.json("cut model --drop 1 -o small --json");
    let report = desk.json("bench small --against model --tokens 4 --repetitions 3 --prompt-tokens 40 --json");
    for (key, layers) in [("model", 3), ("against", 4)] {
        let bench = &report[key];
        assert_eq!(bench["layers"], json!(layers));
        for figure in ["prompt_tokens_per_second", "first_token_seconds", "tokens_per_second"] {
            let at = |which: &str| bench[figure][which].as_f64().unwrap();
            assert!(0.0 < at("min") && at("min") <= at("median") && at("median") <= at("max"), "{bench}");
        }
        assert!(bench["peak_memory_bytes"].as_u64().unwrap() > bench["weight_bytes"].as_u64().unwrap());
    }
    assert!(report["model"]["parameters"].as_u64() < report["against"]["parameters"].as_u64());
    let alone = String::from_utf8(desk.run("bench model --tokens 2 --repetitions 1").stdout).unwrap();
    // what the context of 256 leaves
    assert!(alone.contains("a prompt of 254 tokens, 2 new ones") && !alone.contains("ratio"), "{alone}");
    desk.refused("bench model --tokens 1", 2, &["--tokens 1"]);
    desk.refused("bench model --repetitions 0", 2, &["--repetitions 0"]);
    desk.refused("bench model --against nowhere", 2, &["nowhere"]);
}

#[test]
fn the_doctor_and_the_completions() {
    let desk = Desk::new();
    let doctor = |more: &[(&str, &str)]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_prune"));
        command.args(["doctor", "--json"]).env("HF_HOME", desk.path("hf")).envs(more.iter().copied()).output().unwrap()
    };
    let healthy = doctor(&[("HF_TOKEN", "hf_secret"), ("HF_HUB_OFFLINE", "1")]);
    assert!(healthy.status.success());
    let said = [healthy.stdout.clone(), healthy.stderr].concat();
    assert!(!String::from_utf8(said).unwrap().contains("hf_secret"));
    let report: Value = serde_json::from_slice(&healthy.stdout).unwrap();
    assert!(report["flops"].as_f64().unwrap() > 1e6 && report["weight_bytes_per_second"].as_f64().unwrap() > 1e6);
    assert!(report["memory_free"].as_u64() < report["memory_bounds"][0]["total"].as_u64());
    assert_eq!((&report["hub"]["has_token"], &report["hub"]["offline"]), (&json!(true), &json!(true)));
    assert!(report["warnings"].to_string().contains("HF_HUB_OFFLINE"));
    // what is broken is said, and fails
    fs::write(desk.path("hf"), "a file where the cache should be").unwrap();
    let broken = doctor(&[]);
    let report: Value = serde_json::from_slice(&broken.stdout).unwrap();
    assert_eq!((broken.status.code(), report["broken"].as_array().unwrap().len()), (Some(1), 1), "{report}");
    for shell in ["bash", "elvish", "fish", "powershell", "zsh"] {
        let script = String::from_utf8(desk.run(&format!("completions {shell}")).stdout).unwrap();
        assert!(script.contains("prune") && script.contains("against") && script.contains("doctor"), "{shell}");
    }
    desk.refused("completions bash --config recipe.toml", 2, &["recipe.toml", "no settings"]);
}
