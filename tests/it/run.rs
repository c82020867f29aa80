//! `prune run`: what is shared, what is done again, what a kill leaves.

use std::collections::BTreeSet;
use std::fs;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant, SystemTime};

use prune::report::run::RunData;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde_json::{Value, json};

use crate::fixture::Llama;
use crate::fixture::desk::Desk;

const RECIPE: &str = r#"
model = "model"

[drop]
layers = [1, 2]
strategies = ["similarity", "deepest"]

[analyze]
data = "text.jsonl"

[heal]
data = "text.jsonl"
eval_data = "text.jsonl"
seq_len = 8
rank = 2
steps = 6
batch = 2
eval_every = 3
save_every = 1
warmup = 1
lr = 0.05

[eval]
tasks = ["text:text.jsonl"]
"#;

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

/// The figures without what differs from run to run.
fn figures(desk: &Desk, dir: &str) -> Value {
    let text = fs::read(desk.path(dir).join("report.json")).unwrap();
    let mut data: RunData = serde_json::from_slice(&text).unwrap();
    data.dense.speed = None;
    data.variants.iter_mut().for_each(|variant| variant.speed = None);
    serde_json::to_value(data).unwrap()
}

#[test]
fn from_a_recipe_to_a_report() {
    let desk = desk();
    let report = desk.json("run recipe.toml -o job --json");
    let data = &report["data"];
    let variants = data["variants"].as_array().unwrap();
    assert_eq!(variants.len(), 8);
    let loss = |variant: &Value| variant["scores"][0]["value"].as_f64().unwrap();
    for pair in variants.chunks(2) {
        assert_eq!((&pair[0]["is_healed"], &pair[1]["is_healed"]), (&json!(false), &json!(true)));
        assert_eq!(pair[0]["dropped"], pair[1]["dropped"]);
        assert!(loss(&pair[1]) < loss(&pair[0]), "healing on the very text lowers the loss");
    }
    // each figure is what its own command says
    let whole = desk.json("eval model --tasks text:text.jsonl --json");
    let alone = whole["figures"].as_array().unwrap().iter().find(|figure| figure["metric"] == "loss").unwrap();
    assert_eq!(alone["value"], data["dense"]["scores"][0]["value"]);
    let analysis = desk.json("analyze model --data text.jsonl --json");
    assert_eq!(analysis["analysis"]["scores"][0]["mean"], data["distances"]["mean"]);

    // the same again does nothing
    let again = desk.json("run recipe.toml -o job --json");
    assert!(made(&again).is_empty(), "{:?}", made(&again));
    assert_eq!(again["data"], report["data"]);
}

/// Off a terminal: a line for each stage, numbered, with the time so far; the summary of a run that goes on counts what
/// was done before. The scores stand in the cards of what was written, which name no directory.
#[test]
fn what_a_run_says_of_itself() {
    let desk = desk();
    let only = "--set drop.layers=[1] --set drop.given=[\"1\"] --set drop.strategies=[\"deepest\"]";
    let output = desk.run(&format!("run recipe.toml -o job {only}"));
    let (said, told) = (String::from_utf8(output.stderr).unwrap(), String::from_utf8(output.stdout).unwrap());
    let stages: Vec<&str> = said.lines().filter(|line| line.contains(": done in ")).collect();
    assert_eq!(stages.len(), 10, "{said}");
    for (number, line) in (1..).zip(&stages) {
        assert!(line.starts_with(&format!("{number} of 10, ")), "{line}");
    }
    assert!(stages[0].contains("s  analysis: done in "), "{}", stages[0]);
    assert!(stages[9].contains("  given-1/healed-scores: done in "), "{}", stages[9]);
    assert!(said.contains("deepest-1/healed: loss on 21 sequences"), "notes of a stage are passed on: {said}");
    assert!(told.contains("stages   10 in "), "{told}");

    let again = desk.run(&format!("run recipe.toml -o job {only} --set heal.steps=7"));
    let (said, told) = (String::from_utf8(again.stderr).unwrap(), String::from_utf8(again.stdout).unwrap());
    let last = said.lines().rfind(|line| line.contains(": done in ")).unwrap();
    assert!(last.starts_with("10 of 10, "), "{said}");
    assert!(told.contains("stages   10: 4 in ") && told.contains(", 6 done before; "), "{told}");

    for part in ["model", "healed/merged", "healed/adapter"] {
        let card = fs::read_to_string(desk.path("job/deepest-1").join(part).join("README.md")).unwrap();
        assert!(card.contains("## Scores\n\n|  | model | this model |\n|---|---|---|\n| text loss | "), "{card}");
        assert_eq!(card.matches("## Scores").count(), 1, "{card}");
        assert!(card.contains("license: mit") && card.contains("## Usage"), "{card}");
        assert!(!card.contains("job/") && !card.contains(desk.path("").to_str().unwrap()), "{card}");
    }
}

