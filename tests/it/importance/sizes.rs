//! How much goes, through the binary: a target of size, a rise of the loss that is allowed, a short list.

use std::fs;

use prune::importance::Analysis;
use serde_json::Value;

use crate::fixture::Llama;
use crate::fixture::desk::{Desk, read};

fn desk() -> Desk {
    let desk = Desk::new();
    Llama { layers: 6, ..Llama::default() }.write(&desk.path("model"));
    desk
}

const ANALYZE: &str = "analyze model --data text.jsonl";

/// Parameters of the model, and of one layer of it.
fn sizes(desk: &Desk) -> (u64, u64) {
    let report = desk.json("cut model --drop 2 --dry-run --json");
    let of = |key: &str| report["parameters"][key].as_u64().unwrap();
    (of("before"), of("before") - of("after"))
}

#[test]
fn as_few_layers_as_reach_a_size() {
    let desk = desk();
    let (whole, layer) = sizes(&desk);
    let target = whole - 2 * layer;
    let plan = desk.json(&format!("{ANALYZE} --target params={target} --json"))["analysis"]["plan"].clone();
    assert_eq!(plan["stack"].as_array().unwrap().len(), 4);
    // one less takes a layer more
    let line = format!("{ANALYZE} --target params={} --method shortgpt -o a", target - 1);
    assert!(desk.run(&line).status.success());
    assert_eq!(Analysis::read(&desk.path("a/analysis.json")).unwrap().plan.unwrap().dropped().len(), 3);
    for (line, layers) in [
        (format!("cut model --plan a/analysis.json --target params={target} -o b"), 4),
        (format!("cut model --method tail --target params={} -o c", target - 1), 3),
        (format!("cut model --target params={target} -o d"), 4),
    ] {
        let report = desk.json(&format!("{line} --json"));
        assert_eq!(report["layers"]["after"], layers, "{line}");
        assert!(report["parameters"]["after"].as_u64().unwrap() <= target, "{line}");
    }
}

#[test]
fn a_size_that_cannot_be_is_refused_before_the_work() {
    let desk = desk();
    let (whole, layer) = sizes(&desk);
    let least = format!("params={}, without 5 of 6 layers", whole - 5 * layer);
    for (line, words) in [
        (format!("{ANALYZE} --target params=10"), vec!["--target", "cannot be met", &least]),
        ("cut model --target params=10 -o out".to_owned(), vec!["cannot be met", &least]),
        (format!("{ANALYZE} --target params={whole}"), vec!["nothing to drop"]),
        (format!("{ANALYZE} --target size=2"), vec!["params=5B, bytes=4GiB, kv-bytes=64KiB, speed=1.5"]),
        (format!("{ANALYZE} --target speed=0.5"), vec!["more than 1"]),
        (format!("{ANALYZE} --target speed=999"), vec!["cannot be met", "nearest is speed="]),
        (format!("{ANALYZE} --target params=20k --method finercut"), vec!["whole layers", "--layers"]),
        (format!("{ANALYZE} --max-loss=-0.5"), vec!["--max-loss", "from 0 up"]),
        ("analyze model --metrics magnitude --max-loss 1".to_owned(), vec!["--data"]),
        ("analyze model --metrics magnitude --rerank 4".to_owned(), vec!["--data"]),
        (format!("{ANALYZE} --rerank 1"), vec!["2 to 1000"]),
        (format!("{ANALYZE} --method sleb --rerank 4"), vec!["greedy", "by scores"]),
        (format!("{ANALYZE} --subsets 0 --method shapley"), vec!["--subsets 0"]),
        (format!("{ANALYZE} --policy-steps 0 --method policy"), vec!["--policy-steps 0"]),
        ("cut model --max-loss 0.1 -o out".to_owned(), vec!["--plan"]),
    ] {
        desk.refused(&line, 2, &words);
    }
    for clash in ["--layers 2 --target params=10", "--max-loss 1 --fraction 0.5", "--target bytes=1MB --max-loss 1"] {
        assert_eq!(desk.run(&format!("{ANALYZE} {clash}")).status.code(), Some(2), "{clash}");
    }
}

