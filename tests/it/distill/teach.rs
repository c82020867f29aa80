//! A teacher that was asked beforehand teaches as one that is there.

use std::fs;
use std::process::Stdio;

use serde_json::{Value, json};

use super::generate::{rows, works};
use crate::fixture::Llama;
use crate::fixture::desk::{Desk, read};

/// A teacher with a vocabulary of 300 whose predictions are peaked, a student of half its layers, and a text.
fn desk() -> Desk {
    let desk = Desk::new();
    fs::remove_dir_all(desk.path("model")).unwrap();
    Llama { hidden: 32, mlp: 64, heads: 4, kv_heads: 2, head_dim: 8, vocab: 300, ..Llama::default() }
        .write(&desk.path("model"));
    let lines = (0..40).map(|line| {
        let words: Vec<String> =
            (0..12 + line % 9).map(|word| format!("w{}", 3 + (word * 31 + line * 7) % 290)).collect();
        json!({"text": words.join(" ")}).to_string() + "\n"
    });
    fs::write(desk.path("text.jsonl"), lines.collect::<String>()).unwrap();
    works(&desk, "cut model --drop 1,2 -o half --quiet");
    desk
}

const TEXT: &str = "--data text.jsonl --seq-len 16 --steps 6 --batch 4";
const HEAL: &str = "--rank 3 --warmup 0 --lr 0.01 --dropout 0 --adapter-only";

/// Losses of the steps.
fn losses(desk: &Desk, out: &str) -> Vec<f64> {
    let lines = rows(desk, &format!("{out}/log.jsonl"));
    lines.iter().filter_map(|line| line.get("grad_norm").and(line["loss"].as_f64())).collect()
}

fn furthest(a: &[f64], b: &[f64]) -> f64 {
    assert!(a.len() == b.len() && !a.is_empty());
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max)
}

#[test]
fn a_cache_teaches_as_the_model_does() {
    let desk = desk();
    for (weight, temperature, divergence) in
        [(0.5, 1.0, "kl"), (1.0, 2.0, "kl"), (0.7, 2.0, "reverse-kl"), (1.0, 1.0, "jsd --jsd-beta 0.3")]
    {
        let lesson = format!("--teacher-weight {weight} --temperature {temperature} --divergence {divergence}");
        works(&desk, &format!("heal half {TEXT} {HEAL} {lesson} --teacher model -o live --force --quiet"));
        let live = losses(&desk, "live");
        let mut before = f64::INFINITY;
        for k in [8, 64, 300] {
            works(
                &desk,
                &format!("teach model {TEXT} --top-k {k} --temperature {temperature} -o cache --force --quiet"),
            );
            works(&desk, &format!("heal half {TEXT} {HEAL} {lesson} --teacher cache -o cached --force --quiet"));
            let off = furthest(&live, &losses(&desk, "cached"));
            println!("{lesson}, k {k}: {off:.1e} nats");
            assert!(off <= before + 1e-5, "{k}: {off} {before}");
            before = off;
        }
        // all tokens: what is left is the rounding of logarithms to f16
        assert!(before < 5e-5, "{before}");
    }
}

/// The model of the demo, trained: 64 tokens are enough.
#[test]
fn of_a_trained_model_64_tokens_give_the_loss_to_a_thousandth() {
    let desk = Desk::new();
    prune::demo::extract(&desk.path("atlas")).unwrap();
    works(&desk, "cut atlas/model --drop 9-12 -o half --quiet");
    let text = "--data atlas/text/train.jsonl --seq-len 64 --steps 4 --batch 4 --shuffle-window 64";
    let heal = format!("{text} {HEAL} --quant none --teacher-weight 1");
    works(&desk, &format!("heal half {heal} --teacher atlas/model -o live --quiet"));
    works(&desk, &format!("teach atlas/model {text} -o cache --quiet"));
    let report = desk.json(&format!("heal half {heal} --teacher cache -o cached --json"));
    let off = furthest(&losses(&desk, "live"), &losses(&desk, "cached"));
    println!("{off:.1e} nats of {:?}", losses(&desk, "live"));
    assert!(off < 1e-3, "{off}");
    // less memory than two models
    let live = desk.json(&format!("heal half {heal} --teacher atlas/model --dry-run --json"));
    let memory = |report: &Value| report["estimate"]["memory"].as_u64().unwrap();
    let weights: u64 = fs::metadata(desk.path("atlas/model/model.safetensors")).unwrap().len();
    assert!(memory(&report) + weights / 2 < memory(&live), "{} {}", memory(&report), memory(&live));
}

