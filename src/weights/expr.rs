//! How a tensor of a new checkpoint is made.

use std::sync::Arc;

use candle_core::Tensor;

use super::four_bit;
use super::lora::{Adapter, TokenRows};
use crate::checkpoint::Index;
use crate::{Error, Result};

/// The numbers of a tensor, as what is done to stored ones. They are computed in f32, some rows at a time, and rounded
/// once, to the type in which the tensor is stored.
#[derive(Clone, Debug)]
pub enum Expr {
    /// A tensor of the source, in four bits or not. Alone it is copied byte for byte.
    Source(String),
    /// A tensor of another file.
    Stored(Arc<Index>, String),
    /// These numbers.
    Tensor(Tensor),
    /// Zeros in this shape.
    Zeros(Vec<usize>),
    /// The sum of tensors of one shape, each times its factor.
    Sum(Vec<(f64, Expr)>),
    /// The product of two matrices, `[m, k]` and `[k, n]`; the second is in memory whole.
    MatMul(Box<Expr>, Box<Expr>),
    /// A matrix `[o, i]`, or the matrices of all experts, and its low-rank update.
    Adapted(Box<Expr>, Adapter),
    /// A matrix `[v, d]`, some of whose rows are others.
    TokenRows(Box<Expr>, TokenRows),
    /// What four bits leave of a matrix, the scales in codes as well if `true`; of one that is stored in four bits, all
    /// of it.
    Quantized(Box<Expr>, bool),
}

impl Expr {
    /// Its shape, where tensors of the source are those of `source`. Nothing is computed.
    ///
    /// # Errors
    /// Work: no such tensor, shapes that do not go together.
    pub fn shape(&self, source: &Index) -> Result<Vec<usize>> {
        let misfit = |what: &str, one: &[usize], other: &[usize]| {
            Err(Error::work(format!("{what}: the shapes {one:?} and {other:?} do not go together")))
        };
        Ok(match self {
            Self::Source(name) => stored_shape(source, name)?,
            Self::Stored(file, name) => stored_shape(file, name)?,
            Self::Tensor(tensor) => tensor.dims().to_vec(),
            Self::Zeros(shape) => shape.clone(),
            Self::Sum(terms) => {
                let mut shapes = terms.iter().map(|(_, term)| term.shape(source));
                let first = shapes.next().ok_or_else(|| Error::work("a sum of nothing"))??;
                for other in shapes {
                    let other = other?;
                    if other != first {
                        return misfit("a sum", &first, &other);
                    }
                }
                first
            }
            Self::MatMul(left, right) => match (&left.shape(source)?[..], &right.shape(source)?[..]) {
                ([rows, inner], [height, columns]) if inner == height && *inner > 0 => vec![*rows, *columns],
                (left, right) => return misfit("a product", left, right),
            },
            Self::Adapted(of, adapter) => match (of.shape(source)?, adapter.shape()?) {
                (of, own) if of == own => of,
                (of, own) => return misfit("an adapter", &of, &own),
            },
            Self::TokenRows(of, tokens) => match (&of.shape(source)?[..], tokens.rows.dims()) {
                ([v, d], [_, width]) if d == width => vec![*v, *d],
                (of, rows) => return misfit("rows of tokens", of, rows),
            },
            Self::Quantized(of, _) => match of.shape(source)? {
                shape if shape.len() == 2 => shape,
                shape => return Err(Error::work(format!("four bits: {shape:?} is the shape of no matrix"))),
            },
        })
    }

    /// The same with what `known` says in the place of every tensor of the source.
    ///
    /// # Errors
    /// Those of `known`.
    pub(super) fn over(self, known: &dyn Fn(&str) -> Result<Self>) -> Result<Self> {
        let boxed = |expr: Box<Self>| expr.over(known).map(Box::new);
        Ok(match self {
            Self::Source(name) => known(&name)?,
            Self::Stored(..) | Self::Tensor(_) | Self::Zeros(_) => self,
            Self::Sum(terms) => {
                let terms = terms.into_iter().map(|(factor, term)| Ok((factor, term.over(known)?)));
                Self::Sum(terms.collect::<Result<_>>()?)
            }
            Self::MatMul(left, right) => Self::MatMul(boxed(left)?, boxed(right)?),
            Self::Adapted(of, adapter) => Self::Adapted(boxed(of)?, adapter),
            Self::TokenRows(of, tokens) => Self::TokenRows(boxed(of)?, tokens),
            Self::Quantized(of, double) => Self::Quantized(boxed(of)?, double),
        })
    }

    /// Whether an adapter or a token's row is part of it.
    pub(super) fn is_adapted(&self) -> bool {
        match self {
            Self::Source(_) | Self::Stored(..) | Self::Tensor(_) | Self::Zeros(_) => false,
            Self::Sum(terms) => terms.iter().any(|(_, term)| term.is_adapted()),
            Self::MatMul(left, right) => left.is_adapted() || right.is_adapted(),
            Self::Adapted(..) | Self::TokenRows(..) => true,
            Self::Quantized(of, _) => of.is_adapted(),
        }
    }

    /// Numbers that are in memory whole while it is computed, beside the pieces. No tensor of the checkpoint has more
    /// than `largest`: four bits take that twice, read and in codes.
    pub(super) fn whole(&self, source: &Index, largest: usize) -> Result<usize> {
        Ok(match self {
            Self::Source(_) | Self::Stored(..) | Self::Tensor(_) | Self::Zeros(_) => 0,
            Self::Sum(terms) => terms.iter().map(|(_, term)| term.whole(source, largest)).sum::<Result<usize>>()?,
            Self::MatMul(left, right) => {
                let own: usize = right.shape(source)?.iter().product();
                // joined from its pieces
                left.whole(source, largest)? + (2 * own).max(own + right.whole(source, largest)?)
            }
            Self::Adapted(of, _) | Self::TokenRows(of, _) => of.whole(source, largest)?,
            Self::Quantized(of, _) => of.whole(source, largest)?.max(2 * largest),
        })
    }
}

/// The shape that tensor `name` has, or had before it was quantised.
fn stored_shape(index: &Index, name: &str) -> Result<Vec<usize>> {
    match index.four_bit_state(name) {
        Some(_) => Ok(four_bit::original(index, name)?.0),
        None => Ok(index.entry(name)?.shape.clone()),
    }
}
