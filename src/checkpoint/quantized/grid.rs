//! Scales of a matrix: one for all of it, one a row, or one for each of its blocks.

use safetensors::Dtype;

use crate::checkpoint::{Entry, Index};
use crate::{Error, Result};

/// A grid of blocks over a matrix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Grid {
    /// Rows and columns of a block.
    pub(super) block: [usize; 2],
    /// Blocks beside each other.
    pub(super) across: usize,
}

impl Grid {
    /// That of `scales` over a matrix of `rows` and `columns`; `told` is what the config says of a block.
    ///
    /// # Errors
    /// Work: as many scales as do not lie evenly on the matrix.
    pub(super) fn over([rows, columns]: [usize; 2], scales: &Entry, told: Option<[usize; 2]>) -> Result<Self> {
        let (down, across) = match scales.shape[..] {
            [] | [1] => (1, 1),
            [own] if own == rows => (rows, 1),
            [down, across] => (down, across),
            _ => (0, 0),
        };
        let is_told = |block: &[usize; 2]| {
            block.iter().all(|size| *size > 0)
                && (rows.div_ceil(block[0]), columns.div_ceil(block[1])) == (down, across)
        };
        if let Some(block) = told.filter(is_told) {
            return Ok(Self { block, across });
        }
        let is_even = down > 0 && across > 0 && rows.is_multiple_of(down) && columns.is_multiple_of(across);
        if !is_even {
            return Err(Error::work(format!(
                "{} has the shape {:?}, which does not lie evenly on a weight of {rows} x {columns}",
                scales.name, scales.shape
            )));
        }
        Ok(Self { block: [rows / down, columns / across], across })
    }

    /// The number of the scale of an element.
    pub(super) fn at(&self, row: usize, column: usize) -> usize {
        row / self.block[0] * self.across + column / self.block[1]
    }
}

/// The numbers of a tensor, as f32.
///
/// # Errors
/// Work: a type that is no number's.
pub(super) fn numbers(index: &Index, entry: &Entry) -> Result<Vec<f32>> {
    let bytes = index.read(entry)?;
    let pair = |bytes: &[u8]| [bytes[0], bytes[1]];
    Ok(match entry.dtype {
        Dtype::F32 => bytes.chunks_exact(4).map(|own| f32::from_le_bytes([own[0], own[1], own[2], own[3]])).collect(),
        Dtype::F16 => bytes.chunks_exact(2).map(|own| half::f16::from_le_bytes(pair(own)).to_f32()).collect(),
        Dtype::BF16 => bytes.chunks_exact(2).map(|own| half::bf16::from_le_bytes(pair(own)).to_f32()).collect(),
        Dtype::I8 => bytes.iter().map(|own| f32::from(*own as i8)).collect(),
        Dtype::F8_E4M3 => bytes.iter().map(|own| super::fp8::number(*own)).collect(),
        // exponents alone (MX scales)
        Dtype::U8 | Dtype::F8_E8M0 => bytes.iter().map(|own| (f32::from(*own) - 127.0).exp2()).collect(),
        other => return Err(Error::work(format!("{} is {other}, expected numbers", entry.name))),
    })
}

/// The type that a weight with these scales is decoded to: theirs, where weights can have it.
pub(super) fn dtype_of(scales: &Entry, otherwise: Dtype) -> Dtype {
    match scales.dtype {
        Dtype::F16 | Dtype::BF16 => scales.dtype,
        _ => otherwise,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn grid(shape: &[usize], told: Option<[usize; 2]>) -> Result<Grid> {
        let (name, shape) = ("s".to_owned(), shape.to_vec());
        let entry = Entry { name, dtype: Dtype::F32, shape, shard: 0, begin: 0, len: 0 };
        Grid::over([576, 256], &entry, told)
    }

    #[test]
    fn a_scale_for_each_element() {
        assert_eq!(grid(&[], None).unwrap().at(575, 255), 0);
        assert_eq!(grid(&[576, 1], None).unwrap().at(575, 255), 575);
        assert_eq!(grid(&[576], None).unwrap().at(7, 255), 7);
        assert_eq!(grid(&[576, 4], None).unwrap().at(2, 64), 9);
        assert_eq!(grid(&[9, 2], None).unwrap(), Grid { block: [64, 128], across: 2 });
        // the last block of 128 rows has 64
        let told = grid(&[5, 2], Some([128, 128])).unwrap();
        assert_eq!((told.at(575, 255), told.at(127, 127)), (9, 0));
        assert!(grid(&[5, 2], None).unwrap_err().to_string().contains("does not lie evenly on a weight of 576 x 256"));
        assert!(
            grid(&[5, 2], Some([0, 1])).is_err() && grid(&[0, 2], None).is_err() && grid(&[2, 2, 2], None).is_err()
        );
    }
}