#[test]
fn a_changed_recipe_does_again_what_it_touches() {
    let desk = desk();
    let only = "--set drop.strategies=[\"deepest\"]";
    let first = made(&desk.json(&format!("run recipe.toml -o job {only} --json")));
    let expected = ["analysis", "deepest-1/healed", "deepest-1/healed-scores", "deepest-1/model", "deepest-1/scores"];
    assert!(expected.iter().all(|name| first.contains(*name)), "{first:?}");

    let longer = made(&desk.json(&format!("run recipe.toml -o job {only} --set heal.steps=7 --json")));
    let healed = ["deepest-1/healed", "deepest-1/healed-scores", "deepest-2/healed", "deepest-2/healed-scores"];
    assert_eq!(longer, healed.map(str::to_owned).into());

    let more =
        made(&desk.json(&format!("run recipe.toml -o job {only} --set heal.steps=7 --set drop.layers=[2,3] --json")));
    assert!(more.iter().all(|name| name.starts_with("deepest-3/")) && more.len() == 4, "{more:?}");

    // another text under the same name
    let text = fs::read_to_string(desk.path("text.jsonl")).unwrap();
    fs::write(desk.path("text.jsonl"), text.lines().skip(2).map(|line| format!("{line}\n")).collect::<String>())
        .unwrap();
    let other = made(&desk.json(&format!("run recipe.toml -o job {only} --set heal.steps=7 --json")));
    assert!(!other.contains("deepest-1/model") && other.contains("deepest-1/scores") && other.contains("analysis"));
}

#[test]
fn cuts_that_drop_the_same_layers_are_one() {
    let desk = desk();
    let set = "--set drop.layers=[3] --set drop.given=[\"0-2\",\"0,1-2\"] --set drop.strategies=[\"deepest\"]";
    let report = desk.json(&format!("run recipe.toml -o job {set} --json"));
    let data = &report["data"];
    let dirs: BTreeSet<&str> =
        data["variants"].as_array().unwrap().iter().map(|variant| variant["dir"].as_str().unwrap()).collect();
    assert_eq!(dirs, ["deepest-3"].into());
    assert!(!desk.path("job/given-0-2").exists());
}

