//! How large the gradients of a layer are.

use super::{Evaluate, Metric, Needs, Order, Subject, Tokens, of_weights};

pub(super) const GRADIENT: Metric = Metric {
    name: "gradient",
    about: "sum of |dL/dw| over the weights of the layer, norms among them; drops single layers",
    reference: "what Taylor scores weigh with",
    subject: Subject::Layer,
    tokens: Tokens::All,
    order: Order::Lowest,
    value: Evaluate::Weights(Needs::Gradients, |model| of_weights::sums(model, |_, gradient| gradient.abs())),
    usual: false,
};
