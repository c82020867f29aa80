//! Switches that a row cannot say: a config that turns one on is refused rather than computed wrongly.

use serde_json::Value;

use super::keys::{Keys, brief};
use super::kinds::Activation;
use super::latent::LatentRule;
use super::table::{Architecture, Bias};
use crate::{Error, Result};

/// Keys that change what a layer computes unless they are absent, null, false, zero or empty.
const ADDED: &[&str] = &[
    "num_local_experts",
    "num_experts",
    "n_routed_experts",
    "num_experts_per_tok",
    "moe_intermediate_size",
    "n_shared_experts",
    "shared_expert_intermediate_size",
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
    "use_bias",
    "lm_head_bias",
    "use_bidirectional_attention",
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
    "moe_layer_freq",
    "n_group",
    "topk_group",
];

/// Families of other kinds of layers, and why no row says them.
const FAMILIES: &[(&str, &str)] = &[
    ("falcon_h1", "its layers have a state space model beside attention"),
    ("lfm2", "most of its layers are short convolutions"),
    ("lfm2_moe", "most of its layers are short convolutions"),
    ("jamba", "most of its layers are state space models"),
    ("mamba", "its layers are state space models"),
    ("mamba2", "its layers are state space models"),
    ("nemotron_h", "most of its layers are state space models"),
    ("granitemoehybrid", "most of its layers are state space models"),
    ("bamba", "most of its layers are state space models"),
    ("zamba2", "most of its layers are state space models"),
    ("recurrent_gemma", "most of its layers are recurrent"),
    ("qwen3_next", "most of its layers are of linear attention"),
];

/// Why a family of this `model_type` is not computed, where more is known than that no row has it.
pub(super) fn family(model_type: &str) -> Option<Error> {
    let (_, why) = FAMILIES.iter().find(|(family, _)| *family == model_type)?;
    Some(Error::request(format!(
        "model_type {model_type:?} is not computed: {why}; layers of it can be cut all the same"
    )))
}

/// What configs call the activation with numbers of its own.
const XIELU: &str = "xielu";

/// Whether the activation of the MLP is the one with numbers of its own.
pub(super) fn is_xielu(keys: &Keys<'_>, row: &Architecture) -> Result<bool> {
    Ok(row.xielu && keys.text(row.activation.0)?.is_none_or(|name| name == XIELU))
}

/// The activation of the MLP, where it has none.
pub(super) fn activation(keys: &Keys<'_>, row: &Architecture) -> Result<Activation> {
    let (key, default) = row.activation;
    let Some(name) = keys.text(key)?.filter(|name| !row.xielu || *name != XIELU) else { return Ok(default) };
    match Activation::named(name) {
        Some(Activation::Gelu) if row.gelu_is_tanh => Ok(Activation::GeluTanh),
        Some(known) => Ok(known),
        None => Err(Error::request(format!(
            "{key} is {name:?}; computed are silu, gelu, gelu_pytorch_tanh, gelu_new and relu2"
        ))),
    }
}

/// Refuses what the block does not compute.
pub(super) fn check(keys: &Keys<'_>, row: &Architecture) -> Result<()> {
    quantized(keys)?;
    if keys.flag("is_encoder_decoder")?.unwrap_or(false) {
        return Err(Error::request("is_encoder_decoder is true: only decoder-only models have layers to drop"));
    }
    let refuse = |key: &str, value: &Value| {
        let (value, row) = (brief(value), row.model_type);
        Error::request(format!("{key} is {value}, which a {row} block does not compute"))
    };
    let is_of_experts = |key: &str| row.experts.is_some_and(|rule| rule.keys().any(|own| own == key));
    let is_read =
        |key: &&&str| !row.multipliers.keys().contains(*key) && !row.ignored.contains(*key) && !is_of_experts(key);
    let biases = [row.qkv_bias, row.o_bias, row.mlp_bias];
    let of_bias = |key: &str| biases.iter().any(|bias| matches!(bias, Bias::Key(names, _) if names.contains(&key)));
    let of_latent = |key: &str| row.latent.is_some() && LatentRule::keys().contains(&key);
    let is_read = |key: &&&str| is_read(key) && !of_latent(key) && !of_bias(key);
    for key in ADDED.iter().filter(is_read) {
        if let Some(value) = keys.get(key).filter(|value| !is_off(value)) {
            return Err(refuse(key, value));
        }
    }
    for key in MULTIPLIED.iter().filter(is_read) {
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
        "{key}: the weights are {reason}; start from the full-precision checkpoint, healing quantises it by itself \
         (prune convert makes numbers of FP8, GPTQ, AWQ, MXFP4 and compressed-tensors); if they are not quantised, delete \
         {key} from config.json"
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
