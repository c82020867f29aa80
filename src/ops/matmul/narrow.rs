//! Products of numbers rounded to bf16, two at a time, with sums in f32: AVX512_BF16 does twice the multiplications of
//! f32 at a time, AMX (`tiles`) far more. Rounding is to the nearest, to even of two; what is below the least normal
//! number counts as zero.

#![cfg(target_arch = "x86_64")]

use std::arch::x86_64::*;

#[cfg(target_os = "linux")]
use super::tiles;
use super::{Pairs, Target};
use crate::ops::simd;

/// Rows of a tile.
const ROWS: usize = 6;
/// Numbers in a register, pairs as well.
pub(super) const LANES: usize = 16;
/// Columns of a tile.
const COLUMNS: usize = 4 * LANES;
/// Rows of the right factor that are asked for ahead of their use.
const AHEAD: usize = 8;

/// Whether the machine can.
pub(super) fn serves() -> bool {
    simd::has_avx512() && std::is_x86_feature_detected!("avx512bf16")
}

/// Writes `x` as pairs, the last one with a zero where the number is odd.
pub(super) fn round(x: &[f32], pairs: &mut [u32]) {
    assert!(serves() && pairs.len() == x.len().div_ceil(2));
    // SAFETY: the machine can, just asked
    unsafe { round_wide(x, pairs) }
}

#[target_feature(enable = "avx512f,avx512bf16")]
fn round_wide(x: &[f32], pairs: &mut [u32]) {
    let (chunks, rest) = x.as_chunks::<{ 2 * LANES }>();
    let (whole, last) = pairs.split_at_mut(chunks.len() * LANES);
    for (chunk, pairs) in chunks.iter().zip(whole.as_chunks_mut::<LANES>().0) {
        // SAFETY: both have a register's numbers
        unsafe {
            let (low, high) = (_mm512_loadu_ps(chunk.as_ptr()), _mm512_loadu_ps(chunk.as_ptr().add(LANES)));
            let both = _mm512_cvtne2ps_pbh(high, low);
            _mm512_storeu_si512(pairs.as_mut_ptr().cast(), std::mem::transmute::<__m512bh, __m512i>(both));
        }
    }
    if !rest.is_empty() {
        let (mut chunk, mut told) = ([0.0; 2 * LANES], [0; LANES]);
        chunk[..rest.len()].copy_from_slice(rest);
        round_wide(&chunk, &mut told);
        last.copy_from_slice(&told[..last.len()]);
    }
}

/// Writes the columns of two rows as pairs, the first of each from `first`; without a second row with zeros.
pub(super) fn interleave(first: &[f32], second: Option<&[f32]>, pairs: &mut [u32]) {
    assert!(serves() && pairs.len() == first.len() && second.is_none_or(|second| second.len() == first.len()));
    // SAFETY: the machine can, just asked
    unsafe { interleave_wide(first, second, pairs) }
}

#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
fn interleave_wide(first: &[f32], second: Option<&[f32]>, pairs: &mut [u32]) {
    // places of the low and the high half of each pair among the numbers of both rows
    let places: [u16; 2 * LANES] = std::array::from_fn(|at| (at / 2 + at % 2 * LANES) as u16);
    // SAFETY: it has a register's numbers
    let places = unsafe { _mm512_loadu_si512(places.as_ptr().cast()) };
    for start in (0..first.len()).step_by(LANES) {
        let width = LANES.min(first.len() - start);
        let mask = ((1_u32 << width) - 1) as __mmask16;
        // SAFETY: the mask holds what is inside
        unsafe {
            let low = _mm512_maskz_loadu_ps(mask, first.as_ptr().add(start));
            let high = second
                .map_or_else(|| _mm512_setzero_ps(), |second| _mm512_maskz_loadu_ps(mask, second.as_ptr().add(start)));
            let both = std::mem::transmute::<__m512bh, __m512i>(_mm512_cvtne2ps_pbh(high, low));
            let turned = _mm512_permutexvar_epi16(places, both);
            _mm512_mask_storeu_epi32(pairs.as_mut_ptr().add(start).cast(), mask, turned);
        }
    }
}

/// One tile.
struct Step<'a> {
    left: Pairs<'a>,
    right: &'a [u32],
    /// Numbers from one block of columns to the next.
    distance: usize,
    row: usize,
    to: *mut f32,
    to_stride: usize,
    add: bool,
    /// The last register's columns.
    mask: __mmask16,
}

