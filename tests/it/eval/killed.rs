//! The same bytes whatever a pass holds and however often a run is killed.

use std::fs;
use std::path::{Path, PathBuf};

use prune::commands::eval::eval;
use prune::eval::settings::EvalSettings;
use prune::progress::{Progress, Silent, Unit};

use crate::eval::shared::{Small, tree};

#[test]
fn the_same_run_gives_the_same_bytes_whatever_a_pass_holds() {
    let small = Small::new();
    let a = eval(&small.settings("model", "a"), &Silent).unwrap();
    eval(&small.settings("model", "b"), &Silent).unwrap();
    assert_eq!(tree(&small.path("a")), tree(&small.path("b")));
    assert!(a.passes.passes > 8, "{:?}", a.passes);
    let whole = EvalSettings { pass_tokens: Some(100_000), ..small.settings("model", "c") };
    let c = eval(&whole, &Silent).unwrap();
    assert_eq!(c.passes.passes, 1);
    for (few, many) in c.figures.iter().zip(&a.figures) {
        assert!((few.value - many.value).abs() < 1e-5 * few.value.abs().max(1.0), "{few:?} {many:?}");
    }
}

/// Ends the process, as a kill would, once some passes are in the journal.
struct Killer {
    journal: PathBuf,
}

impl Progress for Killer {
    fn begin(&self, _what: &str, _total: u64, _unit: Unit) {}
    fn advance(&self, _units: u64) {
        if fs::read_to_string(&self.journal).is_ok_and(|text| text.lines().count() > 4) {
            std::process::abort();
        }
    }
    fn end(&self) {}
    fn warn(&self, _message: &str) {}
}

#[test]
#[ignore = "runs only as the victim of the test below"]
fn victim() {
    let Ok(dir) = std::env::var("PRUNE_TEST_EVAL") else { return };
    let settings: EvalSettings =
        serde_json::from_str(&fs::read_to_string(Path::new(&dir).join("settings.json")).unwrap()).unwrap();
    let journal = settings.out.as_ref().unwrap().join("journal.jsonl");
    eval(&settings, &Killer { journal }).unwrap();
}

#[test]
fn a_killed_run_goes_on_and_ends_with_the_same_bytes() {
    let small = Small::new();
    let settings = small.settings("model", "killed");
    fs::write(small.path("settings.json"), serde_json::to_string(&settings).unwrap()).unwrap();
    let status = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "eval::killed::victim", "--ignored"])
        .env("PRUNE_TEST_EVAL", small.dir.path())
        .output()
        .unwrap();
    assert!(!status.status.success());
    let kept = fs::read_to_string(small.path("killed/journal.jsonl")).unwrap();
    assert!(kept.lines().count() > 4);
    // the last line may have been cut short
    fs::write(small.path("killed/journal.jsonl"), &kept[..kept.len() - 3]).unwrap();
    let report = eval(&settings, &Silent).unwrap();
    assert!(report.passes.resumed > 0 && report.passes.resumed < report.passes.passes, "{:?}", report.passes);
    eval(&small.settings("model", "whole"), &Silent).unwrap();
    assert_eq!(tree(&small.path("killed")), tree(&small.path("whole")));
    assert!(!small.path("killed/journal.jsonl").exists());
}
