//! Some tokens at a time: all but attention looks at each token alone.

use std::ops::Range;

use candle_core::Tensor;

use crate::{Error, Result};

/// The rows `0..t`, `at_once` at a time.
pub(super) fn chunks(t: usize, at_once: usize) -> impl Iterator<Item = Range<usize>> {
    let at_once = at_once.max(1);
    (0..t).step_by(at_once).map(move |start| start..(start + at_once).min(t))
}

/// The rows `chunk` of `x`.
pub(super) fn rows(x: &Tensor, chunk: &Range<usize>) -> Result<Tensor> {
    Ok(x.narrow(0, chunk.start, chunk.len())?)
}

/// `[t, n]` that comes a chunk at a time. Joined at the end, all of it would be there twice.
#[derive(Debug)]
pub(super) struct Gathered {
    t: usize,
    whole: Option<Tensor>,
}

impl Gathered {
    /// Nothing yet of `t` rows.
    pub(super) fn new(t: usize) -> Self {
        Self { t, whole: None }
    }

    /// Rows that are there already; the chunks are written over them, where they lie.
    pub(super) fn over(whole: Tensor) -> Result<Self> {
        Ok(Self { t: whole.dim(0)?, whole: Some(whole) })
    }

    /// The rows `chunk` as they are now.
    pub(super) fn rows(&self, chunk: &Range<usize>) -> Result<Tensor> {
        rows(self.whole.as_ref().ok_or_else(absent)?, chunk)
    }

    /// Puts `part` at the rows `chunk`.
    pub(super) fn put(&mut self, chunk: &Range<usize>, part: Tensor) -> Result<()> {
        if chunk.len() == self.t {
            self.whole = Some(part);
            return Ok(());
        }
        let whole = match self.whole.take() {
            Some(whole) => whole,
            None => Tensor::zeros((self.t, part.dim(1)?), part.dtype(), part.device())?,
        };
        whole.slice_set(&part.contiguous()?, 0, chunk.start)?;
        self.whole = Some(whole);
        Ok(())
    }

    /// All of it, if anything came.
    pub(super) fn some(self) -> Option<Tensor> {
        self.whole
    }

    /// All of it.
    pub(super) fn all(self) -> Result<Tensor> {
        self.whole.ok_or_else(absent)
    }
}

fn absent() -> Error {
    Error::work("a pass without tokens")
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;

    #[test]
    fn chunks_make_the_whole() {
        let x = Tensor::arange(0f32, 22.0, &Device::Cpu).unwrap().reshape((11, 2)).unwrap();
        for at_once in [0, 1, 4, 10, 11, 12] {
            let mut new = Gathered::new(11);
            let mut over = Gathered::over(x.zeros_like().unwrap()).unwrap();
            for chunk in chunks(11, at_once) {
                assert!(chunk.len() <= at_once.max(1));
                new.put(&chunk, rows(&x, &chunk).unwrap()).unwrap();
                over.put(&chunk, (over.rows(&chunk).unwrap() + rows(&x, &chunk).unwrap()).unwrap()).unwrap();
            }
            for found in [new.some().unwrap(), over.all().unwrap()] {
                assert_eq!(found.to_vec2::<f32>().unwrap(), x.to_vec2::<f32>().unwrap());
            }
        }
        assert!(Gathered::new(3).some().is_none() && Gathered::new(3).all().is_err());
        assert!(Gathered::new(0).rows(&(0..0)).is_err());
    }
}