type Kernel = unsafe fn(&Step);

/// By rows less one and registers less one.
const KERNELS: [[Kernel; 4]; ROWS] = [
    [tile::<1, 1>, tile::<1, 2>, tile::<1, 3>, tile::<1, 4>],
    [tile::<2, 1>, tile::<2, 2>, tile::<2, 3>, tile::<2, 4>],
    [tile::<3, 1>, tile::<3, 2>, tile::<3, 3>, tile::<3, 4>],
    [tile::<4, 1>, tile::<4, 2>, tile::<4, 3>, tile::<4, 4>],
    [tile::<5, 1>, tile::<5, 2>, tile::<5, 3>, tile::<5, 4>],
    [tile::<6, 1>, tile::<6, 2>, tile::<6, 3>, tile::<6, 4>],
];

/// out = left · right, or out += left · right, on the calling thread. `right` is in blocks of [`LANES`] columns,
/// `distance` apart, each with a row of [`LANES`] pairs for each pair of the depth; the last block is filled up.
pub(super) fn multiply(out: &mut Target, left: Pairs, right: &[u32], distance: usize, add: bool) {
    #[cfg(target_os = "linux")]
    if left.depth > 0 && tiles::serves() {
        return tiles::multiply(out, left, right, distance, add);
    }
    by_registers(out, left, right, distance, add);
}

/// [`multiply`] by AVX512_BF16.
fn by_registers(out: &mut Target, left: Pairs, right: &[u32], distance: usize, add: bool) {
    assert!(serves() && out.rows == left.rows && (!add || out.is_set()));
    assert!(out.columns == 0 || (out.columns - 1) / LANES * distance + left.depth * LANES <= right.len());
    for column in (0..out.columns).step_by(COLUMNS) {
        let width = COLUMNS.min(out.columns - column);
        let registers = width.div_ceil(LANES);
        let mask = ((1_u32 << (width - (registers - 1) * LANES)) - 1) as __mmask16;
        for row in (0..out.rows).step_by(ROWS) {
            let rows = ROWS.min(out.rows - row);
            let to = out.data.wrapping_add(row * out.row_stride + column);
            let right = &right[column / LANES * distance..];
            let step = Step { left, right, distance, row, to, to_stride: out.row_stride, add, mask };
            // SAFETY: the machine can, and rows and columns are inside all three, just asked
            unsafe { KERNELS[rows - 1][registers - 1](&step) };
        }
    }
    // SAFETY: all of it was written
    unsafe { out.set() };
}

