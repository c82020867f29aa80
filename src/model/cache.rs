//! Keys and values of a sequence's tokens so far, so that the next token runs alone.
//!
//! What comes out is what a pass over the whole sequence gives. Where the rotations depend on the length of the
//! sequence (dynamic scaling beyond the trained context, LongRoPE when it is crossed), keys of old are no longer what
//! such a pass has, and the sequence is run again; transformers keeps the old ones.

use candle_core::{DType, Tensor};

use super::{Batch, ForwardContext, Model, PASS_TOKENS};
use crate::arch::ModelSpec;
use crate::ops::{self, FiniteWatch, Heads};
use crate::{Error, Result, interrupt};

/// The sequence so far, and what each layer remembers of it.
#[derive(Debug)]
pub struct Cache {
    ids: Vec<u32>,
    capacity: usize,
    layers: Vec<LayerCache>,
}

/// Keys and values of one layer.
#[derive(Debug)]
pub(super) struct LayerCache {
    /// `[capacity, k·e]`, of which the first `len` rows count.
    keys: Tensor,
    /// `[capacity, k·e]`.
    values: Tensor,
    len: usize,
}

impl LayerCache {
    /// Takes in the keys and values `[t, k·e]` of the tokens that follow, and attends with their queries `[t, h·e]`.
    pub(super) fn attend(&mut self, q: &Tensor, k: &Tensor, v: &Tensor, heads: &Heads) -> Result<Tensor> {
        let len = self.len + k.dim(0)?;
        let kept = |x: &Tensor| x.to_dtype(self.keys.dtype())?.contiguous();
        self.keys.slice_set(&kept(k)?, 0, self.len)?;
        self.values.slice_set(&kept(v)?, 0, self.len)?;
        self.len = len;
        ops::attention_over(q, &self.keys.narrow(0, 0, len)?, &self.values.narrow(0, 0, len)?, heads)
    }
}

impl Cache {
    /// Room for a sequence of `capacity` tokens of `model`.
    ///
    /// # Errors
    /// The device's.
    pub fn new(model: &Model, capacity: usize) -> Result<Self> {
        let spec = model.spec();
        let layers = (0..model.layers()).map(|place| {
            let tokens = if spec.has_attention(model.stack.source_layer(place)) { capacity } else { 0 };
            let shape = (tokens, spec.kv_heads * spec.head_dim);
            let zeros = || Tensor::zeros(shape, DType::F32, model.device());
            Ok(LayerCache { keys: zeros()?, values: zeros()?, len: 0 })
        });
        Ok(Self { ids: Vec::new(), capacity, layers: layers.collect::<Result<_>>()? })
    }

    /// Bytes of a cache for `capacity` tokens; layers without attention keep none.
    #[must_use]
    pub fn bytes(spec: &ModelSpec, capacity: usize) -> u64 {
        let layers = (0..spec.layers).filter(|l| spec.has_attention(*l)).count();
        let sizes = [layers, capacity, spec.kv_heads, spec.head_dim];
        sizes.into_iter().fold(2 * 4, |bytes: u64, size| bytes.saturating_mul(size as u64))
    }

    /// The tokens of the sequence so far.
    #[must_use]
    pub fn ids(&self) -> &[u32] {
        &self.ids
    }
}

impl Model {
    /// Appends `ids` to the sequence of `cache`: the residual streams `[t, d]` of the new tokens that leave the last
    /// layer, before the final norm. After an error the cache is of no more use.
    ///
    /// # Errors
    /// No tokens, more than there is room for, a token id outside the vocabulary, a weight that cannot be read, a
    /// non-finite residual stream. Interrupted.
    pub fn extend(&self, cache: &mut Cache, ids: &[u32]) -> Result<Tensor> {
        let (known, longest) = (cache.ids.len(), cache.ids.len() + ids.len());
        if ids.is_empty() || longest > cache.capacity {
            let room = cache.capacity - known;
            return Err(Error::work(format!("{} tokens to append, there is room for {room}", ids.len())));
        }
        let rope = &self.spec.rope;
        let stale = known > 0 && rope.inverse_frequencies(known) != rope.inverse_frequencies(longest);
        let first = if stale { 0 } else { known };
        let run = [&cache.ids[first..], ids].concat();
        let mut states = Vec::new();
        for (index, part) in run.chunks(PASS_TOKENS).enumerate() {
            let position = first + index * PASS_TOKENS;
            let x = self.embed(&Batch::sequences(&[part])?)?;
            let mut watch = FiniteWatch::new(self.layers() + 1, &self.device)?;
            self.look(&mut watch, 0, &x, &|token| format!("token {} (from 0)", position + token))?;
            let pass = ForwardContext::after(&self.spec, position, part.len(), longest, &self.device)?;
            states.push((x, pass, watch, position));
        }
        self.stack.walk(|place, block| {
            let past = &mut cache.layers[place];
            past.len = first;
            for (x, pass, watch, position) in &mut states {
                interrupt::check()?;
                *x = block.extend(x, pass, past)?;
                self.look(watch, place + 1, x, &|token| format!("token {} (from 0)", *position + token))?;
            }
            Ok(())
        })?;
        cache.ids.extend(ids);
        let parts: Vec<Tensor> = states.into_iter().map(|(x, ..)| x).collect();
        let x = if let [x] = &parts[..] { x.clone() } else { Tensor::cat(&parts, 0)? };
        Ok(x.narrow(0, run.len() - ids.len(), ids.len())?)
    }
}
