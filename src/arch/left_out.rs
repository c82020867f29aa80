//! Layers that lack sub-layers, as configs say it: transformers' `per_layer_config`, NVIDIA's `block_configs`.
//!
//! ```json
//! {"per_layer_config": {"7": {"skip": ["attention"]}}}
//! {"block_configs": [{"attention": {"no_op": true}, "ffn": {"no_op": false, "ffn_mult": 5.25}}]}
//! ```

use serde_json::{Map, Value};

use super::keys::Keys;
use crate::plan::SubLayers;
use crate::{Context, Error, Result};

/// `model_type` of Llama with `block_configs` (DeciLM, Nemotron-NAS), which vLLM, TensorRT-LLM and llama.cpp read.
pub(crate) const NAS: &str = "nemotron-nas";
/// Its entry of `architectures`.
pub(crate) const NAS_CLASS: &str = "DeciLMForCausalLM";

/// What `block_configs` says.
#[derive(Debug)]
pub(super) struct Blocks {
    /// What each layer lacks, `[l]`.
    pub(super) without: Vec<SubLayers>,
    /// Query heads of one KV head, in every layer that has attention; `None` where none has.
    pub(super) group: Option<usize>,
    /// `f`, in every layer that has an MLP; `None` where none has.
    pub(super) mlp_size: Option<usize>,
}

/// What each of `layers` layers lacks by `per_layer_config`, `[l]`: an object by layer numbers, or a list.
///
/// # Errors
/// Work: a layer that is not there, a part that no layer has. Request: settings of single layers that are not computed.
pub(super) fn skipped(keys: &Keys<'_>, layers: usize) -> Result<Vec<SubLayers>> {
    const KEY: &str = "per_layer_config";
    let mut without = vec![SubLayers::default(); layers];
    let entries: Vec<(String, &Value)> = match keys.get(KEY) {
        None => return Ok(without),
        Some(Value::Object(map)) => map.iter().map(|(layer, value)| (layer.clone(), value)).collect(),
        Some(Value::Array(list)) => list.iter().enumerate().map(|(layer, value)| (layer.to_string(), value)).collect(),
        Some(other) => return Err(keys.fault(KEY, other, "an object by layer numbers")),
    };
    for (layer, value) in entries {
        let place = || format!("{KEY}.{layer}");
        let slot = layer.parse().ok().and_then(|layer: usize| without.get_mut(layer));
        let slot = slot.ok_or_else(|| Error::work(format!("{}: there are layers 0 to {}", place(), layers - 1)))?;
        let settings = value.as_object().ok_or_else(|| Error::work(format!("{}: expected an object", place())))?;
        for (key, value) in settings {
            if key != "skip" {
                return Err(Error::request(format!("{} sets {key}, which is not computed for single layers", place())));
            }
            let names: Option<Vec<&str>> = value.as_array().map(|list| list.iter().filter_map(Value::as_str).collect());
            let names = names.ok_or_else(|| Error::work(format!("{}.skip: expected a list of names", place())))?;
            *slot = SubLayers::named(names).context(|| format!("{}.skip", place()))?;
        }
    }
    Ok(without)
}

/// What `block_configs` says of `layers` layers of width `hidden_size`.
///
/// # Errors
/// Work: the key is missing or makes no sense. Request: layers of different widths, blocks that are not computed.
pub(super) fn blocks(keys: &Keys<'_>, layers: usize, hidden_size: usize) -> Result<Blocks> {
    let list = keys.needed("block_configs", keys.list("block_configs")?)?;
    if list.len() != layers {
        return Err(Error::work(format!("block_configs has {} entries for {layers} layers", list.len())));
    }
    let mut blocks = Blocks { without: Vec::new(), group: None, mlp_size: None };
    for (layer, block) in list.iter().enumerate() {
        let place = || format!("block_configs[{layer}]");
        let part = |name: &str| -> Result<(bool, &Map<String, Value>)> {
            let part = block.get(name).and_then(Value::as_object);
            let part = part.ok_or_else(|| Error::work(format!("expected an object `{name}`"))).context(place)?;
            let on = |key: &str| part.get(key).is_some_and(|value| *value == Value::Bool(true));
            if on("replace_with_linear") {
                return Err(Error::request(format!("{}.{name} is a linear layer, which is not computed", place())));
            }
            Ok((on("no_op"), part))
        };
        let ((no_attention, attention), (no_mlp, ffn)) = (part("attention")?, part("ffn")?);
        if !no_attention {
            let group = attention.get("n_heads_in_group").and_then(Value::as_u64).filter(|group| *group > 0);
            same(&mut blocks.group, group.map(|group| group as usize), "n_heads_in_group").context(place)?;
        }
        if !no_mlp {
            let stated = ffn.get("intermediate_size").and_then(Value::as_u64).map(|size| size as usize);
            let factor = ffn.get("ffn_mult").and_then(Value::as_f64);
            let size = stated.or_else(|| factor.and_then(|factor| nas_mlp_size(factor, hidden_size)));
            same(&mut blocks.mlp_size, size, "ffn_mult").context(place)?;
        }
        blocks.without.push(SubLayers { attention: no_attention, mlp: no_mlp });
    }
    Ok(blocks)
}

