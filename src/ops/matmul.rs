//! Matrix products: strided views, one product on the calling thread, and products with a weight of any format that
//! is widened to f32 block by block, in cache, while the product runs on all threads.

use std::cell::RefCell;
use std::mem::MaybeUninit;
use std::ops::Range;

use rayon::prelude::*;

use super::simd::{self, SQUARE, dot, vectorised};

/// A view of f32 numbers with any strides, to read.
#[derive(Clone, Copy)]
pub(crate) struct Matrix<'a> {
    data: &'a [f32],
    pub(crate) rows: usize,
    pub(crate) columns: usize,
    row_stride: usize,
    column_stride: usize,
}

impl<'a> Matrix<'a> {
    /// Element (r, c) is `data[r * row_stride + c * column_stride]`; all of them must be inside.
    pub(crate) fn new(data: &'a [f32], rows: usize, columns: usize, row_stride: usize, column_stride: usize) -> Self {
        if rows > 0 && columns > 0 {
            assert!((rows - 1) * row_stride + (columns - 1) * column_stride < data.len());
        }
        Self { data, rows, columns, row_stride, column_stride }
    }

    /// Rows as columns.
    pub(crate) fn transposed(self) -> Self {
        Self {
            data: self.data,
            rows: self.columns,
            columns: self.rows,
            row_stride: self.column_stride,
            column_stride: self.row_stride,
        }
    }

    /// The part where `rows` and `columns` meet.
    pub(crate) fn part(self, rows: Range<usize>, columns: Range<usize>) -> Self {
        assert!(rows.end <= self.rows && columns.end <= self.columns);
        let start = (rows.start * self.row_stride + columns.start * self.column_stride).min(self.data.len());
        Self { data: &self.data[start..], rows: rows.len(), columns: columns.len(), ..self }
    }

    /// The numbers and the distance of the rows, if a row's numbers are consecutive.
    pub(crate) fn row_data(self) -> (&'a [f32], usize) {
        assert_eq!(self.column_stride, 1);
        (self.data, self.row_stride)
    }

    /// Row `index`, if its numbers are consecutive.
    #[inline(always)]
    fn row(self, index: usize) -> &'a [f32] {
        debug_assert_eq!(self.column_stride, 1);
        &self.data[index * self.row_stride..][..self.columns]
    }
}

/// A view of rows of f32 numbers, to write: several threads may hold one and write different elements.
#[derive(Clone, Copy)]
pub(crate) struct Target {
    data: *mut f32,
    rows: usize,
    columns: usize,
    row_stride: usize,
}

// SAFETY: a `Target` is an address; what writes through it is unsafe and demands that nobody else touches the elements
// meanwhile.
unsafe impl Send for Target {}
// SAFETY: as above.
unsafe impl Sync for Target {}

impl Target {
    /// Rows of consecutive numbers, `row_stride` apart.
    pub(crate) fn new(data: &mut [MaybeUninit<f32>], rows: usize, columns: usize, row_stride: usize) -> Self {
        if rows > 0 && columns > 0 {
            assert!(columns <= row_stride && (rows - 1) * row_stride + columns <= data.len());
        }
        Self { data: data.as_mut_ptr().cast(), rows, columns, row_stride }
    }

    /// The same over numbers that are there already.
    pub(crate) fn over(data: &mut [f32], rows: usize, columns: usize, row_stride: usize) -> Self {
        if rows > 0 && columns > 0 {
            assert!(columns <= row_stride && (rows - 1) * row_stride + columns <= data.len());
        }
        Self { data: data.as_mut_ptr(), rows, columns, row_stride }
    }

    /// The part where `rows` and `columns` meet.
    pub(crate) fn part(self, rows: Range<usize>, columns: Range<usize>) -> Self {
        assert!(rows.end <= self.rows && columns.end <= self.columns);
        let start = rows.start * self.row_stride + columns.start;
        Self { data: self.data.wrapping_add(start), rows: rows.len(), columns: columns.len(), ..self }
    }

    /// Writes row `index`.
    ///
    /// # Safety
    /// The memory lives, and nobody else reads or writes this row meanwhile.
    pub(crate) unsafe fn write(self, index: usize, values: &[f32]) {
        assert!(index < self.rows && values.len() == self.columns);
        let row = self.data.wrapping_add(index * self.row_stride);
        // SAFETY: the row is inside the memory by construction, and the caller's alone.
        unsafe { row.copy_from_nonoverlapping(values.as_ptr(), values.len()) };
    }
}

