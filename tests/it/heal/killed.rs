//! A healing that is killed or interrupted, at any moment, ends with the bytes of one that was not.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde_json::{Value, json};

use crate::fixture::Llama;
use crate::fixture::desk::Desk;

const KILLS: usize = 20;
/// Of the log of a run: a line a step, a validation every five and at the start.
const LINES: usize = 48 + 11;
/// Of the output's log: those, and the model before, the healed one unmerged and merged.
const MEASURED: usize = 3;

/// Some fifty steps of some milliseconds, and an output of four megabytes.
const HEAL: &str = "heal model --data text.jsonl --eval-data text.jsonl --seq-len 48 --rank 4 --target all-linear \
                    --steps 48 --batch 8 --eval-every 5 --eval-samples 16 --save-every 3 --warmup 4 --lr 0.01 \
                    --shuffle-window 7 --save-4bit --max-shard-size 1MB --quiet";

fn desk() -> Desk {
    let desk = Desk::new();
    Llama { hidden: 128, mlp: 256, heads: 4, kv_heads: 2, head_dim: 32, vocab: 512, ..Llama::default() }
        .write(&desk.path("model"));
    let lines = (0..160).map(|line| {
        let words: Vec<String> = (0..20 + line % 30).map(|word| format!("w{}", 3 + (word * 7 + line) % 499)).collect();
        json!({"text": words.join(" ")}).to_string() + "\n"
    });
    fs::write(desk.path("text.jsonl"), lines.collect::<String>()).unwrap();
    desk
}

fn start(desk: &Desk, out: &str) -> Child {
    let mut command = desk.command(&format!("{HEAL} -o {out}"));
    command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap()
}

fn finish(desk: &Desk, out: &str) {
    let output = start(desk, out).wait_with_output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// Every file below `dir`, the log without what it says of time and memory.
fn result(dir: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        if path.is_dir() {
            found.extend(result(&path).into_iter().map(|(below, bytes)| (format!("{name}/{below}"), bytes)));
        } else if name == "log.jsonl" {
            let text = fs::read_to_string(&path).unwrap();
            let lines = text.lines().map(|line| {
                let mut line: Value = serde_json::from_str(line).unwrap();
                line.as_object_mut().unwrap().retain(|key, _| !["tokens_per_second", "memory_mib"].contains(&&**key));
                line.to_string() + "\n"
            });
            found.insert(name, lines.collect::<String>().into_bytes());
        } else {
            found.insert(name, fs::read(&path).unwrap());
        }
    }
    found
}

fn assert_same(desk: &Desk, out: &str, expected: &BTreeMap<String, Vec<u8>>, when: &str) {
    let found = result(&desk.path(out));
    assert!(found.keys().eq(expected.keys()), "{when}: {:?}", found.keys());
    let differing: Vec<&String> = found.keys().filter(|name| found[*name] != expected[*name]).collect();
    assert!(differing.is_empty(), "{when}: other bytes in {differing:?}");
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir(to).unwrap();
    // a file that was being written lies in a directory of its own
    for entry in fs::read_dir(from).unwrap().filter(|entry| entry.as_ref().unwrap().path().is_file()) {
        let path = entry.unwrap().path();
        fs::copy(&path, to.join(path.file_name().unwrap())).unwrap();
    }
}

/// Removes everything of `out`, what killed runs left included.
fn remove(desk: &Desk) {
    for name in desk.names().iter().filter(|name| name.starts_with("out") || name.starts_with(".out")) {
        fs::remove_dir_all(desk.path(name)).unwrap();
    }
}

/// What is on the disk after a kill.
fn phase(desk: &Desk) -> &'static str {
    let left = desk.names();
    let is = |name: &str| left.iter().any(|left| left == name);
    match (is("out"), is("out.healing")) {
        (true, true) => "in place",
        (true, false) => "done",
        (false, false) => "not begun",
        _ if desk.path(".out.prune/new").exists() => "writing",
        _ if desk.path("out.healing/state.safetensors").exists() => "training",
        _ => "begun",
    }
}

