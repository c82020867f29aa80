//! Products with a weight of any format in bf16: both factors are rounded to it, the weight piece by piece, in cache.

#![cfg(target_arch = "x86_64")]

use std::ops::Range;

use half::bf16;
use rayon::prelude::*;

use super::narrow::{self, LANES};
use super::pairs::pairs_of;
use super::weights::{FEW, LowRank, PANEL, PANEL_ROWS, TOKENS, few, some_blocks};
use super::{Matrix, Pairs, Target, Weight, blocks, each, multiply, widen_part, with_scratch};
use crate::ops::simd::{self, SQUARE};

/// Rows of `x` that one thread rounds at a time.
const ROWS: usize = 64;
/// Rows of a weight that are asked for ahead of their use.
const AHEAD: usize = 8;

/// [`super::product`] in bf16.
pub(super) fn product(x: Matrix, weight: &impl Weight, low: Option<LowRank>, out: &mut Target) {
    let (o, i) = (weight.rows(), weight.columns());
    if x.rows <= FEW && x.column_stride == 1 {
        let (rounded, stride) = widened(x);
        let rounded = Matrix::new(&rounded, x.rows, i, stride, 1);
        if weight.bf16_row(0).is_some() {
            few(rounded, weight, out);
        } else {
            few(rounded, &RoundedWeight(weight), out);
        }
        if let Some((left, right)) = low {
            multiply(out, left, right, true);
        }
        return;
    }
    let stride = i.min(PANEL_ROWS);
    // rows of numbers, then of their pairs
    let scratch = SQUARE * (stride + stride.div_ceil(2));
    run(x, (i, o), scratch, low, out, false, |inner, columns, panel, scratch| {
        let (numbers, narrow) = scratch.split_at_mut(SQUARE * stride);
        let pairs = inner.len().div_ceil(2);
        // a product over nothing has no panel
        for (block, panel) in panel.chunks_exact_mut((pairs * LANES).max(1)).enumerate() {
            let first = columns.start + block * LANES;
            let some = first..(first + LANES).min(columns.end);
            if some.is_empty() || inner.is_empty() {
                break;
            }
            let rows = some.len();
            round_part(weight, some, inner.clone(), (stride, numbers), (pairs, narrow));
            // of what lies beyond the columns the sums are not kept, but numbers they must be
            narrow[rows * pairs..SQUARE * pairs].fill(0.0);
            simd::transpose(narrow, pairs, (LANES, pairs), panel, LANES);
        }
    });
}

/// Writes the part of `weight` where `rows` and `columns` meet as rows of pairs, as many apart as `pairs` says first.
/// What is not bf16 is widened to `numbers` before, in rows as many apart as it says first.
fn round_part(
    weight: &impl Weight,
    rows: Range<usize>,
    columns: Range<usize>,
    (stride, numbers): (usize, &mut [f32]),
    (distance, pairs): (usize, &mut [f32]),
) {
    let count = rows.len();
    let mut narrow = pairs.chunks_mut(distance).map(pairs_of);
    if weight.bf16_row(rows.start).is_some() {
        for (row, pairs) in rows.zip(narrow) {
            simd::prefetch_row(weight.bf16_row(row + AHEAD).unwrap_or_default(), &columns);
            copy_pairs(&weight.bf16_row(row).unwrap_or_default()[columns.clone()], pairs);
        }
        return;
    }
    widen_part(weight, rows, columns.clone(), stride, numbers);
    for (numbers, pairs) in numbers.chunks(stride).zip(&mut narrow).take(count) {
        narrow::round(&numbers[..columns.len()], pairs);
    }
}

/// Numbers as pairs, the last one with a zero where the number is odd.
fn copy_pairs(numbers: &[bf16], pairs: &mut [u32]) {
    let (whole, rest) = numbers.as_chunks::<2>();
    for (pair, numbers) in pairs.iter_mut().zip(whole) {
        *pair = u32::from(numbers[0].to_bits()) | u32::from(numbers[1].to_bits()) << 16;
    }
    if let (Some(pair), [last]) = (pairs.get_mut(whole.len()), rest) {
        *pair = u32::from(last.to_bits());
    }
}

/// [`super::product_back`] in bf16.
pub(super) fn product_back(x: Matrix, weight: &impl Weight, low: Option<LowRank>, out: &mut Target, add: bool) {
    let (o, i) = (weight.rows(), weight.columns());
    run(x, (o, i), SQUARE * PANEL, low, out, add, |inner, columns, panel, numbers| {
        let distance = inner.len().div_ceil(2) * LANES;
        for start in inner.clone().step_by(SQUARE) {
            let rows = start..(start + SQUARE).min(inner.end);
            let count = rows.len();
            widen_part(weight, rows, columns.clone(), PANEL, numbers);
            for (at, both) in numbers[..count * PANEL].chunks(2 * PANEL).enumerate() {
                let (first, second) = both.split_at(PANEL);
                let place = ((start - inner.start) / 2 + at) * LANES;
                for (block, own) in (0..columns.len()).step_by(LANES).enumerate() {
                    let own = own..(own + LANES).min(columns.len());
                    let pairs = &mut panel[block * distance + place..][..LANES];
                    // of what lies beyond the columns the sums are not kept, but numbers they must be
                    pairs[own.len()..].fill(0.0);
                    let second = (!second.is_empty()).then(|| &second[own.clone()]);
                    narrow::interleave(&first[own.clone()], second, &mut pairs_of(pairs)[..own.len()]);
                }
            }
        }
    });
}

