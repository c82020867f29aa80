//! What lies between two models: the loss of one with a layer mixed with the same layer of the other.

use super::{Evaluate, Metric, Mixture, Order, Subject, Tokens};

pub(super) const HALFWAY: Metric = Metric {
    name: "barrier",
    about: "loss with layer l halfway to that of the model --against, less the mean of both models; drops nothing",
    reference: "Adilova et al., Layer-wise linear mode connectivity, arXiv 2307.06966",
    subject: Subject::Layer,
    tokens: Tokens::All,
    order: Order::Lowest,
    value: Evaluate::Mixed(Mixture { part: 0.5, below: false }),
    usual: false,
};

pub(super) const SWAPPED: Metric = Metric {
    name: "barrier-swapped",
    about: "the same with layer l of the model --against in the place of layer l; drops nothing",
    value: Evaluate::Mixed(Mixture { part: 1.0, below: false }),
    ..HALFWAY
};

pub(super) const CUMULATIVE: Metric = Metric {
    name: "barrier-cumulative",
    about: "the same with the layers 0..=l halfway, at last all of them; drops nothing",
    value: Evaluate::Mixed(Mixture { part: 0.5, below: true }),
    ..HALFWAY
};
