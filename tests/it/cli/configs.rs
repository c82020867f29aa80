//! Checkpoints and configs as others write them: what does not matter to the model is said and gone on with, what does
//! is refused before anything is sized by it.

use std::fs;

use safetensors::Dtype;
use serde_json::{Value, json};

use crate::fixture::desk::{Desk, read};
use crate::fixture::{Llama, Named, write_json, write_safetensors, write_weights};

/// A desk whose model has these tensors too.
fn with_tensors(more: &[(&str, Dtype, &[usize])]) -> Desk {
    let desk = Desk::new();
    let mut tensors = Llama::default().tensors();
    tensors.extend(more.iter().map(|(name, dtype, shape)| {
        let bytes = vec![0; shape.iter().product::<usize>() * dtype.bitsize() / 8];
        Named { name: (*name).to_owned(), dtype: *dtype, shape: shape.to_vec(), bytes }
    }));
    write_weights(&desk.path("model"), &tensors, 1);
    desk
}

/// Cuts layer 1 off; the warnings, and the new config.
fn cut(desk: &Desk) -> (String, Value) {
    let output = desk.run("cut model --drop 1 -o small --verify --force");
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{said}");
    (said, read(&desk.path("small/config.json")))
}

#[test]
fn an_index_that_is_wrong_about_what_nobody_needs() {
    let desk = Desk::new();
    let (model, index) = (desk.path("model"), desk.path("model/model.safetensors.index.json"));
    let mut tensors = Llama::default().tensors();
    tensors.push(Named { name: "mtp.fc.weight".into(), dtype: Dtype::F32, shape: vec![2], bytes: vec![0; 8] });
    fs::remove_file(model.join("model.safetensors")).unwrap();
    write_weights(&model, &tensors, 2);
    let good = read(&index);
    let mut omits = good.clone();
    omits["weight_map"].as_object_mut().unwrap().remove("mtp.fc.weight");
    let mut lists = good.clone();
    for extra in 0..5 {
        lists["weight_map"][format!("mtp.{extra}.weight")] = json!("model-00002-of-00002.safetensors");
    }
    for (written, words) in [
        (&good, vec![]),
        (&omits, vec!["tensor mtp.fc.weight of model-00002-of-00002.safetensors is not listed"]),
        (&lists, vec!["tensor mtp.0.weight is missing from", "and 2 more tensors like it"]),
    ] {
        write_json(&index, written);
        let (said, _) = cut(&desk);
        assert!(words.iter().all(|word| said.contains(word)) && (words.is_empty() == said.is_empty()), "{said}");
    }
    omits["weight_map"].as_object_mut().unwrap().remove("model.layers.3.mlp.up_proj.weight");
    write_json(&index, &omits);
    let output = desk.run("cut model --drop 1 -o smaller");
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(said.contains("error: ") && said.contains("model.layers.3.mlp.up_proj.weight of"), "{said}");
    assert!(!desk.path("smaller").exists());
}

#[test]
fn metadata_that_is_null() {
    let desk = Desk::new();
    let path = desk.path("model/model.safetensors");
    let bytes = fs::read(&path).unwrap();
    let (len, rest) = bytes.split_at(8);
    let (header, data) = rest.split_at(u64::from_le_bytes(len.try_into().unwrap()) as usize);
    let mut header: Value = serde_json::from_slice(header).unwrap();
    header["__metadata__"] = Value::Null;
    let header = header.to_string();
    fs::write(&path, [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), data].concat()).unwrap();
    assert_eq!(cut(&desk).0, "");
}

#[test]
fn numbers_that_only_python_writes() {
    let desk = Desk::new();
    let path = desk.path("model/config.json");
    let text = fs::read_to_string(&path).unwrap();
    let odd = "{\n  \"time_step_limit\": [\n    0.0,\n    Infinity\n  ],\n  \"best\": -Infinity, \
               \"note\": \"NaN, Infinity\",\n  \"loss\":NaN,";
    let text = text.replacen('{', odd, 1);
    fs::write(&path, &text).unwrap();
    let generation = desk.path("model/generation_config.json");
    fs::write(&generation, "{\"eos_token_id\": 2, \"max_time\": Infinity}").unwrap();
    let output = desk.run("cut model --drop 1 -o small --verify");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let written = fs::read_to_string(desk.path("small/config.json")).unwrap();
    assert_eq!(written, text.replace("\"num_hidden_layers\": 4", "\"num_hidden_layers\": 3"));
    // what is computed with cannot be one
    for number in ["Infinity", "-Infinity", "NaN"] {
        fs::write(&path, text.replace("\"rms_norm_eps\": 0.00001", &format!("\"rms_norm_eps\": {number}"))).unwrap();
        if fs::read_to_string(&path).unwrap() == text {
            fs::write(&path, text.replace("\"rms_norm_eps\": 1e-5", &format!("\"rms_norm_eps\": {number}"))).unwrap();
        }
        desk.refused("cut model --drop 1 -o other", 1, &["rms_norm_eps is ", number]);
    }
    fs::write(&path, text.replace("\"vocab_size\": 64", "\"vocab_size\": Infinit")).unwrap();
    desk.refused("cut model --drop 1 -o other", 1, &["config.json", "expected value"]);
}