/// out = left · right, or out += left · right, on the calling thread.
///
/// # Safety
/// The memory of `out` lives, nobody else reads or writes its elements meanwhile, and they are initialised if `add`.
pub(crate) unsafe fn multiply(out: Target, left: Matrix, right: Matrix, add: bool) {
    assert!(out.rows == left.rows && out.columns == right.columns && left.columns == right.rows);
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
            add,
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

/// A weight matrix `[o, i]` in any format that can be read as f32 piece by piece.
pub(crate) trait Weight: Sync {
    /// Output features, `o`.
    fn rows(&self) -> usize;
    /// Input features, `i`.
    fn columns(&self) -> usize;
    /// Writes the numbers `columns` of row `row` to `out`, which is as long. Called inside `vectorised`: inline it.
    fn widen(&self, row: usize, columns: Range<usize>, out: &mut [f32]);
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
}

/// Rows of `x` per task: long enough that a block of the weight, widened and packed once per task, costs little.
const TOKENS: usize = 516;
/// The same where the weight is a single panel, or two of its columns.
const NARROW_TOKENS: usize = 64;
/// Rows of the weight per task, two of the widest tiles of `gemm`.
const PANEL: usize = 128;
/// Columns of the input's gradient per task, one of those tiles: enough tasks that no thread waits for the last.
const COLUMNS: usize = 64;
/// Length of the sums between two visits of the output. Short sums of sums round less: against f64, streams are then as
/// close as PyTorch's, where sums of 512 are off by a third more; more visits cost 2 to 3 % of the speed.
pub(crate) const DEPTH: usize = 192;
/// The same for gradients, which no later layer adds to a stream.
const DEPTH_BACK: usize = 256;
/// Numbers added to a widened row, so that rows a power of two apart do not meet in the same cache set.
pub(crate) const SKEW: usize = 16;
/// Rows of `x` up to which reading the weight costs more than the arithmetic: dot products straight from the weight.
const FEW: usize = 8;
/// Length of their dot products between two visits of the sum.
const FEW_DEPTH: usize = 2048;
/// Multiply-adds below which starting threads costs more than it saves.
const WORTH_THREADS: usize = 1 << 17;

/// The ranges of `size` at most that cover 0..len evenly; all but the last are multiples of `step`.
pub(crate) fn blocks(len: usize, size: usize, step: usize) -> Vec<Range<usize>> {
    let size = len.div_ceil(len.div_ceil(size).max(1)).next_multiple_of(step);
    (0..len).step_by(size.max(1)).map(|start| start..(start + size).min(len)).collect()
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
        (0..pairs).into_par_iter().with_max_len(1).for_each(pair);
    }
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
    let width = columns.len();
    vectorised(
        #[inline(always)]
        || {
            for (row, out) in rows.zip(out.chunks_mut(stride)) {
                weight.widen(row, columns.clone(), &mut out[..width]);
            }
        },
    );
}

/// The part of `weight` where `rows` and `columns` meet: where it lies if it is f32, else widened in `scratch`, in rows
/// `stride` apart.
fn wide_part<'a>(
    weight: &'a impl Weight,
    rows: Range<usize>,
    columns: Range<usize>,
    stride: usize,
    scratch: &'a mut [f32],
) -> Matrix<'a> {
    if let Some(plain) = weight.plain() {
        return plain.part(rows, columns);
    }
    let (count, width) = (rows.len(), columns.len());
    widen_part(weight, rows, columns, stride, &mut scratch[..(count - 1) * stride + width]);
    Matrix::new(scratch, count, width, stride, 1)
}

/// Writes the rows of `from`, whose numbers are consecutive, as columns of `to`, whose rows are `to_stride` apart.
fn transpose(from: Matrix, to: &mut [f32], to_stride: usize) {
    let (data, stride) = from.row_data();
    simd::transpose(data, stride, (from.rows, from.columns), to, to_stride);
}

/// A product of a few columns that is added to a larger one while its part is in cache: left · right, `[t, r]` and
/// `[r, n]`.
pub(crate) type LowRank<'a> = (Matrix<'a>, Matrix<'a>);

