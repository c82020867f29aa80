//! Hadamard matrices: ±1 over √d, orthogonal. Sylvester's doubling of 1 or of one of Paley's.

use crate::{Error, Result};

/// A Hadamard matrix over √d, `[d, d]`; of a power of two it is Sylvester's, symmetric.
///
/// # Errors
/// Request: no construction known here gives one of that width.
pub(super) fn hadamard(d: usize) -> Result<Vec<f64>> {
    let core = (0..=d.trailing_zeros()).rev().map(|doubled| d >> doubled).find_map(|size| Some((size, paley(size)?)));
    let Some((mut size, mut matrix)) = core.filter(|_| d > 0) else {
        return Err(Error::request(format!(
            "--repair patch: no Hadamard matrix of {d} rows is known here, the width of the stream; --repair \
             patch-diagonal needs none, operator explains more"
        )));
    };
    while size < d {
        let sign = |row: usize, column: usize| if row >= size && column >= size { -1.0 } else { 1.0 };
        let at = |row: usize, column: usize| sign(row, column) * matrix[row % size * size + column % size];
        matrix = (0..4 * size * size).map(|index| at(index / (2 * size), index % (2 * size))).collect();
        size *= 2;
    }
    let root = (d as f64).sqrt();
    Ok(matrix.into_iter().map(|sign| sign / root).collect())
}

/// Of `size` rows by Paley's constructions over a prime q: q + 1 rows where q is 3 mod 4, 2(q + 1) where it is 1.
fn paley(size: usize) -> Option<Vec<f64>> {
    if size == 1 {
        return Some(vec![1.0]);
    }
    let is_prime = |q: usize| q > 2 && (2..).take_while(|by| by * by <= q).all(|by| !q.is_multiple_of(by));
    let q = size.checked_sub(1)?;
    if is_prime(q) && q % 4 == 3 {
        let square = squares(q);
        // I + S, S with a border of ones that is skew
        let at = |row: usize, column: usize| match (row, column) {
            (row, column) if row == column => 1.0,
            (0, _) => 1.0,
            (_, 0) => -1.0,
            (row, column) => square[(column + q - row) % q],
        };
        return Some((0..size * size).map(|index| at(index / size, index % size)).collect());
    }
    let (half, q) = (size / 2, (size / 2).checked_sub(1)?);
    if size.is_multiple_of(2) && is_prime(q) && q % 4 == 1 {
        let square = squares(q);
        let symmetric = |row: usize, column: usize| match (row, column) {
            (row, column) if row == column => 0.0,
            (0, _) | (_, 0) => 1.0,
            (row, column) => square[(column + q - row) % q],
        };
        // each entry becomes two by two: 0 is [[1, -1], [-1, -1]], ±1 is ±[[1, 1], [1, -1]]
        let at = |row: usize, column: usize| match (symmetric(row % half, column % half), row / half, column / half) {
            (0.0, 0, 0) => 1.0,
            (0.0, ..) => -1.0,
            (sign, 1, 1) => -sign,
            (sign, ..) => sign,
        };
        return Some((0..size * size).map(|index| at(index / size, index % size)).collect());
    }
    None
}

/// Of each number below the prime q: 1 if it is a square modulo q, 0 if it is 0, else -1.
fn squares(q: usize) -> Vec<f64> {
    let mut square = vec![-1.0; q];
    (1..q).for_each(|root| square[root * root % q] = 1.0);
    square[0] = 0.0;
    square
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::product64;

    #[test]
    fn rows_are_orthogonal_and_of_one_size() {
        // widths of models: SmolLM2, Qwen2.5 0.5B and 7B, Phi-3, Llama
        for d in [1, 2, 4, 8, 12, 20, 28, 36, 60, 128, 576, 896, 960, 1536] {
            let matrix = hadamard(d).unwrap();
            let turned: Vec<f64> = (0..d * d).map(|at| matrix[at % d * d + at / d]).collect();
            let product = product64(&matrix, &turned, (d, d, d));
            for (at, number) in product.iter().enumerate() {
                let expected = if at % (d + 1) == 0 { 1.0 } else { 0.0 };
                assert!((number - expected).abs() < 1e-12, "{d}: {at} {number}");
            }
            assert!(matrix.iter().all(|number| (number.abs() * (d as f64).sqrt() - 1.0).abs() < 1e-12));
        }
        assert_eq!(hadamard(2).unwrap().map_signs(), [1, 1, 1, -1]);
        for d in [0, 3, 6, 7, 52] {
            assert!(hadamard(d).unwrap_err().to_string().contains("patch-diagonal"), "{d}");
        }
    }

    trait Signs {
        fn map_signs(&self) -> Vec<i32>;
    }

    impl Signs for Vec<f64> {
        fn map_signs(&self) -> Vec<i32> {
            self.iter().map(|number| number.signum() as i32).collect()
        }
    }
}
