//! Mixtures of experts: one tensor of all experts and a tensor each are the same numbers, both ways.

use std::path::Path;

use prune::checkpoint::Checkpoint;
use serde_json::{Map, Value, json};

use super::logits;
use crate::arch::mixtures as random;
use crate::fixture::desk::Desk;
use crate::fixture::write_json;

/// A small mixture of each family that llama.cpp has.
fn mixtures() -> Vec<(&'static str, Map<String, Value>)> {
    let of = |patch: Value| {
        let mut config = json!({
            "hidden_size": 64, "intermediate_size": 32, "num_attention_heads": 4, "num_key_value_heads": 2,
            "head_dim": 16, "num_hidden_layers": 4, "vocab_size": 64, "max_position_embeddings": 256,
            "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "tie_word_embeddings": false, "num_experts_per_tok": 2,
        });
        config.as_object_mut().unwrap().extend(patch.as_object().unwrap().clone());
        config.as_object().unwrap().clone()
    };
    vec![
        (
            "llama",
            of(json!({"model_type": "mixtral", "architectures": ["MixtralForCausalLM"], "num_local_experts": 4})),
        ),
        (
            "qwen2moe",
            of(json!({"model_type": "qwen2_moe", "architectures": ["Qwen2MoeForCausalLM"], "num_experts": 5,
                "moe_intermediate_size": 32, "shared_expert_intermediate_size": 64, "norm_topk_prob": false})),
        ),
        (
            "qwen3moe",
            of(json!({"model_type": "qwen3_moe", "architectures": ["Qwen3MoeForCausalLM"], "num_experts": 6,
                "moe_intermediate_size": 32, "norm_topk_prob": true})),
        ),
        ("olmoe", of(json!({"model_type": "olmoe", "architectures": ["OlmoeForCausalLM"], "num_experts": 6}))),
        (
            "granitemoe",
            of(json!({"model_type": "granitemoe", "architectures": ["GraniteMoeForCausalLM"], "num_local_experts": 5,
                "embedding_multiplier": 12.0, "residual_multiplier": 0.25, "attention_multiplier": 0.125,
                "logits_scaling": 8.0})),
        ),
    ]
}

fn write(dir: &Path, config: &Map<String, Value>) {
    random::write(dir, config);
    let vocab: Map<String, Value> = (0..64).map(|id| (format!("w{id}"), json!(id))).collect();
    let bpe = json!({"type": "BPE", "byte_fallback": true, "unk_token": "w0", "vocab": vocab, "merges": []});
    write_json(&dir.join("tokenizer.json"), &json!({"version": "1.0", "added_tokens": [], "model": bpe}));
}

#[test]
fn there_and_back_no_expert_is_another() {
    let ids: Vec<u32> = (0..40).map(|at| (at * 7 + 3) % 64).collect();
    for (arch, config) in mixtures() {
        let desk = Desk::bare();
        write(&desk.path("whole"), &config);
        let whole = logits(&desk.path("whole"), &ids, None);
        desk.json("convert whole --to gguf --type F32 -o file --json");
        let file = desk.path("file/model.gguf");
        assert!(logits(&file, &ids, None) == whole, "{arch}");
        desk.json("convert file/model.gguf -o back --json");
        assert!(logits(&desk.path("back"), &ids, None) == whole, "{arch}");
        let [there, back] = ["whole", "back"].map(|name| Checkpoint::open_dir(&desk.path(name)).unwrap());
        assert_eq!(there.tensors.keys().collect::<Vec<_>>(), back.tensors.keys().collect::<Vec<_>>());
        // its cut, block for block, is the cut of the directory
        desk.json("cut file/model.gguf --drop 1-2 -o shorter --verify --json");
        desk.json("cut whole --drop 1-2 -o cut --json");
        assert!(logits(&desk.path("shorter"), &ids, None) == logits(&desk.path("cut"), &ids, None), "{arch}");
        for stored in ["Q8_0", "Q4_0"] {
            desk.json(&format!("convert whole --to gguf --type {stored} -o {stored} --json"));
            let coarse = logits(&desk.path(stored), &ids, None);
            assert!(coarse.iter().all(|number| number.is_finite()) && coarse != whole, "{arch} {stored}");
        }
    }
}

#[test]
fn what_llama_cpp_computes_otherwise_is_refused() {
    for (arch, mut config) in mixtures().into_iter().skip(1).take(3) {
        let desk = Desk::bare();
        let normed = config.get("norm_topk_prob") == Some(&json!(true));
        config.insert("norm_topk_prob".into(), json!(!normed));
        write(&desk.path("whole"), &config);
        desk.refused("convert whole --to gguf --dry-run", 2, &["scores are", arch]);
    }
    let (_, mut config) = mixtures().remove(2);
    let desk = Desk::bare();
    config.insert("mlp_only_layers".into(), json!([1]));
    write(&desk.path("whole"), &config);
    desk.refused("convert whole --to gguf --dry-run", 2, &["some layers have no experts"]);
}
