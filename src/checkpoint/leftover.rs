//! A word of quantisation that was left over in the config of weights that are plain floating point numbers.

use safetensors::Dtype;
use serde_json::{Map, Value};

use super::Index;

/// Keys of a config that say how weights are quantised.
const KEYS: [&str; 2] = ["quantization_config", "compression_config"];

/// Dtypes of weights that are not quantised.
const PLAIN: [Dtype; 4] = [Dtype::F64, Dtype::F32, Dtype::F16, Dtype::BF16];

/// Ends of names that a layer of weights which are not quantised has; the last is a buffer that nothing reads.
const ENDINGS: [&str; 3] = [".weight", ".bias", ".rotary_emb.inv_freq"];

/// Takes what was left over from `config`: its key and its value.
pub(super) fn take(config: &mut Map<String, Value>, index: &Index) -> Option<(&'static str, Value)> {
    let key = KEYS.into_iter().find(|key| config.get(*key).is_some_and(Value::is_object))?;
    // where scales or codes lie beside the weights, they may be needed
    let is_plain = |name: &str, dtype: &Dtype| PLAIN.contains(dtype) && ENDINGS.iter().any(|end| name.ends_with(end));
    let mut layers = index.tensors.values().filter(|entry| entry.name.contains("layers.")).peekable();
    layers.peek()?;
    if !layers.all(|entry| is_plain(&entry.name, &entry.dtype)) {
        return None;
    }
    config.shift_remove(key).map(|value| (key, value))
}