/// out = x · weightᵀ, plus `low`: `x` is `[t, i]`, `out` `[t, o]`, every element of which is written.
pub(crate) fn product(x: Matrix, weight: &impl Weight, low: Option<LowRank>, out: Target) {
    let (t, o, i) = (x.rows, weight.rows(), weight.columns());
    assert!(x.columns == i && out.rows == t && out.columns == o);
    if t <= FEW && x.column_stride == 1 {
        few(x, weight, out);
        return add_low_rank(low, 0..t, 0..o, out);
    }
    // a narrow product has no panels to share out
    let tokens = if o <= PANEL { NARROW_TOKENS } else { TOKENS };
    each(&blocks(t, tokens, 6), &blocks(o, PANEL, 16), t * o * i, |tokens, panel| {
        let (stride, width) = (i.min(DEPTH) + SKEW, panel.len());
        with_scratch(SQUARE * stride + i.min(DEPTH) * width, |scratch| {
            let (rows, turned) = scratch.split_at_mut(SQUARE * stride);
            let out = out.part(tokens.clone(), panel.clone());
            for depth in blocks(i, DEPTH, 16) {
                // `gemm` wants the rows as columns, and would turn them number by number
                for start in panel.clone().step_by(SQUARE) {
                    let some = start..(start + SQUARE).min(panel.end);
                    let wide = wide_part(weight, some, depth.clone(), stride, rows);
                    transpose(wide, &mut turned[start - panel.start..], width);
                }
                let block = Matrix::new(turned, depth.len(), width, width, 1);
                // SAFETY: tasks own different parts of `out`; the first depth sets what the next ones add to.
                unsafe { multiply(out, x.part(tokens.clone(), depth.clone()), block, depth.start > 0) };
            }
            add_low_rank(low, tokens, panel, out);
        });
    });
}

/// Adds the part of `low` where `rows` and `columns` meet; `out` is that part, and the task's own.
fn add_low_rank(low: Option<LowRank>, rows: Range<usize>, columns: Range<usize>, out: Target) {
    if let Some((left, right)) = low {
        let (left, right) = (left.part(rows, 0..left.columns), right.part(0..right.rows, columns));
        // SAFETY: the caller has just written `out`, which no other task touches.
        unsafe { multiply(out, left, right, true) };
    }
}

/// `product` for so few rows that the weight is read once, at the speed of memory.
fn few(x: Matrix, weight: &impl Weight, out: Target) {
    let i = weight.columns();
    let (all, panels) = (0..x.rows, blocks(weight.rows(), PANEL, 1));
    each(&[all], &panels, x.rows * weight.rows() * i, |tokens, panel| {
        let mut scratch = [0f32; FEW_DEPTH];
        for row in panel {
            let mut sums = [0f32; FEW];
            vectorised(
                #[inline(always)]
                || {
                    for start in (0..i).step_by(FEW_DEPTH) {
                        let depth = start..(start + FEW_DEPTH).min(i);
                        let weight = weight.wide(row, depth.clone(), &mut scratch[..depth.len()]);
                        for (sum, token) in sums.iter_mut().zip(tokens.clone()) {
                            *sum += dot(&x.row(token)[depth.clone()], weight);
                        }
                    }
                },
            );
            for (sum, token) in sums.iter().zip(tokens.clone()) {
                // SAFETY: tasks own different columns of `out`.
                unsafe { out.part(token..token + 1, row..row + 1).write(0, &[*sum]) };
            }
        }
    });
}

/// out = x · weight, plus `low`: `x` is `[t, o]` with any strides, `out` `[t, i]`, every element of which is written.
/// With `add`, what `out` was is added.
pub(crate) fn product_back(x: Matrix, weight: &impl Weight, low: Option<LowRank>, out: Target, add: bool) {
    let (t, o, i) = (x.rows, weight.rows(), weight.columns());
    assert!(x.columns == o && out.rows == t && out.columns == i);
    let tokens = if i <= PANEL { NARROW_TOKENS } else { TOKENS };
    each(&blocks(t, tokens, 6), &blocks(i, COLUMNS, 16), t * o * i, |tokens, columns| {
        let stride = columns.len();
        with_scratch(o.min(DEPTH_BACK) * stride, |scratch| {
            let out = out.part(tokens.clone(), columns.clone());
            for depth in blocks(o, DEPTH_BACK, 16) {
                let block = wide_part(weight, depth.clone(), columns.clone(), stride, scratch);
                // SAFETY: tasks own different parts of `out`; the first depth sets what the next ones add to.
                unsafe { multiply(out, x.part(tokens.clone(), depth.clone()), block, add || depth.start > 0) };
            }
            add_low_rank(low, tokens, columns, out);
        });
    });
}
