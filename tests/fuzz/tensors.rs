//! Changes of safetensors files: of what they say, of the header's text, of bytes.

use rand::Rng as _;
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};
use serde_json::{Map, Value, json};

use super::bytes;
use super::case::Rng;
use super::json;
use crate::fixture::Named;

/// A file of `good` with some changes.
pub(super) fn changed(rng: &mut Rng, good: &[Named]) -> Vec<u8> {
    let mut tensors = good.to_vec();
    match rng.random_range(0..8) {
        0..5 => {
            for _ in 0..rng.random_range(1..3) {
                change(rng, &mut tensors);
            }
            whole(&tensors)
        }
        5 | 6 => {
            let (header, mut data) = parts(&tensors);
            if rng.random_ratio(1, 4) {
                data.truncate(rng.random_range(0..=data.len()));
            }
            file(&json::changed(rng, &header), &data)
        }
        _ => {
            let mut bytes = whole(&tensors);
            bytes::change(rng, &mut bytes, &[]);
            bytes
        }
    }
}

/// The tensors of a good file.
pub(super) fn named(bytes: &[u8]) -> Vec<Named> {
    let file = SafeTensors::deserialize(bytes).unwrap();
    let named = |(name, view): (&str, TensorView<'_>)| Named {
        name: name.to_owned(),
        dtype: view.dtype(),
        shape: view.shape().to_vec(),
        bytes: view.data().to_vec(),
    };
    file.iter().map(named).collect()
}

/// A file of these.
pub(super) fn whole(tensors: &[Named]) -> Vec<u8> {
    let (header, data) = parts(tensors);
    file(header.to_string().as_bytes(), &data)
}

/// A change that leaves the file one.
fn change(rng: &mut Rng, tensors: &mut Vec<Named>) {
    let at = rng.random_range(0..tensors.len());
    let count = tensors[at].shape.iter().product::<usize>();
    let tensor = &mut tensors[at];
    match rng.random_range(0..10) {
        0 => tensor.name = json::odd(rng).to_string(),
        1 => drop(tensors.remove(at)),
        2 => {
            let name = tensor.name.replace(".0.", ".1.") + if rng.random() { "" } else { ".weight" };
            let copy = Named { name, ..tensor.clone() };
            tensors.push(copy);
        }
        3 => {
            let all =
                [Dtype::F32, Dtype::F16, Dtype::BF16, Dtype::F64, Dtype::U8, Dtype::I64, Dtype::BOOL, Dtype::F8_E4M3];
            tensor.dtype = all[rng.random_range(0..all.len())];
            tensor.bytes.resize(count * tensor.dtype.bitsize() / 8, 0);
        }
        4 => tensor.shape.reverse(),
        5 => tensor.shape = vec![count],
        6 => tensor.shape.insert(rng.random_range(0..=tensor.shape.len()), 1),
        7 => {
            let axis = rng.random_range(0..tensor.shape.len().max(1));
            if let Some(size) = tensor.shape.get_mut(axis) {
                *size = [0, 1, *size + 1, *size * 2][rng.random_range(0..4)];
            }
            let count = tensor.shape.iter().product::<usize>();
            tensor.bytes.resize(count * tensor.dtype.bitsize() / 8, 1);
        }
        8 => {
            // infinities, NaN, what overflows
            let values = [[0_u8, 0, 0x80, 0x7f], [0, 0, 0xc0, 0xff], [0xff, 0xff, 0x7f, 0x7f], [1, 0, 0, 0], [0xff; 4]];
            let value = values[rng.random_range(0..values.len())];
            let all = rng.random::<bool>();
            for bytes in tensor.bytes.chunks_exact_mut(4).filter(|_| all || rng.random_ratio(1, 16)) {
                bytes.copy_from_slice(&value);
            }
        }
        _ => tensor.bytes.iter_mut().for_each(|byte| *byte = rng.random()),
    }
}

/// Header and bytes, whatever the tensors are: the crate's writer refuses wrong ones.
fn parts(tensors: &[Named]) -> (Value, Vec<u8>) {
    let (mut header, mut data) = (Map::new(), Vec::new());
    header.insert("__metadata__".to_owned(), json!({"format": "pt"}));
    for Named { name, dtype, shape, bytes } in tensors {
        let offsets = [data.len(), data.len() + bytes.len()];
        header.insert(name.clone(), json!({"dtype": dtype.to_string(), "shape": shape, "data_offsets": offsets}));
        data.extend_from_slice(bytes);
    }
    (Value::Object(header), data)
}

fn file(header: &[u8], data: &[u8]) -> Vec<u8> {
    [&(header.len() as u64).to_le_bytes(), header, data].concat()
}
