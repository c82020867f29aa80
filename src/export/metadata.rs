//! The config as llama.cpp's keys.

use super::StoredAs;
use crate::arch::{ModelSpec, Multipliers, RopeScaling};
use crate::checkpoint::gguf::{Family, MetaValue};
use crate::{Error, Result};

/// A key and its value.
pub(super) type Pairs = Vec<(String, MetaValue)>;

/// Refuses what llama.cpp would compute otherwise.
///
/// # Errors
/// Request: the switch.
pub(super) fn check(spec: &ModelSpec, family: &Family) -> Result<()> {
    let refuse = |what: &str| {
        Err(Error::request(format!("{what}, which llama.cpp does not compute in a {} model", family.arch)))
    };
    if spec.without.iter().any(|without| !without.is_empty()) {
        return refuse("layers lack their attention or their MLP");
    }
    if let Some(experts) = &spec.experts {
        if spec.sparse.contains(&false) {
            return refuse("some layers have no experts");
        }
        if experts.chosen > 1 && experts.normed != family.is_normed {
            return refuse(if experts.normed { "scores are divided by their sum" } else { "scores are not divided" });
        }
    }
    let has_window = spec.windows.iter().any(Option::is_some);
    if has_window && !["phi3"].contains(&family.arch) && spec.model_type != "mistral" {
        return refuse("layers have sliding windows");
    }
    let is_rotated = |layer: usize| family.arch != "smollm3" || !(layer + 1).is_multiple_of(4);
    if spec.rotated.iter().enumerate().any(|(layer, rotated)| *rotated != is_rotated(layer)) {
        return refuse("layers that do not rotate are others than every fourth");
    }
    match (&spec.rope.scaling, family.arch) {
        (RopeScaling::Dynamic { .. }, _) => refuse("positions are stretched by length (dynamic)"),
        (RopeScaling::LongRope { .. }, arch) if arch != "phi3" => refuse("positions are stretched by LongRoPE"),
        _ => Ok(()),
    }
}

/// All keys but the tokenizer's, of the model called `name`.
///
/// # Errors
/// Work: a number that is too large for its key.
pub(super) fn pairs(name: &str, spec: &ModelSpec, family: &Family, stored: &StoredAs) -> Result<Pairs> {
    let mut pairs: Pairs = vec![
        ("general.architecture".to_owned(), MetaValue::text(family.arch)),
        ("general.type".to_owned(), MetaValue::text("model")),
        ("general.name".to_owned(), MetaValue::text(name)),
        ("general.file_type".to_owned(), MetaValue::u32(stored.file_type)),
        ("general.quantization_version".to_owned(), MetaValue::u32(2)),
    ];
    let mut add = |key: &str, value: MetaValue| pairs.push((format!("{}.{key}", family.arch), value));
    let whole = |number: usize| {
        let number = u32::try_from(number).map_err(|_| Error::work(format!("{number} is too large for GGUF")));
        number.map(MetaValue::u32)
    };
    add("block_count", whole(spec.layers)?);
    add("context_length", whole(spec.max_positions)?);
    add("embedding_length", whole(spec.hidden_size)?);
    add("feed_forward_length", whole(spec.mlp_size)?);
    if let Some(experts) = &spec.experts {
        add("expert_count", whole(experts.count)?);
        add("expert_used_count", whole(experts.chosen)?);
        // elsewhere they are as wide as MLPs, and the file says so
        if family.model_type.starts_with("qwen") {
            add("expert_feed_forward_length", whole(experts.size)?);
        }
        if let Some(shared) = experts.shared {
            add("expert_shared_feed_forward_length", whole(shared)?);
        }
    }
    if family.has_multipliers {
        let Multipliers { embedding, residual, scores, logits, .. } = spec.multipliers;
        add("attention.scale", MetaValue::f32(scores as f32));
        add("embedding_scale", MetaValue::f32(embedding as f32));
        add("residual_scale", MetaValue::f32(residual as f32));
        add("logit_scale", MetaValue::f32(logits.recip() as f32));
    }
    add("attention.head_count", whole(spec.heads)?);
    add("attention.head_count_kv", whole(spec.kv_heads)?);
    add("attention.key_length", whole(spec.head_dim)?);
    add("attention.value_length", whole(spec.head_dim)?);
    add("attention.layer_norm_rms_epsilon", MetaValue::f32(spec.norm_eps as f32));
    add("vocab_size", whole(spec.vocab_size)?);
    add("rope.dimension_count", whole(spec.rope.rotary_dim)?);
    add("rope.freq_base", MetaValue::f32(spec.rope.theta as f32));
    match &spec.rope.scaling {
        RopeScaling::Linear { factor } => {
            add("rope.scaling.type", MetaValue::text("linear"));
            add("rope.scaling.factor", MetaValue::f32(*factor as f32));
        }
        RopeScaling::Yarn { factor, beta_fast, beta_slow, attention_factor, original_max_positions, .. } => {
            add("rope.scaling.type", MetaValue::text("yarn"));
            add("rope.scaling.factor", MetaValue::f32(*factor as f32));
            add("rope.scaling.original_context_length", whole(*original_max_positions)?);
            add("rope.scaling.yarn_attn_factor", MetaValue::f32(*attention_factor as f32));
            add("rope.scaling.yarn_beta_fast", MetaValue::f32(*beta_fast as f32));
            add("rope.scaling.yarn_beta_slow", MetaValue::f32(*beta_slow as f32));
        }
        RopeScaling::LongRope { attention_factor, original_max_positions, .. } => {
            add("rope.scaling.type", MetaValue::text("longrope"));
            add("rope.scaling.attn_factor", MetaValue::f32(*attention_factor as f32));
            add("rope.scaling.original_context_length", whole(*original_max_positions)?);
        }
        RopeScaling::Llama3 { original_max_positions, .. } => {
            add("rope.scaling.original_context_length", whole(*original_max_positions)?);
        }
        RopeScaling::None | RopeScaling::Dynamic { .. } => {}
    }
    if family.arch == "phi3" {
        let window = spec.windows.iter().flatten().next().copied().unwrap_or(0);
        add("attention.sliding_window", whole(window)?);
    }
    Ok(pairs)
}
