//! Gradients: probabilities are computed again from the saved normaliser, block by block.

use super::super::exp::exp;
use super::super::matmul::{Matrix, Target, in_parallel, multiply, with_scratch};
use super::super::rows::{Rows, filled};
use super::super::simd::{dot, vectorized};
use super::super::soft_cap::{capped, slope};
use super::forward::hide;
use super::{Block, Heads, KEYS, Layout, QUERIES, by_lanes};

/// What the gradients depend on: the inputs, the attended values and their gradient, and log Σ e^score, `[t, h]`.
pub(super) struct Inputs<'a> {
    pub(super) q: Rows<'a>,
    pub(super) k: Rows<'a>,
    pub(super) v: Rows<'a>,
    pub(super) out: Rows<'a>,
    pub(super) dout: Rows<'a>,
    pub(super) normalizer: Rows<'a>,
}

/// Where the gradients go.
struct Gradients<'a> {
    q: &'a Target<'a>,
    k: Target<'a>,
    v: Target<'a>,
}

/// The gradients of q, k and v.
///
/// A task is one KV head of one tree of segments, which it walks in order: whatever the number of threads, the
/// gradient of a key is summed in the same order.
pub(super) fn backward(layout: &Layout, heads: &Heads, inputs: &Inputs) -> (Vec<f32>, Vec<f32>, Vec<f32>) {
    let mut trees: Vec<Vec<Block>> = vec![Vec::new(); layout.segments().len()];
    for (segment, root) in layout.roots().into_iter().enumerate() {
        trees[root].extend(Block::of_segment(layout, segment, heads.window));
    }
    trees.retain(|blocks| !blocks.is_empty());
    let (t, width, kv_width) = (inputs.q.count, inputs.q.width, inputs.k.width);
    let (mut dk, mut dv) = (vec![0f32; t * kv_width], vec![0f32; t * kv_width]);
    let dq = filled(t, width, |dq| {
        let gradients = &Gradients {
            q: dq,
            k: Target::over(&mut dk, t, kv_width, kv_width),
            v: Target::over(&mut dv, t, kv_width, kv_width),
        };
        in_parallel(trees.len() * heads.kv_heads, &|task| {
            let kv_head = task % heads.kv_heads;
            for block in &trees[task / heads.kv_heads] {
                for head in heads.group(kv_head) {
                    let pass = Pass { heads, block, inputs, gradients, kv_head, head };
                    match block.lanes() {
                        16 => pass.run::<16>(),
                        32 => pass.run::<32>(),
                        48 => pass.run::<48>(),
                        _ => pass.run::<QUERIES>(),
                    }
                }
            }
        });
        // SAFETY: the passes have written the tokens of all blocks, of all heads
        unsafe { dq.set() };
    });
    (dq, dk, dv)
}

/// One block of queries and one head.
struct Pass<'a> {
    heads: &'a Heads,
    block: &'a Block,
    inputs: &'a Inputs<'a>,
    gradients: &'a Gradients<'a>,
    kv_head: usize,
    head: usize,
}

