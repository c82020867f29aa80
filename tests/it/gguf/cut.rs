//! The cut of a GGUF file: the bytes of its tensors, whatever they are, and every key as it should be.

use std::fs;
use std::path::Path;

use prune::checkpoint::Checkpoint;
use prune::commands::cut::{CutReport, CutSettings, cut};
use prune::progress::Silent;
use serde_json::json;

use super::{logits, recorded};
use crate::fixture::desk::Desk;
use crate::fixture::gguf::{Gguf, plain};

fn drop_of(model: &Path, drop: &str, out: &Path) -> prune::Result<CutReport> {
    let settings = CutSettings {
        model: Some(model.display().to_string()),
        drop: Some(drop.to_owned()),
        out: Some(out.to_owned()),
        verify: true,
        ..CutSettings::default()
    };
    cut(&settings, &Silent)
}

#[test]
fn a_cut_is_the_file_that_was_never_longer() {
    let dir = tempfile::tempdir().unwrap();
    let (model, out) = (dir.path().join("m.gguf"), dir.path().join("out"));
    let mut whole = plain("gpt2", 6);
    whole.alignment = 64;
    whole = whole.u32("general.alignment", 64);
    fs::write(&model, whole.bytes()).unwrap();
    let report = drop_of(&model, "1-2,4", &out).unwrap();
    // the same by hand: layers 0, 3 and 5, whose tensors stand in the same order
    let mut expected = whole.clone();
    let number =
        |name: &str| name.strip_prefix("blk.").map(|rest| rest.split('.').next().unwrap().parse::<usize>().unwrap());
    expected.tensors.retain(|tensor| number(&tensor.name).is_none_or(|layer| [0, 3, 5].contains(&layer)));
    for tensor in &mut expected.tensors {
        if let Some(layer) = number(&tensor.name) {
            let place = [0, 3, 5].iter().position(|kept| *kept == layer).unwrap();
            tensor.name = tensor.name.replacen(&format!("blk.{layer}."), &format!("blk.{place}."), 1);
        }
    }
    for (key, _, bytes) in &mut expected.pairs {
        match key.as_str() {
            "gpt2.block_count" => *bytes = 3_u32.to_le_bytes().to_vec(),
            "gpt2.attention.head_count" => {
                let values: Vec<Vec<u8>> = [1_u32, 4, 6].iter().map(|value| value.to_le_bytes().to_vec()).collect();
                *bytes = crate::fixture::gguf::list(4, &values);
            }
            _ => {}
        }
    }
    assert!(fs::read(out.join("m.gguf")).unwrap() == expected.bytes());
    assert_eq!((report.layers.after, report.shards[0].file.as_str()), (3, "m.gguf"));
    let edits: Vec<String> = report.config.iter().map(ToString::to_string).collect();
    assert_eq!(edits, ["gpt2.block_count: 6 -> 3", "gpt2.attention.head_count: 6 entries -> 3 entries"]);
    assert_eq!(report.identical.unwrap().tensors, 10);
    assert!(report.not_computed.unwrap().contains("gpt2 of GGUF"));
    // and it can be cut again, its history going on
    let again = dir.path().join("again");
    drop_of(&out, "1", &again).unwrap();
    let history: serde_json::Value = serde_json::from_slice(&fs::read(again.join("prune.json")).unwrap()).unwrap();
    assert_eq!((&history["layers"], history["steps"].as_array().unwrap().len()), (&json!([0, 5]), 2));
}

#[test]
fn a_cut_model_computes_what_the_kept_layers_do() {
    let dir = tempfile::tempdir().unwrap();
    let (model, out) = (recorded("llama.gguf"), dir.path().join("out"));
    let report = drop_of(&model, "1-2", &out).unwrap();
    assert_eq!((report.seams.unwrap().len(), report.not_computed), (1, None));
    let ids: Vec<u32> = (3..40).collect();
    let open = |path: &Path, places| logits(path, &ids, places);
    assert!(open(&out, None) == open(&model, Some(vec![0, 3])));
    // of two containers the same numbers
    let other = dir.path().join("other");
    let settings = CutSettings {
        model: Some(model.display().to_string()),
        drop: Some("1-2".to_owned()),
        out: Some(other.clone()),
        to: Some("safetensors".to_owned()),
        verify: true,
        ..CutSettings::default()
    };
    cut(&settings, &Silent).unwrap();
    assert!(open(&other, None) == open(&out, None));
    for name in ["config.json", "tokenizer.json", "chat_template.jinja", "model.safetensors", "prune.json"] {
        assert!(other.join(name).is_file(), "{name}");
    }
}

#[test]
fn what_a_number_means_is_heeded() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("out");
    let refused = |file: &Gguf, drop: &str, word: &str| {
        let model = dir.path().join("m.gguf");
        fs::write(&model, file.bytes()).unwrap();
        let error = drop_of(&model, drop, &out).unwrap_err();
        assert!(error.exit_code() == 2 && error.to_string().contains(word), "{error}");
        assert!(!out.exists());
    };
    refused(&plain("gemma2", 6), "2", "one of 2 layers");
    refused(&plain("glm4moe", 6).u32("glm4moe.nextn_predict_layers", 1), "5", "beyond the next");
    refused(&plain("t5", 2).numbers("enc.blk.0.attn_q.weight", &[8]), "1", "second stack");
    refused(&plain("gemma3n", 6).numbers("per_layer_token_embd.weight", &[8]), "1", "parts of all layers");
    refused(&plain("gpt2", 6), "attn:2", "sub-layers");
    let model = dir.path().join("m.gguf");
    fs::write(&model, plain("gemma2", 6).bytes()).unwrap();
    drop_of(&model, "2-3", &out).unwrap();
    fs::write(&model, plain("deepseek2", 6).u32("deepseek2.leading_dense_block_count", 2).bytes()).unwrap();
    let dense = drop_of(&model, "1,3", &dir.path().join("dense")).unwrap();
    let edits: Vec<String> = dense.config.iter().map(ToString::to_string).collect();
    assert!(edits.contains(&"deepseek2.leading_dense_block_count: 2 -> 1".to_owned()), "{edits:?}");
    assert_eq!(Checkpoint::open_dir(&dir.path().join("dense")).unwrap().config["num_hidden_layers"], 4);
}

#[test]
fn the_program_takes_a_file_where_it_takes_a_directory() {
    let desk = Desk::bare();
    fs::copy(recorded("llama.gguf"), desk.path("llama.gguf")).unwrap();
    fs::write(desk.path("text.txt"), "the end of it all and the others there. ".repeat(80)).unwrap();
    desk.json("analyze llama.gguf --data text.txt --seq-len 32 --layers 1 -o analysis --json");
    desk.json("cut llama.gguf --plan analysis/analysis.json -o cut --json");
    assert_eq!(desk.json("eval cut --tasks text:text.txt --json")["model"], "cut");
    desk.json("sample llama.gguf --prompt the --tokens 4 --json");
    desk.refused("cut llama.gguf --drop 1 --repair average -o no", 2, &["a GGUF file keeps them"]);
    desk.refused("cut llama.gguf --drop 1 --format zeros -o no", 2, &["--format", "--to safetensors"]);
    desk.refused("analyze nothing.gguf --data text.txt", 2, &["nothing.gguf: no such"]);
    fs::write(desk.path("no.gguf"), b"GGUFGGUF").unwrap();
    desk.refused("cut no.gguf --drop 1 -o no", 1, &["no.gguf", "too few for a header"]);
}
