//! How a checkpoint says that layers lack sub-layers. No one way is read by all programs.

use serde_json::{Map, Value, json};

use super::config::ConfigEdit;
use super::stack_config::StackConfig;
use crate::arch::{
    Activation, ModelSpec, Multipliers, NAS, NAS_CLASS, NormKind, QkNorm, Role, SubLayerKind, nas_mlp_size,
};
use crate::plan::SubLayers;
use crate::{Error, Result};

/// Where transformers finds the code of `nemotron-nas` models, with `trust_remote_code`.
const NAS_CODE: &str = "nvidia/Llama-3_3-Nemotron-Super-49B-v1";

/// A way to write layers that lack sub-layers.
#[derive(Debug)]
pub struct Format {
    /// What users call it.
    pub name: &'static str,
    /// Who reads it, in a line.
    pub about: &'static str,
    /// Whether the tensors of missing sub-layers stay, and those that end them are zeros.
    pub is_zeros: bool,
    edits: fn(&Missing<'_>) -> Result<Vec<ConfigEdit>>,
}

/// Every format.
pub const FORMATS: &[Format] = &[
    Format {
        name: "per-layer",
        about: "transformers' per_layer_config with skip: any family, read by prune; transformers 5.23 reads the key, \
                but its models do not leave the parts out yet",
        is_zeros: false,
        edits: per_layer,
    },
    Format {
        name: "nas",
        about: "block_configs of DeciLM and Nemotron-NAS: Llama and its like, read by vLLM, TensorRT-LLM, SGLang, \
                llama.cpp's converter and prune",
        is_zeros: false,
        edits: nas,
    },
    Format {
        name: "zeros",
        about: "the last projection of what is left out is zero: opens everywhere, computes the same, saves nothing",
        is_zeros: true,
        edits: |_| Ok(Vec::new()),
    },
];

/// The format called `name`.
///
/// # Errors
/// Request: there is none; the message lists all.
pub fn format(name: &str) -> Result<&'static Format> {
    FORMATS.iter().find(|format| format.name == name).ok_or_else(|| {
        let known: Vec<_> = FORMATS.iter().map(|format| format.name).collect();
        Error::request(format!("no format is called {name:?}; there are {}", known.join(", ")))
    })
}

/// What the new stack lacks.
pub(super) struct Missing<'a> {
    /// The source's config, as it stands before.
    pub(super) stack: &'a StackConfig<'a>,
    /// The source's model.
    pub(super) spec: &'a ModelSpec,
    /// At each place of the new stack, what its layer lacked before.
    pub(super) before: Vec<SubLayers>,
    /// And what it lacks from now on.
    pub(super) after: Vec<SubLayers>,
    /// The source's layer at each place.
    pub(super) layers: &'a [usize],
}

impl Format {
    /// What the config says of it. The edits come after those that move what is said of single layers.
    ///
    /// # Errors
    /// Request: a model, or a stack, that the format has no words for.
    pub(super) fn edits(&self, missing: &Missing<'_>) -> Result<Vec<ConfigEdit>> {
        match missing.before == missing.after {
            true => Ok(Vec::new()),
            false => (self.edits)(missing),
        }
    }
}

fn per_layer(missing: &Missing<'_>) -> Result<Vec<ConfigEdit>> {
    if missing.spec.model_type == NAS {
        return Err(Error::request("the model says in block_configs what its layers lack: --format nas"));
    }
    let skipped = missing.after.iter().enumerate().filter(|(_, without)| !without.is_empty());
    let skipped = skipped.map(|(place, without)| (place.to_string(), json!({"skip": without})));
    Ok(vec![missing.stack.set("per_layer_config", Value::Object(skipped.collect()))])
}

/// As vLLM's `nemotron_nas`, TensorRT-LLM's, SGLang's and llama.cpp's converter read it: `n_heads_in_group` and
/// `ffn_mult` are null where there is nothing, and the MLP's width is computed from `ffn_mult`.
fn nas(missing: &Missing<'_>) -> Result<Vec<ConfigEdit>> {
    let Missing { stack, spec, .. } = missing;
    let factor = nas_factor(spec)?;
    if missing.after.first().is_some_and(|without| without.attention) {
        return Err(Error::request(
            "--format nas: vLLM's loader needs attention in the first layer (0); leave it there, or write --format \
             per-layer or zeros",
        ));
    }
    let blocks: Vec<Value> = missing.after.iter().map(|without| block(*without, spec, factor)).collect();
    if spec.model_type == NAS {
        // those of the source have keys of their own, which stay
        let list = stack.keys.get("block_configs").and_then(Value::as_array);
        let own = missing.layers.iter().map(|layer| list.and_then(|list| list.get(*layer)));
        let merged = own.zip(&blocks).map(|(own, block)| merged(own, block)).collect();
        return Ok(vec![stack.set("block_configs", Value::Array(merged))]);
    }
    let code = |class: &str| json!(format!("{NAS_CODE}--{class}"));
    let mut edits = vec![
        stack.set("block_configs", Value::Array(blocks)),
        stack.set("model_type", json!(NAS)),
        stack.set("architectures", json!([NAS_CLASS])),
        stack.set(
            "auto_map",
            json!({
                "AutoConfig": code("configuration_decilm.DeciLMConfig"),
                "AutoModelForCausalLM": code(&format!("modeling_decilm.{NAS_CLASS}")),
            }),
        ),
    ];
    if stack.keys.contains_key("per_layer_config") {
        edits.push(stack.remove("per_layer_config"));
    }
    Ok(edits)
}

