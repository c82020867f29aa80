//! Marks of directories, and records that stand for them: whatever they say, nobody else's file goes.

use std::fs;
use std::path::Path;

use prune::checkpoint::{
    MARK, Origin, OutputDir, Workplace, adopt, can_work_in, claim, has_leftovers, made_by, work_in,
};
use rand::Rng as _;
use serde_json::json;

use super::super::case::Rng;
use super::super::{bytes, json as values};
use super::Feed;

const GOOD: &str = "{\"prune\":\"0.1.0\",\"command\":\"cut\"}\n\"model.safetensors\"\n\"deep/er\"\n\"deep\"\n";

/// What a stranger wrote.
const STRANGER: &str = "stranger.txt";

fn broken_mark(rng: &mut Rng) -> Vec<u8> {
    let mut mark = GOOD.as_bytes().to_vec();
    bytes::change(
        rng,
        &mut mark,
        &["\"..\"\n", "\"../beside.txt\"\n", "\"/\"\n", "\"deep/../..\"\n", "\"\"\n", "\"command\":\"eval\""],
    );
    mark
}

/// `.prune`, `prune.json` and the like, in an output and in the hidden directory beside it.
pub(super) fn marks(_: &Path) -> Feed {
    Box::new(|case| {
        let dir = case.fresh();
        let out = dir.join("out");
        fs::create_dir_all(out.join("deep")).unwrap();
        let mut strangers = vec![dir.join("beside.txt")];
        if case.rng.random() {
            strangers.extend([out.join(STRANGER), out.join("deep").join(STRANGER)]);
        }
        strangers.iter().for_each(|stranger| fs::write(stranger, "theirs").unwrap());
        for name in ["model.safetensors", "config.json", "deep/er"] {
            fs::write(out.join(name), "ours").unwrap();
        }
        match case.rng.random_range(0..3) {
            0 => fs::write(out.join(MARK), broken_mark(&mut case.rng)).unwrap(),
            1 => {
                let record =
                    json!({"prune": "0.1.0", "steps": [], "settings": {}, "stages": {}, "format": "prune-analysis"});
                let name = case.pick(&[
                    "prune.json",
                    "heal.json",
                    "run.json",
                    "analysis.json",
                    "settings.json",
                    "journal.jsonl",
                ]);
                fs::write(out.join(name), values::changed(&mut case.rng, &record)).unwrap();
            }
            _ => {
                let hidden = dir.join(format!(".out{MARK}"));
                fs::create_dir_all(hidden.join("new")).unwrap();
                fs::write(hidden.join(MARK), broken_mark(&mut case.rng)).unwrap();
                fs::write(hidden.join("placed"), broken_mark(&mut case.rng)).unwrap();
                fs::write(hidden.join("new").join(MARK), broken_mark(&mut case.rng)).unwrap();
            }
        }
        let _ = made_by(&out);
        let _ = has_leftovers(&out);
        case.heard(can_work_in(&out, "cut"));
        match case.rng.random_range(0..4) {
            0 => drop(case.heard(work_in(&out, "cut"))),
            1 => drop(case.heard(adopt(&out, &[]))),
            2 => drop(case.heard(claim(&out.join("deep/new")))),
            _ => {}
        }
        drop(case.heard(Workplace::open(&out, &Origin::program("cut"))));
        let force = case.rng.random();
        let replaced = case.heard(OutputDir::create(&out, force, &Origin::program("cut")));
        if let Some(new) = replaced {
            case.heard(new.commit());
        }
        for stranger in &strangers {
            if fs::read(stranger).ok().as_deref() != Some(b"theirs") {
                case.fault(&format!("{} is gone", stranger.display()));
            }
        }
    })
}
