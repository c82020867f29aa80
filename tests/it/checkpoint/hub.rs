//! The hub: what is fetched, where it is kept, how a broken download goes on, what refusals and absences say.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use prune::checkpoint::{Checkpoint, Hub};
use prune::progress::{Progress, Silent, Unit};
use prune::{Error, Result};
use tempfile::{TempDir, tempdir};

use crate::checkpoint::server::{COMMIT, Files, Manners, Server, files_of};
use crate::fixture::Llama;

const SHARD: &str = "model-00002-of-00002.safetensors";

/// A hub with one sharded model and things nobody needs, and a home to cache it in.
struct Scene {
    server: Server,
    home: TempDir,
    model: TempDir,
}

impl Scene {
    fn new(shards: usize) -> Self {
        let model = tempdir().unwrap();
        Llama { shards, ..Llama::default() }.write(model.path());
        // code that brings an empty file is common
        fs::write(model.path().join("__init__.py"), "").unwrap();
        let mut files = files_of(model.path());
        for useless in ["pytorch_model.bin", "model.gguf", "onnx/model.onnx", ".gitattributes", "original/params.json"]
        {
            files.insert(useless.to_owned(), b"useless".to_vec());
        }
        files.insert("en/data 1#.jsonl.gz".to_owned(), vec![7; 3000]);
        Self { server: Server::start(files), home: tempdir().unwrap(), model }
    }

    fn hub(&self, more: &[(&str, &str)]) -> Hub {
        let home = self.home.path().display().to_string();
        let mut vars = BTreeMap::from([("HF_HOME", home.as_str()), ("HF_ENDPOINT", self.server.endpoint.as_str())]);
        vars.extend(more.iter().copied());
        Hub::from_vars(|name| vars.get(name).map(ToString::to_string)).unwrap()
    }

    fn repo(&self) -> std::path::PathBuf {
        self.home.path().join("hub/models--org--name")
    }

    fn open(&self, more: &[(&str, &str)]) -> Result<Checkpoint> {
        Checkpoint::open("org/name", &self.hub(more), &Silent)
    }

    /// The model that was fetched is the one that is served.
    fn same(&self, checkpoint: &Checkpoint) {
        let original = Checkpoint::open_dir(self.model.path()).unwrap();
        assert_eq!(checkpoint.config, original.config);
        for (name, entry) in &original.tensors {
            let fetched = checkpoint.read(checkpoint.entry(name).unwrap()).unwrap();
            assert!(fetched == original.read(entry).unwrap(), "{name}");
        }
    }
}

fn refused(error: &Error, code: u8, parts: &[&str]) {
    let text = error.to_string();
    assert_eq!((error.exit_code(), text.lines().count()), (code, 1), "{text}");
    for part in parts {
        assert!(text.contains(part), "no {part:?} in: {text}");
    }
}

/// Remembers what was announced, done and warned of.
#[derive(Default)]
struct Watch {
    total: AtomicU64,
    done: AtomicU64,
    warnings: Mutex<Vec<String>>,
}

impl Progress for Watch {
    fn begin(&self, _what: &str, total: u64, unit: Unit) {
        assert_eq!(unit, Unit::Bytes);
        self.total.fetch_add(total, Ordering::Relaxed);
    }
    fn advance(&self, units: u64) {
        self.done.fetch_add(units, Ordering::Relaxed);
    }
    fn end(&self) {}
    fn warn(&self, message: &str) {
        self.warnings.lock().unwrap_or_else(PoisonError::into_inner).push(message.to_owned());
    }
}