/// Sets `out`, `[t, columns]`, to x · weight, `x` `[t, inner]`. `build` writes the pairs of the part of the weight
/// where the ranges of `inner` and of `columns` meet, as [`narrow::multiply`] reads them; its last argument is
/// `scratch` numbers of memory.
fn run(
    x: Matrix,
    (inner, columns): (usize, usize),
    scratch: usize,
    low: Option<LowRank>,
    out: &mut Target,
    add: bool,
    build: impl Fn(Range<usize>, Range<usize>, &mut [f32], &mut [f32]) + Sync,
) {
    let rows = rounded(x);
    let rank = low.map_or(0, |(left, _)| left.columns);
    let whole = &*out;
    each(&blocks(x.rows, TOKENS, 32), &blocks(columns, PANEL, 16), x.rows * columns * inner, |tokens, columns| {
        let width = columns.len().next_multiple_of(LANES);
        let panel_numbers = inner.min(PANEL_ROWS).div_ceil(2) * width;
        with_scratch(scratch + rank * columns.len() + panel_numbers + LANES, |memory| {
            let (scratch, memory) = memory.split_at_mut(scratch);
            let (factor, panel) = memory.split_at_mut(rank * columns.len());
            let start = line_start(panel.as_ptr());
            let panel = &mut panel[start..];
            // SAFETY: tasks have different tokens or columns
            let mut out = unsafe { whole.part(tokens.clone(), columns.clone()) };
            for piece in &some_blocks(inner, PANEL_ROWS) {
                build(piece.clone(), columns.clone(), panel, scratch);
                let left = rows.part(tokens.clone(), piece.clone());
                // the first piece sets what the next ones add to
                let distance = piece.len().div_ceil(2) * LANES;
                narrow::multiply(&mut out, left, pairs_of(panel), distance, add || piece.start > 0);
            }
            if let Some((left, right)) = low {
                right.part(0..rank, columns.clone()).write_to(factor);
                let right = Matrix::new(factor, rank, columns.len(), columns.len(), 1);
                multiply(&mut out, left.part(tokens.clone(), 0..rank), right, true);
            }
        });
    });
    // SAFETY: the tasks have written all tokens and columns
    unsafe { out.set() };
}

/// Numbers of four bytes up to the next line of the cache.
fn line_start<T>(from: *const T) -> usize {
    // a whole line where the distance cannot be told
    from.align_offset(size_of::<T>() * LANES).min(LANES)
}

/// Rows of pairs that begin with lines of the cache.
struct Rounded {
    memory: Vec<u32>,
    start: usize,
    stride: usize,
}

impl Rounded {
    /// The part where `rows` and the numbers `columns`, the first of which is even, meet.
    fn part(&self, rows: Range<usize>, columns: Range<usize>) -> Pairs<'_> {
        let start = self.start + rows.start * self.stride + columns.start / 2;
        let data = &self.memory[start.min(self.memory.len())..];
        Pairs::new(data, rows.len(), columns.len().div_ceil(2), self.stride)
    }
}

/// Rows of `x` as pairs.
fn rounded(x: Matrix) -> Rounded {
    // rows a power of two apart would meet in the same cache set
    let stride = x.columns.div_ceil(2).next_multiple_of(LANES) + LANES;
    let mut memory = vec![0; x.rows * stride + LANES];
    let start = line_start(memory.as_ptr());
    memory[start..].par_chunks_mut(ROWS * stride).enumerate().for_each(|(part, pairs)| {
        let mut line = Vec::new();
        for (at, pairs) in pairs.chunks_exact_mut(stride).enumerate().take(x.rows.saturating_sub(part * ROWS)) {
            let pairs = &mut pairs[..x.columns.div_ceil(2)];
            let row = part * ROWS + at;
            if x.column_stride == 1 && x.columns > 0 {
                narrow::round(x.row(row), pairs);
            } else {
                line.clear();
                line.extend((0..x.columns).map(|column| x.data[row * x.row_stride + column * x.column_stride]));
                narrow::round(&line, pairs);
            }
        }
    });
    Rounded { memory, start, stride }
}

/// Rows of `x` rounded, in f32, and the distance of the rows.
fn widened(x: Matrix) -> (Vec<f32>, usize) {
    let Rounded { memory, start, stride } = rounded(x);
    let wide = memory[start..].iter().flat_map(|pair| [pair << 16, pair & 0xffff_0000].map(f32::from_bits));
    (wide.collect(), 2 * stride)
}

/// A weight whose numbers are rounded to bf16 as they are read.
struct RoundedWeight<'a, W>(&'a W);