#[test]
fn a_quantization_that_was_left_over() {
    let methods = [
        json!({"quant_method": "bitsandbytes", "load_in_4bit": false, "load_in_8bit": false}),
        json!({"quant_method": "bitsandbytes", "load_in_8bit": true}),
        json!({"quant_method": "bitsandbytes", "load_in_4bit": true}),
        json!({"quant_method": "fp8", "weight_block_size": [128, 128], "modules_to_not_convert": ["lm_head"]}),
        json!({"quant_method": "gptq", "bits": 4, "dynamic": {"-:model\\.layers\\.0\\..*": {}}}),
    ];
    for method in &methods {
        let desk = Desk::new();
        desk.config("quantization_config", method.clone());
        let (said, config) = cut(&desk);
        assert!(said.starts_with("warning: model: quantization_config in config.json was left over"), "{said}");
        assert!(config.get("quantization_config").is_none() && config["num_hidden_layers"] == json!(3));
        desk.json("analyze model --data text.jsonl --json");
    }
    for (name, dtype, words) in [
        ("q_proj.weight_scale_inv", Dtype::F32, ["method fp8", "delete quantization_config from config.json"]),
        ("q_proj.SCB", Dtype::F16, ["method fp8", "delete quantization_config from config.json"]),
        ("q_proj.qzeros", Dtype::I32, ["quantised by method", "full-precision"]),
    ] {
        let desk = with_tensors(&[(&format!("model.layers.0.self_attn.{name}"), dtype, &[4])]);
        desk.config("quantization_config", methods[3].clone());
        desk.refused("analyze model --data text.jsonl", 2, &words);
        desk.refused("sample model --prompt w5", 2, &words);
    }
    let desk = with_tensors(&[("model.layers.0.mlp.up_proj.SCB", Dtype::I8, &[24])]);
    desk.config("quantization_config", methods[1].clone());
    desk.refused("sample model --prompt w5", 2, &["bitsandbytes' eight bits", "full-precision"]);
    // a cut copies bytes, whatever they mean
    let report = desk.json("cut model --drop 1 -o small --verify --json");
    assert!(report["not_computed"].as_str().unwrap().contains("eight bits") && report["seams"].is_null());
}

#[test]
fn gptq_with_a_config_of_its_own() {
    let desk = Desk::new();
    let mut tensors = Llama::default().tensors();
    for tensor in tensors.iter_mut().filter(|tensor| tensor.name.ends_with("q_proj.weight")) {
        tensor.name = tensor.name.replace(".weight", ".qweight");
    }
    write_safetensors(&desk.path("model/model.safetensors"), &tensors);
    write_json(&desk.path("model/quantize_config.json"), &json!({"bits": 4, "group_size": 128}));
    desk.refused("analyze model --data text.jsonl", 2, &["qweight", "GPTQ or AWQ", "full-precision checkpoint"]);
    let report = desk.json("cut model --drop 1 -o small --verify --json");
    assert!(report["not_computed"].as_str().unwrap().contains("GPTQ or AWQ"));
}

#[test]
fn every_name_of_the_layer_count_follows_a_cut() {
    let desk = Desk::new();
    let counts = ["n_layers", "num_layers", "n_layer"];
    counts.iter().for_each(|key| desk.config(key, json!(4)));
    desk.config("num_decoder_layers", json!(7));
    desk.config("vision", json!({"num_layers": 4, "num_hidden_layers": 4}));
    let (_, config) = cut(&desk);
    assert!(counts.iter().all(|key| config[*key] == json!(3)), "{config}");
    assert_eq!((&config["num_decoder_layers"], &config["vision"]["num_layers"]), (&json!(7), &json!(4)));
    desk.run("cut model --drop 1 -o kept --allow-unsliced n_layers");
    assert_eq!(read(&desk.path("kept/config.json"))["n_layers"], json!(4));
}

#[test]
fn counts_are_looked_at_before_anything_is_sized_by_them() {
    let huge = [json!(100_000_000_000u64), json!(u64::MAX), json!(1e30), json!(-1), json!(0), json!("4")];
    let keys = [
        "num_hidden_layers",
        "hidden_size",
        "intermediate_size",
        "num_attention_heads",
        "num_key_value_heads",
        "head_dim",
        "vocab_size",
        "max_position_embeddings",
    ];
    for key in keys {
        for value in &huge {
            let desk = Desk::new();
            desk.config(key, value.clone());
            for line in ["cut model --drop 1 -o small", "analyze model --data text.jsonl", "sample model --prompt w5"] {
                let output = desk.run(line);
                let said = String::from_utf8_lossy(&output.stderr).into_owned();
                assert!(matches!(output.status.code(), Some(1 | 2)), "{key} {value}: {line}: {said}");
                assert!(said.contains(key) && !said.contains("panicked"), "{key} {value}: {line}: {said}");
            }
            assert!(!desk.path("small").exists());
        }
    }
    for (key, value) in [("num_nextn_predict_layers", json!(u64::MAX)), ("max_window_layers", json!(u64::MAX))] {
        let desk = Desk::new();
        desk.config(key, value);
        assert!(desk.run("cut model --drop 1 -o small").status.code().is_some_and(|code| code <= 2), "{key}");
    }
}