#[test]
fn fetches_what_is_needed_into_the_shared_layout() {
    let scene = Scene::new(2);
    let watch = Watch::default();
    let checkpoint = Checkpoint::open("org/name", &scene.hub(&[]), &watch).unwrap();
    scene.same(&checkpoint);
    assert_eq!(checkpoint.source.revision.as_deref(), Some(COMMIT));
    assert_eq!(checkpoint.source.id, "org/name");
    assert_eq!(checkpoint.model_card().unwrap().unwrap().lines().count(), 4);

    let served = files_of(scene.model.path());
    let fetched = files_of(&checkpoint.source.dir);
    assert_eq!(fetched, served, "all of the model and nothing else");
    let bytes: u64 = served.values().map(|contents| contents.len() as u64).sum();
    assert_eq!((watch.total.into_inner(), watch.done.into_inner()), (bytes, bytes));

    // huggingface_hub's layout: a ref that is the bare commit, relative links, contents called by their hash
    assert_eq!(fs::read_to_string(scene.repo().join("refs/main")).unwrap(), COMMIT);
    let link = fs::read_link(scene.repo().join("snapshots").join(COMMIT).join(SHARD)).unwrap();
    assert!(link.starts_with("../../blobs") && link.file_name().unwrap().len() == 64, "{}", link.display());
    let blobs = fs::read_dir(scene.repo().join("blobs")).unwrap().flatten().filter(|blob| blob.path().is_file());
    assert!(blobs.map(|blob| blob.file_name()).all(|name| [40, 64].contains(&name.len())), "nothing half done");
    assert_eq!(fs::read_dir(scene.repo().join("refs")).unwrap().count(), 1);
}

#[test]
fn what_is_cached_is_not_fetched_again() {
    let scene = Scene::new(2);
    scene.open(&[]).unwrap();
    scene.server.requests();
    scene.open(&[]).unwrap();
    assert_eq!(scene.server.requests(), ["GET /api/models/org/name/revision/main"]);
    // another branch at the same commit
    Checkpoint::open("org/name@v1", &scene.hub(&[]), &Silent).unwrap();
    assert_eq!(scene.server.requests(), ["GET /api/models/org/name/revision/v1"]);
    for revision in ["", "@v1", &format!("@{COMMIT}")] {
        let id = format!("org/name{revision}");
        let checkpoint = Checkpoint::open(&id, &scene.hub(&[("HF_HUB_OFFLINE", "1")]), &Silent).unwrap();
        scene.same(&checkpoint);
    }
    assert!(scene.server.requests().is_empty(), "offline asks nobody");
    // a file that went missing is fetched alone
    fs::remove_file(scene.repo().join("snapshots").join(COMMIT).join("LICENSE")).unwrap();
    scene.open(&[]).unwrap();
    let requests = scene.server.requests();
    assert_eq!(requests.len(), 2, "the blob is still there: {requests:?}");
}

#[test]
fn a_broken_download_goes_on_where_it_broke() {
    let scene = Scene::new(1);
    scene.server.behave(Manners { breaks: Some((5000, 2)), ..Manners::default() });
    scene.same(&scene.open(&[]).unwrap());
    let log = scene.server.requests();
    for from in [5000, 10000] {
        assert!(log.iter().any(|line| line.ends_with(&format!("/model.safetensors bytes={from}-"))), "{log:?}");
    }
}

#[test]
fn a_killed_download_is_resumed_and_verified() {
    let scene = Scene::new(1);
    scene.open(&[]).unwrap();
    let pointer = scene.repo().join("snapshots").join(COMMIT).join("model.safetensors");
    let blob = pointer.canonicalize().unwrap();
    let contents = fs::read(&blob).unwrap();
    let part = blob.with_extension("part");
    let again = |left: &[u8], ranges: &[&str]| {
        fs::remove_file(&blob).unwrap();
        fs::write(&part, left).unwrap();
        scene.server.requests();
        scene.same(&scene.open(&[]).unwrap());
        assert!(!part.exists());
        let log = scene.server.requests();
        let asked = log.iter().filter_map(|line| line.strip_prefix("GET /org/")?.split_once(".safetensors bytes="));
        let asked: Vec<&str> = asked.map(|(_, range)| range).filter(|&range| range != "0-0").collect();
        assert_eq!(asked, ranges);
    };
    again(&contents[..9999], &["9999-"]);
    // longer than it can be
    again(&[&contents[..], b"x"].concat(), &["0-"]);
    // not what is served: found out, thrown away, fetched afresh
    again(&[1; 500], &["500-", "0-"]);
}

