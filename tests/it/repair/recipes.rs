//! Repairs in recipes: each cut once a repair, shared, refused in time, and the same after kills.

use std::collections::BTreeSet;
use std::fs;
use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::{Value, json};

use crate::fixture::desk::{Desk, lasting_files};

const RECIPE: &str = r#"
model = "model"

[drop]
layers = [1]
methods = ["similarity", "deepest"]

[analyze]
data = "text.jsonl"

[heal]
data = "text.jsonl"
eval_data = "text.jsonl"
seq_len = 8
rank = 2
steps = 4
batch = 2
eval_every = 2
save_every = 1
warmup = 1
lr = 0.05

[eval]
tasks = ["text:text.jsonl"]
"#;

const REPAIRED: &str = "--set repair.methods=[\"none\",\"refit\"] --set repair.data=text.jsonl";

fn desk() -> Desk {
    let desk = Desk::new();
    fs::write(desk.path("recipe.toml"), RECIPE).unwrap();
    desk
}

/// Names of the stages that this run did itself.
fn made(report: &Value) -> BTreeSet<String> {
    let stages = report["stages"].as_array().unwrap();
    let own = stages.iter().filter(|stage| stage["is_done"] == json!(false));
    own.map(|stage| stage["name"].as_str().unwrap().to_owned()).collect()
}

/// The plain cuts of a run with repairs are those of one without, byte for byte, and so is all that is made of them; a
/// repaired one is what `prune cut --repair` writes.
#[test]
fn none_is_the_plain_cut_and_a_repair_is_its_own() {
    let desk = desk();
    desk.json("run recipe.toml -o plain --json");
    let none = desk.json("run recipe.toml -o none --set repair.methods=[\"none\"] --json");
    let report = desk.json(&format!("run recipe.toml -o job {REPAIRED} --json"));
    for part in ["model", "healed/merged"] {
        for cut in ["similarity-1", "deepest-1"] {
            let of = |run: &str| {
                let mut files = lasting_files(&desk.path(run).join(cut).join(part));
                // it says what was healed by its place
                assert!(part == "model" || files.remove("prune.json").is_some());
                files
            };
            assert!(of("plain").len() > 3 && of("plain") == of("none") && of("plain") == of("job"), "{cut}/{part}");
        }
    }
    let data = |run: &str| {
        let mut data = crate::fixture::desk::read(&desk.path(run).join("report.json"));
        data["recipe"] = Value::Null;
        data
    };
    assert_eq!(data("none"), data("plain"));
    assert_eq!(fs::read(desk.path("none/tables/models.csv")).ok(), fs::read(desk.path("plain/tables/models.csv")).ok());
    assert_eq!(none["data"]["variants"].as_array().unwrap().len(), 4);

    desk.json("cut model --deepest 1 --repair refit --data text.jsonl -o alone --json");
    let weights = |dir: &str| fs::read(desk.path(dir).join("model.safetensors")).unwrap();
    assert!(weights("alone") == weights("job/deepest-1-refit/model"));
    // refit may find that no part of its fit helps; fold writes what it fitted
    desk.json("run recipe.toml -o fold --set repair.methods=[\"fold\"] --set repair.data=text.jsonl --json");
    assert!(weights("fold/deepest-1-fold/model") != weights("plain/deepest-1/model"));
    let history = crate::fixture::desk::read(&desk.path("job/deepest-1-refit/healed/merged/prune.json"));
    assert!(history.to_string().contains("\"name\":\"refit\""), "{history}");

    let variants = report["data"]["variants"].as_array().unwrap();
    let names: Vec<(&str, bool)> =
        variants.iter().map(|of| (of["dir"].as_str().unwrap(), of["is_healed"] == json!(true))).collect();
    let both = |dir| [(dir, false), (dir, true)];
    let dirs = ["similarity-1", "similarity-1-refit", "deepest-1", "deepest-1-refit"];
    assert_eq!(names, dirs.into_iter().flat_map(both).collect::<Vec<_>>());
    assert_eq!((&variants[0].get("repair"), &variants[2]["repair"]), (&None, &json!("refit")));
    let has = |from: usize, to: usize| {
        let differences = report["data"]["differences"].as_array().unwrap();
        differences.iter().any(|found| (&found["from"], &found["to"]) == (&json!(from), &json!(to)))
    };
    // plain and repaired, healed and repaired, repaired and healed as well, and the strategies repaired alike
    assert!(has(1, 3) && has(2, 3) && has(3, 4) && has(3, 7) && !has(1, 7));
    let head = fs::read_to_string(desk.path("job/tables/models.csv")).unwrap();
    assert!(head.contains(",fraction_dropped,repair,healed,") && head.contains(",0.25,refit,true,"), "{head}");
    let told = String::from_utf8(desk.run(&format!("run recipe.toml -o job {REPAIRED}")).stdout).unwrap();
    assert!(told.contains("\ndeepest-1 + refit healed ") && told.contains("\ndeepest-1 + refit  "), "{told}");
}

