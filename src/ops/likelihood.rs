//! Log-likelihoods of given tokens under the vocabulary head, without ever holding the logits.

use std::ops::Range;

use candle_core::{DType, Tensor};
use rayon::prelude::*;

use super::cuda::{self, Arg, Grid, plain, turned};
use super::exp::exp;
use super::linear::{WithWeight, with_dense};
use super::matmul::{
    DEPTH, Matrix, SKEW, Target, Weight, as_pairs, blocks, columns_as_pairs, in_bf16, multiply, multiply_pairs,
    widen_part, with_scratch,
};
use super::rows::{Rows, with_rows};
use super::simd::vectorized;
use super::soft_cap::{capped, soft_cap};
use crate::{Error, Result};

/// One candidate token of one row.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Scored {
    /// Natural logarithm of the token's probability.
    pub log_likelihood: f32,
    /// Whether it is the most likely token of the whole vocabulary; the smallest id wins a tie.
    pub greedy: bool,
}

/// Log-likelihoods of candidate tokens: `hidden` is `[t, d]` f32, already normed, `head` `[v, d]` f32, bf16 or f16;
/// `candidates` names, for each of the t rows, the tokens to score there (none, one or several). No gradient.
///
/// # Errors
/// Shapes that do not fit, a token beyond the vocabulary, or a device without this kernel.
pub fn log_likelihood<C: AsRef<[u32]>>(hidden: &Tensor, head: &Tensor, candidates: &[C]) -> Result<Vec<Vec<Scored>>> {
    log_likelihood_capped(hidden, head, candidates, None)
}

/// [`log_likelihood`] with logits that [`soft_cap`](super::soft_cap()) has held below `cap`.
///
/// # Errors
/// As [`log_likelihood`].
pub fn log_likelihood_capped<C: AsRef<[u32]>>(
    hidden: &Tensor,
    head: &Tensor,
    candidates: &[C],
    cap: Option<f32>,
) -> Result<Vec<Vec<Scored>>> {
    let ((rows, d), (vocabulary, head_d)) = (hidden.dims2()?, head.dims2()?);
    if d != head_d || d == 0 || vocabulary == 0 || candidates.len() != rows {
        return Err(Error::work(format!(
            "log_likelihood: hidden is {:?}, head {:?}, candidates for {} rows",
            hidden.shape(),
            head.shape(),
            candidates.len()
        )));
    }
    if let Some(token) = candidates.iter().flat_map(AsRef::as_ref).find(|token| **token as usize >= vocabulary) {
        return Err(Error::work(format!("token {token} is beyond the vocabulary of {vocabulary}")));
    }
    let on_gpu = hidden.device().is_cuda();
    let score = if on_gpu { score_on_gpu } else { score_on_cpu };
    let scored = score(hidden, head, candidates, cap)?;
    let mut scored = scored.into_iter();
    Ok(candidates.iter().map(|candidates| scored.by_ref().take(candidates.as_ref().len()).collect()).collect())
}

fn score_on_cpu<C: AsRef<[u32]>>(
    hidden: &Tensor,
    head: &Tensor,
    candidates: &[C],
    cap: Option<f32>,
) -> Result<Vec<Scored>> {
    let wanted = by_token(candidates);
    let score = |[hidden]: [Rows; 1]| with_dense(head, Score { hidden, wanted: &wanted, narrow: in_bf16(), cap });
    Ok(with_rows("log_likelihood", [hidden], score)?)
}

/// Logits that exist at one time on a GPU, 256 MiB of them.
const GPU_LOGITS: usize = 64 << 20;

/// Some rows' logits at a time.
fn score_on_gpu<C: AsRef<[u32]>>(
    hidden: &Tensor,
    head: &Tensor,
    candidates: &[C],
    cap: Option<f32>,
) -> Result<Vec<Scored>> {
    let (device, v) = (hidden.device(), head.dim(0)?);
    let head = cuda::operand(head)?;
    let rows = (GPU_LOGITS / v).max(1);
    let mut scored = Vec::new();
    for (index, candidates) in candidates.chunks(rows).enumerate() {
        let mut first = vec![0];
        let mut tokens = Vec::new();
        for candidates in candidates {
            tokens.extend_from_slice(candidates.as_ref());
            first.push(tokens.len() as u32);
        }
        if tokens.is_empty() {
            continue;
        }
        let hidden = hidden.narrow(0, index * rows, candidates.len())?;
        let logits = cuda::product(plain(&hidden), turned(&head), DType::F32)?;
        let logits = match cap {
            Some(cap) => soft_cap(&logits, cap)?,
            None => logits,
        };
        // SAFETY: each block of the kernel below writes those of its row's candidates
        let scores = unsafe { cuda::empty(tokens.len(), DType::F32, device)? };
        // SAFETY: as above
        let greedy = unsafe { cuda::empty(tokens.len(), DType::U32, device)? };
        let (first, tokens) = (Tensor::new(first, device)?, Tensor::new(tokens, device)?);
        let tensors = [&logits, &first, &tokens, &scores, &greedy].map(Arg::Tensor);
        let args = [&tensors[..], &[Arg::Size(v)]].concat();
        // SAFETY: a block for each row of v logits and its candidates, which are below v and lie from `first` on
        unsafe { cuda::launch("log_likelihood", Grid::rows(candidates.len(), v), &args)? };
        let found = scores.to_vec1::<f32>()?.into_iter().zip(greedy.to_vec1::<u32>()?);
        scored.extend(found.map(|(log_likelihood, greedy)| Scored { log_likelihood, greedy: greedy == 1 }));
    }
    Ok(scored)
}

