//! Attention on a GPU: who sees whom as tables, and the launches.

use std::ops::Range;

use candle_core::{DType, Device, Tensor};

use super::super::cuda::{self, Arg, Grid};
use super::{Heads, Layout};
use crate::{Error, Result};

/// Queries or keys that a block of threads works on, the kernels' `TILE`.
const TILE: usize = 32;
/// Head dimensions that kernels are made for; smaller ones are padded.
const WIDTHS: [usize; 5] = [32, 64, 96, 128, 256];

/// The kernels of a width: forward, gradient of the queries, gradients of keys and values.
const KERNELS: [[&str; 3]; 5] = [
    ["attention_32", "attention_dq_32", "attention_dkv_32"],
    ["attention_64", "attention_dq_64", "attention_dkv_64"],
    ["attention_96", "attention_dq_96", "attention_dkv_96"],
    ["attention_128", "attention_dq_128", "attention_dkv_128"],
    ["attention_256", "attention_dq_256", "attention_dkv_256"],
];

/// Blocks of up to `TILE` tokens, and for each the runs of tokens on the other side.
#[derive(Debug, Default)]
struct Tables {
    /// First token, tokens, position of the first, range of the runs.
    blocks: Vec<u32>,
    /// First token, tokens, position of the first.
    runs: Vec<u32>,
}

impl Tables {
    /// Queries, and the keys they see. The longest rows first: the blocks left at the end are the short ones.
    fn of_queries(layout: &Layout, window: Option<usize>) -> Self {
        let mut tables = Self::default();
        for (index, segment) in layout.segments().iter().enumerate().rev() {
            let mut runs = layout.prefix(index);
            runs.push(segment.start..segment.start + segment.len);
            for first in (0..segment.len).step_by(TILE).rev() {
                let count = TILE.min(segment.len - first);
                let position = segment.position + first;
                let visible = window.map_or(0, |window| (position + 1).saturating_sub(window))..position + count;
                let mut at = 0;
                let seen = runs.iter().map(|run| {
                    let run = (run.start, at..at + run.len());
                    at = run.1.end;
                    run
                });
                tables.push(segment.start + first, count, position, seen, &visible);
            }
        }
        tables
    }

    /// Keys, and the queries that see them.
    fn of_keys(layout: &Layout, window: Option<usize>) -> Self {
        let segments = layout.segments();
        let mut tables = Self::default();
        for (index, segment) in segments.iter().enumerate() {
            // what continues this segment, however far down, comes after it
            let mut below = vec![false; segments.len()];
            below[index] = true;
            for later in index + 1..segments.len() {
                below[later] = segments[later].parent.is_some_and(|parent| below[parent]);
            }
            let after: Vec<_> = segments.iter().zip(&below).filter(|(_, below)| **below).map(|(s, _)| s).collect();
            for first in (0..segment.len).step_by(TILE) {
                let count = TILE.min(segment.len - first);
                let position = segment.position + first;
                let seeing = position..window.map_or(usize::MAX, |window| position + count - 1 + window);
                let runs = after.iter().map(|s| (s.start, s.position..s.position + s.len));
                tables.push(segment.start + first, count, position, runs, &seeing);
            }
        }
        tables
    }

    /// A block, and what of `runs` (first token, positions) is at the positions `within`.
    fn push(
        &mut self,
        start: usize,
        count: usize,
        position: usize,
        runs: impl Iterator<Item = (usize, Range<usize>)>,
        within: &Range<usize>,
    ) {
        let first_run = self.runs.len() / 3;
        for (start, positions) in runs {
            let from = positions.start.max(within.start);
            let end = positions.end.min(within.end);
            if from < end {
                self.runs.extend([start + from - positions.start, end - from, from].map(|number| number as u32));
            }
        }
        self.blocks.extend([start, count, position, first_run, self.runs.len() / 3].map(|number| number as u32));
    }

    fn count(&self) -> usize {
        self.blocks.len() / 5
    }

    fn upload(self, device: &Device) -> Result<[Tensor; 2]> {
        Ok([Tensor::new(self.blocks, device)?, Tensor::new(self.runs, device)?])
    }
}