impl<W: Weight> Weight for RoundedWeight<'_, W> {
    fn rows(&self) -> usize {
        self.0.rows()
    }

    fn columns(&self) -> usize {
        self.0.columns()
    }

    #[inline(always)]
    fn widen(&self, row: usize, columns: Range<usize>, out: &mut [f32]) {
        self.0.widen(row, columns, out);
        for number in out {
            let bits = number.to_bits();
            let is_normal = bits & 0x7f80_0000 != 0;
            let rounded = bits.wrapping_add(0x7fff + ((bits >> 16) & 1)) & 0xffff_0000;
            // what is no number stays none, and what is below the least normal number is none
            let kept = if number.is_nan() { bits } else { rounded };
            *number = f32::from_bits(if is_normal { kept } else { bits & 0x8000_0000 });
        }
    }
}

#[cfg(test)]
mod tests {
    use half::bf16;

    use super::super::weights;
    use super::*;
    use crate::ops::linear::Dense;

    fn numbers(seed: usize, len: usize) -> Vec<f32> {
        (0..len).map(|i| ((i * 7919 + seed * 104_729) % 1013) as f32 / 506.0 - 1.0).collect()
    }

    /// Against the product of the rounded numbers in f32: few rows and many, odd sizes, several pieces and panels.
    #[test]
    fn products_are_those_of_rounded_numbers() {
        if !narrow::serves() {
            return;
        }
        let round = |x: &[f32]| -> Vec<f32> { x.iter().map(|x| bf16::from_f32(*x).to_f32()).collect() };
        for (t, i, o) in [(1, 1, 1), (3, 70, 33), (8, 2100, 17), (9, 7, 5), (64, 96, 130), (530, 1100, 97), (20, 1, 3)]
        {
            let (x, dy, w) = (numbers(1, t * i), numbers(2, t * o), numbers(3, o * i));
            let (left, right) = (numbers(4, t * 3), numbers(5, 3 * o.max(i)));
            let (narrow_x, narrow_dy, narrow_w) = (round(&x), round(&dy), round(&w));
            for has_low in [false, true] {
                let low = |width: usize| {
                    has_low.then(|| (Matrix::new(&left, t, 3, 3, 1), Matrix::new(&right, 3, width, width, 1)))
                };
                let both = |forward: bool, is_narrow: bool| {
                    let width = if forward { o } else { i };
                    let mut out = vec![0.5; t * width];
                    let target = &mut Target::over(&mut out, t, width, width);
                    let weight = if is_narrow { &w } else { &narrow_w };
                    let weight = Dense::of_rows(Matrix::new(weight, o, i, i, 1));
                    match (forward, is_narrow) {
                        (true, true) => product(Matrix::new(&x, t, i, i, 1), &weight, low(o), target),
                        (true, false) => weights::product(Matrix::new(&narrow_x, t, i, i, 1), &weight, low(o), target),
                        (false, true) => product_back(Matrix::new(&dy, t, o, o, 1), &weight, low(i), target, true),
                        (false, false) => {
                            weights::product_back(Matrix::new(&narrow_dy, t, o, o, 1), &weight, low(i), target, true);
                        }
                    }
                    out
                };
                for forward in [true, false] {
                    let (found, expected) = (both(forward, true), both(forward, false));
                    let size = expected.iter().fold(1.0_f32, |most, x| most.max(x.abs()));
                    let apart = found.iter().zip(&expected).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
                    assert!(apart < 3e-6 * size, "{t} {i} {o} low {has_low} forward {forward}: {apart} of {size}");
                }
            }
        }
    }

    #[test]
    fn rows_may_be_columns() {
        if !narrow::serves() {
            return;
        }
        let (x, w) = (numbers(1, 30 * 12), numbers(2, 12 * 7));
        let weight = Dense::of_rows(Matrix::new(&w, 12, 7, 7, 1));
        let turned: Vec<f32> = (0..30 * 12).map(|at| x[at % 12 * 30 + at / 12]).collect();
        let [mut a, mut b] = [(); 2].map(|()| vec![0.0; 30 * 7]);
        let view = Matrix::new(&x, 12, 30, 30, 1).transposed();
        product_back(view, &weight, None, &mut Target::over(&mut a, 30, 7, 7), false);
        product_back(Matrix::new(&turned, 30, 12, 12, 1), &weight, None, &mut Target::over(&mut b, 30, 7, 7), false);
        assert_eq!(a, b);
    }

    #[test]
    fn a_weight_is_rounded_as_pairs_are() {
        if !narrow::serves() {
            return;
        }
        let mut w = numbers(1, 40);
        w.extend([f32::MAX, f32::MIN_POSITIVE / 2.0, -0.0, f32::INFINITY, 1.003_906_3, 1.011_718_8]);
        let mut wide = vec![0.0; w.len()];
        RoundedWeight(&Dense::of_rows(Matrix::new(&w, 1, w.len(), w.len(), 1))).widen(0, 0..w.len(), &mut wide);
        let (pairs, _) = widened(Matrix::new(&w, 1, w.len(), w.len(), 1));
        assert_eq!(wide, pairs[..w.len()]);
    }
}
