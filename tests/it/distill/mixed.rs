//! A healing on several texts, each with its share.

use std::fs;

use serde_json::{Value, json};

use crate::fixture::desk::{Desk, read};

/// Words of which no two texts share one.
fn desk() -> Desk {
    let desk = Desk::new();
    for (name, from, count) in [("a", 3, 30), ("b", 20, 5)] {
        let row = |n: usize| json!({"text": format!("w{} w{} w{}", from + n % 10, from + n % 7, from + n % 3)});
        let rows: String = (0..count).map(|n| row(n).to_string() + "\n").collect();
        fs::write(desk.path(&format!("{name}.jsonl")), rows).unwrap();
    }
    let row = |n: usize| json!({"prompt": format!("w{}", 40 + n % 9), "completion": "w60 w61"});
    fs::write(desk.path("c.jsonl"), (0..4).map(|n| row(n).to_string() + "\n").collect::<String>()).unwrap();
    desk
}

const HEAL: &str = "heal model --seq-len 8 --packing document --batch 4 --rank 2 --warmup 0 --adapter-only --json";

#[test]
fn a_plan_says_what_each_text_gives() {
    let desk = desk();
    let line = format!("{HEAL} --steps 20 --dry-run --data a.jsonl --data b.jsonl --data c.jsonl");
    let plan = desk.json(&format!("{line} --weights 3,1,4"));
    let sources = plan["sources"].as_array().unwrap();
    let of = |key: &str| sources.iter().map(|source| source[key].as_f64().unwrap()).collect::<Vec<_>>();
    assert_eq!((of("share"), of("sequences")), (vec![0.375, 0.125, 0.5], vec![30.0, 5.0, 4.0]));
    assert_eq!(of("taken").iter().sum::<f64>(), 80.0);
    for ((taken, expected), (passes, sequences)) in
        of("taken").iter().zip([30.0, 10.0, 40.0]).zip(of("passes").iter().zip(of("sequences")))
    {
        assert!((taken - expected).abs() <= 2.0 && (passes - taken / sequences).abs() < 1e-12, "{taken} {expected}");
    }
    assert_eq!(plan["chat"]["form"], "prompt-completion");
    // alike where nobody says otherwise
    let alike = desk.json(&line);
    assert_eq!(alike["sources"][1]["share"].as_f64().map(|share| (share * 3.0).round()), Some(1.0));
    let one = desk.json(&line.replace(" --data b.jsonl --data c.jsonl", ""));
    assert_eq!(one.get("sources"), None);
    let said = desk.run(&line.replace("--json", ""));
    let said = String::from_utf8_lossy(&said.stderr);
    assert!(said.contains("c.jsonl: each of its 4 sequences comes 7 times"), "{said}");
}

#[test]
fn a_mixed_healing_that_was_stopped_ends_with_the_same_bytes() {
    let desk = desk();
    let mixed = "--data a.jsonl --data b.jsonl --data c.jsonl --weights 2,1,1 --eval-data a.jsonl --shuffle-window 3";
    let line = |steps: usize, more: &str| format!("{HEAL} --steps {steps} --schedule constant {mixed} {more}");
    desk.json(&line(24, "-o whole"));
    let mut child = desk.command(&line(24, "-o out --save-every 1")).spawn().unwrap();
    let log = desk.path("out.healing/log.jsonl");
    let written = || fs::read_to_string(&log).map_or(0, |text| text.lines().count());
    while child.try_wait().unwrap().is_none() && written() < 12 {
        std::thread::sleep(std::time::Duration::from_micros(50));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    if log.exists() {
        let other = line(24, "-o out").replace("2,1,1", "2,1,2");
        // a warning of how often the smallest text comes stands before it
        let refused = desk.run(&other.replace(" --json", ""));
        let said = String::from_utf8_lossy(&refused.stderr);
        let fault = "error: out.healing: the unfinished run there began with other settings: weights was [2.0,1.0,1.0], is \
                     [2.0,1.0,2.0]";
        assert!(refused.status.code() == Some(2) && said.contains(fault), "{said}");
    }
    let report = desk.json(&line(24, "-o out --save-every 1"));
    assert_eq!(report["result"]["steps"], 24);
    let adapter = |out: &str| fs::read(desk.path(out).join("adapter/adapter_model.safetensors")).unwrap();
    assert!(adapter("out") == adapter("whole"));
    let record = read(&desk.path("whole/heal.json"));
    assert_eq!(record["settings"]["data"], json!(["a.jsonl", "b.jsonl", "c.jsonl"]));
    let card = fs::read_to_string(desk.path("whole/adapter/README.md")).unwrap();
    assert!(card.contains("a.jsonl and b.jsonl and c.jsonl"), "{card}");
    // one text alone is recorded as it always was
    desk.json(&format!("{HEAL} --steps 2 --data a.jsonl -o one"));
    let record = read(&desk.path("one/heal.json"));
    assert_eq!((&record["settings"]["data"], record["settings"].get("weights")), (&json!("a.jsonl"), None::<&Value>));
}

#[test]
fn weights_that_cannot_be_are_refused() {
    let desk = desk();
    let line = |weights: &str| {
        format!("heal model --data a.jsonl --data b.jsonl --steps 2 --seq-len 8 --rank 2 {weights} -o out")
    };
    for (weights, words) in [
        ("--weights 1", &["1 numbers, data 2 texts"][..]),
        ("--weights 1,2,3", &["3 numbers, data 2 texts"]),
        ("--weights 1,0", &["weights: 0", "above 0"]),
        ("--weights=-1,2", &["weights: -1", "above 0"]),
    ] {
        desk.refused(&line(weights), 2, words);
    }
    for weights in ["--weights 1,nan", "--weights 1,inf", "--weights 1,x", "--weights -1,2"] {
        assert_eq!(desk.run(&line(weights)).status.code(), Some(2), "{weights}");
    }
    fs::write(desk.path("empty.jsonl"), "").unwrap();
    desk.refused(&line("").replace("b.jsonl", "nothing.jsonl"), 2, &["nothing.jsonl"]);
    desk.refused(&line("").replace("b.jsonl", "empty.jsonl"), 1, &["empty.jsonl", "too little text"]);
    let recipe = "model = \"model\"\n[drop]\nlayers = [1]\nmethods = [\"deepest\"]\n[heal]\nseq_len = 8\nsteps = 2\n\
                  rank = 2\ndata = [\"a.jsonl\", \"b.jsonl\"]\nweights = [3, 1]\n";
    fs::write(desk.path("recipe.toml"), recipe).unwrap();
    assert!(desk.run("run recipe.toml -o job --dry-run").status.success());
    fs::write(desk.path("recipe.toml"), recipe.replace("[3, 1]", "[3]")).unwrap();
    desk.refused("run recipe.toml -o job --dry-run", 2, &["1 numbers, data 2 texts"]);
}
