//! Angular distance of the streams at the two ends of a block.

use super::{Evaluate, Metric, Order, Pair, Subject, Tokens};

pub(super) const LAST: Metric = Metric {
    name: "angular",
    about: "angular distance of the last token, arccos(cos(x^(l), x^(l+n))) / π",
    reference: "Gromov et al., arXiv 2403.17887, eq. 7",
    subject: Subject::Block,
    tokens: Tokens::Last,
    order: Order::Lowest,
    value: Evaluate::Pair(Pair::angle),
    usual: true,
};

pub(super) const ALL: Metric = Metric {
    name: "angular-all",
    about: "angular distance over all tokens",
    reference: "short-transformers, angular_distance_all_tokens",
    subject: Subject::Block,
    tokens: Tokens::All,
    order: Order::Lowest,
    value: Evaluate::Pair(Pair::angle),
    usual: true,
};
