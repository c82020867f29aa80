//! Values of tensors: bytes read straight into the vector that becomes the tensor.

use std::ops::Range;

use candle_core::{Device, Tensor};
use half::slice::{HalfBitsSliceExt, HalfFloatSliceExt};
use half::vec::HalfBitsVecExt;
use half::{bf16, f16};
use rayon::prelude::*;
use safetensors::Dtype;

use super::index::{Entry, Index};
use crate::{Error, Result};

#[cfg(target_endian = "big")]
compile_error!("safetensors files are little-endian and are read without swapping");

/// Elements widened at a time: 512 KiB of half precision, which stays in cache between reading and widening.
const CHUNK: usize = 1 << 18;

impl Index {
    /// The tensor `name` in the dtype it has on disk: F32, F16 or BF16.
    ///
    /// # Errors
    /// Work: no such tensor, another shape than `shape`, another dtype, or a file that cannot be read.
    pub fn load(&self, name: &str, shape: &[usize], device: &Device) -> Result<Tensor> {
        let entry = self.expect(name, shape)?;
        self.typed(entry, 0, shape, device)
    }

    /// Entry `at` of the first dimension of the tensor `name`, in the dtype it has on disk; `shape` is that of all.
    ///
    /// # Errors
    /// As [`Index::load`]; also an entry that is not there.
    pub(crate) fn load_entry(&self, name: &str, shape: &[usize], at: usize, device: &Device) -> Result<Tensor> {
        let entry = self.expect(name, shape)?;
        let Some((_, own)) = shape.split_first().filter(|(count, _)| at < **count) else {
            return Err(Error::work(format!("entry {at} is not in tensor {name} {shape:?}")));
        };
        let bytes = own.iter().product::<usize>() * entry.dtype.bitsize() / 8;
        self.typed(entry, (at * bytes) as u64, own, device)
    }

    /// The tensor `name` widened to f32.
    ///
    /// # Errors
    /// As [`Index::load`].
    pub fn load_f32(&self, name: &str, shape: &[usize], device: &Device) -> Result<Tensor> {
        let entry = self.expect(name, shape)?;
        let mut values = vec![0f32; shape.iter().product()];
        values
            .par_chunks_mut(CHUNK)
            .enumerate()
            .try_for_each_init(Vec::new, |narrow, (chunk, values)| self.widen(entry, chunk * CHUNK, values, narrow))?;
        Ok(Tensor::from_vec(values, shape, device)?)
    }

    /// Rows `rows` of the matrix `name`, `[rows, d]`, in the dtype it has on disk: a slice of the vocabulary head, or
    /// one part of a fused projection; of more dimensions entries of the first. `shape` is the shape of the whole.
    ///
    /// # Errors
    /// As [`Index::load`]; also rows out of bounds.
    pub fn load_rows_range(&self, name: &str, shape: &[usize], rows: Range<usize>, device: &Device) -> Result<Tensor> {
        let entry = self.expect(name, shape)?;
        let Some((_, row)) = shape.split_first().filter(|(height, _)| rows.start <= rows.end && rows.end <= **height)
        else {
            return Err(Error::work(format!("rows {rows:?} are not in tensor {name} {shape:?}")));
        };
        let row_bytes = (row.iter().product::<usize>() * entry.dtype.bitsize() / 8) as u64;
        self.typed(entry, rows.start as u64 * row_bytes, &[&[rows.len()], row].concat(), device)
    }

    /// Row `ids[i]` of the matrix `name` at row i, `[n, d]` in f32 on the CPU: the embedding lookup without the
    /// embedding. Each distinct row is read once, in the order of the file.
    ///
    /// # Errors
    /// As [`Index::load`]; also an id beyond the last row.
    pub fn gather_rows(&self, name: &str, shape: &[usize], ids: &[u32]) -> Result<Tensor> {
        let entry = self.expect(name, shape)?;
        let (height, width) = matrix(entry)?;
        if let Some(id) = ids.iter().find(|&&id| id as usize >= height) {
            return Err(Error::work(format!("token {id} is beyond the {height} rows of {name}")));
        }
        let mut order: Vec<usize> = (0..ids.len()).collect();
        order.sort_unstable_by_key(|&place| ids[place]);
        let mut values = vec![0f32; ids.len() * width];
        let (mut row, mut narrow) = (vec![0f32; width], Vec::new());
        for same in order.chunk_by(|&a, &b| ids[a] == ids[b]) {
            self.widen(entry, ids[same[0]] as usize * width, &mut row, &mut narrow)?;
            for &place in same {
                values[place * width..][..width].copy_from_slice(&row);
            }
        }
        Ok(Tensor::from_vec(values, (ids.len(), width), &Device::Cpu)?)
    }

    /// The entry `name`, which must have this shape and a dtype that is computed with.
    fn expect(&self, name: &str, shape: &[usize]) -> Result<&Entry> {
        let entry = self.entry(name)?;
        if entry.shape != shape {
            return Err(self.fault(entry, format!("has the shape {:?}, the config asks for {shape:?}", entry.shape)));
        }
        match entry.dtype {
            Dtype::F32 | Dtype::F16 | Dtype::BF16 => Ok(entry),
            other => Err(self.fault(entry, format!("is {other}; weights are F32, F16 or BF16"))),
        }
    }

    /// `shape` values from byte `offset` of the tensor.
    fn typed(&self, entry: &Entry, offset: u64, shape: &[usize], device: &Device) -> Result<Tensor> {
        let len = shape.iter().product();
        if entry.dtype == Dtype::F32 {
            let mut values = vec![0f32; len];
            self.read_range(entry, offset, bytemuck::cast_slice_mut(&mut values))?;
            return Ok(Tensor::from_vec(values, shape, device)?);
        }
        // zeroed bits come from the system untouched; a vector of half-precision zeros would be written twice
        let mut bits = vec![0u16; len];
        self.read_range(entry, offset, bytemuck::cast_slice_mut(&mut bits))?;
        Ok(match entry.dtype {
            Dtype::F16 => Tensor::from_vec(bits.reinterpret_into::<f16>(), shape, device)?,
            _ => Tensor::from_vec(bits.reinterpret_into::<bf16>(), shape, device)?,
        })
    }

    /// Fills `values` from element `first` of the tensor; `narrow` is kept between calls.
    fn widen(&self, entry: &Entry, first: usize, values: &mut [f32], narrow: &mut Vec<u16>) -> Result<()> {
        let offset = (first * entry.dtype.bitsize() / 8) as u64;
        if entry.dtype == Dtype::F32 {
            return self.read_range(entry, offset, bytemuck::cast_slice_mut(values));
        }
        narrow.resize(values.len(), 0);
        self.read_range(entry, offset, bytemuck::cast_slice_mut(narrow))?;
        match entry.dtype {
            Dtype::F16 => narrow.reinterpret_cast::<f16>().convert_to_f32_slice(values),
            _ => narrow.reinterpret_cast::<bf16>().convert_to_f32_slice(values),
        }
        Ok(())
    }
}

/// Rows and columns.
fn matrix(entry: &Entry) -> Result<(usize, usize)> {
    match entry.shape[..] {
        [height, width] => Ok((height, width)),
        _ => Err(Error::work(format!("tensor {} is no matrix: {:?}", entry.name, entry.shape))),
    }
}
