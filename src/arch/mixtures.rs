//! The rows of mixtures of experts.

use super::Role;
use super::experts::{ExpertRule, ExpertsAt, MIXTRAL_EXPERTS, RouterScores};
use super::kinds::{MultiplierRule, QkNorm};
use super::table::{Architecture, Bias, LLAMA, WindowRule};

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
        shared: Some(("shared_expert_intermediate_size", false)),
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
        scaled: true,
        biased: true,
        shared: Some(("n_shared_experts", true)),
        at: ExpertsAt::From(0),
        ..MIXTRAL_EXPERTS
    }),
    renamed: &[
        (Role::SharedGate, "mlp.shared_experts.gate_proj"),
        (Role::SharedUp, "mlp.shared_experts.up_proj"),
        (Role::SharedDown, "mlp.shared_experts.down_proj"),
    ],
    kv_heads: Some(32),
    windows: WindowRule::From { window: 4096, from: 62 },
    ..LLAMA
};

pub(super) const GRANITE_MOE: Architecture = Architecture {
    model_type: "granitemoe",
    about: "Granite 3 MoE: Granite with experts on every layer, all of them in two tensors",
    class: "GraniteMoeForCausalLM",
    mlp_bias: Bias::Never,
    multipliers: MultiplierRule::Granite,
    experts: Some(ExpertRule { stacked: true, ..MIXTRAL_EXPERTS }),
    renamed: &[
        (Role::Router, "block_sparse_moe.router.layer"),
        (Role::ExpertsGateUp, "block_sparse_moe.input_linear"),
        (Role::ExpertsDown, "block_sparse_moe.output_linear"),
        (Role::ExpertGateUp(0), "block_sparse_moe.input_linear"),
        (Role::ExpertDown(0), "block_sparse_moe.output_linear"),
    ],
    ..LLAMA
};