impl Pass<'_> {
    /// With P the probabilities and D = Σ dout·out of a query: dV += P·dout, dS = scale · P·(V·dout - D),
    /// dK += dS·q, dq += dS·k.
    fn run<const LANES: usize>(&self) {
        let Inputs { q, k, v, out, dout, normalizer } = *self.inputs;
        let e = self.heads.head_dim;
        let (own, shared) = (self.heads.columns(self.head), self.heads.columns(self.kv_head));
        let rows = self.block.tokens.len();
        let q_block = q.matrix().part(self.block.tokens.clone(), own.clone());
        let dout_block = dout.matrix().part(self.block.tokens.clone(), own.clone());
        // SAFETY: the task has this head, and of its own blocks one at a time
        let mut dq = unsafe { self.gradients.q.part(self.block.tokens.clone(), own.clone()) };
        let mut log_sums = [0f32; LANES];
        let mut shares = [0f32; LANES];
        with_scratch(LANES * 2 * (e + KEYS), |scratch| {
            let (queries, scratch) = scratch.split_at_mut(LANES * e);
            let (douts, scratch) = scratch.split_at_mut(LANES * e);
            let (weights, scores) = scratch.split_at_mut(LANES * KEYS);
            vectorized(
                #[inline(always)]
                || {
                    by_lanes(q, self.block, own.clone(), self.heads.scale, LANES, queries);
                    by_lanes(dout, self.block, own.clone(), 1.0, LANES, douts);
                    for (lane, token) in self.block.tokens.clone().enumerate() {
                        log_sums[lane] = normalizer.row(token)[self.head];
                        shares[lane] = dot(&out.row(token)[own.clone()], &dout.row(token)[own.clone()]);
                    }
                },
            );
            for (index, keys) in self.block.keys.iter().enumerate() {
                let n = keys.tokens.len();
                let (weights, scores) = (&mut weights[..n * LANES], &mut scores[..n * LANES]);
                let k_part = k.matrix().part(keys.tokens.clone(), shared.clone());
                let v_part = v.matrix().part(keys.tokens.clone(), shared.clone());
                let (queries, douts) =
                    (Matrix::new(queries, e, LANES, LANES, 1), Matrix::new(douts, e, LANES, LANES, 1));
                for (run, first) in self.block.runs_of_keys(keys) {
                    let mut weights = Target::over(weights, n, LANES, LANES);
                    let mut scores = Target::over(scores, n, LANES, LANES);
                    let (mut weights, mut scores) =
                        (weights.inner(run.clone(), first..LANES), scores.inner(run.clone(), first..LANES));
                    let (k, v) = (k_part.part(run.clone(), 0..e), v_part.part(run, 0..e));
                    multiply(&mut weights, k, queries.part(0..e, first..LANES), false);
                    multiply(&mut scores, v, douts.part(0..e, first..LANES), false);
                }
                // of a cap, where there is one
                let mut slopes = Vec::new();
                vectorized(
                    #[inline(always)]
                    || {
                        if let Some(cap) = self.heads.cap {
                            weights.iter_mut().for_each(|score| *score = capped(*score, cap));
                            slopes = weights.iter().map(|score| slope(*score, cap)).collect();
                        }
                        let (weights, _) = weights.as_chunks_mut::<LANES>();
                        let (scores, _) = scores.as_chunks_mut::<LANES>();
                        for (weights, scores) in weights.iter_mut().zip(scores.iter_mut()) {
                            let lanes = log_sums.iter().zip(&shares);
                            for ((weight, score), (log_sum, share)) in weights.iter_mut().zip(scores).zip(lanes) {
                                *weight = exp(*weight - log_sum);
                                *score = *weight * (*score - share) * self.heads.scale;
                            }
                        }
                        let all_scores = scores.as_flattened_mut();
                        all_scores.iter_mut().zip(&slopes).for_each(|(score, slope)| *score *= slope);
                        if !self.block.sees_all(keys, self.heads.window) {
                            hide(self.block, keys, self.heads.window, weights, 0.0);
                            hide(self.block, keys, self.heads.window, scores, 0.0);
                        }
                    },
                );
                let weights = Matrix::new(weights, n, LANES, LANES, 1).part(0..n, 0..rows);
                let scores = Matrix::new(scores, n, LANES, LANES, 1).part(0..n, 0..rows);
                // SAFETY: the task has this KV head of the tree, and of its own blocks one at a time
                let [mut dk, mut dv] = [&self.gradients.k, &self.gradients.v]
                    .map(|all| unsafe { all.part(keys.tokens.clone(), shared.clone()) });
                for (run, first) in self.block.runs_of_keys(keys) {
                    let lanes = first.min(rows)..rows;
                    let (weights, scores) =
                        (weights.part(run.clone(), lanes.clone()), scores.part(run.clone(), lanes.clone()));
                    multiply(&mut dv.inner(run.clone(), 0..e), weights, dout_block.part(lanes.clone(), 0..e), true);
                    multiply(&mut dk.inner(run, 0..e), scores, q_block.part(lanes, 0..e), true);
                }
                for (run, seen) in self.block.runs_of_lanes(keys, rows) {
                    let scores = scores.part(0..seen, run.clone()).transposed();
                    multiply(&mut dq.inner(run, 0..e), scores, k_part.part(0..seen, 0..e), index > 0);
                }
                // SAFETY: the runs are all of the block's rows, and the first keys do not add to what is there
                unsafe { dq.set() };
            }
        });
    }
}
