//! Matrix products: strided views, one product on the calling thread, and products with a weight of any format that
//! is widened to f32 piece by piece, in cache, while the product runs on all threads.

mod tile;
mod views;
mod weights;

pub(crate) use views::{Matrix, Target};
pub(crate) use weights::{DEPTH, LowRank, SKEW, Weight, blocks, each, product, product_back, widen_part, with_scratch};

/// out = left · right, or out += left · right, on the calling thread.
///
/// # Safety
/// The memory of `out` lives, nobody else reads or writes its elements meanwhile, and they are initialised if `add`.
pub(crate) unsafe fn multiply(out: Target, left: Matrix, right: Matrix, add: bool) {
    // SAFETY: what the caller answers for
    unsafe { multiply_all(out, &[(left, right)], add) }
}

/// out = Σ left · right, or out += Σ left · right, each product summed by itself, on the calling thread.
///
/// # Safety
/// As [`multiply`].
unsafe fn multiply_all(out: Target, products: &[(Matrix, Matrix)], add: bool) {
    for (left, right) in products {
        assert!(out.rows == left.rows && out.columns == right.columns && left.columns == right.rows);
    }
    #[cfg(target_arch = "x86_64")]
    if tile::serves(products) {
        // SAFETY: the machine has AVX-512, just asked; the shapes fit, and the caller answers for `out`
        return unsafe { tile::multiply_all(out, products, add) };
    }
    for (index, (left, right)) in products.iter().enumerate() {
        // SAFETY: the views hold their elements inside their memory by construction, the shapes fit, and the caller
        // answers for `out`.
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
