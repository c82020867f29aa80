//! Shapley values and policies against independent PyTorch code on the demo's model, golden/methods/README.md, sections
//! 5 and 6; short lists against every candidate by itself.

use std::path::Path;

use candle_core::Device;
use prune::importance::{Drawn, Evidence, Measured, Metric, Protect, measure, metric, of_subsets};
use prune::methods::{Policy, Search, Step, method};
use prune::model::{Loss, Model, Residency};
use prune::progress::Silent;
use serde_json::Value;

use super::losses::{open, options};
use crate::fixture::Llama;
use crate::fixture::material::shared;

/// The golden file, the demo's model, and the text of the common protocol.
fn material(name: &str) -> Option<(Value, Model, Vec<Vec<u32>>)> {
    let path = shared(&format!("golden/methods/{name}"))?;
    let read = |path: &Path| -> Value { serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap() };
    let ids = serde_json::from_value(read(&path.with_file_name("inputs.json"))["rows"]["ids"].clone()).unwrap();
    Some((read(&path), open(&shared("demo/model")?, &options(Residency::Resident)), ids))
}

fn numbers<T: serde::de::DeserializeOwned>(value: &Value) -> T {
    serde_json::from_value(value.clone()).unwrap()
}

/// The largest difference, said, and held below `most`; relative to the value where that is above 1.
fn near(what: &str, found: &[f64], expected: &[f64], most: f64) {
    assert_eq!(found.len(), expected.len(), "{what}");
    let difference = |(a, b): (&f64, &f64)| (a - b).abs() / b.abs().max(1.0);
    let largest = found.iter().zip(expected).map(difference).fold(0.0, f64::max);
    println!("{what}: {largest:.2e} of {most:.0e}");
    assert!(largest <= most, "{what}: {largest} above {most}\n{found:?}\n{expected:?}");
}

#[test]
fn shapley_by_random_subsets() {
    let Some((golden, model, ids)) = material("shapley.json") else { return };
    let golden = &golden["deeper_look"];
    let kept: Vec<Vec<Vec<usize>>> = numbers(&golden["kept_layers"]);
    let absent = |kept: &Vec<usize>| (0..16).filter(|layer| !kept.contains(layer)).collect::<Vec<usize>>();
    let drawn = kept
        .iter()
        .enumerate()
        .map(|(text, subsets)| Drawn { on: vec![text], dropped: subsets.iter().map(absent).collect() });
    let drawn: Vec<Drawn> = drawn.collect();
    let mut evidence = Measured::new(&model, &ids, &Silent).unwrap();
    for (value, key, statistic) in
        [("layer-loss", "score_loss", "loss"), ("token-logit-norm", "score_logit", "logit_distance")]
    {
        let value = metric(value).unwrap();
        let own: Vec<Vec<f64>> = numbers(&golden[statistic]);
        for (drawn, expected) in drawn.iter().zip(&own).take(3) {
            let found = evidence.costs(value, &drawn.dropped, Some(&drawn.on)).unwrap();
            let found: Vec<f64> = found.iter().map(|costs| costs[0].mean()).collect();
            near(statistic, &found, expected, 1e-5);
        }
        let scores = of_subsets("shapley", value, &mut evidence, &drawn).unwrap();
        // what the reference calls the score is present less absent
        let expected: Vec<f64> = numbers(&golden[key]);
        near(key, &scores.mean[0], &expected.iter().map(|score| -score).collect::<Vec<_>>(), 1e-5);
        assert!(scores.stderr.unwrap()[0].iter().all(|error| *error > 0.0 && error.is_finite()));
    }
}

#[test]
fn shapley_by_windows() {
    let Some((golden, model, ids)) = material("shapley.json") else { return };
    let found = measure(&model, &[metric("shapley-windowed").unwrap()], &ids, &Silent).unwrap();
    near("phi", &found[0].mean[0], &numbers::<Vec<f64>>(&golden["windowed"]["phi"]), 1e-5);
    // the attentions and MLPs that it drops first
    let search = method("shapley-windowed").unwrap().search(Protect::default()).unwrap();
    let best = search.run(&found, 16).unwrap().best;
    let phi: Vec<f64> = numbers(&golden["windowed"]["phi"]);
    let mut order: Vec<usize> = (0..32).collect();
    order.sort_by(|a, b| phi[*a].total_cmp(&phi[*b]));
    for (n, choice) in best.iter().enumerate().take(8) {
        let mut expected = order[..=n].to_vec();
        expected.sort_unstable();
        assert_eq!(choice.drop, expected);
    }
}

