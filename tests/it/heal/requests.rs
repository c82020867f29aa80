//! `prune heal` as a person meets it: what it refuses and why, what it finds done, and its other ways to train.

use std::fs;

use serde_json::{Value, json};

use crate::fixture::desk::{Desk, read};
use crate::fixture::{Llama, Named};
use crate::heal::shared::tensors;

const SMALL: &str = "--seq-len 8 --rank 2 --batch 2";

fn desk() -> Desk {
    let desk = Desk::new();
    desk.json("cut model --drop 1 -o small --json");
    desk
}

/// Loss of a model on the text, nats a token.
fn loss(desk: &Desk, model: &str) -> f64 {
    let report = desk.json(&format!("eval {model} --tasks text:text.jsonl --json"));
    let figures = report["figures"].as_array().unwrap();
    figures.iter().find(|figure| figure["metric"] == "loss").unwrap()["value"].as_f64().unwrap()
}

fn log(desk: &Desk, out: &str) -> Vec<Value> {
    let text = fs::read_to_string(desk.path(out).join("log.jsonl")).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// A finished run given again is told, not done again; other settings are named.
#[test]
fn what_is_finished_is_found() {
    let desk = desk();
    let heal = format!("heal small --data text.jsonl --eval-data text.jsonl {SMALL} --warmup 1 --steps 4 --json");
    let first = desk.json(&format!("{heal} --lr 0.05 -o healed"));
    let log = fs::read(desk.path("healed/log.jsonl")).unwrap();
    let again = desk.json(&format!("{heal} --lr 0.05 -o healed"));
    assert_eq!((&first["found"], &again["found"]), (&json!(false), &json!(true)));
    assert_eq!(again["result"], first["result"]);
    assert!(log == fs::read(desk.path("healed/log.jsonl")).unwrap(), "it was done again");

    desk.refused(&format!("{heal} --lr 0.1 -o healed"), 2, &["healed", "lr was 0.05, is 0.1", "--force"]);
    desk.refused(&format!("{heal} --lr 0.05 --save-4bit -o healed"), 2, &["save_4bit was false, is true", "--force"]);
    desk.refused(&format!("{heal} --lr 0.05 --restart -o healed"), 2, &["healed", "--force"]);
    desk.refused(&format!("{heal} --lr 0.05 -o small"), 2, &["small", "would replace its source"]);
    fs::remove_dir_all(desk.path("healed/merged")).unwrap();
    desk.refused(&format!("{heal} --lr 0.05 -o healed"), 2, &["merged", "--force"]);
    let forced = desk.json(&format!("{heal} --lr 0.1 -o healed --force"));
    assert_eq!(
        (&forced["found"], &read(&desk.path("healed/heal.json"))["settings"]["lr"]),
        (&json!(false), &json!(0.1))
    );
}

/// Text, adapters and settings that do not fit; nothing stays behind.
#[test]
fn what_does_not_fit_is_refused() {
    let desk = desk();
    let heal = format!("heal small --data text.jsonl {SMALL} --warmup 1 --steps 2 -o healed");
    desk.refused("heal small --data text.jsonl --seq-len 200 --steps 2 -o healed", 1, &["text.jsonl", "200"]);
    fs::write(desk.path("empty.jsonl"), "").unwrap();
    desk.refused("heal small --data empty.jsonl --seq-len 8 -o healed", 1, &["empty.jsonl"]);
    fs::write(desk.path("word.jsonl"), "{\"text\": \"\"}\n").unwrap();
    desk.refused(&format!("{heal} --eval-data word.jsonl"), 1, &["word.jsonl"]);
    desk.refused(&format!("{heal} --memory 1MiB"), 2, &["memory", "allowed are 1.0 MiB"]);
    desk.refused(&format!("{heal} --target q_proj,gate"), 2, &["gate", "gate_proj"]);
    desk.refused(&format!("{heal} --train lm-head+last4"), 2, &["lm-head+last4", "3 layers"]);
    let from = |adapter: &str| format!("{} --adapter {adapter}", heal.replace(" --rank 2", ""));
    desk.refused(&from("small"), 2, &["adapter_config.json"]);
    desk.json(&format!("heal model --data text.jsonl {SMALL} --steps 2 -o tall --adapter-only --json"));
    desk.refused(&from("tall/adapter"), 2, &["tall/adapter", "3 layers"]);
    Llama { vocab: 80, ..Llama::default() }.write(&desk.path("wordy"));
    desk.refused(&format!("{heal} --teacher wordy"), 2, &["teacher", "80", "64"]);
}

/// More tokens than the model was made for: a warning, and it goes on.
#[test]
fn long_sequences_are_warned_of() {
    let desk = desk();
    let config = desk.path("small/config.json");
    let mut short = read(&config);
    short["max_position_embeddings"] = json!(6);
    fs::write(&config, short.to_string()).unwrap();
    let output = desk.run(&format!("heal small --data text.jsonl {SMALL} --warmup 1 --steps 2 -o healed"));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    assert!(said.contains("warning: seq_len 8 is longer than the 6 positions"), "{said}");
}

/// Values that are not finite: the step and the layer are named, and the state before it is kept.
#[test]
fn values_that_are_not_finite() {
    let desk = desk();
    let heal = format!("heal small --data text.jsonl {SMALL} --steps 9 --warmup 0 --schedule constant -o healed");
    let said = desk.run(&format!("{heal} --lr 1e25"));
    let text = String::from_utf8_lossy(&said.stderr).into_owned();
    assert_eq!(said.status.code(), Some(1), "{text}");
    assert!(text.contains("step 2: layer 0 gives values that are not finite"), "{text}");
    assert!(text.contains("the state after step 1 is in healed.healing"), "{text}");
    assert!(desk.path("healed.healing/state.safetensors").exists());
    // that state goes on with the same settings only
    desk.refused(&format!("{heal} --lr 0.01"), 2, &["healed.healing", "lr was 1e+25, is 0.01", "--restart"]);
    desk.json(&format!("{heal} --lr 0.01 --restart --json"));
    assert!(!desk.path("healed.healing").exists());

    // a step that breaks the parameters themselves is not saved
    let output = desk.run(&format!("heal small --data text.jsonl {SMALL} --steps 9 --warmup 0 --lr 1e39 -o broken"));
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.code() == Some(1) && text.contains("step 1: ") && text.contains("lora_"), "{text}");
    assert!(!desk.path("broken.healing").exists());

    // broken weights
    let mut tensors = Llama { layers: 3, ..Llama::default() }.tensors();
    let weight = tensors.iter_mut().find(|tensor: &&mut Named| tensor.name.contains("1.mlp.up_proj")).unwrap();
    weight.bytes[..4].copy_from_slice(&f32::INFINITY.to_le_bytes());
    crate::fixture::write_weights(&desk.path("small"), &tensors, 1);
    desk.refused(
        &format!("heal small --data text.jsonl {SMALL} --quant none -o ill"),
        1,
        &["step 1: layer 1", "not finite"],
    );
    desk.refused(&format!("heal small --data text.jsonl {SMALL} -o ill"), 1, &["1.mlp.up_proj", "finite"]);
}

