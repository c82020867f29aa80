//! What a run would take, on machines of known speed.

use super::super::compute::Compute;
use super::*;
use crate::demo;

fn stages(recipe: &Recipe, machine: Machine) -> Vec<StageReport> {
    estimate(recipe, None, &|_, _| Ok(machine), &Silent).unwrap().stages
}

/// A machine that does a thousand times as much takes a thousandth of the time, and as much memory as its passes.
#[test]
fn estimates_are_those_of_what_computes() {
    let dir = tempfile::tempdir().unwrap();
    demo::extract(dir.path()).unwrap();
    let set =
        ["drop.layers=[2]", "drop.strategies=[\"deepest\"]", "analyze.samples=8", "eval.limit=4", "bench.tokens=8"];
    let set: Vec<String> = set.map(str::to_owned).into();
    let recipe = Recipe::read(&dir.path().join("recipe.toml"), &set, &Compute::default()).unwrap();
    let cpu = Machine { flops: 1e9, reading: 1e9, at_once: 1024 };
    let gpu = Machine { flops: 1e12, reading: 1e12, at_once: 4096 };
    let (slow, fast) = (stages(&recipe, cpu), stages(&recipe, gpu));
    let of = |stages: &[StageReport], name: &str| stages.iter().find(|stage| stage.name == name).unwrap().clone();
    for name in ["analysis", "dense/scores", "deepest-2/scores"] {
        let (slow, fast) = (of(&slow, name), of(&fast, name));
        let ratio = slow.seconds.unwrap() / fast.seconds.unwrap();
        assert!((ratio - 1000.0).abs() < 1e-6, "{name}: {ratio}");
        let weights = slow.memory.unwrap() - (fast.memory.unwrap() - slow.memory.unwrap()) / 3;
        assert!(weights > 4 << 20 && weights < 16 << 20, "{name}: {weights}");
    }
    // a second of loading is the same everywhere
    let speed = |stages: &[StageReport]| of(stages, "deepest-2/speed").seconds.unwrap() - 1.0;
    assert!((speed(&slow) / speed(&fast) - 1000.0).abs() < 1e-3);
    // what is not computed takes as long
    assert_eq!(of(&slow, "deepest-2/model"), of(&fast, "deepest-2/model"));
}

#[test]
fn each_section_is_measured_where_it_computes() {
    let dir = tempfile::tempdir().unwrap();
    demo::extract(dir.path()).unwrap();
    let set: Vec<String> = ["bench.device=cpu".to_owned(), "eval.dtype=f32".to_owned()].into();
    let recipe = Recipe::read(&dir.path().join("recipe.toml"), &set, &Compute::default()).unwrap();
    let asked = std::cell::RefCell::new(Vec::new());
    let machines = Machines::of(&recipe, &|device, dtype| {
        asked.borrow_mut().push((device.map(str::to_owned), dtype.map(str::to_owned)));
        Ok(Machine { flops: asked.borrow().len() as f64, reading: 1.0, at_once: 1 })
    });
    let flops = machines.map(|found| [found.analyze, found.eval, found.bench].map(|m| m.unwrap().flops)).unwrap();
    assert_eq!(flops, [1.0, 2.0, 3.0]);
    assert_eq!(asked.into_inner()[1..], [(None, Some("f32".to_owned())), (Some("cpu".to_owned()), None)]);
}

#[test]
fn this_machine() {
    let machine = Machine::measure(Some("cpu"), None).unwrap();
    assert!(machine.flops > 1e6 && machine.reading > 1e6 && machine.at_once == 1024);
    assert!(Machine::measure(Some("gpu"), None).is_err());
}
