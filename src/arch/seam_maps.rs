//! Linear maps behind layers, as a config says it. No program but this one reads them, so `model_type` is one that
//! others refuse; `architectures` says what the layers are.
//!
//! ```json
//! {"model_type": "llama-seam-maps", "architectures": ["LlamaForCausalLM"], "seam_maps": {"7": "full", "12": 64}}
//! ```

use serde_json::Value;

use super::keys::Keys;
use super::{LayerTensor, ModelSpec, Role, SeamMap};
use crate::{Error, Result};

/// The key: an object from layer numbers to `"full"` or a rank.
pub(crate) const SEAM_MAPS: &str = "seam_maps";
/// What `model_type` ends with.
const SUFFIX: &str = "-seam-maps";

/// The `model_type` of a model with maps whose layers are those of `model_type`.
pub(crate) fn seam_map_type(model_type: &str) -> String {
    format!("{}{SUFFIX}", model_type.trim_end_matches(SUFFIX))
}

/// The map behind each of `layers` layers of width `hidden_size`, `[l]`.
///
/// # Errors
/// Work: a layer that is not there, a rank that makes no sense.
pub(super) fn read(keys: &Keys<'_>, layers: usize, hidden_size: usize) -> Result<Vec<Option<SeamMap>>> {
    let mut maps = vec![None; layers];
    let Some(value) = keys.get(SEAM_MAPS) else { return Ok(maps) };
    let entries = value.as_object().ok_or_else(|| keys.fault(SEAM_MAPS, value, "an object by layer numbers"))?;
    for (layer, value) in entries {
        let place = || format!("{SEAM_MAPS}.{layer}");
        let slot = layer.parse().ok().and_then(|layer: usize| maps.get_mut(layer));
        let slot = slot.ok_or_else(|| Error::work(format!("{}: there are layers 0 to {}", place(), layers - 1)))?;
        let rank = value.as_u64().filter(|rank| (1..=hidden_size as u64).contains(rank));
        *slot = Some(match (value, rank) {
            (Value::String(full), _) if full == "full" => SeamMap::Full,
            (_, Some(rank)) => SeamMap::Rank(rank as usize),
            _ => {
                return Err(Error::work(format!(
                    "{} is {value}, expected \"full\" or a rank from 1 to {hidden_size}",
                    place()
                )));
            }
        });
    }
    Ok(maps)
}

impl SeamMap {
    /// What the config says of it.
    pub(crate) fn to_json(self) -> Value {
        match self {
            Self::Full => "full".into(),
            Self::Rank(rank) => rank.into(),
        }
    }
}

impl ModelSpec {
    /// The tensors of the map behind layer `l`, in the order in which they multiply; none where there is no map. They
    /// are no part of [`ModelSpec::layer_tensors`]: nothing trains, quantises or merges them.
    #[must_use]
    pub fn seam_tensors(&self, l: usize) -> Vec<LayerTensor> {
        let d = self.hidden_size;
        let tensor = |part: &str, shape: [usize; 2]| LayerTensor {
            role: Role::SeamMap,
            name: format!("{}{l}.{}{part}.weight", self.layer_prefix, self.module(Role::SeamMap)),
            shape: shape.to_vec(),
            bias: None,
        };
        match self.seam_maps.get(l).copied().flatten() {
            None => Vec::new(),
            Some(SeamMap::Full) => vec![tensor("", [d, d])],
            Some(SeamMap::Rank(rank)) => vec![tensor(".reduce", [rank, d]), tensor(".expand", [d, rank])],
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn spec(maps: &Value) -> Result<ModelSpec> {
        let config = json!({
            "model_type": "llama-seam-maps", "architectures": ["LlamaForCausalLM"], "hidden_size": 8,
            "intermediate_size": 12, "num_attention_heads": 4, "num_hidden_layers": 3, "vocab_size": 16, SEAM_MAPS: maps,
        });
        ModelSpec::from_config(config.as_object().unwrap())
    }

    #[test]
    fn a_config_says_which_layers_have_maps() {
        let spec = spec(&json!({"0": "full", "2": 3})).unwrap();
        assert_eq!(spec.seam_maps, [Some(SeamMap::Full), None, Some(SeamMap::Rank(3))]);
        let shapes = |l| spec.seam_tensors(l).into_iter().map(|own| (own.name, own.shape)).collect::<Vec<_>>();
        assert_eq!(shapes(0), [("model.layers.0.seam_map.weight".to_owned(), vec![8, 8])]);
        assert_eq!(shapes(2)[0], ("model.layers.2.seam_map.reduce.weight".to_owned(), vec![3, 8]));
        assert_eq!(shapes(2)[1], ("model.layers.2.seam_map.expand.weight".to_owned(), vec![8, 3]));
        assert!(shapes(1).is_empty());
        assert_eq!(spec.stacked(&[2, 1]).seam_maps, [Some(SeamMap::Rank(3)), None]);
        assert_eq!(seam_map_type(&spec.model_type), spec.model_type);
    }

    #[test]
    fn what_makes_no_sense_is_named() {
        for (maps, word) in [
            (json!({"3": "full"}), "seam_maps.3: there are layers 0 to 2"),
            (json!({"1": 0}), "seam_maps.1 is 0, expected"),
            (json!({"1": 9}), "a rank from 1 to 8"),
            (json!({"1": "half"}), "\"half\""),
            (json!([1]), "an object by layer numbers"),
        ] {
            let error = spec(&maps).unwrap_err().to_string();
            assert!(error.contains(word), "{error}");
        }
    }
}
