//! Latent attention beyond what every family is held to: streamed, cut, healed, in FP8 as DeepSeek-V3 is stored.

use std::fs;
use std::sync::Arc;

use prune::arch::{Latent, ModelSpec};
use prune::checkpoint::Checkpoint;
use prune::model::{Cache, LoadOptions, Model, ModelOptions, Residency};
use prune::progress::Silent;
use safetensors::Dtype;
use serde_json::{Map, Value, json};

use super::mixtures::{ids, stream, write};
use crate::fixture::desk::Desk;
use crate::fixture::{Named, write_json, write_weights};

fn config(patch: Value) -> Map<String, Value> {
    let mut config = json!({
        "model_type": "deepseek_v3", "architectures": ["DeepseekV3ForCausalLM"], "hidden_size": 32,
        "intermediate_size": 48, "num_attention_heads": 4, "num_key_value_heads": 4, "num_hidden_layers": 4,
        "vocab_size": 64, "max_position_embeddings": 256, "q_lora_rank": 24, "kv_lora_rank": 16, "qk_nope_head_dim": 8,
        "qk_rope_head_dim": 4, "v_head_dim": 8, "n_routed_experts": 6, "num_experts_per_tok": 2, "n_shared_experts": 1,
        "moe_intermediate_size": 16, "first_k_dense_replace": 1, "n_group": 1, "topk_group": 1,
        "tie_word_embeddings": false, "bos_token_id": 1, "eos_token_id": 2,
    });
    config.as_object_mut().unwrap().extend(patch.as_object().unwrap().clone());
    config.as_object().unwrap().clone()
}

fn with_tokenizer(desk: &Desk, name: &str) {
    for file in ["tokenizer.json", "tokenizer_config.json"] {
        fs::copy(desk.path("model").join(file), desk.path(name).join(file)).unwrap();
    }
}

/// Layers read one after the other give the same bytes, in four bits as well; a cache holds keys and values of heads.
#[test]
fn deepseek_is_streamed_to_the_same_bytes() {
    let dir = tempfile::tempdir().unwrap();
    let spec = write(dir.path(), &config(json!({})));
    let widths = Latent { q_rank: Some(24), kv_rank: 16, unrotated: 8, rotated: 4, value: 8 };
    assert_eq!((spec.latent, spec.head_dim, spec.kv_heads), (Some(widths), 12, 4));
    assert_eq!(spec.without_gpu_kernel(), Some("has latent attention"));
    let checkpoint = Arc::new(Checkpoint::open_dir(dir.path()).unwrap());
    for four_bit in [None, Some(true)] {
        let streams = [Residency::Resident, Residency::Streamed].map(|residency| {
            let load_options = LoadOptions { four_bit, ..LoadOptions::default() };
            let options = ModelOptions { load_options, residency: Some(residency), ..ModelOptions::default() };
            stream(&Model::open(checkpoint.clone(), &options, &Silent).unwrap(), &[&ids(60), &ids(7)])
        });
        assert_eq!(streams[0], streams[1]);
    }
    assert_eq!(Cache::bytes(&spec, 10), 2 * 4 * 4 * 10 * 4 * 12);
}

/// Each key that latent attention reads is named where it makes no sense.
#[test]
fn what_latent_attention_cannot_be_is_refused() {
    for (patch, code, said) in [
        (json!({"num_key_value_heads": 2}), 2, "num_key_value_heads is 2 of 4 heads"),
        (json!({"kv_lora_rank": 0}), 1, "kv_lora_rank is 0"),
        (json!({"qk_rope_head_dim": 3}), 1, "3 would be rotated"),
        (json!({"v_head_dim": "a"}), 1, "v_head_dim is \"a\""),
        (json!({"moe_layer_freq": 2}), 2, "moe_layer_freq is 2"),
        (json!({"model_type": "deepseek_v2", "topk_method": "noaux_tc"}), 2, "topk_method is \"noaux_tc\""),
        (json!({"model_type": "deepseek_v2", "norm_topk_prob": true}), 2, "norm_topk_prob is true"),
        (json!({"model_type": "deepseek_v2", "num_experts_per_tok": null}), 1, "num_experts_per_tok is missing"),
        (json!({"n_group": 4}), 1, "n_group is 4"),
    ] {
        let error = ModelSpec::from_config(&config(patch.clone())).unwrap_err();
        assert!(error.to_string().contains(said) && error.exit_code() == code, "{patch}: {error}");
    }
    let usual = json!({"model_type": "deepseek_v3", "num_attention_heads": 2, "num_key_value_heads": null});
    let mut spare = config(usual);
    for key in ["q_lora_rank", "kv_lora_rank", "qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim"] {
        spare.shift_remove(key);
    }
    let spec = ModelSpec::from_config(&spare).unwrap();
    let widths = Latent { q_rank: Some(1536), kv_rank: 512, unrotated: 128, rotated: 64, value: 128 };
    assert_eq!((spec.latent, spec.head_dim, spec.rope.rotary_dim), (Some(widths), 192, 64));
}

