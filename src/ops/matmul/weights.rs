//! Products with a weight of any format, which is widened to f32 piece by piece, in cache, on all threads.

use std::cell::RefCell;
use std::ops::Range;

use half::bf16;
use rayon::prelude::*;

use super::super::simd::{self, SQUARE, dot, dots, vectorized};
use super::{Matrix, Target, multiply, multiply_all};

/// A weight matrix `[o, i]` in any format that can be read as f32 piece by piece.
pub(crate) trait Weight: Sync {
    /// Output features, `o`.
    fn rows(&self) -> usize;
    /// Input features, `i`.
    fn columns(&self) -> usize;
    /// Writes the numbers `columns` of row `row` to `out`, which is as long. Called inside `vectorised`: inline it.
    fn widen(&self, row: usize, columns: Range<usize>, out: &mut [f32]);
    /// [`Weight::widen`] for rows, `stride` apart in `out`.
    #[inline(always)]
    fn widen_rows(&self, rows: Range<usize>, columns: Range<usize>, stride: usize, out: &mut [f32]) {
        for (row, out) in rows.zip(out.chunks_mut(stride)) {
            self.widen(row, columns.clone(), &mut out[..columns.len()]);
        }
    }
    /// The whole matrix where it lies, if it is f32.
    fn plain(&self) -> Option<Matrix<'_>> {
        None
    }
    /// The numbers `columns` of row `row`, where they lie if they are f32, else widened in `scratch`, which is as long.
    #[inline(always)]
    fn wide<'a>(&'a self, row: usize, columns: Range<usize>, scratch: &'a mut [f32]) -> &'a [f32] {
        if let Some(plain) = self.plain() {
            return &plain.row(row)[columns];
        }
        self.widen(row, columns, scratch);
        scratch
    }
    /// The sum of products of `x` and the numbers of row `row` from `start` on, as [`dot`] sums, `scratch` as long as
    /// `x`.
    #[inline(always)]
    fn dot(&self, row: usize, start: usize, x: &[f32], scratch: &mut [f32]) -> f32 {
        dot(x, self.wide(row, start..start + x.len(), scratch))
    }
    /// Row `row` where it lies, if there is one and its numbers are bf16.
    #[inline(always)]
    fn bf16_row(&self, _: usize) -> Option<&[bf16]> {
        None
    }
}

/// Rows of `x` per task: long enough that a panel of the weight, widened once per task, costs little.
pub(super) const TOKENS: usize = 516;
/// The same where the weight is a single panel.
const NARROW_TOKENS: usize = 126;
/// Columns of the output per task: a panel, the width of a tile.
pub(super) const PANEL: usize = 64;
/// Rows of a panel that are widened at one time: 256 KiB of the second cache.
pub(super) const PANEL_ROWS: usize = 1024;
/// Rows of `x` below which a weight that is f32 is read where it lies: copying it into panels would take longer.
const WORTH_PANELS: usize = 48;
/// Length of the sums that a tile adds up at one time. Short sums of sums round less: against f64, streams are then as
/// close as PyTorch's, where sums of 512 are off by a third more; more visits cost 2 to 3 % of the speed.
pub(crate) const DEPTH: usize = 192;
/// The same for gradients, which no later layer adds to a stream.
const DEPTH_BACK: usize = 256;
/// Numbers added to a widened row, so that rows a power of two apart do not meet in the same cache set.
pub(crate) const SKEW: usize = 16;
/// Rows of `x` up to which reading the weight costs more than the arithmetic: dot products straight from the weight, of
/// each row by itself.
pub(crate) const FEW: usize = 8;
/// Length of their dot products between two visits of the sum.
const FEW_DEPTH: usize = 2048;
/// Multiply-adds below which starting threads costs more than it saves.
const WORTH_THREADS: usize = 1 << 17;

/// The ranges of `size` at most that cover 0..len evenly; all but the last are multiples of `step`.
pub(crate) fn blocks(len: usize, size: usize, step: usize) -> Vec<Range<usize>> {
    let size = len.div_ceil(len.div_ceil(size).max(1)).next_multiple_of(step);
    (0..len).step_by(size.max(1)).map(|start| start..(start + size).min(len)).collect()
}

/// The same, one block where there is nothing: a sum of nothing is set as well.
pub(super) fn some_blocks(len: usize, size: usize) -> Vec<Range<usize>> {
    if len == 0 { std::iter::once(0..0).collect() } else { blocks(len, size, 16) }
}

