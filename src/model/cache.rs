//! Keys and values of sequences' tokens so far, so that the next token runs alone.
//!
//! What comes out is what a pass over the whole sequence gives. Where the rotations depend on the length of the
//! sequence (dynamic scaling beyond the trained context, LongRoPE when it is crossed), keys of old are no longer what
//! such a pass has, and the sequence is run again; transformers keeps the old ones.

use std::sync::Arc;

use candle_core::{DType, Tensor};

use super::{Batch, ForwardContext, Model, PASS_TOKENS};
use crate::arch::{ModelSpec, Rope};
use crate::ops::{self, FiniteWatch, Heads, Layout};
use crate::{Error, Result, interrupt};

/// The sequence so far, and what each layer remembers of it.
#[derive(Debug)]
pub struct Cache {
    ids: Vec<u32>,
    capacity: usize,
    /// What it begins with, where other sequences begin so too: keys and values of that are there once.
    begun: Option<Arc<Cache>>,
    /// Of what comes after it.
    layers: Vec<KeysAndValues>,
}

/// What one layer remembers of a sequence. A clone has the same memory.
#[derive(Clone, Debug)]
struct KeysAndValues {
    /// `[capacity, k·e]`, of which the first `len` rows count.
    keys: Tensor,
    /// `[capacity, k·e]`.
    values: Tensor,
    len: usize,
}

impl KeysAndValues {
    fn take_in(&mut self, k: &Tensor, v: &Tensor) -> Result<()> {
        let len = self.len + k.dim(0)?;
        let kept = |x: &Tensor| x.to_dtype(self.keys.dtype())?.contiguous();
        self.keys.slice_set(&kept(k)?, 0, self.len)?;
        self.values.slice_set(&kept(v)?, 0, self.len)?;
        self.len = len;
        Ok(())
    }

    /// Of all tokens so far.
    fn all(&self) -> Result<(Tensor, Tensor)> {
        Ok((self.keys.narrow(0, 0, self.len)?, self.values.narrow(0, 0, self.len)?))
    }
}

/// What one layer remembers of the sequences in a pass.
#[derive(Debug)]
pub(super) struct LayerCache(Vec<Remembered>);

/// What it remembers of one.
#[derive(Debug)]
struct Remembered {
    own: KeysAndValues,
    /// Tokens of the pass.
    len: usize,
    /// What the sequence begins with, where others do: whose that is, and what is remembered of it.
    begun: Option<(usize, KeysAndValues)>,
}

impl Remembered {
    fn begins_as(&self) -> Option<usize> {
        self.begun.as_ref().map(|(whose, _)| *whose)
    }
}

