//! Processes with torchrun's variables heal or score one model over TCP: to the bytes of one process; those that cannot
//! meet, or die, say why and lose nothing.

use std::fs;
use std::net::TcpListener;
use std::process::{Child, Output, Stdio};
use std::time::{Duration, Instant};

use super::launched::outside;
use crate::fixture::desk::Desk;
use crate::fixture::port::free_port;
use crate::outputs::commands::timeless;

const HEAL: &str = "heal model --data text.jsonl --eval-data text.jsonl --eval-samples 2 --eval-every 4 --seq-len 8 --rank 2 \
                    --batch 6 --pass-tokens 8 --warmup 1 --save-every 2 --threads 1 --quiet";

const ANALYZE: &str = "analyze model --data text.jsonl --method sleb --threads 1 --quiet";

const EVAL: &str = "eval model --tasks text:text.jsonl --pass-tokens 8 --threads 1 --quiet";

/// Process `rank` of `size`, which meets the others at `port`.
fn start(desk: &Desk, line: &str, rank: usize, size: usize, port: u16) -> Child {
    let mut command = desk.command(line);
    let set = [("RANK", rank.to_string()), ("WORLD_SIZE", size.to_string()), ("MASTER_PORT", port.to_string())];
    outside(&mut command).envs(set).env("MASTER_ADDR", "localhost");
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// All processes of `size` do `line`; what each said.
fn together(desk: &Desk, line: &str, size: usize) -> Vec<Output> {
    let port = free_port();
    let started: Vec<Child> = (0..size).map(|rank| start(desk, line, rank, size, port)).collect();
    started.into_iter().map(|child| child.wait_with_output().unwrap()).collect()
}

fn same(desk: &Desk, one: &str, other: &str) {
    let (one, other) = (timeless(&desk.path(one)), timeless(&desk.path(other)));
    assert_eq!(one.keys().collect::<Vec<_>>(), other.keys().collect::<Vec<_>>());
    for (name, thing) in &one {
        assert!(other[name] == *thing, "{name} differs");
    }
}

#[test]
fn processes_write_the_bytes_of_one() {
    let desk = Desk::new();
    let line = |out: &str| format!("{HEAL} --steps 6 -o {out}");
    assert!(desk.run(&line("one")).status.success());
    for size in [2, 4] {
        let out = format!("over-{size}");
        for output in together(&desk, &line(&out), size) {
            assert!(output.status.success(), "{}", said(&output));
        }
        same(&desk, "one", &out);
    }
    let told = together(&desk, &format!("{HEAL} --steps 6 -o none --dry-run --json"), 4);
    let told: serde_json::Value = serde_json::from_slice(&told[0].stdout).unwrap();
    assert_eq!(told["group"]["processes"], 4, "{told}");
    assert_eq!(told["group"]["micro_batches"], serde_json::json!([2, 2, 1, 1]), "{told}");
    assert!(!desk.path("none").exists());
}

#[test]
fn processes_score_to_the_bytes_of_one() {
    let desk = Desk::new();
    let line = |out: &str| format!("{EVAL} -o {out}");
    assert!(desk.run(&line("one")).status.success());
    for size in [2, 3] {
        let out = format!("over-{size}");
        for output in together(&desk, &line(&out), size) {
            assert!(output.status.success() && said(&output).is_empty(), "{}", said(&output));
        }
        same(&desk, "one", &out);
    }
    let told = together(&desk, "eval model --tasks text:text.jsonl --pass-tokens 8 --dry-run --json", 3);
    assert!(told[1..].iter().all(|other| other.stdout.is_empty() && other.stderr.is_empty()));
    let told: serde_json::Value = serde_json::from_slice(&told[0].stdout).unwrap();
    let passes = told["passes"]["passes"].as_u64().unwrap();
    let shares: Vec<u64> =
        told["group"]["passes"].as_array().unwrap().iter().map(|own| own.as_u64().unwrap()).collect();
    assert_eq!((&told["group"]["launcher"], shares.len()), (&"torchrun".into(), 3));
    assert_eq!(shares.iter().sum::<u64>(), passes);

    // others that ask something else
    let port = free_port();
    let other = format!("{} --limit 3", line("none"));
    let started = [start(&desk, &line("none"), 0, 2, port), start(&desk, &other, 1, 2, port)];
    for output in started.map(|child| child.wait_with_output().unwrap()) {
        let said = said(&output);
        assert!(output.status.code() == Some(2) && said.contains("limit was null, is 3.0"), "{said}");
        assert!(said.starts_with("error: ") && said.trim_end().lines().count() == 1, "{said}");
    }
    assert!(!desk.path("none").exists());
}

#[test]
fn processes_analyze_to_the_bytes_of_one() {
    let desk = Desk::new();
    let line = |out: &str| format!("{ANALYZE} -o {out}");
    assert!(desk.run(&line("one")).status.success());
    for output in together(&desk, &line("over-3"), 3) {
        assert!(output.status.success() && said(&output).is_empty(), "{}", said(&output));
    }
    same(&desk, "one", "over-3");
    let told = together(&desk, "analyze model --data text.jsonl --dry-run --json", 2);
    assert!(told[1].stdout.is_empty() && told[1].stderr.is_empty());
    let told: serde_json::Value = serde_json::from_slice(&told[0].stdout).unwrap();
    assert_eq!((&told["group"]["launcher"], &told["group"]["processes"]), (&"torchrun".into(), &2.into()));
}

/// One is killed when some answers are there: the other says so, and one process goes on to the bytes it makes alone.
#[test]
fn one_that_is_killed_while_it_scores_is_named() {
    let desk = Desk::new();
    let lines =
        (0..6000).map(|line| format!("{{\"text\": \"w{} w{} w{}\"}}\n", 3 + line % 50, 4 + line % 47, 5 + line % 43));
    fs::write(desk.path("text.jsonl"), lines.collect::<String>()).unwrap();
    let line = |out: &str| format!("{EVAL} -o {out}");
    let port = free_port();
    let first = start(&desk, &line("killed"), 0, 2, port);
    let mut second = start(&desk, &line("killed"), 1, 2, port);
    let begun = Instant::now();
    let journal = desk.path("killed/journal.jsonl");
    while fs::read_to_string(&journal).map_or(0, |text| text.lines().count()) < 4 {
        assert!(begun.elapsed() < Duration::from_secs(240), "no answers");
        std::thread::sleep(Duration::from_millis(2));
    }
    second.kill().unwrap();
    second.wait().unwrap();
    let output = first.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{}", said(&output));
    assert!(said(&output).contains("process 1 of 2 (from 0)"), "{}", said(&output));
    assert!(journal.exists());
    let resumed = desk.json(&format!("{} --json", line("killed")));
    assert!(resumed["passes"]["resumed"].as_u64().unwrap() > 2, "{}", resumed["passes"]);
    assert!(desk.run(&line("one")).status.success());
    same(&desk, "one", "killed");
}

/// One is killed when there is a state: the other says so, and one process goes on to the bytes it makes alone.
#[test]
fn one_that_is_killed_is_named_and_nothing_is_lost() {
    let desk = Desk::new();
    let line = |out: &str| format!("{HEAL} --steps 600 -o {out}");
    let port = free_port();
    let first = start(&desk, &line("killed"), 0, 2, port);
    let mut second = start(&desk, &line("killed"), 1, 2, port);
    let begun = Instant::now();
    while !desk.path("killed.healing/state.safetensors").exists() {
        assert!(begun.elapsed() < Duration::from_secs(120), "no state");
        std::thread::sleep(Duration::from_millis(5));
    }
    second.kill().unwrap();
    second.wait().unwrap();
    let output = first.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{}", said(&output));
    assert!(said(&output).contains("process 1 of 2 (from 0)"), "{}", said(&output));
    assert!(!desk.path("killed").exists());
    for out in ["killed", "one"] {
        let output = desk.run(&line(out));
        assert!(output.status.success(), "{}", said(&output));
    }
    same(&desk, "one", "killed");
}

#[test]
fn those_that_cannot_meet_say_why() {
    let desk = Desk::new();
    // those that meet have all the time a busy machine takes
    let line = format!("{HEAL} --steps 6 -o none");
    let impatient = format!("{line} --rank-timeout 3");
    let before = desk.names();
    let refused = |outputs: Vec<Output>, code: i32, words: &[&str]| {
        for output in outputs {
            let said = said(&output);
            assert_eq!(output.status.code(), Some(code), "{said}");
            assert!(said.starts_with("error: ") && said.trim_end().lines().count() == 1, "{said}");
            assert!(words.iter().all(|word| said.contains(word)), "{words:?}: {said}");
            assert_eq!(desk.names(), before);
        }
    };
    let wait = |child: Child| child.wait_with_output().unwrap();

    // numbers that do not go together, and one that comes twice
    let port = free_port();
    let started = [start(&desk, &line, 0, 2, port), start(&desk, &line, 1, 3, port)];
    refused(started.map(wait).into(), 2, &["process 1 was started as one of 3", "process 0 as one of 2"]);
    let port = free_port();
    let started = [0, 1, 1].map(|rank| start(&desk, &line, rank, 3, port));
    refused(started.map(wait).into(), 2, &["two processes", "process 1 of 3"]);

    // others that are not there
    let port = free_port();
    refused(
        vec![wait(start(&desk, &impatient, 0, 3, port))],
        1,
        &["process 1, 2 of 3", &port.to_string(), "--rank-timeout"],
    );
    refused(vec![wait(start(&desk, &impatient, 1, 2, port))], 1, &["process 0", &port.to_string(), "MASTER_PORT"]);

    // someone else at the port, who says nothing
    let busy = TcpListener::bind(("::", 0)).or_else(|_| TcpListener::bind(("0.0.0.0", 0))).unwrap();
    let port = busy.local_addr().unwrap().port();
    refused(vec![wait(start(&desk, &line, 0, 2, port))], 2, &[&port.to_string(), "MASTER_PORT", "listen"]);
    refused(vec![wait(start(&desk, &impatient, 1, 2, port))], 1, &["process 0", &port.to_string()]);

    // other settings than process 0
    let port = free_port();
    let other = format!("{line} --lr 0.5");
    let started = [start(&desk, &line, 0, 2, port), start(&desk, &other, 1, 2, port)];
    refused(started.map(wait).into(), 2, &["lr"]);

    // another command
    let port = free_port();
    let analyze = format!("{ANALYZE} -o none");
    let started = [start(&desk, &analyze, 0, 2, port), start(&desk, &format!("{EVAL} -o none"), 1, 2, port)];
    let words = ["process 1 of 2", "does something else", "command was \"analyze\", is \"eval\""];
    refused(started.map(wait).into(), 2, &words);
}