#[test]
fn its_size_is_known_beforehand_and_it_is_found_again() {
    let desk = desk();
    let plan = desk.json(&format!("teach model {TEXT} --dry-run --json"));
    let made = desk.json(&format!("teach model {TEXT} -o cache --json"));
    let size = fs::metadata(desk.path("cache/teacher.safetensors")).unwrap().len();
    assert_eq!((plan["disk"].as_u64(), made["disk"].as_u64()), (Some(size), Some(size)));
    assert_eq!((&plan["sequences"], &made["found"]), (&made["sequences"], &json!(false)));
    // a row is four bytes of an id and two of a logarithm for each token, and four of the rest
    let (rows, k) = (made["rows"].as_u64().unwrap(), made["k"].as_u64().unwrap());
    let rest = size - rows * (6 * k + 4) - 24 * made["sequences"].as_u64().unwrap();
    assert!(rest < 1024, "{rest}");
    let again = desk.json(&format!("teach model {TEXT} -o cache --json"));
    assert_eq!((&again["found"], &again["rows"]), (&json!(true), &made["rows"]));
    desk.refused(&format!("teach model {TEXT} --top-k 8 -o cache"), 2, &["top_k was 64, is 8", "--force"]);
    desk.refused(&format!("teach half {TEXT} -o cache"), 2, &["another teacher", "model_sha256"]);
    // the whole text, whatever is drawn of it
    let all = desk.json(&format!("teach model {} -o all --json", TEXT.replace("--steps 6", "--steps 600")));
    assert_eq!(all["whole"], true);
    works(&desk, &format!("heal half {TEXT} {HEAL} --teacher all --seed 9 -o healed --quiet"));
}

#[test]
fn killed_it_ends_with_the_same_bytes() {
    let desk = desk();
    let line = "teach model --data text.jsonl --seq-len 8 --packing document --steps 30 --batch 8 --shuffle-window 5";
    works(&desk, &format!("{line} -o whole --quiet"));
    let record = desk.path("out/cache.json");
    let done = || fs::read(&record).ok().and_then(|text| serde_json::from_slice::<Value>(&text).ok()?["done"].as_u64());
    let mut kills = 0;
    for at in [0, 1, 17, 33] {
        let mut child =
            desk.command(&format!("{line} -o out")).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        while child.try_wait().unwrap().is_none() && done().is_none_or(|done| done < at) {
            std::thread::sleep(std::time::Duration::from_micros(20));
        }
        child.kill().unwrap();
        kills += usize::from(!child.wait().unwrap().success());
    }
    assert!(kills > 0);
    works(&desk, &format!("{line} -o out --quiet"));
    for name in ["cache.json", "teacher.safetensors"] {
        assert!(fs::read(desk.path("out").join(name)).unwrap() == fs::read(desk.path("whole").join(name)).unwrap());
    }
}