impl LayerCache {
    /// Takes in the keys and values `[t, k·e]` of the tokens that follow, sequence after sequence, and attends with
    /// their queries `[t, h·e]`.
    pub(super) fn attend(&mut self, q: &Tensor, k: &Tensor, v: &Tensor, heads: &Heads) -> Result<Tensor> {
        let mut row = 0;
        for Remembered { own, len, .. } in &mut self.0 {
            own.take_in(&k.narrow(0, row, *len)?, &v.narrow(0, row, *len)?)?;
            row += *len;
        }
        row = 0;
        let mut attended = Vec::new();
        for alike in self.0.chunk_by(|a, b| a.begins_as().is_some() && a.begins_as() == b.begins_as()) {
            let q = q.narrow(0, row, alike.iter().map(|one| one.len).sum())?;
            row += q.dim(0)?;
            let own = alike.iter().map(|one| one.own.all().map(|(k, v)| (one.len, k, v)));
            let own = own.collect::<Result<Vec<_>>>()?;
            attended.push(match (&alike[0].begun, &own[0]) {
                (Some((_, begun)), _) => {
                    let (k, v) = begun.all()?;
                    ops::attention_of_begun(&q, (&k, &v), &own, heads)?
                }
                (None, (_, k, v)) => ops::attention_over(&q, k, v, heads)?,
            });
        }
        together(attended)
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
            Ok(KeysAndValues { keys: zeros()?, values: zeros()?, len: 0 })
        });
        Ok(Self { ids: Vec::new(), capacity, begun: None, layers: layers.collect::<Result<_>>()? })
    }

    /// A sequence that begins as `begun` does, with room for `capacity` tokens in all. What it begins with is not there
    /// twice, unless numbers of it hang on what follows, or a layer comes not to see it: then it is copied.
    ///
    /// # Errors
    /// The device's.
    pub(super) fn after(begun: &Arc<Self>, model: &Model, capacity: usize) -> Result<Self> {
        let (spec, known) = (model.spec(), begun.ids.len());
        let changes = |rope: &Rope| rope.inverse_frequencies(known) != rope.inverse_frequencies(capacity);
        let is_whole = spec.windows.iter().flatten().all(|window| *window >= capacity);
        let is_same = !changes(&spec.rope) && !spec.sliding_rope.as_ref().is_some_and(changes);
        if known == 0 || !is_whole || !is_same || !model.device().is_cpu() || begun.begun.is_some() {
            return begun.with_room(model, capacity);
        }
        let new = Self::new(model, capacity.saturating_sub(known))?;
        Ok(Self { ids: begun.ids.clone(), capacity, begun: Some(begun.clone()), ..new })
    }

    /// What the layer at place `place` remembers, in a pass of `len` tokens.
    fn remembered(&self, place: usize, len: usize) -> Remembered {
        let begun = self.begun.as_ref();
        let begun = begun.map(|begun| (Arc::as_ptr(begun) as usize, begun.layers[place].clone()));
        Remembered { own: self.layers[place].clone(), len, begun }
    }

    /// Tokens that are another's.
    fn begun_at(&self) -> usize {
        self.begun.as_ref().map_or(0, |begun| begun.ids.len())
    }

    /// The same sequence with room for `capacity` tokens, in memory of its own.
    fn with_room(&self, model: &Model, capacity: usize) -> Result<Self> {
        let mut new = Self::new(model, capacity)?;
        for (layer, known) in new.layers.iter_mut().zip(&self.layers).filter(|(_, known)| known.len > 0) {
            layer.keys.slice_set(&known.keys.narrow(0, 0, known.len)?.contiguous()?, 0, 0)?;
            layer.values.slice_set(&known.values.narrow(0, 0, known.len)?.contiguous()?, 0, 0)?;
            layer.len = known.len;
        }
        new.ids.clone_from(&self.ids);
        Ok(new)
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

    /// How many tokens stand once `ids` are appended, and how many of the first of those need not be run.
    fn grown(&self, ids: &[u32], spec: &ModelSpec) -> Result<Run> {
        let (known, longest) = (self.ids.len(), self.ids.len() + ids.len());
        if ids.is_empty() || longest > self.capacity {
            let room = self.capacity - known;
            return Err(Error::work(format!("{} tokens to append, there is room for {room}", ids.len())));
        }
        let changes = |rope: &Rope| rope.inverse_frequencies(known) != rope.inverse_frequencies(longest);
        let stale = known > 0 && (changes(&spec.rope) || spec.sliding_rope.as_ref().is_some_and(changes));
        let first = if stale { 0 } else { known };
        Ok(Run { first, longest, ids: [&self.ids[first..], ids].concat() })
    }
}

/// Tokens of a sequence that are run: those from `first` on, of `longest`.
struct Run {
    first: usize,
    longest: usize,
    ids: Vec<u32>,
}

/// Some of a sequence's tokens in a pass.
struct Part {
    sequence: usize,
    /// The first one's position.
    position: usize,
    len: usize,
}

/// Parts of sequences that go through a layer together.
struct Pass {
    parts: Vec<Part>,
    x: Tensor,
    context: ForwardContext,
    watch: FiniteWatch,
}

impl Pass {
    fn new(model: &Model, runs: &[Run], parts: Vec<Part>) -> Result<Self> {
        let spec = &model.spec;
        let (mut positions, mut ids) = (Vec::new(), Vec::new());
        for Part { sequence, position, len } in &parts {
            let run = &runs[*sequence];
            positions.push((*position..position + len, run.longest));
            ids.push(&run.ids[position - run.first..position - run.first + len]);
        }
        let layout = Arc::new(Layout::sequences(parts.iter().map(|part| part.len))?);
        let context = ForwardContext::of(spec, layout, &positions, &model.device)?;
        let (x, watch) = (model.embed(&Batch::sequences(&ids)?)?, FiniteWatch::new(model.layers() + 1, &model.device)?);
        let mut pass = Self { parts, x, context, watch };
        pass.look(model, 0)?;
        Ok(pass)
    }

