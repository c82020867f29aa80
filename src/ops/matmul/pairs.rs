//! Numbers in bf16, in pairs, and whether products with weights are of those.

use std::sync::atomic::{AtomicBool, Ordering};

#[cfg(target_arch = "x86_64")]
use super::narrow;
#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
use super::tiles;
use super::{Matrix, Target};

static IS_ON: AtomicBool = AtomicBool::new(false);

/// Whether the machine multiplies numbers in bf16 faster than others.
pub(crate) fn serves_bf16() -> bool {
    #[cfg(target_arch = "x86_64")]
    return narrow::serves();
    #[cfg(not(target_arch = "x86_64"))]
    false
}

/// What products in bf16 take on this machine.
pub(crate) fn bf16_units() -> Option<&'static str> {
    #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
    if tiles::serves() {
        return Some("AMX");
    }
    serves_bf16().then_some("AVX512_BF16")
}

/// From now on products with weights in main memory are of numbers rounded to bf16, or no more; where the machine
/// cannot, they stay as they are.
pub(crate) fn switch_bf16(on: bool) {
    IS_ON.store(on && serves_bf16(), Ordering::Relaxed);
}

/// Whether products with weights in main memory are of numbers rounded to bf16.
pub(crate) fn in_bf16() -> bool {
    IS_ON.load(Ordering::Relaxed)
}

/// Bytes for each number of x that a product with a weight in main memory takes beside it.
pub(crate) fn product_bytes() -> u64 {
    if in_bf16() { 2 } else { 0 }
}

/// Rows of pairs of numbers in bf16, the first of a pair in the low half.
#[derive(Clone, Copy)]
pub(crate) struct Pairs<'a> {
    pub(super) data: &'a [u32],
    pub(super) rows: usize,
    pub(super) depth: usize,
    pub(super) stride: usize,
}

impl<'a> Pairs<'a> {
    /// `rows` rows of `depth` pairs, `stride` apart.
    pub(crate) fn new(data: &'a [u32], rows: usize, depth: usize, stride: usize) -> Self {
        assert!(rows == 0 || depth == 0 || (depth <= stride && (rows - 1) * stride + depth <= data.len()));
        Self { data, rows, depth, stride }
    }
}

/// The same memory as pairs.
pub(super) fn pairs_of(numbers: &mut [f32]) -> &mut [u32] {
    // SAFETY: both are four bytes, of which any will do
    unsafe { std::slice::from_raw_parts_mut(numbers.as_mut_ptr().cast(), numbers.len()) }
}

/// The rows of `x` in pairs, in `memory`, which has half as many numbers, each row's rounded up.
pub(crate) fn as_pairs<'a>(x: Matrix, memory: &'a mut [f32]) -> Pairs<'a> {
    let depth = x.columns.div_ceil(2);
    let memory = &mut pairs_of(memory)[..x.rows * depth];
    #[cfg(target_arch = "x86_64")]
    for (row, pairs) in memory.chunks_exact_mut(depth.max(1)).enumerate() {
        narrow::round(x.row(row), pairs);
    }
    Pairs::new(memory, x.rows, depth, depth)
}

/// `x`, parts of `depth` rows of `columns` numbers, a multiple of 16, as [`multiply_pairs`] reads each of them: blocks
/// of 16 columns with each two rows as one of pairs.
pub(crate) fn columns_as_pairs(x: &[f32], depth: usize, columns: usize) -> Vec<u32> {
    let mut pairs = vec![0; x.len() / depth.max(1) * depth.div_ceil(2)];
    #[cfg(target_arch = "x86_64")]
    for (x, pairs) in x.chunks_exact(depth * columns).zip(pairs.chunks_exact_mut(depth.div_ceil(2) * columns)) {
        for (block, pairs) in pairs.chunks_exact_mut(depth.div_ceil(2) * narrow::LANES).enumerate() {
            let own = block * narrow::LANES..(block + 1) * narrow::LANES;
            for (rows, pairs) in x.chunks(2 * columns).zip(pairs.chunks_exact_mut(narrow::LANES)) {
                let (first, second) = rows.split_at(columns);
                narrow::interleave(&first[own.clone()], second.get(own.clone()), pairs);
            }
        }
    }
    pairs
}

/// out = left · right, or out += left · right, on the calling thread, where the machine [`serves_bf16`]: `right` is in
/// blocks of 16 columns, `distance` apart, each with a row of 16 pairs for each pair of the depth.
pub(crate) fn multiply_pairs(out: &mut Target, left: Pairs, right: &[u32], distance: usize, add: bool) {
    #[cfg(target_arch = "x86_64")]
    return narrow::multiply(out, left, right, distance, add);
    #[cfg(not(target_arch = "x86_64"))]
    unreachable!("{} {} {} {distance} {add}", out.rows(), left.rows, right.len());
}
