//! A mixture of experts takes memory for a few of its experts at a time, and gives the bytes that it gives in memory.

use std::fs;

use prune::arch::ModelSpec;
use prune::checkpoint::Checkpoint;
use prune::model::{Budget, ModelOptions, Placement, Residency};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use safetensors::Dtype;
use serde_json::json;

use crate::fixture::desk::{Desk, lasting_files};
use crate::fixture::{random, write_json, write_weights};
use crate::run;

/// Twenty experts of 1.5 MiB in each of four layers, 30 MiB a layer.
fn write(desk: &Desk) {
    let config = json!({
        "model_type": "qwen3_moe", "architectures": ["Qwen3MoeForCausalLM"], "hidden_size": 256,
        "intermediate_size": 512, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 64,
        "num_hidden_layers": 4, "vocab_size": 64, "max_position_embeddings": 256, "num_experts": 20,
        "num_experts_per_tok": 2, "moe_intermediate_size": 512, "norm_topk_prob": true, "tie_word_embeddings": true,
        "bos_token_id": 1, "eos_token_id": 2,
    });
    let spec = ModelSpec::from_config(config.as_object().unwrap()).unwrap();
    let dir = desk.path("moe");
    fs::create_dir(&dir).unwrap();
    write_json(&dir.join("config.json"), &config);
    let table = ("model.embed_tokens.weight".to_owned(), vec![spec.vocab_size, spec.hidden_size]);
    let layers = (0..spec.layers).flat_map(|layer| spec.layer_tensors(layer)).map(|own| (own.name, own.shape));
    let mut rng = ChaCha8Rng::seed_from_u64(3);
    let all = std::iter::once(table).chain(spec.end_tensors()).chain(layers);
    let tensors: Vec<_> = all.map(|(name, shape)| random(&mut rng, name, &shape, Dtype::F32)).collect();
    write_weights(&dir, &tensors, 1);
    for file in ["tokenizer.json", "tokenizer_config.json"] {
        fs::copy(desk.path("model").join(file), dir.join(file)).unwrap();
    }
}

/// The cap leaves no room for a layer, and the peak stays below it; without a cap all layers are there.
#[test]
fn experts_are_read_when_tokens_are_sent_to_them() {
    let desk = Desk::new();
    write(&desk);
    let heal = "heal moe --data text.jsonl --steps 2 --batch 2 --seq-len 16 --rank 2 --target all-linear";
    for (quant, less) in [("none", 100), ("nf4", 10)] {
        let heal = format!("{heal} --quant {quant}");
        let whole = desk.json(&format!("{heal} -o dry --dry-run --json"));
        let bytes = |report: &serde_json::Value| report["estimate"]["memory"].as_u64().unwrap() >> 20;
        assert_eq!(whole["estimate"]["experts_on_disk"], false, "{quant}");
        let cap = bytes(&whole) - less;
        let dry = desk.json(&format!("{heal} -o dry --dry-run --json --memory {cap}MiB"));
        assert_eq!(dry["estimate"]["experts_on_disk"], true, "{quant}");
        assert!(bytes(&dry) <= cap, "{quant}: {} {cap}", bytes(&dry));
        let ends = [
            (format!("{heal} -o whole-{quant}"), u64::MAX),
            (format!("{heal} -o by-expert-{quant} --memory {cap}MiB"), cap),
        ];
        let peaks = ends.map(|(line, most)| {
            let end = run(&desk, &line);
            assert_eq!(end.code, Some(0), "{line}: {}", end.said);
            assert!(end.peak <= most, "{line}: {} of {most} MiB", end.peak);
            end.peak
        });
        assert!(peaks[1] + less / 2 < peaks[0], "{quant}: {peaks:?} MiB");
        let [whole, by_expert] =
            ["whole", "by-expert"].map(|name| lasting_files(&desk.path(&format!("{name}-{quant}"))));
        // cards and histories name the command
        let weights: Vec<_> = whole.iter().filter(|(name, _)| name.ends_with(".safetensors")).collect();
        assert!(weights.len() > 1 && whole.keys().eq(by_expert.keys()));
        for (name, bytes) in weights {
            assert!(*bytes == by_expert[name], "{quant}: {name}");
        }
    }
    desk.refused(&format!("{heal} -o a --quant none --memory 82MiB"), 2, &["at least", "allowed are 82"]);
}

/// Passes go layer by layer where two layers fit, and by expert where they do not, in less memory each time and to the
/// same figures.
#[test]
fn passes_read_experts_where_layers_do_not_fit() {
    let desk = Desk::new();
    write(&desk);
    let checkpoint = Checkpoint::open_dir(&desk.path("moe")).unwrap();
    let spec = ModelSpec::from_config(&checkpoint.config).unwrap();
    // the least with which each way is taken, from the largest down
    let mut ways: Vec<(Residency, u64)> = Vec::new();
    for half in (130..800).rev() {
        let cap = half << 19;
        let options = ModelOptions { budget: Budget::new(Some(cap)), ..ModelOptions::default() };
        let Ok(found) = Placement::new(&checkpoint, &spec, &[0, 1, 2, 3], &options) else { break };
        match ways.last_mut().filter(|(residency, _)| *residency == found.residency) {
            Some((_, least)) => *least = cap,
            None => ways.push((found.residency, cap)),
        }
    }
    let names: Vec<Residency> = ways.iter().map(|(residency, _)| *residency).collect();
    let [resident, streamed] = [Residency::Resident, Residency::Streamed];
    assert_eq!(names, [resident, streamed, Residency::ExpertsStreamed, Residency::StreamedByExpert], "{ways:?}");
    let line = "eval moe --tasks text:text.jsonl --limit 3 --json";
    let mut figures = Vec::new();
    for (residency, cap) in &ways {
        let line = format!("{line} --memory {}KiB", cap >> 10);
        let report = desk.json(&line);
        assert_eq!(report["passes"]["residency"], serde_json::to_value(residency).unwrap(), "{line}");
        figures.push(report["figures"].clone());
        let end = run(&desk, &line);
        assert!(end.code == Some(0) && end.peak <= cap >> 20, "{line}: {} MiB {}", end.peak, end.said);
    }
    assert!(figures[0].is_array() && figures.iter().all(|own| *own == figures[0]), "{figures:?}");
    desk.refused(&format!("{line} --memory 66MiB"), 2, &["--memory: 66 MiB is too small", "weights and one pass take"]);
}
