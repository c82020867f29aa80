//! `prune run` with searches beside other methods: each is an analysis of its own, and chooses what it chooses alone.

use std::fs;

use serde_json::{Value, json};

use crate::fixture::Llama;
use crate::fixture::desk::{Desk, read};

const RECIPE: &str = r#"
model = "model"

[drop]
layers = [1, 3]
methods = ["similarity", "sleb", "shortgpt", "finercut"]

[analyze]
data = "text.jsonl"
metrics = ["angular", "block-influence"]
protect_first = 1

[cut]
format = "per-layer"

[eval]
tasks = ["text:text.jsonl"]
"#;

fn desk() -> Desk {
    let desk = Desk::new();
    Llama { layers: 6, ..Llama::default() }.write(&desk.path("model"));
    fs::write(desk.path("recipe.toml"), RECIPE).unwrap();
    desk
}

fn names(report: &Value, is_done: bool) -> Vec<String> {
    let stages = report["stages"].as_array().unwrap().iter().filter(|stage| stage["is_done"] == json!(is_done));
    stages.map(|stage| stage["name"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn a_recipe_takes_searches_beside_other_methods() {
    let desk = desk();
    let ahead = desk.json("run recipe.toml -o job --dry-run --json");
    let planned = names(&ahead, false);
    assert_eq!(planned[..3], ["analysis", "analysis-sleb", "analysis-finercut"].map(str::to_owned));
    let stages = ahead["stages"].as_array().unwrap();
    assert!(stages[..3].iter().all(|stage| stage["seconds"].as_f64().unwrap() > 0.0), "{ahead}");

    let report = desk.json("run recipe.toml -o job --json");
    let all = report["stages"].as_array().unwrap().len();
    // what each chose is what it chooses alone
    for (method, more) in [("sleb", ""), ("finercut", " --format per-layer")] {
        let analyze = "analyze model --data text.jsonl --protect-first 1 --layers 3";
        desk.json(&format!("{analyze} --method {method} -o {method} --json"));
        for size in [1, 3] {
            let line = format!(
                "cut model --plan {method}/analysis.json --method {method} --layers {size}{more} -o {method}-{size} --json"
            );
            let alone = desk.json(&line);
            let cut = format!("job/{method}-{size}/model");
            let place = if desk.path(&cut).exists() { cut } else { same(&report, &format!("{method}-{size}")) };
            let weights = |dir: &str| fs::read(desk.path(dir).join("model.safetensors")).unwrap();
            assert!(weights(&place) == weights(&format!("{method}-{size}")), "{alone}");
        }
    }
    // the recipe's own analysis knows nothing of the searches
    let own = read(&desk.path("job/analysis/analysis.json"));
    assert_eq!(own["search"]["metric"], "angular");
    assert_eq!(read(&desk.path("job/analysis-sleb/analysis.json"))["search"]["strategy"], "greedy");

    // nothing is left to do, one more search does only what is its own, a larger cut searches further
    assert_eq!(names(&desk.json("run recipe.toml -o job --json"), true).len(), all);
    let less = "--set drop.methods=[\"similarity\",\"shortgpt\"]";
    assert!(names(&desk.json(&format!("run recipe.toml -o job {less} --json")), false).is_empty());
    let more = "--set drop.methods=[\"similarity\",\"sleb\",\"beam\"]";
    let made = names(&desk.json(&format!("run recipe.toml -o job {more} --json")), false);
    assert!(made.contains(&"analysis-beam".to_owned()) && !made.contains(&"analysis-sleb".to_owned()), "{made:?}");
    let made = names(&desk.json("run recipe.toml -o job --set drop.layers=[1,3,4] --json"), false);
    assert!(made.contains(&"analysis-sleb".to_owned()) && !made.contains(&"analysis".to_owned()), "{made:?}");
}

/// Where a cut is that drops the same layers as `name`.
fn same(report: &Value, name: &str) -> String {
    let (method, size) = name.rsplit_once('-').unwrap();
    let variants = report["data"]["variants"].as_array().unwrap();
    let size: usize = size.parse().unwrap();
    let of = |variant: &&Value| variant["strategy"] == method && variant["layers"] == 6 - size;
    format!("job/{}/model", variants.iter().find(of).unwrap()["dir"].as_str().unwrap())
}

#[test]
fn what_a_search_cannot_do_is_refused_before_work() {
    let desk = desk();
    for (set, words) in [
        ("drop.max_loss=0.5", ["[drop] max_loss", "[analyze] method = \"sleb\""]),
        ("analyze.protect_first=4", ["sleb-3", "4"]),
    ] {
        let set = format!("run recipe.toml -o job --set drop.methods=[\"sleb\"] --set {set}");
        desk.refused(&set, 2, &words);
    }
}
