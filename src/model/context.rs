//! What a pass forward needs besides the stream.

use std::ops::Range;
use std::sync::Arc;

use candle_core::{Device, Tensor};

use super::Batch;
use crate::Result;
use crate::arch::{ModelSpec, Rope};
use crate::ops::Layout;

/// What a pass needs at every layer: who sees whom, and the rotations of its positions.
#[derive(Clone, Debug)]
pub struct ForwardContext {
    /// The segment tree.
    pub layout: Arc<Layout>,
    /// Cosines, `[t, rotary_dim / 2]`.
    pub cos: Tensor,
    /// Sines, `[t, rotary_dim / 2]`.
    pub sin: Tensor,
    /// Both for layers with a sliding window, where their angles are others.
    pub sliding: Option<(Tensor, Tensor)>,
}

impl ForwardContext {
    /// Prepares `batch` for every layer of the model.
    ///
    /// # Errors
    /// The device's.
    pub fn new(spec: &ModelSpec, batch: &Batch, device: &Device) -> Result<Self> {
        // A stretch for long contexts looks at the length of the sequence, never at its neighbours in the pass.
        let segments = batch.layout.segments().iter().zip(batch.layout.longest_of_each());
        let parts = segments.map(|(segment, longest)| (segment.position..segment.position + segment.len, longest));
        Self::of(spec, batch.layout.clone(), &parts.collect::<Vec<_>>(), device)
    }

    /// The same for the positions of parts of sequences, each with the length of its sequence.
    ///
    /// # Errors
    /// The device's.
    pub(super) fn of(
        spec: &ModelSpec,
        layout: Arc<Layout>,
        parts: &[(Range<usize>, usize)],
        device: &Device,
    ) -> Result<Self> {
        let tables = |rope: &Rope| {
            let (mut cos, mut sin) = (Vec::new(), Vec::new());
            for (positions, longest) in parts {
                let positions: Vec<u32> = positions.clone().map(|position| position as u32).collect();
                let (own_cos, own_sin) = rope.tables(&positions, *longest);
                cos.extend(own_cos);
                sin.extend(own_sin);
            }
            let shape = (layout.tokens(), rope.rotary_dim / 2);
            Ok::<_, crate::Error>((Tensor::from_vec(cos, shape, device)?, Tensor::from_vec(sin, shape, device)?))
        };
        let (cos, sin) = tables(&spec.rope)?;
        let sliding = spec.sliding_rope.as_ref().map(tables).transpose()?;
        Ok(Self { layout, cos, sin, sliding })
    }

    /// Cosines and sines of layers with a sliding window, or of the others.
    pub(super) fn rotations(&self, sliding: bool) -> (&Tensor, &Tensor) {
        match &self.sliding {
            Some((cos, sin)) if sliding => (cos, sin),
            _ => (&self.cos, &self.sin),
        }
    }
}
