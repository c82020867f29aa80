//! What would go on for minutes ends within a second of Ctrl-C.

use std::fs;
use std::process::{Command, Stdio};
use std::time::Instant;

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde_json::{Value, json};

use crate::fixture::desk::Desk;
use crate::{UNDER_WAY, end, files};

/// Bytes that are read for longer than a test takes.
const ENDLESS: usize = 16 << 30;

#[test]
fn long_reads_end_when_they_are_told_to() {
    let desk = Desk::new();
    let at = |name: &str| desk.path(name);
    files::gzip_of(&at("lines.jsonl.gz"), [b"", b"\n", b""], ENDLESS);
    files::gzip_of(&at("blank.json.gz"), [b" [", b" ", b""], ENDLESS);
    files::gzip_of(&at("unwanted.jsonl.gz"), [b"{\"x\":\"", b"a", b""], ENDLESS);
    files::gzip_of(&at("rows.jsonl.gz"), [b"", b"{\"text\":\"\"}\n", b""], ENDLESS / 8);
    files::gzip_of(&at("rows.csv.gz"), [b"text\n", b"\"\"\n", b""], ENDLESS / 8);
    fs::write(at("long.txt"), "w3 ".repeat((15 << 20) / 3)).unwrap();
    let analyze = |data: &str| format!("analyze model --samples 2 --seq-len 8 --data {data}");
    let score = |data: &str| format!("eval model --dry-run --limit 2 --tasks text:{data}");
    for line in [
        analyze("lines.jsonl.gz"),
        analyze("blank.json.gz"),
        analyze("unwanted.jsonl.gz"),
        analyze("rows.jsonl.gz"),
        analyze("rows.csv.gz"),
        analyze("lines.txt.gz --text-split paragraphs"),
        analyze("long.txt"),
        score("lines.jsonl.gz"),
        score("long.txt"),
        "heal model --data lines.jsonl.gz -o out".to_owned(),
        "heal model --data rows.jsonl.gz -o out".to_owned(),
    ] {
        if line.contains("lines.txt.gz") {
            fs::rename(at("lines.jsonl.gz"), at("lines.txt.gz")).unwrap();
        }
        interrupted(&desk, &line);
        if line.contains("lines.txt.gz") {
            fs::rename(at("lines.txt.gz"), at("lines.jsonl.gz")).unwrap();
        }
    }
}

/// A tokenizer's automaton is made by code that asks nobody: of a hundred thousand long tokens it takes half a minute.
#[test]
fn a_tokenizer_is_not_waited_for() {
    let desk = Desk::new();
    let path = desk.path("model/tokenizer.json");
    let mut tokenizer: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    let mut random = ChaCha8Rng::seed_from_u64(1);
    let flags = json!({"single_word": false, "lstrip": false, "rstrip": false, "normalized": false, "special": false});
    let added = tokenizer["added_tokens"].as_array_mut().unwrap();
    for id in 0..100_000 {
        let letters: String = (0..100).map(|_| char::from(b'a' + random.random_range(0..26))).collect();
        let mut token = flags.clone();
        (token["id"], token["content"]) = ((1000 + id).into(), letters.into());
        added.push(token);
    }
    fs::write(&path, tokenizer.to_string()).unwrap();
    interrupted(&desk, "analyze model --data text.jsonl --samples 2 --seq-len 8");
}

/// The command is told to stop when it is under way, and does so within two seconds.
fn interrupted(desk: &Desk, line: &str) {
    let mut command = desk.command(&format!("{line} --threads 1 --quiet"));
    let child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    std::thread::sleep(UNDER_WAY);
    let told = Instant::now();
    assert!(Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap().success());
    let end = end(child, told);
    assert_eq!(end.code, Some(130), "{line}: {}", end.said);
    assert!(end.said.starts_with("interrupted: ") && end.said.lines().count() == 1, "{line}: {}", end.said);
    assert!(end.seconds < 2.0, "{line}: {} s", end.seconds);
}
