//! Attention on a GPU: who sees whom as tables, and the launches.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::ops::Range;
use std::sync::{Mutex, PoisonError};

use candle_core::{DType, Device, Tensor};

use super::super::cuda::{self, Arg, Grid};
use super::{Heads, Layout};
use crate::{Error, Result};

/// Kernels for heads of up to `width` numbers; smaller ones are padded.
#[derive(Debug)]
struct Kernels {
    width: usize,
    /// Whether they multiply on tensor cores and take and give bf16, else f32.
    narrow: bool,
    /// Forward, gradient of the queries, gradients of keys and values.
    names: [&'static str; 3],
}

/// All there are. The first that serves is the one; what is computed in f32 skips the narrow ones.
const KERNELS: [Kernels; 9] = [
    narrow(32, ["attention_bf16_32", "attention_bf16_dq_32", "attention_bf16_dkv_32"]),
    narrow(64, ["attention_bf16_64", "attention_bf16_dq_64", "attention_bf16_dkv_64"]),
    narrow(96, ["attention_bf16_96", "attention_bf16_dq_96", "attention_bf16_dkv_96"]),
    narrow(128, ["attention_bf16_128", "attention_bf16_dq_128", "attention_bf16_dkv_128"]),
    wide(32, ["attention_32", "attention_dq_32", "attention_dkv_32"]),
    wide(64, ["attention_64", "attention_dq_64", "attention_dkv_64"]),
    wide(96, ["attention_96", "attention_dq_96", "attention_dkv_96"]),
    wide(128, ["attention_128", "attention_dq_128", "attention_dkv_128"]),
    wide(256, ["attention_256", "attention_dq_256", "attention_dkv_256"]),
];

const fn narrow(width: usize, names: [&'static str; 3]) -> Kernels {
    Kernels { width, narrow: true, names }
}

const fn wide(width: usize, names: [&'static str; 3]) -> Kernels {
    Kernels { width, narrow: false, names }
}

/// Threads of a block.
const THREADS: usize = 128;

impl Kernels {
    /// Those for heads of `head_dim` numbers. Tensor cores are given eight numbers at a time.
    fn of(head_dim: usize, device: &Device) -> Result<&'static Self> {
        let narrow = cuda::products(device) == DType::BF16 && head_dim.is_multiple_of(8);
        let serves = |kernels: &&Self| head_dim <= kernels.width && (narrow || !kernels.narrow);
        KERNELS.iter().find(serves).ok_or_else(|| {
            Error::work(format!("attention: heads of {head_dim} numbers; the GPU's kernels go up to 256"))
        })
    }

    /// The type of all but sums.
    fn dtype(&self) -> DType {
        if self.narrow { DType::BF16 } else { DType::F32 }
    }

    /// Queries or keys that a block of threads works on.
    fn tile(&self, which: Which) -> usize {
        match (self.narrow, which) {
            (false, _) => 32,
            (true, Which::Forward) => 128,
            (true, Which::Queries | Which::Keys) => 64,
        }
    }

    /// Memory a block shares. With tensor cores: the queries with a tile of keys and one of values, or the block's rows
    /// of two matrices and two pairs of tiles, with two numbers for each of their queries where those are the other
    /// side. Else: tiles of rows, in the backward passes of both sides, and scores.
    fn shared(&self, which: Which) -> usize {
        let width = self.width;
        if self.narrow {
            let (rows, numbers) = match which {
                Which::Forward => (128 + 64 + 64, 0),
                Which::Queries => (2 * 64 + 4 * 32, 0),
                Which::Keys => (2 * 64 + 4 * 32, 4 * 32),
            };
            2 * rows * (width + 8) + 4 * numbers
        } else {
            let (tiles, scores) = match which {
                Which::Forward => (2, 1),
                Which::Queries => (4, 1),
                Which::Keys => (4, 2),
            };
            4 * 32 * (tiles * (width + 1) + scores * 33)
        }
    }

    /// Launches one of them over the blocks of `tables` and `heads` heads.
    ///
    /// # Safety
    /// `tensors` are those that it declares, without gaps, as large as the tokens of `layout` and `heads` say, of
    /// [`Kernels::dtype`] but for normaliser and delta, which are f32.
    unsafe fn launch(&self, which: Which, layout: &Layout, tensors: &[&Tensor], heads: &Heads) -> Result<()> {
        let count = if which == Which::Keys { heads.kv_heads } else { heads.heads };
        let tile = self.tile(which);
        let tables = layout.tables.of((which == Which::Keys, tile, heads.window), || {
            let tables = match which {
                Which::Keys => Tables::of_keys(layout, heads.window, tile),
                Which::Forward | Which::Queries => Tables::of_queries(layout, heads.window, tile),
            };
            let device = tensors[0].device();
            Ok([Tensor::new(tables.blocks, device)?, Tensor::new(tables.runs, device)?])
        })?;
        // all heads of the longest rows start first
        let blocks = tables[0].elem_count() / BLOCK;
        let grid = Grid { blocks: (count, blocks), threads: THREADS, shared: self.shared(which) };
        let mut args: Vec<Arg> = tensors.iter().copied().chain(&tables).map(Arg::Tensor).collect();
        let Heads { heads, kv_heads, head_dim, scale, window, .. } = *heads;
        args.extend([heads, kv_heads, head_dim, window.unwrap_or(0)].map(Arg::Size));
        args.push(Arg::Float(scale));
        // SAFETY: the caller's word for the tensors; the tables are of the layout, and the block shares what it needs
        unsafe { cuda::launch(self.names[which as usize], grid, &args) }
    }
}

/// Which of a width's kernels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Which {
    Forward,
    Queries,
    Keys,
}

/// Tables on a GPU that were made for a layout: all layers of a pass take the same.
#[derive(Default)]
pub(in crate::ops) struct TablesOnGpu(Mutex<BTreeMap<Side, [Tensor; 2]>>);

/// Whether blocks are of keys, tokens of a block, and the window.
type Side = (bool, usize, Option<usize>);

impl TablesOnGpu {
    fn of(&self, key: Side, make: impl FnOnce() -> Result<[Tensor; 2]>) -> Result<[Tensor; 2]> {
        let mut made = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let tables = match made.entry(key) {
            Entry::Occupied(tables) => tables.into_mut(),
            Entry::Vacant(place) => place.insert(make()?),
        };
        Ok(tables.clone())
    }
}

/// Numbers of a block in the tables.
const BLOCK: usize = 5;

/// Blocks of up to a tile of tokens, and for each the runs of tokens on the other side.
#[derive(Debug, Default)]
struct Tables {
    /// First token, tokens, position of the first, range of the runs.
    blocks: Vec<u32>,
    /// First token, tokens, position of the first.
    runs: Vec<u32>,
}

impl Tables {
    /// Queries, and the keys they see. The longest rows first: the blocks left at the end are the short ones.
    fn of_queries(layout: &Layout, window: Option<usize>, tile: usize) -> Self {
        let mut tables = Self::default();
        for (index, segment) in layout.segments().iter().enumerate().rev() {
            let mut runs = layout.prefix(index);
            runs.push(segment.start..segment.start + segment.len);
            for first in (0..segment.len).step_by(tile).rev() {
                let count = tile.min(segment.len - first);
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
    fn of_keys(layout: &Layout, window: Option<usize>, tile: usize) -> Self {
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
            for first in (0..segment.len).step_by(tile) {
                let count = tile.min(segment.len - first);
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
}

/// The attended values `[t, h·e]`, and log Σ e^score of every token and head, `[t, h]`.
pub(super) fn forward([q, k, v]: [&Tensor; 3], layout: &Layout, heads: &Heads) -> Result<(Tensor, Tensor)> {
    let kernels = Kernels::of(heads.head_dim, q.device())?;
    let typed = |x| cuda::in_type(x, kernels.dtype());
    let (q, k, v) = (typed(q)?, typed(k)?, typed(v)?);
    // SAFETY: shapes as `check` has asked; the blocks are all tokens and heads, for which they write both
    let (out, normalizer) = unsafe {
        let out = cuda::empty(q.shape(), kernels.dtype(), q.device())?;
        let normalizer = cuda::empty((layout.tokens(), heads.heads), DType::F32, q.device())?;
        kernels.launch(Which::Forward, layout, &[&q, &k, &v, &out, &normalizer], heads)?;
        (out, normalizer)
    };
    Ok((cuda::operand(&out)?, normalizer))
}

/// The gradients of `q`, `k` and `v`.
pub(super) fn backward(
    [q, k, v, out, dout]: [&Tensor; 5],
    normalizer: &Tensor,
    layout: &Layout,
    heads: &Heads,
) -> Result<(Tensor, Tensor, Tensor)> {
    let kernels = Kernels::of(heads.head_dim, q.device())?;
    let typed = |x| cuda::in_type(x, kernels.dtype());
    let (q, k, v, out, dout) = (typed(q)?, typed(k)?, typed(v)?, typed(out)?, typed(dout)?);
    let n = layout.tokens() * heads.heads;
    // SAFETY: the kernels below write the sums and gradients of all tokens and heads
    let like = |x: &Tensor| unsafe { cuda::empty(x.shape(), x.dtype(), x.device()) };
    let (delta, dq, dk, dv) = (like(normalizer)?, like(&q)?, like(&k)?, like(&v)?);
    // a warp for each token and head
    let grid = Grid { blocks: (n.div_ceil(8), 1), ..Grid::over(n) };
    let tensors = [&out, &dout, &delta].map(Arg::Tensor);
    let delta_kernel = if kernels.narrow { "attention_bf16_delta" } else { "attention_delta" };
    // SAFETY: shapes as `check` has asked; n sums, each over a head of both
    unsafe {
        cuda::launch(delta_kernel, grid, &[&tensors[..], &[n, heads.head_dim].map(Arg::Size)].concat())?;
        kernels.launch(Which::Queries, layout, &[&q, &k, &v, &dout, normalizer, &delta, &dq], heads)?;
        kernels.launch(Which::Keys, layout, &[&q, &k, &v, &dout, normalizer, &delta, &dk, &dv], heads)?;
    }
    Ok((cuda::operand(&dq)?, cuda::operand(&dk)?, cuda::operand(&dv)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Pairs of query and key that the tables name and that the kernels' mask lets through.
    fn pairs(tables: &Tables, window: Option<usize>, keys_first: bool) -> Vec<(u32, u32)> {
        let mut pairs = Vec::new();
        for block in tables.blocks.as_chunks::<BLOCK>().0 {
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
            for tile in [32, 64] {
                assert_eq!(pairs(&Tables::of_queries(&layout, window, tile), window, false), expected);
                assert_eq!(pairs(&Tables::of_keys(&layout, window, tile), window, true), expected);
            }
        }
    }
}
