//! A tensor that is decoded when it is first read, and kept until all of it was.

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
    /// Fills `out`, the matrix row by row, without other threads: one that waits for this may be asked for help.
    ///
    /// # Errors
    /// Work: a tensor that cannot be read, a code without a meaning.
    fn decode(&self, index: &Index, out: &mut [f32]) -> Result<()>;
}

#[derive(Debug)]
pub(super) struct Decoded {
    index: Arc<Index>,
    slot: Slot,
    how: Box<dyn Decoding>,
    /// The bytes, and how many of them are still to be read.
    now: Mutex<Option<(Arc<Vec<u8>>, u64)>>,
}

impl Decoded {
    pub(super) fn new(index: Arc<Index>, slot: Slot, how: Box<dyn Decoding>) -> Self {
        Self { index, slot, how, now: Mutex::new(None) }
    }

    fn decode(&self) -> Result<Vec<u8>> {
        let mut numbers = vec![0_f32; self.slot.shape.iter().product()];
        self.how.decode(&self.index, &mut numbers).context(|| format!("tensor {}", self.slot.name))?;
        if let Some(broken) = numbers.iter().position(|number| !number.is_finite()) {
            let name = &self.slot.name;
            return Err(Error::work(format!(
                "tensor {name}: number {broken} (from 0) is not finite once it is decoded"
            )));
        }
        let mut bytes = vec![0_u8; self.slot.len().unwrap_or(0)];
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
        let all = {
            let mut now = self.now.lock().unwrap_or_else(PoisonError::into_inner);
            let (all, left) = match now.take() {
                Some(known) => known,
                None => {
                    let all = self.decode()?;
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
        let from = usize::try_from(offset).ok();
        let range = from.and_then(|from| all.get(from..from.checked_add(bytes.len())?));
        let range = range.ok_or_else(|| Error::work(format!("tensor {}: read beyond its end", self.slot.name)))?;
        bytes.copy_from_slice(range);
        Ok(())
    }
}