/// Attentions and MLPs go like layers, each half a layer: cut, healed and scored as the commands alone would, and told
/// before anything is done where the recipe does not say how they are written.
#[test]
fn sublayers_go_as_layers_do() {
    let desk = desk();
    let only = "--set drop.layers=[1] --set drop.given=[\"attn:1\",\"0-1\"] --set drop.methods=[\"finercut\"] \
                --set analyze.method=finercut";
    desk.refused(&format!("run recipe.toml -o job {only}"), 2, &["finercut-1/model", "--format"]);
    let set = format!("{only} --set cut.format=per-layer");
    let estimate = desk.json(&format!("run recipe.toml -o job --dry-run {set} --json"));
    assert!(estimate["stages"].as_array().unwrap().iter().any(|stage| stage["name"] == "given-attn1/healed"));
    let report = desk.json(&format!("run recipe.toml -o job {set} --json"));
    let variants = report["data"]["variants"].as_array().unwrap();
    assert_eq!(variants.len(), 6);
    let analysis = crate::fixture::desk::read(&desk.path("job/analysis/analysis.json"));
    assert_eq!(analysis["search"]["strategy"], "greedy");
    let of = |dir: &str, is_healed| {
        variants.iter().find(|variant| variant["dir"] == dir && variant["is_healed"] == json!(is_healed)).unwrap()
    };
    let given = of("given-attn1", false);
    assert_eq!((&given["dropped"], &given["layers"]), (&json!("attention:1"), &json!(4)));
    assert_eq!((&of("given-0-1", true)["dropped"], &of("given-0-1", true)["layers"]), (&json!([0, 1]), &json!(2)));
    let two = of("finercut-1", false)["dropped"].clone();
    assert!(two.is_string() || two.as_array().unwrap().len() == 1, "{two}");
    // each figure is what its own command says
    for dir in ["given-attn1", "finercut-1"] {
        let alone = desk.json(&format!("eval job/{dir}/model --tasks text:text.jsonl --json"));
        let loss = alone["figures"].as_array().unwrap().iter().find(|figure| figure["metric"] == "loss").unwrap();
        assert_eq!(loss["value"], of(dir, false)["scores"][0]["value"], "{dir}");
    }
    let rows = fs::read_to_string(desk.path("job/tables/models.csv")).unwrap();
    assert!(rows.lines().any(|row| row.starts_with("given-attn1,given,attention:1,0.5,0.125,false,4,")), "{rows}");
    assert!(made(&desk.json(&format!("run recipe.toml -o job {set} --json"))).is_empty());
    // written otherwise they are other models
    let other = made(&desk.json(&format!("run recipe.toml -o job {only} --set cut.format=zeros --json")));
    assert!(other.contains("given-attn1/model") && !other.contains("given-0-1/model"), "{other:?}");
}

#[test]
fn adapters_are_kept_and_models_can_go() {
    let desk = desk();
    let set =
        "--set drop.layers=[2] --set drop.strategies=[\"deepest\"] --set drop.keep=adapters --set drop.unhealed=false";
    let report = desk.json(&format!("run recipe.toml -o job {set} --json"));
    assert_eq!(report["data"]["variants"].as_array().unwrap().len(), 1);
    assert!(!desk.path("job/deepest-2/model").exists() && !desk.path("job/deepest-2/healed/merged").exists());
    assert!(desk.path("job/deepest-2/healed/adapter/adapter_model.safetensors").exists());
    assert!(made(&desk.json(&format!("run recipe.toml -o job {set} --json"))).is_empty());

    // another figure is asked for: the models come back from the adapter, nothing is trained
    let longer = made(&desk.json(&format!("run recipe.toml -o job {set} --set eval.limit=3 --json")));
    let expected = ["deepest-2/healed-scores", "deepest-2/model", "dense/scores"].map(str::to_owned);
    assert_eq!(longer, expected.into());
    let whole = desk.json(&format!("run recipe.toml -o whole {set} --set drop.keep=models --set eval.limit=3 --json"));
    assert_eq!(figures(&desk, "job")["variants"], figures(&desk, "whole")["variants"], "{whole}");
}

