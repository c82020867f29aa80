//! The low-rank update of one weight.

use candle_core::{D, Device, Tensor};

use crate::arch::Stacked;
use crate::{Error, Result, ops};

/// An update of the weight W `[o, i]` to W + scale · B·A; with magnitudes m, to m / ‖W + scale · B·A‖ times that, each
/// row by its own norm.
#[derive(Clone, Debug)]
pub struct Adapter {
    /// `[r, i]` f32.
    pub a: Tensor,
    /// `[o, r]` f32.
    pub b: Tensor,
    /// Factor on B·A.
    pub scale: f64,
    /// DoRA's magnitudes, `[o]` f32 in main memory.
    pub magnitude: Option<Tensor>,
    /// Of the matrices of n experts in one tensor, how they lie there; A is `[n, r, i]` and B `[n, o, r]`.
    pub stacked: Option<Stacked>,
}

/// Bytes of a row's norms.
pub(crate) const NORMS: usize = 8 + 4 + 4;

/// Which rows of a weight some rows are.
#[derive(Clone, Copy, Debug)]
pub enum At<'a> {
    /// Those from this one on.
    From(usize),
    /// These.
    Ids(&'a [u32]),
}

impl At<'_> {
    /// The same `rows` rows of `of`, in main memory.
    fn pick(self, of: &Tensor, rows: usize) -> Result<Tensor> {
        let picked = match self {
            Self::From(first) => of.narrow(0, first, rows)?,
            Self::Ids(ids) => of.index_select(&Tensor::new(ids, of.device())?, 0)?,
        };
        Ok(picked.to_device(&Device::Cpu)?)
    }
}

impl Adapter {
    /// Rank r.
    ///
    /// # Errors
    /// Work: A is neither a matrix nor a stack of them.
    pub fn rank(&self) -> Result<usize> {
        Ok(self.a.dim(D::Minus2)?)
    }

    /// The update of one of the experts that it is of. What is trained changes in both.
    ///
    /// # Errors
    /// Work: it is of no stack.
    pub(crate) fn of_expert(&self, expert: usize) -> Result<Self> {
        let (a, b) = (self.a.get(expert)?, self.b.get(expert)?);
        Ok(Self { a, b, scale: self.scale, magnitude: None, stacked: None })
    }

    /// The shape of the tensor that it updates.
    ///
    /// # Errors
    /// Work: factors that do not go together.
    pub(crate) fn shape(&self) -> Result<Vec<usize>> {
        let misfit = || Error::work(format!("an adapter of {:?} and {:?}", self.a.dims(), self.b.dims()));
        match (self.stacked, self.a.dims(), self.b.dims()) {
            (None, [rank, i], [o, inner]) if rank == inner => Ok(vec![*o, *i]),
            (Some(lie), [n, rank, i], [count, o, inner]) if (n, rank) == (count, inner) => Ok(match lie {
                Stacked::Rows => vec![*n, *o, *i],
                Stacked::Columns => vec![*n, *i, *o],
            }),
            _ => Err(misfit()),
        }
    }

    /// Numbers in it.
    #[must_use]
    pub fn parameters(&self) -> usize {
        let magnitude = self.magnitude.as_ref().map_or(0, Tensor::elem_count);
        self.a.elem_count() + self.b.elem_count() + magnitude
    }

    /// Bytes beside the numbers: with magnitudes, squares of the weight's rows in f64, norms and ratios in f32.
    pub(crate) fn norms_bytes(&self) -> usize {
        self.magnitude.as_ref().map_or(0, |m| NORMS * m.elem_count())
    }

    /// x·Aᵀ·scale, `[t, i]` to `[t, r]`.
    pub(crate) fn reduce(&self, x: &Tensor) -> Result<Tensor> {
        Ok((ops::low_rank_down(x, &self.a)? * self.scale)?)
    }

    /// The updated rows of the weight whose rows `at` are `rows`, `[n, i]` f32 in main memory.
    ///
    /// # Errors
    /// Work: shapes that do not fit.
    pub(crate) fn updated(&self, rows: &Tensor, at: At<'_>) -> Result<Tensor> {
        let sum = self.sum(rows, at)?;
        match self.ratio(&sum, at)? {
            Some(ratio) => Ok(sum.broadcast_mul(&ratio.unsqueeze(1)?)?),
            None => Ok(sum),
        }
    }

    /// What DoRA multiplies each output with, m / ‖W + scale · B·A‖, `[n]`, for the weight's `rows` at `at`.
    ///
    /// # Errors
    /// Work: shapes that do not fit.
    pub fn ratios(&self, rows: &Tensor, at: At<'_>) -> Result<Option<Tensor>> {
        match self.magnitude {
            Some(_) => self.ratio(&self.sum(rows, at)?, at),
            None => Ok(None),
        }
    }

    /// W + scale · B·A.
    fn sum(&self, rows: &Tensor, at: At<'_>) -> Result<Tensor> {
        if let Some(lie) = self.stacked {
            let At::From(first) = at else { return Err(Error::work("rows of a stack of matrices")) };
            let own = (0..rows.dim(0)?).map(|place| {
                let Self { a, b, scale, .. } = self.of_expert(first + place)?;
                let update = ops::low_rank_up(&b.to_device(&Device::Cpu)?, &a.to_device(&Device::Cpu)?)?;
                let update = if lie == Stacked::Columns { update.t()?.contiguous()? } else { update };
                Ok((rows.get(place)? + (update * scale)?)?)
            });
            return Ok(Tensor::stack(&own.collect::<Result<Vec<Tensor>>>()?, 0)?);
        }
        let b = at.pick(&self.b, rows.dim(0)?)?;
        Ok((rows + (ops::low_rank_up(&b, &self.a.to_device(&Device::Cpu)?)? * self.scale)?)?)
    }

    fn ratio(&self, sum: &Tensor, at: At<'_>) -> Result<Option<Tensor>> {
        let Some(magnitude) = &self.magnitude else { return Ok(None) };
        let norms = sum.sqr()?.sum(D::Minus1)?.sqrt()?;
        Ok(Some((at.pick(magnitude, sum.dim(0)?)? / norms)?))
    }
}
