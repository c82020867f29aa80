//! A norm with its weight: over the square of what it sees, its mean taken away before or not.

use candle_core::Tensor;

use crate::arch::{NormKind, Role};
use crate::model::Part;
use crate::model::training::BackwardContext;
use crate::{Result, ops};

/// What a norm computes, over the last dimension.
#[derive(Debug)]
pub(crate) struct Normalization {
    pub(crate) kind: NormKind,
    /// `[d]`, `[e]` of each head or `[n·e]` of all, f32, as it is stored.
    pub(crate) weight: Tensor,
    /// As long, where the kind has one.
    pub(crate) bias: Option<Tensor>,
    pub(crate) eps: f64,
}

/// Gradients of a norm's weight, and of its bias where it has one.
pub(crate) type NormGradients = (Tensor, Option<Tensor>);

impl Normalization {
    pub(crate) fn forward(&self, x: &Tensor) -> Result<Tensor> {
        if self.kind == NormKind::Rms {
            return ops::rms_norm(x, &self.weight, self.eps);
        }
        let y = ops::rms_norm(&self.centered(x)?, &self.factor()?, self.eps)?;
        match &self.bias {
            Some(bias) => ops::add(&y, bias),
            None => Ok(y),
        }
    }

    /// The gradient of `x`, and those of the weight and the bias where they are `wanted`.
    pub(crate) fn backward(&self, x: &Tensor, dy: &Tensor, wanted: bool) -> Result<(Tensor, Option<NormGradients>)> {
        let (dx, dweight) = match self.kind {
            NormKind::Rms => ops::rms_norm_backward(x, &self.weight, self.eps, dy, wanted)?,
            _ => ops::rms_norm_backward(&self.centered(x)?, &self.factor()?, self.eps, dy, wanted)?,
        };
        let dbias = self.bias.as_ref().filter(|_| wanted).map(|_| ops::sum_rows(dy)).transpose()?;
        // taking the mean away is its own transpose
        let dx = if self.kind.centers() { ops::center(&dx)? } else { dx };
        Ok((dx, dweight.map(|dweight| (dweight, dbias))))
    }

    /// The variance is the mean square of what has no mean.
    fn centered(&self, x: &Tensor) -> Result<Tensor> {
        if self.kind.centers() { ops::center(x) } else { Ok(x.clone()) }
    }

    /// What is multiplied with.
    fn factor(&self) -> Result<Tensor> {
        Ok(if self.kind.plus_one() { (&self.weight + 1.0)? } else { self.weight.clone() })
    }
}

/// A norm of a block.
#[derive(Debug)]
pub(crate) struct Norm {
    pub(crate) role: Role,
    pub(crate) own: Normalization,
}

impl Norm {
    pub(crate) fn forward(&self, x: &Tensor) -> Result<Tensor> {
        self.own.forward(x)
    }

    /// Gradient of `x`; those of the weight and the bias are noted when the whole block is trained.
    pub(crate) fn backward(&self, at: &mut BackwardContext<'_>, x: &Tensor, dy: &Tensor) -> Result<Tensor> {
        let (dx, own) = self.own.backward(x, dy, at.unfrozen)?;
        if let Some((dweight, dbias)) = own {
            at.note(self.role, Part::Weight, dweight)?;
            if let Some(dbias) = dbias {
                at.note(self.role, Part::Bias, dbias)?;
            }
        }
        Ok(dx)
    }

    /// Its weight and its bias.
    pub(crate) fn parameters(&self) -> impl Iterator<Item = (Role, Part, Tensor)> {
        let bias = self.own.bias.iter().map(|bias| (self.role, Part::Bias, bias.clone()));
        std::iter::once((self.role, Part::Weight, self.own.weight.clone())).chain(bias)
    }
}
