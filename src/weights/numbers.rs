//! The numbers of a stored tensor, some rows at a time.

use candle_core::{DType, Device, Tensor};

use super::four_bit;
use crate::Result;
use crate::checkpoint::{Entry, Index};
use crate::ops::Nf4Weight;

/// Numbers of a tensor that are in memory at a time, unless one row is longer.
pub const PIECE: usize = 1 << 22;

/// The numbers of a stored tensor.
pub enum Numbers<'a> {
    /// In its type on disk.
    Dense(&'a Index, &'a Entry),
    /// In four bits.
    FourBit(Nf4Weight),
}

impl<'a> Numbers<'a> {
    /// The tensor `entry` of `index`, whose shape is or was `shape`.
    ///
    /// # Errors
    /// Work: four bits that cannot be read.
    pub fn open(index: &'a Index, entry: &'a Entry, shape: &[usize]) -> Result<Self> {
        match (index.four_bit_state(&entry.name), shape) {
            (Some(_), [rows, columns]) => Ok(Self::FourBit(four_bit::load(index, &entry.name, (*rows, *columns))?)),
            _ => Ok(Self::Dense(index, entry)),
        }
    }

    /// Calls `take` with some rows at a time as f32, and the number of the first.
    ///
    /// # Errors
    /// Work: a file that cannot be read. Whatever `take` finds wrong.
    pub fn pieces(&self, mut take: impl FnMut(usize, Tensor) -> Result<()>) -> Result<()> {
        let (rows, columns) = match self {
            Self::FourBit(weight) => weight.shape(),
            Self::Dense(_, entry) => match entry.shape[..] {
                [rows, columns] => (rows, columns),
                // a vector is one row that is not cut
                _ => return take(0, self.vector()?),
            },
        };
        let step = (PIECE / columns.max(1)).max(1);
        for first in (0..rows).step_by(step) {
            let range = first..(first + step).min(rows);
            let piece = match self {
                Self::Dense(index, entry) => {
                    let piece = index.load_rows_range(&entry.name, &entry.shape, range, &Device::Cpu)?;
                    piece.to_dtype(DType::F32)?
                }
                Self::FourBit(weight) => {
                    let mut values = vec![0_f32; range.len() * columns];
                    weight.decode(first * columns, &mut values);
                    Tensor::from_vec(values, (range.len(), columns), &Device::Cpu)?
                }
            };
            take(first, piece)?;
        }
        Ok(())
    }

    fn vector(&self) -> Result<Tensor> {
        match self {
            Self::Dense(index, entry) => index.load_f32(&entry.name, &entry.shape, &Device::Cpu),
            Self::FourBit(weight) => weight.dequantise(DType::F32, &Device::Cpu),
        }
    }
}