#[test]
fn a_policy_learns_as_the_reference() {
    let Some((golden, model, ids)) = material("policy.json") else { return };
    let Some(path) = shared("golden/methods/policy_uniforms.safetensors") else { return };
    let uniforms = &candle_core::safetensors::load(path, &Device::Cpu).unwrap()["uniforms"];
    let uniforms: Vec<Vec<Vec<f64>>> = uniforms.to_vec3().unwrap();
    let batches: Vec<Vec<usize>> = numbers(&golden["batches"]);
    let loss = metric("layer-loss").unwrap();
    let mut evidence = Measured::new(&model, &ids, &Silent).unwrap();
    // the sensible start is made of block influence here as well
    let influence: Vec<f64> = numbers(&golden["block_influence"]);
    let start = Policy::from_costs(0..16, 12, &influence).stay;
    near("start", &start, &numbers::<Vec<f64>>(&golden["runs"]["sigmap_bi/exact"]["s0"]), 1e-6);
    for name in ["one_minus_bi/exact", "sigmap_bi/exact"] {
        let run = &golden["runs"][name];
        let mut policy = Policy::new(0..16, 12.0, numbers(&run["init_before_projection"]));
        let mut most = 0.0_f64;
        let (expected, losses): (Vec<Vec<f64>>, Vec<Vec<f64>>) = (numbers(&run["s"]), numbers(&run["loss"]));
        for step in 0..batches.len() {
            let drawn = Step { on: batches[step].clone(), uniforms: uniforms[step].clone() };
            let found = policy.learn(&mut evidence, loss, &drawn).unwrap();
            let difference = |(a, b): (&f64, &f64)| (a - b).abs() / b.max(2.0) * 2.0;
            let largest = found.iter().zip(&losses[step]).map(difference).fold(0.0, f64::max);
            most = most.max(largest);
            assert!(largest < 2e-6, "{name} step {step}: {found:?} {:?}", losses[step]);
            let largest = policy.stay.iter().zip(&expected[step]).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
            assert!(largest < 1e-5, "{name} step {step}: {:?} {:?}", policy.stay, expected[step]);
        }
        println!("{name}: losses of masks {most:.1e}");
        let last = policy.least(4);
        assert_eq!(last, numbers::<Vec<usize>>(&run["final_removed"]), "{name}");
        let final_loss = evidence.costs(loss, &[last], None).unwrap();
        near(name, &[Loss::total(&final_loss[0]).mean()], &[run["loss_of_final_set"].as_f64().unwrap()], 1e-5);
    }
}

/// The best of a short list is the candidate on it that costs least by itself.
#[test]
fn a_short_list_is_ranked_by_loss() {
    let dir = tempfile::tempdir().unwrap();
    Llama { layers: 6, ..Llama::default() }.write(dir.path());
    let model = open(dir.path(), &options(Residency::Resident));
    let ids: Vec<Vec<u32>> = (0..7).map(|s| (0..9 + 7 * s).map(|i| (i * 7 + s * 3) % 64).collect()).collect();
    let metrics: Vec<&Metric> =
        ["angular", "block-influence", "sublayer-js"].map(|name| metric(name).unwrap()).to_vec();
    let scores = measure(&model, &metrics, &ids, &Silent).unwrap();
    for (followed, strategy, loss) in [
        ("angular", "block", "layer-loss"),
        ("angular", "lowest", "layer-loss"),
        ("block-influence", "lowest", "layer-loss"),
        ("sublayer-js", "lowest", "sublayer-loss"),
    ] {
        let by = |rerank: Option<usize>| {
            let (metric, strategy) = (followed.to_owned(), Some(strategy.to_owned()));
            let search = Search { metric, strategy, rerank, ..Search::default() };
            search.run_with(&mut Measured::new(&model, &ids, &Silent).unwrap(), &scores, None).unwrap()
        };
        let (plain, listed) = (by(None), by(Some(4)));
        assert_eq!((plain.rerank, listed.rerank), (None, Some(4)));
        let mut evidence = Measured::new(&model, &ids, &Silent).unwrap();
        let loss = metric(loss).unwrap();
        for (plain, choice) in plain.best.iter().zip(&listed.best) {
            let list = &choice.short_list;
            let sets: Vec<Vec<usize>> =
                std::iter::once(Vec::new()).chain(list.iter().map(|own| own.drop.clone())).collect();
            let alone: Vec<f64> =
                evidence.costs(loss, &sets, None).unwrap().iter().map(|own| Loss::total(own).mean()).collect();
            for (own, found) in list.iter().zip(&alone[1..]) {
                assert!((found - alone[0] - own.loss.mean).abs() < 1e-9, "{own:?}");
            }
            assert!(list.is_sorted_by(|a, b| a.loss.mean <= b.loss.mean));
            assert_eq!((&choice.drop, choice.loss, choice.score), (&list[0].drop, Some(list[0].loss), list[0].score));
            // the first by score is what the score alone chooses
            let first = list.iter().find(|own| own.rank == 1).unwrap();
            assert_eq!((&first.drop, first.score), (&plain.drop, plain.score), "{followed} {strategy}");
            if choice.drop == plain.drop {
                assert_eq!((&choice.runner_up, &choice.rivals), (&plain.runner_up, &plain.rivals));
            }
        }
        // one size alone is ranked as it is among all
        let search = Search {
            metric: followed.to_owned(),
            strategy: Some(strategy.to_owned()),
            rerank: Some(4),
            ..Search::default()
        };
        let one = search.run_with(&mut evidence, &scores, Some(2)).unwrap();
        let parts = plain.best.len().div_ceil(6);
        assert_eq!(one.best[2 * parts - 1], listed.best[2 * parts - 1]);
        assert!(one.best[0].short_list.is_empty() || parts == 2 && one.best[0].loss.is_none());
    }
}
