//! Everything a block needs to know about a model, whatever its family.

use super::Role;
use super::experts::Experts;
use super::kinds::{Activation, Multipliers, NormKind, NormPlaces, QkNorm};
use super::latent::Latent;
use crate::plan::SubLayers;

/// How the base frequencies are stretched for long contexts.
#[derive(Clone, Debug, PartialEq)]
pub enum RopeScaling {
    /// As trained.
    None,
    /// All frequencies divided by `factor`.
    Linear {
        /// Stretch.
        factor: f64,
    },
    /// NTK-aware base change once a sequence is longer than the trained context.
    Dynamic {
        /// Stretch.
        factor: f64,
    },
    /// Llama 3.1's frequency bands.
    Llama3 {
        /// Stretch of the low frequencies.
        factor: f64,
        /// Below this many wavelengths in the trained context: stretched.
        low_freq_factor: f64,
        /// Above this many: untouched.
        high_freq_factor: f64,
        /// Trained context.
        original_max_positions: usize,
    },
    /// YaRN (arXiv 2309.00071): a ramp between stretched and untouched, and a factor on cosine and sine.
    Yarn {
        /// Stretch.
        factor: f64,
        /// Ramp start, in rotations.
        beta_fast: f64,
        /// Ramp end, in rotations.
        beta_slow: f64,
        /// Factor on cosine and sine.
        attention_factor: f64,
        /// Trained context.
        original_max_positions: usize,
        /// Whether the ramp's ends are rounded to whole dimensions.
        truncate: bool,
    },
    /// LongRoPE (Phi-3 `su`/`longrope`): one divisor per frequency, another set beyond the trained context.
    LongRope {
        /// Divisors within the trained context, `[rotary_dim / 2]`.
        short: Vec<f64>,
        /// Divisors beyond it, `[rotary_dim / 2]`.
        long: Vec<f64>,
        /// Factor on cosine and sine.
        attention_factor: f64,
        /// Trained context.
        original_max_positions: usize,
    },
}

/// Rotary position embedding.
#[derive(Clone, Debug, PartialEq)]
pub struct Rope {
    /// Base of the frequencies.
    pub theta: f64,
    /// Rotated dimensions of each head, the first ones; `e` unless the config has a partial rotary factor.
    pub rotary_dim: usize,
    /// Whether an angle turns numbers 2j and 2j+1 of a head, and not j and j + half of those rotated.
    pub interleaved: bool,
    /// Stretch for long contexts.
    pub scaling: RopeScaling,
    /// Context the config promises (`max_position_embeddings`); dynamic scaling starts beyond it.
    pub max_positions: usize,
}

/// A linear map behind a layer: the stream x that leaves it becomes x + x·M, M `[d, d]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SeamMap {
    /// Mᵀ in one tensor, `[d, d]`.
    Full,
    /// M in two: to so many numbers, `[r, d]`, and back, `[d, r]`.
    Rank(usize),
}