/// What works on any mixture works on one with latent attention.
#[test]
fn commands_on_deepseek() {
    let desk = Desk::new();
    write(&desk.path("v3"), &config(json!({"num_hidden_layers": 5})));
    with_tokenizer(&desk, "v3");
    let healed = "heal v3 --data text.jsonl --steps 2 --batch 2 --seq-len 16 --rank 2";
    for line in [
        "analyze v3 --data text.jsonl --samples 6 --layers 1 -o analysis --json",
        &*format!("{healed} --target attention -o a"),
        &*format!("{healed} --target q_a_proj,kv_b_proj -o b"),
        &*format!("{healed} --quant none --train lm-head+last1 -o c"),
        "cut v3 --drop 1-2 --repair streamline --data text.jsonl -o d",
        "cut v3 --drop attn:3,mlp:2 --format zeros --verify -o e",
        "cut v3 --drop attn:3 --format per-layer --verify -o f",
        "grow v3 --after 2 --by copy -o h",
        "sample v3 --prompt the --tokens 5",
    ] {
        let output = desk.run(line);
        assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
    }
    desk.refused(&format!("{healed} --target k_proj -o i"), 2, &["target k_proj", "kv_a_proj_with_mqa"]);
    desk.refused("cut v3 --drop 2 --repair refit --data text.jsonl -o g", 2, &["experts with one each"]);
    desk.refused("convert v3 --to gguf -o v3.gguf", 2, &["deepseek_v3"]);
}

/// The number of a code of E4M3.
fn e4m3(code: u8) -> f32 {
    let (exponent, fraction) = (i32::from(code >> 3 & 15), f32::from(code & 7));
    let size = if exponent == 0 { fraction * 2f32.powi(-9) } else { (8.0 + fraction) * 2f32.powi(exponent - 10) };
    if code >= 128 { -size } else { size }
}

/// Blocks of codes with a scale each, as DeepSeek-V3 is stored, also where the last rows fill none: `convert` writes
/// the numbers that they stand for, and a pass over the codes is one over these.
#[test]
fn deepseek_in_fp8_is_what_its_codes_stand_for() {
    const BLOCK: usize = 16;
    let desk = Desk::new();
    let config = config(json!({"torch_dtype": "bfloat16"}));
    let spec = ModelSpec::from_config(&config).unwrap();
    let (mut plain, mut coded, mut seed) = (Vec::new(), Vec::new(), 1u32);
    let mut next = || {
        seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (seed >> 24) as u8
    };
    let table = vec![spec.vocab_size, spec.hidden_size];
    let mut shapes = vec![(spec.embedding.to_owned(), table.clone()), (spec.head.to_owned(), table)];
    shapes.extend(spec.end_tensors());
    let outer = shapes.into_iter().map(|(name, shape)| (name, shape, false));
    let inner = (0..spec.layers).flat_map(|layer| spec.layer_tensors(layer));
    let inner = inner.map(|tensor| (tensor.name, tensor.shape, tensor.role.is_linear()));
    for (name, shape, is_coded) in outer.chain(inner).collect::<Vec<_>>() {
        let numbers: usize = shape.iter().product();
        // exponents that are neither lost nor large
        let codes: Vec<u8> = (0..numbers).map(|_| next() & 0x87 | (3 + next() % 4) << 3).collect();
        let width = shape.last().copied().unwrap_or(1);
        let (down, across) = (shape[0].div_ceil(BLOCK), width.div_ceil(BLOCK));
        let scales: Vec<f32> = (0..down * across).map(|_| 2f32.powi(1 - i32::from(next() % 3))).collect();
        let number = |at: usize| match is_coded {
            true => e4m3(codes[at]) * scales[at / width / BLOCK * across + at % width / BLOCK],
            false => e4m3(codes[at]),
        };
        let bytes = (0..numbers).flat_map(|at| half::bf16::from_f32(number(at)).to_le_bytes()).collect();
        let own = Named { name: name.clone(), dtype: Dtype::BF16, shape: shape.clone(), bytes };
        if is_coded {
            coded.push(Named { name: name.clone(), dtype: Dtype::F8_E4M3, shape, bytes: codes });
            let bytes = scales.iter().flat_map(|scale| scale.to_le_bytes()).collect();
            let (name, shape) = (format!("{name}_scale_inv"), vec![down, across]);
            coded.push(Named { name, dtype: Dtype::F32, shape, bytes });
        } else {
            coded.push(own.clone());
        }
        plain.push(own);
    }
    let rows = coded.iter().find(|own| own.name.ends_with("kv_a_proj_with_mqa.weight_scale_inv")).unwrap();
    assert_eq!(rows.shape, [2, 2], "20 rows are no whole blocks");
    let quantized = json!({"quantization_config": {
        "quant_method": "fp8", "fmt": "e4m3", "activation_scheme": "dynamic", "weight_block_size": [BLOCK, BLOCK],
    }});
    let mut stored = config.clone();
    stored.extend(quantized.as_object().unwrap().clone());
    for (name, config, tensors) in [("plain", config, &plain), ("coded", stored, &coded)] {
        fs::create_dir(desk.path(name)).unwrap();
        write_json(&desk.path(name).join("config.json"), &Value::Object(config));
        write_weights(&desk.path(name), tensors, 1);
        with_tokenizer(&desk, name);
    }
    desk.json("convert coded -o decoded --json");
    let [decoded, plain] = ["decoded", "plain"].map(|name| Checkpoint::open_dir(&desk.path(name)).unwrap());
    assert_eq!(decoded.index.tensors.keys().collect::<Vec<_>>(), plain.index.tensors.keys().collect::<Vec<_>>());
    for (name, entry) in &plain.index.tensors {
        let own = decoded.index.entry(name).unwrap();
        assert_eq!(own.dtype, entry.dtype, "{name}");
        assert!(decoded.index.read(own).unwrap() == plain.index.read(entry).unwrap(), "{name}");
    }
    let [own, expected] = ["coded", "plain"].map(|name| desk.run(&format!("sample {name} --prompt w3 --tokens 8")));
    assert!(own.status.success(), "{}", String::from_utf8_lossy(&own.stderr));
    assert_eq!(own.stdout, expected.stdout);
}
