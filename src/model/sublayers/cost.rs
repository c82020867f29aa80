//! What sub-layers take of memory and time, from the spec alone, and what it comes to for a layer.

use candle_core::Device;

use super::kind;
use crate::arch::{ModelSpec, NormPlaces, SubLayerKind};

/// How a kind says what it takes.
pub(super) type Of = fn(&ModelSpec) -> Cost;
/// The same of training.
pub(super) type OfTraining = fn(&ModelSpec, &Device) -> TrainingCost;

/// What a pass forward takes for each token.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Cost {
    /// Bytes for each token of the pass.
    pub(crate) pass_bytes: u64,
    /// Bytes for each token of those that are worked on at a time.
    pub(crate) chunk_bytes: u64,
    /// Floating point operations in products with weights.
    pub(crate) product_flops: u64,
    /// Floating point operations between tokens, for each token of the sequence.
    pub(crate) mixing_flops: u64,
}

/// What a training pass takes, in bytes for each token.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct TrainingCost {
    /// What is saved for the way back.
    pub(crate) saved: u64,
    /// For each token of the pass, while the way back goes through the chunks of all sub-layers.
    pub(crate) held: u64,
    /// For each token of the pass, while the way back goes through other tokens.
    pub(crate) mixing: u64,
    /// For each token of the chunk on its way back.
    pub(crate) chunk: u64,
}

/// Operations in products with the weights of a sub-layer of this kind: two for each.
pub(super) fn products(spec: &ModelSpec, kind: SubLayerKind) -> u64 {
    let linear = spec.sublayer_roles(kind).into_iter().filter(|role| role.is_linear());
    linear.map(|role| 2 * spec.layer_tensor(0, role).shape.iter().product::<usize>() as u64).sum()
}

/// The kinds of layer `l`.
fn kinds(spec: &ModelSpec, l: usize) -> impl Iterator<Item = SubLayerKind> {
    spec.sublayers(l).into_iter().flat_map(|residual| residual.sum)
}

impl Cost {
    /// Of layer `l`: its sub-layers', and the stream in and out, and normed; and an update where that is normed.
    fn of_layer(spec: &ModelSpec, l: usize) -> Self {
        let streams = if spec.norm_places == NormPlaces::Before { 5 } else { 6 };
        let stream = Self { pass_bytes: 4 * (streams * spec.hidden_size) as u64, ..Self::default() };
        kinds(spec, l).map(|own| (kind(own).cost)(spec)).fold(stream, |sum, own| sum.with(own, |a, b| a + b))
    }

    /// Of any layer, at most.
    pub(crate) fn most(spec: &ModelSpec) -> Self {
        let layers = (0..spec.layers.max(1)).map(|l| Self::of_layer(spec, l));
        layers.fold(Self::default(), |most, own| most.with(own, u64::max))
    }

    fn with(self, other: Self, f: fn(u64, u64) -> u64) -> Self {
        Self {
            pass_bytes: f(self.pass_bytes, other.pass_bytes),
            chunk_bytes: f(self.chunk_bytes, other.chunk_bytes),
            product_flops: f(self.product_flops, other.product_flops),
            mixing_flops: f(self.mixing_flops, other.mixing_flops),
        }
    }
}

/// Floating point operations of a layer, the mean of all: for each token in products with weights, and between tokens
/// for each token and each token of its sequence.
#[must_use]
pub(crate) fn mean_flops(spec: &ModelSpec) -> (f64, f64) {
    let layers = spec.layers.max(1);
    let all = (0..layers).map(|l| Cost::of_layer(spec, l));
    let (products, mixing) = all.fold((0.0, 0.0), |(products, mixing), own| {
        (products + own.product_flops as f64, mixing + own.mixing_flops as f64)
    });
    (products / layers as f64, mixing / layers as f64)
}

impl TrainingCost {
    /// Of layer `l`: what its sub-layers save and hold together, and the dearest chunk.
    fn of_layer(spec: &ModelSpec, l: usize, device: &Device) -> Self {
        // the stream between two residuals is saved as well
        let between = spec.sublayers(l).len().saturating_sub(1);
        let stream = Self { saved: 4 * (between * spec.hidden_size) as u64, ..Self::default() };
        let own = kinds(spec, l).map(|own| (kind(own).training_cost)(spec, device));
        let sum = own.fold(stream, |sum, own| sum.with(own, |a, b| a + b));
        // a norm behind a sub-layer asks for the update again, and gives its gradient
        let again = if spec.norm_places == NormPlaces::Before { 0 } else { 8 * spec.hidden_size as u64 };
        Self { chunk: sum.chunk + again, ..sum }
    }

    /// Of any layer, at most.
    pub(crate) fn most(spec: &ModelSpec, device: &Device) -> Self {
        let layers = (0..spec.layers.max(1)).map(|l| Self::of_layer(spec, l, device));
        layers.fold(Self::default(), |most, own| most.with(own, u64::max))
    }

    /// Sub-layers have their chunks in turn.
    fn with(self, other: Self, f: fn(u64, u64) -> u64) -> Self {
        Self {
            saved: f(self.saved, other.saved),
            held: f(self.held, other.held),
            mixing: f(self.mixing, other.mixing),
            chunk: self.chunk.max(other.chunk),
        }
    }
}
