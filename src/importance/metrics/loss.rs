//! What the loss rises by without some layers.

use super::{Evaluate, Metric, Order, Subject, Tokens};

pub(super) const BLOCKS: Metric = Metric {
    name: "loss",
    about: "what the loss rises by without the layers l..=l+n-1, for every block; exact, and dear",
    reference: "every candidate of Gromov et al. measured by what it costs",
    subject: Subject::Block,
    tokens: Tokens::All,
    order: Order::Lowest,
    value: Evaluate::Loss,
    usual: false,
};

pub(super) const LAYERS: Metric = Metric {
    name: "layer-loss",
    about: "what the loss rises by without layer l alone; drops single layers",
    reference: "Shortened LLaMA, arXiv 2402.02834 (PPL), before retraining; first step of SLEB, arXiv 2402.09025",
    subject: Subject::Layer,
    tokens: Tokens::All,
    order: Order::Lowest,
    value: Evaluate::Loss,
    usual: false,
};

pub(super) const SUBLAYERS: Metric = Metric {
    name: "sublayer-loss",
    about: "what the loss rises by without one attention or MLP alone",
    reference: "first step of FinerCut, arXiv 2405.18218, by the loss",
    subject: Subject::SubLayer,
    ..LAYERS
};