#[test]
fn what_is_in_the_way_or_wrong() {
    let desk = desk();
    fs::create_dir(desk.path("thesis")).unwrap();
    fs::write(desk.path("thesis/thesis.tex"), "x").unwrap();
    desk.refused("run recipe.toml -o thesis", 2, &["thesis", "holds no run"]);
    desk.refused("run nowhere.toml -o job", 2, &["nowhere.toml"]);
    desk.refused("run recipe.toml -o job --set heal.stepz=3", 2, &["recipe.toml", "[heal]", "stepz"]);
    desk.refused("run recipe.toml -o job --set drop.layers=[4]", 2, &["4 of 4"]);
    desk.refused("run recipe.toml -o job --set model=missing", 2, &["missing"]);
    desk.refused("run recipe.toml -o job --set heal.data=missing.jsonl", 2, &["[heal]", "missing.jsonl"]);
    assert!(!desk.path("job").exists());
    // a stage that fails is named, and what was done before it stays
    let output = desk.run("run recipe.toml -o job --set heal.lr=1e30");
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.contains("similarity-1/healed"), "{said}");
    let rest = made(&desk.json("run recipe.toml -o job --json"));
    assert!(!rest.contains("analysis") && !rest.contains("dense/scores"), "{rest:?}");
}

#[test]
fn killed_twenty_times_it_ends_with_the_same_figures() {
    let desk = desk();
    let began = Instant::now();
    desk.json("run recipe.toml -o whole --json");
    let whole_run = began.elapsed().as_secs_f64();
    let expected = figures(&desk, "whole");

    let seed = SystemTime::UNIX_EPOCH.elapsed().unwrap().as_secs();
    println!("seed {seed}");
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let (mut kills, mut finished) = (0, 0);
    while kills < 20 || finished == 0 {
        let mut child = Command::new(env!("CARGO_BIN_EXE_prune"))
            .args(["run", "recipe.toml", "-o", "job"])
            .current_dir(desk.path(""))
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        // long enough to get somewhere, too short to get through
        let patience = if kills < 20 { rng.random_range(0.0..0.6) * whole_run } else { 600.0 };
        let deadline = Instant::now() + Duration::from_secs_f64(patience);
        let status = loop {
            match child.try_wait().unwrap() {
                None if Instant::now() < deadline => std::thread::sleep(Duration::from_millis(1)),
                status => break status,
            }
        };
        match status {
            None => {
                child.kill().unwrap();
                child.wait().unwrap();
                kills += 1;
            }
            Some(status) => {
                let output = child.wait_with_output().unwrap();
                assert!(status.success(), "after {kills} kills: {}", String::from_utf8_lossy(&output.stderr));
                assert_eq!(figures(&desk, "job"), expected, "seed {seed}, after {kills} kills");
                finished += 1;
                fs::remove_dir_all(desk.path("job")).unwrap();
            }
        }
    }
}

