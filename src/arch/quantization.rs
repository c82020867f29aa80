//! What a config says of quantised weights, held against the tensors: bitsandbytes' four bits are read, a word that was
//! left over on plain floating point numbers is not heeded, everything else is refused.

use safetensors::Dtype;
use serde_json::{Map, Value};

use super::check::FREQUENCIES;
use super::keys::Keys;
use super::names::LAYERS;
use crate::checkpoint::{Index, four_bit_owner};
use crate::{Error, Result};

/// Keys of a config that say how weights are quantised.
const KEYS: [&str; 2] = ["quantization_config", "compression_config"];

/// Dtypes of weights that are not quantised.
const PLAIN: [Dtype; 4] = [Dtype::F64, Dtype::F32, Dtype::F16, Dtype::BF16];

/// The key of `config` that says that weights are quantised which are plain floating point numbers in `index`.
#[must_use]
pub fn leftover_quantization(config: &Map<String, Value>, index: &Index) -> Option<&'static str> {
    let (key, _) = claim(&Keys::new(config)).ok()??;
    (weights(index) == Weights::Plain).then_some(key)
}

/// Refuses weights that are quantised in a way that is not read.
///
/// # Errors
/// Request: other quantised weights than bitsandbytes' four bits, or weights that do not tell. Work: a broken config.
pub(super) fn check(config: &Map<String, Value>, index: &Index) -> Result<()> {
    let Some((key, quantization)) = claim(&Keys::new(config))? else { return Ok(()) };
    let weights = weights(index);
    if weights == Weights::Plain {
        return Ok(());
    }
    let four_bits = quantization.flag("load_in_4bit")?;
    let method = match quantization.text("quant_method")? {
        Some(method) => method,
        None if four_bits.is_some() => "bitsandbytes",
        None => "unknown",
    };
    Err(Error::request(match (method, weights) {
        ("bitsandbytes", Weights::FourBits) if four_bits.unwrap_or(false) => return Ok(()),
        (_, Weights::Unclear(beside)) => format!(
            "{key}: says that the weights are quantised by method {method}; they are floating point numbers, with \
             {beside} beside them; if they are not quantised, delete {key} from config.json"
        ),
        ("bitsandbytes", _) => format!(
            "{key}: the weights are stored in bitsandbytes' eight bits, which are not read; start from the \
             full-precision checkpoint, healing quantises it by itself"
        ),
        _ => format!(
            "{key}: the weights are quantised by method {method}, expected f32, f16 or bf16; start from the \
             full-precision checkpoint"
        ),
    }))
}

fn claim<'a>(keys: &Keys<'a>) -> Result<Option<(&'static str, Keys<'a>)>> {
    for key in KEYS {
        if let Some(object) = keys.object(key)? {
            return Ok(Some((key, object)));
        }
    }
    Ok(None)
}

#[derive(PartialEq)]
enum Weights<'a> {
    /// Floating point numbers, and nothing beside them in the layers.
    Plain,
    /// Floating point numbers, and this tensor beside them.
    Unclear(&'a str),
    FourBits,
    Other,
}

fn weights(index: &Index) -> Weights<'_> {
    let mut beside = None;
    for (name, entry) in &index.tensors {
        if four_bit_owner(name).is_some() {
            return Weights::FourBits;
        }
        // buffers outside the linear layers: positions, masks
        if !name.starts_with(LAYERS) || name.ends_with(FREQUENCIES) {
            continue;
        }
        if !PLAIN.contains(&entry.dtype) {
            return Weights::Other;
        }
        if !name.ends_with(".weight") && !name.ends_with(".bias") {
            beside = beside.or(Some(name.as_str()));
        }
    }
    beside.map_or(Weights::Plain, Weights::Unclear)
}
