//! What DoRA (arXiv 2402.09353) asks of a weight: the norms of the rows of W + scale·B·A, and outputs times a number
//! each.

use candle_core::{DType, Device, Tensor};
use rayon::prelude::*;

use super::cuda;
use super::linear::WithWeight;
use super::matmul::Weight;
use super::numbers;
use super::product64::product64;
use super::weight::WeightMatrix;
use crate::{Error, Result};

/// Column c of `x` `[t, o]` times number c of `factors`, `[o]` f32, in the type of `x`.
///
/// # Errors
/// Shapes that do not fit, or a device without this kernel.
pub fn times_columns(x: &Tensor, factors: &Tensor) -> Result<Tensor> {
    if !x.device().is_cuda() {
        return Ok(x.broadcast_mul(factors)?);
    }
    // a number of bf16 cannot say how far from one it is
    let product = cuda::in_type(x, DType::F32)?.broadcast_mul(factors)?;
    cuda::in_type(&product, x.dtype())
}

/// Share of ‖W‖² + ‖scale·B·A‖² below which a sum has lost digits to what its parts have in common: such a row is added
/// up itself.
const CANCELLED: f64 = 1.0 / 16.0;

/// Norms of the rows of a frozen weight, and of what an update makes of them.
///
/// The sum W + scale·B·A is never made: of row o, ‖W_o + s·B_o·A‖² = ‖W_o‖² + 2s·B_o·(A·W_oᵀ) + s²·B_o·(A·Aᵀ)·B_oᵀ.
/// The first term does not change, A·Wᵀ is the weight's product with r rows, whatever it is held in, and the last is r
/// by r.
#[derive(Clone, Debug)]
pub struct RowNorms {
    squares: Vec<f64>,
}

impl RowNorms {
    /// Of `weight`, `[o, i]` in main memory: its squares are added up in f64.
    ///
    /// # Errors
    /// A weight on a GPU or of a type that is not computed with.
    pub fn new(weight: &WeightMatrix) -> Result<Self> {
        let rows: Vec<usize> = (0..weight.shape()?.0).collect();
        Ok(Self { squares: weight.run(Rows { rows: &rows, added: None })? })
    }

    /// ‖W‖ of each row, f32.
    #[must_use]
    pub fn of_weight(&self) -> Vec<f32> {
        self.squares.iter().map(|square| square.sqrt() as f32).collect()
    }

    /// ‖W + scale·B·A‖ of each row, f32: `weight` is the one that was counted, `a` `[r, i]`, `b` `[o, r]`, f32.
    ///
    /// # Errors
    /// Shapes that do not fit, or a weight on a GPU.
    pub fn updated(&self, weight: &WeightMatrix, (a, b): (&Tensor, &Tensor), scale: f64) -> Result<Vec<f32>> {
        let ((o, i), (r, width), outputs) = (weight.shape()?, a.dims2()?, b.dims2()?);
        if width != i || outputs != (o, r) || self.squares.len() != o {
            return Err(Error::work(format!("norms: {:?} and {:?} for {:?}", b.shape(), a.shape(), weight.shape()?)));
        }
        let (a, b) = (a.to_device(&Device::Cpu)?, b.to_device(&Device::Cpu)?);
        // [r, o]
        let products = weight.linear(&a)?;
        let wide = |x: &Tensor| -> Result<Vec<f64>> {
            numbers(&x.contiguous()?, |x| x.iter().copied().map(f64::from).collect())
        };
        let (rows, turned, updates) = (wide(&a)?, wide(&a.t()?)?, wide(&b)?);
        let gram = product64(&rows, &turned, (r, i, r));
        let squared = product64(&updates, &gram, (o, r, r));
        let squares = numbers(&products, |products| {
            let square = |row: usize| {
                let own = row * r..(row + 1) * r;
                let crossed: f64 = (0..r).map(|k| updates[row * r + k] * f64::from(products[k * o + row])).sum();
                let added: f64 = squared[own.clone()].iter().zip(&updates[own]).map(|(x, y)| x * y).sum();
                let parts = self.squares[row] + scale * scale * added;
                let sum = parts + 2.0 * scale * crossed;
                (sum > CANCELLED * parts || parts == 0.0).then_some(sum)
            };
            (0..o).into_par_iter().map(square).collect::<Vec<Option<f64>>>()
        })?;
        let lost: Vec<usize> = (0..o).filter(|row| squares[*row].is_none()).collect();
        let added = Added { a: &rows, b: &updates, rank: r, scale };
        let mut again = weight.run(Rows { rows: &lost, added: Some(added) })?.into_iter();
        Ok(squares.into_iter().map(|square| square.or_else(|| again.next()).unwrap_or(0.0).sqrt() as f32).collect())
    }
}

