//! Scores of the weights of each layer: what they are shown, and sums over it.

use rayon::prelude::*;

use crate::Result;

/// Numbers that one task adds up, whatever the number of threads.
const PIECE: usize = 1 << 14;

/// What is shown beside the weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Needs {
    /// Nothing, and no text is read.
    Nothing,
    /// Gradients of the mean loss over all predicted tokens.
    Gradients,
    /// What enters the matrices.
    Inputs,
}

/// How large a model is.
#[derive(Clone, Copy, Debug)]
pub struct Sizes {
    /// Layers.
    pub layers: usize,
    /// Numbers of the matrices of all layers.
    pub matrices: u64,
}

/// A tensor of a layer.
#[derive(Clone, Copy, Debug)]
pub struct Weight<'a> {
    /// Columns of a matrix that multiplies the stream; `None` for norms and biases.
    pub columns: Option<usize>,
    /// Its numbers, row by row.
    pub numbers: &'a [f32],
    /// The gradients of its numbers; empty where nobody asks.
    pub gradient: &'a [f32],
    /// For each column the mean over sequences of the sum over tokens of its squared input; empty where nobody asks.
    pub inputs: &'a [f64],
}

/// A score of the weights of each layer.
pub trait OfWeights {
    /// Takes all weights of layer `layer`. Each layer comes once, in whatever order.
    ///
    /// # Errors
    /// What it needs is not there.
    fn see(&mut self, layer: usize, weights: &[Weight<'_>]) -> Result<()>;

    /// The value of each layer.
    ///
    /// # Errors
    /// None that is.
    fn finish(self: Box<Self>) -> Result<Vec<f64>>;
}

/// The sum over all weights of a layer of a function of a weight and its gradient, which is 0 where nobody asks.
pub(super) fn sums(model: &Sizes, value: fn(f64, f64) -> f64) -> Box<dyn OfWeights> {
    Box::new(Sums { value, sums: vec![0.0; model.layers] })
}

struct Sums {
    value: fn(f64, f64) -> f64,
    sums: Vec<f64>,
}

impl OfWeights for Sums {
    fn see(&mut self, layer: usize, weights: &[Weight<'_>]) -> Result<()> {
        let value = self.value;
        let total = |weight: &Weight<'_>| match weight.gradient.is_empty() {
            true => sum_over(weight.numbers, |_, w| value(f64::from(w), 0.0)),
            false => sum_over(weight.numbers, |at, w| value(f64::from(w), f64::from(weight.gradient[at]))),
        };
        self.sums[layer] = weights.iter().map(total).sum();
        Ok(())
    }

    fn finish(self: Box<Self>) -> Result<Vec<f64>> {
        Ok(self.sums)
    }
}

/// The sum of a function of each number and its place, the same for any number of threads.
pub(super) fn sum_over(numbers: &[f32], value: impl Fn(usize, f32) -> f64 + Sync) -> f64 {
    let pieces: Vec<f64> = numbers
        .par_chunks(PIECE)
        .enumerate()
        .map(|(piece, own)| own.iter().enumerate().map(|(at, number)| value(piece * PIECE + at, *number)).sum())
        .collect();
    pieces.iter().sum()
}
