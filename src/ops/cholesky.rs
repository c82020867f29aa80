//! Symmetric positive definite systems of equations in f64: Cholesky's factor, block by block on all threads.

use rayon::prelude::*;

use super::product64::{View, multiply};

/// Columns that are factored at a time.
const BLOCK: usize = 96;

/// Rows that a thread works on at a time.
const ROWS: usize = 64;

/// The lower factor L of A = L·Lᵀ.
#[derive(Debug)]
pub(crate) struct Cholesky {
    n: usize,
    /// `[n, n]`, row by row; above the diagonal is what was there.
    factor: Vec<f64>,
    /// Of each block on the diagonal its inverse, `[BLOCK, BLOCK]` or what is left.
    inverses: Vec<Vec<f64>>,
}

impl Cholesky {
    /// Factors `a` `[n, n]`, of which what lies above the diagonal is not looked at. `None` where it is singular, as
    /// far as rounding lets one tell, or not positive definite.
    #[must_use]
    pub(crate) fn new(mut a: Vec<f64>, n: usize) -> Option<Self> {
        let largest = (0..n).map(|i| a[i * n + i]).fold(0.0, f64::max);
        let least = largest * n as f64 * f64::EPSILON;
        let mut inverses = Vec::new();
        for start in (0..n).step_by(BLOCK) {
            let width = BLOCK.min(n - start);
            let end = start + width;
            let mut block = Vec::with_capacity(width * width);
            (start..end).for_each(|row| block.extend_from_slice(&a[row * n + start..row * n + end]));
            factor_block(&mut block, width, least)?;
            for (row, numbers) in block.chunks_exact(width).enumerate() {
                a[(start + row) * n + start..][..=row].copy_from_slice(&numbers[..=row]);
            }
            let inverse = inverse_of(&block, width);
            // the rows below: A·L⁻ᵀ
            let mut raw = Vec::with_capacity((n - end) * width);
            (end..n).for_each(|row| raw.extend_from_slice(&a[row * n + start..row * n + end]));
            let mut panel = vec![0.0; raw.len()];
            panel.par_chunks_mut(ROWS * width).zip(raw.par_chunks(ROWS * width)).for_each(|(out, raw)| {
                let raw = View::new(raw, raw.len() / width, width, width);
                multiply(out, width, raw, View::new(&inverse, width, width, width).turned(), None);
            });
            for (row, numbers) in panel.chunks_exact(width).enumerate() {
                a[(end + row) * n + start..][..width].copy_from_slice(numbers);
            }
            // and what is left of the matrix, without what these columns explain
            a[end * n..].par_chunks_mut(ROWS * n).enumerate().for_each(|(part, rows)| {
                let (first, count) = (part * ROWS, rows.len() / n);
                let left = View::new(&panel[first * width..], count, width, width);
                let right = View::new(&panel, first + count, width, width).turned();
                multiply(&mut rows[end..], n, left, right, Some(-1.0));
            });
            inverses.push(inverse);
        }
        Some(Self { n, factor: a, inverses })
    }

    /// Puts the solution X of A·X = B in the place of `b` `[n, m]`, row by row.
    ///
    /// # Panics
    /// Another number of numbers.
    pub(crate) fn solve(&self, b: &mut [f64], m: usize) {
        let n = self.n;
        assert_eq!(b.len(), n * m);
        let blocks = || (0..n).step_by(BLOCK).zip(&self.inverses);
        for (start, inverse) in blocks() {
            let width = BLOCK.min(n - start);
            let (known, rest) = b.split_at_mut((start + width) * m);
            let own = &mut known[start * m..];
            times(View::new(inverse, width, width, width), own, m);
            rest.par_chunks_mut((ROWS * m).max(1)).enumerate().for_each(|(part, out)| {
                let first = start + width + part * ROWS;
                let left = View::new(&self.factor[first * n + start..], out.len() / m, width, n);
                multiply(out, m, left, View::new(own, width, m, m), Some(-1.0));
            });
        }
        for (start, inverse) in blocks().collect::<Vec<_>>().into_iter().rev() {
            let width = BLOCK.min(n - start);
            let (rest, known) = b.split_at_mut(start * m);
            let own = &mut known[..width * m];
            times(View::new(inverse, width, width, width).turned(), own, m);
            rest.par_chunks_mut((ROWS * m).max(1)).enumerate().for_each(|(part, out)| {
                let left = View::new(&self.factor[start * n + part * ROWS..], width, out.len() / m, n).turned();
                multiply(out, m, left, View::new(own, width, m, m), Some(-1.0));
            });
        }
    }
}