/// Head, final norm and the last layers whole: those change, nothing else does, and there is no adapter.
#[test]
fn the_last_layers_whole() {
    let desk = desk();
    let train = "--seq-len 8 --batch 2 --steps 6 --warmup 1 --lr 0.01 --train lm-head+last2";
    desk.json(&format!("heal small --data text.jsonl --eval-data text.jsonl {train} -o healed --json"));
    assert!(!desk.path("healed/adapter").exists());
    let weights = |dir: &str| tensors(desk.path(dir).join("model.safetensors"));
    let (before, after) = (weights("small"), weights("healed/merged"));
    for (name, tensor) in &before {
        let changed = crate::heal::shared::difference(tensor, &after[name]) > 0.0;
        let trained = ["lm_head", "model.norm", "layers.1.", "layers.2."].iter().any(|part| name.contains(part));
        assert_eq!(changed, trained, "{name}");
    }
    assert!(loss(&desk, "healed/merged") < loss(&desk, "small") - 0.1);
}

/// A model that learns from itself has nothing to learn; one that was cut comes closer to what it was.
#[test]
fn a_teacher() {
    let desk = desk();
    let own = format!("heal model --teacher model --teacher-weight 1 --data text.jsonl {SMALL} --steps 1 --quant none");
    desk.json(&format!("{own} --dropout 0 -o same --json"));
    let line = &log(&desk, "same")[0];
    assert!(line["loss"].as_f64().unwrap().abs() < 1e-6 && line["cross_entropy"].as_f64().unwrap() > 1.0, "{line}");
    assert!(line["grad_norm"].as_f64().unwrap() < 1e-5, "{line}");

    let cut = "heal small --teacher model --teacher-weight 1 --data text.jsonl --seq-len 8 --rank 8 --dropout 0";
    desk.json(&format!("{cut} --target all-linear --batch 8 --steps 60 --warmup 2 --lr 0.02 -o taught --json"));
    let lines = log(&desk, "taught");
    let divergence = |line: &Value| line["loss"].as_f64().unwrap();
    assert!(divergence(&lines[59]) < 0.5 * divergence(&lines[0]), "{} {}", lines[0], lines[59]);
}

