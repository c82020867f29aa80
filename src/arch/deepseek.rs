//! The rows of DeepSeek.

use super::experts::{ExpertRule, ExpertsAt, GroupRule, GroupScores, MIXTRAL_EXPERTS, RouterScores};
use super::latent::{DEEPSEEK_LATENT, LatentRule};
use super::mixtures::SHARED_EXPERTS;
use super::table::{Architecture, Bias, LLAMA};

pub(super) const DEEPSEEK_V2: Architecture = Architecture {
    model_type: "deepseek_v2",
    about: "DeepSeek-V2 and V2-Lite: latent attention, dense layers below, experts chosen in groups by the best of each",
    class: "DeepseekV2ForCausalLM",
    mlp_bias: Bias::Key(&["mlp_bias"], false),
    latent: Some(DEEPSEEK_LATENT),
    interleaved: true,
    experts: Some(ExpertRule {
        count: (&["n_routed_experts", "num_experts"], 64),
        // the key is needed
        chosen: 0,
        size: ("moe_intermediate_size", Some(1407)),
        normed: (None, false),
        scaled: Some(1.0),
        groups: Some(GroupRule { scores: GroupScores::Best, usual: (1, 1), switched: true }),
        shared: Some(("n_shared_experts", Some(2))),
        at: ExpertsAt::From(0),
        ..MIXTRAL_EXPERTS
    }),
    renamed: SHARED_EXPERTS,
    ..LLAMA
};

pub(super) const DEEPSEEK_V3: Architecture = Architecture {
    model_type: "deepseek_v3",
    about: "DeepSeek-V3, R1, Moonlight, Kimi K2: V2 with sigmoid scores and a bias on the choice, as dots.llm1",
    class: "DeepseekV3ForCausalLM",
    mlp_bias: Bias::Never,
    latent: Some(LatentRule { interleave: Some("rope_interleave"), ..DEEPSEEK_LATENT }),
    interleaved: true,
    experts: Some(ExpertRule {
        count: (&["n_routed_experts", "num_local_experts"], 256),
        chosen: 8,
        size: ("moe_intermediate_size", Some(2048)),
        scores: RouterScores::Sigmoid,
        normed: (Some("norm_topk_prob"), true),
        scaled: Some(2.5),
        biased: true,
        groups: Some(GroupRule { usual: (8, 4), ..GroupRule::TWO_BEST }),
        shared: Some(("n_shared_experts", Some(1))),
        at: ExpertsAt::From(3),
        ..MIXTRAL_EXPERTS
    }),
    renamed: SHARED_EXPERTS,
    max_positions: 4096,
    ..LLAMA
};
