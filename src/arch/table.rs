//! The one table of architectures: what a `model_type` means for the one block implementation.
//!
//! Every row of `rows` is a class of Hugging Face transformers (5.23), its defaults and its switches; a family joins by
//! adding a row. What a row cannot say (recurrent layers, say) is refused, never approximated.

use serde_json::{Map, Value};

use super::experts::ExpertRule;
use super::kinds::{Activation, MultiplierRule, NormKind, NormPlaces, Parallel, QkNorm, RotationRule, SlidingRope};
use super::latent::LatentRule;
use super::left_out::NAS;
use super::rows::ARCHITECTURES;
use super::{Role, RopeScaling, refused};
use crate::{Error, Result};

/// Whether a kind of bias is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bias {
    /// Never.
    Never,
    /// Always.
    Always,
    /// As the first of these keys that the config has says, or else as given here.
    Key(&'static [&'static str], bool),
}

/// Which layers see only a sliding window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WindowRule {
    /// None, whatever the config says about windows.
    Never,
    /// All of them, where `sliding_window` (this, when the key is absent) is a number.
    EveryLayer(Option<usize>),
    /// Those that `layer_types` calls `sliding_attention`; without that list, all of them as above.
    Listed(Option<usize>),
    /// Nothing without `use_sliding_window`; then those that `layer_types` calls `sliding_attention`, or the layers
    /// from `max_window_layers` (this, when absent) up. The window is `sliding_window` (this, when absent).
    UpperLayers {
        /// Window where the key is absent.
        window: usize,
        /// First layer with a window where the key is absent.
        from: usize,
    },
    /// Nothing without `use_sliding_window`; then those that `layer_types` calls `sliding_attention`, or all. The
    /// window is `sliding_window` (this, when absent).
    Switched(usize),
    /// The same, but without the list that is needed where windows are switched on: the rule for its absence differs
    /// between releases of transformers (Qwen2-MoE).
    SwitchedList(usize),
    /// Those that `layer_types` calls `sliding_attention`; without that list, those from `max_window_layers` (this,
    /// when absent) up. The window is `sliding_window` (this, when absent); without one there are none (dots.llm1).
    From {
        /// Window where the key is absent.
        window: usize,
        /// First layer with a window where the key is absent.
        from: usize,
    },
    /// Those that `layer_types` calls `sliding_attention`; without that list, those without rotation, where
    /// `use_sliding_window` is on.
    Unrotated,
    /// Those that `layer_types` calls `sliding_attention`; without that list, all but every `period`-th. The window is
    /// `sliding_window` (this, when absent); without one there are none.
    Periodic {
        /// Window where the key is absent.
        window: usize,
        /// `sliding_window_pattern` where that key is absent.
        period: usize,
        /// Whether the family reads that key.
        reads_period: bool,
    },
}