#[test]
fn damage_on_the_way_is_found() {
    let scene = Scene::new(1);
    scene.open(&[]).unwrap();
    fs::remove_file(scene.repo().join("snapshots").join(COMMIT).join("model.safetensors").canonicalize().unwrap())
        .unwrap();
    scene.server.behave(Manners { damaged: true, ..Manners::default() });
    refused(&scene.open(&[]).unwrap_err(), 1, &["org/name", "model.safetensors", "damaged"]);
}

#[test]
fn refusals_say_what_to_do() {
    let scene = Scene::new(1);
    let hub = scene.hub(&[]);
    let open = |id: &str| Checkpoint::open(id, &hub, &Silent).unwrap_err();
    refused(&open("org/absent"), 2, &["org/absent", "no such repository", "HF_TOKEN"]);
    refused(&open("org/name@v9"), 2, &["org/name", "no revision v9"]);
    refused(&open("not/a/hub/id"), 2, &["not/a/hub/id", "no such directory", "no hub id"]);
    refused(&open("./org/name"), 2, &["./org/name", "no such directory"]);

    scene.server.behave(Manners { token: Some("hf_right"), gated: true, ..Manners::default() });
    refused(&scene.open(&[]).unwrap_err(), 2, &["org/name is gated", "/org/name", "set HF_TOKEN"]);
    let error = scene.open(&[("HF_TOKEN", "hf_wrong")]).unwrap_err();
    refused(&error, 2, &["org/name is gated", "HF_TOKEN", "restricted"]);
    assert!(!error.to_string().contains("hf_wrong"));
    assert!(!format!("{:?}", scene.hub(&[("HF_TOKEN", "hf_right")])).contains("hf_right"));
    scene.same(&scene.open(&[("HF_TOKEN", "hf_right")]).unwrap());

    fs::write(scene.home.path().join("token"), " hf_right\n").unwrap();
    scene.same(&scene.open(&[("HF_HUB_CACHE", &scene.home.path().join("elsewhere").display().to_string())]).unwrap());
    assert!(Hub::from_vars(|name| (name == "HF_TOKEN").then(|| "two words".to_owned())).is_err());
}

#[test]
fn repositories_without_a_model_are_refused_before_any_weight() {
    let refused_with = |change: &dyn Fn(&mut Files), parts: &[&str]| {
        let mut scene = Scene::new(1);
        let mut files = files_of(scene.model.path());
        change(&mut files);
        scene.server = Server::start(files);
        let error = scene.open(&[]).unwrap_err();
        refused(&error, 2, parts);
        assert_eq!(scene.server.requests().len(), 1);
    };
    let rename = |files: &mut Files, from: &str, to: &str| {
        let contents = files.remove(from).unwrap();
        files.insert(to.to_owned(), contents);
    };
    refused_with(&|files| rename(files, "model.safetensors", "pytorch_model.bin"), &["org/name", "convert it"]);
    let two = |files: &mut Files| {
        rename(files, "model.safetensors", "model-Q8_0.gguf");
        files.insert("model-Q4_K_M.gguf".to_owned(), Vec::new());
    };
    refused_with(&two, &["org/name", "Q8_0", "Q4_K_M"]);
    refused_with(&|files| rename(files, "config.json", "adapter_config.json"), &["org/name", "PEFT adapter"]);
}

#[test]
fn offline_says_which_file_is_missing() {
    let scene = Scene::new(2);
    let offline = [("HF_HUB_OFFLINE", "yes")];
    refused(&scene.open(&offline).unwrap_err(), 2, &["org/name", "HF_HUB_OFFLINE is set", "not in the cache"]);
    scene.open(&[]).unwrap();
    let snapshot = scene.repo().join("snapshots").join(COMMIT);
    for file in [SHARD, "model.safetensors.index.json", "config.json"] {
        fs::remove_file(snapshot.join(file)).unwrap();
        let named = if file.ends_with(".index.json") { "model.safetensors" } else { file };
        refused(&scene.open(&offline).unwrap_err(), 2, &["org/name", named, "not in the cache"]);
    }
    assert!(scene.hub(&offline).is_offline() && !scene.hub(&[("HF_HUB_OFFLINE", "0")]).is_offline());
}

