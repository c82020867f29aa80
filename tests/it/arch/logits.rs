//! Logits, before and after a cut, whole and with a cache.

use std::sync::Arc;

use candle_core::{DType, Device, Tensor};
use candle_transformers::models::llama;
use prune::checkpoint;
use prune::model::{Batch, Cache, LayerGradients, Model, ModelOptions, Residency, WantedGradients};
use prune::progress::Silent;
use serde_json::{Value, json};

use super::cases::{Case, cases, read};
use super::forward::{Last, equals_transformers, logits, worst};

#[test]
fn logits_are_those_of_transformers_before_and_after_a_cut() {
    equals_transformers(&Device::Cpu);
}

/// Each setting moves the logits of its fixture by far more than the tolerance: a fixture that could not tell whether
/// a setting was read would prove nothing about it.
#[test]
fn fixtures_tell_settings_apart() {
    let with = |object: Value, more: Value| {
        let both = [object, more].into_iter().flat_map(|value| value.as_object().unwrap().clone());
        Value::Object(both.collect())
    };
    let stretch = |trained: usize, more: Value| {
        let yarn = json!({"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": trained});
        with(yarn, more)
    };
    let yarn = |more: Value| with(read::<Case>("deepseek_v2").config["rope_scaling"].clone(), more);
    let mscale = |more: Value| with(read::<Case>("llama-yarn-mscale").config["rope_parameters"].clone(), more);
    for (name, patch) in [
        ("llama", json!({"rope_theta": 20000.0})),
        ("llama-biases", json!({"rope_parameters": {"rope_theta": 10000.0}})),
        ("llama-linear", json!({"rope_scaling": null})),
        ("llama-dynamic", json!({"rope_scaling": null})),
        ("llama-dynamic", json!({"max_position_embeddings": 20})),
        ("llama3-old", json!({"rope_scaling": null})),
        ("llama-yarn", json!({"rope_scaling": stretch(32, json!({}))})),
        ("llama-yarn", json!({"rope_scaling": stretch(16, json!({"attention_factor": 1.0}))})),
        ("llama-yarn", json!({"rope_scaling": stretch(16, json!({"beta_slow": 0.25}))})),
        ("llama-yarn-mscale", json!({"rope_parameters": mscale(json!({"truncate": true}))})),
        ("llama-yarn-mscale", json!({"rope_parameters": mscale(json!({"mscale": null}))})),
        ("llama-yarn-mscale", json!({"rope_parameters": mscale(json!({"beta_fast": 2}))})),
        ("mistral", json!({"sliding_window": 6})),
        ("mistral", json!({"sliding_window": 8})),
        ("ministral", json!({"layer_types": vec!["sliding_attention"; 4]})),
        ("qwen2", json!({"use_sliding_window": true})),
        ("qwen2-window", json!({"max_window_layers": 3})),
        ("qwen2-yarn-listed", json!({"layer_types": null})),
        ("qwen3-window", json!({"max_window_layers": 2})),
        ("phi3", json!({"sliding_window": null})),
        ("phi3-long", json!({"original_max_position_embeddings": 64})),
        ("phi3-su", json!({"max_position_embeddings": 16})),
        ("smollm3", json!({"no_rope_layer_interval": 2})),
        ("smollm3", json!({"use_sliding_window": false})),
        ("smollm3-listed", json!({"no_rope_layers": [1, 0, 1, 1]})),
        ("internlm3", json!({"max_position_embeddings": 32})),
        ("granite", json!({"embedding_multiplier": 2.5})),
        ("granite", json!({"residual_multiplier": 0.5})),
        ("granite", json!({"attention_multiplier": 0.3})),
        ("granite", json!({"logits_scaling": 2.0})),
        ("mixtral", json!({"num_experts_per_tok": 3})),
        ("mixtral", json!({"sliding_window": null})),
        ("qwen3_moe", json!({"norm_topk_prob": false})),
        ("qwen3_moe", json!({"num_experts_per_tok": 2})),
        ("qwen3_moe-window", json!({"norm_topk_prob": true})),
        ("qwen3_moe-window", json!({"use_sliding_window": false})),
        ("qwen2_moe", json!({"num_experts_per_tok": 1})),
        ("olmoe", json!({"norm_topk_prob": true})),
        ("dots1", json!({"routed_scaling_factor": 1.0})),
        ("dots1", json!({"norm_topk_prob": false})),
        ("granitemoe", json!({"residual_multiplier": 0.5})),
        ("granitemoe", json!({"num_experts_per_tok": 1})),
        ("glm4_moe", json!({"topk_group": 1})),
        ("glm4_moe", json!({"topk_group": 4})),
        ("glm4_moe", json!({"n_group": 2})),
        ("glm4_moe", json!({"partial_rotary_factor": 1.0})),
        ("glm4_moe", json!({"norm_topk_prob": false})),
        ("deepseek_v2", json!({"topk_method": "greedy"})),
        ("deepseek_v2", json!({"routed_scaling_factor": 1.0})),
        ("deepseek_v2", json!({"rope_scaling": yarn(json!({"mscale_all_dim": 0.707}))})),
        ("deepseek_v2", json!({"rope_scaling": yarn(json!({"mscale": 1.2}))})),
        ("deepseek_v2", json!({"rope_scaling": null})),
        ("deepseek_v2-lite", json!({"num_experts_per_tok": 2})),
        ("deepseek_v2-lite", json!({"rms_norm_eps": 1e-6})),
        ("deepseek_v3", json!({"topk_group": 4})),
        ("deepseek_v3", json!({"n_group": 2})),
        ("deepseek_v3", json!({"norm_topk_prob": false})),
        ("deepseek_v3", json!({"rope_interleave": false})),
        ("deepseek_v3-plain", json!({"rope_interleave": true})),
        ("deepseek_v3-plain", json!({"norm_topk_prob": true})),
        ("ernie4_5_moe", json!({"moe_k": 1})),
        ("ernie4_5_moe-steps", json!({"rope_theta": 100.0})),
        ("gpt_oss", json!({"swiglu_limit": 7.0})),
        ("gpt_oss", json!({"swiglu_alpha": 1.0})),
        ("gpt_oss", json!({"sliding_window": 6})),
        ("gpt_oss", json!({"num_experts_per_tok": 1})),
        ("gpt_oss", json!({"layer_types": ["full_attention", "full_attention", "full_attention", "full_attention"]})),
        ("gpt_oss", json!({"rope_scaling": {"rope_type": "default"}})),
        ("gpt_oss", json!({"rope_scaling": null})),
        ("arcee", json!({"hidden_act": "silu"})),
        ("nemotron", json!({"partial_rotary_factor": 0.25})),
        ("nemotron", json!({"norm_eps": 0.1})),
        ("hunyuan_v1_dense", json!({"rope_scaling": null})),
        ("exaone4", json!({"sliding_window": 6})),
        ("exaone4", json!({"sliding_window_pattern": 2})),
        ("gemma", json!({"hidden_act": "silu"})),
        ("gemma2", json!({"query_pre_attn_scalar": 16})),
        ("gemma2", json!({"attn_logit_softcapping": null})),
        ("gemma2", json!({"attn_logit_softcapping": 4.0})),
        ("gemma2", json!({"final_logit_softcapping": 6.0})),
        ("gemma2", json!({"sliding_window": 7})),
        ("gemma3_text", json!({"sliding_window_pattern": 2})),
        ("gemma3_text", json!({"rope_local_base_freq": 1000.0})),
        ("gemma3_text", json!({"rope_scaling": null})),
        ("olmo3", json!({"rope_scaling": null})),
        ("olmo3", json!({"sliding_window": 6})),
        ("glm", json!({"partial_rotary_factor": 1.0})),
        ("cohere", json!({"logit_scale": 0.3})),
        ("cohere", json!({"layer_norm_eps": 0.1})),
        ("cohere2", json!({"sliding_window_pattern": 2})),
        ("phi", json!({"partial_rotary_factor": 1.0})),
        ("gpt_neox", json!({"rotary_pct": 1.0})),
        ("gpt_neox", json!({"rotary_emb_base": 100})),
        ("gpt_neox", json!({"use_parallel_residual": false})),
        ("gpt_neox-in-turn", json!({"use_parallel_residual": true})),
        ("apertus", json!({"rope_parameters": null})),
        ("apertus", json!({"rms_norm_eps": 0.1})),
        ("apertus", json!({"hidden_act": "silu"})),
        ("starcoder2", json!({"hidden_act": "relu2"})),
        ("starcoder2", json!({"sliding_window": null})),
    ] {
        let mut case: Case = read(name);
        case.config.extend(patch.as_object().unwrap().clone());
        let dir = tempfile::tempdir().unwrap();
        case.write(dir.path());
        let moved = worst(
            &logits(dir.path(), &case.ids, &case.positions, (&Device::Cpu, Residency::Resident), None),
            &case.logits,
        );
        assert!(moved > 1e-2, "{name} with {patch}: moved by {moved}");
    }
}

