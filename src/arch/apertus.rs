//! The row of Apertus.

use super::kinds::QkNorm;
use super::table::{Architecture, Bias, LLAMA};
use super::{Role, RopeScaling};

/// How its rotations are stretched where the config does not say it.
const SCALING: &RopeScaling =
    &RopeScaling::Llama3 { factor: 8.0, low_freq_factor: 1.0, high_freq_factor: 4.0, original_max_positions: 8192 };

pub(super) const APERTUS: Architecture = Architecture {
    model_type: "apertus",
    about: "Apertus: an MLP without gate whose activation has numbers of its own, a norm on each head",
    class: "ApertusForCausalLM",
    mlp_bias: Bias::Never,
    qk_norm: QkNorm::Heads,
    gated: false,
    xielu: true,
    renamed: &[(Role::InputNorm, "attention_layernorm"), (Role::PostNorm, "feedforward_layernorm")],
    rope_scaling: Some(SCALING),
    rope_theta: 12_000_000.0,
    norm_eps: ("rms_norm_eps", 1e-5),
    max_positions: 65_536,
    ..LLAMA
};