#[test]
fn what_repairs_share_and_what_a_change_touches() {
    let desk = desk();
    let set = format!("--set drop.methods=[\"deepest\"] --set drop.given=[\"2\"] {REPAIRED}");
    let bench = "--set bench.prompt_tokens=4 --set bench.tokens=2 --set bench.repetitions=1";
    let estimate = desk.json(&format!("run recipe.toml -o job --dry-run {set} {bench} --json"));
    let stages = estimate["stages"].as_array().unwrap();
    let names: Vec<&str> = stages.iter().map(|stage| stage["name"].as_str().unwrap()).collect();
    let expected = "analysis dense/scores deepest-1/model deepest-1/scores deepest-1/speed deepest-1/healed \
                    deepest-1/healed-scores deepest-1-refit/model deepest-1-refit/scores deepest-1-refit/healed \
                    deepest-1-refit/healed-scores";
    assert_eq!(names.join(" "), expected);
    let of = |name: &str| stages.iter().find(|stage| stage["name"] == name).unwrap();
    assert!(
        of("deepest-1/model")["memory"].is_null() && of("deepest-1-refit/model")["memory"].as_u64().unwrap() > 1000
    );
    let seconds = |name: &str| of(name)["seconds"].as_f64().unwrap();
    assert!(seconds("deepest-1-refit/model") > seconds("deepest-1/model"));
    assert!(!desk.path("job").exists());

    // the same layers twice are one cut, and a repair makes none slower
    let first = made(&desk.json(&format!("run recipe.toml -o job {set} {bench} --json")));
    assert_eq!(first, names.iter().map(|name| (*name).to_owned()).collect());
    let more = made(&desk.json(&format!("run recipe.toml -o job {set} {bench} --set repair.samples=8 --json")));
    assert!(more.iter().all(|name| name.starts_with("deepest-1-refit/")) && more.len() == 4, "{more:?}");
    let again = made(&desk.json(&format!("run recipe.toml -o job {set} {bench} --set repair.samples=8 --json")));
    assert!(again.is_empty(), "{again:?}");
    // what stays is the adapter: the repaired cut is made again when it is needed
    let keep = format!("{set} --set drop.keep=adapters --set drop.unhealed=false");
    let kept = desk.json(&format!("run recipe.toml -o kept {keep} --json"));
    assert!(!desk.path("kept/deepest-1-refit/model").exists(), "{kept}");
    let rest = made(&desk.json(&format!("run recipe.toml -o kept {keep} --set eval.limit=3 --json")));
    assert!(rest.contains("deepest-1-refit/model") && !rest.contains("deepest-1-refit/healed"), "{rest:?}");
}

#[test]
fn what_cannot_be_repaired_is_refused_before_the_first_stage() {
    let desk = desk();
    let run = "run recipe.toml -o job --set repair.data=text.jsonl";
    desk.refused("run recipe.toml -o job --set repair.methods=[\"refit\"]", 2, &["[repair] data", "refit"]);
    desk.refused(&format!("{run} --set repair.methods=[\"refitt\"]"), 2, &["[repair] methods", "did you mean refit?"]);
    desk.refused(&format!("{run} --set repair.methods=[\"bias\"]"), 2, &["similarity-1-bias/model", "has no bias"]);
    let text = "run recipe.toml -o job --set repair.data=nowhere.jsonl --set repair.methods=[\"refit\"]";
    desk.refused(text, 2, &["similarity-1-refit/model", "nowhere.jsonl"]);
    let few = format!("{run} --set repair.methods=[\"refit\"] --set repair.samples=3");
    desk.refused(&few, 2, &["similarity-1-refit/model", "24 at least"]);
    desk.refused(&format!("{few} --dry-run"), 2, &["similarity-1-refit/model", "24 at least"]);
    let bottom = format!("{run} --set repair.methods=[\"none\",\"fold\"] --set drop.given=[\"0\"]");
    desk.refused(&bottom, 2, &["given-0-fold/model", "first layers"]);
    assert!(!desk.path("job").exists());
    // what only the analysis can tell is told right after it
    let chosen = "--set drop.layers=[3] --set analyze.protect_last=1 --set drop.methods=[\"similarity\"]";
    let late = desk.run(&format!("{run} --set repair.methods=[\"fold\"] {chosen}"));
    let said = String::from_utf8_lossy(&late.stderr);
    assert!(late.status.code() == Some(2) && said.contains("similarity-3-fold/model: "), "{said}");
    let left: BTreeSet<String> = lasting_files(&desk.path("job")).into_keys().collect();
    assert!(left.iter().all(|name| name.starts_with("analysis/")) && !left.is_empty(), "{left:?}");
    // sub-layers are repaired like layers
    let parts = "--set drop.given=[\"attn:1\"] --set drop.layers=[] --set cut.format=zeros";
    let text = "--set repair.data=text.jsonl --set repair.methods=[\"refit\",\"fold\"]";
    desk.json(&format!("run recipe.toml -o parts {text} {parts} --json"));
    assert!(desk.path("parts/given-attn1-fold/healed-scores").exists());
}

#[test]
fn killed_it_ends_with_the_same_bytes() {
    let desk = desk();
    let set = ["--set", "drop.methods=[\"deepest\"]"];
    let repair = ["--set", "repair.methods=[\"refit\",\"fold\"]", "--set", "repair.data=text.jsonl"];
    let run = || {
        let mut command = Command::new(env!("CARGO_BIN_EXE_prune"));
        command.args(["run", "recipe.toml", "-o", "job"]).args(set).args(repair).current_dir(desk.path(""));
        command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
    };
    assert!(run().wait().unwrap().success());
    let expected = lasting_files(&desk.path("job"));
    fs::remove_dir_all(desk.path("job")).unwrap();
    let mut kills = 0;
    for patience in (1..).map(|step| Duration::from_millis(60 * step)) {
        let mut child = run();
        std::thread::sleep(patience);
        if let Some(status) = child.try_wait().unwrap() {
            assert!(status.success());
            break;
        }
        child.kill().unwrap();
        child.wait().unwrap();
        kills += 1;
    }
    println!("{kills} kills");
    assert!(kills > 0);
    let found = lasting_files(&desk.path("job"));
    assert_eq!(found.keys().collect::<Vec<_>>(), expected.keys().collect::<Vec<_>>());
    let differ: Vec<&String> = expected.keys().filter(|name| found[*name] != expected[*name]).collect();
    assert!(differ.is_empty(), "{differ:?}");
}
