//! Reading tensors of a GGUF file as the numbers they stand for, some at a time.

use std::collections::BTreeMap;
use std::fs::{File, Metadata};

use rayon::prelude::*;

use super::blocks::{Raw, decode};
use super::header::TensorInfo;
use super::kinds::Kind;
use crate::checkpoint::positioned::read_exact_at;
use crate::{Error, Result};

/// Numbers decoded at a time by a thread: whole blocks of every type.
const PIECE: u64 = 1 << 16;

/// A GGUF file whose tensors are read as numbers.
#[derive(Debug)]
pub(in crate::checkpoint) struct Packed {
    file: File,
    pub(in crate::checkpoint) metadata: Metadata,
    /// By their first bytes.
    tensors: BTreeMap<u64, Stored>,
    /// Tensors of which every matrix is one of a tensor and one of another behind each other; where these begin, and
    /// the bytes of a matrix's numbers.
    joined: Vec<([u64; 2], u64)>,
}

/// Where joined tensors begin, further than any file goes: the first of them, one byte after the other.
const JOINED: u64 = 1 << 62;

/// How a tensor lies in the file.
#[derive(Debug)]
struct Stored {
    kind: &'static Kind,
    /// Numbers of a row, and of all.
    row: u64,
    count: u64,
    /// Rows of a head whose halves lie between each other, as llama.cpp rotates them.
    head: Option<u64>,
}

impl Packed {
    pub(super) fn new(file: File, metadata: Metadata) -> Self {
        Self { file, metadata, tensors: BTreeMap::new(), joined: Vec::new() }
    }

    /// Joins the matrices of the tensors that begin at `halves`, `bytes` of numbers each; says where the whole begins.
    pub(super) fn join(&mut self, halves: [u64; 2], bytes: u64) -> u64 {
        self.joined.push((halves, bytes.max(1)));
        JOINED + self.joined.len() as u64 - 1
    }

    /// Tensor `info`, which is read; of heads of `head` rows, whose rows go back to transformers' order.
    pub(super) fn add(&mut self, info: &TensorInfo, head: Option<usize>) {
        let row = info.shape.last().map_or(1, |row| *row as u64);
        let count = info.shape.iter().map(|size| *size as u64).product();
        // a vector's rows are its numbers
        let row = if head.is_some() && info.shape.len() == 1 { 1 } else { row };
        let head = head.map(|head| head as u64);
        self.tensors.insert(info.begin, Stored { kind: info.kind, row, count, head });
    }

    /// Whether the file is as it was when its header was read.
    ///
    /// # Errors
    /// The system's.
    pub(in crate::checkpoint) fn is_same(&self) -> std::io::Result<bool> {
        let (now, then) = (self.file.metadata()?, &self.metadata);
        Ok(now.len() == then.len() && now.modified().ok() == then.modified().ok())
    }

    /// Fills `out` from byte `offset` of the numbers of the tensor that begins at `begin`.
    ///
    /// # Errors
    /// Work: the file cannot be read.
    pub(in crate::checkpoint) fn read_at(&self, begin: u64, offset: u64, out: &mut [u8]) -> Result<()> {
        let joined = begin.checked_sub(JOINED).and_then(|at| self.joined.get(usize::try_from(at).ok()?));
        if let Some((halves, bytes)) = joined {
            let (mut at, mut rest) = (offset, out);
            while !rest.is_empty() {
                let (matrix, within) = (at / bytes, at % bytes);
                let (part, after) = rest.split_at_mut(rest.len().min((bytes - within) as usize));
                let half = if matrix % 2 == 0 { halves[0] } else { halves[1] };
                self.read_at(half, matrix / 2 * bytes + within, part)?;
                (at, rest) = (at + part.len() as u64, after);
            }
            return Ok(());
        }
        let Some(stored) = self.tensors.get(&begin) else {
            return self.bytes(begin + offset, out);
        };
        let Some(dtype) = stored.kind.dtype() else {
            return self.bytes(begin + offset, out);
        };
        let is_decoded = stored.kind.block > 1;
        if !is_decoded && stored.head.is_none() {
            return self.bytes(begin + offset, out);
        }
        let size = (dtype.bitsize() / 8) as u64;
        // a head at a time where rows change places
        let step = size * stored.head.map_or(PIECE, |head| head * stored.row).min(stored.count);
        let mut parts = Vec::new();
        let (mut at, mut rest) = (offset, out);
        while !rest.is_empty() {
            let in_step = (step - at % step).min(rest.len() as u64);
            let (part, after) = rest.split_at_mut(in_step as usize);
            parts.push((at, part));
            (at, rest) = (at + in_step, after);
        }
        parts.into_par_iter().try_for_each_init(Buffers::default, |buffers, (at, part)| {
            let first = at / step * step / size;
            let count = (step / size).min(stored.count - first);
            self.piece(begin, stored, first..first + count, buffers)?;
            let all: &[u8] = match is_decoded {
                true => bytemuck::cast_slice(&buffers.numbers),
                false => buffers.raw.bytes(),
            };
            let from = (at % step) as usize;
            let row = (stored.row * size) as usize;
            match stored.head {
                None => part.copy_from_slice(&all[from..from + part.len()]),
                Some(head) => unpermute(all, (head as usize, row), from, part),
            }
            Ok(())
        })
    }

    /// The numbers `range` of the tensor that begins at `begin`.
    fn piece(&self, begin: u64, stored: &Stored, range: std::ops::Range<u64>, buffers: &mut Buffers) -> Result<()> {
        let Kind { block, bytes, .. } = *stored.kind;
        let len = (range.end - range.start) / block * bytes;
        self.bytes(begin + range.start / block * bytes, buffers.raw.of(len as usize))?;
        match block > 1 {
            true => decode(stored.kind, &buffers.raw, &mut buffers.numbers),
            false => Ok(()),
        }
    }

    fn bytes(&self, at: u64, out: &mut [u8]) -> Result<()> {
        read_exact_at(&self.file, out, at).map_err(|error| Error::work(error.to_string()))
    }
}

#[derive(Default)]
struct Buffers {
    raw: Raw,
    numbers: Vec<f32>,
}

/// Bytes of one head of `head` rows from `from` on, its rows in transformers' order: what it has at row `s·head/2 + j`
/// llama.cpp has at row `2·j + s`.
fn unpermute(all: &[u8], (head, row): (usize, usize), from: usize, part: &mut [u8]) {
    let (mut at, mut rest) = (from, part);
    while !rest.is_empty() {
        let (place, within) = (at / row, at % row);
        let (s, j) = (place / (head / 2), place % (head / 2));
        let count = (row - within).min(rest.len());
        let (part, after) = rest.split_at_mut(count);
        part.copy_from_slice(&all[(2 * j + s) * row + within..][..count]);
        (at, rest) = (at + count, after);
    }
}
