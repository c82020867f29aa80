//! One decoder block of any architecture of the table: a list of residual updates of the stream. Every phase is a loop
//! over them; what a sub-layer does in it stands with the sub-layer.
//!
//! Only sub-layers of the first residual look at other tokens. All else works on some tokens at a time, since an MLP is
//! the widest part.

mod seam_map;
#[cfg(test)]
mod tests;
mod training;

use std::sync::Arc;

use candle_core::{Device, Tensor};

use super::cache::LayerCache;
use super::chunks::{chunks, rows};
use super::load_options::Loader;
use super::sublayers::{self, Linear, Norm, SubLayer};
use super::{ForwardContext, LoadOptions, tokens_at_once};
use crate::arch::{self, ModelSpec, Role};
use crate::checkpoint::Checkpoint;
use crate::{Error, Result, ops, plan};

pub(crate) use seam_map::LinearMap;

/// One decoder block: `x + attention(norm(x))`, then `x + mlp(norm(x))`, or what else its architecture says.
#[derive(Debug)]
pub struct Block {
    /// Whether all of it is trained.
    unfrozen: bool,
    residuals: Vec<Residual>,
    /// What the stream goes through behind them.
    seam_map: Option<LinearMap>,
}

/// `x` plus the sum of what the sub-layers make of `norm(x)`, normed again and multiplied.
#[derive(Debug)]
struct Residual {
    /// None, one for all sub-layers, or one for each.
    norms: Vec<Norm>,
    sum: Vec<Box<dyn SubLayer>>,
    post_norm: Option<Norm>,
    /// What the update is multiplied with.
    times: f64,
}

impl Block {
    /// Reads layer `l` for the place `place` of the stack.
    /// Matrices keep their type on disk unless `load_options` says otherwise, norms and biases are widened to f32.
    ///
    /// # Errors
    /// A tensor that is missing, has another shape or cannot be read.
    pub(crate) fn load(
        checkpoint: &Arc<Checkpoint>,
        spec: &ModelSpec,
        (layer, place): (usize, usize),
        load_options: &LoadOptions,
        device: &Device,
    ) -> Result<Self> {
        let loader = Loader { checkpoint, spec, layer, place, load_options, device };
        Self::made_of(&spec.sublayers(layer), &loader)
    }

    fn made_of(residuals: &[arch::Residual], loader: &Loader<'_>) -> Result<Self> {
        let residuals = residuals.iter().map(|residual| {
            let sum = residual.sum.iter().map(|kind| sublayers::load(*kind, loader)).collect::<Result<_>>()?;
            let norms = residual.norms.iter().map(|role| loader.norm(*role)).collect::<Result<_>>()?;
            let post_norm = residual.post_norm.map(|role| loader.norm(role)).transpose()?;
            Ok(Residual { norms, sum, post_norm, times: loader.spec.multipliers.residual })
        });
        let residuals: Vec<Residual> = residuals.collect::<Result<_>>()?;
        if residuals.iter().skip(1).any(Residual::mixes_tokens) {
            return Err(Error::work("only the first residual of a block may look at other tokens"));
        }
        let seam_map = LinearMap::load(loader)?;
        Ok(Self { unfrozen: loader.load_options.is_unfrozen(loader.place), residuals, seam_map })
    }

    /// The residual stream `[t, d]` that leaves the block, from the one that enters it.
    ///
    /// # Errors
    /// The device's.
    pub fn forward(&self, x: &Tensor, context: &ForwardContext) -> Result<Tensor> {
        self.through(x, context, None)
    }

    /// The stream `[t, d]` that leaves the sub-layer `sublayer` of the block, from the one that enters it; that one
    /// where the block does without.
    ///
    /// # Errors
    /// The device's; a sub-layer that shares its norm with another.
    pub(crate) fn forward_sublayer(
        &self,
        sublayer: plan::SubLayer,
        x: &Tensor,
        context: &ForwardContext,
    ) -> Result<Tensor> {
        self.alone(sublayer)?.map_or_else(|| Ok(x.clone()), |(residual, _)| residual.forward(x, context, None))
    }

    /// What enters the output projection of the sub-layer `sublayer`, `[t, i]`, from the stream `[t, d]` that enters
    /// the sub-layer.
    ///
    /// # Errors
    /// As [`Block::forward_sublayer`]; the block does without the sub-layer.
    pub(crate) fn before_output(
        &self,
        sublayer: plan::SubLayer,
        x: &Tensor,
        context: &ForwardContext,
    ) -> Result<Tensor> {
        let (residual, own) = self.alone(sublayer)?.ok_or_else(|| absent(sublayer))?;
        match own.mixes_tokens() {
            true => own.before_output(&residual.normed(x, 0)?, context, None),
            false => some_at_a_time(x, |x| own.before_output(&residual.normed(x, 0)?, context, None)),
        }
    }

