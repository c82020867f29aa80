//! What a pass forward needs besides the stream.

use std::sync::Arc;

use candle_core::{Device, Tensor};

use super::Batch;
use crate::Result;
use crate::arch::ModelSpec;
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
}

impl ForwardContext {
    /// Prepares `batch` for every layer of the model.
    ///
    /// # Errors
    /// The device's.
    pub fn new(spec: &ModelSpec, batch: &Batch, device: &Device) -> Result<Self> {
        let (mut cos, mut sin) = (Vec::new(), Vec::new());
        // A stretch for long contexts looks at the length of the sequence, never at its neighbours in the pass.
        for (segment, longest) in batch.layout.segments().iter().zip(batch.layout.longest_of_each()) {
            let positions: Vec<u32> = (segment.position..segment.position + segment.len).map(|p| p as u32).collect();
            let (segment_cos, segment_sin) = spec.rope.tables(&positions, longest);
            cos.extend(segment_cos);
            sin.extend(segment_sin);
        }
        let shape = (batch.tokens(), spec.rope.rotary_dim / 2);
        Ok(Self {
            layout: batch.layout.clone(),
            cos: Tensor::from_vec(cos, shape, device)?,
            sin: Tensor::from_vec(sin, shape, device)?,
        })
    }
}
