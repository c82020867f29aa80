//! What could be said at each depth already: the loss of the stream seen through final norm and head.

use super::{Evaluate, Metric, Order, Subject, Tokens};

pub(super) const LOSS: Metric = Metric {
    name: "logit-lens",
    about: "loss of what final norm and head make of x^(l), l = 0 ..= L; says where answers form, drops nothing",
    reference: "logit lens, nostalgebraist 2020",
    subject: Subject::Depth,
    tokens: Tokens::All,
    order: Order::Lowest,
    value: Evaluate::Lens,
    usual: false,
};
