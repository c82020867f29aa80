//! Matrix products: strided views, one product on the calling thread, and products with a weight of any format that
//! is widened to f32 piece by piece, in cache, while the product runs on all threads.

mod narrow;
mod narrow_weights;
mod pairs;
mod tile;
mod tiles;
mod views;
mod weights;

pub(crate) use pairs::{
    Pairs, as_pairs, bf16_units, columns_as_pairs, in_bf16, multiply_pairs, product_bytes, serves_bf16, switch_bf16,
};
pub(crate) use views::{Matrix, Target};
pub(crate) use weights::{
    DEPTH, FEW, LowRank, SKEW, Weight, blocks, each, in_parallel, product, product_back, widen_part, with_scratch,
};

/// [`product`] in what products with weights are computed in: f32, or bf16 with sums in f32.
pub(crate) fn weight_product(x: Matrix, weight: &impl Weight, low: Option<LowRank>, out: &mut Target) {
    #[cfg(target_arch = "x86_64")]
    if in_bf16() {
        return narrow_weights::product(x, weight, low, out);
    }
    product(x, weight, low, out);
}

/// [`product_back`] in the same.
pub(crate) fn weight_product_back(x: Matrix, weight: &impl Weight, low: Option<LowRank>, out: &mut Target, add: bool) {
    #[cfg(target_arch = "x86_64")]
    if in_bf16() {
        return narrow_weights::product_back(x, weight, low, out, add);
    }
    product_back(x, weight, low, out, add);
}

/// out = left · right, or out += left · right, on the calling thread. What is added to has to be set.
pub(crate) fn multiply(out: &mut Target, left: Matrix, right: Matrix, add: bool) {
    multiply_all(out, &[(left, right)], add);
}

/// out = Σ left · right, or out += Σ left · right, each product summed by itself, on the calling thread.
fn multiply_all(out: &mut Target, products: &[(Matrix, Matrix)], add: bool) {
    for (left, right) in products {
        assert!(out.rows == left.rows && out.columns == right.columns && left.columns == right.rows);
    }
    assert!(!products.is_empty() && (!add || out.is_set()));
    #[cfg(target_arch = "x86_64")]
    if tile::serves(products) {
        // SAFETY: the machine has AVX-512, just asked; the shapes fit, and what is added to is set
        unsafe { tile::multiply_all(out, products, add) };
        // SAFETY: just written
        return unsafe { out.set() };
    }
    // SAFETY: the shapes fit, and what is added to is set; then all is written
    unsafe {
        by_library(out, products, add);
        out.set();
    }
}

/// [`multiply_all`] for any machine and any strides.
///
/// # Safety
/// There is a product, the shapes fit, and `out` is initialised if `add`.
unsafe fn by_library(out: &mut Target, products: &[(Matrix, Matrix)], add: bool) {
    for (index, (left, right)) in products.iter().enumerate() {
        // SAFETY: the views hold their elements inside their memory by construction, the shapes fit, and `out` is
        // written by the first product, if not before
        unsafe {
            gemm::gemm(
                out.rows,
                out.columns,
                left.columns,
                out.data,
                1,
                out.row_stride as isize,
                add || index > 0,
                left.data.as_ptr(),
                left.column_stride as isize,
                left.row_stride as isize,
                right.data.as_ptr(),
                right.column_stride as isize,
                right.row_stride as isize,
                1.0,
                1.0,
                false,
                false,
                false,
                gemm::Parallelism::None,
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use std::ops::Range;

    use super::*;

    type Way = unsafe fn(&mut Target, &[(Matrix, Matrix)], bool);

    /// The ways that this machine has.
    fn ways() -> Vec<(&'static str, Way)> {
        let mut ways: Vec<(&'static str, Way)> =
            vec![("library", by_library), ("either", |out, products, add| multiply_all(out, products, add))];
        #[cfg(target_arch = "x86_64")]
        if crate::ops::simd::has_avx512() {
            ways.push(("tile", tile::multiply_all));
        }
        ways
    }

    fn numbers(seed: usize, len: usize) -> Vec<f32> {
        (0..len).map(|i| ((i * 7919 + seed * 104_729) % 1009) as f32 / 504.0 - 1.0).collect()
    }

    /// Σ left · right in f64, `[rows, columns]`.
    fn exact(products: &[(Matrix, Matrix)], (rows, columns): (usize, usize)) -> Vec<f64> {
        let at = |matrix: &Matrix, row: usize, column: usize| {
            f64::from(matrix.data[row * matrix.row_stride + column * matrix.column_stride])
        };
        let element = |row: usize, column: usize| {
            let of = |(left, right): &(Matrix, Matrix)| {
                (0..left.columns).map(|k| at(left, row, k) * at(right, k, column)).sum::<f64>()
            };
            products.iter().map(of).sum::<f64>()
        };
        (0..rows * columns).map(|place| element(place / columns, place % columns)).collect()
    }

    /// Each way on each shape: the sums are right, and what lies around them is left alone.
    fn check(rows: Range<usize>, columns: &[usize], depths: &[usize], turned: bool) {
        for (rows, columns) in rows.flat_map(|rows| columns.iter().map(move |columns| (rows, *columns))) {
            let data: Vec<_> = depths
                .iter()
                .enumerate()
                .map(|(seed, depth)| {
                    (numbers(seed, (rows + 3) * (depth + 5)), numbers(seed + 50, depth * (columns + 7)))
                })
                .collect();
            let products: Vec<_> = depths
                .iter()
                .zip(&data)
                .map(|(depth, (left, right))| {
                    let left = match turned {
                        false => Matrix::new(left, rows, *depth, depth + 5, 1),
                        true => Matrix::new(left, *depth, rows, rows + 3, 1).transposed(),
                    };
                    (left, Matrix::new(right, *depth, columns, columns + 7, 1))
                })
                .collect();
            let exact = exact(&products, (rows, columns));
            let stride = columns + 9;
            for ((name, way), add) in ways().into_iter().flat_map(|way| [(way, false), (way, true)]) {
                let before = if add { 0.25 } else { f32::NAN };
                let mut out = vec![before; rows * stride];
                // SAFETY: the shapes fit, and `out` is initialised
                unsafe { way(&mut Target::over(&mut out, rows, columns, stride), &products, add) };
                for (place, found) in out.iter().enumerate() {
                    let (row, column) = (place / stride, place % stride);
                    let told = || format!("{name} {rows}x{columns} {depths:?} turned {turned}: {row}, {column}");
                    if column >= columns {
                        assert_eq!(found.to_bits(), before.to_bits(), "{}", told());
                        continue;
                    }
                    let expected = exact[row * columns + column] + if add { 0.25 } else { 0.0 };
                    assert!((f64::from(*found) - expected).abs() < 2e-5, "{}: {found} {expected}", told());
                }
            }
        }
    }

    #[test]
    fn every_tile_in_every_way() {
        let columns = [1, 7, 15, 16, 17, 31, 33, 48, 63, 64, 65, 80, 100, 128, 130];
        for turned in [false, true] {
            check(1..14, &columns, &[19], turned);
            check(5..8, &columns, &[1, 40, 3], turned);
        }
    }

    #[test]
    fn a_sum_of_nothing_is_zero() {
        check(3..8, &[5, 64, 70], &[0], false);
        check(3..8, &[5, 64, 70], &[0, 4], false);
    }
}
