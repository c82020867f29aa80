//! A cut that is killed leaves no directory that looks finished and is not.

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use prune::commands::cut::{CutSettings, cut};
use prune::progress::Silent;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::{files, names};
use crate::fixture::Llama;

const KILLS: usize = 50;

/// Variables that make [`child`] cut: source, output, `--force`.
const MODEL: &str = "PRUNE_TEST_CUT_MODEL";
const OUT: &str = "PRUNE_TEST_CUT_OUT";
const FORCE: &str = "PRUNE_TEST_CUT_FORCE";

/// Arguments that make this program run [`child`] alone.
const CHILD: [&str; 4] = ["--exact", "surgery::killed::child", "--ignored", "--nocapture"];

#[test]
#[ignore = "the process that the test below kills"]
fn child() {
    let variable = |name| std::env::var(name).unwrap();
    let settings = CutSettings {
        model: Some(variable(MODEL)),
        out: Some(variable(OUT).into()),
        drop: Some("2-5".into()),
        max_shard_size: "2MB".into(),
        force: variable(FORCE) == "yes",
        ..CutSettings::default()
    };
    cut(&settings, &Silent).unwrap();
}

fn start(source: &Path, out: &Path, force: bool) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(CHILD)
        .env(MODEL, source)
        .env(OUT, out)
        .env(FORCE, if force { "yes" } else { "no" })
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

#[test]
fn killed_cuts_leave_nothing_that_looks_finished() {
    let dir = tempfile::tempdir().unwrap();
    let source = dir.path().join("source");
    // long enough to be hit in the middle: 40 MB in 18 shards
    Llama { layers: 16, hidden: 192, mlp: 768, heads: 8, kv_heads: 8, head_dim: 24, vocab: 512, ..Llama::default() }
        .write(&source);
    let reference = dir.path().join("reference/out");
    let began = Instant::now();
    assert!(start(&source, &reference, false).wait().unwrap().success());
    let whole_run = began.elapsed();
    let expected = files(&reference);

    let place = dir.path().join("place");
    let out = place.join("out");
    let mut rng = ChaCha8Rng::seed_from_u64(7);
    let (mut unfinished, mut half_written) = (0, 0);
    for kill in 0..KILLS {
        // every other time there is an output to be replaced
        let force = kill % 2 == 1;
        if force && !out.exists() {
            assert!(start(&source, &out, true).wait().unwrap().success());
        } else if !force && out.exists() {
            fs::remove_dir_all(&out).unwrap();
        }
        let mut child = start(&source, &out, force);
        std::thread::sleep(Duration::from_secs_f64(rng.random_range(0.0..1.1) * whole_run.as_secs_f64()));
        child.kill().unwrap();
        child.wait().unwrap();

        let looks_finished = out.exists();
        if looks_finished {
            assert!(files(&out) == expected, "kill {kill}: a directory that is not what it should be");
        }
        unfinished += usize::from(!looks_finished);
        let left = if place.exists() { names(&place) } else { Vec::new() };
        half_written += usize::from(left.iter().any(|name| name != "out"));
    }
    // the kills fell into the work, not before or after it
    assert!(unfinished >= 5 && half_written >= 5, "{unfinished} unfinished, {half_written} half written of {KILLS}");

    // the same command finishes the job and clears away what was left
    assert!(start(&source, &out, true).wait().unwrap().success());
    assert!(files(&out) == expected);
    assert_eq!(names(&place), ["out"]);
}

/// A limit on the size of files stands for the disk that fills up in the middle of a shard.
#[test]
#[cfg(unix)]
fn a_full_disk_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let (source, place) = (dir.path().join("source"), dir.path().join("place"));
    Llama { layers: 8, hidden: 192, mlp: 768, heads: 8, kv_heads: 8, head_dim: 24, vocab: 512, ..Llama::default() }
        .write(&source);
    // in blocks of 512 bytes; without the signal, the write itself fails
    let limited = Command::new("sh")
        .args(["-c", "trap '' XFSZ; ulimit -f 2000; exec \"$0\" \"$@\""])
        .arg(std::env::current_exe().unwrap())
        .args(CHILD)
        .env(MODEL, &source)
        .env(OUT, place.join("out"))
        .env(FORCE, "no")
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&limited.stderr);
    assert!(!limited.status.success() && said.contains("safetensors: "), "{said}");
    assert!(said.contains("File too large"), "{said}");
    assert!(!place.exists(), "{:?}", names(&place));
}
