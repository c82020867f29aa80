//! Whether the layers of two models compute alike, so that a tensor of one means the same in the other.

use super::{ModelSpec, RopeScaling};

impl ModelSpec {
    /// The first that sets the layers of `other` apart from this model's: the config's key or what it says, and its
    /// value here and there. `None` where every tensor of one can stand in the other; what the two are called, and the
    /// context they promise, may differ.
    #[must_use]
    pub fn difference(&self, other: &Self) -> Option<(&'static str, String, String)> {
        let pairs = said(self).into_iter().zip(said(other));
        pairs.filter(|(own, theirs)| own != theirs).map(|((key, own), (_, theirs))| (key, own, theirs)).next()
    }
}

/// All that decides what a layer computes, in words.
fn said(spec: &ModelSpec) -> Vec<(&'static str, String)> {
    let rope = &spec.rope;
    // only this stretch asks how long the context is
    let context = if matches!(rope.scaling, RopeScaling::Dynamic { .. }) { rope.max_positions } else { 0 };
    let each = |what: &dyn Fn(usize) -> String| (0..spec.layers).map(what).collect::<Vec<_>>().join(", ");
    let window = |layer: usize| spec.windows[layer].map_or_else(|| "none".to_owned(), |window| window.to_string());
    vec![
        ("num_hidden_layers", spec.layers.to_string()),
        ("hidden_size", spec.hidden_size.to_string()),
        ("intermediate_size", spec.mlp_size.to_string()),
        ("num_attention_heads", spec.heads.to_string()),
        ("num_key_value_heads", spec.kv_heads.to_string()),
        ("head_dim", spec.head_dim.to_string()),
        ("vocab_size", spec.vocab_size.to_string()),
        ("epsilon of the norms", spec.norm_eps.to_string()),
        ("rope_theta", rope.theta.to_string()),
        ("rope_scaling", format!("{:?}", rope.scaling)),
        ("rotated dimensions of a head", rope.rotary_dim.to_string()),
        ("interleaved rotations", rope.interleaved.to_string()),
        ("rotations of layers with windows", format!("{:?}", spec.sliding_rope)),
        ("max_position_embeddings", context.to_string()),
        ("bias on query, key and value", spec.qkv_bias.to_string()),
        ("bias on the attention output", spec.o_bias.to_string()),
        ("bias on the MLP", spec.mlp_bias.to_string()),
        ("norm on queries and keys", format!("{:?}", spec.qk_norm)),
        ("latent attention", format!("{:?}", spec.latent)),
        ("sinks of attention", spec.sinks.to_string()),
        ("norms", format!("{:?}, {:?}", spec.norm, spec.norm_places)),
        ("parallel sub-layers", format!("{}, a norm each: {}", spec.parallel, spec.norm_each)),
        ("experts", format!("{:?}", spec.experts)),
        ("layers with experts", each(&|layer| spec.sparse[layer].to_string())),
        ("gate of the MLP", spec.gated.to_string()),
        ("activation", if spec.xielu { "xielu".to_owned() } else { format!("{:?}", spec.activation) }),
        ("multipliers and caps", format!("{:?}", spec.multipliers)),
        ("bias on the head", spec.head_bias.to_string()),
        ("projections in one tensor", format!("{}, {}, {}", spec.fused_qkv, spec.qkv_by_head, spec.fused_gate_up)),
        ("sliding windows by layer", each(&window)),
        ("rotated layers", each(&|layer| spec.rotated[layer].to_string())),
        ("missing sub-layers by layer", each(&|layer| format!("[{}]", spec.without[layer]))),
    ]
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn spec(changes: Value) -> ModelSpec {
        let mut config = json!({
            "model_type": "llama", "hidden_size": 16, "intermediate_size": 12, "num_attention_heads": 4,
            "num_key_value_heads": 2, "num_hidden_layers": 3, "vocab_size": 16, "max_position_embeddings": 64,
        });
        config.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
        ModelSpec::from_config(config.as_object().unwrap()).unwrap()
    }

    #[test]
    fn what_differs_is_named_with_both_values() {
        let own = spec(json!({}));
        for (changes, key, theirs) in [
            (json!({"num_hidden_layers": 4}), "num_hidden_layers", "4"),
            (json!({"vocab_size": 17}), "vocab_size", "17"),
            (json!({"num_key_value_heads": 4, "rope_theta": 5.0}), "num_key_value_heads", "4"),
            (json!({"rms_norm_eps": 0.5}), "epsilon of the norms", "0.5"),
            (json!({"rope_scaling": {"rope_type": "linear", "factor": 2.0}}), "rope_scaling", "Linear { factor: 2.0 }"),
            (json!({"attention_bias": true}), "bias on query, key and value", "true"),
            (json!({"model_type": "mistral", "sliding_window": 5}), "sliding windows by layer", "5, 5, 5"),
        ] {
            let (named, here, there) = own.difference(&spec(changes)).unwrap();
            assert_eq!((named, there.as_str()), (key, theirs));
            assert_ne!(here, there);
        }
    }

    #[test]
    fn names_and_promises_may_differ() {
        let own = spec(json!({}));
        for changes in [
            json!({}),
            json!({"max_position_embeddings": 128}),
            json!({"model_type": "mistral", "sliding_window": null}),
        ] {
            assert_eq!(own.difference(&spec(changes)), None);
        }
        let stretched = |context: usize| {
            spec(json!({"max_position_embeddings": context, "rope_scaling": {"rope_type": "dynamic", "factor": 2.0}}))
        };
        let (key, ..) = stretched(64).difference(&stretched(128)).unwrap();
        assert_eq!(key, "max_position_embeddings");
    }
}
