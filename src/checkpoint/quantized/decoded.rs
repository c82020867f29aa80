//! A tensor whose pieces are each decoded when they are first read, and kept until all of them was.

use std::fmt::Debug;
use std::sync::{Arc, Mutex, PoisonError};

use half::slice::{HalfBitsSliceExt, HalfFloatSliceExt};
use half::{bf16, f16};
use safetensors::Dtype;

use crate::checkpoint::overlay::Computed;
use crate::checkpoint::{Index, Slot};
use crate::{Context, Error, Result};

/// How a matrix comes out of the tensors it is stored as.
pub(super) trait Decoding: Debug + Send + Sync {
    /// Pieces of the same size, along the first dimension, that are decoded one without the other.
    fn pieces(&self) -> usize {
        1
    }

    /// Fills `out`, the piece row by row, without other threads: one that waits for this may be asked for help.
    ///
    /// # Errors
    /// Work: a tensor that cannot be read, a code without a meaning.
    fn decode(&self, index: &Index, piece: usize, out: &mut [f32]) -> Result<()>;
}

#[derive(Debug)]
pub(super) struct Decoded {
    index: Arc<Index>,
    slot: Slot,
    how: Box<dyn Decoding>,
    /// Of each piece.
    now: Vec<Mutex<Option<Known>>>,
}

/// The bytes of a piece, and how many of them are still to be read.
type Known = (Arc<Vec<u8>>, u64);

impl Decoded {
    pub(super) fn new(index: Arc<Index>, slot: Slot, how: Box<dyn Decoding>) -> Self {
        let now = (0..how.pieces()).map(|_| Mutex::new(None)).collect();
        Self { index, slot, how, now }
    }

    fn decode(&self, piece: usize) -> Result<Vec<u8>> {
        let mut numbers = vec![0_f32; self.slot.shape.iter().product::<usize>() / self.now.len().max(1)];
        let first = piece * numbers.len();
        self.how.decode(&self.index, piece, &mut numbers).context(|| format!("tensor {}", self.slot.name))?;
        if let Some(broken) = numbers.iter().position(|number| !number.is_finite()) {
            let (name, broken) = (&self.slot.name, first + broken);
            return Err(Error::work(format!(
                "tensor {name}: number {broken} (from 0) is not finite once it is decoded"
            )));
        }
        let mut bytes = vec![0_u8; numbers.len() * self.slot.dtype.bitsize() / 8];
        match self.slot.dtype {
            Dtype::F32 => bytes.copy_from_slice(bytemuck::cast_slice(&numbers)),
            Dtype::F16 => {
                let mut halves = vec![0_u16; numbers.len()];
                halves.reinterpret_cast_mut::<f16>().convert_from_f32_slice(&numbers);
                bytes.copy_from_slice(bytemuck::cast_slice(&halves));
            }
            _ => {
                let mut halves = vec![0_u16; numbers.len()];
                halves.reinterpret_cast_mut::<bf16>().convert_from_f32_slice(&numbers);
                bytes.copy_from_slice(bytemuck::cast_slice(&halves));
            }
        }
        Ok(bytes)
    }
}

impl Computed for Decoded {
    fn read_at(&self, offset: u64, bytes: &mut [u8]) -> Result<()> {
        let beyond = || Error::work(format!("tensor {}: read beyond its end", self.slot.name));
        let size = self.slot.len().ok_or_else(beyond)? / self.now.len().max(1);
        let mut at = usize::try_from(offset).map_err(|_| beyond())?;
        let mut bytes = bytes;
        while !bytes.is_empty() {
            let piece = at.checked_div(size).ok_or_else(beyond)?;
            let within = at - piece * size;
            let (own, rest) = bytes.split_at_mut(bytes.len().min(size - within));
            self.read_piece(piece, within, own)?;
            at += own.len();
            bytes = rest;
        }
        Ok(())
    }
}

impl Decoded {
    /// Fills `bytes` from byte `from` of a piece.
    fn read_piece(&self, piece: usize, from: usize, bytes: &mut [u8]) -> Result<()> {
        let beyond = || Error::work(format!("tensor {}: read beyond its end", self.slot.name));
        let all = {
            let now = self.now.get(piece).ok_or_else(beyond)?;
            let mut now = now.lock().unwrap_or_else(PoisonError::into_inner);
            let (all, left) = match now.take() {
                Some(known) => known,
                None => {
                    let all = self.decode(piece)?;
                    let len = all.len() as u64;
                    (Arc::new(all), len)
                }
            };
            let left = left.saturating_sub(bytes.len() as u64);
            if left > 0 {
                *now = Some((all.clone(), left));
            }
            all
        };
        let range = from.checked_add(bytes.len()).and_then(|end| all.get(from..end));
        bytes.copy_from_slice(range.ok_or_else(beyond)?);
        Ok(())
    }
}