#[test]
fn without_a_network_the_cache_must_do() {
    let scene = Scene::new(1);
    // a port that nobody listens on
    let gone = [("HF_ENDPOINT", "http://127.0.0.1:1")];
    refused(&scene.open(&gone).unwrap_err(), 1, &["org/name", "127.0.0.1:1", "not in the cache"]);
    scene.open(&[]).unwrap();
    let watch = Watch::default();
    let checkpoint = Checkpoint::open("org/name", &scene.hub(&gone), &watch).unwrap();
    scene.same(&checkpoint);
    let warnings = watch.warnings.into_inner().unwrap();
    assert!(warnings.len() == 1 && warnings[0].contains(COMMIT), "{warnings:?}");
}

#[test]
fn an_overloaded_hub_is_asked_again() {
    let scene = Scene::new(1);
    scene.server.behave(Manners { overloaded: 2, ..Manners::default() });
    scene.same(&scene.open(&[]).unwrap());
    scene.server.behave(Manners { overloaded: 100, ..Manners::default() });
    let elsewhere = scene.home.path().join("empty").display().to_string();
    refused(&scene.open(&[("HF_HUB_CACHE", &elsewhere)]).unwrap_err(), 1, &["answers 503"]);
}

#[test]
fn a_renamed_repository_is_followed() {
    let scene = Scene::new(2);
    let checkpoint = Checkpoint::open("old/name", &scene.hub(&[]), &Silent).unwrap();
    scene.same(&checkpoint);
}

#[test]
fn data_files_come_alone() {
    let scene = Scene::new(1);
    let id = "datasets/org/name/en/data 1#.jsonl.gz";
    let file = scene.hub(&[]).dataset_file(id, &Silent).unwrap();
    assert_eq!(fs::read(&file.path).unwrap(), [7; 3000]);
    assert!(file.path.ends_with(Path::new(COMMIT).join("en/data 1#.jsonl.gz")));
    assert_eq!(file.revision, COMMIT);
    assert!(scene.server.requests().iter().all(|line| line.contains("/en/data%201%23.jsonl.gz")));
    let beside = fs::read_dir(file.path.parent().unwrap()).unwrap();
    assert_eq!(beside.count(), 1);
    let offline = scene.hub(&[("HF_HUB_OFFLINE", "1")]);
    assert_eq!(offline.dataset_file(id, &Silent).unwrap(), file);
    refused(&offline.dataset_file("datasets/org/name/x.txt", &Silent).unwrap_err(), 2, &["x.txt is not in the cache"]);
    let error = scene.hub(&[]).dataset_file("datasets/org/name/absent.txt", &Silent).unwrap_err();
    refused(&error, 2, &["datasets/org/name", "no file absent.txt"]);
    refused(&scene.hub(&[]).dataset_file("org/name/x", &Silent).unwrap_err(), 2, &["datasets/org/name/path"]);
}

/// A hub with GGUF files called `names`, all of one model, and nothing else but a card.
fn gguf_hub(names: &[&str]) -> (Server, TempDir) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/gguf/llama.gguf");
    let contents = fs::read(path).unwrap();
    let mut files: Files = names.iter().map(|name| ((*name).to_owned(), contents.clone())).collect();
    files.insert("README.md".to_owned(), b"---\nlicense: mit\n---\n".to_vec());
    (Server::start(files), tempdir().unwrap())
}

