//! Plans that need no measurement: layers the user names, a block, layers chosen by their place.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use serde_json::{Map, Value, json};

use super::{Dropped, Place, Plan, PlannedFor};
use crate::{Error, Result};

impl Plan {
    /// Drops the named layers; an empty set is the plan that changes nothing.
    ///
    /// # Errors
    /// A request error when a layer does not exist or none would stay.
    pub fn drop_layers(model: PlannedFor, dropped: &BTreeSet<usize>) -> Result<Self> {
        Self::drop_named(model, &Dropped { layers: dropped.clone(), ..Dropped::default() })
    }

    /// Drops the named layers and leaves out the named sub-layers.
    ///
    /// # Errors
    /// A request error when a layer does not exist, none would stay, or none with its attention.
    pub fn drop_named(model: PlannedFor, dropped: &Dropped) -> Result<Self> {
        let why = why([("strategy", json!("given")), ("dropped", json!(dropped.to_string()))]);
        if let Some(layer) = dropped.sublayers.keys().find(|layer| **layer >= model.layers) {
            return Err(no_layer(*layer, model.layers));
        }
        let mut plan = Self::without(model, &dropped.layers, why)?;
        for place in &mut plan.stack {
            place.without = dropped.sublayers.get(&place.layer).copied().unwrap_or_default();
        }
        plan.check()?;
        Ok(plan)
    }

    /// Drops the block of `layers` layers that starts at `start`.
    ///
    /// # Errors
    /// A request error when the block reaches beyond the stack or none would stay.
    pub fn block(model: PlannedFor, start: usize, layers: usize) -> Result<Self> {
        let end = start.checked_add(layers).filter(|end| *end <= model.layers).ok_or_else(|| {
            Error::request(format!(
                "a block of {layers} layers from layer {start} does not fit into {} layers (0..={})",
                model.layers,
                model.layers.saturating_sub(1)
            ))
        })?;
        let why = why([("strategy", json!("block")), ("start", json!(start)), ("layers", json!(layers))]);
        Self::without(model, &(start..end).collect(), why)
    }

    /// Drops `layers`, which the method `name` chose by their place alone.
    ///
    /// # Errors
    /// A request error when a layer does not exist or none would stay.
    pub fn by_place(model: PlannedFor, layers: Range<usize>, name: &str) -> Result<Self> {
        let why = why([("strategy", json!(name)), ("layers", json!(layers.len()))]);
        Self::without(model, &layers.collect(), why)
    }

    /// Puts places between the layers: behind each layer that `after` has, its places. Nothing is dropped.
    ///
    /// # Errors
    /// A request error when a layer does not exist, or there would be more than a model can have.
    pub fn insert(model: PlannedFor, after: &BTreeMap<usize, Vec<Place>>, why: Map<String, Value>) -> Result<Self> {
        if let Some(layer) = after.keys().find(|layer| **layer >= model.layers) {
            return Err(Error::request(format!(
                "cannot insert after layer {layer}: the model has {} layers (0..={})",
                model.layers,
                model.layers.saturating_sub(1)
            )));
        }
        let mut stack = Vec::with_capacity(model.layers);
        for layer in 0..model.layers {
            stack.push(Place::of(layer));
            let inserted = after.get(&layer).into_iter().flatten().cloned();
            stack.extend(inserted.map(|place| Place { inserted: true, ..place }));
        }
        let plan = Self { planned_for: model, stack, why };
        plan.check()?;
        Ok(plan)
    }

    fn without(model: PlannedFor, dropped: &BTreeSet<usize>, why: Map<String, Value>) -> Result<Self> {
        if let Some(layer) = dropped.last().filter(|layer| **layer >= model.layers) {
            return Err(no_layer(*layer, model.layers));
        }
        let stack = (0..model.layers).filter(|layer| !dropped.contains(layer)).map(Place::of).collect();
        let plan = Self { planned_for: model, stack, why };
        plan.check()?;
        Ok(plan)
    }
}

