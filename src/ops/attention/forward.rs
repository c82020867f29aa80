//! Scores, softmax and weighted values, block by block.

use super::super::exp::exp;
use super::super::matmul::{Matrix, Target, in_parallel, multiply, with_scratch};
use super::super::rows::{Rows, filled};
use super::super::simd::vectorized;
use super::super::soft_cap::capped;
use super::{Block, Heads, KEYS, Keys, QUERIES, by_lanes};

/// The attended values `[t, h·e]`, and log Σ e^score of every token and head, `[t, h]`; the blocks cover q.
pub(super) fn forward(blocks: &[Block], heads: &Heads, q: Rows, k: Rows, v: Rows) -> (Vec<f32>, Vec<f32>) {
    let (t, width) = (q.count, q.width);
    let mut normalizer = Vec::new();
    let out = filled(t, width, |out| {
        normalizer = filled(t, heads.heads, |normalizer| {
            let targets = (&*out, &*normalizer);
            // The longest rows first: the tasks left at the end are the short ones.
            in_parallel(blocks.len() * heads.kv_heads, &|task| {
                let (block, kv_head) = (&blocks[blocks.len() - 1 - task / heads.kv_heads], task % heads.kv_heads);
                let pass = Pass { heads, block, q, k, v, kv_head };
                match block.lanes() {
                    16 => pass.run::<16>(targets),
                    32 => pass.run::<32>(targets),
                    48 => pass.run::<48>(targets),
                    _ => pass.run::<QUERIES>(targets),
                }
            });
            // SAFETY: the tasks have written the tokens of all blocks, of all heads
            unsafe { normalizer.set() };
        });
        // SAFETY: as above
        unsafe { out.set() };
    });
    (out, normalizer)
}

/// One block of queries and one KV head.
struct Pass<'a> {
    heads: &'a Heads,
    block: &'a Block,
    q: Rows<'a>,
    k: Rows<'a>,
    v: Rows<'a>,
    kv_head: usize,
}

/// What the softmax of a lane knows so far.
struct Running<const LANES: usize> {
    max: [f32; LANES],
    sum: [f32; LANES],
}

impl Pass<'_> {
    /// Writes the block's rows of the heads that read this KV head; no other pass has those.
    fn run<const LANES: usize>(&self, (out, normalizer): (&Target, &Target)) {
        let e = self.heads.head_dim;
        let columns = self.heads.columns(self.kv_head);
        let rows = self.block.tokens.len();
        with_scratch(LANES * (2 * e + KEYS), |scratch| {
            let (queries, scratch) = scratch.split_at_mut(LANES * e);
            let (sums, scores) = scratch.split_at_mut(LANES * e);
            for head in self.heads.group(self.kv_head) {
                vectorized(
                    #[inline(always)]
                    || by_lanes(self.q, self.block, self.heads.columns(head), self.heads.scale, LANES, queries),
                );
                sums.fill(0.0);
                let mut running = Running::<LANES> { max: [f32::MIN; LANES], sum: [0.0; LANES] };
                for keys in &self.block.keys {
                    let n = keys.tokens.len();
                    let scores = &mut scores[..n * LANES];
                    let k = self.k.matrix().part(keys.tokens.clone(), columns.clone());
                    let v = self.v.matrix().part(keys.tokens.clone(), columns.clone());
                    let lanes = Matrix::new(queries, e, LANES, LANES, 1);
                    for (run, first) in self.block.runs_of_keys(keys) {
                        let mut scores = Target::over(scores, n, LANES, LANES);
                        let mut scores = scores.inner(run.clone(), first..LANES);
                        multiply(&mut scores, k.part(run, 0..e), lanes.part(0..e, first..LANES), false);
                    }
                    if let Some(cap) = self.heads.cap {
                        vectorized(
                            #[inline(always)]
                            || scores.iter_mut().for_each(|score| *score = capped(*score, cap)),
                        );
                    }
                    vectorized(
                        #[inline(always)]
                        || running.soften(self.block, keys, self.heads.window, scores, sums),
                    );
                    let weights = Matrix::new(scores, n, LANES, LANES, 1).transposed();
                    for (run, seen) in self.block.runs_of_lanes(keys, LANES) {
                        let mut sums = Target::over(sums, LANES, e, e);
                        let mut sums = sums.inner(run.clone(), 0..e);
                        multiply(&mut sums, weights.part(run, 0..seen), v.part(0..seen, 0..e), true);
                    }
                }
                // SAFETY: passes have different tokens or heads
                let (mut out, mut normalizer) = unsafe {
                    let tokens = &self.block.tokens;
                    (
                        out.part(tokens.clone(), self.heads.columns(head)),
                        normalizer.part(tokens.clone(), head..head + 1),
                    )
                };
                for (lane, sums) in sums.chunks_exact_mut(e).take(rows).enumerate() {
                    let factor = 1.0 / running.sum[lane];
                    sums.iter_mut().for_each(|sum| *sum *= factor);
                    out.write(lane, sums);
                    normalizer.write(lane, &[running.max[lane] + running.sum[lane].ln()]);
                }
            }
        });
    }
}

impl<const LANES: usize> Running<LANES> {
    /// Turns the scores of `keys` into weights relative to the running maximum, and brings what was summed with an
    /// older maximum, the rows of `sums`, down to it.
    #[inline(always)]
    fn soften(&mut self, block: &Block, keys: &Keys, window: Option<usize>, scores: &mut [f32], sums: &mut [f32]) {
        let (scores, _) = scores.as_chunks_mut::<LANES>();
        if !block.sees_all(keys, window) {
            hide(block, keys, window, scores, f32::NEG_INFINITY);
        }
        let mut max = self.max;
        for scores in scores.iter() {
            for (max, score) in max.iter_mut().zip(scores) {
                *max = if *score > *max { *score } else { *max };
            }
        }
        let mut factors = [0f32; LANES];
        for (factor, (old, new)) in factors.iter_mut().zip(self.max.iter().zip(&max)) {
            *factor = exp(old - new);
        }
        let mut sum = [0f32; LANES];
        for scores in scores.iter_mut() {
            for ((score, max), sum) in scores.iter_mut().zip(&max).zip(&mut sum) {
                *score = exp(*score - max);
                *sum += *score;
            }
        }
        for (total, (factor, sum)) in self.sum.iter_mut().zip(factors.iter().zip(&sum)) {
            *total = *total * factor + sum;
        }
        self.max = max;
        let width = sums.len() / LANES;
        for (sums, factor) in sums.chunks_exact_mut(width).zip(factors) {
            if factor != 1.0 {
                sums.iter_mut().for_each(|sum| *sum *= factor);
            }
        }
    }
}

/// Sets what a lane does not see to `value`.
#[inline(always)]
pub(super) fn hide<const LANES: usize>(
    block: &Block,
    keys: &Keys,
    window: Option<usize>,
    scores: &mut [[f32; LANES]],
    value: f32,
) {
    for (offset, scores) in scores.iter_mut().enumerate() {
        let seeing = block.seeing(keys.position + offset, window);
        for (lane, score) in scores.iter_mut().enumerate() {
            *score = if seeing.contains(&lane) { *score } else { value };
        }
    }
}
