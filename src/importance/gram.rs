//! Inner products of all residual streams of one token.

/// Columns taken at a time: the widened numbers of every stream stay in the first cache.
const COLUMNS: usize = 128;

/// Inner products in f64 of the streams x^(0), ..., x^(L) of one token, `[L+1, L+1]`.
pub(super) struct Gram {
    streams: usize,
    /// One panel of columns in f64, `[L+1, COLUMNS]`.
    panel: Vec<f64>,
    products: Vec<f64>,
}

impl Gram {
    /// Room for `streams` streams, L+1.
    pub(super) fn new(streams: usize) -> Self {
        Self { streams, panel: vec![0.0; streams * COLUMNS], products: vec![0.0; streams * streams] }
    }

    /// Fills the products for `token`; every one of `states` is `[t, d]`.
    ///
    /// # Panics
    /// A state that ends before the token does, or more states than there is room for.
    pub(super) fn fill(&mut self, states: &[&[f32]], token: usize, d: usize) {
        assert_eq!(states.len(), self.streams);
        let size = self.streams;
        let mut start = 0;
        while start < d {
            let columns = COLUMNS.min(d - start);
            let at = token * d + start;
            for (wide, state) in self.panel.chunks_exact_mut(columns).zip(states) {
                for (wide, &narrow) in wide.iter_mut().zip(&state[at..at + columns]) {
                    *wide = f64::from(narrow);
                }
            }
            let panel = self.panel.as_ptr();
            let (row, column) = (columns as isize, 1);
            // SAFETY: the panel holds size·columns numbers, row-major, and is read as [size, columns] and, with its
            // strides swapped, as [columns, size]; products holds size·size numbers, and nothing else refers to it.
            unsafe {
                gemm::gemm(
                    size,
                    size,
                    columns,
                    self.products.as_mut_ptr(),
                    size as isize,
                    1,
                    start > 0,
                    panel,
                    column,
                    row,
                    panel,
                    row,
                    column,
                    1.0,
                    1.0,
                    false,
                    false,
                    false,
                    gemm::Parallelism::None,
                );
            }
            start += columns;
        }
    }

    /// Takes the products of a token as they were computed elsewhere: of each stream those with itself and the later
    /// ones.
    pub(super) fn take(&mut self, mut products: &[f64]) {
        for (first, row) in self.products.chunks_exact_mut(self.streams).enumerate() {
            let (own, rest) = products.split_at(self.streams - first);
            row[first..].copy_from_slice(own);
            products = rest;
        }
    }

    /// Inner product of streams `i` and `j`, i ≤ j.
    pub(super) fn get(&self, i: usize, j: usize) -> f64 {
        self.products[i * self.streams + j]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn products_are_inner_products_and_equal_streams_agree_to_the_bit() {
        // widths around the panel's, so that the last panel is short, full, or one column
        for (streams, d) in [(1, 1), (2, 3), (5, 127), (6, 128), (7, 129), (13, 300), (34, 257)] {
            let tokens = 3;
            let state = |l: usize| -> Vec<f32> {
                (0..tokens * d).map(|i| ((i * 7919 + l * 104_729) % 1013) as f32 / 97.0 - 5.0).collect()
            };
            let mut states: Vec<Vec<f32>> = (0..streams).map(state).collect();
            states[streams - 1] = states[0].clone();
            let states: Vec<&[f32]> = states.iter().map(Vec::as_slice).collect();
            let mut gram = Gram::new(streams);
            for token in [2, 0] {
                gram.fill(&states, token, d);
                for i in 0..streams {
                    for j in 0..streams {
                        let row = |l: usize| states[l][token * d..][..d].iter().map(|&x| f64::from(x));
                        let plain: f64 = row(i).zip(row(j)).map(|(x, y)| x * y).sum();
                        let scale: f64 = row(i).zip(row(j)).map(|(x, y)| (x * y).abs()).sum();
                        assert!((gram.get(i, j) - plain).abs() <= 1e-13 * scale);
                    }
                }
                let last = streams - 1;
                assert_eq!(gram.get(0, last).to_bits(), gram.get(0, 0).to_bits());
                assert_eq!(gram.get(last, last).to_bits(), gram.get(0, 0).to_bits());
            }
        }
    }
}
