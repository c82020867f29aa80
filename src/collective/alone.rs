//! One process by itself.

use super::{Collective, Sums};
use crate::Result;

/// A process that trains by itself.
#[derive(Clone, Copy, Debug, Default)]
pub struct Alone;

impl Collective for Alone {
    fn rank(&self) -> usize {
        0
    }

    fn size(&self) -> usize {
        1
    }

    fn sum(&self, own: Vec<Sums>) -> Result<Sums> {
        let mut own = own.into_iter();
        let mut sums = own.next().unwrap_or_default();
        own.try_for_each(|next| sums.add(next))?;
        Ok(sums)
    }

    fn broadcast(&self, own: Vec<u8>) -> Result<Vec<u8>> {
        Ok(own)
    }

    fn gather(&self) -> Result<()> {
        Ok(())
    }
}