/// A candidate: its place in the answer counts the candidates of all rows in order.
struct Wanted {
    token: usize,
    row: usize,
    place: usize,
}

/// All candidates, those of one token together.
fn by_token<C: AsRef<[u32]>>(candidates: &[C]) -> Vec<Wanted> {
    let all = candidates.iter().enumerate().flat_map(|(row, own)| own.as_ref().iter().map(move |token| (row, *token)));
    let wanted = all.enumerate().map(|(place, (row, token))| Wanted { token: token as usize, row, place });
    let mut wanted: Vec<Wanted> = wanted.collect();
    wanted.sort_unstable_by_key(|wanted| (wanted.token, wanted.place));
    wanted
}

struct Score<'a> {
    hidden: Rows<'a>,
    wanted: &'a [Wanted],
    /// Whether products are of numbers rounded to bf16.
    narrow: bool,
    cap: Option<f32>,
}

impl WithWeight for Score<'_> {
    type Output = Vec<Scored>;

    fn run(self, head: &impl Weight) -> Vec<Scored> {
        // As few lanes beyond the last row as can be.
        let Self { hidden, wanted, narrow, cap } = self;
        let rows = hidden.count;
        match rows.div_ceil(rows.div_ceil(64).max(1)) {
            0..=16 => score::<16>(hidden, wanted, head, (narrow, cap)),
            17..=32 => score::<32>(hidden, wanted, head, (narrow, cap)),
            33..=48 => score::<48>(hidden, wanted, head, (narrow, cap)),
            _ => score::<64>(hidden, wanted, head, (narrow, cap)),
        }
    }
}

/// Rows of the head whose logits exist at one time.
const PANEL: usize = 96;
/// Blocks of rows whose logits exist at one time.
const BLOCKS: usize = 8;
/// Parts of the vocabulary, each one task: a number of its own, so that the sums do not depend on the threads.
const PARTS: usize = 64;

/// What is known about the rows of one block after a part of the vocabulary: lane by lane, the largest logit, its
/// token, and the sum of e^(logit - largest).
#[derive(Clone)]
struct Running<const LANES: usize> {
    max: [f32; LANES],
    best: [u32; LANES],
    sum: [f32; LANES],
}

impl<const LANES: usize> Running<LANES> {
    const START: Self = Self { max: [f32::MIN; LANES], best: [0; LANES], sum: [0.0; LANES] };

    /// Takes in the logits of the tokens from `first` on.
    #[inline(always)]
    fn take(&mut self, first: usize, logits: &[[f32; LANES]]) {
        let (mut max, mut best) = (self.max, self.best);
        for (token, logits) in (first as u32..).zip(logits) {
            for ((max, best), logit) in max.iter_mut().zip(&mut best).zip(logits) {
                let better = *logit > *max;
                *max = if better { *logit } else { *max };
                *best = if better { token } else { *best };
            }
        }
        let mut sum = [0f32; LANES];
        for logits in logits {
            for ((sum, max), logit) in sum.iter_mut().zip(&max).zip(logits) {
                *sum += exp(logit - max);
            }
        }
        self.join(&Self { max, best, sum });
    }

    /// Takes in what is known about tokens that come after its own.
    #[inline(always)]
    fn join(&mut self, later: &Self) {
        for lane in 0..LANES {
            let (old, new) = (self.max[lane], later.max[lane]);
            let better = new > old;
            let max = if better { new } else { old };
            self.sum[lane] = self.sum[lane] * exp(old - max) + later.sum[lane] * exp(new - max);
            self.best[lane] = if better { later.best[lane] } else { self.best[lane] };
            self.max[lane] = max;
        }
    }
}

/// `x` as `[d, LANES]` for each block of rows, lanes beyond the rows 0.
fn by_lanes<const LANES: usize>(x: Rows) -> Vec<f32> {
    let mut lanes = vec![0f32; x.count.next_multiple_of(LANES) * x.width];
    lanes.par_chunks_mut(LANES * x.width).enumerate().for_each(|(block, lanes)| {
        for row in block * LANES..((block + 1) * LANES).min(x.count) {
            for (lane, x) in lanes[row - block * LANES..].iter_mut().step_by(LANES).zip(x.row(row)) {
                *lane = *x;
            }
        }
    });
    lanes
}

