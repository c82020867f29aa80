//! The rows of mixtures of experts.

use super::experts::{ExpertRule, ExpertsAt, GroupRule, MIXTRAL_EXPERTS, RouterScores, Stacked};
use super::kinds::{MultiplierRule, QkNorm};
use super::table::{Architecture, Bias, LLAMA, WindowRule};
use super::{Role, RopeScaling};
use crate::ops::ClampedSwiglu;

/// What Mixtral calls its experts.
const BLOCK_SPARSE: &[(Role, &str)] = &[
    (Role::Router, "block_sparse_moe.gate"),
    (Role::ExpertGate(0), "block_sparse_moe.experts.{}.w1"),
    (Role::ExpertUp(0), "block_sparse_moe.experts.{}.w3"),
    (Role::ExpertDown(0), "block_sparse_moe.experts.{}.w2"),
];

pub(super) const MIXTRAL: Architecture = Architecture {
    model_type: "mixtral",
    about: "Mixtral: Mistral with 8 experts in the MLP's place, of which each token goes through 2",
    class: "MixtralForCausalLM",
    qkv_bias: Bias::Never,
    o_bias: Bias::Never,
    mlp_bias: Bias::Never,
    experts: Some(MIXTRAL_EXPERTS),
    renamed: BLOCK_SPARSE,
    kv_heads: Some(8),
    windows: WindowRule::EveryLayer(None),
    rope_theta: 1_000_000.0,
    norm_eps: ("rms_norm_eps", 1e-5),
    max_positions: 131_072,
    ..LLAMA
};

pub(super) const QWEN2_MOE: Architecture = Architecture {
    model_type: "qwen2_moe",
    about: "Qwen1.5-MoE and Qwen2-MoE: experts on chosen layers, and one that all tokens go through, with a weight",
    class: "Qwen2MoeForCausalLM",
    qkv_bias: Bias::Key(&["qkv_bias"], true),
    o_bias: Bias::Never,
    mlp_bias: Bias::Never,
    experts: Some(ExpertRule {
        count: (&["num_experts", "num_local_experts"], 60),
        chosen: 4,
        size: ("moe_intermediate_size", Some(1408)),
        normed: (Some("norm_topk_prob"), false),
        shared: Some(("shared_expert_intermediate_size", None)),
        shared_weight: true,
        at: ExpertsAt::Steps,
        ..MIXTRAL_EXPERTS
    }),
    kv_heads: Some(16),
    windows: WindowRule::SwitchedList(4096),
    max_positions: 32_768,
    ..LLAMA
};

pub(super) const QWEN3_MOE: Architecture = Architecture {
    model_type: "qwen3_moe",
    about: "Qwen3-MoE: Qwen3 with experts on chosen layers",
    class: "Qwen3MoeForCausalLM",
    mlp_bias: Bias::Never,
    qk_norm: QkNorm::Heads,
    experts: Some(ExpertRule {
        count: (&["num_experts", "num_local_experts"], 128),
        chosen: 8,
        size: ("moe_intermediate_size", Some(768)),
        normed: (Some("norm_topk_prob"), false),
        at: ExpertsAt::Steps,
        ..MIXTRAL_EXPERTS
    }),
    kv_heads: Some(4),
    windows: WindowRule::Switched(4096),
    max_positions: 32_768,
    ..LLAMA
};

pub(super) const OLMOE: Architecture = Architecture {
    model_type: "olmoe",
    about: "OLMoE: experts on every layer, a norm on all query heads and all key heads together",
    class: "OlmoeForCausalLM",
    mlp_bias: Bias::Never,
    qk_norm: QkNorm::Together,
    experts: Some(ExpertRule {
        count: (&["num_experts", "num_local_experts"], 64),
        chosen: 8,
        normed: (Some("norm_topk_prob"), false),
        ..MIXTRAL_EXPERTS
    }),
    norm_eps: ("rms_norm_eps", 1e-5),
    max_positions: 4096,
    ..LLAMA
};

/// What dots.llm1, GLM-4.5 and DeepSeek call the expert that all tokens go through.
pub(super) const SHARED_EXPERTS: &[(Role, &str)] = &[
    (Role::SharedGate, "mlp.shared_experts.gate_proj"),
    (Role::SharedUp, "mlp.shared_experts.up_proj"),
    (Role::SharedDown, "mlp.shared_experts.down_proj"),
];

pub(super) const DOTS1: Architecture = Architecture {
    model_type: "dots1",
    about: "dots.llm1: Qwen3-MoE with sigmoid scores, a bias on the choice, and experts that all tokens go through",
    class: "Dots1ForCausalLM",
    mlp_bias: Bias::Never,
    qk_norm: QkNorm::Heads,
    experts: Some(ExpertRule {
        count: (&["n_routed_experts", "num_local_experts"], 0),
        chosen: 1,
        size: ("moe_intermediate_size", Some(1408)),
        scores: RouterScores::Sigmoid,
        normed: (Some("norm_topk_prob"), false),
        scaled: Some(1.0),
        biased: true,
        groups: Some(GroupRule::TWO_BEST),
        shared: Some(("n_shared_experts", Some(0))),
        at: ExpertsAt::From(0),
        ..MIXTRAL_EXPERTS
    }),
    renamed: SHARED_EXPERTS,
    kv_heads: Some(32),
    windows: WindowRule::From { window: 4096, from: 62 },
    ..LLAMA
};

