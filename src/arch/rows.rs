//! The rows, one a family.

use super::Role;
use super::apertus::APERTUS;
use super::deepseek::{DEEPSEEK_V2, DEEPSEEK_V3};
use super::kinds::{Activation, MultiplierRule, NormKind, NormPlaces, Parallel, QkNorm, RotationRule, SlidingRope};
use super::mixtures::{DOTS1, ERNIE4_5_MOE, GLM4_MOE, GPT_OSS, GRANITE_MOE, MIXTRAL, OLMOE, QWEN2_MOE, QWEN3_MOE};
use super::table::{Architecture, Bias, LLAMA, WindowRule};

/// What the Gemmas share.
const GEMMA: Architecture = Architecture {
    norm: NormKind::RmsPlusOne,
    mlp_bias: Bias::Never,
    activation: ("hidden_act", Activation::GeluTanh),
    multipliers: MultiplierRule::Gemma { query_pre_attn_scalar: None, caps: None },
    head_dim: Some(256),
    kv_heads: Some(16),
    max_positions: 8192,
    tied: true,
    ..LLAMA
};

/// Gemma 2 and 3.
const GEMMA_BOTH: Architecture =
    Architecture { norm_places: NormPlaces::Both, renamed: &[(Role::PostNorm, "pre_feedforward_layernorm")], ..GEMMA };

/// What the GLMs share: gate and up in one tensor, half of each head rotated, neighbours together.
const GLM: Architecture = Architecture {
    qkv_bias: Bias::Key(&["attention_bias"], true),
    o_bias: Bias::Never,
    mlp_bias: Bias::Never,
    fused_gate_up: true,
    head_dim: Some(128),
    kv_heads: Some(2),
    interleaved: true,
    partial_rotary: Some(0.5),
    norm_eps: ("rms_norm_eps", 1.5625e-7),
    max_positions: 131_072,
    ..LLAMA
};