/// Keeps `found` as what all layers have.
fn same(known: &mut Option<usize>, found: Option<usize>, key: &str) -> Result<()> {
    match (*known, found) {
        (_, None) => Err(Error::work(format!("{key} is missing or makes no sense"))),
        (Some(known), Some(found)) if known != found => Err(Error::request(format!(
            "{key} makes layers of different widths ({known} and {found}), which are not computed"
        ))),
        _ => {
            *known = found;
            Ok(())
        }
    }
}

/// The width of an MLP whose `ffn_mult` is `factor`, as the loaders of `block_configs` compute it: two thirds of
/// `factor` times the width of the stream, rounded down, then up to a multiple of 256.
#[must_use]
pub fn nas_mlp_size(factor: f64, hidden_size: usize) -> Option<usize> {
    let size = (2.0 * factor * hidden_size as f64 / 3.0).floor();
    (size >= 1.0 && size < f64::from(1u32 << 24)).then(|| (size as usize).next_multiple_of(256))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::ModelSpec;
    use super::*;

    fn spec(patch: &Value) -> Result<ModelSpec> {
        let mut config = json!({
            "model_type": "llama", "hidden_size": 384, "intermediate_size": 512, "num_attention_heads": 6,
            "num_key_value_heads": 2, "num_hidden_layers": 3, "vocab_size": 64,
        });
        config.as_object_mut().unwrap().extend(patch.as_object().unwrap().clone());
        ModelSpec::from_config(config.as_object().unwrap())
    }

    const NONE: SubLayers = SubLayers { attention: false, mlp: false };
    const ATTENTION: SubLayers = SubLayers { attention: true, mlp: false };
    const MLP: SubLayers = SubLayers { attention: false, mlp: true };

    #[test]
    fn transformers_says_it_by_layer() {
        let skip = json!({"per_layer_config": {"0": {"skip": ["mlp"]}, "2": {"skip": ["attention"]}, "1": {}}});
        assert_eq!(spec(&skip).unwrap().without, [MLP, NONE, ATTENTION]);
        let list = json!({"per_layer_config": [{}, {"skip": ["attention"]}]});
        assert_eq!(spec(&list).unwrap().without, [NONE, ATTENTION, NONE]);
        assert_eq!(spec(&json!({})).unwrap().without, [NONE; 3]);
        for (wrong, code, word) in [
            (json!({"3": {"skip": ["mlp"]}}), 1, "per_layer_config.3: there are layers 0 to 2"),
            (json!({"1": {"skip": ["ffn"]}}), 1, "\"ffn\""),
            (json!({"1": {"skip": "mlp"}}), 1, "a list of names"),
            (json!({"1": {"intermediate_size": 8}}), 2, "sets intermediate_size"),
            (json!(3), 1, "an object by layer numbers"),
        ] {
            let error = spec(&json!({"per_layer_config": wrong})).unwrap_err();
            assert!(error.exit_code() == code && error.to_string().contains(word), "{error}");
        }
    }

    #[test]
    fn nvidia_says_it_for_every_layer() {
        let block = |no_attention: bool, no_mlp: bool| {
            let group = if no_attention { Value::Null } else { json!(3) };
            let factor = if no_mlp { Value::Null } else { json!(2.0) };
            json!({
                "attention": {"n_heads_in_group": group, "no_op": no_attention, "replace_with_linear": false},
                "ffn": {"ffn_mult": factor, "no_op": no_mlp, "replace_with_linear": false},
            })
        };
        let blocks = json!([block(false, false), block(true, false), block(false, true)]);
        let nas = |blocks: Value| {
            spec(&json!({
                "model_type": NAS, "architectures": [NAS_CLASS], "block_configs": blocks,
                "num_key_value_heads": null, "intermediate_size": null,
            }))
        };
        let found = nas(blocks.clone()).unwrap();
        assert_eq!((found.kv_heads, found.mlp_size, &found.without[..]), (2, 512, &[NONE, ATTENTION, MLP][..]));
        let mut wide = blocks.clone();
        wide[0]["ffn"]["ffn_mult"] = json!(3.0);
        let mut linear = blocks.clone();
        linear[2]["attention"]["replace_with_linear"] = json!(true);
        let mut broken = blocks;
        broken[1]["ffn"]["ffn_mult"] = json!(null);
        for (blocks, word) in [
            (wide, "different widths (768 and 512)"),
            (linear, "block_configs[2].attention is a linear layer"),
            (broken, "block_configs[1]: ffn_mult is missing"),
            (json!([]), "0 entries for 3 layers"),
        ] {
            let error = nas(blocks).unwrap_err().to_string();
            assert!(error.contains(word), "{error}");
        }
    }
}