/// One row: a `model_type`, its defaults and its switches.
#[derive(Clone, Debug)]
pub struct Architecture {
    /// `model_type` of the config.
    pub model_type: &'static str,
    /// What it is, for the reader.
    pub about: &'static str,
    /// Entry of `architectures` that makes a config of an unknown `model_type` one of these.
    pub class: &'static str,
    /// Bias on query, key and value projections.
    pub qkv_bias: Bias,
    /// Bias on the attention output projection.
    pub o_bias: Bias,
    /// Bias on the MLP projections.
    pub mlp_bias: Bias,
    /// How norms are computed.
    pub norm: NormKind,
    /// Where they stand.
    pub norm_places: NormPlaces,
    /// Whether attention and MLP see the same stream.
    pub parallel: Parallel,
    /// Norms of queries and keys.
    pub qk_norm: QkNorm,
    /// The key that switches these on, where there is one.
    pub qk_norm_switch: Option<&'static str>,
    /// Widths of latent attention, where attention is that.
    pub latent: Option<LatentRule>,
    /// Whether each query head has a score that no key has.
    pub sinks: bool,
    /// Query, key, value in one tensor.
    pub fused_qkv: bool,
    /// Whether that holds query, key and value of one head after another, and not all queries first.
    pub qkv_by_head: bool,
    /// Gate and up in one tensor.
    pub fused_gate_up: bool,
    /// Whether the MLP has a gate.
    pub gated: bool,
    /// The experts that stand in the MLP's place.
    pub experts: Option<ExpertRule>,
    /// Key of the MLP's activation, and what it is where the key is absent.
    pub activation: (&'static str, Activation),
    /// Whether the activation is `xielu`, which has numbers of its own in each layer, unless its key says another.
    pub xielu: bool,
    /// Whether `gelu` means the one with the hyperbolic tangent.
    pub gelu_is_tanh: bool,
    /// Multipliers and caps.
    pub multipliers: MultiplierRule,
    /// Bias of the head.
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
    /// Keys of `refused` that the class does not look at, or that say what it does anyway.
    pub ignored: &'static [&'static str],
    /// `head_dim` where the key is absent; otherwise hidden size over heads.
    pub head_dim: Option<usize>,
    /// `num_key_value_heads` where the key is absent; otherwise as many as query heads.
    pub kv_heads: Option<usize>,
    /// Sliding windows.
    pub windows: WindowRule,
    /// Layers that rotate.
    pub rotation: RotationRule,
    /// Other rotations of layers with a window.
    pub sliding_rope: Option<SlidingRope>,
    /// Whether an angle turns numbers that stand side by side, and not half a head apart.
    pub interleaved: bool,
    /// The rotated part of a head where its key is absent, in a family that heeds it.
    pub partial_rotary: Option<f64>,
    /// Keys of the rotations' base and of the rotated part of a head, outside of the stretch.
    pub rope_keys: (&'static str, &'static str),
    /// Whether `alpha` beside a dynamic stretch makes it a fixed one (Hunyuan).
    pub ntk_alpha: bool,
    /// Phi-3's positions: `su` and `yarn` both mean LongRoPE, nothing else stretches,
    /// and the trained context stands beside the stretch (this, when absent).
    pub phi_positions: Option<usize>,
    /// The stretch where the config says nothing of one.
    pub rope_scaling: Option<&'static RopeScaling>,
    /// The rotations' base where its key is absent.
    pub rope_theta: f64,
    /// Key of the norms' epsilon, and what it is where the key is absent.
    pub norm_eps: (&'static str, f64),
    /// `max_position_embeddings` where the key is absent.
    pub max_positions: usize,
    /// `tie_word_embeddings` where the key is absent.
    pub tied: bool,
}

/// Llama's row; the others say how they differ.
pub(super) const LLAMA: Architecture = Architecture {
    model_type: "llama",
    about: "Llama 1, 2, 3, 3.1 and later, and all that say LlamaForCausalLM: Yi, DeepSeek-LLM, SmolLM, TinyLlama...",
    class: "LlamaForCausalLM",
    qkv_bias: Bias::Key(&["attention_bias"], false),
    o_bias: Bias::Key(&["attention_bias"], false),
    mlp_bias: Bias::Key(&["mlp_bias"], false),
    norm: NormKind::Rms,
    norm_places: NormPlaces::Before,
    parallel: Parallel::Never,
    qk_norm: QkNorm::None,
    qk_norm_switch: None,
    latent: None,
    sinks: false,
    fused_qkv: false,
    qkv_by_head: false,
    fused_gate_up: false,
    gated: true,
    experts: None,
    activation: ("hidden_act", Activation::Silu),
    xielu: false,
    gelu_is_tanh: false,
    multipliers: MultiplierRule::Plain,
    head_bias: false,
    renamed: &[],
    layer_prefix: "model.layers.",
    embedding: "model.embed_tokens.weight",
    head: "lm_head.weight",
    final_norm: "model.norm",
    ignored: &[],
    head_dim: None,
    kv_heads: None,
    windows: WindowRule::Never,
    rotation: RotationRule::All,
    sliding_rope: None,
    interleaved: false,
    partial_rotary: None,
    rope_keys: ("rope_theta", "partial_rotary_factor"),
    ntk_alpha: false,
    phi_positions: None,
    rope_scaling: None,
    rope_theta: 10_000.0,
    norm_eps: ("rms_norm_eps", 1e-6),
    max_positions: 2048,
    tied: false,
};

impl Architecture {
    /// The row of a config: by `model_type`, or else by the class it names in `architectures`.
    ///
    /// # Errors
    /// A request error with all that is known.
    pub fn of(config: &Map<String, Value>) -> Result<&'static Self> {
        if config.get("text_config").is_some_and(Value::is_object) {
            return Err(Error::request(
                "a multimodal model (config.json has a text_config); only language models are computed",
            ));
        }
        let model_type = config.get("model_type").and_then(Value::as_str);
        // Llama's blocks, some without attention or MLP
        let model_type = if model_type == Some(NAS) { Some(LLAMA.model_type) } else { model_type };
        let classes = config.get("architectures").and_then(Value::as_array).into_iter().flatten();
        let by_class =
            || classes.filter_map(Value::as_str).find_map(|class| ARCHITECTURES.iter().find(|row| row.class == class));
        let by_type = ARCHITECTURES.iter().find(|row| Some(row.model_type) == model_type);
        by_type.or_else(by_class).ok_or_else(|| {
            if let Some(error) = model_type.and_then(refused::family) {
                return error;
            }
            let known: Vec<_> = ARCHITECTURES.iter().map(|row| row.model_type).collect();
            let found = match model_type {
                Some(name) => format!("model_type {name:?} is not known"),
                None => "model_type is missing".to_owned(),
            };
            Error::request(format!(
                "{found}; known are {}, and what names one of their classes in architectures",
                known.join(", ")
            ))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(json: Value) -> Result<&'static Architecture> {
        Architecture::of(json.as_object().unwrap())
    }

    #[test]
    fn a_row_is_found_by_type_or_class() {
        assert_eq!(of(serde_json::json!({"model_type": "qwen2"})).unwrap().model_type, "qwen2");
        let own = serde_json::json!({"model_type": "my-llama", "architectures": ["X", "LlamaForCausalLM"]});
        assert_eq!(of(own).unwrap().model_type, "llama");
        let both = serde_json::json!({"model_type": "mistral", "architectures": ["LlamaForCausalLM"]});
        assert_eq!(of(both).unwrap().model_type, "mistral");
    }

    #[test]
    fn what_is_unknown_is_refused_with_what_is_known() {
        let error = of(serde_json::json!({"model_type": "gpt2", "architectures": ["GPT2LMHeadModel"]})).unwrap_err();
        assert_eq!(error.exit_code(), 2);
        let message = error.to_string();
        assert!(message.contains("\"gpt2\"") && message.contains("llama, mistral"), "{message}");
        assert!(of(serde_json::json!({"model_type": 3})).unwrap_err().to_string().contains("missing"));
        let parts = of(serde_json::json!({"model_type": "llama", "text_config": {}})).unwrap_err().to_string();
        assert!(parts.contains("multimodal") && parts.contains("text_config"), "{parts}");
    }

    #[test]
    fn rows_are_told_apart() {
        for (index, row) in ARCHITECTURES.iter().enumerate() {
            for other in &ARCHITECTURES[index + 1..] {
                assert!(row.model_type != other.model_type && row.class != other.class);
            }
        }
    }
}