/// Runs `task` for every pair of a row block and a column block, on all threads if the work is worth it.
pub(crate) fn each(
    rows: &[Range<usize>],
    columns: &[Range<usize>],
    work: usize,
    task: impl Fn(Range<usize>, Range<usize>) + Sync,
) {
    let pair = |index: usize| task(rows[index % rows.len()].clone(), columns[index / rows.len()].clone());
    let pairs = rows.len() * columns.len();
    if work < WORTH_THREADS || pairs < 2 {
        (0..pairs).for_each(pair);
    } else {
        in_parallel(pairs, &pair);
    }
}

/// Runs `task` for 0..`count`, each as soon as a thread is free. Behind a reference, so that the threads' machinery is
/// compiled once, not for every task.
pub(crate) fn in_parallel(count: usize, task: &(dyn Fn(usize) + Sync)) {
    (0..count).into_par_iter().with_max_len(1).for_each(task);
}

thread_local! {
    static SCRATCH: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
}

/// Lends the thread's scratch memory, `len` numbers with any values. The borrower must not borrow again inside.
pub(crate) fn with_scratch<R>(len: usize, work: impl FnOnce(&mut [f32]) -> R) -> R {
    SCRATCH.with_borrow_mut(|scratch| {
        if scratch.len() < len {
            scratch.resize(len, 0.0);
        }
        work(&mut scratch[..len])
    })
}

/// Widens the part of `weight` where `rows` and `columns` meet into rows `stride` apart.
pub(crate) fn widen_part(
    weight: &impl Weight,
    rows: Range<usize>,
    columns: Range<usize>,
    stride: usize,
    out: &mut [f32],
) {
    vectorized(
        #[inline(always)]
        || weight.widen_rows(rows, columns, stride, out),
    );
}

/// A product of a few columns that is added to a larger one while its part is in cache: left · right, `[t, r]` and
/// `[r, n]`.
pub(crate) type LowRank<'a> = (Matrix<'a>, Matrix<'a>);

/// out = x · weightᵀ, plus `low`: `x` is `[t, i]`, `out` `[t, o]`, which is set afterwards.
pub(crate) fn product(x: Matrix, weight: &impl Weight, low: Option<LowRank>, out: &mut Target) {
    let (t, o, i) = (x.rows, weight.rows(), weight.columns());
    assert!(x.columns == i && out.rows == t && out.columns == o);
    if t <= FEW && x.column_stride == 1 {
        few(x, weight, out);
        if let Some((left, right)) = low {
            multiply(out, left, right, true);
        }
        return;
    }
    let stride = i.min(PANEL_ROWS) + SKEW;
    let shape = Panels { x, inner: i, columns: o, depth: DEPTH, scratch: SQUARE * stride, plain: None };
    shape.run(low, out, false, |inner, columns, panel, rows| {
        let width = columns.len();
        // a product over nothing has no panel
        let starts = if inner.is_empty() { 0..0 } else { 0..width };
        for start in starts.step_by(SQUARE) {
            let some = columns.start + start..columns.start + (start + SQUARE).min(width);
            let (from, from_stride) = wide_part(weight, some.clone(), inner.clone(), stride, rows);
            simd::transpose(from, from_stride, (some.len(), inner.len()), &mut panel[start..], width);
        }
    });
}

/// out = x · weight, plus `low`: `x` is `[t, o]` with any strides, `out` `[t, i]`, which is set afterwards. With
/// `add`, what `out` was is added.
pub(crate) fn product_back(x: Matrix, weight: &impl Weight, low: Option<LowRank>, out: &mut Target, add: bool) {
    let (t, o, i) = (x.rows, weight.rows(), weight.columns());
    assert!(x.columns == o && out.rows == t && out.columns == i);
    let plain = weight.plain().filter(|_| t < WORTH_PANELS || i <= PANEL);
    let shape = Panels { x, inner: o, columns: i, depth: DEPTH_BACK, scratch: 0, plain };
    shape.run(low, out, add, |inner, columns, panel, _| {
        let width = columns.len();
        widen_part(weight, inner, columns, width, panel);
    });
}

/// A product with a weight, a panel of whose columns is widened at a time.
struct Panels<'a> {
    /// `[t, inner]`.
    x: Matrix<'a>,
    inner: usize,
    columns: usize,
    /// Numbers to a sum.
    depth: usize,
    /// Numbers that widening needs besides the panel.
    scratch: usize,
    /// The weight as `[inner, columns]`, if it is to be read where it lies.
    plain: Option<Matrix<'a>>,
}