/// What is added to a weight, in f64: scale·B·A, `b` `[o, r]`, `a` `[r, i]`.
#[derive(Clone, Copy)]
struct Added<'a> {
    a: &'a [f64],
    b: &'a [f64],
    rank: usize,
    scale: f64,
}

/// Squares of some rows, number by number.
struct Rows<'a> {
    rows: &'a [usize],
    added: Option<Added<'a>>,
}

impl WithWeight for Rows<'_> {
    type Output = Vec<f64>;

    fn run(self, weight: &impl Weight) -> Vec<f64> {
        let columns = weight.columns();
        let square = |buffer: &mut Vec<f32>, row: &usize| {
            buffer.resize(columns, 0.0);
            weight.widen(*row, 0..columns, buffer);
            let mut sums: Vec<f64> = buffer.iter().copied().map(f64::from).collect();
            if let Some(Added { a, b, rank, scale }) = self.added {
                for k in 0..rank {
                    let factor = scale * b[row * rank + k];
                    sums.iter_mut().zip(&a[k * columns..]).for_each(|(sum, a)| *sum += factor * a);
                }
            }
            sums.iter().map(|x| x * x).sum::<f64>()
        };
        self.rows.par_iter().map_init(Vec::new, square).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::testing::{assert_close, random};

    fn exact(weight: &WeightMatrix, (a, b): (&Tensor, &Tensor), scale: f64) -> Vec<f64> {
        let wide = |x: &Tensor| x.to_dtype(DType::F64).unwrap();
        let product = (wide(b).matmul(&wide(a)).unwrap() * scale).unwrap();
        let sum = (weight.dense(DType::F64, &Device::Cpu).unwrap() + product).unwrap();
        sum.sqr().unwrap().sum(1).unwrap().sqrt().unwrap().to_vec1().unwrap()
    }

    /// Norms of weights in any form are those of the sum written out.
    #[test]
    fn are_those_of_the_sum() {
        for (o, i, r) in [(1, 1, 1), (5, 70, 3), (130, 64, 8), (200, 1100, 16)] {
            let dense = WeightMatrix::Dense(random(1, o, i));
            let narrow = WeightMatrix::Dense(random(2, o, i).to_dtype(DType::BF16).unwrap());
            for weight in [dense.quantize(false).unwrap(), dense.quantize(true).unwrap(), narrow, dense] {
                let (a, b) = (random(3, r, i), random(4, o, r));
                let norms = RowNorms::new(&weight).unwrap();
                let zero = (&b * 0.0).unwrap();
                assert_eq!(
                    norms.updated(&weight, (&a, &zero), 2.0).unwrap(),
                    norms.of_weight(),
                    "B = 0 changes nothing"
                );
                for scale in [1e-3, 0.5, 40.0] {
                    let found = norms.updated(&weight, (&a, &b), scale).unwrap();
                    for (found, exact) in found.into_iter().zip(exact(&weight, (&a, &b), scale)) {
                        assert!((f64::from(found) - exact).abs() <= 1e-6 * exact, "{o} {i} {r}: {found} {exact}");
                    }
                }
                assert!(norms.updated(&weight, (&a, &random(4, o + 1, r)), 1.0).is_err());
            }
        }
    }

    /// An update that takes away nearly all of a row: what is left has its digits.
    #[test]
    fn what_cancels_is_added_up() {
        let (a, b) = (random(3, 4, 300), random(4, 9, 4));
        let left = (random(5, 9, 300) * 1e-3).unwrap();
        let weight = WeightMatrix::Dense((left - b.matmul(&a).unwrap()).unwrap());
        let found = RowNorms::new(&weight).unwrap().updated(&weight, (&a, &b), 1.0).unwrap();
        for (found, exact) in found.into_iter().zip(exact(&weight, (&a, &b), 1.0)) {
            assert!(exact < 0.02 && (f64::from(found) - exact).abs() <= 1e-6 * exact, "{found} {exact}");
        }
    }

    #[test]
    fn columns_are_scaled() {
        let (x, factors) = (random(1, 3, 5), random(2, 1, 5).flatten_all().unwrap());
        let expected = x.mul(&factors.reshape((1, 5)).unwrap().broadcast_as((3, 5)).unwrap()).unwrap();
        assert_close("product", &times_columns(&x, &factors).unwrap(), &expected, 0.0);
        assert!(times_columns(&x, &random(2, 1, 4)).is_err());
    }
}