/// The mean loss, and the gradient of every tensor of every layer: its length, and its inner product with the tensor.
#[test]
fn gradients_are_those_of_pytorch() {
    for (name, case) in cases() {
        let dir = tempfile::tempdir().unwrap();
        case.write(dir.path());
        let checkpoint = Arc::new(checkpoint::Checkpoint::open_dir(dir.path()).unwrap());
        let model = Model::open(checkpoint, &ModelOptions::default(), &Silent).unwrap();
        let (spec, mut found) = (case.spec(), std::collections::BTreeMap::new());
        let wanted = WantedGradients { weights: true, gates: false };
        let mut see = |layer: LayerGradients| {
            for (role, is_bias, gradient) in layer.weights {
                let tensor = spec.layer_tensor(layer.place, role);
                let tensor_name = if is_bias { tensor.bias.unwrap() } else { tensor.name };
                let gradient = gradient.flatten_all()?.to_vec1::<f32>()?;
                found.insert(tensor_name, gradient.into_iter().map(f64::from).collect::<Vec<_>>());
            }
            Ok(())
        };
        let loss = model.gradients(std::slice::from_ref(&case.ids), wanted, "test", &Silent, &mut see).unwrap().mean();
        assert!((loss - case.loss).abs() < 1e-4, "{name}: loss {loss}, expected {}", case.loss);
        for tensor in case.tensors().into_iter().filter(|tensor| tensor.name.starts_with(spec.layer_prefix)) {
            let gradient = found.remove(&tensor.name).unwrap_or_else(|| panic!("{name}: {}", tensor.name));
            let values = crate::fixture::to_f32(tensor.dtype, &tensor.bytes);
            let length = gradient.iter().map(|x| x * x).sum::<f64>().sqrt();
            let size = values.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>().sqrt();
            let product: f64 = gradient.iter().zip(values).map(|(x, value)| x * f64::from(value)).sum();
            let [expected, inner] = case.gradients[&tensor.name];
            let what = format!("{name}: {}: {length} {product}, expected {expected} {inner}", tensor.name);
            assert!((length - expected).abs() <= 1e-4 * expected + 1e-6, "{what}");
            assert!((product - inner).abs() <= 1e-4 * expected * size + 1e-6, "{what}");
        }
        assert!(found.is_empty(), "{name}");
    }
}

