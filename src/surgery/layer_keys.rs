//! What the keys of a `config.json` have to do with layers, as tables. The meanings are those of transformers 5's
//! configuration classes.

use serde_json::{Value, json};

use crate::arch::SEAM_MAPS;

/// Lists with one value for each layer, where the value is a list at all.
pub(super) const PER_LAYER: &[&str] = &[
    "activation_sparsity_pattern",
    "attention_window",
    "block_configs",
    "compress_ratios",
    "ffn_multipliers",
    "head_dim",
    "indexer_types",
    "intermediate_size",
    "intermediate_sizes",
    "layer_rope_theta",
    "layer_types",
    "layers_block_type",
    "mlp_layer_types",
    "moe_intermediate_size",
    "moe_topk",
    "no_rope_layers",
    "num_attention_heads",
    "num_attention_heads_per_layer",
    "num_experts_per_tok",
    "num_key_value_heads",
    "num_key_value_heads_per_layer",
    "num_kv_heads",
    "num_query_heads",
    "partial_rotary_factor",
    "rope_theta",
    "sliding_window",
    "sliding_windows",
    "swiglu_limits",
    "use_rope",
];

/// Names of the number of layers, the usual one first; where several stand side by side, all follow a cut.
pub(super) const COUNTS: &[&str] =
    &["num_hidden_layers", "n_layers", "num_layers", "n_layer", "num_decoder_layers", "decoder_layers"];

/// Objects in which configs of several parts have their language model.
pub(super) const TEXT: &[&str] = &["text_config", "llm_config", "language_config"];

/// Lists of layer numbers.
pub(super) const LAYER_NUMBERS: &[&str] = &[
    "attn_layer_indices",
    "full_attn_idxs",
    "local_layer_ids",
    "layers_to_transform",
    "mlp_only_layers",
    "moe_layers",
];

/// Objects whose keys are layer numbers.
pub(super) const BY_LAYER_NUMBER: &[&str] = &["per_layer_config", SEAM_MAPS];

/// Lists and objects that have nothing to do with layers, even where their length is the number of layers.
pub(super) const NOT_PER_LAYER: &[&str] = &[
    "added_tokens",
    "architectures",
    "auto_map",
    "bad_words_ids",
    "begin_suppress_tokens",
    "bos_token_id",
    "decoder_start_token_id",
    "eos_token_id",
    "forced_decoder_ids",
    "id2label",
    "keys_to_ignore_at_inference",
    "label2id",
    "long_factor",
    "mlp_multipliers",
    "mrope_section",
    "pad_token_id",
    "short_factor",
    "ssm_multipliers",
    "stop_token_ids",
    "suppress_tokens",
    "time_step_limit",
    "weight_block_size",
];

/// A number that splits the stack into the layers below it and the layers from there on.
pub(super) struct Split {
    /// Key that holds the number.
    pub(super) key: &'static str,
    /// The list that says the same layer by layer; readers believe it when both are there.
    pub(super) list: &'static str,
    /// The number is not looked at unless this key is true.
    pub(super) only_if: Option<&'static str>,
    /// Values of `model_type` whose readers assume a number when the key is absent, and which.
    pub(super) defaults: &'static [(&'static str, u64)],
}

/// Every split known.
pub(super) const SPLITS: &[Split] = &[
    Split {
        key: "max_window_layers",
        list: "layer_types",
        only_if: Some("use_sliding_window"),
        defaults: &[("qwen2", 28), ("qwen3", 28)],
    },
    Split {
        key: "first_k_dense_replace",
        list: "mlp_layer_types",
        only_if: None,
        defaults: &[("deepseek_v3", 3), ("glm4_moe", 1)],
    },
    Split { key: "num_dense_layers", list: "mlp_layer_types", only_if: None, defaults: &[("lfm2_moe", 2)] },
];

/// Numbers that, above 0, tie layers to each other or to what lies outside the stack, and how: no cut can be proved
/// right.
pub(super) const TIES: &[(&str, &str)] = &[
    ("num_kv_shared_layers", "upper layers reuse the keys and values of lower ones, which a cut would rewire"),
    ("hidden_size_per_layer_input", "tensors outside the stack hold a part for each layer, side by side"),
];

/// A kind of layer that comes back every so many layers.
pub(super) struct Period {
    /// Key that holds the number of layers, `n`.
    pub(super) key: &'static str,
    /// The list that says the same layer by layer, and which of the two a reader believes when both are there: the
    /// list.
    pub(super) list: Option<List>,
    /// Values of `model_type` whose readers know that list, with the `n` they assume when the key is absent.
    pub(super) readers: &'static [(&'static str, u64)],
}

/// A list that spells a [`Period`] out.
pub(super) struct List {
    /// Its key.
    pub(super) key: &'static str,
    /// Its value for layer `i` when every `n`-th layer is the odd one out.
    pub(super) value: fn(i: u64, n: u64) -> Value,
}

/// Every period known. Where no list spells it out, a cut must keep each layer's place in the period.
pub(super) const PERIODS: &[Period] = &[
    Period {
        key: "no_rope_layer_interval",
        list: Some(List { key: "no_rope_layers", value: |i, n| json!(u64::from((i + 1) % n != 0)) }),
        readers: &[("smollm3", 4), ("llama4_text", 4)],
    },
    Period {
        key: "sliding_window_pattern",
        list: Some(List { key: "layer_types", value: |i, n| every(i, n, "sliding_attention") }),
        // Gemma 2, gpt-oss and OLMo 3 have the period in their code alone
        readers: &[
            ("cohere2", 4),
            ("exaone4", 4),
            ("gemma2", 2),
            ("gemma3_text", 6),
            ("gemma3n_text", 5),
            ("gpt_oss", 2),
            ("olmo3", 4),
        ],
    },
    Period {
        key: "full_attention_interval",
        list: Some(List { key: "layer_types", value: |i, n| every(i, n, "linear_attention") }),
        readers: &[("qwen3_next", 4), ("qwen3_5_text", 4)],
    },
    Period { key: "attn_layer_period", list: None, readers: &[] },
    Period { key: "expert_layer_period", list: None, readers: &[] },
    Period { key: "interleave_moe_layer_step", list: None, readers: &[] },
    Period { key: "layer_group_size", list: None, readers: &[] },
    Period { key: "moe_layer_freq", list: None, readers: &[] },
];

/// Every `n`-th layer sees everything, the others are `kind`.
fn every(i: u64, n: u64, kind: &str) -> Value {
    json!(if (i + 1).is_multiple_of(n) { "full_attention" } else { kind })
}
