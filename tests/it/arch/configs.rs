//! What a cut makes of a config.

use std::sync::LazyLock;

use proptest::collection::{btree_map, vec};
use proptest::prelude::*;
use proptest::sample::{Index, select};
use prune::arch::ModelSpec;
use prune::surgery::{config_edits, edit_config};
use serde_json::{Map, Value};

use crate::arch::cases::{Case, cases};

/// The config that a cut writes reads as the source's spec with the dropped layers' entries gone, for every block; what
/// a config cannot say, as ERNIE's of layers with experts at no even distance, is refused.
#[test]
fn a_cut_config_reads_as_the_kept_layers() {
    for (name, case) in cases() {
        let spec = case.spec();
        let text = serde_json::to_string_pretty(&case.config).unwrap();
        for first in 0..spec.layers {
            for last in first..spec.layers.min(first + spec.layers - 1) {
                let kept: Vec<usize> = (0..spec.layers).filter(|layer| !(first..=last).contains(layer)).collect();
                let edits = match config_edits(&case.config, &kept, &[]) {
                    Err(error) if name == "ernie4_5_moe-steps" => {
                        assert!(error.to_string().contains("would change their kind"), "{error}");
                        continue;
                    }
                    edits => edits.unwrap_or_else(|error| panic!("{name} without {first}..={last}: {error}")),
                };
                let cut: Map<String, Value> = serde_json::from_str(&edit_config(&text, &edits).unwrap()).unwrap();
                let expected = ModelSpec {
                    layers: kept.len(),
                    windows: kept.iter().map(|layer| spec.windows[*layer]).collect(),
                    rotated: kept.iter().map(|layer| spec.rotated[*layer]).collect(),
                    without: kept.iter().map(|layer| spec.without[*layer]).collect(),
                    sparse: kept.iter().map(|layer| spec.sparse[*layer]).collect(),
                    seam_maps: vec![None; kept.len()],
                    ..spec.clone()
                };
                assert_eq!(ModelSpec::from_config(&cut).unwrap(), expected, "{name} without {first}..={last}");
            }
        }
    }
}

/// A value that a damaged or hostile config may hold.
fn any_value() -> impl Strategy<Value = Value> {
    let texts = &["llama", "yarn", "longrope", "llama3", "dynamic", "su", "sliding_attention", ""][..];
    let numbers = &[0.0, -1.0, 0.5, 1.0, 2.0, 3.0, 7.0, 1e-300, 1e30, 1e300][..];
    let keys = &["factor", "rope_type", "full_attention"][..];
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        (0..40u64).prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        select(numbers).prop_map(Value::from),
        select(texts).prop_map(Value::from),
    ];
    leaf.prop_recursive(2, 8, 5, move |inner| {
        let object = btree_map(select(keys).prop_map(str::to_owned), inner.clone(), 0..3);
        prop_oneof![vec(inner, 0..6).prop_map(Value::from), object.prop_map(|map| Value::Object(Map::from_iter(map)))]
    })
}

/// Every value of a config, those of the objects within it in their stead.
fn values(config: &mut Map<String, Value>) -> Vec<&mut Value> {
    let mut values = Vec::new();
    for value in config.values_mut() {
        match value.as_object().is_some_and(|inner| !inner.is_empty()) {
            true => values.extend(value.as_object_mut().into_iter().flat_map(Map::values_mut)),
            false => values.push(value),
        }
    }
    values
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4000))]

    /// Whatever a config says, it is read or refused in one line.
    #[test]
    fn no_config_panics(which in any::<Index>(), changes in vec((any::<Index>(), any_value()), 1..4)) {
        static CASES: LazyLock<Vec<(String, Case)>> = LazyLock::new(cases);
        let mut config = which.get(&CASES).1.config.clone();
        for (place, value) in changes {
            let mut values = values(&mut config);
            let place = place.index(values.len());
            *values[place] = value;
        }
        match ModelSpec::from_config(&config) {
            Ok(spec) => {
                let (cos, sin) = spec.rope.tables(&[0, 9], 10);
                prop_assert!(cos.into_iter().chain(sin).all(f32::is_finite));
                prop_assert_eq!((spec.windows.len(), spec.rotated.len()), (spec.layers, spec.layers));
                prop_assert!(!spec.layer_tensors(0).is_empty());
            }
            Err(error) => prop_assert!(!error.to_string().contains('\n'), "{}", error),
        }
    }
}
