//! What differs from layer to layer: sliding windows and layers without rotation.

use serde_json::Value;

use super::keys::Keys;
use super::kinds::RotationRule;
use super::table::{Architecture, WindowRule};
use crate::{Error, Result};

/// The sliding window of each layer, and whether it rotates, both `[l]`.
pub(super) fn read(keys: &Keys<'_>, row: &Architecture, layers: usize) -> Result<(Vec<Option<usize>>, Vec<bool>)> {
    let listed = listed_rotations(keys, row, layers)?;
    let windows = windows(keys, row, &listed)?;
    let sliding = || windows.iter().map(Option::is_some).collect();
    let rotated = match row.rotation {
        RotationRule::All | RotationRule::Interval(_) => listed,
        RotationRule::SlidingOrAll if keys.map().get("sliding_window").is_some_and(Value::is_null) => listed,
        RotationRule::Sliding | RotationRule::SlidingOrAll => sliding(),
    };
    Ok((windows, rotated))
}

/// Whether each layer rotates as far as `no_rope_layers` says it, `[l]`.
fn listed_rotations(keys: &Keys<'_>, row: &Architecture, layers: usize) -> Result<Vec<bool>> {
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
    match (row.rotation, list) {
        (RotationRule::Interval(_), Some(list)) => Ok(list),
        (RotationRule::Interval(interval), None) => {
            let interval = keys.size("no_rope_layer_interval")?.unwrap_or(interval);
            Ok((0..layers).map(|layer| (layer + 1) % interval != 0).collect())
        }
        (_, Some(list)) if list.contains(&false) => Err(Error::request(format!(
            "no_rope_layers leaves layers without rotation, which a {} block does not compute",
            row.model_type
        ))),
        _ => Ok(vec![true; layers]),
    }
}

/// The sliding window of each layer, `[l]`: the number of tokens it sees, its own included.
fn windows(keys: &Keys<'_>, row: &Architecture, rotated: &[bool]) -> Result<Vec<Option<usize>>> {
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
        WindowRule::From { window: default, from } => {
            let window = window(Some(default))?;
            let from = keys.count("max_window_layers")?.unwrap_or(from);
            by_list(window, listed.unwrap_or_else(|| (0..layers).map(|l| window.is_some() && l >= from).collect()))
        }
        WindowRule::Switched(default) => {
            let window = if switched_on { window(Some(default))? } else { None };
            by_list(window, listed.unwrap_or_else(|| vec![window.is_some(); layers]))
        }
        WindowRule::SwitchedList(default) => {
            let window = if switched_on { window(Some(default))? } else { None };
            match listed {
                Some(list) => by_list(window, list),
                None if window.is_none() => Ok(vec![None; layers]),
                None => Err(Error::request(format!(
                    "use_sliding_window is true, and no layer_types says which layers of a {} have windows: list them",
                    row.model_type
                ))),
            }
        }
        WindowRule::Periodic { window: default, period, reads_period } => {
            let window = window(Some(default))?;
            let list = match listed {
                Some(list) => list,
                None if window.is_none() => vec![false; layers],
                None => {
                    let own = if reads_period { keys.size("sliding_window_pattern")? } else { None };
                    let period = own.unwrap_or(period);
                    (0..layers).map(|layer| (layer + 1) % period != 0).collect()
                }
            };
            by_list(window, list)
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
