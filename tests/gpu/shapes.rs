//! Checkpoints of well-known shapes with random weights, for benchmarks.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;

use half::bf16;
use prune::arch::ModelSpec;
use serde_json::{Map, Value, json};

use crate::fixture::{Llama, write_json};

/// A number from the environment.
pub(crate) fn setting(name: &str, default: usize) -> usize {
    std::env::var(name).map_or(default, |value| value.parse().unwrap())
}

/// Llama-2 7B's shape, or one with its proportions.
pub(crate) fn llama2() -> Llama {
    let (layers, width) = (setting("PRUNE_BENCH_LAYERS", 32), setting("PRUNE_BENCH_WIDTH", 4096));
    let heads = (width / 128).max(1);
    let vocab = if width == 4096 { 32_000 } else { 512 };
    Llama { mlp: width * 43 / 16, vocab, ..shape(layers, width, (heads, heads)) }
}

/// Llama-3 8B's shape, or one with its proportions.
pub(crate) fn llama3() -> Llama {
    let (layers, width) = (setting("PRUNE_BENCH_LAYERS", 32), setting("PRUNE_BENCH_WIDTH", 4096));
    let heads = (width / 128).max(1);
    let vocab = if width == 4096 { 128_256 } else { 512 };
    Llama { mlp: width * 7 / 2, vocab, ..shape(layers, width, (heads, heads.div_ceil(4))) }
}

fn shape(layers: usize, width: usize, (heads, kv_heads): (usize, usize)) -> Llama {
    let (head_dim, dtype) = (width / heads, safetensors::Dtype::BF16);
    Llama { layers, hidden: width, heads, kv_heads, head_dim, dtype, ..Llama::default() }
}

/// Writes a bf16 checkpoint of this shape for sequences of up to `len` tokens. All matrices repeat the same noise,
/// scaled to their width: its numbers mean nothing.
pub(crate) fn write(dir: &Path, llama: &Llama, len: usize) {
    let mut config = llama.config();
    config.insert("max_position_embeddings".into(), json!(len));
    let spec = ModelSpec::from_config(&config).unwrap();
    let table = vec![spec.vocab_size, spec.hidden_size];
    let mut tensors = vec![("model.embed_tokens.weight".to_owned(), table.clone())];
    tensors.extend((0..spec.layers).flat_map(|l| spec.layer_tensors(l)).map(|tensor| (tensor.name, tensor.shape)));
    tensors.push(("model.norm.weight".to_owned(), vec![spec.hidden_size]));
    tensors.push(("lm_head.weight".to_owned(), table));
    let (mut header, mut at) = (Map::new(), 0);
    for (name, shape) in &tensors {
        let end = at + 2 * shape.iter().product::<usize>();
        header.insert(name.clone(), json!({"dtype": "BF16", "shape": shape, "data_offsets": [at, end]}));
        at = end;
    }
    let mut header = serde_json::to_vec(&header).unwrap();
    header.resize(header.len().next_multiple_of(8), b' ');
    let mut file = BufWriter::new(File::create(dir.join("model.safetensors")).unwrap());
    file.write_all(&(header.len() as u64).to_le_bytes()).unwrap();
    file.write_all(&header).unwrap();
    let mut state = 1_u64;
    let mut noise = |scale: f32| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        bf16::from_f32(((state >> 40) as f32 / (1 << 23) as f32 - 1.0) * scale).to_le_bytes()
    };
    let block = |scale: f32, noise: &mut dyn FnMut(f32) -> [u8; 2]| (0..1 << 22).flat_map(|_| noise(scale)).collect();
    let widths = [spec.hidden_size, spec.mlp_size];
    let blocks: Vec<Vec<u8>> = widths.iter().map(|w| block((3.0 / *w as f32).sqrt(), &mut noise)).collect();
    for (_, shape) in &tensors {
        let mut left = 2 * shape.iter().product::<usize>();
        if shape.len() == 1 {
            file.write_all(&bf16::ONE.to_le_bytes().repeat(left / 2)).unwrap();
            continue;
        }
        let block = &blocks[usize::from(shape[1] == spec.mlp_size)];
        while left > 0 {
            let piece = left.min(block.len());
            file.write_all(&block[..piece]).unwrap();
            left -= piece;
        }
    }
    file.flush().unwrap();
    write_json(&dir.join("config.json"), &Value::Object(config));
}

pub(crate) fn rows(count: usize, tokens: usize, vocabulary: usize) -> Vec<Vec<u32>> {
    (0..count).map(|row| (0..tokens).map(|i| ((row * 7919 + i * i * 31 + i) % vocabulary) as u32).collect()).collect()
}

/// Operations of a forward pass over `tokens` tokens in sequences of `len`: products and half of attention's square.
pub(crate) fn flops(spec: &ModelSpec, tokens: usize, len: usize) -> f64 {
    let tensors = spec.layer_tensors(0);
    let matrices: usize = tensors.iter().filter(|t| t.shape.len() == 2).map(|t| t.shape[0] * t.shape[1]).sum();
    let attention = 2 * spec.heads * spec.head_dim * len;
    (tokens * spec.layers) as f64 * (2 * matrices + attention) as f64
}