/// As many layers go as the loss allows, by what the analysis measured: the same again, and in every run that goes on.
#[test]
fn a_bound_on_the_loss_says_how_many() {
    let desk = Desk::new();
    Llama { layers: 6, ..Llama::default() }.write(&desk.path("model"));
    let losses =
        desk.json("analyze model --data text.jsonl --max-loss 1000 --json")["analysis"]["search"]["best"].clone();
    let losses: Vec<f64> =
        losses.as_array().unwrap().iter().map(|choice| choice["loss"]["mean"].as_f64().unwrap()).collect();
    // between what two layers cost and what more do, if they do; whatever it is, the largest that costs no more
    let most = losses[1].max(0.0) + 1e-6;
    let count = (1..=5).rfind(|n| losses[n - 1] <= most).unwrap();
    let text = |most: f64| {
        format!(
            "model = \"model\"\n[drop]\nmax_loss = {most}\nmethods = [\"similarity\"]\n[analyze]\ndata = \"text.jsonl\"\n\
             [eval]\ntasks = [\"text:text.jsonl\"]\n"
        )
    };
    fs::write(desk.path("a.toml"), text(most)).unwrap();
    let ahead = desk.json("run a.toml -o job --dry-run --json");
    let names = [format!("similarity-loss{most}/model"), format!("similarity-loss{most}/scores")];
    let of = |report: &Value, name: &str| {
        let stages = report["stages"].as_array().unwrap().clone();
        stages.into_iter().find(|stage| stage["name"] == name).unwrap()
    };
    for name in &names {
        assert_eq!(of(&ahead, name)["layers_at_most"], 5, "{ahead}");
    }
    let told = String::from_utf8(desk.run("run a.toml -o job --dry-run").stdout).unwrap();
    assert!(told.contains(&format!("{}, up to 5 layers", names[0])), "{told}");
    assert!(!desk.path("job").exists());

    let report = desk.json("run a.toml -o job --json");
    let variant = report["data"]["variants"][0].clone();
    assert_eq!(variant["layers"], 6 - count);
    let bytes = |dir: &str| fs::read(desk.path(dir).join(format!("{}/model.safetensors", names[0]))).unwrap();
    // what cut makes of that analysis
    let line = format!("cut model --plan job/analysis/analysis.json --max-loss {most} -o alone --json");
    assert_eq!(desk.json(&line)["layers"]["after"], 6 - count);
    assert!(bytes("job") == fs::read(desk.path("alone/model.safetensors")).unwrap());
    // now it is known, and nothing is left to do
    let ahead = desk.json("run a.toml -o job --dry-run --json");
    assert!(made(&ahead).is_empty() && of(&ahead, &names[0]).get("layers_at_most").is_none(), "{ahead}");
    let disk = |report: &Value| of(report, &names[0])["disk"].as_u64().unwrap();
    let first = desk.json("run a.toml -o other --dry-run --json");
    assert!(disk(&first) >= disk(&ahead), "at most so much");
    assert!(made(&desk.json("run a.toml -o job --json")).is_empty());
    // a run that fails at its healing goes on with the number that its analysis found
    let heal =
        "--set heal.data=text.jsonl --set heal.seq_len=8 --set heal.steps=2 --set heal.batch=2 --set heal.rank=2";
    let failed = desk.run(&format!("run a.toml -o half {heal} --set heal.lr=1e30"));
    let said = String::from_utf8_lossy(&failed.stderr).into_owned();
    assert!(failed.status.code() == Some(1) && said.contains(&format!("similarity-loss{most}/healed")), "{said}");
    let rest = made(&desk.json(&format!("run a.toml -o half {heal} --set heal.lr=0.01 --json")));
    assert!(rest.len() == 2 && rest.iter().all(|name| name.contains("/healed")), "{rest:?}");
    assert!(bytes("half") == bytes("job"));

    // beside sizes, and by a search that the analysis follows
    let sizes = "--set drop.layers=[1] --set analyze.method=sleb --set drop.methods=[\"sleb\"]";
    let report = desk.json(&format!("run a.toml -o both {sizes} --json"));
    assert_eq!(report["data"]["variants"].as_array().unwrap().len(), 2);
    for (set, code, words) in [
        ("drop.max_loss=-0.1", 2, "[drop] max_loss = -0.1"),
        ("drop.max_loss=inf", 2, "max_loss"),
        ("drop.max_loss=\"much\"", 2, "max_loss"),
        ("drop.methods=[\"similarity\",\"deepest\"]", 2, "deepest chooses are not measured: it looks at nothing"),
        ("drop.methods=[\"shortgpt\"]", 2, "[analyze] method = \"shortgpt\""),
        ("analyze.max_loss=0.1", 2, "prune run sets this itself"),
        ("analyze.samples=0", 2, "0 samples"),
    ] {
        let output = desk.run(&format!("run a.toml -o none --set {set}"));
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.code() == Some(code) && said.contains(words), "{set}: {said}");
        assert!(!desk.path("none").exists(), "{set}");
    }
    // a loss that no cut meets is known after the analysis alone
    if losses.iter().all(|loss| *loss > 1e-6) {
        let output = desk.run("run a.toml -o none --set drop.max_loss=1e-6");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.code() == Some(1) && said.contains("cannot be met"), "{said}");
    }
}