#[test]
fn gguf_models_are_named_by_type_or_by_file() {
    let (server, home) = gguf_hub(&["tiny-Q4_0.gguf", "tiny-f16.gguf", "Q8_0/tiny-Q8_0.gguf", "mmproj-Q4_0.gguf"]);
    let hub = |more: &[(&str, &str)]| {
        let home = home.path().display().to_string();
        let mut vars = BTreeMap::from([("HF_HOME", home.as_str()), ("HF_ENDPOINT", server.endpoint.as_str())]);
        vars.extend(more.iter().copied());
        Hub::from_vars(|name| vars.get(name).map(ToString::to_string)).unwrap()
    };
    let open = |id: &str, more: &[(&str, &str)]| Checkpoint::open(id, &hub(more), &Silent);
    let snapshot = home.path().join("hub/models--org--name/snapshots").join(COMMIT);
    for (id, file) in [
        ("org/name:q4_0", "tiny-Q4_0.gguf"),
        ("org/name:F16@v1", "tiny-f16.gguf"),
        ("org/name/Q8_0/tiny-Q8_0.gguf", "Q8_0/tiny-Q8_0.gguf"),
    ] {
        server.requests();
        let checkpoint = open(id, &[]).unwrap();
        assert_eq!(checkpoint.index.shards, [snapshot.join(file)]);
        assert_eq!(checkpoint.source.revision.as_deref(), Some(COMMIT));
        let asked = server.requests();
        let files: Vec<&String> = asked.iter().filter(|line| line.contains(".gguf")).collect();
        assert!(!files.is_empty() && files.iter().all(|line| line.contains(file)), "{id}: {asked:?}");
        // what is there is not fetched again, and needs no network
        open(id, &[]).unwrap();
        assert_eq!(server.requests().len(), 1);
        assert_eq!(open(id, &[("HF_HUB_OFFLINE", "1")]).unwrap().index.shards, [snapshot.join(file)]);
        assert!(server.requests().is_empty());
    }
    refused(&open("org/name", &[]).unwrap_err(), 2, &["holds 3 GGUF models", "tiny-Q4_0.gguf", "org/name:Q4_K_M"]);
    refused(&open("org/name:Q5_K_M", &[]).unwrap_err(), 2, &["no GGUF file in Q5_K_M", "tiny-f16.gguf"]);
    refused(&open("org/name/x.gguf", &[]).unwrap_err(), 2, &["holds no x.gguf"]);
    let offline = [("HF_HUB_OFFLINE", "1")];
    refused(&open("org/name:Q5_K_M", &offline).unwrap_err(), 2, &["a GGUF file in Q5_K_M is not in the cache"]);
    // a link into nowhere is no file
    fs::remove_file(snapshot.join("tiny-f16.gguf").canonicalize().unwrap()).unwrap();
    refused(&open("org/name:f16", &offline).unwrap_err(), 2, &["tiny-f16.gguf is not in the cache"]);
}

#[test]
fn the_only_gguf_model_needs_no_type() {
    let (server, home) = gguf_hub(&["tiny.gguf"]);
    let command = |line: &str, more: &[(&str, &str)]| {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_prune"));
        command.args(line.split_whitespace()).env("HF_HOME", home.path()).current_dir(home.path());
        command.env("HF_ENDPOINT", &server.endpoint).env_remove("HF_HUB_OFFLINE").env_remove("HF_TOKEN");
        let output = command.envs(more.iter().copied()).output().unwrap();
        assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    let planned: serde_json::Value = serde_json::from_str(&command("fetch org/name --dry-run --json", &[])).unwrap();
    assert_eq!(planned["repositories"][0]["files"], 2);
    command("fetch org/name", &[]);
    let offline = [("HF_HUB_OFFLINE", "1")];
    command("cut org/name --drop 1 -o shorter", &offline);
    assert!(home.path().join("shorter/tiny.gguf").is_file());
    let card = fs::read_to_string(home.path().join("shorter/README.md")).unwrap();
    assert!(card.contains("base_model: org/name\n"), "{card}");
    let doctor: serde_json::Value = serde_json::from_str(&command("doctor --json", &offline)).unwrap();
    assert_eq!(doctor["hub"]["cached"][0]["missing"], serde_json::Value::Null);
}
