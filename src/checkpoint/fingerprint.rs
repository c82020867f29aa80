//! One number for the shape of a model: which tensors it has, and its dimensions.

use std::fmt::Write;

use sha2::{Digest, Sha256};

use super::Checkpoint;

/// Dimensions a layer plan depends on. The values left out of older configs have the defaults transformers gives them,
/// so that a config saved again is the same model.
const DIMENSIONS: [&str; 8] = [
    "model_type",
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
];

impl Checkpoint {
    /// SHA-256, in hexadecimal, of a text with a line for each dimension of the config and a line for each tensor, by
    /// name: name, dtype, shape. How the tensors are dealt out to files does not matter, nor do their values: every
    /// copy of a checkpoint and every fine-tuned sibling has the same fingerprint, another model another. A tied model
    /// that keeps its head under another name than its copy has another one, too: a plan copies tensors by name.
    /// Of weights that are decoded it is that of what is stored.
    pub fn fingerprint(&self) -> String {
        if let Some(quantized) = &self.quantized {
            return quantized.fingerprint.clone();
        }
        let mut text = String::from("prune fingerprint 1\n");
        for key in DIMENSIONS {
            // writing to a string cannot fail
            _ = writeln!(text, "{key} {}", self.dimension(key));
        }
        for (name, entry) in &self.index.tensors {
            _ = writeln!(text, "{name:?} {} {:?}", entry.dtype, entry.shape);
        }
        hex(&Sha256::digest(text))
    }

    fn dimension(&self, key: &str) -> String {
        let value = |key: &str| self.config.get(key).filter(|value| !value.is_null());
        match (key, value(key)) {
            (_, Some(value)) => value.to_string(),
            ("num_key_value_heads", None) => self.dimension("num_attention_heads"),
            ("head_dim", None) => {
                let number = |key| value(key).and_then(serde_json::Value::as_u64);
                let (width, heads) = (number("hidden_size"), number("num_attention_heads"));
                width.zip(heads).and_then(|(width, heads)| width.checked_div(heads)).unwrap_or(0).to_string()
            }
            _ => "none".to_owned(),
        }
    }
}

/// Bytes in lower-case hexadecimal.
pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        _ = write!(text, "{byte:02x}");
        text
    })
}