/// candle-transformers' own Llama, which shares no code with this block: logits after each prefix that ends at one of
/// the fixture's positions, with the kept layers renumbered.
fn witness(case: &Case, kept: &[usize]) -> Vec<f32> {
    let mut config: llama::LlamaConfig = serde_json::from_value(Value::Object(case.config.clone())).unwrap();
    config.num_hidden_layers = kept.len();
    let config = config.into_config(false);
    let tensors = case.tensors().into_iter().filter_map(|tensor| {
        let name = match tensor.name.strip_prefix("model.layers.").and_then(|rest| rest.split_once('.')) {
            Some((layer, rest)) => {
                let place = kept.iter().position(|kept| kept.to_string() == layer)?;
                format!("model.layers.{place}.{rest}")
            }
            None => tensor.name.clone(),
        };
        let values = crate::fixture::to_f32(tensor.dtype, &tensor.bytes);
        Some((name, Tensor::from_vec(values, tensor.shape, &Device::Cpu).unwrap()))
    });
    let tensors = candle_nn::VarBuilder::from_tensors(tensors.collect(), DType::F32, &Device::Cpu);
    let model = llama::Llama::load(tensors, &config).unwrap();
    let after = case.positions.iter().flat_map(|position| {
        let ids = Tensor::new(&case.ids[..=*position], &Device::Cpu).unwrap().unsqueeze(0).unwrap();
        let mut cache = llama::Cache::new(false, DType::F32, &config, &Device::Cpu).unwrap();
        model.forward(&ids, 0, &mut cache).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap()
    });
    after.collect()
}