    /// The output projection of the sub-layer `sublayer`.
    ///
    /// # Errors
    /// As [`Block::before_output`].
    pub(crate) fn output(&self, sublayer: plan::SubLayer) -> Result<(Role, &Linear)> {
        let (_, own) = self.alone(sublayer)?.ok_or_else(|| absent(sublayer))?;
        own.output().ok_or_else(sublayers::no_output)
    }

    /// The sub-layer `sublayer` with its residual; `None` where the block does without.
    fn alone(&self, sublayer: plan::SubLayer) -> Result<Option<(&Residual, &dyn SubLayer)>> {
        if self.seam_map.is_some() {
            return Err(Error::request(
                "a linear map stands behind a layer of this model (seam_maps in config.json): its sub-layers are not \
                 taken apart; start from the model without",
            ));
        }
        for residual in &self.residuals {
            match &residual.sum[..] {
                [own] if own.name() == sublayer => return Ok(Some((residual, own.as_ref()))),
                sum if sum.iter().any(|own| own.name() == sublayer) => {
                    return Err(Error::work("sub-layers of a parallel block are not run one by one"));
                }
                _ => {}
            }
        }
        Ok(None)
    }

    /// The same for tokens that follow those in `cache`, whose keys and values join it.
    pub(super) fn extend(&self, x: &Tensor, context: &ForwardContext, cache: &mut LayerCache) -> Result<Tensor> {
        self.through(x, context, Some(cache))
    }

    fn through(&self, x: &Tensor, context: &ForwardContext, mut cache: Option<&mut LayerCache>) -> Result<Tensor> {
        let mut x = x.clone();
        for residual in &self.residuals {
            x = residual.forward(&x, context, cache.as_deref_mut())?;
        }
        match &self.seam_map {
            Some(map) => map.forward(&x),
            None => Ok(x),
        }
    }
}

impl Residual {
    fn mixes_tokens(&self) -> bool {
        self.sum.iter().any(|own| own.mixes_tokens())
    }

    /// What the sub-layer `own` of the sum sees the stream through.
    fn norm(&self, own: usize) -> Option<&Norm> {
        self.norms.get(if self.has_norm_each() { own } else { 0 })
    }

    /// Whether the sub-layers see the stream through norms of their own.
    fn has_norm_each(&self) -> bool {
        self.norms.len() > 1
    }

    /// What the sub-layer `own` of the sum sees.
    fn normed(&self, x: &Tensor, own: usize) -> Result<Tensor> {
        self.norm(own).map_or_else(|| Ok(x.clone()), |norm| norm.forward(x))
    }

    /// `x` and what a sub-layer has given.
    fn add(&self, x: &Tensor, update: Tensor) -> Result<Tensor> {
        let update = match &self.post_norm {
            Some(norm) => norm.forward(&update)?,
            None => update,
        };
        ops::add(x, &self.scaled(update)?)
    }

    /// An update, or its gradient, times what it is multiplied with.
    fn scaled(&self, update: Tensor) -> Result<Tensor> {
        if self.times == 1.0 { Ok(update) } else { Ok((update * self.times)?) }
    }

    fn forward(&self, x: &Tensor, context: &ForwardContext, mut cache: Option<&mut LayerCache>) -> Result<Tensor> {
        if !self.mixes_tokens() {
            return some_at_a_time(x, |x| {
                let normed = self.normed(x, 0)?;
                self.sum.iter().try_fold(x.clone(), |sum, own| self.add(&sum, own.forward(&normed, context, None)?))
            });
        }
        let mut normed = self.normed(x, 0)?;
        self.sum.iter().enumerate().try_fold(x.clone(), |sum, (index, own)| {
            if index > 0 && self.has_norm_each() {
                normed = self.normed(x, index)?;
            }
            let update = match own.mixes_tokens() {
                true => own.forward(&normed, context, cache.as_deref_mut())?,
                false => some_at_a_time(&normed, |normed| own.forward(normed, context, None))?,
            };
            self.add(&sum, update)
        })
    }
}

fn absent(sublayer: plan::SubLayer) -> Error {
    Error::work(format!("a block without {}", sublayer.name()))
}

/// What looks at each token alone, over all rows of `x`.
fn some_at_a_time(x: &Tensor, f: impl Fn(&Tensor) -> Result<Tensor>) -> Result<Tensor> {
    let (t, most) = (x.dim(0)?, tokens_at_once(x.device()));
    if t <= most {
        return f(x);
    }
    let parts: Vec<Tensor> = chunks(t, most).map(|chunk| f(&rows(x, &chunk)?)).collect::<Result<_>>()?;
    Ok(Tensor::cat(&parts, 0)?)
}
