//! From a `config.json` to a [`ModelSpec`].

use serde_json::{Map, Value};

use super::keys::Keys;
use super::table::{Architecture, Bias};
use super::{ModelSpec, refused, rope_config, windows};
use crate::{Context, Error, Result};

/// More layers than any model has; a config that asks for more is broken, and so is what would be allocated for it.
const MAX_LAYERS: usize = 100_000;
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
    let (mlp_size, vocab_size) = (size("intermediate_size")?, size("vocab_size")?);
    if layers > MAX_LAYERS {
        return Err(Error::work(format!("num_hidden_layers is {layers}, expected at most {MAX_LAYERS}")));
    }
    let kv_heads = match config.get("num_key_value_heads") {
        Some(Value::Null) => heads,
        _ => keys.size("num_key_value_heads")?.or(row.kv_heads).unwrap_or(heads),
    };
    if heads % kv_heads != 0 {
        return Err(Error::work(format!(
            "num_key_value_heads is {kv_heads}, expected a divisor of num_attention_heads, {heads}"
        )));
    }
    let head_dim = match keys.size("head_dim")?.or(row.head_dim) {
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
    let bias = |bias| match bias {
        Bias::Never => Ok(false),
        Bias::Always => Ok(true),
        Bias::Key(key, default) => Ok::<_, Error>(keys.flag(key)?.unwrap_or(default)),
    };
    let max_positions = keys.length("max_position_embeddings")?.unwrap_or(row.max_positions);
    let norm_eps = keys.number("rms_norm_eps", "a small number, 0 or above", |eps| (0.0..1.0).contains(&eps))?;
    let rotated = windows::rotated(&keys, row, layers)?;
    Ok(ModelSpec {
        model_type: keys.text("model_type")?.unwrap_or(row.model_type).to_owned(),
        layers,
        hidden_size,
        mlp_size,
        heads,
        kv_heads,
        head_dim,
        vocab_size,
        max_positions,
        norm_eps: norm_eps.unwrap_or(row.norm_eps),
        rope: rope_config::read(&keys, row, head_dim, max_positions)?,
        windows: windows::windows(&keys, row, &rotated)?,
        rotated,
        qkv_bias: bias(row.qkv_bias)?,
        o_bias: bias(row.o_bias)?,
        mlp_bias: bias(row.mlp_bias)?,
        qk_norm: row.qk_norm,
        fused: row.fused,
        tied: keys.flag("tie_word_embeddings")?.unwrap_or(row.tied),
    })
}