/// The largest cut whose loss is within what is allowed, whatever smaller ones cost, for picks that measure and picks
/// by scores; `cut` takes the same from the file.
#[test]
fn as_many_layers_as_the_loss_allows() {
    let desk = Desk::new();
    // a trained model: what goes costs something
    assert!(desk.run("demo --extract atlas").status.success());
    let analyze = "analyze atlas/model --data atlas/text/validation.jsonl --samples 3 --seq-len 48";
    for method in ["sleb", "similarity", "shortgpt", "finercut", "exact-block"] {
        let all = desk.json(&format!("{analyze} --method {method} --max-loss 1000 --json"))["analysis"].clone();
        let best = all["search"]["best"].as_array().unwrap();
        let parts = if method == "finercut" { 2 } else { 1 };
        let rise = |choice: &Value| choice["loss"]["mean"].as_f64().unwrap();
        let rises: Vec<f64> = best.iter().map(rise).collect();
        assert!(best.iter().all(|choice| choice["loss"]["stderr"].as_f64().unwrap() >= 0.0), "{method}");
        // the rise of each size is that of what it drops
        let (n, drop) = (2 * parts, &best[2 * parts - 1]["drop"]);
        if parts == 1 {
            let words: Vec<String> = drop.as_array().unwrap().iter().map(ToString::to_string).collect();
            assert!(desk.run(&format!("cut atlas/model --drop {} -o {method}", words.join(","))).status.success());
            let text = analyze.split_once("model ").unwrap().1;
            let loss = |model: &str| {
                let line = format!("analyze {model} {text} --metrics logit-lens --json");
                let scores = desk.json(&line)["analysis"]["scores"].clone();
                let lens = scores.as_array().unwrap().iter().find(|own| own["metric"] == "logit-lens").cloned();
                lens.unwrap()["mean"][0].as_array().unwrap().last().unwrap().as_f64().unwrap()
            };
            let expected = loss(method) - loss("atlas/model");
            assert!((rises[n - 1] - expected).abs() < 1e-5, "{method}: {} {expected}", rises[n - 1]);
        }
        // the smallest rise, and one in the middle
        let mut sorted: Vec<f64> = rises.iter().skip(parts - 1).step_by(parts).copied().collect();
        sorted.sort_by(f64::total_cmp);
        for most in [sorted[0], sorted[sorted.len() / 2]].map(|rise| rise.max(0.0) + 1e-9) {
            let line = format!("{analyze} --method {method} --max-loss {most} -o out --force");
            assert!(desk.run(&line).status.success(), "{line}");
            let sizes: Vec<usize> = (parts..=rises.len()).step_by(parts).collect();
            let expected = *sizes.iter().rev().find(|n| rises[**n - 1] <= most).unwrap();
            let analysis = Analysis::read(&desk.path("out/analysis.json")).unwrap();
            let plan = analysis.plan.as_ref().unwrap();
            assert_eq!(plan.why["layers"], expected / parts, "{line}: {rises:?}");
            assert_eq!(plan.why["loss_rise"].as_f64().unwrap(), rises[expected - 1]);
            let cut =
                format!("cut atlas/model --plan out/analysis.json --max-loss {most} --format zeros --dry-run --json");
            let dropped = desk.json(&cut)["dropped"].clone();
            assert_eq!(dropped, serde_json::to_value(plan.dropped()).unwrap(), "{line}");
        }
        fs::remove_dir_all(desk.path("out")).unwrap();
    }
    // nothing is within it: said with the least, and what was measured is there for a larger one
    let output = desk.run(&format!("{analyze} --method exact-block --max-loss 0 --protect-last 15 -o out"));
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("cannot be met; the least is +") && said.contains("without 1 of the layers"), "{said}");
    assert!(!desk.path("out").exists());
}

/// The analysis says both: what the scores alone choose, and what the short list's losses do.
#[test]
fn a_short_list_is_told() {
    let desk = desk();
    let line = format!("{ANALYZE} --layers 2 --rerank 3 -o out");
    let output = desk.run(&line);
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && said.contains("by loss"), "{said}");
    let analysis = read(&desk.path("out/analysis.json"));
    let choice = &analysis["search"]["best"][1];
    assert_eq!(choice["short_list"].as_array().unwrap().len(), 3);
    assert_eq!((&analysis["search"]["rerank"], &analysis["plan"]["why"]["rerank"]), (&3.into(), &3.into()));
    assert_eq!(analysis["plan"]["why"]["loss_rise"], choice["loss"]["mean"]);
    // a cut of that size by the analysis is the one that the losses chose
    let report = desk.json("cut model --plan out/analysis.json --layers 2 --dry-run --json");
    assert_eq!(report["dropped"], choice["drop"]);
    // another search of the file is by its scores alone
    assert!(desk.run("analyze --from out/analysis.json --layers 2 -o again").status.success());
    assert_eq!(read(&desk.path("again/analysis.json"))["search"].get("rerank"), None);
    desk.refused("analyze --from out/analysis.json --max-loss 0.1", 2, &["--max-loss with a model"]);
}