    /// Watches the stream that enters place `place`.
    fn look(&mut self, model: &Model, place: usize) -> Result<()> {
        let Self { parts, x, watch, .. } = self;
        let named = |token: usize| {
            let mut before = 0;
            let part = parts.iter().find(|part| {
                before += part.len;
                token < before
            });
            let position = part.map_or(token, |part| part.position + token + part.len - before);
            format!("token {position} (from 0)")
        };
        model.look(watch, place, x, &named)
    }
}

/// Tensors of `[t, ...]` one below the other.
fn together(parts: Vec<Tensor>) -> Result<Tensor> {
    Ok(if let [x] = &parts[..] { x.clone() } else { Tensor::cat(&parts, 0)? })
}

impl Model {
    /// Appends `ids` to the sequence of `cache`: the residual streams `[t, d]` of the new tokens that leave the last
    /// layer, before the final norm. After an error the cache is of no more use.
    ///
    /// # Errors
    /// No tokens, more than there is room for, a token id outside the vocabulary, a weight that cannot be read, a
    /// non-finite residual stream. Interrupted.
    pub fn extend(&self, cache: &mut Cache, ids: &[u32]) -> Result<Tensor> {
        together(self.extend_each(&mut [cache], &[ids], false)?)
    }

    /// The same for several sequences, whose tokens go through a layer together: each one's streams. With `alike` they
    /// are the same, on a CPU, whichever others there are.
    ///
    /// # Errors
    /// As [`Model::extend`].
    pub(crate) fn extend_each(&self, caches: &mut [&mut Cache], ids: &[&[u32]], alike: bool) -> Result<Vec<Tensor>> {
        let runs = caches.iter().zip(ids).map(|(cache, ids)| cache.grown(ids, &self.spec));
        let runs: Vec<Run> = runs.collect::<Result<_>>()?;
        let mut passes = self.passes(&runs, alike && self.device.is_cpu())?;
        self.stack.walk(|place, block| {
            for (cache, run) in caches.iter_mut().zip(&runs) {
                cache.layers[place].len = run.first - cache.begun_at();
            }
            for pass in &mut passes {
                interrupt::check()?;
                let known = |part: &Part| caches[part.sequence].remembered(place, part.len);
                let mut layer = LayerCache(pass.parts.iter().map(known).collect());
                pass.x = block.extend(&pass.x, &pass.context, &mut layer)?;
                for (part, known) in pass.parts.iter().zip(layer.0) {
                    caches[part.sequence].layers[place] = known.own;
                }
                pass.look(self, place + 1)?;
            }
            Ok(())
        })?;
        let mut streams: Vec<Vec<Tensor>> = runs.iter().map(|_| Vec::new()).collect();
        for pass in passes {
            let mut row = 0;
            for part in &pass.parts {
                streams[part.sequence].push(pass.x.narrow(0, row, part.len)?);
                row += part.len;
            }
        }
        let all = streams.into_iter().zip(&runs).zip(caches.iter_mut().zip(ids));
        let new = all.map(|((streams, run), (cache, ids))| {
            cache.ids.extend(*ids);
            Ok(together(streams)?.narrow(0, run.ids.len() - ids.len(), ids.len())?)
        });
        new.collect()
    }

    /// Rows that are each multiplied by itself.
    pub(super) const ALIKE: usize = ops::ROWS_ALIKE;

    /// The runs in pieces, as many as fit together into a pass. A sequence has one at most in each. `alike`, several
    /// tokens of a sequence have a pass of their own, and single ones are together no more than [`Model::ALIKE`].
    fn passes(&self, runs: &[Run], alike: bool) -> Result<Vec<Pass>> {
        let (mut passes, mut parts, mut tokens) = (Vec::new(), Vec::<Part>::new(), 0);
        let apart = |parts: &[Part], piece: &[u32]| {
            alike && (piece.len() > 1 || parts.iter().any(|part| part.len > 1) || parts.len() == Self::ALIKE)
        };
        for (sequence, run) in runs.iter().enumerate() {
            for (index, piece) in run.ids.chunks(PASS_TOKENS).enumerate() {
                if !parts.is_empty() && (index > 0 || tokens + piece.len() > PASS_TOKENS || apart(&parts, piece)) {
                    passes.push(Pass::new(self, runs, std::mem::take(&mut parts))?);
                    tokens = 0;
                }
                parts.push(Part { sequence, position: run.first + index * PASS_TOKENS, len: piece.len() });
                tokens += piece.len();
            }
        }
        passes.push(Pass::new(self, runs, parts)?);
        Ok(passes)
    }
}