/// Puts left · b in the place of `b`, whose rows have `m` numbers.
fn times(left: View<'_>, b: &mut [f64], m: usize) {
    let old = b.to_vec();
    multiply(b, m, left, View::new(&old, b.len() / m.max(1), m, m), None);
}

/// Factors a block where it lies; what is above its diagonal becomes zero. `None` as [`Cholesky::new`].
fn factor_block(block: &mut [f64], n: usize, least: f64) -> Option<()> {
    for column in 0..n {
        for row in column..n {
            let (above, own) = block.split_at(row * n);
            let dot = |other: &[f64]| own[..column].iter().zip(other).map(|(a, b)| a * b).sum::<f64>();
            let left = own[column] - if row == column { dot(own) } else { dot(&above[column * n..]) };
            block[row * n + column] = match row == column {
                true if left > least => left.sqrt(),
                true => return None,
                false => left / block[column * n + column],
            };
        }
        block[column * n + column + 1..(column + 1) * n].fill(0.0);
    }
    Some(())
}

/// The inverse of a lower triangle.
fn inverse_of(lower: &[f64], n: usize) -> Vec<f64> {
    let mut inverse = vec![0.0; n * n];
    for column in 0..n {
        for row in column..n {
            let sum: f64 = (column..row).map(|k| lower[row * n + k] * inverse[k * n + column]).sum();
            let one = if row == column { 1.0 } else { 0.0 };
            inverse[row * n + column] = (one - sum) / lower[row * n + row];
        }
    }
    inverse
}

#[cfg(test)]
mod tests {
    use super::super::product64::product64;
    use super::*;
    use crate::ops::testing::{numbers, random};

    /// xᵀ·x of random rows, a little more on the diagonal.
    fn system(n: usize) -> Vec<f64> {
        let x = random(1, n + 7, n);
        let turned = numbers(&x.t().unwrap().contiguous().unwrap());
        let mut a = product64(&turned, &numbers(&x), (n, n + 7, n));
        (0..n).for_each(|i| a[i * n + i] += 0.1);
        a
    }

    #[test]
    fn solutions_solve() {
        for (n, m) in [(1, 1), (5, 3), (96, 2), (97, 1), (300, 41)] {
            let (a, b) = (system(n), numbers(&random(2, n, m)));
            let mut x = b.clone();
            // what is above the diagonal does not matter
            let mut lower = a.clone();
            (0..n).for_each(|row| lower[row * n + row + 1..(row + 1) * n].fill(f64::NAN));
            Cholesky::new(lower, n).unwrap().solve(&mut x, m);
            for (found, expected) in product64(&a, &x, (n, n, m)).iter().zip(&b) {
                assert!((found - expected).abs() < 1e-9, "{n} {m}: {found} {expected}");
            }
        }
    }

    #[test]
    fn singular_and_indefinite_matrices_have_no_factor() {
        let n = 120;
        let mut twice = system(n);
        // the last row and column are the first ones again
        (0..n).for_each(|i| twice[(n - 1) * n + i] = twice[i]);
        twice[n * n - 1] = twice[0];
        twice[(n - 1) * n] = twice[0];
        assert!(Cholesky::new(twice, n).is_none());
        assert!(Cholesky::new(vec![1.0, 2.0, 2.0, 1.0], 2).is_none());
        assert!(Cholesky::new(vec![f64::NAN], 1).is_none());
        assert!(Cholesky::new(vec![0.0], 1).is_none());
    }

    #[test]
    fn same_on_any_threads() {
        let (n, m) = (230, 17);
        let (a, b) = (system(n), numbers(&random(2, n, m)));
        let on = |threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| {
                let mut x = b.clone();
                Cholesky::new(a.clone(), n).unwrap().solve(&mut x, m);
                x
            })
        };
        assert_eq!(on(1), on(4));
    }
}
