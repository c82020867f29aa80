//! Products of matrices in f64, for closed-form fits: on the calling thread, on all, and summed over tokens. Where
//! products with weights are in bf16, what some tokens give is multiplied in f32, and the sums of that are in f64.

use candle_core::{DType, Device, Tensor};
use rayon::prelude::*;

use super::matmul::in_bf16;
use super::numbers;
use crate::{Error, Result};

/// Rows of a product that one thread computes at a time.
const ROWS: usize = 96;

/// Tokens that are multiplied at a time.
const TOKENS: usize = 512;

/// A view of numbers, f64 or f32, with any strides.
#[derive(Clone, Copy)]
pub(super) struct View<'a, T = f64> {
    data: &'a [T],
    rows: usize,
    columns: usize,
    row_stride: usize,
    column_stride: usize,
}

impl<'a, T> View<'a, T> {
    /// Rows of consecutive numbers, `stride` apart.
    pub(super) fn new(data: &'a [T], rows: usize, columns: usize, stride: usize) -> Self {
        assert!(rows == 0 || columns == 0 || (columns <= stride && (rows - 1) * stride + columns <= data.len()));
        Self { data, rows, columns, row_stride: stride, column_stride: 1 }
    }

    /// Rows as columns.
    pub(super) fn turned(self) -> Self {
        Self {
            data: self.data,
            rows: self.columns,
            columns: self.rows,
            row_stride: self.column_stride,
            column_stride: self.row_stride,
        }
    }
}

/// out = left · right, or out += factor · left · right where one is given, on the calling thread; the rows of `out` are
/// `stride` apart.
pub(super) fn multiply<T: From<f32> + Copy + 'static>(
    out: &mut [T],
    stride: usize,
    left: View<'_, T>,
    right: View<'_, T>,
    added: Option<T>,
) {
    let (rows, columns, depth) = (left.rows, right.columns, left.columns);
    assert_eq!(depth, right.rows);
    if rows == 0 || columns == 0 {
        return;
    }
    assert!(columns <= stride && (rows - 1) * stride + columns <= out.len());
    // SAFETY: the views hold their elements inside their memory by construction, those of `out` were just counted, the
    // shapes fit, and nothing else refers to `out`
    unsafe {
        gemm::gemm(
            rows,
            columns,
            depth,
            out.as_mut_ptr(),
            1,
            stride as isize,
            added.is_some(),
            left.data.as_ptr(),
            left.column_stride as isize,
            left.row_stride as isize,
            right.data.as_ptr(),
            right.column_stride as isize,
            right.row_stride as isize,
            T::from(1.0),
            added.unwrap_or_else(|| T::from(1.0)),
            false,
            false,
            false,
            gemm::Parallelism::None,
        );
    }
}

/// left · right, `[rows, depth]` and `[depth, columns]`, row by row in memory, on all threads.
///
/// # Panics
/// Fewer numbers than the sizes say.
#[must_use]
pub(crate) fn product64(left: &[f64], right: &[f64], (rows, depth, columns): (usize, usize, usize)) -> Vec<f64> {
    let mut out = vec![0.0; rows * columns];
    let right = View::new(right, depth, columns, columns);
    let parts = out.par_chunks_mut((ROWS * columns).max(1)).enumerate();
    parts.for_each(|(part, out)| {
        let own = out.len() / columns.max(1);
        let left = View::new(&left[part * ROWS * depth..], own, depth, depth);
        multiply(out, columns, left, right, None);
    });
    out
}

/// xᵀ·y summed over tokens in f64, `[n, m]`. On a GPU the sum stays there until it is asked for.
#[derive(Debug)]
pub(crate) struct ProductSum {
    n: usize,
    m: usize,
    /// Whether only what is on and below the diagonal was computed.
    is_half: bool,
    /// Whether tokens are multiplied as they are, in f32.
    is_narrow: bool,
    sum: Sum,
}

#[derive(Debug)]
enum Sum {
    Here(Vec<f64>),
    There(Tensor),
}

impl ProductSum {
    /// A sum of nothing yet, for `x` `[t, n]` and `y` `[t, m]`.
    ///
    /// # Errors
    /// The device's.
    pub(crate) fn new(n: usize, m: usize, device: &Device) -> Result<Self> {
        let sum = match device.is_cuda() {
            true => Sum::There(Tensor::zeros((n, m), DType::F64, device)?),
            false => Sum::Here(vec![0.0; n * m]),
        };
        Ok(Self { n, m, is_half: false, is_narrow: in_bf16(), sum })
    }

    /// Adds xᵀ·y; of xᵀ·x, where `y` is `None`, half is computed. One sum is of one kind.
    ///
    /// # Errors
    /// Shapes that do not fit; the device's.
    pub(crate) fn add(&mut self, x: &Tensor, y: Option<&Tensor>) -> Result<()> {
        let shapes = (x.dims2()?, y.unwrap_or(x).dims2()?);
        if shapes != ((shapes.0.0, self.n), (shapes.0.0, self.m)) {
            return Err(Error::work(format!("a sum of products [{}, {}] of {shapes:?}", self.n, self.m)));
        }
        match &mut self.sum {
            Sum::There(sum) => {
                let wide = x.to_dtype(DType::F64)?;
                let right = y.map_or_else(|| Ok(wide.clone()), |y| y.to_dtype(DType::F64))?;
                *sum = (&*sum + wide.t()?.matmul(&right)?)?;
            }
            Sum::Here(sum) => {
                self.is_half = y.is_none();
                for start in (0..shapes.0.0).step_by(TOKENS) {
                    let tokens = TOKENS.min(shapes.0.0 - start);
                    let (x, sizes) = (x.narrow(0, start, tokens)?, (tokens, self.n, self.m));
                    let y = y.map(|y| y.narrow(0, start, tokens)).transpose()?;
                    match self.is_narrow {
                        true => add_here::<f32>(sum, (&x, y.as_ref()), sizes)?,
                        false => add_here::<f64>(sum, (&x, y.as_ref()), sizes)?,
                    }
                }
            }
        }
        Ok(())
    }

