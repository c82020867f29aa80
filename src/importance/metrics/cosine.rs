//! Cosine similarity of the streams at the two ends of a block, and block influence, which is one less that of a layer.

use super::{Evaluate, Metric, Order, Pair, Subject, Tokens};

pub(super) const COSINE: Metric = Metric {
    name: "cosine",
    about: "cosine similarity over all tokens, cos(x^(l), x^(l+n))",
    reference: "LLM-Streamline, arXiv 2403.19135",
    subject: Subject::Block,
    tokens: Tokens::All,
    order: Order::Highest,
    value: Evaluate::Pair(Pair::cosine),
    usual: true,
};

pub(super) const BLOCK_INFLUENCE: Metric = Metric {
    name: "block-influence",
    about: "block influence over all tokens, 1 - cos(x^(l), x^(l+1)); drops single layers",
    reference: "ShortGPT, arXiv 2403.03853",
    subject: Subject::Layer,
    tokens: Tokens::All,
    order: Order::Lowest,
    value: Evaluate::Pair(|pair| 1.0 - pair.cosine()),
    usual: true,
};

pub(super) const CHANNELS: Metric = Metric {
    name: "channel-cosine",
    about: "cosine similarity of each channel over the tokens of a sample, mean over channels and samples",
    reference: "LinearPatch, arXiv 2505.24680, and Prune&Comp, arXiv 2507.18212: cosine_similarity along the sequence",
    value: Evaluate::Channels(Pair::cosine),
    usual: false,
    ..COSINE
};