/// What the Coheres share.
const COHERE: Architecture = Architecture {
    mlp_bias: Bias::Never,
    norm: NormKind::LayerNormNoBias,
    parallel: Parallel::OneNorm,
    multipliers: MultiplierRule::Cohere(0.0625),
    interleaved: true,
    norm_eps: ("layer_norm_eps", 1e-5),
    max_positions: 8192,
    tied: true,
    ..LLAMA
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
        qk_norm: QkNorm::Heads,
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
        fused_qkv: true,
        fused_gate_up: true,
        partial_rotary: Some(1.0),
        windows: WindowRule::EveryLayer(None),
        phi_positions: Some(4096),
        norm_eps: ("rms_norm_eps", 1e-5),
        max_positions: 4096,
        ..LLAMA
    },
    Architecture {
        model_type: "smollm3",
        about: "SmolLM3: Llama in which every fourth layer does not rotate",
        class: "SmolLM3ForCausalLM",
        kv_heads: Some(4),
        windows: WindowRule::Unrotated,
        rotation: RotationRule::Interval(4),
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
        norm_eps: ("rms_norm_eps", 1e-5),
        max_positions: 32_768,
        ..LLAMA
    },
    Architecture {
        model_type: "granite",
        about: "Granite 3 and 3.3: Llama with multipliers on embeddings, scores, updates and logits",
        class: "GraniteForCausalLM",
        multipliers: MultiplierRule::Granite,
        ..LLAMA
    },
    Architecture {
        model_type: "arcee",
        about: "Arcee AFM: Llama whose MLP has no gate and squares what is above 0",
        class: "ArceeForCausalLM",
        gated: false,
        activation: ("hidden_act", Activation::Relu2),
        norm_eps: ("rms_norm_eps", 1e-5),
        max_positions: 4096,
        ..LLAMA
    },
    Architecture {
        model_type: "nemotron",
        about: "Nemotron-3 and 4, Minitron: layer norms stored less one, an MLP as Arcee's, partly rotated heads",
        class: "NemotronForCausalLM",
        norm: NormKind::LayerNormPlusOne,
        gated: false,
        activation: ("hidden_act", Activation::Relu2),
        partial_rotary: Some(0.5),
        norm_eps: ("norm_eps", 1e-5),
        max_positions: 4096,
        ..LLAMA
    },
    Architecture {
        model_type: "ernie4_5",
        about: "ERNIE 4.5 (dense): Llama that rotates neighbours, head_dim of its own, one key for all biases",
        class: "Ernie4_5ForCausalLM",
        qkv_bias: Bias::Key(&["use_bias"], false),
        o_bias: Bias::Key(&["use_bias"], false),
        mlp_bias: Bias::Key(&["use_bias"], false),
        head_dim: Some(128),
        kv_heads: Some(2),
        interleaved: true,
        rope_theta: 500_000.0,
        norm_eps: ("rms_norm_eps", 1e-5),
        max_positions: 131_072,
        tied: true,
        ..LLAMA
    },
    Architecture {
        model_type: "hunyuan_v1_dense",
        about: "Hunyuan (dense): a norm on each query and key head after its rotation",
        class: "HunYuanDenseV1ForCausalLM",
        mlp_bias: Bias::Never,
        qk_norm: QkNorm::RotatedHeads,
        renamed: &[(Role::QNorm, "self_attn.query_layernorm"), (Role::KNorm, "self_attn.key_layernorm")],
        ignored: &["use_qk_norm", "num_experts"],
        ntk_alpha: true,
        norm_eps: ("rms_norm_eps", 1e-5),
        ..LLAMA
    },
    Architecture {
        model_type: "exaone4",
        about: "EXAONE 4: norms behind the sub-layers and on heads, windows on three layers of four, which alone rotate",
        class: "Exaone4ForCausalLM",
        qkv_bias: Bias::Never,
        o_bias: Bias::Never,
        mlp_bias: Bias::Never,
        norm_places: NormPlaces::After,
        qk_norm: QkNorm::Heads,
        kv_heads: Some(32),
        windows: WindowRule::Periodic { window: 4096, period: 4, reads_period: true },
        rotation: RotationRule::SlidingOrAll,
        norm_eps: ("rms_norm_eps", 1e-5),
        ..LLAMA
    },
    Architecture {
        model_type: "gemma",
        about: "Gemma 1: norms stored less one, embeddings times a root of their width, a GELU gate",
        class: "GemmaForCausalLM",
        gelu_is_tanh: true,
        ..GEMMA
    },
    Architecture {
        model_type: "gemma2",
        about: "Gemma 2: norms on both sides, soft caps on scores and logits, windows on every other layer",
        class: "Gemma2ForCausalLM",
        activation: ("hidden_activation", Activation::GeluTanh),
        multipliers: MultiplierRule::Gemma { query_pre_attn_scalar: Some(256), caps: Some([50.0, 30.0]) },
        kv_heads: Some(4),
        windows: WindowRule::Periodic { window: 4096, period: 2, reads_period: false },
        ..GEMMA_BOTH
    },
    Architecture {
        model_type: "gemma3_text",
        about: "Gemma 3 (text): Gemma 2 without caps, a norm on each head, two bases of the rotations",
        class: "Gemma3ForCausalLM",
        activation: ("hidden_activation", Activation::GeluTanh),
        multipliers: MultiplierRule::Gemma { query_pre_attn_scalar: Some(256), caps: None },
        qk_norm: QkNorm::Heads,
        kv_heads: Some(4),
        windows: WindowRule::Periodic { window: 4096, period: 6, reads_period: true },
        sliding_rope: Some(SlidingRope { key: Some("rope_local_base_freq"), theta: 10_000.0 }),
        rope_theta: 1_000_000.0,
        max_positions: 131_072,
        ..GEMMA_BOTH
    },
    Architecture {
        model_type: "olmo2",
        about: "OLMo 2: norms behind the sub-layers, and on all query heads and all key heads together",
        class: "Olmo2ForCausalLM",
        mlp_bias: Bias::Never,
        norm_places: NormPlaces::After,
        qk_norm: QkNorm::Together,
        norm_eps: ("rms_norm_eps", 1e-5),
        ..LLAMA
    },
    Architecture {
        model_type: "olmo3",
        about: "OLMo 3: OLMo 2 with windows on three layers of four, which rotate without the others' stretch",
        class: "Olmo3ForCausalLM",
        mlp_bias: Bias::Never,
        norm_places: NormPlaces::After,
        qk_norm: QkNorm::Together,
        windows: WindowRule::Periodic { window: 4096, period: 4, reads_period: false },
        sliding_rope: Some(SlidingRope { key: None, theta: 500_000.0 }),
        rope_theta: 500_000.0,
        norm_eps: ("rms_norm_eps", 1e-5),
        ..LLAMA
    },
    Architecture { model_type: "glm", about: "GLM-4 9B of 2024", class: "GlmForCausalLM", ..GLM },
    Architecture {
        model_type: "glm4",
        about: "GLM-4-0414: GLM-4 with norms behind the sub-layers as well",
        class: "Glm4ForCausalLM",
        norm_places: NormPlaces::Both,
        renamed: &[
            (Role::AttentionPostNorm, "post_self_attn_layernorm"),
            (Role::PostNorm, "post_attention_layernorm"),
            (Role::MlpPostNorm, "post_mlp_layernorm"),
        ],
        ..GLM
    },
    Architecture {
        model_type: "cohere",
        about: "Command R: attention and MLP side by side, layer norms without bias, scaled logits",
        class: "CohereForCausalLM",
        rope_theta: 500_000.0,
        ..COHERE
    },
    Architecture {
        model_type: "cohere2",
        about: "Command R7B and A: Command R with windows on three layers of four, which alone rotate",
        class: "Cohere2ForCausalLM",
        windows: WindowRule::Periodic { window: 4096, period: 4, reads_period: true },
        rotation: RotationRule::Sliding,
        ..COHERE
    },
    Architecture {
        model_type: "phi",
        about: "Phi-1, 1.5 and 2: attention and MLP side by side, layer norms, biases everywhere, partly rotated heads",
        class: "PhiForCausalLM",
        qkv_bias: Bias::Always,
        o_bias: Bias::Always,
        mlp_bias: Bias::Always,
        norm: NormKind::LayerNorm,
        parallel: Parallel::OneNorm,
        gated: false,
        activation: ("hidden_act", Activation::GeluTanh),
        head_bias: true,
        renamed: &[(Role::O, "self_attn.dense"), (Role::Up, "mlp.fc1"), (Role::Down, "mlp.fc2")],
        final_norm: "model.final_layernorm",
        partial_rotary: Some(0.5),
        norm_eps: ("layer_norm_eps", 1e-5),
        ..LLAMA
    },
    Architecture {
        model_type: "starcoder2",
        about: "StarCoder2: layer norms, biases, an MLP without gate, one sliding window for all layers",
        class: "Starcoder2ForCausalLM",
        qkv_bias: Bias::Key(&["use_bias"], true),
        o_bias: Bias::Key(&["use_bias"], true),
        mlp_bias: Bias::Key(&["use_bias"], true),
        norm: NormKind::LayerNorm,
        gated: false,
        activation: ("hidden_act", Activation::GeluTanh),
        renamed: &[(Role::Up, "mlp.c_fc"), (Role::Down, "mlp.c_proj")],
        kv_heads: Some(2),
        windows: WindowRule::EveryLayer(None),
        norm_eps: ("norm_epsilon", 1e-5),
        max_positions: 4096,
        tied: true,
        ..LLAMA
    },
    Architecture {
        model_type: "gpt_neox",
        about: "GPT-NeoX, Pythia: layer norms, biases, attention and MLP side by side or in turn, partly rotated heads",
        class: "GPTNeoXForCausalLM",
        qkv_bias: Bias::Key(&["attention_bias"], true),
        o_bias: Bias::Key(&["attention_bias"], true),
        mlp_bias: Bias::Always,
        norm: NormKind::LayerNorm,
        parallel: Parallel::NormEach(true),
        fused_qkv: true,
        qkv_by_head: true,
        gated: false,
        activation: ("hidden_act", Activation::Gelu),
        renamed: &[
            (Role::Qkv, "attention.query_key_value"),
            (Role::O, "attention.dense"),
            (Role::Up, "mlp.dense_h_to_4h"),
            (Role::Down, "mlp.dense_4h_to_h"),
        ],
        layer_prefix: "gpt_neox.layers.",
        embedding: "gpt_neox.embed_in.weight",
        head: "embed_out.weight",
        final_norm: "gpt_neox.final_layer_norm",
        ignored: &["use_parallel_residual"],
        partial_rotary: Some(0.25),
        rope_keys: ("rotary_emb_base", "rotary_pct"),
        norm_eps: ("layer_norm_eps", 1e-5),
        ..LLAMA
    },
    APERTUS,
    MIXTRAL,
    QWEN2_MOE,
    QWEN3_MOE,
    OLMOE,
    DOTS1,
    GLM4_MOE,
    DEEPSEEK_V2,
    DEEPSEEK_V3,
    ERNIE4_5_MOE,
    GRANITE_MOE,
    GPT_OSS,
];