/// M rows and N registers of columns.
///
/// # Safety
/// AVX512_BF16 is there; the rows and columns are inside the factors and the output, which is set where it is added to.
#[target_feature(enable = "avx512f,avx512bf16")]
unsafe fn tile<const M: usize, const N: usize>(step: &Step) {
    let Step { left, right, distance, row, to, to_stride, add, mask } = *step;
    // SAFETY: the caller's word for all that is read and written below
    unsafe {
        let bf16 = |x: __m512i| std::mem::transmute::<__m512i, __m512bh>(x);
        let rows: [*const u32; M] = std::array::from_fn(|m| left.data.as_ptr().wrapping_add((row + m) * left.stride));
        let mut sums = [[_mm512_setzero_ps(); N]; M];
        let mut b = right.as_ptr();
        for at in 0..left.depth {
            let columns: [__m512bh; N] = std::array::from_fn(|n| bf16(_mm512_loadu_si512(b.add(n * distance).cast())));
            for n in 0..N {
                _mm_prefetch::<_MM_HINT_T0>(b.wrapping_add(AHEAD * LANES + n * distance).cast());
            }
            for (sums, row) in sums.iter_mut().zip(rows) {
                let factor = bf16(_mm512_set1_epi32((*row.add(at)).cast_signed()));
                for (sum, column) in sums.iter_mut().zip(columns) {
                    *sum = _mm512_dpbf16_ps(*sum, factor, column);
                }
            }
            b = b.wrapping_add(LANES);
        }
        for (m, sums) in sums.into_iter().enumerate() {
            for (n, sum) in sums.into_iter().enumerate() {
                let to = to.add(m * to_stride + n * LANES);
                let mask = if n + 1 == N { mask } else { __mmask16::MAX };
                let sum = if add { _mm512_add_ps(_mm512_maskz_loadu_ps(mask, to), sum) } else { sum };
                _mm512_mask_storeu_ps(to, mask, sum);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use half::bf16;

    use super::*;

    fn numbers(seed: usize, len: usize) -> Vec<f32> {
        (0..len).map(|i| ((i * 7919 + seed * 104_729) % 1009) as f32 / 504.0 - 1.0).collect()
    }

    fn narrow(x: f32) -> f64 {
        f64::from(bf16::from_f32(x).to_f32())
    }

    #[test]
    fn pairs_are_rounded_to_the_nearest() {
        if !serves() {
            return;
        }
        for len in [1, 2, 31, 32, 33, 70] {
            let x = numbers(len, len);
            let mut pairs = vec![0; len.div_ceil(2)];
            round(&x, &mut pairs);
            let of = |at: usize| x.get(at).map_or(0, |x| u32::from(bf16::from_f32(*x).to_bits()));
            let expected: Vec<u32> = (0..pairs.len()).map(|at| of(2 * at) | of(2 * at + 1) << 16).collect();
            assert_eq!(pairs, expected, "{len}");
            let second = numbers(len + 1, len);
            for second in [Some(&second[..]), None] {
                let mut pairs = vec![0; len];
                interleave(&x, second, &mut pairs);
                let bits = |x: f32| u32::from(bf16::from_f32(x).to_bits());
                let expected: Vec<u32> =
                    (0..len).map(|at| bits(x[at]) | second.map_or(0, |second| bits(second[at])) << 16).collect();
                assert_eq!(pairs, expected, "{len}");
            }
        }
    }

    /// Every tile: sums of rounded numbers are right, and what lies beside them is left alone.
    #[test]
    fn every_tile() {
        if !serves() {
            return;
        }
        let sizes = [1, 15, 16, 17, 48, 63, 64, 65, 100, 130];
        for (rows, columns) in
            (1..14).chain([16, 17, 31, 32, 33, 50]).flat_map(|rows| sizes.map(|columns| (rows, columns)))
        {
            for depth in [0, 1, 2, 19, 40, 64, 530] {
                let (x, y) = (numbers(rows, rows * depth), numbers(columns, depth * columns));
                let pairs = depth.div_ceil(2);
                let distance = pairs * LANES + 16;
                let mut left = vec![0; rows * pairs];
                for (x, left) in x.chunks_exact(depth.max(1)).zip(left.chunks_exact_mut(pairs.max(1))) {
                    round(x, left);
                }
                let mut right = vec![0; columns.div_ceil(LANES) * distance];
                for (block, right) in right.chunks_exact_mut(distance).enumerate() {
                    let own = block * LANES..((block + 1) * LANES).min(columns);
                    for (at, right) in right.chunks_exact_mut(LANES).enumerate().take(pairs) {
                        let row = |at: usize| y.get(at * columns + own.start..at * columns + own.end);
                        let second = row(2 * at + 1).filter(|_| 2 * at + 1 < depth);
                        interleave(row(2 * at).unwrap(), second, &mut right[..own.len()]);
                    }
                }
                let wide = columns + 9;
                for (way, add) in [multiply, by_registers].into_iter().flat_map(|way| [(way, false), (way, true)]) {
                    let before = if add { 0.25 } else { f32::NAN };
                    let mut out = vec![before; rows * wide];
                    let left = Pairs::new(&left, rows, pairs, pairs);
                    way(&mut Target::over(&mut out, rows, columns, wide), left, &right, distance, add);
                    for (place, found) in out.iter().enumerate() {
                        let (row, column) = (place / wide, place % wide);
                        if column >= columns {
                            assert_eq!(found.to_bits(), before.to_bits());
                            continue;
                        }
                        let exact: f64 =
                            (0..depth).map(|k| narrow(x[row * depth + k]) * narrow(y[k * columns + column])).sum();
                        let exact = exact + if add { 0.25 } else { 0.0 };
                        let apart = (f64::from(*found) - exact).abs();
                        assert!(apart < 2e-5_f64.max(1e-6 * exact.abs()), "{rows} {columns} {depth}: {found} {exact}");
                    }
                }
            }
        }
    }
}
