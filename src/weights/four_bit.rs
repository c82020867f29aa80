//! Four-bit weights in a checkpoint, as bitsandbytes saves them: beside `P.weight`, whose bytes are the codes, lie
//! `P.weight.absmax`, `.quant_map`, under double quantisation `.nested_absmax` and `.nested_quant_map`, and
//! `.quant_state.bitsandbytes__nf4`, a JSON text with the rest.

use std::fmt::Write as _;
use std::sync::Arc;

use candle_core::{DType, Device};
use safetensors::Dtype;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::checkpoint::{Entry, Index};
use crate::ops::WeightMatrix;
use crate::ops::nf4::{Nf4Weight, Scales};
use crate::{Context, Error, Result};

/// Bytes of a state's text; real ones have some 150.
const MAX_STATE: u64 = 1 << 16;

/// A tensor to write: name, dtype, shape, bytes.
pub type PackedTensor = (String, Dtype, Vec<usize>, Vec<u8>);

/// The JSON text of a weight.
#[derive(Deserialize)]
struct State {
    blocksize: usize,
    dtype: String,
    shape: Vec<usize>,
    nested_blocksize: Option<usize>,
    nested_offset: Option<f32>,
}

/// The matrix `name` `[o, i]` in main memory, in four bits or in its type on disk.
///
/// # Errors
/// Work: as [`load`] and [`Index::load`].
pub(crate) fn load_matrix(index: &Index, name: &str, shape: &[usize]) -> Result<WeightMatrix> {
    match (index.four_bit_state(name), shape) {
        (Some(_), [rows, columns]) => Ok(WeightMatrix::FourBit(Arc::new(load(index, name, (*rows, *columns))?))),
        _ => Ok(WeightMatrix::Dense(index.load(name, shape, &Device::Cpu)?)),
    }
}

/// The four-bit weight `name` `[o, i]`.
///
/// # Errors
/// Work: a part that is missing or does not fit the others, another shape than `shape`.
pub fn load(index: &Index, name: &str, shape: (usize, usize)) -> Result<Nf4Weight> {
    let entry = index.entry(name)?;
    let place = || format!("{}: tensor {name}", index.shards[entry.shard].display());
    read(index, name, entry, shape).context(place)
}

/// Shape and type that the four-bit weight `name` had.
///
/// # Errors
/// Work: not a four-bit weight, or settings that cannot be read.
pub fn original(index: &Index, name: &str) -> Result<(Vec<usize>, DType)> {
    let state = state(index, name).context(|| format!("tensor {name}"))?;
    let dtype = state.dtype()?;
    Ok((state.shape, dtype))
}

fn state(index: &Index, name: &str) -> Result<State> {
    let state = index.four_bit_state(name).ok_or_else(|| Error::work("is not stored in four bits"))?;
    if state.len > MAX_STATE {
        return Err(Error::work(format!("its quant_state has {} bytes, expected a short text", state.len)));
    }
    serde_json::from_slice(&index.read(state)?)
        .map_err(|error| Error::work(format!("its quant_state is not what bitsandbytes writes: {error}")))
}

impl State {
    fn dtype(&self) -> Result<DType> {
        match self.dtype.as_str() {
            "bfloat16" => Ok(DType::BF16),
            "float16" => Ok(DType::F16),
            "float32" => Ok(DType::F32),
            other => {
                Err(Error::work(format!("its quant_state says dtype {other}, expected bfloat16, float16 or float32")))
            }
        }
    }
}

fn read(index: &Index, name: &str, entry: &Entry, shape: (usize, usize)) -> Result<Nf4Weight> {
    let state = state(index, name)?;
    if state.shape != [shape.0, shape.1] {
        let expected = [shape.0, shape.1];
        return Err(Error::work(format!("its quant_state says shape {:?}, expected {expected:?}", state.shape)));
    }
    let dtype = state.dtype()?;
    let part = |ending: &str, dtype: Dtype| -> Result<Vec<u8>> {
        let part = index.entry(&format!("{name}.{ending}"))?;
        match part.dtype == dtype {
            true => index.read(part),
            false => Err(Error::work(format!("{ending} is {}, expected {dtype}", part.dtype))),
        }
    };
    let scales = match (state.nested_blocksize, state.nested_offset) {
        (None, None) => Scales::Plain(floats(&part("absmax", Dtype::F32)?)),
        (Some(outer_block), Some(offset)) => Scales::Double {
            codes: part("absmax", Dtype::U8)?,
            map: Arc::new(table(&part("nested_quant_map", Dtype::F32)?, "nested_quant_map")?),
            outer: floats(&part("nested_absmax", Dtype::F32)?),
            outer_block,
            offset,
        },
        _ => return Err(Error::work("its quant_state has only one of nested_blocksize and nested_offset")),
    };
    let codes = table(&part("quant_map", Dtype::F32)?, "quant_map")?;
    // any storage type: the bytes are the codes
    Nf4Weight::new(index.read(entry)?, scales, codes, state.blocksize, shape, dtype)
}

