//! What differs from layer to layer: sliding windows and layers without rotation.

use serde_json::Value;

use super::keys::Keys;
use super::table::{Architecture, WindowRule};
use crate::{Error, Result};

/// Whether each layer rotates, `[l]`.
pub(super) fn rotated(keys: &Keys<'_>, row: &Architecture, layers: usize) -> Result<Vec<bool>> {
    let list = keys.list("no_rope_layers")?;
    if let Some(list) = list.filter(|list| list.len() < layers) {
        return Err(wrong_length("no_rope_layers", list, layers));
    }
    // 1 rotates, 0 does not, whatever the key's name suggests
    let rotates = |value: &Value| match value.as_u64().or(value.as_bool().map(u64::from)) {
        Some(flag @ 0..=1) => Ok(flag == 1),
        _ => Err(keys.fault("no_rope_layers", value, "ones and zeros")),
    };
    // transformers allows it to go on beyond the layers
    let list = list.map(|list| list[..layers].iter().map(rotates).collect::<Result<Vec<_>>>()).transpose()?;
    match (row.unrotated_interval, list) {
        (Some(_), Some(list)) => Ok(list),
        (Some(interval), None) => {
            let interval = keys.size("no_rope_layer_interval")?.unwrap_or(interval);
            Ok((0..layers).map(|layer| (layer + 1) % interval != 0).collect())
        }
        (None, Some(list)) if list.contains(&false) => Err(Error::request(format!(
            "no_rope_layers leaves layers without rotation, which a {} block does not compute",
            row.model_type
        ))),
        (None, _) => Ok(vec![true; layers]),
    }
}

/// The sliding window of each layer, `[l]`: the number of tokens it sees, its own included.
pub(super) fn windows(keys: &Keys<'_>, row: &Architecture, rotated: &[bool]) -> Result<Vec<Option<usize>>> {
    let layers = rotated.len();
    let listed = listed(keys, layers)?;
    let switched_on = keys.flag("use_sliding_window")?.unwrap_or(false);
    // absent is the row's default, null is no window
    let window = |default: Option<usize>| match keys.map().get("sliding_window") {
        None => Ok(default),
        Some(_) => keys.length("sliding_window"),
    };
    let by_list = |window: Option<usize>, list: Vec<bool>| {
        let missing = || Error::work("layer_types has sliding_attention, but no sliding_window is switched on");
        list.into_iter().map(|slides| if slides { window.ok_or_else(missing).map(Some) } else { Ok(None) }).collect()
    };
    match row.windows {
        WindowRule::Never => match listed {
            Some(list) if list.contains(&true) => Err(disputed(row, "sliding_attention")),
            _ => Ok(vec![None; layers]),
        },
        WindowRule::EveryLayer(default) => {
            let window = window(default)?;
            match listed {
                Some(list) if window.is_some() && list.contains(&false) => Err(disputed(row, "full_attention")),
                Some(list) if window.is_none() && list.contains(&true) => Err(disputed(row, "sliding_attention")),
                _ => Ok(vec![window; layers]),
            }
        }
        WindowRule::Listed(default) => {
            let window = window(default)?;
            by_list(window, listed.unwrap_or_else(|| vec![window.is_some(); layers]))
        }
        WindowRule::UpperLayers { window: default, from } => {
            let window = if switched_on { window(Some(default))? } else { None };
            let from = keys.count("max_window_layers")?.unwrap_or(from);
            by_list(window, listed.unwrap_or_else(|| (0..layers).map(|l| window.is_some() && l >= from).collect()))
        }
        WindowRule::Unrotated => {
            let window = window(None)?;
            let slides = |rotated: &bool| switched_on && window.is_some() && !rotated;
            by_list(window, listed.unwrap_or_else(|| rotated.iter().map(slides).collect()))
        }
    }
}

/// Which layers `layer_types` calls sliding.
fn listed(keys: &Keys<'_>, layers: usize) -> Result<Option<Vec<bool>>> {
    let Some(list) = keys.list("layer_types")? else { return Ok(None) };
    if list.len() != layers {
        return Err(wrong_length("layer_types", list, layers));
    }
    let slides = |value: &Value| match value.as_str() {
        Some("full_attention" | "attention") => Ok(false),
        Some("sliding_attention") => Ok(true),
        _ => Err(keys.fault("layer_types", value, "full_attention or sliding_attention")),
    };
    list.iter().map(slides).collect::<Result<_>>().map(Some)
}

fn wrong_length(key: &str, list: &[Value], layers: usize) -> Error {
    Error::work(format!("{key} has {} entries, expected one for each of the {layers} layers", list.len()))
}

/// A list that the row's class in transformers would not heed.
fn disputed(row: &Architecture, entry: &str) -> Error {
    Error::request(format!(
        "layer_types has {entry}, which a {} block does not heed; what computes it as listed is model_type ministral",
        row.model_type
    ))
}
