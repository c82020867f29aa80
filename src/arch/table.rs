//! The one table of architectures: what a `model_type` means for the one block implementation.
//!
//! Every row is a class of Hugging Face transformers (5.23), its defaults and its switches; a family member joins by
//! adding a row. What a row cannot say (another activation, experts, multipliers) is refused, never approximated.

use serde_json::{Map, Value};

use super::left_out::NAS;
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
    /// Those that `layer_types` calls `sliding_attention`; without that list, those without rotation, where
    /// `use_sliding_window` is on.
    Unrotated,
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
    /// Norm on each query and key head.
    pub qk_norm: bool,
    /// Query, key, value in one tensor and gate, up in one tensor.
    pub fused: bool,
    /// `head_dim` where the key is absent; otherwise hidden size over heads.
    pub head_dim: Option<usize>,
    /// `num_key_value_heads` where the key is absent; otherwise as many as query heads.
    pub kv_heads: Option<usize>,
    /// Sliding windows.
    pub windows: WindowRule,
    /// Whether `no_rope_layers` leaves layers unrotated, by default every `no_rope_layer_interval`-th (this).
    pub unrotated_interval: Option<usize>,
    /// Phi-3's positions: `partial_rotary_factor` counts, `su` and `yarn` both mean LongRoPE, nothing else stretches,
    /// and the trained context stands beside the stretch (this, when absent).
    pub phi_positions: Option<usize>,
    /// `rope_theta` where the key is absent.
    pub rope_theta: f64,
    /// `rms_norm_eps` where the key is absent.
    pub norm_eps: f64,
    /// `max_position_embeddings` where the key is absent.
    pub max_positions: usize,
    /// `tie_word_embeddings` where the key is absent.
    pub tied: bool,
}

/// Llama's row; the others say how they differ.
const LLAMA: Architecture = Architecture {
    model_type: "llama",
    about: "Llama 1, 2, 3, 3.1 and later, and all that say LlamaForCausalLM: Yi, DeepSeek-LLM, SmolLM, TinyLlama...",
    class: "LlamaForCausalLM",
    qkv_bias: Bias::Key(&["attention_bias"], false),
    o_bias: Bias::Key(&["attention_bias"], false),
    mlp_bias: Bias::Key(&["mlp_bias"], false),
    qk_norm: false,
    fused: false,
    head_dim: None,
    kv_heads: None,
    windows: WindowRule::Never,
    unrotated_interval: None,
    phi_positions: None,
    rope_theta: 10_000.0,
    norm_eps: 1e-6,
    max_positions: 2048,
    tied: false,
};

/// Every architecture that is computed.
pub const ARCHITECTURES: &[Architecture] = &[
    LLAMA,
    Architecture {
        model_type: "mistral",
        about: "Mistral 7B to Large: Llama without biases, one sliding window for all layers where the config has one",
        class: "MistralForCausalLM",
        qkv_bias: Bias::Never,
        o_bias: Bias::Never,
        mlp_bias: Bias::Never,
        kv_heads: Some(8),
        windows: WindowRule::EveryLayer(Some(4096)),
        max_positions: 131_072,
        ..LLAMA
    },
    Architecture {
        model_type: "ministral",
        about: "Ministral 8B: Mistral with a sliding window on the layers that layer_types lists",
        class: "MinistralForCausalLM",
        qkv_bias: Bias::Never,
        o_bias: Bias::Never,
        mlp_bias: Bias::Never,
        kv_heads: Some(8),
        windows: WindowRule::Listed(Some(4096)),
        max_positions: 131_072,
        ..LLAMA
    },
    Architecture {
        model_type: "qwen2",
        about: "Qwen2 and Qwen2.5: biases on query, key and value, windows on the upper layers if switched on",
        class: "Qwen2ForCausalLM",
        qkv_bias: Bias::Always,
        o_bias: Bias::Never,
        mlp_bias: Bias::Never,
        kv_heads: Some(32),
        windows: WindowRule::UpperLayers { window: 4096, from: 28 },
        max_positions: 32_768,
        ..LLAMA
    },
    Architecture {
        model_type: "qwen3",
        about: "Qwen3: a norm on each query and key head, head_dim of its own, windows as Qwen2",
        class: "Qwen3ForCausalLM",
        mlp_bias: Bias::Never,
        qk_norm: true,
        head_dim: Some(128),
        kv_heads: Some(32),
        windows: WindowRule::UpperLayers { window: 4096, from: 28 },
        max_positions: 32_768,
        ..LLAMA
    },
    Architecture {
        model_type: "phi3",
        about: "Phi-3, Phi-3.5 and Phi-4: fused projections, LongRoPE, partly rotated heads",
        class: "Phi3ForCausalLM",
        qkv_bias: Bias::Never,
        o_bias: Bias::Never,
        mlp_bias: Bias::Never,
        fused: true,
        windows: WindowRule::EveryLayer(None),
        phi_positions: Some(4096),
        norm_eps: 1e-5,
        max_positions: 4096,
        ..LLAMA
    },
    Architecture {
        model_type: "smollm3",
        about: "SmolLM3: Llama in which every fourth layer does not rotate",
        class: "SmolLM3ForCausalLM",
        kv_heads: Some(4),
        windows: WindowRule::Unrotated,
        unrotated_interval: Some(4),
        rope_theta: 2_000_000.0,
        max_positions: 32_768,
        tied: true,
        ..LLAMA
    },
    Architecture {
        model_type: "seed_oss",
        about: "Seed-OSS: Llama with biases on query, key and value and a head_dim of its own",
        class: "SeedOssForCausalLM",
        qkv_bias: Bias::Key(&["attention_bias"], true),
        o_bias: Bias::Key(&["attention_out_bias"], false),
        head_dim: Some(128),
        kv_heads: Some(8),
        max_positions: 524_288,
        ..LLAMA
    },
    Architecture {
        model_type: "internlm3",
        about: "InternLM3: Llama with other names for its bias keys and a head_dim of its own",
        class: "InternLM3ForCausalLM",
        qkv_bias: Bias::Key(&["qkv_bias", "attention_bias"], false),
        o_bias: Bias::Key(&["bias", "mlp_bias"], false),
        mlp_bias: Bias::Key(&["bias", "mlp_bias"], false),
        head_dim: Some(128),
        kv_heads: Some(2),
        norm_eps: 1e-5,
        max_positions: 32_768,
        ..LLAMA
    },
];

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