#[test]
fn a_cache_of_something_else_is_refused() {
    let desk = desk();
    works(&desk, &format!("teach model {TEXT} -o cache --quiet"));
    let other: String = (0..40).map(|n| json!({"text": format!("w{} w5 w6 w7", 3 + n)}).to_string() + "\n").collect();
    fs::write(desk.path("other.jsonl"), other).unwrap();
    let heal = format!("heal half {TEXT} {HEAL} --teacher cache -o out");
    Llama { layers: 2, vocab: 64, ..Llama::default() }.write(&desk.path("strange"));
    for (line, words) in [
        (heal.replace("text.jsonl", "other.jsonl"), &["cache", "other text or sequences", "data_sha256"][..]),
        (heal.replace("--seq-len 16", "--seq-len 8"), &["other text or sequences", "\"seq_len\":16"]),
        (heal.replace("--steps 6", "--steps 7"), &["the first 24 sequences", "draws 28"]),
        (format!("{heal} --seed 1"), &["seed was 0, is 1"]),
        (format!("{heal} --packing document"), &["\"packing\":\"packed\""]),
        (format!("{heal} --temperature 2"), &["--temperature 1", "has 2"]),
        (heal.replace("heal half", "heal strange"), &["300 tokens, the model's 64"]),
    ] {
        desk.refused(&line, 2, words);
    }
    // another model than the one that was cut
    works(&desk, "cut model --drop 3 -o other --quiet");
    works(&desk, &format!("teach other {TEXT} -o cache-of-other --quiet"));
    desk.refused(
        &format!("heal half {TEXT} {HEAL} --teacher cache-of-other --eval-data text.jsonl --reference model -o out"),
        2,
        &["cache-of-other", "--reference"],
    );
    // cut short, changed, unfinished
    let (said, record) = (desk.path("cache/teacher.safetensors"), desk.path("cache/cache.json"));
    let (bytes, text) = (fs::read(&said).unwrap(), fs::read_to_string(&record).unwrap());
    fs::write(&said, &bytes[..bytes.len() - 100]).unwrap();
    desk.refused(&heal, 1, &["teacher.safetensors"]);
    let mut changed = bytes.clone();
    let end = changed.len();
    // behind the logarithms are what sequences are known by
    changed[end - 2400..end - 400].fill(0x3c);
    fs::write(&said, &changed).unwrap();
    let output = desk.run(&format!("{heal} --quiet"));
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.code() == Some(1) && error.contains("make the cache anew"), "{error}");
    works(&desk, &format!("teach model {TEXT} -o short --top-k 3 --quiet"));
    fs::copy(desk.path("short/teacher.safetensors"), &said).unwrap();
    desk.refused(&format!("{heal} --restart"), 1, &["not what cache.json says"]);
    fs::write(&said, &bytes).unwrap();
    let sequences = read(&record)["sequences"].to_string();
    fs::write(&record, text.replace(&format!("\"done\": {sequences}"), "\"done\": 0")).unwrap();
    desk.refused(&format!("{heal} --restart"), 2, &["0 of", "`prune teach`"]);
    fs::write(&record, "{}").unwrap();
    desk.refused(&format!("{heal} --restart"), 1, &["cache.json"]);
}

/// Conversations and several texts: the sequences, and which of their tokens are learned.
#[test]
fn answers_and_mixtures_are_taught_too() {
    let desk = desk();
    let chat: String =
        (0..9).map(|n| json!({"prompt": format!("w{} w4", 9 + n), "completion": "w7 w8"}).to_string() + "\n").collect();
    fs::write(desk.path("chat.jsonl"), chat).unwrap();
    let text = "--data chat.jsonl --data text.jsonl --weights 1,2 --seq-len 16 --steps 5 --batch 4";
    works(&desk, &format!("teach model {text} --top-k 300 -o cache --quiet"));
    for teacher in ["model", "cache"] {
        works(&desk, &format!("heal half {text} {HEAL} --teacher {teacher} -o from-{teacher} --quiet"));
    }
    let off = furthest(&losses(&desk, "from-model"), &losses(&desk, "from-cache"));
    assert!(off < 2e-5, "{off}");
    let adapter = |name: &str| fs::read(desk.path(name).join("adapter/adapter_config.json")).unwrap();
    assert_eq!(adapter("from-model"), adapter("from-cache"));
}
