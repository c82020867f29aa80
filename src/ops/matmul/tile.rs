//! A product in tiles of six rows by 64 columns, which AVX-512 holds in 24 of its registers.
//!
//! A library would pack both operands, and visit the output once for every product that is added to it. Here operands
//! are read where they lie, which pays because the right one is a panel that the caller has just widened, or a head's
//! keys or values; and the sums of a tile stay in the first cache from the first product to the last.

#![cfg(target_arch = "x86_64")]

use std::arch::x86_64::*;
use std::mem::MaybeUninit;

use super::{Matrix, Target};
use crate::ops::simd;

/// Rows of a tile.
const ROWS: usize = 6;
/// Numbers in a register.
const LANES: usize = 16;
/// Columns of a tile.
const COLUMNS: usize = 4 * LANES;
/// Rows of the right factor that are asked for ahead of their use.
const AHEAD: usize = 8;

/// Whether the machine can, and these products profit.
pub(super) fn serves(products: &[(Matrix, Matrix)]) -> bool {
    simd::has_avx512() && products.iter().all(|(_, right)| right.column_stride == 1)
}

/// Where a tile's sums are.
#[derive(Clone, Copy)]
struct Sums {
    data: *mut f32,
    row_stride: usize,
}

/// One product's share of a tile.
#[derive(Clone, Copy)]
struct Step<'a> {
    left: Matrix<'a>,
    right: Matrix<'a>,
    row: usize,
    column: usize,
    /// What is added; `None` is zero.
    from: Option<Sums>,
    to: Sums,
    /// The last register's columns.
    mask: __mmask16,
}

type Kernel = unsafe fn(&Step);

/// By rows less one and registers less one.
const WHOLE: [[Kernel; 4]; ROWS] = [
    [tile::<1, 1, false>, tile::<1, 2, false>, tile::<1, 3, false>, tile::<1, 4, false>],
    [tile::<2, 1, false>, tile::<2, 2, false>, tile::<2, 3, false>, tile::<2, 4, false>],
    [tile::<3, 1, false>, tile::<3, 2, false>, tile::<3, 3, false>, tile::<3, 4, false>],
    [tile::<4, 1, false>, tile::<4, 2, false>, tile::<4, 3, false>, tile::<4, 4, false>],
    [tile::<5, 1, false>, tile::<5, 2, false>, tile::<5, 3, false>, tile::<5, 4, false>],
    [tile::<6, 1, false>, tile::<6, 2, false>, tile::<6, 3, false>, tile::<6, 4, false>],
];
/// By rows less one: fewer columns than a register has.
const PARTIAL: [Kernel; ROWS] = [
    tile::<1, 1, true>,
    tile::<2, 1, true>,
    tile::<3, 1, true>,
    tile::<4, 1, true>,
    tile::<5, 1, true>,
    tile::<6, 1, true>,
];

/// A tile's sums between two products.
#[repr(align(64))]
struct Between([MaybeUninit<f32>; ROWS * COLUMNS]);

/// [`super::multiply_all`] where it [`serves`].
///
/// # Safety
/// AVX-512F is there and the right factors' rows are consecutive; as [`super::by_library`].
pub(super) unsafe fn multiply_all(out: &mut Target, products: &[(Matrix, Matrix)], add: bool) {
    let mut between = Between([MaybeUninit::uninit(); ROWS * COLUMNS]);
    let between = Sums { data: between.0.as_mut_ptr().cast(), row_stride: COLUMNS };
    let mut column = 0;
    while column < out.columns {
        let left = out.columns - column;
        // whole registers first, then the rest of one
        let (width, registers) =
            if left < LANES { (left, 0) } else { (left.min(COLUMNS) / LANES * LANES, left.min(COLUMNS) / LANES) };
        for row in (0..out.rows).step_by(ROWS) {
            let rows = (out.rows - row).min(ROWS);
            let kernel = if registers == 0 { PARTIAL[rows - 1] } else { WHOLE[rows - 1][registers - 1] };
            let place = Sums { data: out.data.wrapping_add(row * out.row_stride + column), row_stride: out.row_stride };
            let mut from = add.then_some(place);
            for (index, (left, right)) in products.iter().enumerate() {
                // a few lines of the output with each product: all at once they would be waited for
                for row in (index..rows).step_by(products.len()) {
                    (0..registers)
                        .for_each(|line| fetch(place.data.wrapping_add(row * place.row_stride + line * LANES)));
                }
                let to = if index + 1 == products.len() { place } else { between };
                let mask = ((1_u32 << width.min(LANES)) - 1) as __mmask16;
                // SAFETY: what the caller answers for; the rows and columns are inside `out`, and so inside the factors
                unsafe { kernel(&Step { left: *left, right: *right, row, column, from, to, mask }) };
                from = Some(to);
            }
        }
        column += width;
    }
}

/// Asks for the line of the cache that `data` is in.
#[inline(always)]
fn fetch(data: *const f32) {
    // SAFETY: a hint, for which any address will do
    unsafe { _mm_prefetch::<_MM_HINT_T0>(data.cast()) };
}

/// `to` = `from` + left · right for M rows and N registers of columns; with `PARTIAL` the columns of the mask.
///
/// # Safety
/// AVX-512F is there, the rows and columns are inside the factors, `from` and `to` hold them.
#[target_feature(enable = "avx512f")]
unsafe fn tile<const M: usize, const N: usize, const PARTIAL: bool>(step: &Step) {
    let Step { left, right, row, column, from, to, mask } = *step;
    let (a, b) = (left.data.as_ptr(), right.data.as_ptr());
    // SAFETY: the caller's word for all that is read and written below
    unsafe {
        let load = |from: *const f32| if PARTIAL { _mm512_maskz_loadu_ps(mask, from) } else { _mm512_loadu_ps(from) };
        let rows: [*const f32; M] = std::array::from_fn(|m| a.wrapping_add((row + m) * left.row_stride));
        let mut sums = [[_mm512_setzero_ps(); N]; M];
        let (mut at, mut b) = (0, b.wrapping_add(column));
        for _ in 0..left.columns {
            let columns: [__m512; N] = std::array::from_fn(|n| load(b.add(n * LANES)));
            (0..N).for_each(|n| fetch(b.wrapping_add(AHEAD * right.row_stride + n * LANES)));
            for (sums, row) in sums.iter_mut().zip(rows) {
                let factor = _mm512_set1_ps(*row.add(at));
                for (sum, column) in sums.iter_mut().zip(columns) {
                    *sum = _mm512_fmadd_ps(factor, column, *sum);
                }
            }
            at += left.column_stride;
            b = b.wrapping_add(right.row_stride);
        }
        for (m, sums) in sums.into_iter().enumerate() {
            for (n, sum) in sums.into_iter().enumerate() {
                let sum = match from {
                    Some(from) => _mm512_add_ps(load(from.data.add(m * from.row_stride + n * LANES)), sum),
                    None => sum,
                };
                let to = to.data.add(m * to.row_stride + n * LANES);
                if PARTIAL { _mm512_mask_storeu_ps(to, mask, sum) } else { _mm512_storeu_ps(to, sum) }
            }
        }
    }
}
