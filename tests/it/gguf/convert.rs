//! Conversions: a GGUF file to a directory, and back, to the same numbers.

use std::fs;
use std::path::{Path, PathBuf};

use candle_core::Device;
use prune::checkpoint::Checkpoint;
use prune::commands::convert::{ConvertSettings, convert};
use prune::data::{Special, Tokenizer};
use prune::progress::Silent;

use super::{logits, recorded};
use crate::fixture::desk::Desk;
use crate::fixture::gguf::plain;

fn converted(model: &Path, to: &str, stored: Option<&str>, out: &Path) -> PathBuf {
    let settings = ConvertSettings {
        model: Some(model.display().to_string()),
        to: Some(to.to_owned()),
        r#type: stored.map(str::to_owned),
        out: Some(out.to_owned()),
        ..ConvertSettings::default()
    };
    let report = convert(&settings, &Silent).unwrap();
    assert_eq!((report.to, report.out.as_deref()), (to, Some(out)));
    out.to_owned()
}

#[test]
fn there_and_back_nothing_changes() {
    let dir = tempfile::tempdir().unwrap();
    let model = recorded("llama.gguf");
    let ids: Vec<u32> = (3..40).collect();
    let there = converted(&model, "safetensors", None, &dir.path().join("there"));
    assert!(logits(&there, &ids, None) == logits(&model, &ids, None));
    let back = converted(&there, "gguf", None, &dir.path().join("back"));
    assert!(logits(&back, &ids, None) == logits(&model, &ids, None));
    let open = |path: &Path| Checkpoint::open_dir(path).unwrap();
    let (one, other) = (open(&model), open(&back));
    assert_eq!(one.config, other.config);
    assert_eq!(one.tensors.keys().collect::<Vec<_>>(), other.tensors.keys().collect::<Vec<_>>());
    let tokenizers = [&one, &other].map(|checkpoint| Tokenizer::open(&checkpoint.source.dir).unwrap());
    for text in
        ["the end of it all", "There is  a \u{e9}t\u{e9} here.", " led\n111", "<|user|>the ends</s>", "\u{2603}"]
    {
        let ids = tokenizers.each_ref().map(|tokenizer| tokenizer.encode(text, Special::Default).unwrap());
        assert_eq!(ids[0], ids[1], "{text:?}");
    }
    let template = |checkpoint: &Checkpoint| fs::read(checkpoint.source.dir.join("chat_template.jinja")).unwrap();
    assert_eq!(template(&one), template(&other));
    // the same bytes again
    let again = converted(&there, "gguf", None, &dir.path().join("again"));
    assert!(fs::read(back.join("model.gguf")).unwrap() == fs::read(again.join("model.gguf")).unwrap());
}

#[test]
fn every_type_is_near_the_numbers() {
    let dir = tempfile::tempdir().unwrap();
    let model = recorded("llama.gguf");
    let name = "model.layers.1.mlp.down_proj.weight";
    let numbers = |path: &Path| -> Vec<f32> {
        let checkpoint = Checkpoint::open_dir(path).unwrap();
        let tensor = checkpoint.load_f32(name, &[64, 96], &Device::Cpu).unwrap();
        tensor.flatten_all().unwrap().to_vec1().unwrap()
    };
    let source = numbers(&model);
    let square = |numbers: &[f32]| numbers.iter().map(|number| f64::from(*number).powi(2)).sum::<f64>();
    // rows of 96 are no whole blocks of 256: those are in Q8_0
    for (stored, most) in
        [("F32", 0.0), ("F16", 1e-6), ("BF16", 1e-5), ("Q8_0", 1e-4), ("Q4_0", 1e-2), ("Q6_K", 1e-4), ("Q4_K", 1e-4)]
    {
        let out = converted(&model, "gguf", Some(stored), &dir.path().join(stored));
        let found = numbers(&out);
        let off: Vec<f32> = found.iter().zip(&source).map(|(one, other)| one - other).collect();
        let share = square(&off) / square(&source);
        assert!(share <= most, "{stored}: {share}");
    }
}

#[test]
fn what_cannot_be_converted_is_refused_before_it_starts() {
    let desk = Desk::bare();
    fs::copy(recorded("llama.gguf"), desk.path("llama.gguf")).unwrap();
    fs::write(desk.path("gpt2.gguf"), plain("gpt2", 2).bytes()).unwrap();
    desk.refused("convert gpt2.gguf -o no", 2, &["gpt2 of GGUF", "is not known"]);
    desk.refused("convert llama.gguf --type Q8_0 -o no", 2, &["--type Q8_0", "F32, F16 or BF16"]);
    let report = desk.json("convert llama.gguf --to gguf --type Q4_0 --dry-run --json");
    assert_eq!((&report["to"], &report["type"]), (&"gguf".into(), &"Q4_0".into()));
    desk.json("convert llama.gguf -o there --json");
    desk.refused("convert llama.gguf -o there", 2, &["there"]);
    fs::remove_file(desk.path("there/tokenizer.json")).unwrap();
    desk.refused("convert there --to gguf -o no", 2, &["tokenizer.json", "holds its tokenizer"]);
    assert!(!desk.path("no").exists());
}
