//! Weights that others have quantised, as the numbers they stand for: FP8, GPTQ, AWQ, MXFP4 and compressed-tensors.
//!
//! A cut copies such weights as they are. What computes opens the checkpoint [as numbers](Checkpoint::unquantized): in
//! the place of codes and scales stands a matrix that is decoded, whole, when it is read, in the type that the
//! reference decodes it to. What was quantised besides weights (activations, the cache) stays in full precision.
//!
//! # Add a format
//! A file here with what finds the weights of an index, and its line in [`FORMATS`].

mod awq;
mod bits;
mod compressed;
mod decoded;
mod fp8;
mod gptq;
mod grid;
mod mxfp4;

use std::collections::BTreeSet;
use std::sync::Arc;

use safetensors::Dtype;
use serde_json::{Map, Value};

use super::overlay::Computed;
use super::{Checkpoint, Entry, Index, Slot};
use crate::{Context, Result};
use decoded::{Decoded, Decoding};

/// Where a config says how its weights are quantised.
const KEYS: [&str; 2] = ["quantization_config", "compression_config"];

/// Ends of the names of what is beside weights and is not needed for them: scales of activations and of the cache.
const BESIDE: [&str; 8] = [
    ".input_scale",
    ".input_zero_point",
    ".output_scale",
    ".activation_scale",
    ".activation_scale_ub",
    ".q_scale",
    ".k_scale",
    ".v_scale",
];

/// A way of storing weights.
struct Format {
    /// `quant_method` of the config.
    method: &'static str,
    /// The quantised weights of an index.
    find: fn(&Stored<'_>) -> Result<Vec<QuantizedWeight>>,
}

const FORMATS: [Format; 6] = [
    Format { method: "fp8", find: fp8::find },
    Format { method: "fbgemm_fp8", find: fp8::find },
    Format { method: "gptq", find: gptq::find },
    Format { method: "awq", find: awq::find },
    Format { method: "mxfp4", find: mxfp4::find },
    Format { method: "compressed-tensors", find: compressed::find },
];

/// What a checkpoint is whose weights are decoded.
#[derive(Clone, Debug)]
pub(crate) struct Quantized {
    /// `quant_method` of its config.
    pub(crate) method: &'static str,
    /// The fingerprint of the checkpoint as it is stored.
    pub(crate) fingerprint: String,
}

/// A matrix that is decoded when it is read.
struct QuantizedWeight {
    /// Its name, the type it is decoded to, its shape.
    slot: Slot,
    /// The tensors that it is stored as.
    parts: Vec<String>,
    how: Box<dyn Decoding>,
}

/// The tensors of a checkpoint, and what its config says of them.
struct Stored<'a> {
    index: &'a Index,
    said: &'a Map<String, Value>,
    /// Type of the weights that are not quantised.
    dtype: Dtype,
}

impl Stored<'_> {
    /// Names, without the ending, of the tensors that have `ending`.
    fn ending<'b>(&'b self, ending: &'b str) -> impl Iterator<Item = &'b str> {
        self.index.tensors.keys().filter_map(move |name| name.strip_suffix(ending))
    }

    /// A whole number that the config has.
    fn number(&self, key: &str) -> Option<usize> {
        self.said.get(key)?.as_u64().and_then(|number| usize::try_from(number).ok())
    }
}

impl Checkpoint {
    /// The same model with weights that are decoded as they are read; `None` where they are not quantised in a way that
    /// is read here.
    ///
    /// # Errors
    /// Work: codes and scales that do not fit together, the tensor named.
    pub(crate) fn unquantized(&self) -> Result<Option<Self>> {
        let found = KEYS.iter().find_map(|key| Some((*key, self.config.get(*key)?.as_object()?)));
        let Some((key, said)) = found else { return Ok(None) };
        let method = said.get("quant_method").and_then(Value::as_str).unwrap_or_default();
        let Some(format) = FORMATS.iter().find(|format| format.method == method) else { return Ok(None) };
        let place = || format!("{}: {}", self.source.id, format.method);
        let dtype = match self.dtype_name() {
            Some("float16") => Dtype::F16,
            Some("float32") => Dtype::F32,
            _ => Dtype::BF16,
        };
        let weights = (format.find)(&Stored { index: &self.index, said, dtype }).context(place)?;
        if weights.is_empty() {
            // against what the config says: whoever computes refuses it
            return Ok(None);
        }
        let parts: BTreeSet<&str> = weights.iter().flat_map(|weight| &weight.parts).map(String::as_str).collect();
        let is_kept = |name: &&str| !parts.contains(name) && !BESIDE.iter().any(|ending| name.ends_with(ending));
        let kept = self.index.tensors.keys().map(String::as_str).filter(is_kept);
        let shared = Arc::new(self.index.share()?);
        let mut computed: Vec<(Slot, Arc<dyn Computed>)> = Vec::new();
        let names: Vec<String> = kept.map(str::to_owned).collect();
        for QuantizedWeight { slot, how, .. } in weights {
            computed.push((slot.clone(), Arc::new(Decoded::new(shared.clone(), slot, how))));
        }
        let names = names.iter().map(|name| (name.as_str(), name.as_str()));
        let mut index = self.index.with_computed(names, computed)?;
        index.disputes.clone_from(&self.index.disputes);
        let mut config = self.config.clone();
        config.shift_remove(key);
        let quantized = Quantized { method: format.method, fingerprint: self.fingerprint() };
        let source = self.source.clone();
        Ok(Some(Self { source, config, leftover: None, index, gguf: None, quantized: Some(quantized) }))
    }
}

/// The tensor `name` as a matrix: its entry, rows and columns.
fn matrix<'a>(index: &'a Index, name: &str) -> Result<(&'a Entry, usize, usize)> {
    let entry = index.entry(name)?;
    match entry.shape[..] {
        [rows, columns] => Ok((entry, rows, columns)),
        _ => Err(index.fault(entry, format!("has the shape {:?}, expected a matrix", entry.shape))),
    }
}

/// Refuses a tensor of another shape.
fn expect(index: &Index, name: &str, shape: &[usize]) -> Result<()> {
    let entry = index.entry(name)?;
    if entry.shape == shape {
        return Ok(());
    }
    Err(index.fault(entry, format!("has the shape {:?}, expected {shape:?} beside its weight", entry.shape)))
}

#[cfg(test)]
mod tests;