/// Token after token with a cache, and in pieces, every position has the logits of a pass over all up to it: sliding
/// windows, normed heads, layers without rotations, and rotations that change with the length.
#[test]
fn a_cache_gives_what_a_whole_pass_gives() {
    let (mut compared, mut changing) = (0, 0);
    for (name, case) in cases() {
        let dir = tempfile::tempdir().unwrap();
        case.write(dir.path());
        for residency in [Residency::Resident, Residency::Streamed] {
            let options = ModelOptions { residency: Some(residency), ..ModelOptions::default() };
            let checkpoint = Arc::new(checkpoint::Checkpoint::open_dir(dir.path()).unwrap());
            let model = Model::open(checkpoint, &options, &Silent).unwrap();
            let last = |x: Tensor| -> Vec<f32> {
                let x = x.narrow(0, x.dim(0).unwrap() - 1, 1).unwrap();
                model.logits(&x).unwrap().flatten_all().unwrap().to_vec1().unwrap()
            };
            let whole = |n: usize| {
                let mut kept = Last(None);
                model.run(&[Batch::sequences(&[&case.ids[..n]]).unwrap()], &mut kept, "test", &Silent).unwrap();
                last(kept.0.unwrap())
            };
            let t = case.ids.len();
            let every: Vec<usize> = (1..=t).collect();
            // pieces for both kernels: a few tokens, and many
            let pieces = vec![t / 4, t / 4 + 3, t / 2 + 4, t / 2 + 5, t];
            let lengths = if residency == Residency::Resident { vec![every, pieces] } else { vec![pieces] };
            for ends in lengths {
                let mut cache = Cache::new(&model, t).unwrap();
                for end in ends {
                    let start = cache.ids().len();
                    let x = model.extend(&mut cache, &case.ids[start..end]).unwrap();
                    let (found, expected) = (last(x), whole(end));
                    let scale = expected.iter().fold(0f32, |max, x| max.max(x.abs()));
                    let worst = worst(&found, &expected) / scale;
                    assert!(worst <= 1e-5, "{name}, {residency:?}, {end} tokens: off by {worst}");
                    compared += 1;
                }
                assert!(model.extend(&mut cache, &[0]).is_err(), "no room is left");
            }
        }
        let rope = case.spec().rope;
        let frequencies = |n| rope.inverse_frequencies(n).0;
        changing += usize::from((2..=case.ids.len()).any(|n| frequencies(n) != frequencies(n - 1)));
    }
    assert!(compared > 500 && changing >= 2, "{compared} compared, {changing} with changing rotations");
}

#[test]
fn candles_own_llama_agrees() {
    for name in ["llama", "own-name", "llama3-old"] {
        let case: Case = read(name);
        let dir = tempfile::tempdir().unwrap();
        case.write(dir.path());
        for kept in [(0..case.spec().layers).collect(), case.kept()] {
            let witnessed = witness(&case, &kept);
            let found = logits(dir.path(), &case.ids, &case.positions, (&Device::Cpu, Residency::Resident), Some(kept));
            let worst = worst(&found, &witnessed);
            assert!(worst <= 1e-4, "{name}: off by {worst}");
        }
    }
}