/// The head dimension of the kernels that serve `head_dim`, and their names.
fn kernels(head_dim: usize) -> Result<(usize, [&'static str; 3])> {
    let index = WIDTHS.iter().position(|width| head_dim <= *width).ok_or_else(|| {
        Error::work(format!("attention: heads of {head_dim} numbers; the GPU's kernels go up to {}", WIDTHS[4]))
    })?;
    Ok((WIDTHS[index], KERNELS[index]))
}

/// Bytes that some tiles of rows and some tiles of scores take.
fn shared(width: usize, rows: usize, scores: usize) -> usize {
    4 * TILE * (rows * (width + 1) + scores * (TILE + 1))
}

fn scalars(heads: &Heads) -> [Arg<'static>; 5] {
    let Heads { heads, kv_heads, head_dim, scale, window } = *heads;
    let [heads, kv_heads, head_dim, window] = [heads, kv_heads, head_dim, window.unwrap_or(0)].map(Arg::Size);
    [heads, kv_heads, head_dim, window, Arg::Float(scale)]
}

/// The attended values `[t, h·e]`, and log Σ e^score of every token and head, `[t, h]`.
pub(super) fn forward([q, k, v]: [&Tensor; 3], layout: &Layout, heads: &Heads) -> Result<(Tensor, Tensor)> {
    let (width, [kernel, ..]) = kernels(heads.head_dim)?;
    let (q, k, v) = (q.contiguous()?, k.contiguous()?, v.contiguous()?);
    let tables = Tables::of_queries(layout, heads.window);
    let grid = Grid { blocks: (tables.count(), heads.heads), threads: 4 * TILE, shared: shared(width, 2, 1) };
    let [blocks, runs] = tables.upload(q.device())?;
    let out = cuda::empty(q.shape(), DType::F32, q.device())?;
    let normaliser = cuda::empty((layout.tokens(), heads.heads), DType::F32, q.device())?;
    let tensors = [&q, &k, &v, &out, &normaliser, &blocks, &runs].map(Arg::Tensor);
    cuda::launch(kernel, grid, &[&tensors[..], &scalars(heads)].concat())?;
    Ok((out, normaliser))
}

/// The gradients of `q`, `k` and `v`.
pub(super) fn backward(
    [q, k, v, out, dout]: [&Tensor; 5],
    normaliser: &Tensor,
    layout: &Layout,
    heads: &Heads,
) -> Result<(Tensor, Tensor, Tensor)> {
    let (width, [_, of_queries, of_keys]) = kernels(heads.head_dim)?;
    let (q, k, v, dout) = (q.contiguous()?, k.contiguous()?, v.contiguous()?, dout.contiguous()?);
    let (device, n) = (q.device(), layout.tokens() * heads.heads);
    let delta = cuda::empty((layout.tokens(), heads.heads), DType::F32, device)?;
    // a warp for each
    let grid = Grid { blocks: (n.div_ceil(8), 1), ..Grid::over(n) };
    let tensors = [out, &dout, &delta].map(Arg::Tensor);
    cuda::launch("attention_delta", grid, &[&tensors[..], &[n, heads.head_dim].map(Arg::Size)].concat())?;

    let tables = Tables::of_queries(layout, heads.window);
    let grid = Grid { blocks: (tables.count(), heads.heads), threads: 4 * TILE, shared: shared(width, 4, 1) };
    let [blocks, runs] = tables.upload(device)?;
    let dq = cuda::empty(q.shape(), DType::F32, device)?;
    let tensors = [&q, &k, &v, &dout, normaliser, &delta, &dq, &blocks, &runs].map(Arg::Tensor);
    cuda::launch(of_queries, grid, &[&tensors[..], &scalars(heads)].concat())?;

    let tables = Tables::of_keys(layout, heads.window);
    let grid = Grid { blocks: (tables.count(), heads.kv_heads), threads: 4 * TILE, shared: shared(width, 4, 2) };
    let [blocks, runs] = tables.upload(device)?;
    let (dk, dv) = (cuda::empty(k.shape(), DType::F32, device)?, cuda::empty(v.shape(), DType::F32, device)?);
    let tensors = [&q, &k, &v, &dout, normaliser, &delta, &dk, &dv, &blocks, &runs].map(Arg::Tensor);
    cuda::launch(of_keys, grid, &[&tensors[..], &scalars(heads)].concat())?;
    Ok((dq, dk, dv))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Pairs of query and key that the tables name and that the kernels' mask lets through.
    fn pairs(tables: &Tables, window: Option<usize>, keys_first: bool) -> Vec<(u32, u32)> {
        let mut pairs = Vec::new();
        for block in tables.blocks.as_chunks::<5>().0 {
            let [start, count, position, first, end] = *block;
            for run in tables.runs.as_chunks::<3>().0[first as usize..end as usize].iter() {
                for (i, j) in (0..count).flat_map(|i| (0..run[1]).map(move |j| (i, j))) {
                    let (own, other) = ((start + i, position + i), (run[0] + j, run[2] + j));
                    let (query, key) = if keys_first { (other, own) } else { (own, other) };
                    let near = window.is_none_or(|window| key.1 + window as u32 > query.1);
                    if key.1 <= query.1 && near {
                        pairs.push((query.0, key.0));
                    }
                }
            }
        }
        pairs.sort_unstable();
        pairs
    }

    /// Both tables name every pair that sees, once.
    #[test]
    fn tables_are_the_tree() {
        let mut layout = Layout::default();
        let prefix = layout.push(70, None).unwrap();
        let question = layout.push(5, Some(prefix)).unwrap();
        layout.push(33, Some(question)).unwrap();
        layout.push(1, Some(question)).unwrap();
        layout.push(40, Some(prefix)).unwrap();
        layout.push(65, None).unwrap();
        for window in [None, Some(1), Some(7), Some(64), Some(1000)] {
            let mut expected = Vec::new();
            for (index, segment) in layout.segments().iter().enumerate() {
                for query in 0..segment.len {
                    let seen = layout.prefix(index).into_iter().flatten().chain(segment.start..=segment.start + query);
                    let seen: Vec<usize> = seen.collect();
                    let from = window.map_or(0, |window| seen.len().saturating_sub(window));
                    expected.extend(seen[from..].iter().map(|key| ((segment.start + query) as u32, *key as u32)));
                }
            }
            expected.sort_unstable();
            assert_eq!(pairs(&Tables::of_queries(&layout, window), window, false), expected);
            assert_eq!(pairs(&Tables::of_keys(&layout, window), window, true), expected);
        }
    }
}
