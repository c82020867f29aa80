//! Gradients to a factor α before each update of the stream, x + α f(x), at α = 1: what removing it costs to first
//! order, and the empirical Fisher matrix. Layers are their two sub-layers together.

use super::{Evaluate, Metric, Order, Subject, Tokens};

pub(super) const LAYERS: Metric = Metric {
    name: "gate",
    about: "what the loss is said to rise by without the layer, to first order: -dL/dα; drops single layers",
    reference: "first-order term of Jansen et al., arXiv 2602.00161",
    subject: Subject::Layer,
    tokens: Tokens::All,
    order: Order::Lowest,
    value: Evaluate::Gates(|a| -a),
    usual: false,
};

pub(super) const SUBLAYERS: Metric = Metric {
    name: "gate-sublayers",
    about: "the same of attention and MLP of each layer",
    subject: Subject::SubLayer,
    ..LAYERS
};

pub(super) const FISHER_OF_LAYERS: Metric = Metric {
    name: "gate-fisher",
    about: "diagonal Fisher information of the factors, mean of (dL/dα)²; drops single layers",
    reference: "diagonal of Jansen et al., arXiv 2602.00161",
    value: Evaluate::Gates(|a| a * a),
    ..LAYERS
};

pub(super) const FISHER_OF_SUBLAYERS: Metric = Metric {
    name: "gate-fisher-sublayers",
    about: "the same of attention and MLP of each layer",
    subject: Subject::SubLayer,
    ..FISHER_OF_LAYERS
};

/// The matrix by its diagonals: that of n holds the entries of l and l+n-1.
pub(super) const FISHER_OF_LAYER_PAIRS: Metric = Metric {
    name: "gate-fisher-pairs",
    about: "Fisher matrix of the factors, mean of (dL/dα)(dL/dβ) for each two layers; no plan follows it",
    reference: "Jansen et al., arXiv 2602.00161",
    subject: Subject::LayerPair,
    value: Evaluate::GatePairs,
    ..LAYERS
};

pub(super) const FISHER_OF_SUBLAYER_PAIRS: Metric = Metric {
    name: "gate-fisher-sublayer-pairs",
    about: "the same of each two attentions or MLPs",
    subject: Subject::SubLayerPair,
    ..FISHER_OF_LAYER_PAIRS
};
