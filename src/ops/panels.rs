//! Products with a matrix that is not stored as f32: a panel of it is decoded into cache and multiplied at once, so
//! that a whole decoded copy never exists.

use std::ops::Range;

use rayon::prelude::*;

/// A matrix `[o, i]` that can write any part of itself as f32.
pub(super) trait Matrix: Sync {
    /// `(o, i)`.
    fn shape(&self) -> (usize, usize);
    /// The part `rows` x `columns`, row after row; `out` is as long.
    fn part(&self, rows: Range<usize>, columns: Range<usize>, out: &mut [f32]);
}

/// Rows of x that one task multiplies; more share the decoding, fewer feed more threads.
const TOKENS: usize = 512;
/// Width of a panel along the product's own dimension.
const WIDTH: usize = 128;
/// Depth of a panel along the dimension that is summed over.
const DEPTH: usize = 512;

/// A mutable matrix that tasks write disjoint parts of.
struct Target(*mut f32);

// SAFETY: every task writes its own rectangle
unsafe impl Sync for Target {}

/// y += x·Wᵀ (`accumulate`) or y = x·Wᵀ: `x` is `[t, i]`, `y` `[t, o]`, row after row.
pub(super) fn times_transposed(x: &[f32], matrix: &impl Matrix, y: &mut [f32], accumulate: bool) {
    let (outputs, inputs) = matrix.shape();
    let product = Product { x, y: Target(y.as_mut_ptr()), depth: inputs, width: outputs, accumulate };
    product.run(y.len(), |depth, width, out| matrix.part(width, depth, out), true);
}

/// dx += g·W (`accumulate`) or dx = g·W: `g` is `[t, o]`, `dx` `[t, i]`, row after row.
pub(super) fn times(g: &[f32], matrix: &impl Matrix, dx: &mut [f32], accumulate: bool) {
    let (outputs, inputs) = matrix.shape();
    let product = Product { x: g, y: Target(dx.as_mut_ptr()), depth: outputs, width: inputs, accumulate };
    product.run(dx.len(), |depth, width, out| matrix.part(depth, width, out), false);
}

struct Product<'a> {
    x: &'a [f32],
    y: Target,
    depth: usize,
    width: usize,
    accumulate: bool,
}

impl Product<'_> {
    /// Splits the product into rectangles of y, whatever the number of threads: the sums are the same on any machine.
    /// `part` writes depth x width of the matrix, width first (`by_width`) or depth first.
    fn run(&self, len: usize, part: impl Fn(Range<usize>, Range<usize>, &mut [f32]) + Sync, by_width: bool) {
        let tokens = len.checked_div(self.width).unwrap_or(0);
        assert_eq!((tokens * self.width, tokens * self.depth), (len, self.x.len()), "shapes of the product");
        let widths = self.width.div_ceil(WIDTH);
        (0..tokens.div_ceil(TOKENS) * widths).into_par_iter().for_each_init(Vec::new, |panel, task| {
            let (row, column) = (task / widths * TOKENS, task % widths * WIDTH);
            let (rows, columns) = (TOKENS.min(tokens - row), WIDTH.min(self.width - column));
            panel.resize(WIDTH * DEPTH.min(self.depth), 0.0);
            for depth in (0..self.depth).step_by(DEPTH) {
                let deep = DEPTH.min(self.depth - depth);
                let panel = &mut panel[..deep * columns];
                part(depth..depth + deep, column..column + columns, panel);
                let (depth_stride, width_stride) = if by_width { (1, deep) } else { (columns, 1) };
                // SAFETY: x is [tokens, self.depth], checked above; the panel is deep x columns; y is
                // [tokens, self.width], and the rectangle row.., column.. is this task's alone
                unsafe {
                    gemm::gemm(
                        rows,
                        columns,
                        deep,
                        self.y.0.add(row * self.width + column),
                        1,
                        self.width as isize,
                        self.accumulate || depth > 0,
                        self.x.as_ptr().add(row * self.depth + depth),
                        1,
                        self.depth as isize,
                        panel.as_ptr(),
                        width_stride as isize,
                        depth_stride as isize,
                        1.0,
                        1.0,
                        false,
                        false,
                        false,
                        gemm::Parallelism::None,
                    );
                }
            }
        });
    }
}
