//! A 2-D f32 tensor as a kernel sees it, and buffers that kernels fill row by row on all threads.

use std::mem::MaybeUninit;

use candle_core::backend::BackendStorage;
use candle_core::{CpuStorage, Layout as Strides, Result, Storage, StorageRef, Tensor, bail};
use rayon::prelude::*;

use super::matmul::{Matrix, Target};
use super::simd::vectorized;

/// Rows of `width` consecutive numbers; a view into a wider tensor has a stride above its width.
#[derive(Clone, Copy, Default)]
pub(crate) struct Rows<'a> {
    data: &'a [f32],
    pub(crate) count: usize,
    pub(crate) width: usize,
    pub(crate) stride: usize,
}

impl<'a> Rows<'a> {
    /// The rows of a 2-D f32 tensor on the CPU.
    pub(crate) fn new(op: &str, storage: &'a CpuStorage, strides: &Strides) -> Result<Self> {
        let CpuStorage::F32(data) = storage else { bail!("{op}: expected f32, found {:?}", storage.dtype()) };
        let (count, width) = strides.shape().dims2()?;
        let stride = match *strides.stride() {
            [stride, 1] => stride,
            [stride, _] if width == 1 => stride,
            _ => bail!("{op}: the numbers of a row are not consecutive"),
        };
        let data = &data[strides.start_offset()..];
        if count > 0 && (count - 1) * stride + width > data.len() {
            bail!("{op}: the rows reach past the tensor")
        }
        Ok(Self { data, count, width, stride })
    }

    /// Row `index`.
    #[inline(always)]
    pub(crate) fn row(&self, index: usize) -> &'a [f32] {
        &self.data[index * self.stride..][..self.width]
    }

    /// The same numbers as the operand of a product.
    pub(crate) fn matrix(&self) -> Matrix<'a> {
        Matrix::new(self.data, self.count, self.width, self.stride, 1)
    }
}

/// A tensor whose storage is held for reading.
pub(crate) struct Held<'a> {
    storage: StorageRef<'a>,
    strides: &'a Strides,
}

impl<'a> Held<'a> {
    pub(crate) fn new(tensor: &'a Tensor) -> Self {
        let (storage, strides) = tensor.storage_and_layout();
        Self { storage, strides }
    }

    /// The storage and its strides, on the CPU.
    pub(crate) fn cpu(&self, op: &str) -> Result<(&CpuStorage, &Strides)> {
        match &*self.storage {
            Storage::Cpu(storage) => Ok((storage, self.strides)),
            other => bail!("{op}: no kernel for {:?}", other.device().location()),
        }
    }

    /// The rows of a 2-D f32 tensor on the CPU.
    pub(crate) fn rows(&self, op: &str) -> Result<Rows<'_>> {
        let (storage, strides) = self.cpu(op)?;
        Rows::new(op, storage, strides)
    }
}

/// The tensor itself when its rows are consecutive numbers, else a contiguous copy.
pub(crate) fn by_rows(tensor: &Tensor) -> Result<Tensor> {
    match *tensor.stride() {
        [.., 1] => Ok(tensor.clone()),
        _ => tensor.contiguous(),
    }
}

/// What `kernel` makes of the rows of some 2-D f32 tensors on the CPU, for `op`.
pub(crate) fn with_rows<const N: usize, R>(
    op: &str,
    tensors: [&Tensor; N],
    kernel: impl FnOnce([Rows; N]) -> Result<R>,
) -> Result<R> {
    let mut tensors = tensors.map(Tensor::clone);
    for tensor in &mut tensors {
        *tensor = by_rows(tensor)?;
    }
    let held = tensors.each_ref().map(Held::new);
    let mut rows = [Rows::default(); N];
    for (rows, held) in rows.iter_mut().zip(&held) {
        *rows = held.rows(op)?;
    }
    kernel(rows)
}

/// Numbers `[rows, columns]`, which `write` has to set.
pub(crate) fn filled(rows: usize, columns: usize, write: impl FnOnce(&mut Target)) -> Vec<f32> {
    let len = rows * columns;
    let mut buffer = Vec::with_capacity(len);
    let mut out = Target::new(&mut buffer.spare_capacity_mut()[..len], rows, columns, columns);
    write(&mut out);
    assert!(out.is_set() || len == 0);
    // SAFETY: the capacity is at least `len`, and that many numbers are set
    unsafe { buffer.set_len(len) };
    buffer
}

/// Numbers below which starting threads costs more than it saves.
const WORTH_THREADS: usize = 1 << 15;

/// A row to be written.
pub(crate) type NewRow<'a> = &'a mut [MaybeUninit<f32>];

/// The word that whoever is given rows to write initialises every number of them.
pub(crate) struct AllWritten(());

impl AllWritten {
    /// Gives it.
    ///
    /// # Safety
    /// It is kept.
    pub(crate) unsafe fn promised() -> Self {
        Self(())
    }
}

/// Buffers of `count` rows of `width` numbers; `write` is given a row's index and writes that row in each of them.
pub(crate) fn filled_rows<const N: usize>(
    count: usize,
    width: usize,
    _promise: AllWritten,
    write: impl Fn(usize, [NewRow; N]) + Sync,
) -> [Vec<f32>; N] {
    let len = count * width;
    let mut buffers: [Vec<f32>; N] = std::array::from_fn(|_| Vec::with_capacity(len));
    if len > 0 {
        let rows = if len < 2 * WORTH_THREADS { count } else { WORTH_THREADS.div_ceil(width) };
        let mut parts = buffers.each_mut().map(|buffer| buffer.spare_capacity_mut()[..len].chunks_mut(rows * width));
        let blocks: Vec<[NewRow; N]> =
            (0..count.div_ceil(rows)).map(|_| parts.each_mut().map(|parts| parts.next().unwrap_or_default())).collect();
        // behind a reference, so that the threads' machinery is compiled once, not for every `write`
        #[expect(clippy::type_complexity, reason = "it is named once, here")]
        let fill: &(dyn Fn((usize, [NewRow; N])) + Sync) = &|(block, mut parts)| {
            vectorized(
                #[inline(always)]
                || {
                    for row in 0..parts[0].len() / width {
                        write(block * rows + row, parts.each_mut().map(|part| &mut part[row * width..][..width]));
                    }
                },
            );
        };
        if blocks.len() < 2 {
            blocks.into_iter().enumerate().for_each(fill);
        } else {
            blocks.into_par_iter().enumerate().for_each(fill);
        }
    }
    for buffer in &mut buffers {
        // SAFETY: the capacity is at least `len`, and the blocks cover all rows, which `write` initialises, as promised
        unsafe { buffer.set_len(len) };
    }
    buffers
}
