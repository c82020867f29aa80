//! How large the weights of a layer are.

use super::{Evaluate, Metric, Needs, Order, Subject, Tokens, of_weights};

pub(super) const MAGNITUDE: Metric = Metric {
    name: "magnitude",
    about: "sum of |w| over the weights of the layer, norms among them; needs no text; drops single layers",
    reference: "Shortened LLaMA, arXiv 2402.02834 (Mag)",
    subject: Subject::Layer,
    tokens: Tokens::All,
    order: Order::Lowest,
    value: Evaluate::Weights(Needs::Nothing, |model| of_weights::sums(model, |w, _| w.abs())),
    usual: false,
};
