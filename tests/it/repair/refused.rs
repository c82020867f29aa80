//! What cannot be repaired is refused before the work, with the reason, and nothing is left behind.

use std::fs;

use prune::commands::cut::{CutSettings, cut};
use prune::progress::Silent;
use prune::repair::repair;
use serde_json::json;

use crate::fixture::desk::Desk;

#[test]
fn flags_that_do_not_go_together() {
    let desk = Desk::new();
    let line = "cut model --drop 1 -o out";
    desk.refused(&format!("{line} --repair refit"), 2, &["--data"]);
    desk.refused(&format!("{line} --data text.jsonl"), 2, &["--data goes with --repair"]);
    desk.refused(&format!("{line} --memory 1GiB"), 2, &["--memory goes with --repair"]);
    desk.refused(&format!("{line} --leave-out-first"), 2, &["--leave-out-first goes with --repair"]);
    desk.refused(&format!("{line} --repair refit --data nowhere.jsonl"), 2, &["nowhere.jsonl"]);
    let unknown = desk.run(&format!("{line} --repair refitt --data text.jsonl"));
    let said = String::from_utf8_lossy(&unknown.stderr);
    assert!(unknown.status.code() == Some(2) && said.contains("refit") && said.contains("fold"), "{said}");
    fs::write(desk.path("cut.toml"), "repair = \"refitt\"\n").unwrap();
    desk.refused(&format!("{line} --config cut.toml"), 2, &["refitt", "did you mean refit?", "fold-plain"]);
}

#[test]
fn texts_and_plans_that_will_not_do() {
    let desk = Desk::new();
    let text = "--data text.jsonl";
    // nine of twelve lines fit, and the widest projection has 24 inputs
    let few = format!("cut model --drop 1 -o out --repair refit {text} --samples 3");
    desk.refused(&few, 2, &["21 tokens to fit on", "the equations need 24 at least"]);
    desk.refused(&format!("{few} --leave-out-first"), 2, &["19 tokens to fit on"]);
    desk.refused(&format!("cut model --drop 1 -o out --repair bias {text}"), 2, &["down_proj.weight has no bias"]);
    desk.refused(&format!("cut model --drop 0 -o out --repair fold {text}"), 2, &["first layers", "refit"]);
    let plan = |stack: serde_json::Value| {
        let checkpoint = prune::checkpoint::Checkpoint::open_dir(&desk.path("model")).unwrap();
        let plan =
            json!({"for": {"id": "model", "fingerprint": checkpoint.fingerprint(), "layers": 4}, "stack": stack});
        fs::write(desk.path("plan.json"), plan.to_string()).unwrap();
    };
    let line = format!("cut model --plan plan.json -o out --repair refit {text}");
    plan(json!([{"layer": 0}, {"layer": 2}, {"layer": 1}, {"layer": 3}]));
    desk.refused(&line, 2, &["in order, each once"]);
    plan(json!([{"layer": 0}, {"layer": 1}, {"layer": 1}, {"layer": 3}]));
    desk.refused(&line, 2, &["in order, each once"]);
    plan(json!([{"layer": 0}, {"layer": 1}, {"layer": 2}, {"layer": 3}]));
    desk.refused(&line, 2, &["no seam to repair"]);
}

/// One word only: the update before the seam has two values in all the text.
#[test]
fn equations_without_a_single_solution() {
    let desk = Desk::new();
    let lines: Vec<String> = (0..40).map(|_| json!({"text": "w5"}).to_string()).collect();
    fs::write(desk.path("one.jsonl"), lines.join("\n")).unwrap();
    let line = "cut model --drop 1 -o out --data one.jsonl --repair";
    desk.refused(&format!("{line} fold-plain"), 1, &["the seam behind layer 0", "no single solution"]);
    // a ridge makes it one
    assert!(desk.run(&format!("{line} refit")).status.success());
}

#[test]
fn streams_that_are_not_finite_are_named() {
    let desk = Desk::new();
    let path = desk.path("model/model.safetensors");
    let cpu = candle_core::Device::Cpu;
    let mut tensors = candle_core::safetensors::load(&path, &cpu).unwrap();
    let name = "model.layers.2.mlp.up_proj.weight";
    let broken = (&tensors[name] * f64::INFINITY).unwrap();
    tensors.insert(name.to_owned(), broken);
    candle_core::safetensors::save(&tensors, &path).unwrap();
    for repair in ["refit", "scale"] {
        let line = format!("cut model --drop 1 -o out --data text.jsonl --repair {repair}");
        desk.refused(&line, 1, &["text 0, token 0", name, "non-finite"]);
    }
}

/// Stopped in the middle of a fit, a cut leaves nothing.
#[test]
fn an_interruption_leaves_nothing() {
    struct Stops(prune::interrupt::Interrupt);
    impl prune::progress::Progress for Stops {
        fn begin(&self, what: &str, _total: u64, _unit: prune::progress::Unit) {
            if what.starts_with("fitting") {
                self.0.request();
            }
        }
        fn advance(&self, _units: u64) {}
        fn end(&self) {}
        fn warn(&self, _message: &str) {}
    }
    let desk = Desk::new();
    let before = desk.names();
    let path = |name: &str| Some(desk.path(name).display().to_string());
    let settings = CutSettings {
        model: path("model"),
        data: path("text.jsonl"),
        drop: Some("1".into()),
        repair: Some(repair("refit").unwrap()),
        out: Some(desk.path("out")),
        ..CutSettings::default()
    };
    let stops = Stops(prune::interrupt::Interrupt::new());
    let error = stops.0.clone().run(|| cut(&settings, &stops)).unwrap_err();
    assert_eq!(error.exit_code(), 130);
    assert_eq!(desk.names(), before);
    assert!(cut(&settings, &Silent).unwrap().repair.unwrap().result.is_some());
}
