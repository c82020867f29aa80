//! A cut with linear maps behind some of its layers, which are tensors of their own and keys of its config.

use std::collections::BTreeMap;
use std::sync::Arc;

use candle_core::Tensor;
use serde_json::{Map, Value, json};

use super::Cut;
use super::config::edit_config;
use super::container::Container;
use super::stack_config::StackConfig;
use crate::arch::{Architecture, ModelSpec, SEAM_MAPS, SeamMap, seam_map_type};
use crate::checkpoint::parse_json;
use crate::{Error, Result};

impl Cut {
    /// The same with `maps` behind the layers at their places, each with the tensors that
    /// [`ModelSpec::seam_tensors`] names; its `model_type` is one that other programs refuse.
    ///
    /// # Errors
    /// Request: a model with such maps already, or one whose config says otherwise what its layers are. Work: tensors
    /// of other shapes.
    pub fn mapped(self, maps: BTreeMap<usize, (SeamMap, Vec<Tensor>)>) -> Result<Self> {
        if maps.is_empty() {
            return Ok(self);
        }
        let broken = |error: String| Error::work(format!("config.json: {error}"));
        let parse =
            |text: &str| parse_json::<Map<String, Value>>(text.as_bytes()).map_err(|error| broken(error.to_string()));
        let config = parse(self.blueprint.config())?;
        let before = ModelSpec::from_config(&config)?;
        if config.contains_key(SEAM_MAPS) || config.contains_key("block_configs") {
            return Err(Error::request(
                "config.json has seam_maps or block_configs, beside which no maps are put; start from the model without",
            ));
        }
        let class = Architecture::of(&config)?.class;
        let said = maps.iter().map(|(place, (what, _))| (place.to_string(), what.to_json())).collect();
        let stack = &StackConfig::all(&config)?[0];
        let edits = vec![
            stack.set("model_type", json!(seam_map_type(&before.model_type))),
            stack.set("architectures", json!([class])),
            stack.set(SEAM_MAPS, Value::Object(said)),
        ];
        let text = edit_config(self.blueprint.config(), &edits)?;
        let after = ModelSpec::from_config(&parse(&text)?)?;
        let expected = (0..before.layers).map(|place| maps.get(&place).map(|(what, _)| *what)).collect();
        if after != (ModelSpec { model_type: after.model_type.clone(), seam_maps: expected, ..before }) {
            return Err(broken(
                "it would describe other layers than those of the new stack; please report this".into(),
            ));
        }
        let (mut added, mut numbers) = (Vec::new(), 0);
        for (place, (_, factors)) in maps {
            let tensors = after.seam_tensors(place);
            if tensors.len() != factors.len() {
                return Err(Error::work(format!("the map behind layer {place} has {} tensors", factors.len())));
            }
            for (tensor, factor) in tensors.into_iter().zip(factors) {
                if factor.dims() != tensor.shape {
                    let found = factor.dims();
                    return Err(Error::work(format!("tensor {}: {found:?}, not {:?}", tensor.name, tensor.shape)));
                }
                numbers += factor.elem_count() as u64;
                added.push((tensor.name, factor));
            }
        }
        let blueprint = Arc::new(self.blueprint.adding(added, text)?);
        let (mut parameters, mut bytes, mut all) = (self.parameters(), self.bytes(), self.edits().to_vec());
        parameters.after += numbers;
        bytes.after += 4 * numbers;
        all.retain(|edit| edits.iter().all(|new| new.key != edit.key));
        all.extend(edits);
        let mut cut = self;
        (cut.blueprint, cut.parameters, cut.bytes, cut.edits) = (blueprint, parameters, bytes, all);
        cut.container = Container::Safetensors;
        Ok(cut)
    }
}