fn floats(bytes: &[u8]) -> Vec<f32> {
    bytes.as_chunks::<4>().0.iter().map(|four| f32::from_le_bytes(*four)).collect()
}

fn table<const N: usize>(bytes: &[u8], name: &str) -> Result<[f32; N]> {
    let values = floats(bytes);
    let found = values.len();
    values.try_into().map_err(|_| Error::work(format!("{name} has {found} values, expected {N}")))
}

/// The tensors that hold `weight` under the name `name`, as bitsandbytes would save them.
#[must_use]
pub fn parts(name: &str, weight: &Nf4Weight) -> Vec<PackedTensor> {
    let bytes = |values: &[f32]| values.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<u8>>();
    let floats =
        |ending: &str, values: &[f32]| (format!("{name}.{ending}"), Dtype::F32, vec![values.len()], bytes(values));
    let raw = |ending: &str, bytes: &[u8]| (format!("{name}.{ending}"), Dtype::U8, vec![bytes.len()], bytes.to_vec());
    let (rows, columns) = weight.shape();
    let dtype = match weight.dtype() {
        DType::BF16 => "bfloat16",
        DType::F16 => "float16",
        _ => "float32",
    };
    // Python's own spacing and order of keys, so that the files are byte-identical to those that transformers saves
    let mut state = format!(
        r#"{{"quant_type": "nf4", "blocksize": {}, "dtype": "{dtype}", "shape": [{rows}, {columns}]"#,
        weight.block()
    );
    let mut parts = vec![
        (name.to_owned(), Dtype::U8, vec![weight.packed().len(), 1], weight.packed().to_vec()),
        floats("quant_map", weight.codes()),
    ];
    match weight.scales() {
        Scales::Plain(scales) => parts.push(floats("absmax", scales)),
        Scales::Double { codes, map, outer, outer_block, offset } => {
            parts.push(raw("absmax", codes));
            parts.push(floats("nested_absmax", outer));
            parts.push(floats("nested_quant_map", &map[..]));
            let offset = python_float(f64::from(*offset));
            // writing to a String cannot fail
            let _ = write!(
                state,
                r#", "nested_blocksize": {outer_block}, "nested_dtype": "float32", "nested_offset": {offset}"#
            );
        }
    }
    state.push('}');
    parts.push(raw("quant_state.bitsandbytes__nf4", state.as_bytes()));
    parts
}

/// A float as Python prints it: shortest digits, an exponent of two digits from 1e-5 down and from 1e16 up.
fn python_float(value: f64) -> String {
    if value == 0.0 || (1e-4..1e16).contains(&value.abs()) {
        return format!("{value:?}");
    }
    let text = format!("{value:e}");
    let (digits, exponent) = text.split_once('e').unwrap_or((&text, "0"));
    let (sign, exponent) = exponent.strip_prefix('-').map_or(('+', exponent), |exponent| ('-', exponent));
    format!("{digits}e{sign}{exponent:0>2}")
}

/// What `config.json` says of a checkpoint whose linear layers are stored as [`parts`].
#[must_use]
pub fn quantization_config(double: bool, compute: &str) -> Value {
    json!({
        "_load_in_4bit": true,
        "_load_in_8bit": false,
        "bnb_4bit_compute_dtype": compute,
        "bnb_4bit_quant_storage": "uint8",
        "bnb_4bit_quant_type": "nf4",
        "bnb_4bit_use_double_quant": double,
        "llm_int8_enable_fp32_cpu_offload": false,
        "llm_int8_has_fp16_weight": false,
        "llm_int8_skip_modules": null,
        "llm_int8_threshold": 6.0,
        "load_in_4bit": true,
        "load_in_8bit": false,
        "quant_method": "bitsandbytes",
    })
}

/// The map of `config.json` with or without the quantisation; other keys keep their order.
#[must_use]
pub(crate) fn with_quantization(config: &Map<String, Value>, quantization: Option<Value>) -> Map<String, Value> {
    let mut config = config.clone();
    config.shift_remove("quantization_config");
    config.shift_remove("compression_config");
    if let Some(quantization) = quantization {
        config.insert("quantization_config".into(), quantization);
    }
    config
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn floats_as_python_prints_them() {
        for (value, text) in [(0.0520579032599926, "0.0520579032599926"), (1.984375, "1.984375"), (0.0, "0.0")] {
            assert_eq!(python_float(value), text);
        }
        for (value, text) in [(1e-5, "1e-05"), (1.5e-7, "1.5e-07"), (2e16, "2e+16"), (1e-4, "0.0001"), (3.0, "3.0")] {
            assert_eq!(python_float(value), text);
        }
        assert_eq!(python_float(f64::from(1.234e-5_f32)), "1.2339999557298142e-05");
    }
}
