//! What the loss would change by without each weight, to first order.

use super::{Evaluate, Metric, Needs, Order, Subject, Tokens, of_weights};

pub(super) const TAYLOR: Metric = Metric {
    name: "taylor",
    about: "sum of |w·dL/dw| over the weights of the layer, norms among them; drops single layers",
    reference: "Shortened LLaMA, arXiv 2402.02834 (Taylor)",
    subject: Subject::Layer,
    tokens: Tokens::All,
    order: Order::Lowest,
    value: Evaluate::Weights(Needs::Gradients, |model| of_weights::sums(model, |w, gradient| (w * gradient).abs())),
    usual: false,
};