/// `ffn_mult` of the model's MLPs.
///
/// # Errors
/// Request: a model that is not a Llama to the loaders of `block_configs`.
fn nas_factor(spec: &ModelSpec) -> Result<f64> {
    let refused = [
        (spec.fused_qkv || spec.fused_gate_up, "its projections are fused"),
        (spec.experts.is_some(), "it has experts"),
        (spec.qk_norm != QkNorm::None, "its queries and keys have norms"),
        (spec.norm != NormKind::Rms || !spec.adds_plainly(), "its norms or residual updates are others"),
        (!spec.gated || spec.activation != Activation::Silu, "its MLP computes something else"),
        (spec.multipliers != Multipliers::plain(spec.head_dim), "it multiplies or caps what a Llama does not"),
        (spec.rope.interleaved || spec.rope.rotary_dim != spec.head_dim, "it rotates otherwise"),
        (spec.qkv_bias != spec.o_bias, "it has biases on some projections of attention and not on others"),
        (spec.windows.iter().any(Option::is_some), "its attention has sliding windows"),
        (spec.rotated.contains(&false), "some of its layers do not rotate"),
        (spec.heads * spec.head_dim != spec.hidden_size, "its heads together are not as wide as the stream"),
        (!spec.mlp_size.is_multiple_of(256), "the width of its MLP is no multiple of 256"),
    ];
    if let Some((_, why)) = refused.iter().find(|(is, _)| *is) {
        return Err(Error::request(format!(
            "--format nas: such a checkpoint is a Llama to what reads it, and this model is none: {why}; write --format \
             per-layer or zeros"
        )));
    }
    let factor = 1.5 * spec.mlp_size as f64 / spec.hidden_size as f64;
    // readers keep six digits
    let factor = (factor * 1e6).floor() / 1e6;
    match nas_mlp_size(factor, spec.hidden_size) == Some(spec.mlp_size) {
        true => Ok(factor),
        false => Err(Error::request("--format nas: no ffn_mult gives the width of this model's MLP")),
    }
}

fn block(without: SubLayers, spec: &ModelSpec, factor: f64) -> Value {
    let group = spec.heads / spec.kv_heads;
    json!({
        "attention": {
            "n_heads_in_group": if without.attention { Value::Null } else { json!(group) },
            "no_op": without.attention,
            "num_sink_tokens": null,
            "replace_with_linear": false,
            "sparsify": null,
            "unshifted_sink": false,
            "use_prefill_window_in_sink_attention": false,
            "window_length": null,
        },
        "ffn": {
            "ffn_mult": if without.mlp { Value::Null } else { json!(factor) },
            "no_op": without.mlp,
            "replace_with_linear": false,
            "sparsify": null,
        },
    })
}

/// `own` with what `block` says of parts that are left out.
fn merged(own: Option<&Value>, block: &Value) -> Value {
    let Some(own) = own.and_then(Value::as_object) else { return block.clone() };
    let mut merged = own.clone();
    for part in ["attention", "ffn"] {
        let said = &block[part];
        if said["no_op"] == Value::Bool(true)
            && let Some(known) = merged.get_mut(part).and_then(Value::as_object_mut)
        {
            let news: Map<String, Value> = said.as_object().cloned().unwrap_or_default();
            known.extend(
                news.into_iter().filter(|(key, _)| ["n_heads_in_group", "ffn_mult", "no_op"].contains(&&**key)),
            );
        }
    }
    Value::Object(merged)
}

/// The modules that end a sub-layer of this kind: with zeros there, its update is zero.
pub(super) fn last_modules(spec: &ModelSpec, kind: SubLayerKind) -> Vec<String> {
    let roles = spec.sublayer_roles(kind);
    let last = roles.iter().rfind(|role| role.is_linear()).copied();
    let ends = roles.into_iter().filter(|role| match kind {
        // each expert ends by itself
        SubLayerKind::Experts => matches!(role, Role::ExpertDown(_) | Role::ExpertsDown | Role::SharedDown),
        _ => Some(*role) == last,
    });
    ends.map(|role| spec.module(role).into_owned()).collect()
}
