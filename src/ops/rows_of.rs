//! Rows of a matrix by their numbers: taken out, added to, and multiplied with a number each. What a mixture of experts
//! does between its products.

use candle_core::{D, DType, Device, Tensor};
use rayon::prelude::*;

use super::cuda;
use super::edit::{edit, numbers};
use crate::{Error, Result};

/// The rows `rows` of `x` `[t, d]`, in that order.
///
/// # Errors
/// A row that is not there, or the device's.
pub fn take_rows(x: &Tensor, rows: &[u32]) -> Result<Tensor> {
    Ok(x.index_select(&Tensor::new(rows, x.device())?, 0)?)
}

/// Row r of `x` `[t, n]` times number r of `factors`, `[t]` f32, in the type of `x`.
///
/// # Errors
/// Shapes that do not fit, or the device's.
pub fn times_rows(x: &Tensor, factors: &Tensor) -> Result<Tensor> {
    let (t, n) = x.dims2()?;
    if factors.dims() != [t] {
        return Err(Error::work(format!("times_rows: {:?} and {:?}", x.shape(), factors.shape())));
    }
    if x.device().is_cuda() {
        let product = cuda::in_type(x, DType::F32)?.broadcast_mul(&factors.unsqueeze(1)?)?;
        return cuda::in_type(&product, x.dtype());
    }
    let product = numbers(&x.contiguous()?, |x| {
        numbers(factors, |factors| {
            let mut product = x.to_vec();
            let rows = product.par_chunks_mut(n.max(1)).zip(factors);
            rows.for_each(|(row, factor)| row.iter_mut().for_each(|x| *x *= factor));
            product
        })
    })??;
    Ok(Tensor::from_vec(product, (t, n), x.device())?)
}

/// Σ x·y of each row of `x` and `y`, both `[t, n]`: `[t]` f32.
///
/// # Errors
/// Shapes that do not fit, or the device's.
pub fn row_products(x: &Tensor, y: &Tensor) -> Result<Tensor> {
    if x.device().is_cuda() {
        return Ok((cuda::in_type(x, DType::F32)? * cuda::in_type(y, DType::F32)?)?.sum(D::Minus1)?);
    }
    Ok((x * y)?.sum(D::Minus1)?)
}

/// A matrix `[t, d]` f32 whose rows are sums, of what comes in the order in which it comes.
#[derive(Debug)]
pub struct RowSums(Tensor);

impl RowSums {
    /// Zeros.
    ///
    /// # Errors
    /// The device's.
    pub fn new((t, d): (usize, usize), device: &Device) -> Result<Self> {
        Ok(Self(Tensor::zeros((t, d), DType::F32, device)?))
    }

    /// Adds row i of `y` to row `rows[i]`, no row twice.
    ///
    /// # Errors
    /// A row that is not there, another width, or the device's.
    pub fn add(&mut self, rows: &[u32], y: &Tensor) -> Result<()> {
        let ((t, d), (count, width)) = (self.0.dims2()?, y.dims2()?);
        if count != rows.len() || width != d || rows.iter().any(|row| *row as usize >= t) {
            return Err(Error::work(format!("rows {:?} are added to {:?}", y.shape(), self.0.shape())));
        }
        if self.0.device().is_cuda() {
            let rows = Tensor::new(rows, self.0.device())?;
            self.0 = self.0.index_add(&rows, &cuda::in_type(y, DType::F32)?.contiguous()?, 0)?;
            return Ok(());
        }
        numbers(&y.contiguous()?, |y| {
            edit(&self.0, |sums| {
                for (&row, y) in rows.iter().zip(y.chunks_exact(d.max(1))) {
                    let sum = &mut sums[row as usize * d..][..d];
                    sum.iter_mut().zip(y).for_each(|(sum, y)| *sum += y);
                }
            })
        })?
    }

    /// The sums.
    #[must_use]
    pub fn sums(self) -> Tensor {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::testing::{assert_close, random};

    #[test]
    fn rows_are_taken_weighed_and_added_up() {
        let (x, y) = (random(1, 5, 3), random(2, 2, 3));
        let taken = take_rows(&x, &[4, 1]).unwrap();
        assert_eq!(taken.to_vec2::<f32>().unwrap()[1], x.to_vec2::<f32>().unwrap()[1]);
        let factors = Tensor::new(&[2f32, -0.5], &Device::Cpu).unwrap();
        let expected = y.broadcast_mul(&factors.unsqueeze(1).unwrap()).unwrap();
        assert_close("times", &times_rows(&y, &factors).unwrap(), &expected, 0.0);
        let expected = (&taken * &y).unwrap().sum(1).unwrap();
        assert_close("products", &row_products(&taken, &y).unwrap(), &expected, 0.0);
        let mut sums = RowSums::new((5, 3), &Device::Cpu).unwrap();
        sums.add(&[4, 1], &y).unwrap();
        sums.add(&[], &random(3, 2, 3).narrow(0, 0, 0).unwrap()).unwrap();
        sums.add(&[1], &y.narrow(0, 0, 1).unwrap()).unwrap();
        assert!(sums.add(&[5, 0], &y).is_err() && sums.add(&[0], &y).is_err());
        assert!(times_rows(&x, &factors).is_err() && take_rows(&x, &[5]).is_err());
        let (sums, y) = (sums.sums().to_vec2::<f32>().unwrap(), y.to_vec2::<f32>().unwrap());
        assert_eq!((&sums[0], &sums[4]), (&vec![0.0; 3], &y[0]));
        assert_eq!(sums[1][2], y[1][2] + y[0][2]);
    }
}