/// Layers to drop for a fraction of the stack: round(fraction·L), halves up, at least 1.
///
/// # Errors
/// A request error unless 0 < fraction < 1, and when the rounded number is all layers.
pub fn layers_for_fraction(fraction: f64, layers: usize) -> Result<usize> {
    if !(fraction > 0.0 && fraction < 1.0) {
        return Err(Error::request(format!("fraction {fraction}: expected a number between 0 and 1, such as 0.25")));
    }
    let dropped = ((fraction * layers as f64).round() as usize).max(1);
    if dropped >= layers {
        return Err(Error::request(format!(
            "fraction {fraction} of {layers} layers is {dropped}, which leaves none; at least one must stay"
        )));
    }
    Ok(dropped)
}

fn no_layer(layer: usize, layers: usize) -> Error {
    Error::request(format!(
        "cannot drop layer {layer}: the model has {layers} layers (0..={})",
        layers.saturating_sub(1)
    ))
}

fn why<const N: usize>(pairs: [(&str, Value); N]) -> Map<String, Value> {
    pairs.into_iter().map(|(key, value)| (key.to_owned(), value)).collect()
}

#[cfg(test)]
mod tests {
    use super::super::tests::model;
    use super::*;

    /// l*(n) of the paper's authors for n = 1, 2, ...: layers, then the list.
    const LLAMA_2_7B: [usize; 24] =
        [23, 24, 23, 23, 23, 22, 22, 21, 20, 19, 18, 18, 17, 16, 15, 8, 8, 7, 4, 4, 4, 2, 2, 2];
    const MISTRAL_7B: [usize; 24] =
        [26, 24, 23, 23, 23, 22, 21, 21, 20, 20, 19, 17, 17, 16, 13, 13, 11, 8, 8, 6, 6, 5, 4, 3];

    #[test]
    fn blocks_of_the_paper() {
        for list in [LLAMA_2_7B, MISTRAL_7B] {
            for (index, start) in list.into_iter().enumerate() {
                let plan = Plan::block(model(32), start, index + 1).unwrap();
                assert_eq!(plan.dropped(), (start..=start + index).collect::<Vec<_>>());
                assert_eq!(plan.stack.len(), 31 - index);
                assert_eq!(plan.kept().last(), Some(&31), "the paper never drops the last layer");
            }
        }
        assert_eq!(Plan::block(model(32), LLAMA_2_7B[7], 8).unwrap().dropped(), [21, 22, 23, 24, 25, 26, 27, 28]);
        assert!(Plan::block(model(32), 28, 5).is_err());
        assert!(Plan::block(model(32), usize::MAX, 2).is_err());
        assert!(Plan::block(model(32), 0, 32).is_err());
    }

    #[test]
    fn named_layers() {
        let plan = Plan::drop_layers(model(6), &[1, 2, 4].into()).unwrap();
        assert_eq!(plan.kept(), [0, 3, 5]);
        assert_eq!(plan.why["dropped"], "1..=2, 4");
        assert_eq!(Plan::drop_layers(model(3), &BTreeSet::new()).unwrap().kept(), [0, 1, 2]);
        assert!(Plan::drop_layers(model(3), &[3].into()).unwrap_err().to_string().contains("cannot drop layer 3"));
        assert!(Plan::drop_layers(model(2), &[0, 1].into()).unwrap_err().to_string().contains("drops all 2 layers"));
    }

    #[test]
    fn fractions_round_and_leave_a_layer() {
        assert_eq!(layers_for_fraction(0.25, 32).unwrap(), 8);
        assert_eq!(layers_for_fraction(0.3, 32).unwrap(), 10);
        assert_eq!(layers_for_fraction(0.01, 32).unwrap(), 1);
        assert_eq!(layers_for_fraction(0.125, 4).unwrap(), 1);
        for (fraction, layers) in [(0.0, 32), (1.0, 32), (-0.5, 32), (f64::NAN, 32), (0.99, 32), (0.5, 1)] {
            assert_eq!(layers_for_fraction(fraction, layers).unwrap_err().exit_code(), 2, "{fraction} of {layers}");
        }
    }
}
