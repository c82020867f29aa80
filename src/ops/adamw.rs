//! What an optimiser does to the numbers of a parameter.

use candle_core::{DType, Tensor};
use rayon::prelude::*;

use super::cuda::{self, Arg, Grid};
use super::{edit, numbers};
use crate::{Error, Result};

/// Factors of one step of AdamW (arXiv 1711.05101).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdamWStep {
    /// On the gradient, before anything else.
    pub clip: f32,
    /// Share of the gradient in its mean, 1 - beta1.
    pub weight1: f32,
    /// Share of the mean square that stays.
    pub beta2: f32,
    /// Share of the gradient's square in its mean, 1 - beta2.
    pub weight2: f32,
    /// Share of a value that decay leaves.
    pub keep: f32,
    /// Minus the learning rate over 1 - beta1^step.
    pub pace: f32,
    /// √(1 - beta2^step).
    pub correction: f32,
    /// Added to the root of the mean square.
    pub eps: f32,
}

/// Numbers that one task updates.
const CHUNK: usize = 1 << 14;

impl AdamWStep {
    /// Moves `values` against `gradient` and brings its means `first` and `second` up to date, in place: four
    /// contiguous f32 tensors with as many numbers each.
    ///
    /// # Errors
    /// Sizes that differ, or a device without this kernel.
    pub fn apply(&self, values: &Tensor, gradient: &Tensor, first: &Tensor, second: &Tensor) -> Result<()> {
        let n = values.elem_count();
        if [gradient, first, second].iter().any(|tensor| tensor.elem_count() != n) {
            return Err(Error::work(format!(
                "adamw: values are {:?}, gradient {:?}",
                values.shape(),
                gradient.shape()
            )));
        }
        if values.device().is_cuda() {
            let gradient = gradient.contiguous()?;
            cuda::all_are(DType::F32, &[values, &gradient, first, second])?;
            let Self { clip, weight1, beta2, weight2, keep, pace, correction, eps } = *self;
            let tensors = [values, &gradient, first, second].map(Arg::Tensor);
            let floats = [clip, weight1, beta2, weight2, keep, pace, correction, eps].map(Arg::Float);
            let args = [&tensors[..], &[Arg::Size(n)], &floats].concat();
            // SAFETY: all four hold n numbers, f32 and without gaps
            return unsafe { cuda::launch("adamw", Grid::over(n), &args) };
        }
        numbers(gradient, |gradient| {
            edit(values, |values| {
                edit(first, |first| edit(second, |second| self.step(values, gradient, first, second)))
            })
        })???
    }

    fn step(&self, values: &mut [f32], gradient: &[f32], first: &mut [f32], second: &mut [f32]) {
        let (first, second) = (first.par_chunks_mut(CHUNK), second.par_chunks_mut(CHUNK));
        let pieces = values.par_chunks_mut(CHUNK).zip(gradient.par_chunks(CHUNK)).zip(first).zip(second);
        pieces.for_each(|(((values, gradient), first), second)| {
            for (((value, gradient), first), second) in values.iter_mut().zip(gradient).zip(first).zip(second) {
                let gradient = gradient * self.clip;
                *first += self.weight1 * (gradient - *first);
                *second = *second * self.beta2 + self.weight2 * gradient * gradient;
                *value = *value * self.keep + self.pace * (*first / (second.sqrt() / self.correction + self.eps));
            }
        });
    }
}

/// For each tensor the sum of the squares of all its numbers, in f64; infinite or NaN where one of them is.
///
/// # Errors
/// Another type than f32, a view with gaps on the CPU, or a device without this kernel.
pub fn square_sums(tensors: &[&Tensor]) -> Result<Vec<f64>> {
    let Some(first) = tensors.first().filter(|first| first.device().is_cuda()) else {
        let square = |number: &f32| f64::from(*number) * f64::from(*number);
        return tensors.iter().map(|x| numbers(x, |numbers| numbers.iter().map(square).sum())).collect();
    };
    // all are started before the first is waited for
    let sums = Tensor::zeros((tensors.len(), BLOCKS), DType::F64, first.device())?;
    for (index, x) in tensors.iter().enumerate() {
        let (x, n, own) = (x.contiguous()?, x.elem_count(), sums.narrow(0, index, 1)?);
        let grid = Grid { blocks: (n.div_ceil(256).clamp(1, BLOCKS), 1), ..Grid::over(n) };
        cuda::all_are(DType::F32, &[&x])?;
        // SAFETY: n numbers are read, and each block, of which there are no more than sums, writes its own
        unsafe { cuda::launch("square_sums", grid, &[Arg::Tensor(&x), Arg::Tensor(&own), Arg::Size(n)])? };
    }
    Ok(sums.to_vec2::<f64>()?.into_iter().map(|sums| sums.iter().sum()).collect())
}

/// Blocks of threads that add up the numbers of a tensor.
const BLOCKS: usize = 256;