/// One model, ready for the one block implementation.
#[derive(Clone, Debug, PartialEq)]
pub struct ModelSpec {
    /// `model_type` of the config.
    pub model_type: String,
    /// Decoder blocks, `l`.
    pub layers: usize,
    /// Layers numbered on behind them that predict tokens beyond the next; nothing here reads them, and a checkpoint
    /// may lack them (GLM-4.5).
    pub layers_beyond: usize,
    /// `d`.
    pub hidden_size: usize,
    /// `f`, of layers without experts.
    pub mlp_size: usize,
    /// `h`.
    pub heads: usize,
    /// `k`.
    pub kv_heads: usize,
    /// `e`; with latent attention what its heads are computed with.
    pub head_dim: usize,
    /// `v`.
    pub vocab_size: usize,
    /// Longest sequence the config promises.
    pub max_positions: usize,
    /// Epsilon of every norm.
    pub norm_eps: f64,
    /// Positions.
    pub rope: Rope,
    /// Positions of layers with a sliding window, where those are others (Gemma 3).
    pub sliding_rope: Option<Rope>,
    /// Sliding window of each layer: a token sees itself and the window-1 tokens before it. `None` sees all.
    pub windows: Vec<Option<usize>>,
    /// Whether each layer rotates its queries and keys; one that does not knows no positions (SmolLM3).
    pub rotated: Vec<bool>,
    /// The sub-layers that each layer lacks.
    pub without: Vec<SubLayers>,
    /// The map behind each layer, which `prune cut --repair` puts there.
    pub seam_maps: Vec<Option<SeamMap>>,
    /// Bias on query, key and value projections.
    pub qkv_bias: bool,
    /// Bias on the attention output projection.
    pub o_bias: bool,
    /// Bias on the MLP projections.
    pub mlp_bias: bool,
    /// How norms are computed.
    pub norm: NormKind,
    /// Where residual updates are normed.
    pub norm_places: NormPlaces,
    /// Whether attention and MLP both see the stream that enters the block, and their updates are added together.
    pub parallel: bool,
    /// Whether they see it through a norm each, where they do.
    pub norm_each: bool,
    /// Norms of queries and keys.
    pub qk_norm: QkNorm,
    /// The widths of latent attention, where attention is that.
    pub latent: Option<Latent>,
    /// Whether each query head has a score that no key has.
    pub sinks: bool,
    /// Query, key, value in one tensor.
    pub fused_qkv: bool,
    /// Whether that holds query, key and value of one head after another.
    pub qkv_by_head: bool,
    /// Gate and up in one tensor.
    pub fused_gate_up: bool,
    /// Whether the MLP has a gate.
    pub gated: bool,
    /// The experts of layers that have some in the MLP's place.
    pub experts: Option<Experts>,
    /// Whether each layer has.
    pub sparse: Vec<bool>,
    /// Whether the MLP's activation is xIELU, with numbers of its own in each layer.
    pub xielu: bool,
    /// What the MLP does to each number where it is not.
    pub activation: Activation,
    /// Multipliers and caps.
    pub multipliers: Multipliers,
    /// Bias of the head, `[v]`.
    pub head_bias: bool,
    /// Modules within a layer that have other names than Llama's.
    pub renamed: &'static [(Role, &'static str)],
    /// What the names of layer tensors start with; the layer's number follows.
    pub layer_prefix: &'static str,
    /// The embedding, as a tensor.
    pub embedding: &'static str,
    /// The vocabulary head, as a tensor.
    pub head: &'static str,
    /// The norm before the head, as a module.
    pub final_norm: &'static str,
    /// The head is the embedding.
    pub tied: bool,
}

impl ModelSpec {
    /// The rotations of layer `l`.
    #[must_use]
    pub fn rope_of(&self, l: usize) -> &Rope {
        let windowed = self.windows.get(l).is_some_and(Option::is_some);
        self.sliding_rope.as_ref().filter(|_| windowed).unwrap_or(&self.rope)
    }

    /// The experts of layer `l`, where it has some in the MLP's place.
    #[must_use]
    pub fn experts_of(&self, l: usize) -> Option<&Experts> {
        self.experts.as_ref().filter(|_| self.sparse.get(l).copied().unwrap_or(false))
    }

    /// What the model does that no GPU kernel does, where there is something.
    #[must_use]
    pub fn without_gpu_kernel(&self) -> Option<&'static str> {
        match self.multipliers.score_cap {
            Some(_) => Some("caps the scores of attention"),
            None if self.latent.is_some() => Some("has latent attention"),
            None => self.sinks.then_some("has sinks in its attention"),
        }
    }

    /// Whether what a sub-layer's last matrix gives is added to the stream as it is, one sub-layer after the other:
    /// only then do streams tell what the matrix should give.
    #[must_use]
    pub fn adds_plainly(&self) -> bool {
        !self.parallel && self.norm_places == NormPlaces::Before && self.multipliers.residual == 1.0
    }

    /// The model whose layers are this one's `layers`, from the embedding up. A layer may come again.
    ///
    /// # Panics
    /// A layer that is not there.
    #[must_use]
    pub fn stacked(&self, layers: &[usize]) -> Self {
        Self {
            layers: layers.len(),
            windows: layers.iter().map(|layer| self.windows[*layer]).collect(),
            rotated: layers.iter().map(|layer| self.rotated[*layer]).collect(),
            without: layers.iter().map(|layer| self.without[*layer]).collect(),
            sparse: layers.iter().map(|layer| self.sparse[*layer]).collect(),
            seam_maps: layers.iter().map(|layer| self.seam_maps[*layer]).collect(),
            ..self.clone()
        }
    }
}
