//! What DoRA takes of memory and time beside plain adapters.

use std::collections::BTreeMap;

use super::choices::Train;
use super::settings::HealSettings;
use crate::Result;
use crate::arch::{ModelSpec, Role};
use crate::model::TrainingCost;
use crate::weights::lora::NORMS;

/// Outputs of the layers that have magnitudes; none without DoRA.
#[derive(Debug, Default)]
pub(super) struct Outputs {
    all: u64,
    /// Of a layer, at most, in attention and in the rest, and of one module.
    attention: u64,
    others: u64,
    widest: u64,
    /// Operations of a token in products with their weights.
    flops: f64,
}

/// Those of a healing of `spec` by `settings`.
///
/// # Errors
/// Request: as [`HealSettings::lora`].
pub(super) fn outputs(spec: &ModelSpec, settings: &HealSettings) -> Result<Outputs> {
    let mut found = Outputs::default();
    if !settings.dora || settings.train != Train::Lora {
        return Ok(found);
    }
    let mut layers = BTreeMap::<usize, (u64, u64)>::new();
    for (layer, role, _) in settings.lora(spec)?.modules(spec)? {
        let shape = spec.layer_tensor(layer, role).shape;
        let outputs = shape.first().map_or(0, |outputs| *outputs as u64);
        let of_layer = layers.entry(layer).or_default();
        match is_attention(role) {
            true => of_layer.0 += outputs,
            false => of_layer.1 += outputs,
        }
        found.all += outputs;
        found.widest = found.widest.max(outputs);
        found.flops += 2.0 * shape.iter().product::<usize>() as f64;
    }
    for (attention, others) in layers.into_values() {
        (found.attention, found.others) = (found.attention.max(attention), found.others.max(others));
    }
    Ok(found)
}

fn is_attention(role: Role) -> bool {
    role.is_of_attention()
}

impl Outputs {
    /// Bytes of squares, norms and ratios.
    pub(super) fn norms_bytes(&self) -> u64 {
        NORMS as u64 * self.all
    }

    /// `cost` with what is saved of each product, f32, until its gradient comes; on the way back there are its
    /// gradient, its difference to that of the output, and what dropout took of the input.
    pub(super) fn with(&self, cost: TrainingCost) -> TrainingCost {
        TrainingCost {
            saved: cost.saved + 4 * (self.attention + self.others),
            held: cost.held + 4 * self.attention,
            mixing: cost.mixing + 4 * self.attention + 12 * self.widest,
            chunk: cost.chunk + 4 * self.others + 12 * self.widest,
        }
    }

    /// Operations of a token: with dropout a second product forward, again where layers are computed again, and back.
    pub(super) fn more_flops(&self, dropout: f64, recomputed: f64) -> f64 {
        if dropout > 0.0 { self.flops * (2.0 + recomputed) } else { 0.0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_has_magnitudes_counts() {
        let config = serde_json::json!({
            "model_type": "llama", "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 4,
            "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 64, "max_position_embeddings": 128,
            "rms_norm_eps": 1e-5, "tie_word_embeddings": false,
        });
        let spec = ModelSpec::from_config(config.as_object().unwrap()).unwrap();
        let (d, f) = (spec.hidden_size as u64, spec.mlp_size as u64);
        let of = |text: &str| outputs(&spec, &toml::from_str(text).unwrap()).unwrap();
        assert_eq!(of("rank = 2").norms_bytes(), 0);
        let found = of("rank = 2\ndora = true\nlayers_to_transform = \"1-2\"");
        assert_eq!((found.all, found.attention, found.others), (2 * (2 * f + d), 0, 2 * f + d));
        assert_eq!(found.with(TrainingCost::default()).saved, 4 * (2 * f + d));
        assert_eq!((found.more_flops(0.0, 1.0), found.more_flops(0.1, 0.5)), (0.0, 2.5 * 2.0 * (2 * 3 * f * d) as f64));
        assert!(of("rank = 2\ndora = true\ntarget = \"attention\"").attention > 0);
    }
}
