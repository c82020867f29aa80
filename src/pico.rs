//! The smallest model there is, for documentation, doctests and tests of one's own: a Llama of 4 layers, width 16 and
//! 64 words, with a tokenizer, 70 KB on disk. Its weights are a formula, the same everywhere; it says nothing of use.

use std::io::Write;
use std::path::Path;

use safetensors::Dtype;
use serde_json::{Map, Value, json};

use crate::arch::ModelSpec;
use crate::checkpoint::{ByteSize, ShardPlan, Slot, create_dir, write_new};
use crate::progress::Silent;
use crate::{Error, Result};

/// Words of the vocabulary: `w0`, `w1`, ... `w63`.
pub const WORDS: usize = 64;

/// Its `config.json`.
#[must_use]
pub fn config() -> Map<String, Value> {
    let config = json!({
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 16, "intermediate_size": 24,
        "num_hidden_layers": 4, "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": WORDS,
        "max_position_embeddings": 128, "rms_norm_eps": 1e-5, "tie_word_embeddings": false, "torch_dtype": "float32",
        "bos_token_id": null, "eos_token_id": null,
    });
    if let Value::Object(config) = config { config } else { Map::new() }
}

/// Writes the model into `dir`, which is made if it is not there.
///
/// ```
/// let dir = tempfile::tempdir()?;
/// prune::pico::write(dir.path())?;
/// assert!(dir.path().join("model.safetensors").exists());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Errors
/// Work: the file system's; one of its files is there.
pub fn write(dir: &Path) -> Result<()> {
    create_dir(dir)?;
    let config = config();
    let spec = ModelSpec::from_config(&config)?;
    let table = vec![spec.vocab_size, spec.hidden_size];
    let slot = |name: String, shape| Slot { name, dtype: Dtype::F32, shape };
    let mut slots = vec![
        slot(spec.embedding.to_owned(), table.clone()),
        slot(spec.head.to_owned(), table),
        slot(spec.final_norm_tensor(), vec![spec.hidden_size]),
    ];
    let layers = (0..spec.layers).flat_map(|layer| spec.layer_tensors(layer));
    slots.extend(layers.map(|tensor| slot(tensor.name, tensor.shape)));
    ShardPlan::new(slots, ByteSize(u64::MAX))?.write(dir, &Silent, |slot, file| {
        let bytes: Vec<u8> = weights(&slot.name, &slot.shape).flat_map(f32::to_le_bytes).collect();
        file.write_all(&bytes).map_err(|error| Error::work(error.to_string()))
    })?;
    let vocab: Map<String, Value> = (0..WORDS).map(|word| (format!("w{word}"), json!(word))).collect();
    let tokenizer = json!({
        "version": "1.0", "added_tokens": [], "normalizer": null, "pre_tokenizer": {"type": "WhitespaceSplit"},
        "post_processor": null, "decoder": null,
        "model": {"type": "WordLevel", "vocab": vocab, "unk_token": "w0"},
    });
    write_new(&dir.join("tokenizer.json"), tokenizer.to_string())?;
    write_new(&dir.join("config.json"), Value::Object(config).to_string())
}

/// Norms are one; matrices look random, with rows of about unit length.
fn weights(name: &str, shape: &[usize]) -> impl Iterator<Item = f32> {
    let (count, width) = (shape.iter().product::<usize>(), *shape.last().unwrap_or(&1) as f64);
    let is_norm = shape.len() == 1;
    let seed = name.bytes().fold(7.0, |sum, byte| (sum * 1.7 + f64::from(byte)) % 97.0);
    (0..count).map(move |at| {
        let wave = ((at as f64 + 1.0) * 12.9898 + seed * 78.233).sin() * 43_758.545_3;
        if is_norm { 1.0 } else { ((wave - wave.floor() - 0.5) * 3.5 / width.sqrt()) as f32 }
    })
}
