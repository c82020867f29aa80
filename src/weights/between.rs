//! The layers of a model with, after each of them, what lies between it and the same layer of another model.

use std::sync::Arc;

use safetensors::Dtype;

use super::blueprint::{Blueprint, Draft};
use super::expr::Expr;
use super::lora::Adapters;
use crate::arch::{LayerTensor, ModelSpec};
use crate::checkpoint::{ByteSize, Checkpoint, Index, four_bit_owner, to_python_json};
use crate::{Error, Result};

/// As large as files usually are, although none is written.
const SHARD: ByteSize = ByteSize(5_000_000_000);

/// Where the layers of another model of the same shapes are.
#[derive(Clone, Debug)]
pub struct Other {
    index: Arc<Index>,
    /// What is added to them.
    adapters: Option<Arc<Adapters>>,
}

impl Other {
    /// The layers of `checkpoint`; of one with `adapters`, their updates in f32, rounded to no type.
    ///
    /// # Errors
    /// Work: the system has no more room for open files.
    pub fn new(checkpoint: &Arc<Checkpoint>, spec: &ModelSpec, adapters: Option<Arc<Adapters>>) -> Result<Self> {
        let index = match &adapters {
            Some(adapters) => adapters.over(checkpoint, spec)?.index.share()?,
            None => checkpoint.index.share()?,
        };
        Ok(Self { index: Arc::new(index), adapters })
    }

    /// Tensor `tensor` of layer `l`, and the type in which nothing of it is lost.
    fn tensor(&self, l: usize, tensor: &LayerTensor) -> Result<(Expr, Dtype)> {
        let stored = Expr::Stored(self.index.clone(), tensor.name.clone());
        let modules = self.adapters.as_ref().map(|adapters| &adapters.modules);
        let adapter = modules.and_then(|modules| modules.get(&(l, tensor.role)));
        if let (Some(adapter), 2) = (adapter, tensor.shape.len()) {
            return Ok((Expr::Adapted(Box::new(stored), adapter.clone()), Dtype::F32));
        }
        match self.index.four_bit_state(&tensor.name) {
            Some(_) => Ok((stored, Dtype::F32)),
            None => Ok((stored, self.index.entry(&tensor.name)?.dtype)),
        }
    }
}

/// A stack of layers that is not written, and what it is as a model: each layer l of the model `spec` of `own` as it
/// stands, at place l·(1 + n), and after it for each of the n `parts` p the layer whose every tensor is (1-p)·`own` +
/// p·`other`, computed in f32 and kept so. Embedding, final norm and head are those of `own`.
///
/// Layer-wise linear mode connectivity, Adilova et al., arXiv 2307.06966.
///
/// # Errors
/// Work: a tensor that is not there, shapes that do not go together, numbers in a type that is not computed with.
pub fn between(
    own: &Arc<Checkpoint>,
    spec: &ModelSpec,
    other: &Other,
    parts: &[f64],
) -> Result<(Blueprint, ModelSpec)> {
    let step = 1 + parts.len();
    let layers: Vec<usize> = (0..spec.layers * step).map(|place| place / step).collect();
    let stacked = spec.stacked(&layers);
    let mut draft = Draft::new(own);
    let tables = [spec.embedding_tensor(&own.index), spec.head_tensor(&own.index)].map(str::to_owned);
    for name in tables.into_iter().chain(spec.end_tensors().into_iter().map(|(name, _)| name)) {
        if !draft.has(&name) {
            copy(&mut draft, own, &name, &name)?;
        }
    }
    for (place, &l) in layers.iter().enumerate() {
        let part = (place % step).checked_sub(1).map(|at| parts[at]);
        for (new, old) in stacked.layer_tensors(place).iter().zip(&spec.layer_tensors(l)) {
            let Some(part) = part else {
                copy(&mut draft, own, &new.name, &old.name)?;
                continue;
            };
            let (theirs, dtype) = other.tensor(l, old)?;
            match part == 1.0 {
                true => draft.add(&new.name, dtype, theirs)?,
                false => {
                    let ours = Expr::Source(old.name.clone());
                    draft.add(&new.name, Dtype::F32, Expr::Sum(vec![(1.0 - part, ours), (part, theirs)]))?;
                }
            }
        }
    }
    let config = to_python_json(&own.config).map_err(|error| Error::work(format!("config.json: {error}")))?;
    Ok((draft.finish(config, SHARD)?, stacked))
}

/// Tensor `old` of `own` as `new`, with what lies beside it where it is in four bits.
fn copy(draft: &mut Draft, own: &Checkpoint, new: &str, old: &str) -> Result<()> {
    draft.copy(new, old)?;
    let beside = own.index.tensors.range(old.to_owned()..).map(|(name, _)| name);
    let beside = beside.take_while(|name| name.starts_with(old)).filter(|name| four_bit_owner(name) == Some(old));
    for part in beside {
        draft.copy(&format!("{new}{}", &part[old.len()..]), part)?;
    }
    Ok(())
}