/// The base in four bits that is written is the base that was trained on.
#[test]
fn the_base_in_four_bits() {
    let desk = desk();
    let text = "--data text.jsonl --eval-data text.jsonl --seq-len 16 --batch 2 --dropout 0";
    let report = desk.json(&format!(
        "heal small {text} --rank 2 --steps 6 --warmup 1 --lr 0.05 --save-4bit --keep-last -o healed --json"
    ));
    let before = &report["result"]["loss_before"];
    let after = log(&desk, "healed").iter().rev().find_map(|line| line.get("val_loss").cloned()).unwrap();
    // the loss that a healing of `model` starts from, to the bit
    let start = |model: &str, out: &str| {
        let report = desk.json(&format!("heal {model} {text} --quant none --steps 1 -o {out} --json"));
        report["result"]["loss_before"].clone()
    };
    assert_eq!(&start("healed/base-4bit", "a"), before);
    assert_eq!(start("healed/base-4bit --adapter healed/adapter", "b"), after);
    assert!((loss(&desk, "healed/base-4bit") - loss(&desk, "small")).abs() < 0.1);
    assert_ne!(&start("small", "c"), before);
    // the merged model has the adapter in the weights that were never rounded to four bits
    let merged = loss(&desk, "healed/merged");
    assert!((merged - loss(&desk, "small --adapter healed/adapter")).abs() < 1e-5);
    assert!((merged - loss(&desk, "healed/base-4bit --adapter healed/adapter")).abs() > 1e-5);
}

/// A dry run says what it would take. The operations are counted by hand: two for each weight a token meets.
#[test]
fn what_it_would_take() {
    let desk = desk();
    let dry = |words: &str| {
        let line = format!("heal model --data text.jsonl --seq-len 8 --rank 2 --batch 2 --dry-run {words}");
        desk.json(&format!("{line} --json"))["estimate"].clone()
    };
    // seven matrices of 1920 numbers, 256 for attention over 8 tokens and 640 on its way back, a head of 1024, four
    // layers with adapters of 240
    let lora = dry("--steps 10");
    assert_eq!(lora["flops_per_step"], json!(16.0 * f64::from(4 * (3840 + 256 + 3840 + 640) + 6 * 960 + 2 * 2048)));
    let whole = dry("--train lm-head+last2");
    assert_eq!(whole["flops_per_step"], json!(16.0 * f64::from(4 * 4096 + 2 * (3840 + 640 + 3840) + 3 * 2048)));
    assert!(lora["seconds"].as_f64().unwrap() > 0.0 && lora["memory"].as_u64().unwrap() > 0);
    // sixteen tokens enter four layers, or the two that are trained, as sixteen numbers each
    let spent = |estimate: &Value| {
        [&estimate["inputs"], &estimate["layers_kept"], &estimate["inputs_on_host"]].map(Value::clone)
    };
    assert_eq!(spent(&lora), [json!(4096), json!(4), json!(false)]);
    assert_eq!(spent(&whole), [json!(2048), json!(2), json!(false)]);
    let tight = dry("--steps 10 --memory 81MiB");
    assert!(tight["memory"].as_u64() <= Some(81 << 20), "{tight}");
    let said = desk.run("heal model --data text.jsonl --seq-len 8 --dry-run").stdout;
    let said = String::from_utf8_lossy(&said);
    assert!(said.contains("memory") && said.contains("disk") && said.contains("estimated"), "{said}");
    assert_eq!(desk.names(), ["model", "small", "text.jsonl"]);
}