impl Panels<'_> {
    /// Sets `out`, `[t, columns]`. `widen` writes the part of the weight where the ranges of `inner` and of `columns`
    /// meet, in rows as long as the latter; its last argument is the scratch memory.
    fn run(
        &self,
        low: Option<LowRank>,
        out: &mut Target,
        add: bool,
        widen: impl Fn(Range<usize>, Range<usize>, &mut [f32], &mut [f32]) + Sync,
    ) {
        let Self { x, inner, columns, depth, scratch, plain } = *self;
        let tokens = if columns <= PANEL { NARROW_TOKENS } else { TOKENS };
        let rank = low.map_or(0, |(left, _)| left.columns);
        let whole = &*out;
        each(&blocks(x.rows, tokens, 6), &blocks(columns, PANEL, 16), x.rows * columns * inner, |tokens, columns| {
            let width = columns.len();
            with_scratch(scratch + (rank + inner.min(PANEL_ROWS)) * width, |memory| {
                let (scratch, memory) = memory.split_at_mut(scratch);
                let (factor, panel) = memory.split_at_mut(rank * width);
                // SAFETY: tasks have different tokens or columns
                let mut out = unsafe { whole.part(tokens.clone(), columns.clone()) };
                for piece in &some_blocks(inner, PANEL_ROWS) {
                    let panel = match plain {
                        Some(plain) => plain.part(piece.clone(), columns.clone()),
                        None => {
                            widen(piece.clone(), columns.clone(), panel, scratch);
                            Matrix::new(panel, piece.len(), width, width, 1)
                        }
                    };
                    let part = |depth: Range<usize>| {
                        let left = x.part(tokens.clone(), piece.start + depth.start..piece.start + depth.end);
                        (left, panel.part(depth, 0..width))
                    };
                    let mut products: Vec<_> = some_blocks(piece.len(), depth).into_iter().map(part).collect();
                    if let Some((left, right)) = low.filter(|_| piece.end == inner) {
                        right.part(0..rank, columns.clone()).write_to(factor);
                        let right = Matrix::new(factor, rank, width, width, 1);
                        products.push((left.part(tokens.clone(), 0..rank), right));
                    }
                    // the first piece sets what the next ones add to
                    multiply_all(&mut out, &products, add || piece.start > 0);
                }
            });
        });
        // SAFETY: the tasks have written all tokens and columns
        unsafe { out.set() };
    }
}

/// The part of `weight` where `rows` and `columns` meet, and the distance of its rows: where it lies if it is f32, else
/// widened in `scratch`, in rows `stride` apart.
fn wide_part<'a>(
    weight: &'a impl Weight,
    rows: Range<usize>,
    columns: Range<usize>,
    stride: usize,
    scratch: &'a mut [f32],
) -> (&'a [f32], usize) {
    if let Some(plain) = weight.plain() {
        return plain.part(rows, columns).row_data();
    }
    widen_part(weight, rows, columns, stride, scratch);
    (scratch, stride)
}

/// `product` for so few rows that the weight is read once, at the speed of memory.
pub(super) fn few(x: Matrix, weight: &impl Weight, out: &mut Target) {
    let (i, whole) = (weight.columns(), &*out);
    let (all, panels) = (0..x.rows, blocks(weight.rows(), PANEL, 1));
    each(&[all], &panels, x.rows * weight.rows() * i, |tokens, panel| {
        let mut scratch = [0f32; FEW_DEPTH];
        for row in panel {
            let mut sums = [0f32; FEW];
            vectorized(
                #[inline(always)]
                || {
                    for start in (0..i).step_by(FEW_DEPTH) {
                        let depth = start..(start + FEW_DEPTH).min(i);
                        if tokens.len() == 1 {
                            // widened on the way, not in memory
                            let x = &x.row(tokens.start)[depth.clone()];
                            sums[0] += weight.dot(row, start, x, &mut scratch[..depth.len()]);
                            continue;
                        }
                        let weight = weight.wide(row, depth.clone(), &mut scratch[..depth.len()]);
                        let x = |token: usize| &x.row(token)[depth.clone()];
                        for from in (0..tokens.len()).step_by(4) {
                            let mut add = |found: &[f32]| {
                                sums[from..].iter_mut().zip(found).for_each(|(sum, found)| *sum += found);
                            };
                            match tokens.len() - from {
                                1 => add(&[dot(x(from), weight)]),
                                2 => add(&dots([x(from), x(from + 1)], weight)),
                                3 => add(&dots([x(from), x(from + 1), x(from + 2)], weight)),
                                _ => add(&dots([x(from), x(from + 1), x(from + 2), x(from + 3)], weight)),
                            }
                        }
                    }
                },
            );
            for (sum, token) in sums.iter().zip(tokens.clone()) {
                // SAFETY: tasks have different columns
                unsafe { whole.part(token..token + 1, row..row + 1) }.write(0, &[*sum]);
            }
        }
    });
    // SAFETY: the tasks have written all tokens and columns
    unsafe { out.set() };
}
