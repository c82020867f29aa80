//! Names, shapes and rotations.

use std::collections::BTreeMap;

use prune::arch::{ARCHITECTURES, ModelSpec, Rope};
use prune::checkpoint;

use crate::arch::cases::{Published, Rotations, cases, read, stream};

#[test]
fn every_row_has_a_fixture() {
    let types: Vec<_> = cases().into_iter().map(|(_, case)| case.config["model_type"].clone()).collect();
    for row in ARCHITECTURES {
        assert!(types.contains(&row.model_type.into()), "{}", row.model_type);
    }
}

#[test]
fn tensors_are_named_and_shaped_as_in_transformers() {
    for (name, case) in cases() {
        let (spec, outer) = (case.spec(), case.outer_tensors());
        let mut found: BTreeMap<_, _> = spec.layer_tensors(0).into_iter().map(|t| (t.name, t.shape)).collect();
        found.extend(outer);
        assert_eq!(found, case.tensors_up_to_layer_0, "{name}");

        let dir = tempfile::tempdir().unwrap();
        case.write(dir.path());
        let index = checkpoint::Index::open_dir(dir.path()).unwrap();
        assert_eq!(spec.check(&index).unwrap(), Vec::<String>::new(), "{name}");
        let stored = (0..case.ids.len())
            .zip(stream(case.seed, "ids"))
            .all(|(j, z)| u64::from(case.ids[j]) == z % spec.vocab_size as u64);
        assert!(stored, "{name}: the formula gives other ids than the fixture holds");
    }
}

/// How far a rotation may be from transformers': the last bit of a frequency, times the position.
fn check_rotations(name: &str, rope: &Rope, all: &[Rotations]) {
    for expected in all {
        let longest = *expected.positions.iter().max().unwrap() as usize + 1;
        let (frequencies, _) = rope.inverse_frequencies(longest);
        assert_eq!(frequencies.len(), expected.inverse_frequencies.len(), "{name}");
        for (found, expected) in frequencies.iter().zip(&expected.inverse_frequencies) {
            assert!((found / expected - 1.0).abs() <= 2e-7, "{name}: frequency {found}, expected {expected}");
        }
        let (cos, sin) = rope.tables(&expected.positions, longest);
        let half = frequencies.len();
        for (what, found, expected_values) in [("cos", &cos, &expected.cos), ("sin", &sin, &expected.sin)] {
            assert_eq!(found.len(), expected_values.len(), "{name}");
            for (index, (found, value)) in found.iter().zip(expected_values).enumerate() {
                let (position, pair) = (expected.positions[index / half], index % half);
                let tolerance = 4e-7 + 2e-7 * position as f32 * frequencies[pair];
                assert!((found - value).abs() <= tolerance, "{name}: {what} of {position}, {pair}: {found}, {value}");
            }
        }
    }
}

#[test]
fn rotations_are_those_of_transformers() {
    for (name, case) in cases() {
        let spec = case.spec();
        check_rotations(&name, &spec.rope, &case.rotations);
        assert_eq!(spec.sliding_rope.is_some(), !case.sliding_rotations.is_empty(), "{name}");
        if let Some(rope) = &spec.sliding_rope {
            check_rotations(&name, rope, &case.sliding_rotations);
        }
    }
}

#[test]
fn rotations_of_published_models_are_those_of_transformers() {
    let all: BTreeMap<String, Published> = read("rotations");
    assert!(all.len() >= 9);
    for (name, published) in all {
        check_rotations(&name, &ModelSpec::from_config(&published.config).unwrap().rope, &published.rotations);
    }
}
