//! The commands on a GPU: their outputs against those on the CPU.

use std::fs;
use std::path::Path;
use std::process::{Output, Stdio};

use prune::commands::analyze::{AnalyzeSettings, analyze};
use prune::commands::eval::eval;
use prune::commands::heal::heal;
use prune::eval::settings::EvalSettings;
use prune::heal::HealSettings;
use prune::progress::Silent;

use crate::fixture::Llama;
use crate::fixture::desk::Desk;
use crate::fixture::port::free_port;
use crate::gpu;

/// Documents of the fixture's words.
fn write_text(path: &Path, documents: usize) {
    let document = |index: usize| {
        let words: Vec<String> = (0..40).map(|i| format!("w{}", 3 + (index * 17 + i * i * 5 + i) % 60)).collect();
        serde_json::json!({"text": words.join(" ")}).to_string()
    };
    fs::write(path, (0..documents).map(|index| document(index) + "\n").collect::<String>()).unwrap();
}

fn text(path: &Path) -> String {
    path.to_str().unwrap().to_owned()
}

/// `analyze`, `eval` and `heal` with their defaults for a GPU, within the tolerance of bf16; `--dtype f32` to 1e-6.
#[test]
fn analyze_eval_and_heal() {
    // the commands settle the type themselves; this only asks for the GPU
    let Some(_gpu) = gpu("f32") else { return };
    let dir = tempfile::tempdir().unwrap();
    let (model, data) = (dir.path().join("model"), dir.path().join("text.jsonl"));
    Llama::default().write(&model);
    write_text(&data, 30);
    let analysis = |device: &str, dtype: Option<&str>| {
        let settings = AnalyzeSettings {
            model: Some(text(&model)),
            data: vec![text(&data)],
            layers: Some(1),
            device: Some(device.to_owned()),
            dtype: dtype.map(str::to_owned),
            memory: Some("1GiB".to_owned()),
            ..AnalyzeSettings::default()
        };
        let analysis = analyze(&settings, &Silent).unwrap().analysis.unwrap();
        analysis.scores.iter().flat_map(|scores| scores.mean.concat()).collect::<Vec<f64>>()
    };
    let expected = analysis("cpu", None);
    for (dtype, tolerance) in [(Some("f32"), 1e-6), (Some("bf16"), 1e-2), (None, 1e-2)] {
        let found = analysis("cuda:0", dtype);
        assert!(found.len() == expected.len() && found.len() > 20);
        for (found, expected) in found.iter().zip(&expected) {
            assert!((found - expected).abs() < tolerance, "{found} {expected}");
        }
    }

    let loss = |device: &str| {
        let settings = EvalSettings {
            model: Some(text(&model)),
            tasks: vec![format!("text:{}", text(&data))],
            device: Some(device.to_owned()),
            dtype: (device != "cpu").then(|| "f32".to_owned()),
            ..EvalSettings::default()
        };
        eval(&settings, &Silent).unwrap().figures[0].value
    };
    let (found, expected) = (loss("cuda"), loss("cpu"));
    assert!((found - expected).abs() < 1e-4 * expected, "{found} {expected}");

    let healed = |device: &str| {
        let out = dir.path().join(format!("healed-{}", device.replace(':', "")));
        let settings = HealSettings {
            model: Some(text(&model)),
            data: vec![text(&data)],
            eval_data: Some(text(&data)),
            out: Some(out.clone()),
            device: device.to_owned(),
            dtype: (device != "cpu").then(|| "f32".to_owned()),
            seq_len: Some(32),
            rank: 4.into(),
            steps: 6,
            batch: 3,
            eval_every: 2,
            save_every: 2,
            warmup: Some(0.0),
            lr: 1e-2,
            ..HealSettings::default()
        };
        let result = heal(&settings, &Silent).unwrap().result.unwrap();
        assert!(out.join("adapter/adapter_model.safetensors").exists() && out.join("merged/config.json").exists());
        (result.loss_before.unwrap(), result.best_loss.unwrap())
    };
    let (found, expected) = (healed("cuda"), healed("cpu"));
    assert!((found.0 - expected.0).abs() < 1e-4 && (found.1 - expected.1).abs() < 1e-3, "{found:?} {expected:?}");
    assert!(expected.1 < expected.0, "{expected:?}");
}

/// Two processes, each with the GPU of its number on its machine, heal to the bytes of one.
#[test]
fn processes_that_heal_together() {
    let Some(_gpu) = gpu("f32") else { return };
    let desk = Desk::new();
    let heal = |out: &str| {
        format!(
            "heal model --data text.jsonl --seq-len 8 --rank 2 --batch 6 --pass-tokens 8 --steps 3 --save-every 2 \
             --device cuda --dtype f32 --memory 1GiB --quiet -o {out}"
        )
    };
    let said = |output: Output| assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    said(desk.run(&heal("one")));
    let port = free_port().to_string();
    let start = |rank: &str| {
        let set = [("RANK", rank), ("LOCAL_RANK", rank), ("WORLD_SIZE", "2"), ("MASTER_ADDR", "localhost")];
        let mut command = desk.command(&heal("two"));
        command.envs(set).env("MASTER_PORT", &port).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    };
    for started in ["0", "1"].map(start) {
        said(started.wait_with_output().unwrap());
    }
    let adapter = |out: &str| fs::read(desk.path(out).join("adapter/adapter_model.safetensors")).unwrap();
    assert!(adapter("one") == adapter("two"));
}
