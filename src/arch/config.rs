//! From a `config.json` to a [`ModelSpec`].

use serde_json::{Map, Value};

use super::keys::Keys;
use super::kinds::{Multipliers, Parallel};
use super::table::{Architecture, Bias};
use super::{ModelSpec, QkNorm, experts, latent, left_out, multipliers, refused, rope_config, seam_maps, windows};
use crate::plan::MOST_LAYERS;
use crate::{Context, Error, Result};

/// Heads times head dimension, the widest row an attention has.
const MAX_WIDTH: usize = 1 << 24;

impl ModelSpec {
    /// Reads a `config.json`, in old and new spellings, with the defaults of the table's row.
    ///
    /// # Errors
    /// A request error for a `model_type` that is not known or a switch that is not computed; a work error for a key
    /// that is missing or makes no sense. Both name the key.
    pub fn from_config(config: &Map<String, Value>) -> Result<Self> {
        read(config).context(|| "config.json")
    }
}

fn read(config: &Map<String, Value>) -> Result<ModelSpec> {
    let row = Architecture::of(config)?;
    let keys = Keys::new(config);
    refused::check(&keys, row)?;

    let size = |key| keys.needed(key, keys.size(key)?);
    let (layers, hidden_size, heads) = (size("num_hidden_layers")?, size("hidden_size")?, size("num_attention_heads")?);
    let vocab_size = size("vocab_size")?;
    if layers > MOST_LAYERS {
        return Err(Error::work(format!("num_hidden_layers is {layers}, expected at most {MOST_LAYERS}")));
    }
    let blocks = keys.text("model_type")?.is_some_and(|name| name == left_out::NAS);
    let blocks = blocks.then(|| left_out::blocks(&keys, layers, hidden_size)).transpose()?;
    let mlp_size = match blocks.as_ref().and_then(|blocks| blocks.mlp_size) {
        Some(size) => size,
        None => size("intermediate_size")?,
    };
    let group = blocks.as_ref().and_then(|blocks| blocks.group);
    let kv_heads = match (config.get("num_key_value_heads"), group) {
        (_, Some(group)) if heads.is_multiple_of(group) => heads / group,
        (_, Some(group)) => {
            let fault = format!("n_heads_in_group is {group}, expected a divisor of num_attention_heads, {heads}");
            return Err(Error::work(fault));
        }
        (Some(Value::Null), None) => heads,
        _ => keys.size("num_key_value_heads")?.or(row.kv_heads).unwrap_or(heads),
    };
    if heads % kv_heads != 0 {
        return Err(Error::work(format!(
            "num_key_value_heads is {kv_heads}, expected a divisor of num_attention_heads, {heads}"
        )));
    }
    let latent = latent::read(&keys, row.latent, (heads, kv_heads))?;
    // of latent attention, the key is what transformers makes it: the part of a key that is rotated
    let own = if latent.is_some() { None } else { keys.size("head_dim")? };
    let head_dim = match latent.map(|latent| latent.head_dim()).or(own).or(row.head_dim) {
        Some(head_dim) => head_dim,
        None if hidden_size.is_multiple_of(heads) => hidden_size / heads,
        None => {
            return Err(Error::work(format!(
                "hidden_size is {hidden_size}, expected a multiple of num_attention_heads, {heads}, or a head_dim"
            )));
        }
    };
    if heads.checked_mul(head_dim).is_none_or(|width| width > MAX_WIDTH) {
        return Err(Error::work(format!("head_dim is {head_dim}, too large for {heads} heads")));
    }
    if row.qkv_by_head && (kv_heads, heads * head_dim) != (heads, hidden_size) {
        return Err(Error::request(format!(
            "{heads} query heads of {head_dim} and {kv_heads} of keys in a stream of {hidden_size}: a {} block has as \
             many key heads as query heads, and together they are as wide as the stream",
            row.model_type
        )));
    }
    let bias = |bias| match bias {
        Bias::Never => Ok(false),
        Bias::Always => Ok(true),
        Bias::Key(names, default) => {
            let key = names.iter().find(|name| keys.get(name).is_some());
            Ok::<_, Error>(key.map(|key| keys.flag(key)).transpose()?.flatten().unwrap_or(default))
        }
    };
    let max_positions = keys.length("max_position_embeddings")?.unwrap_or(row.max_positions);
    let (eps_key, eps) = row.norm_eps;
    let norm_eps = keys.number(eps_key, "a small number, 0 or above", |eps| (0.0..1.0).contains(&eps))?;
    let (experts, sparse) = experts::read(&keys, row.experts, layers)?;
    let (windows, rotated) = windows::read(&keys, row, layers)?;
    let rotated_of = latent.map_or(head_dim, |latent| latent.rotated);
    let (rope, sliding_rope) = rope_config::read(&keys, row, rotated_of, max_positions)?;
    let key_dim = latent.map_or(head_dim, |latent| latent.key());
    let multipliers = multipliers::read(&keys, row.multipliers, (hidden_size, key_dim))?;
    let scores = multipliers.scores * if latent.is_some() { rope_config::score_factor(&keys)? } else { 1.0 };
    Ok(ModelSpec {
        model_type: keys.text("model_type")?.unwrap_or(row.model_type).to_owned(),
        layers,
        layers_beyond: keys.count("num_nextn_predict_layers")?.unwrap_or(0),
        hidden_size,
        mlp_size,
        heads,
        kv_heads,
        head_dim,
        vocab_size,
        max_positions,
        norm_eps: norm_eps.unwrap_or(eps),
        rope,
        sliding_rope,
        windows,
        rotated,
        without: match blocks {
            Some(blocks) => blocks.without,
            None => left_out::skipped(&keys, layers)?,
        },
        seam_maps: seam_maps::read(&keys, layers, hidden_size)?,
        qkv_bias: bias(row.qkv_bias)?,
        o_bias: bias(row.o_bias)?,
        mlp_bias: bias(row.mlp_bias)?,
        norm: row.norm,
        norm_places: row.norm_places,
        parallel: match row.parallel {
            Parallel::Never => false,
            Parallel::OneNorm => true,
            Parallel::NormEach(default) => keys.flag("use_parallel_residual")?.unwrap_or(default),
        },
        norm_each: matches!(row.parallel, Parallel::NormEach(_)),
        qk_norm: match row.qk_norm_switch {
            Some(key) if !keys.flag(key)?.unwrap_or(false) => QkNorm::None,
            _ => row.qk_norm,
        },
        latent,
        sinks: row.sinks,
        fused_qkv: row.fused_qkv,
        qkv_by_head: row.qkv_by_head,
        fused_gate_up: row.fused_gate_up,
        gated: row.gated,
        experts,
        sparse,
        xielu: refused::is_xielu(&keys, row)?,
        activation: refused::activation(&keys, row)?,
        multipliers: Multipliers { scores, ..multipliers },
        head_bias: row.head_bias,
        renamed: row.renamed,
        layer_prefix: row.layer_prefix,
        embedding: row.embedding,
        head: row.head,
        final_norm: row.final_norm,
        tied: keys.flag("tie_word_embeddings")?.unwrap_or(row.tied),
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::arch::Activation;

    /// A small config of `model_type` with the keys of `patch` laid over it; a string `"absent"` removes one.
    fn spec(model_type: &str, patch: &Value) -> Result<ModelSpec> {
        let mut config = json!({
            "model_type": model_type, "hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 4,
            "num_key_value_heads": 2, "num_hidden_layers": 4, "vocab_size": 64, "head_dim": null,
        });
        let map = config.as_object_mut().unwrap();
        for (key, value) in patch.as_object().unwrap() {
            map.insert(key.clone(), value.clone());
            if value == "absent" {
                map.remove(key);
            }
        }
        ModelSpec::from_config(map)
    }

    #[test]
    fn defaults_are_those_of_the_row() {
        let llama = spec("llama", &json!({"num_key_value_heads": "absent"})).unwrap();
        assert_eq!((llama.kv_heads, llama.head_dim, llama.max_positions, llama.norm_eps), (4, 8, 2048, 1e-6));
        assert!(!llama.tied && !llama.qkv_bias && !llama.o_bias && !llama.mlp_bias && !llama.fused_qkv);
        assert_eq!((llama.qk_norm, llama.multipliers.scores), (super::super::QkNorm::None, 8f64.sqrt().recip()));
        assert_eq!((llama.rope.theta, llama.rope.rotary_dim), (10_000.0, 8));
        assert_eq!((llama.windows, llama.rotated), (vec![None; 4], vec![true; 4]));
        let wide = json!({"num_attention_heads": 8, "num_key_value_heads": "absent"});
        assert_eq!(spec("mistral", &wide).unwrap().kv_heads, 8);
        assert_eq!(spec("mistral", &json!({"num_key_value_heads": null})).unwrap().kv_heads, 4);
        assert_eq!(spec("mistral", &json!({})).unwrap().windows, [Some(4096); 4]);
        assert_eq!(spec("qwen3", &json!({})).unwrap().head_dim, 128);
        assert_eq!(spec("phi3", &json!({})).unwrap().norm_eps, 1e-5);
        let smol = spec("smollm3", &json!({})).unwrap();
        assert!(smol.tied);
        assert_eq!(smol.rotated, [true, true, true, false]);
        let longer = json!({"no_rope_layers": [0, 1, 1, 0, 0]});
        assert_eq!(spec("smollm3", &longer).unwrap().rotated, [false, true, true, false]);
    }

    #[test]
    fn gpt_neox_has_keys_of_its_own() {
        let of = |patch: Value| {
            let mut base = json!({"num_key_value_heads": "absent"});
            base.as_object_mut().unwrap().extend(patch.as_object().unwrap().clone());
            spec("gpt_neox", &base)
        };
        let plain = of(json!({"rope_theta": 5.0, "partial_rotary_factor": 1.0})).unwrap();
        assert!(plain.parallel && plain.norm_each && plain.qkv_bias && plain.qkv_by_head);
        assert_eq!((plain.rope.theta, plain.rope.rotary_dim, plain.activation), (10_000.0, 2, Activation::Gelu));
        let own = of(json!({"rotary_pct": 0.5, "rotary_emb_base": 77, "use_parallel_residual": false})).unwrap();
        assert_eq!((own.rope.theta, own.rope.rotary_dim, own.parallel), (77.0, 4, false));
        let new = json!({"rope_parameters": {"rope_theta": 55.0, "partial_rotary_factor": 1.0}, "rotary_pct": 0.5});
        let new = of(new).unwrap();
        assert_eq!((new.rope.theta, new.rope.rotary_dim), (55.0, 8));
        assert!(of(json!({"rotary_pct": 1.5})).unwrap_err().to_string().contains("rotary_pct is 1.5"));
        let names: Vec<String> = plain.linear_modules(1).into_iter().map(|(_, name)| name).collect();
        let modules = ["attention.query_key_value", "attention.dense", "mlp.dense_h_to_4h", "mlp.dense_4h_to_h"];
        assert_eq!(names, modules.map(|module| format!("gpt_neox.layers.1.{module}")));
    }

    #[test]
    fn windows_follow_each_rule() {
        let windows = |model_type: &str, patch: Value| spec(model_type, &patch).unwrap().windows;
        let on = |from: usize| json!({"use_sliding_window": true, "sliding_window": 5, "max_window_layers": from});
        assert_eq!(windows("qwen2", on(3)), [None, None, None, Some(5)]);
        assert_eq!(windows("qwen2", on(0)), [Some(5); 4]);
        assert_eq!(windows("qwen2", json!({"sliding_window": 5, "max_window_layers": 0})), [None; 4]);
        assert_eq!(windows("qwen2", json!({"use_sliding_window": true, "sliding_window": null})), [None; 4]);
        assert_eq!(windows("mistral", json!({"sliding_window": null})), [None; 4]);
        assert_eq!(windows("llama", json!({"sliding_window": 5})), [None; 4]);
        let types = json!(["sliding_attention", "full_attention", "full_attention", "sliding_attention"]);
        let listed = json!({"use_sliding_window": true, "sliding_window": 5, "layer_types": types});
        for model_type in ["qwen2", "qwen3", "ministral", "smollm3"] {
            assert_eq!(windows(model_type, listed.clone()), [Some(5), None, None, Some(5)], "{model_type}");
        }
        let smol = json!({"use_sliding_window": true, "sliding_window": 5, "no_rope_layers": [1, 0, 1, 0]});
        assert_eq!(windows("smollm3", smol), [None, Some(5), None, Some(5)]);
    }

    #[test]
    fn old_and_new_spellings_say_the_same() {
        let stretch = json!({"rope_type": "linear", "factor": 2.0});
        let old = json!({"rope_theta": 5e5, "rope_scaling": {"type": "linear", "factor": 2.0}});
        let new = json!({"rope_parameters": {"rope_theta": 5e5, "rope_type": "linear", "factor": 2.0}});
        let nested =
            json!({"rope_theta": 5e5, "rope_parameters": {"full_attention": stretch, "sliding_attention": stretch}});
        let old = spec("qwen2", &old).unwrap();
        assert_eq!(old.rope.theta, 5e5);
        assert_eq!(old, spec("qwen2", &new).unwrap());
        assert_eq!(old, spec("qwen2", &nested).unwrap());
        let both = json!({"rope_theta": 5e5, "rope_scaling": stretch, "rope_parameters": {"rope_type": "yarn"}});
        assert_eq!(old, spec("qwen2", &both).unwrap());
    }

    #[test]
    fn a_key_that_is_missing_or_makes_no_sense_is_named() {
        let types = json!(["full_attention", "sliding_attention"]);
        let lists = json!({"rope_type": "longrope", "short_factor": [1.0], "long_factor": [1, 2, 3, 4]});
        for (model_type, patch, expected) in [
            ("llama", json!({"hidden_size": "absent"}), "hidden_size is missing"),
            ("llama", json!({"num_hidden_layers": null}), "num_hidden_layers is missing"),
            ("llama", json!({"vocab_size": "64"}), "vocab_size is \"64\""),
            ("llama", json!({"hidden_size": 0}), "hidden_size is 0"),
            ("llama", json!({"hidden_size": -32}), "hidden_size is -32"),
            ("llama", json!({"hidden_size": 1e300}), "hidden_size is 1e+300"),
            ("llama", json!({"num_hidden_layers": 100_001}), "num_hidden_layers is 100001"),
            ("llama", json!({"num_key_value_heads": 3}), "num_key_value_heads is 3"),
            ("llama", json!({"num_attention_heads": 6}), "hidden_size is 32, expected a multiple"),
            ("llama", json!({"head_dim": 16_000_000}), "too large"),
            ("llama", json!({"head_dim": 7}), "head_dim is 7"),
            ("llama", json!({"rms_norm_eps": -1}), "rms_norm_eps is -1"),
            ("llama", json!({"rope_theta": 0}), "rope_theta is 0"),
            ("llama", json!({"attention_bias": 1}), "attention_bias is 1"),
            ("llama", json!({"rope_scaling": "linear"}), "rope_scaling is \"linear\""),
            ("llama", json!({"rope_scaling": {"type": "linear"}}), "rope_scaling.factor is missing"),
            ("llama", json!({"rope_scaling": {"type": "linear", "factor": 0}}), "rope_scaling.factor is 0"),
            (
                "llama",
                json!({"rope_parameters": {"rope_type": "llama3"}}),
                "rope_parameters.low_freq_factor is missing",
            ),
            ("llama", json!({"rope_scaling": {"type": "linear", "factor": 1e-300}}), "are not finite"),
            ("phi3", json!({"rope_scaling": lists}), "rope_scaling.short_factor has 1 entries, expected 4"),
            ("mistral", json!({"sliding_window": 0}), "sliding_window is 0"),
            ("qwen2", json!({"layer_types": types}), "layer_types has 2 entries"),
            ("qwen2", json!({"layer_types": ["x", "x", "x", "x"]}), "layer_types is \"x\""),
            ("qwen2", json!({"layer_types": vec!["sliding_attention"; 4]}), "no sliding_window is switched on"),
            ("smollm3", json!({"no_rope_layers": [1, 2, 1, 1]}), "no_rope_layers is 2"),
            ("smollm3", json!({"no_rope_layers": [1, 0, 1]}), "no_rope_layers has 3 entries"),
        ] {
            let error = spec(model_type, &patch).expect_err(expected);
            let message = error.to_string();
            assert!(message.starts_with("config.json: ") && message.contains(expected), "{message}");
            assert_eq!(error.exit_code(), 1, "{message}");
        }
    }

    #[test]
    fn a_switch_that_is_not_computed_is_refused() {
        let linear = json!({"rope_type": "linear", "factor": 2.0});
        for (model_type, patch, expected) in [
            ("gpt2", json!({}), "\"gpt2\" is not known"),
            ("llama", json!({"hidden_act": "tanh"}), "hidden_act is \"tanh\""),
            ("falcon_h1", json!({}), "a state space model beside attention"),
            ("gemma3_text", json!({"attn_logit_softcapping": 50.0}), "attn_logit_softcapping is 50.0"),
            ("llama", json!({"num_local_experts": 8}), "num_local_experts is 8"),
            ("llama", json!({"attn_logit_softcapping": 50.0}), "attn_logit_softcapping is 50.0"),
            ("llama", json!({"residual_multiplier": 0.22}), "residual_multiplier is 0.22"),
            ("llama", json!({"is_encoder_decoder": true}), "is_encoder_decoder"),
            ("llama", json!({"quantization_config": {"quant_method": "gptq", "bits": 4}}), "method gptq"),
            ("llama", json!({"quantization_config": {"load_in_4bit": false}}), "bitsandbytes"),
            ("llama", json!({"no_rope_layers": [1, 1, 1, 0]}), "no_rope_layers"),
            ("llama", json!({"partial_rotary_factor": 0.5}), "partial_rotary_factor is 0.5"),
            ("llama", json!({"layer_types": vec!["sliding_attention"; 4]}), "layer_types"),
            ("mistral", json!({"layer_types": vec!["full_attention"; 4]}), "layer_types"),
            ("llama", json!({"rope_scaling": {"type": "mrope"}}), "rope_scaling.rope_type is \"mrope\""),
            ("phi3", json!({"rope_scaling": linear}), "rope_scaling.rope_type is \"linear\""),
            ("gpt_neox", json!({}), "4 query heads of 8 and 2 of keys"),
            ("gpt_neox", json!({"num_key_value_heads": 4, "head_dim": 16}), "together they are as wide"),
            ("qwen2", json!({"rope_parameters": {"full_attention": linear, "sliding_attention": {}}}), "differ"),
        ] {
            let error = spec(model_type, &patch).expect_err(expected);
            assert!(error.to_string().contains(expected), "{error}");
            assert_eq!(error.exit_code(), 2, "{error}");
        }
        let off = json!({"num_local_experts": 0, "attn_logit_softcapping": null, "logit_scale": 1, "alibi": false,
                         "quantization_config": null, "hidden_act": "swish", "no_rope_layers": [1, 1, 1, 1]});
        assert!(spec("llama", &off).is_ok());
        let four_bit = json!({"quantization_config": {"quant_method": "bitsandbytes", "load_in_4bit": true}});
        assert!(spec("llama", &four_bit).is_ok());
    }
}
