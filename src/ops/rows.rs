//! A 2-D f32 tensor as a kernel sees it: rows of consecutive numbers, some stride apart.

use candle_core::{CpuStorage, Layout as Strides, Result, Tensor, bail};

/// Rows of `width` consecutive numbers; a view into a wider tensor has a stride above its width.
#[derive(Clone, Copy)]
pub(crate) struct Rows<'a> {
    data: &'a [f32],
    pub(crate) count: usize,
    pub(crate) width: usize,
    pub(crate) stride: usize,
}

impl<'a> Rows<'a> {
    /// The rows of a 2-D f32 tensor on the CPU.
    pub(crate) fn new(op: &str, storage: &'a CpuStorage, strides: &Strides) -> Result<Self> {
        let CpuStorage::F32(data) = storage else {
            bail!("{op}: expected f32 numbers, found {:?}", storage_dtype(storage))
        };
        let (count, width) = strides.shape().dims2()?;
        let [stride, 1] = *strides.stride() else { bail!("{op}: the numbers of a row are not consecutive") };
        let data = &data[strides.start_offset()..];
        if count > 0 && (count - 1) * stride + width > data.len() {
            bail!("{op}: rows reach past the tensor")
        }
        Ok(Self { data, count, width, stride })
    }

    /// Row `index`.
    pub(crate) fn row(&self, index: usize) -> &'a [f32] {
        &self.data[index * self.stride..][..self.width]
    }

    /// From the first number on.
    pub(crate) fn data(&self) -> &'a [f32] {
        self.data
    }
}

/// The tensor itself when its rows are consecutive numbers, else a contiguous copy.
pub(crate) fn by_rows(tensor: &Tensor) -> Result<Tensor> {
    match *tensor.stride() {
        [_, 1] | [1] => Ok(tensor.clone()),
        _ => tensor.contiguous(),
    }
}

fn storage_dtype(storage: &CpuStorage) -> candle_core::DType {
    use candle_core::backend::BackendStorage;
    storage.dtype()
}
