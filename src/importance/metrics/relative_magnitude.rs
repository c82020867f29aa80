//! How far a layer moves the stream, against the length of what leaves or enters it.

use super::{Evaluate, Metric, Order, Pair, Subject, Tokens};

pub(super) const OF_LEAVING: Metric = Metric {
    name: "relative-magnitude",
    about: "relative magnitude over all tokens, ‖x^(l+1) - x^(l)‖ / ‖x^(l+1)‖; drops single layers",
    reference: "Samragh et al., arXiv 2312.09299; short-transformers, relative_magnitude",
    subject: Subject::Layer,
    tokens: Tokens::All,
    order: Order::Lowest,
    value: Evaluate::Pair(Pair::relative_step),
    usual: true,
};

pub(super) const OF_ENTERING: Metric = Metric {
    name: "relative-growth",
    about: "relative magnitude over all tokens, ‖x^(l+1) - x^(l)‖ / ‖x^(l)‖; drops single layers",
    reference: "XMerge, arXiv 2609.02083, RM",
    subject: Subject::Layer,
    tokens: Tokens::All,
    order: Order::Lowest,
    value: Evaluate::Pair(Pair::growth),
    usual: false,
};
