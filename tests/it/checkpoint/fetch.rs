//! `prune fetch`: what is missing is named, counted and brought, and then the other commands need no network.

use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Output};

use flate2::write::GzEncoder;
use serde_json::{Value, json};
use tempfile::{TempDir, tempdir};

use crate::checkpoint::server::{Manners, Server, files_of};
use crate::fixture::Llama;

/// A hub with a model and data sets, and an empty cache.
struct Scene {
    server: Server,
    home: TempDir,
    /// Bytes of the model.
    model: u64,
}

fn scene(shards: usize) -> Scene {
    let model = tempdir().unwrap();
    Llama { shards, ..Llama::default() }.write(model.path());
    let mut files = files_of(model.path());
    let bytes = files.values().map(|contents| contents.len() as u64).sum();
    let lines = |row: &dyn Fn(usize) -> Value| -> Vec<u8> {
        (0..6).flat_map(|index| (row(index).to_string() + "\n").into_bytes()).collect()
    };
    let text = |row: usize| json!({"text": format!("w{} w5 w6 w7", row + 3)});
    let question = |row: usize| json!({"question": "is it", "passage": "w5 w6", "idx": row, "label": row % 2});
    for name in ["en/c4-validation.00000-of-00008.json.gz", "en/c4-train.00000-of-01024.json.gz"] {
        let mut encoder = GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(&lines(&text)).unwrap();
        files.insert(name.to_owned(), encoder.finish().unwrap());
    }
    files.insert("boolq/validation.jsonl".to_owned(), lines(&question));
    files.insert("boolq/train.jsonl".to_owned(), lines(&question));
    Scene { server: Server::start(files), home: tempdir().unwrap(), model: bytes }
}

impl Scene {
    fn run(&self, line: &str, more: &[(&str, &str)]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_prune"));
        command.args(line.split_whitespace()).env("HF_HOME", self.home.path()).current_dir(self.home.path());
        command.env("HF_ENDPOINT", &self.server.endpoint).env_remove("HF_HUB_OFFLINE").env_remove("HF_TOKEN");
        command.envs(more.iter().copied()).output().unwrap()
    }

    fn json(&self, line: &str, more: &[(&str, &str)]) -> Value {
        let output = self.run(&format!("{line} --json"), more);
        assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice(&output.stdout).unwrap()
    }

    /// The request is refused in a line with all the words.
    fn refused(&self, line: &str, code: i32, words: &[&str]) {
        let output = self.run(line, &[]);
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{line}: {said}");
        for word in words {
            assert!(said.contains(word), "{line}: {word:?} is not in {said}");
        }
    }
}

fn entries(dir: &Path) -> usize {
    fs::read_dir(dir).map_or(0, Iterator::count)
}

const ALL: &str = "fetch org/name --data allenai/c4 --tasks boolq";

#[test]
fn what_is_fetched_serves_without_a_network() {
    for shards in [1, 3] {
        let scene = scene(shards);
        let planned = scene.json(&format!("{ALL} --dry-run"), &[]);
        let asked = scene.server.requests();
        let contents = asked.iter().filter(|line| line.starts_with("GET") && !line.contains("/api/"));
        assert!(contents.clone().all(|line| line.contains("index.json")), "{asked:?}");
        let sum = |report: &Value, key: &str| -> u64 {
            report["repositories"].as_array().unwrap().iter().map(|one| one[key].as_u64().unwrap()).sum()
        };
        assert_eq!(planned["repositories"][0]["bytes"].as_u64().unwrap(), scene.model);
        assert_eq!(planned["repositories"].as_array().unwrap().len(), 4);
        assert!(sum(&planned, "missing_files") > 8 && sum(&planned, "missing_bytes") > scene.model / 2);

        let fetched = scene.json(ALL, &[]);
        assert_eq!(fetched["repositories"], planned["repositories"]);
        let again = scene.json(ALL, &[]);
        assert_eq!((sum(&again, "missing_files"), sum(&again, "missing_bytes")), (0, 0));
        assert_eq!(sum(&again, "bytes"), sum(&planned, "bytes"));

        let offline = [("HF_HUB_OFFLINE", "1"), ("HF_ENDPOINT", "http://127.0.0.1:1")];
        let before = scene.server.requests().len();
        assert!(before > 0);
        scene.json("analyze org/name --data allenai/c4", &offline);
        scene.json("heal org/name --data allenai/c4 --steps 1 --seq-len 4 --batch 1 --rank 1 -o healed", &offline);
        scene.json("eval org/name --tasks boolq --few-shot 1", &offline);
        scene.json("sample org/name --prompt w5 --tokens 3", &offline);
        assert_eq!(sum(&scene.json(ALL, &offline), "missing_files"), 0);
        assert!(scene.server.requests().is_empty(), "offline asks nobody");
        let cached = scene.json("doctor", &offline);
        let cached: Vec<&str> =
            cached["hub"]["cached"].as_array().unwrap().iter().map(|one| one["id"].as_str().unwrap()).collect();
        assert_eq!(cached, ["org/name", "allenai/c4", "aps/super_glue"]);
    }
}

#[test]
fn a_broken_fetch_goes_on_and_a_part_is_reported() {
    let scene = scene(1);
    scene.server.behave(Manners { breaks: Some((3000, 2)), ..Manners::default() });
    scene.json("fetch org/name", &[]);
    assert!(scene.server.requests().iter().any(|line| line.contains("bytes=3000-")));
    assert_eq!(scene.json("fetch org/name", &[])["repositories"][0]["bytes"].as_u64().unwrap(), scene.model);
    // without its weights the model is there in part, and doctor says so
    let snapshots = scene.home.path().join("hub/models--org--name/snapshots");
    let snapshot = fs::read_dir(&snapshots).unwrap().next().unwrap().unwrap().path();
    fs::remove_file(snapshot.join("model.safetensors")).unwrap();
    let report = scene.json("doctor", &[("HF_TOKEN", "hf_secret")]);
    assert_eq!(report["hub"]["cached"][0]["missing"], json!("model.safetensors"));
    let warnings = report["warnings"].to_string();
    assert!(warnings.contains("prune fetch org/name") && !report.to_string().contains("hf_secret"), "{report}");
    // the contents are still there: nothing has to come
    assert_eq!(scene.json("fetch org/name --dry-run", &[])["repositories"][0]["missing_bytes"], json!(0));
    scene.json("fetch org/name", &[]);
    assert!(snapshot.join("model.safetensors").is_file());
}

#[test]
fn wrong_names_are_refused_before_anything_is_fetched() {
    let scene = scene(1);
    scene.refused("fetch org/name --tasks bolq", 2, &["bolq", "did you mean boolq?"]);
    scene.refused("fetch org/name --data some.jsonl", 2, &["some.jsonl", "hub:datasets"]);
    scene.refused("fetch org/name org/absent", 2, &["org/absent", "no such repository"]);
    scene.refused("fetch ./model", 2, &["./model", "on this machine already"]);
    scene.refused("fetch org/name --tasks text:a.jsonl", 2, &["text_a", "not on the hub"]);
    assert_eq!(entries(&scene.home.path().join("hub/models--org--name/blobs")), 0);
}