#[test]
fn twenty_kills_and_the_same_bytes() {
    let desk = desk();
    finish(&desk, "whole");
    let expected = result(&desk.path("whole"));
    assert_eq!(String::from_utf8_lossy(&expected["log.jsonl"]).lines().count(), LINES + MEASURED);
    for name in ["adapter/adapter_model.safetensors", "merged/config.json", "base-4bit/config.json", "heal.json"] {
        assert!(expected.contains_key(name), "{name}");
    }

    let seed = std::time::UNIX_EPOCH.elapsed().unwrap().as_nanos() as u64;
    println!("seed {seed}");
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut moments: Vec<usize> = (0..KILLS).map(|_| rng.random_range(0..LINES)).collect();
    moments.sort_unstable();
    let mut phases = BTreeMap::<&str, usize>::new();
    let mut kill = |mut child: Child, after: Duration| {
        std::thread::sleep(after.mul_f64(rng.random_range(0.0..1.0)));
        child.kill().unwrap();
        child.wait().unwrap();
        let phase = phase(&desk);
        *phases.entry(phase).or_default() += 1;
        if phase == "in place" || phase == "done" {
            assert_same(&desk, "out", &expected, &format!("seed {seed}, {phase}"));
        }
    };

    // one run that is killed again and again: told by its log, how far it is does not depend on what else the machine
    // does
    for lines in moments {
        let mut child = start(&desk, "out");
        let log = desk.path("out.healing/log.jsonl");
        let written = || fs::read_to_string(&log).map_or(0, |text| text.lines().count());
        while child.try_wait().unwrap().is_none() && written() < lines {
            std::thread::sleep(Duration::from_micros(100));
        }
        kill(child, Duration::from_millis(20));
    }
    finish(&desk, "out");
    assert_same(&desk, "out", &expected, &format!("seed {seed}"));
    assert_eq!(desk.names(), ["model", "out", "text.jsonl", "whole"]);

    // its end alone, which is short: from when the output is begun to when all is done
    let end = desk.path("end");
    for round in 0..KILLS {
        remove(&desk);
        if end.exists() {
            copy(&end, &desk.path("out.healing"));
        }
        let mut child = start(&desk, "out");
        while child.try_wait().unwrap().is_none() && phase(&desk) != "writing" {
            std::thread::sleep(Duration::from_micros(100));
        }
        // the first at once, so that there is a state to go on from
        kill(child, Duration::from_millis(if round == 0 { 0 } else { 60 }));
        if !end.exists() && desk.path("out.healing").exists() {
            copy(&desk.path("out.healing"), &end);
        }
    }
    finish(&desk, "out");
    assert_same(&desk, "out", &expected, &format!("seed {seed}, at the end"));
    fs::remove_dir_all(end).unwrap();
    assert_eq!(desk.names(), ["model", "out", "text.jsonl", "whole"]);
    println!("{phases:?}");
    // the kills fell into the work, not before or after it
    assert!(phases["training"] >= 5 && phases["writing"] >= 2, "{phases:?}");
}

/// Ctrl-C and SIGTERM: the state is saved, the exit code is 130, the same command goes on.
#[test]
#[cfg(unix)]
fn an_interrupted_healing_goes_on() {
    let desk = desk();
    finish(&desk, "whole");
    let expected = result(&desk.path("whole"));
    for (signal, steps) in [("-INT", 4), ("-TERM", 13)] {
        let child = start(&desk, "out");
        let log = desk.path("out.healing/log.jsonl");
        let began = Instant::now();
        while fs::read_to_string(&log).is_ok_and(|text| text.lines().count() < steps) || !log.exists() {
            assert!(began.elapsed() < Duration::from_secs(60), "no {steps} lines of log");
            std::thread::sleep(Duration::from_millis(1));
        }
        let pid = child.id().to_string();
        assert!(Command::new("kill").args([signal, &pid]).status().unwrap().success());
        let output = child.wait_with_output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(130), "{said}");
        assert!(said.trim_end().ends_with("interrupted: the same command goes on where it stopped"), "{said}");
        assert_eq!(desk.names(), ["model", "out.healing", "text.jsonl", "whole"]);
        // no step is lost: the state is of the last step in the log
        let state =
            candle_core::safetensors::load(desk.path("out.healing/state.safetensors"), &candle_core::Device::Cpu)
                .unwrap();
        let place: Value = serde_json::from_slice(&state["place.json"].to_vec1::<u8>().unwrap()).unwrap();
        let text = fs::read_to_string(&log).unwrap();
        let last: Value = serde_json::from_str(text.lines().last().unwrap()).unwrap();
        assert_eq!(place["step"], last["step"]);
        assert!(place["step"].as_u64().unwrap() < 48, "interrupted too late");
    }
    finish(&desk, "out");
    assert_same(&desk, "out", &expected, "after two interruptions");
}
