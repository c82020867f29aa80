//! The numbers of a tensor, stored or computed, some rows at a time.

use std::ops::Range;

use candle_core::{DType, Device, Tensor};

use super::expr::Expr;
use super::four_bit;
use super::lora::{Adapter, At, TokenRows};
use crate::checkpoint::{Entry, Index};
use crate::ops::{self, Nf4Weight};
use crate::{Error, Result};

/// Numbers of a tensor that are in memory at a time, unless one row is longer.
pub(super) const PIECE: usize = 1 << 22;

/// The numbers of a tensor, ready to be read.
pub enum Numbers<'a> {
    /// In its type on disk.
    Dense(&'a Index, &'a Entry),
    /// In four bits.
    FourBit(Nf4Weight),
    /// In memory.
    Tensor(&'a Tensor),
    /// Zeros in this shape.
    Zeros(&'a [usize]),
    /// A sum, each term times its factor.
    Sum(Vec<(f64, Numbers<'a>)>),
    /// A product with a matrix, f32 in main memory.
    MatMul(Box<Numbers<'a>>, Tensor),
    /// A matrix and its low-rank update.
    Adapted(Box<Numbers<'a>>, &'a Adapter),
    /// A matrix, some of whose rows are others.
    TokenRows(Box<Numbers<'a>>, &'a TokenRows),
}

impl<'a> Numbers<'a> {
    /// The tensor `entry` of `index`, whose shape is or was `shape`.
    ///
    /// # Errors
    /// Work: four bits that cannot be read.
    pub fn open(index: &'a Index, entry: &'a Entry, shape: &[usize]) -> Result<Self> {
        match (index.four_bit_state(&entry.name), shape) {
            (Some(_), [rows, columns]) => Ok(Self::FourBit(four_bit::load(index, &entry.name, (*rows, *columns))?)),
            _ => Ok(Self::Dense(index, entry)),
        }
    }

    /// What `expr` says of tensors of `source`. Its shapes go together: [`Expr::shape`] has looked.
    ///
    /// # Errors
    /// Work: a tensor that cannot be read, numbers that cannot be quantised.
    pub fn of(expr: &'a Expr, source: &'a Index) -> Result<Self> {
        let stored = |index: &'a Index, name: &str| Self::open(index, index.entry(name)?, &expr.shape(source)?);
        let boxed = |expr: &'a Expr| Self::of(expr, source).map(Box::new);
        Ok(match expr {
            Expr::Source(name) => stored(source, name)?,
            Expr::Stored(file, name) => stored(file, name)?,
            Expr::Tensor(tensor) => Self::Tensor(tensor),
            Expr::Zeros(shape) => Self::Zeros(shape),
            Expr::Sum(terms) => {
                let terms = terms.iter().map(|(factor, term)| Ok((*factor, Self::of(term, source)?)));
                Self::Sum(terms.collect::<Result<_>>()?)
            }
            Expr::MatMul(left, right) => Self::MatMul(boxed(left)?, Self::of(right, source)?.whole(DType::F32)?),
            Expr::Adapted(of, adapter) => Self::Adapted(boxed(of)?, adapter),
            Expr::TokenRows(of, tokens) => Self::TokenRows(boxed(of)?, tokens),
            Expr::Quantized(of, double) => match Self::of(of, source)? {
                Self::FourBit(weight) => Self::FourBit(weight),
                Self::Dense(index, entry) => {
                    Self::FourBit(Nf4Weight::quantize(&index.load(&entry.name, &entry.shape, &Device::Cpu)?, *double)?)
                }
                numbers => Self::FourBit(Nf4Weight::quantize(&numbers.whole(DType::F32)?, *double)?),
            },
        })
    }

    /// Calls `take` with some rows at a time as f32, and the number of the first. A vector is one piece.
    ///
    /// # Errors
    /// Work: a file that cannot be read. Whatever `take` finds wrong.
    pub fn pieces(&self, take: impl FnMut(usize, Tensor) -> Result<()>) -> Result<()> {
        self.pieces_over(0..usize::MAX, take)
    }

    /// Those of the pieces that have one of `rows`; they are the same whichever rows are asked for.
    ///
    /// # Errors
    /// As [`Numbers::pieces`].
    pub(crate) fn pieces_over(
        &self,
        rows: Range<usize>,
        mut take: impl FnMut(usize, Tensor) -> Result<()>,
    ) -> Result<()> {
        let Some(height) = self.rows() else { return take(0, self.read(None)?) };
        let step = (PIECE / self.widest().max(1)).max(1);
        for first in (rows.start / step * step..rows.end.min(height)).step_by(step) {
            take(first, self.read(Some(first..(first + step).min(height)))?)?;
        }
        Ok(())
    }

    /// All of them, as `dtype`.
    ///
    /// # Errors
    /// As [`Numbers::pieces`].
    pub fn whole(&self, dtype: DType) -> Result<Tensor> {
        let mut pieces = Vec::new();
        self.pieces(|_, piece| {
            pieces.push(piece.to_dtype(dtype)?);
            Ok(())
        })?;
        Ok(Tensor::cat(&pieces, 0)?)
    }

    /// Rows of a matrix, or matrices of a stack of them; `None` for what is not cut.
    fn rows(&self) -> Option<usize> {
        let matrix = |shape: &[usize]| if shape.len() > 1 { Some(shape[0]) } else { None };
        match self {
            Self::Dense(_, entry) => matrix(&entry.shape),
            Self::FourBit(weight) => Some(weight.shape().0),
            Self::Tensor(tensor) => matrix(tensor.dims()),
            Self::Zeros(shape) => matrix(shape),
            Self::Sum(terms) => terms.first().and_then(|(_, term)| term.rows()),
            Self::MatMul(of, _) | Self::Adapted(of, _) | Self::TokenRows(of, _) => of.rows(),
        }
    }

    /// Numbers of the widest row that is in memory.
    fn widest(&self) -> usize {
        let last = |shape: &[usize]| shape.iter().skip(1).product();
        match self {
            Self::Dense(_, entry) => last(&entry.shape),
            Self::FourBit(weight) => weight.shape().1,
            Self::Tensor(tensor) => last(tensor.dims()),
            Self::Zeros(shape) => last(shape),
            Self::Sum(terms) => terms.iter().map(|(_, term)| term.widest()).max().unwrap_or(1),
            Self::MatMul(left, right) => left.widest().max(last(right.dims())),
            Self::Adapted(of, _) | Self::TokenRows(of, _) => of.widest(),
        }
    }

    /// These rows as f32; of what is no matrix, all.
    fn read(&self, rows: Option<Range<usize>>) -> Result<Tensor> {
        let first = At::From(rows.as_ref().map_or(0, |rows| rows.start));
        match self {
            Self::Dense(index, entry) => match rows {
                Some(rows) => {
                    let piece = index.load_rows_range(&entry.name, &entry.shape, rows, &Device::Cpu)?;
                    Ok(piece.to_dtype(DType::F32)?)
                }
                None => index.load_f32(&entry.name, &entry.shape, &Device::Cpu),
            },
            Self::FourBit(weight) => {
                let (height, columns) = weight.shape();
                let rows = rows.unwrap_or(0..height);
                let mut values = vec![0_f32; rows.len() * columns];
                weight.decode(rows.start * columns, &mut values);
                Ok(Tensor::from_vec(values, (rows.len(), columns), &Device::Cpu)?)
            }
            Self::Tensor(tensor) => {
                let tensor = match rows {
                    Some(rows) => tensor.narrow(0, rows.start, rows.len())?,
                    None => (*tensor).clone(),
                };
                Ok(tensor.to_device(&Device::Cpu)?.to_dtype(DType::F32)?)
            }
            Self::Zeros(shape) => {
                let mut shape = shape.to_vec();
                if let (Some(rows), Some(height)) = (rows, shape.first_mut()) {
                    *height = rows.len();
                }
                Ok(Tensor::zeros(shape, DType::F32, &Device::Cpu)?)
            }
            Self::Sum(terms) => {
                let mut terms = terms.iter().map(|(factor, term)| {
                    let term = term.read(rows.clone())?;
                    Ok::<_, Error>(if *factor == 1.0 { term } else { (term * *factor)? })
                });
                let first = terms.next().ok_or_else(|| Error::work("a sum of nothing"))??;
                terms.try_fold(first, |sum, term| Ok((sum + term?)?))
            }
            Self::MatMul(left, right) => ops::low_rank_up(&left.read(rows)?, right),
            Self::Adapted(of, adapter) => adapter.updated(&of.read(rows)?, first),
            Self::TokenRows(of, tokens) => tokens.updated(&of.read(rows)?, first),
        }
    }
}

/// `numbers` in the type on disk.
///
/// # Errors
/// Work: a number that is not finite, or too large for the type.
pub(super) fn rounded(numbers: &Tensor, dtype: DType) -> Result<Tensor> {
    let rounded = numbers.to_dtype(dtype)?;
    if ops::all_finite(&rounded)? {
        return Ok(rounded);
    }
    Err(Error::work(match ops::all_finite(numbers)? {
        true => format!("numbers too large for {}", dtype.as_str()),
        false => "non-finite values".to_owned(),
    }))
}
