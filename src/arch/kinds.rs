//! The switches of a block: which of a few things each family does.

pub use crate::ops::Activation;

/// How a norm is computed. Every one has a weight.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NormKind {
    /// x / rms(x) · w (arXiv 1910.07467).
    Rms,
    /// x / rms(x) · (1 + w), as Gemma stores it.
    RmsPlusOne,
    /// (x - mean(x)) / std(x) · w + b (arXiv 1607.06450).
    LayerNorm,
    /// The same without b (Cohere).
    LayerNormNoBias,
    /// (x - mean(x)) / std(x) · (1 + w) + b, as Nemotron stores it.
    LayerNormPlusOne,
}

impl NormKind {
    /// Whether the mean is taken away.
    #[must_use]
    pub fn centers(self) -> bool {
        matches!(self, Self::LayerNorm | Self::LayerNormNoBias | Self::LayerNormPlusOne)
    }

    /// Whether what is stored is the weight less one.
    #[must_use]
    pub fn plus_one(self) -> bool {
        matches!(self, Self::RmsPlusOne | Self::LayerNormPlusOne)
    }

    /// Whether something is added at the end.
    #[must_use]
    pub fn has_bias(self) -> bool {
        matches!(self, Self::LayerNorm | Self::LayerNormPlusOne)
    }
}

/// Where a residual update is normed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NormPlaces {
    /// What a sub-layer sees: `x + f(norm(x))`.
    Before,
    /// What a sub-layer gives: `x + norm(f(x))` (OLMo 2).
    After,
    /// Both, two norms: `x + norm(f(norm(x)))` (Gemma 2, GLM-4).
    Both,
}

/// Whether attention and MLP both see the stream that enters the block, and their updates are added together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Parallel {
    /// The MLP sees what attention has given.
    Never,
    /// Always, through one norm (Cohere, Phi).
    OneNorm,
    /// Where `use_parallel_residual` (this, when absent) says so, through a norm each (GPT-NeoX).
    NormEach(bool),
}

/// Norms of queries and keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QkNorm {
    /// None.
    None,
    /// Of each head, before it is rotated (Qwen3).
    Heads,
    /// Of each head, after it is rotated (Hunyuan).
    RotatedHeads,
    /// Of all heads of a token together, before they are rotated (OLMo 2).
    Together,
}

/// Numbers besides weights that something is multiplied with, or held below.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Multipliers {
    /// On the embeddings.
    pub embedding: f64,
    /// On each residual update.
    pub residual: f64,
    /// On the products of queries and keys.
    pub scores: f64,
    /// On the logits.
    pub logits: f64,
    /// c of c · tanh(score / c), which scores become before the softmax.
    pub score_cap: Option<f64>,
    /// The same of logits.
    pub logit_cap: Option<f64>,
}

/// Which keys a family has for [`Multipliers`]; without any, scores are multiplied with 1/√e and nothing else is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum MultiplierRule {
    /// None.
    Plain,
    /// `embedding_multiplier`, `residual_multiplier`, `attention_multiplier` and, logits divided by it,
    /// `logits_scaling`; each is 1 where it is absent.
    Granite,
    /// Embeddings times √d. With `query_pre_attn_scalar` (this, when absent) scores are multiplied with one over its
    /// root; caps are `attn_logit_softcapping` and `final_logit_softcapping` (these, when absent).
    Gemma {
        /// Where the family has the key.
        query_pre_attn_scalar: Option<usize>,
        /// Of the scores, and of the logits, where the family has the keys.
        caps: Option<[f64; 2]>,
    },
    /// Logits times `logit_scale` (this, when absent).
    Cohere(f64),
}

impl MultiplierRule {
    /// The keys that are read.
    #[must_use]
    pub fn keys(self) -> &'static [&'static str] {
        match self {
            Self::Plain => &[],
            Self::Granite => &["embedding_multiplier", "residual_multiplier", "attention_multiplier", "logits_scaling"],
            Self::Gemma { caps: None, query_pre_attn_scalar: None } => &[],
            Self::Gemma { caps: None, .. } => &["query_pre_attn_scalar"],
            Self::Gemma { .. } => &["query_pre_attn_scalar", "attn_logit_softcapping", "final_logit_softcapping"],
            Self::Cohere(_) => &["logit_scale"],
        }
    }
}

/// Which layers rotate queries and keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RotationRule {
    /// All.
    All,
    /// Those for which `no_rope_layers` has a one; without that list all but every `no_rope_layer_interval`-th (this).
    Interval(usize),
    /// Those with a sliding window (Cohere 2).
    Sliding,
    /// The same, or all where there is no `sliding_window` (Exaone 4).
    SlidingOrAll,
}

/// Rotations of layers with a sliding window where these are not those of the others: `rope_parameters` by layer type.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SlidingRope {
    /// Key of the base, beside `rope_theta` of the layer type.
    pub key: Option<&'static str>,
    /// The base where nothing says it.
    pub theta: f64,
}