/// The scores of `wanted`, which is sorted by token, in the order of their places.
fn score<const LANES: usize>(
    hidden: Rows,
    wanted: &[Wanted],
    head: &impl Weight,
    (narrow, cap): (bool, Option<f32>),
) -> Vec<Scored> {
    let lanes = by_lanes::<LANES>(hidden);
    let pairs = narrow.then(|| columns_as_pairs(&lanes, hidden.width, LANES));
    let pass = Pass::<LANES, _> { lanes: &lanes, pairs, head, wanted, cap };
    let row_blocks = hidden.count.div_ceil(LANES);
    let panels = blocks(head.rows(), PANEL, 1);
    let parts: Vec<_> = blocks(panels.len(), panels.len().div_ceil(PARTS), 1)
        .into_par_iter()
        .map(|part| {
            let mut running = vec![Running::<LANES>::START; row_blocks];
            let mut logits = Vec::new();
            for row_blocks in blocks(row_blocks, BLOCKS, 1) {
                for panel in &panels[part.clone()] {
                    pass.take(row_blocks.clone(), panel.clone(), &mut running[row_blocks.clone()], &mut logits);
                }
            }
            (running, logits)
        })
        .collect();
    let mut total = vec![Running::<LANES>::START; row_blocks];
    let mut scored = vec![Scored { log_likelihood: f32::NAN, greedy: false }; wanted.len()];
    for (running, _) in &parts {
        total.iter_mut().zip(running).for_each(|(total, running)| total.join(running));
    }
    for (wanted, logit) in parts.iter().flat_map(|(_, logits)| logits) {
        let (row, lane) = (&total[wanted.row / LANES], wanted.row % LANES);
        scored[wanted.place] = Scored {
            log_likelihood: logit - row.max[lane] - row.sum[lane].ln(),
            greedy: row.best[lane] as usize == wanted.token,
        };
    }
    scored
}

/// All rows against all of the head.
struct Pass<'a, const LANES: usize, W> {
    /// `[d, LANES]` for each block of rows.
    lanes: &'a [f32],
    /// The same in pairs of bf16, where products are of those.
    pairs: Option<Vec<u32>>,
    head: &'a W,
    wanted: &'a [Wanted],
    cap: Option<f32>,
}

impl<'a, const LANES: usize, W: Weight> Pass<'a, LANES, W> {
    /// Meets the head's rows `panel` with the rows of `row_blocks`: brings `running` up to date and appends the
    /// logits that are wanted.
    fn take(
        &self,
        row_blocks: Range<usize>,
        panel: Range<usize>,
        running: &mut [Running<LANES>],
        logits: &mut Vec<(&'a Wanted, f32)>,
    ) {
        let (d, n) = (self.head.columns(), panel.len());
        let stride = d.min(DEPTH) + SKEW;
        let narrow = self.pairs.as_ref().map_or(0, |_| n * d.div_ceil(2).min(DEPTH / 2));
        with_scratch(narrow + n * (stride + row_blocks.len() * LANES), |scratch| {
            let (narrow, scratch) = scratch.split_at_mut(narrow);
            let (widened, tiles) = scratch.split_at_mut(n * stride);
            for depth in blocks(d, DEPTH, 16) {
                widen_part(self.head, panel.clone(), depth.clone(), stride, widened);
                let rows = Matrix::new(widened, n, depth.len(), stride, 1);
                let rounded = self.pairs.as_ref().map(|lanes| (as_pairs(rows, narrow), lanes));
                for (block, tile) in row_blocks.clone().zip(tiles.chunks_exact_mut(n * LANES)) {
                    // the first depth sets what the next ones add to
                    let (add, tile) = (depth.start > 0, &mut Target::over(tile, n, LANES, LANES));
                    if let Some((rows, lanes)) = rounded {
                        let lanes = &lanes[block * d.div_ceil(2) * LANES + depth.start / 2 * 16..];
                        multiply_pairs(tile, rows, lanes, d.div_ceil(2) * 16, add);
                    } else {
                        let lanes = Matrix::new(&self.lanes[block * d * LANES..], d, LANES, LANES, 1);
                        multiply(tile, rows, lanes.part(depth.clone(), 0..LANES), add);
                    }
                }
            }
            if let Some(cap) = self.cap {
                let tiles = &mut tiles[..n * LANES * row_blocks.len()];
                vectorized(
                    #[inline(always)]
                    || tiles.iter_mut().for_each(|logit| *logit = capped(*logit, cap)),
                );
            }
            for (running, tile) in running.iter_mut().zip(tiles.chunks_exact(n * LANES)) {
                vectorized(
                    #[inline(always)]
                    || running.take(panel.start, tile.as_chunks().0),
                );
            }
            let from = self.wanted.partition_point(|wanted| wanted.token < panel.start);
            let here = self.wanted[from..].iter().take_while(|wanted| wanted.token < panel.end);
            for wanted in here.filter(|wanted| row_blocks.contains(&(wanted.row / LANES))) {
                let tile = (wanted.row / LANES - row_blocks.start) * n + wanted.token - panel.start;
                logits.push((wanted, tiles[tile * LANES + wanted.row % LANES]));
            }
        });
    }
}

#[cfg(test)]
mod tests;
