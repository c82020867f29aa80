//! Answers of a hub that lies: whatever it says, nothing outside of the cache changes.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::thread;

use prune::checkpoint::Hub;
use rand::{Rng as _, SeedableRng};
use serde_json::{Value, json};

use super::super::bytes;
use super::super::case::{Case, Rng};
use super::super::json as values;
use super::Feed;

const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";
/// `git hash-object` and SHA-256 of `{}`.
const NAMES: [&str; 2] =
    ["9e26dfeeb6e641a33dae4961196235bdb965b21b", "44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a"];

/// One answer: status, headers, body.
#[derive(Clone)]
struct Answer {
    status: u16,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
}

/// Every file is `{}`, whatever its name.
fn good(request: &str) -> Answer {
    if request.contains("/api/") {
        let files =
            ["config.json", "model.safetensors", "tokenizer.json", "README.md"].map(|name| json!({"rfilename": name}));
        let body = json!({"sha": COMMIT, "siblings": files, "gated": false}).to_string().into_bytes();
        return Answer { status: 200, headers: Vec::new(), body };
    }
    let etag = NAMES[usize::from(request.contains(".safetensors"))];
    let headers = [("X-Repo-Commit", COMMIT), ("ETag", &format!("\"{etag}\"") as &str)];
    let headers = headers.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec();
    Answer { status: 200, headers, body: b"{}".to_vec() }
}

/// An answer with something wrong in it. What a broken connection does is tested where it may take its time.
fn broken(rng: &mut Rng, mut answer: Answer) -> Answer {
    match rng.random_range(0..5) {
        0 => {
            let all = [200, 201, 204, 206, 300, 301, 302, 303, 304, 307, 308, 400, 401, 403, 404, 410, 416, 418, 451];
            answer.status = all[rng.random_range(0..all.len())];
        }
        1 => match serde_json::from_slice::<Value>(&answer.body) {
            Ok(good) => answer.body = values::changed(rng, &good),
            Err(_) => bytes::change(rng, &mut answer.body, &[]),
        },
        _ => {
            let names = [
                "ETag",
                "X-Linked-Etag",
                "X-Linked-Size",
                "X-Repo-Commit",
                "Location",
                "Content-Range",
                "X-Error-Code",
                "X-Error-Message",
            ];
            let odd = [
                "",
                "..",
                "/",
                "../../../../x",
                "/tmp/x",
                "\"\"",
                "W/\"a\"",
                "\"a/b\"",
                "0",
                "1",
                "3",
                "-1",
                "18446744073709551616",
                "9007199254740993",
                "bytes 0-1/2",
                "bytes 5-9/2",
                "bytes */2",
                "GatedRepo",
                "RevisionNotFound",
                "http://127.0.0.1:1/",
                "//127.0.0.1:1/x",
                "file:///etc/passwd",
                "http://[::1",
                "?",
                "\u{e9}",
                COMMIT,
                NAMES[0],
                NAMES[1],
                "main",
                "refs/../..",
            ];
            let name = names[rng.random_range(0..names.len())];
            let value = odd[rng.random_range(0..odd.len())];
            let value = if rng.random_ratio(1, 10) { "a".repeat(3000) } else { value.to_owned() };
            answer.headers.retain(|(known, _)| known != name);
            answer.headers.push((name.to_owned(), value));
        }
    }
    answer
}

/// Answers one connection until it ends; every answer by the seed of the case, so that its order does not matter.
fn serve(stream: TcpStream, seed: &Mutex<u64>) -> Option<()> {
    let mut out = stream.try_clone().ok()?;
    let mut reader = BufReader::new(stream);
    loop {
        let mut request = String::new();
        if reader.read_line(&mut request).ok()? == 0 {
            return None;
        }
        let mut line = String::from("x");
        while !line.trim().is_empty() {
            line.clear();
            reader.read_line(&mut line).ok()?;
        }
        let seed = *seed.lock().unwrap();
        let salt: u64 = request.bytes().fold(0, |sum, byte| sum.wrapping_mul(31).wrapping_add(u64::from(byte)));
        let mut rng = Rng::seed_from_u64(seed ^ salt);
        let mut answer = good(&request);
        if rng.random_ratio(1, 3) {
            answer = broken(&mut rng, answer);
        }
        let mut text = format!("HTTP/1.1 {} X\r\nContent-Length: {}\r\n", answer.status, answer.body.len());
        answer.headers.iter().for_each(|(name, value)| text += &format!("{name}: {value}\r\n"));
        out.write_all(text.as_bytes()).and_then(|()| out.write_all(b"\r\n")).ok()?;
        if !request.starts_with("HEAD") && ![204, 304].contains(&answer.status) {
            out.write_all(&answer.body).ok()?;
        }
    }
}

/// Every file below `dir` but those of the cache.
fn files(dir: &Path, found: &mut BTreeMap<String, Vec<u8>>) {
    for entry in fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()) {
        if entry.is_dir() && !entry.ends_with("home/hub") {
            files(&entry, found);
        } else if entry.is_file() {
            found.insert(entry.display().to_string(), fs::read(&entry).unwrap());
        }
    }
}

/// A model and a data file of a hub.
pub(super) fn hub(_: &Path) -> Feed {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    let seed = Arc::new(Mutex::new(0));
    let shared = seed.clone();
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let seed = shared.clone();
            thread::spawn(move || serve(stream, &seed));
        }
    });
    Box::new(move |case: &mut Case<'_>| {
        *seed.lock().unwrap() = case.rng.random();
        let dir = case.fresh();
        let home = dir.join("home");
        fs::create_dir(&home).unwrap();
        fs::write(home.join("theirs"), "theirs").unwrap();
        fs::write(dir.join("theirs"), "theirs").unwrap();
        let vars = [
            ("HF_HOME", home.display().to_string()),
            ("HF_ENDPOINT", endpoint.clone()),
            ("HF_TOKEN", "secret".to_owned()),
        ];
        let hub = Hub::from_vars(|name| vars.iter().find(|(known, _)| *known == name).map(|(_, value)| value.clone()))
            .unwrap();
        let mut before = BTreeMap::new();
        files(&dir, &mut before);
        if case.rng.random() {
            case.listen(|progress| hub.model("org/name", progress));
        } else {
            case.listen(|progress| hub.dataset_file("datasets/org/name/train.jsonl", progress));
        }
        case.heard(hub.inventory());
        let mut after = BTreeMap::new();
        files(&dir, &mut after);
        if before != after {
            case.fault(&format!("files changed outside of the cache: {:?}", after.keys()));
        }
    })
}
