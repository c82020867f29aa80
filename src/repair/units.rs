//! The sub-layers that a plan keeps, in the order of the stack, and where they are in the source's.

use std::collections::BTreeSet;

use crate::arch::ModelSpec;
use crate::plan::{Plan, SubLayer};
use crate::{Error, Result};

/// A sub-layer of the new stack. Numbers of sub-layers are those of the source: 2l is the attention of layer l, 2l+1
/// its MLP, twice the number of layers the end of the stack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Unit {
    /// Place of its layer in the new stack.
    pub(super) place: usize,
    /// Layer of the source.
    pub(super) layer: usize,
    /// Which of the layer's.
    pub(super) sublayer: SubLayer,
    /// Its number.
    pub(super) own: usize,
    /// Number of the one that comes next in the new stack.
    pub(super) next: usize,
    /// Whether sub-layers of the source between the two are gone.
    pub(super) is_seam: bool,
    /// Whether its weights are the source's, so that it does to a stream what it did there.
    pub(super) is_copy: bool,
}

/// The sub-layers that `plan` keeps of a model; where they have been `changed` since, none has the source's weights.
///
/// # Errors
/// Request: layers twice or in another order, or nothing that is gone.
pub(super) fn units(plan: &Plan, spec: &ModelSpec, changed: bool) -> Result<Vec<Unit>> {
    if !plan.stack.is_sorted_by(|low, high| low.layer < high.layer) {
        return Err(Error::request(
            "a repair follows the whole model through its layers: the plan must keep them in order, each once",
        ));
    }
    if spec.seam_maps.iter().any(Option::is_some) {
        return Err(Error::request(
            "a linear map stands behind a layer of this model already (seam_maps in config.json): repair the cut of the \
             model without, all of it at once",
        ));
    }
    let has = |layer: usize, sublayer| !spec.without.get(layer).is_some_and(|without| without.contains(sublayer));
    let own = |layer: usize, which: usize| layer * SubLayer::ALL.len() + which;
    let mut units = Vec::new();
    for (place, at) in plan.stack.iter().enumerate() {
        for (which, sublayer) in SubLayer::ALL.into_iter().enumerate() {
            if has(at.layer, sublayer) && !at.without.contains(sublayer) {
                let (own, is_copy) = (own(at.layer, which), at.made.is_empty() && !changed);
                units.push(Unit { place, layer: at.layer, sublayer, own, next: 0, is_seam: false, is_copy });
            }
        }
    }
    let all = (0..spec.layers).flat_map(|layer| (0..SubLayer::ALL.len()).map(move |which| (layer, which)));
    let all: BTreeSet<usize> = all
        .filter(|(layer, which)| has(*layer, SubLayer::ALL[*which]))
        .map(|(layer, which)| own(layer, which))
        .collect();
    let ends: Vec<usize> = units.iter().skip(1).map(|unit| unit.own).chain([own(spec.layers, 0)]).collect();
    for (unit, next) in units.iter_mut().zip(ends) {
        unit.next = next;
        unit.is_seam = all.range(unit.own + 1..next).next().is_some();
    }
    let is_whole = units.first().map(|unit| unit.own) == all.first().copied();
    match units.iter().any(|unit| unit.is_seam || !unit.is_copy) || !is_whole {
        true => Ok(units),
        false => Err(Error::request("the plan drops nothing: there is no seam to repair")),
    }
}

/// Whether sub-layers below the first that is kept are gone.
pub(super) fn lacks_the_bottom(units: &[Unit], spec: &ModelSpec) -> bool {
    let below = units.first().map_or(0, |unit| unit.own);
    (0..below).any(|own| !spec.without.get(own / 2).is_some_and(|without| without.contains(SubLayer::ALL[own % 2])))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::plan::{Place, PlannedFor, SubLayers};

    fn spec() -> ModelSpec {
        let config = json!({
            "model_type": "llama", "hidden_size": 8, "intermediate_size": 12, "num_attention_heads": 4, "head_dim": 2,
            "num_key_value_heads": 2, "num_hidden_layers": 4, "vocab_size": 16,
        });
        ModelSpec::from_config(config.as_object().unwrap()).unwrap()
    }

    fn plan(layers: &[usize]) -> Plan {
        let planned_for = PlannedFor { id: "m".into(), revision: None, fingerprint: "0".into(), layers: 4 };
        Plan { planned_for, stack: layers.iter().copied().map(Place::of).collect(), why: serde_json::Map::new() }
    }

    #[test]
    fn seams_are_where_sub_layers_of_the_source_are_missing() {
        let seams = |plan: &Plan, spec: &ModelSpec| -> Vec<(usize, usize)> {
            let units = units(plan, spec, false).unwrap();
            units.iter().filter(|unit| unit.is_seam).map(|unit| (unit.own, unit.next)).collect()
        };
        assert_eq!(seams(&plan(&[0, 3]), &spec()), [(1, 6)]);
        assert_eq!(seams(&plan(&[0, 1]), &spec()), [(3, 8)]);
        let mut parts = plan(&[0, 1, 2, 3]);
        parts.stack[2].without = SubLayers { attention: true, mlp: false };
        assert_eq!(seams(&parts, &spec()), [(3, 5)]);
        // what the source lacks as well is no seam
        let mut less = spec();
        less.without[2].attention = true;
        assert!(units(&plan(&[0, 1, 2, 3]), &less, false).unwrap_err().to_string().contains("no seam"));
        assert_eq!(seams(&plan(&[0, 1, 3]), &less), [(3, 6)]);
        // one that was trained since has something to be brought back everywhere, whatever is gone
        let changed = units(&plan(&[0, 1, 2, 3]), &spec(), true).unwrap();
        assert!(changed.iter().all(|unit| !unit.is_seam && !unit.is_copy));
        let bottom = units(&plan(&[1, 2, 3]), &spec(), false).unwrap();
        assert!(lacks_the_bottom(&bottom, &spec()) && bottom.iter().all(|unit| !unit.is_seam));
        for other in [&[0, 0, 3][..], &[1, 0]] {
            assert!(units(&plan(other), &spec(), false).unwrap_err().to_string().contains("in order"));
        }
    }
}