pub(super) const GLM4_MOE: Architecture = Architecture {
    model_type: "glm4_moe",
    about: "GLM-4.5 to 4.7: routing as dots.llm1, dense layers below, partly rotated heads, normed where switched on",
    class: "Glm4MoeForCausalLM",
    o_bias: Bias::Never,
    mlp_bias: Bias::Never,
    qk_norm: QkNorm::Heads,
    qk_norm_switch: Some("use_qk_norm"),
    ignored: &["use_qk_norm"],
    experts: Some(ExpertRule {
        count: (&["n_routed_experts", "num_local_experts"], 128),
        chosen: 8,
        size: ("moe_intermediate_size", Some(1408)),
        scores: RouterScores::Sigmoid,
        normed: (Some("norm_topk_prob"), true),
        scaled: Some(1.0),
        biased: true,
        groups: Some(GroupRule::TWO_BEST),
        shared: Some(("n_shared_experts", Some(1))),
        at: ExpertsAt::From(1),
        ..MIXTRAL_EXPERTS
    }),
    renamed: SHARED_EXPERTS,
    kv_heads: Some(8),
    partial_rotary: Some(0.5),
    norm_eps: ("rms_norm_eps", 1e-5),
    max_positions: 131_072,
    ..LLAMA
};

pub(super) const ERNIE4_5_MOE: Architecture = Architecture {
    model_type: "ernie4_5_moe",
    about: "ERNIE 4.5 (mixtures): ERNIE 4.5 with a bias on the choice of experts, and some that all tokens go through",
    class: "Ernie4_5_MoeForCausalLM",
    // with biases the head has one as well: refused
    qkv_bias: Bias::Never,
    o_bias: Bias::Never,
    mlp_bias: Bias::Never,
    experts: Some(ExpertRule {
        count: (&["moe_num_experts", "num_experts"], 64),
        chosen: 6,
        chosen_key: Some("moe_k"),
        size: ("moe_intermediate_size", Some(1536)),
        least: Some(1e-12),
        biased: true,
        bias_row: true,
        shared: Some(("moe_num_shared_experts", Some(2))),
        at: ExpertsAt::Range,
        ..MIXTRAL_EXPERTS
    }),
    renamed: &[
        (Role::RouterBias, "mlp.moe_statics"),
        (Role::SharedGate, "mlp.shared_experts.gate_proj"),
        (Role::SharedUp, "mlp.shared_experts.up_proj"),
        (Role::SharedDown, "mlp.shared_experts.down_proj"),
    ],
    kv_heads: Some(4),
    interleaved: true,
    rope_theta: 500_000.0,
    norm_eps: ("rms_norm_eps", 1e-5),
    max_positions: 131_072,
    tied: true,
    ..LLAMA
};

pub(super) const GRANITE_MOE: Architecture = Architecture {
    model_type: "granitemoe",
    about: "Granite 3 MoE: Granite with experts on every layer, all of them in two tensors",
    class: "GraniteMoeForCausalLM",
    mlp_bias: Bias::Never,
    multipliers: MultiplierRule::Granite,
    experts: Some(ExpertRule { stacked: Some(Stacked::Rows), ..MIXTRAL_EXPERTS }),
    renamed: &[
        (Role::Router, "block_sparse_moe.router.layer"),
        (Role::ExpertsGateUp, "block_sparse_moe.input_linear"),
        (Role::ExpertsDown, "block_sparse_moe.output_linear"),
        (Role::ExpertGateUp(0), "block_sparse_moe.input_linear"),
        (Role::ExpertDown(0), "block_sparse_moe.output_linear"),
    ],
    ..LLAMA
};

/// How gpt-oss stretches its rotations where the config does not say it.
const GPT_OSS_SCALING: &RopeScaling = &RopeScaling::Yarn {
    factor: 32.0,
    beta_fast: 32.0,
    beta_slow: 1.0,
    // 0.1 · ln(32) + 1
    attention_factor: 1.346_573_590_279_972_7,
    original_max_positions: 4096,
    truncate: false,
};

pub(super) const GPT_OSS: Architecture = Architecture {
    model_type: "gpt_oss",
    about: "gpt-oss: experts that clamp, with biases, windows on every other layer, a sink in each head's softmax",
    class: "GptOssForCausalLM",
    qkv_bias: Bias::Key(&["attention_bias"], true),
    o_bias: Bias::Key(&["attention_bias"], true),
    mlp_bias: Bias::Never,
    sinks: true,
    experts: Some(ExpertRule {
        count: (&["num_local_experts", "num_experts"], 128),
        chosen: 4,
        router_bias: true,
        clamped: Some(ClampedSwiglu { alpha: 1.702, limit: 7.0 }),
        stacked: Some(Stacked::Columns),
        ..MIXTRAL_EXPERTS
    }),
    renamed: &[
        (Role::Router, "mlp.router"),
        (Role::ExpertsGateUp, "mlp.experts.gate_up_proj"),
        (Role::ExpertsDown, "mlp.experts.down_proj"),
        (Role::ExpertGateUp(0), "mlp.experts.gate_up_proj"),
        (Role::ExpertDown(0), "mlp.experts.down_proj"),
    ],
    head_dim: Some(64),
    kv_heads: Some(8),
    windows: WindowRule::Periodic { window: 128, period: 2, reads_period: false },
    rope_scaling: Some(GPT_OSS_SCALING),
    rope_theta: 150_000.0,
    norm_eps: ("rms_norm_eps", 1e-5),
    max_positions: 131_072,
    ..LLAMA
};
