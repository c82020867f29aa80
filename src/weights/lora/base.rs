//! Whether an adapter was made for this model, where the numbers of its layers alone cannot tell.

use std::path::Path;

use serde_json::{Map, Value};

use crate::arch::ModelSpec;
use crate::checkpoint::{Checkpoint, read_json};
use crate::provenance::{FILE, Provenance};
use crate::{Error, Result};

/// Refuses an adapter for single layers of `base` (`base_model_name_or_path`) when that is another model than
/// `checkpoint`: the one it was cut from, or one of another depth or width. Its layers may be called alike and be
/// others.
///
/// # Errors
/// Request: says what it was made for. Work: a `prune.json` that cannot be read.
pub(super) fn check(base: Option<&str>, checkpoint: &Checkpoint, spec: &ModelSpec) -> Result<()> {
    let dir = &checkpoint.source.dir;
    let base = base.map(str::trim).filter(|base| !base.is_empty());
    let own = base.is_some_and(|base| base == checkpoint.source.id || same_place(Path::new(base), dir));
    if own {
        return Ok(());
    }
    if let Some((layers, width)) = base.and_then(measures)
        && (layers, width) != (spec.layers, spec.hidden_size)
    {
        return Err(Error::request(format!(
            "the adapter is for single layers of {}, which has {layers} layers of width {width}; this model has {} of \
             width {}",
            base.unwrap_or_default(),
            spec.layers,
            spec.hidden_size
        )));
    }
    let Some(history) = Provenance::read(dir, spec.layers)? else { return Ok(()) };
    if history.layers.iter().copied().eq(0..history.origin.layers) {
        return Ok(());
    }
    let (origin, id) = (history.origin.id.as_str(), checkpoint.source.id.as_str());
    if base.is_some_and(|base| last(base) == last(id) && last(base) != last(origin)) {
        return Ok(());
    }
    let made_for = match base {
        Some(base) => format!("of {base}"),
        None => "of a model it does not name".to_owned(),
    };
    Err(Error::request(format!(
        "the adapter is for single layers {made_for}, and this model is a cut of {origin} ({} of {} layers, says \
         {FILE}), whose layers have other numbers; if it was made for this cut, say so: base_model_name_or_path in \
         adapter_config.json is then {id}",
        history.layers.len(),
        history.origin.layers
    )))
}

fn same_place(one: &Path, other: &Path) -> bool {
    matches!((one.canonicalize(), other.canonicalize()), (Ok(one), Ok(other)) if one == other)
}

/// `name` of `org/name` and of `some/dir/name/`.
fn last(place: &str) -> &str {
    let place = place.trim_end_matches(['/', '\\']);
    place.rsplit(['/', '\\']).next().unwrap_or(place)
}

/// Layers and width of the model in the directory `base`, where it is one.
fn measures(base: &str) -> Option<(usize, usize)> {
    let config: Map<String, Value> = read_json(&Path::new(base).join("config.json")).ok()?;
    let number = |key: &str| config.get(key)?.as_u64()?.try_into().ok();
    Some((number("num_hidden_layers")?, number("hidden_size")?))
}