    /// The sum, row by row.
    ///
    /// # Errors
    /// The device's.
    pub(crate) fn numbers(self) -> Result<Vec<f64>> {
        match self.sum {
            Sum::Here(mut sum) => {
                if self.is_half {
                    mirror(&mut sum, self.n);
                }
                Ok(sum)
            }
            Sum::There(sum) => Ok(sum.flatten_all()?.to_vec1()?),
        }
    }
}

/// Adds xᵀ·y, or xᵀ·x, multiplied in `T`.
fn add_here<T>(sum: &mut [f64], (x, y): (&Tensor, Option<&Tensor>), (t, n, m): (usize, usize, usize)) -> Result<()>
where
    T: From<f32> + Into<f64> + Copy + Send + Sync + 'static,
{
    let of = |x: &Tensor| -> Result<Vec<T>> {
        numbers(&x.contiguous()?, |numbers| numbers.iter().map(|number| T::from(*number)).collect())
    };
    let (left, right) = (of(x)?, y.map(of).transpose()?);
    let parts = sum.par_chunks_mut((ROWS * m).max(1)).enumerate();
    parts.for_each(|(part, out)| {
        let (start, rows) = (part * ROWS, out.len() / m.max(1));
        let turned = View::new(&left[start..], t, rows, n).turned();
        let (right, columns) = match &right {
            Some(right) => (View::new(right, t, m, m), m),
            None => (View::new(&left, t, start + rows, n), start + rows),
        };
        let mut product = vec![T::from(0.0); rows * columns];
        multiply(&mut product, columns, turned, right, None);
        for (out, product) in out.chunks_exact_mut(m).zip(product.chunks_exact(columns)) {
            out.iter_mut().zip(product).for_each(|(sum, number)| *sum += (*number).into());
        }
    });
    Ok(())
}

/// Puts what lies below the diagonal above it as well.
fn mirror(matrix: &mut [f64], n: usize) {
    for row in 0..n {
        for column in 0..row {
            matrix[column * n + row] = matrix[row * n + column];
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::testing::random;

    fn exact(x: &Tensor) -> Vec<f64> {
        crate::ops::testing::numbers(x)
    }

    fn close(found: &[f64], expected: &[f64]) {
        assert_eq!(found.len(), expected.len());
        for (found, expected) in found.iter().zip(expected) {
            assert!((found - expected).abs() < 1e-11, "{found} {expected}");
        }
    }

    #[test]
    fn sums_of_products_are_those_of_all_tokens_at_once() {
        for (t, n, m) in [(1, 1, 1), (3, 97, 5), (700, 200, 130), (513, 96, 193)] {
            let (x, y) = (random(1, t, n), random(2, t, m));
            let (mut gram, mut cross) =
                (ProductSum::new(n, n, &Device::Cpu).unwrap(), ProductSum::new(n, m, &Device::Cpu).unwrap());
            for (start, len) in [(0, t / 2), (t / 2, t - t / 2)] {
                let part = |x: &Tensor| x.narrow(0, start, len).unwrap();
                gram.add(&part(&x), None).unwrap();
                cross.add(&part(&x), Some(&part(&y))).unwrap();
            }
            let turned = exact(&x.t().unwrap().contiguous().unwrap());
            close(&gram.numbers().unwrap(), &product64(&turned, &exact(&x), (n, t, n)));
            close(&cross.numbers().unwrap(), &product64(&turned, &exact(&y), (n, t, m)));
        }
        // in f32, as where products are in bf16
        let (x, y) = (random(1, 1300, 200), random(2, 1300, 30));
        let mut sum = ProductSum { is_narrow: true, ..ProductSum::new(200, 30, &Device::Cpu).unwrap() };
        sum.add(&x, Some(&y)).unwrap();
        let (found, wide) = (
            sum.numbers().unwrap(),
            product64(&exact(&x.t().unwrap().contiguous().unwrap()), &exact(&y), (200, 1300, 30)),
        );
        let most = wide.iter().fold(0.0_f64, |most, number| most.max(number.abs()));
        let off = found.iter().zip(&wide).fold(0.0_f64, |off, (a, b)| off.max((a - b).abs()));
        assert!(off > 0.0 && off < 2e-6 * most, "{off} of {most}");
        assert!(ProductSum::new(2, 3, &Device::Cpu).unwrap().add(&random(1, 4, 2), Some(&random(2, 4, 2))).is_err());
    }

    #[test]
    fn products_are_right_on_any_threads() {
        let (rows, depth, columns) = (250, 33, 70);
        let (left, right) = (exact(&random(3, rows, depth)), exact(&random(4, depth, columns)));
        let element = |row: usize, column: usize| -> f64 {
            (0..depth).map(|k| left[row * depth + k] * right[k * columns + column]).sum()
        };
        let expected: Vec<f64> = (0..rows * columns).map(|at| element(at / columns, at % columns)).collect();
        close(&product64(&left, &right, (rows, depth, columns)), &expected);
        let on = |threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| product64(&left, &right, (rows, depth, columns)))
        };
        assert_eq!(on(1), on(3));
    }
}
