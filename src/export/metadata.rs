//! The config as llama.cpp's keys.

use super::StoredAs;
use crate::arch::{ModelSpec, RopeScaling};
use crate::card::called;
use crate::checkpoint::Checkpoint;
use crate::checkpoint::gguf::{Family, MetaValue};
use crate::plan::PlannedFor;
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

/// All keys but the tokenizer's.
///
/// # Errors
/// Work: a number that is too large for its key.
pub(super) fn pairs(source: &Checkpoint, spec: &ModelSpec, family: &Family, stored: &StoredAs) -> Result<Pairs> {
    let parent = PlannedFor {
        id: source.source.id.clone(),
        revision: source.source.revision.clone(),
        fingerprint: String::new(),
        layers: spec.layers,
    };
    let mut pairs: Pairs = vec![
        ("general.architecture".to_owned(), MetaValue::text(family.arch)),
        ("general.type".to_owned(), MetaValue::text("model")),
        ("general.name".to_owned(), MetaValue::text(&called(&parent))),
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
