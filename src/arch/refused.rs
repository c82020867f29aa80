//! Switches that a row cannot say: a config that turns one on is refused rather than computed wrongly.

use serde_json::Value;

use super::keys::{Keys, brief};
use super::table::Architecture;
use crate::{Error, Result};

/// Keys that change what a layer computes unless they are absent, null, false, zero or empty.
const ADDED: &[&str] = &[
    "num_local_experts",
    "num_experts",
    "n_routed_experts",
    "num_experts_per_tok",
    "moe_intermediate_size",
    "attn_logit_softcapping",
    "final_logit_softcapping",
    "query_pre_attn_scalar",
    "attention_multiplier",
    "attention_chunk_size",
    "cross_attention_layers",
    "kv_lora_rank",
    "q_lora_rank",
    "clip_qkv",
    "alibi",
    "parallel_attn",
    "use_parallel_residual",
    "qk_layernorm",
    "use_qk_norm",
    "rope_interleaved",
    "lm_head_bias",
];

/// Keys that multiply something unless they are absent, null or one.
const MULTIPLIED: &[&str] = &[
    "embedding_multiplier",
    "residual_multiplier",
    "logits_scaling",
    "logit_scale",
    "scale_emb",
    "scale_depth",
    "dim_model_base",
];

/// Refuses what the block does not compute.
pub(super) fn check(keys: &Keys<'_>, row: &Architecture) -> Result<()> {
    quantized(keys)?;
    if keys.flag("is_encoder_decoder")?.unwrap_or(false) {
        return Err(Error::request("is_encoder_decoder is true: only decoder-only models have layers to drop"));
    }
    let activation = keys.text("hidden_act")?.unwrap_or("silu");
    if !matches!(activation, "silu" | "swish") {
        return Err(Error::request(format!("hidden_act is {activation:?}, only silu is computed")));
    }
    let refuse = |key: &str, value: &Value| {
        let (value, row) = (brief(value), row.model_type);
        Error::request(format!("{key} is {value}, which a {row} block does not compute"))
    };
    for key in ADDED {
        if let Some(value) = keys.get(key).filter(|value| !is_off(value)) {
            return Err(refuse(key, value));
        }
    }
    for key in MULTIPLIED {
        if let Some(value) = keys.get(key).filter(|value| value.as_f64() != Some(1.0)) {
            return Err(refuse(key, value));
        }
    }
    Ok(())
}

/// Weights that are neither plain floating point numbers nor bitsandbytes' four-bit codes.
fn quantized(keys: &Keys<'_>) -> Result<()> {
    let Some(quantization) = keys.object("quantization_config")?.or(keys.object("compression_config")?) else {
        return Ok(());
    };
    let method = match quantization.text("quant_method")? {
        Some(method) => method,
        None if quantization.get("load_in_4bit").is_some() => "bitsandbytes",
        None => "unknown",
    };
    let reason = match method {
        "bitsandbytes" if quantization.flag("load_in_4bit")?.unwrap_or(false) => return Ok(()),
        "bitsandbytes" => "stored in bitsandbytes' eight bits, which are not read".to_owned(),
        _ => format!("quantised by method {method}, expected f32, f16 or bf16"),
    };
    let key = quantization.name("").trim_end_matches('.').to_owned();
    Err(Error::request(format!(
        "{key}: the weights are {reason}; start from the full-precision checkpoint, healing quantises it by itself; \
         if they are not quantised, delete {key} from config.json"
    )))
}

fn is_off(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => true,
        Value::Number(number) => number.as_f64() == Some(0.0),
        Value::Array(list) => list.is_empty(),
        Value::Object(map) => map.is_empty(),
        _ => false,
    }
}
