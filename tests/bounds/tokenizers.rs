//! A tokenizer takes many times its file: it is refused where that is more than the cap, and takes no more where not.

use std::collections::BTreeSet;
use std::fs;

use serde_json::{Map, Value, json};

use crate::fixture::desk::Desk;
use crate::{CAP, check, run};

/// Different texts of `length` letters, so that few begin alike.
fn names(count: usize, length: usize) -> impl Iterator<Item = String> {
    (0..count as u64).map(move |number| {
        let mut digits = format!("{:016x}", number.wrapping_mul(0x9e37_79b9_7f4a_7c15)).repeat(length.div_ceil(16));
        digits.truncate(length);
        digits
    })
}

fn vocabulary(names: impl Iterator<Item = String>) -> Map<String, Value> {
    names.enumerate().map(|(id, name)| (name, id.into())).collect()
}

fn bpe(vocabulary: Map<String, Value>, merges: Vec<Value>) -> Value {
    json!({"type": "BPE", "vocab": vocabulary, "merges": merges, "dropout": null, "unk_token": null,
        "continuing_subword_prefix": null, "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false})
}

fn file(model: Value, added: Vec<Value>) -> Value {
    json!({"version": "1.0", "truncation": null, "padding": null, "added_tokens": added, "normalizer": null,
        "pre_tokenizer": {"type": "Whitespace"}, "post_processor": null, "decoder": null, "model": model})
}

/// Merges of each two of `words`, with what they make.
fn pairs(words: usize) -> (Map<String, Value>, Vec<(String, String)>) {
    let words: Vec<String> = names(words, 6).collect::<BTreeSet<_>>().into_iter().collect();
    let pairs: Vec<(String, String)> =
        words.iter().flat_map(|left| words.iter().map(|right| (left.clone(), right.clone()))).collect();
    let made = pairs.iter().map(|(left, right)| format!("{left}{right}"));
    (vocabulary(words.iter().cloned().chain(made)), pairs)
}

/// Tokenizers of each kind, some hundred thousand tokens or some megabytes of letters.
fn tokenizers() -> Vec<(&'static str, Value)> {
    let added = |content: String| {
        json!({"id": 0, "content": content, "single_word": false, "lstrip": false, "rstrip": false,
            "normalized": false, "special": false})
    };
    let (tokens, merges) = pairs(500);
    let words = merges.iter().map(|(left, right)| format!("{left} {right}").into()).collect();
    let lists = merges.iter().map(|(left, right)| json!([left, right])).collect();
    let pieces: Vec<Value> = names(30_000, 64).map(|name| json!([name, -1.0])).collect();
    vec![
        // one more than a table of a power of two holds
        ("words", file(json!({"type": "WordLevel", "unk_token": "0", "vocab": vocabulary(names(458_753, 8))}), vec![])),
        ("merges", file(bpe(tokens.clone(), words), vec![])),
        ("merges in lists", file(bpe(tokens, lists), vec![])),
        ("pieces", file(json!({"type": "Unigram", "unk_id": 0, "vocab": pieces, "byte_fallback": false}), vec![])),
        ("added", file(bpe(Map::new(), vec![]), names(20_000, 64).map(added).collect())),
        ("no part of it", {
            let mut all = file(bpe(Map::new(), vec![]), vec![]);
            all["model"]["more"] = vec![0; 1_000_000].into();
            all
        }),
    ]
}

#[test]
fn tokenizers_are_in_the_cap() {
    let desk = Desk::new();
    let line = |cap: u64| format!("analyze model --data text.jsonl --samples 2 --seq-len 8 --memory {cap}MiB");
    for (name, tokenizer) in tokenizers() {
        fs::write(desk.path("model/tokenizer.json"), tokenizer.to_string()).unwrap();
        check(&desk, &line(CAP), Err("allow more with --memory"));
        let said = run(&desk, &line(CAP)).said;
        let (_, needs) = said.split_once("takes up to ").unwrap();
        let (needs, unit) = needs.split_once(" of memory").unwrap().0.split_once(' ').unwrap();
        let needs = needs.parse::<f64>().unwrap() * if unit == "GiB" { 1024.0 } else { 1.0 };
        let cap = needs.ceil() as u64 + 16;
        let end = run(&desk, &line(cap));
        assert!(end.code.is_some_and(|code| code < 2) && !end.said.contains("--memory"), "{name}: {}", end.said);
        assert!(end.peak <= cap + 64, "{name}: {} MiB, allowed were {cap}", end.peak);
        assert!(end.peak >= cap / 4, "{name}: {} MiB, and {cap} are asked for", end.peak);
    }
}

/// The shape of the largest vocabularies in use: an eighth of a million tokens with two merges each.
#[test]
fn a_usual_tokenizer_fits_into_half_a_gigabyte() {
    let desk = Desk::new();
    let (tokens, merges) = pairs(500);
    let known: Map<String, Value> = vocabulary(tokens.keys().take(128_000).cloned());
    let merges = merges.iter().filter(|(left, right)| {
        known.contains_key(&format!("{left}{right}")) && known.contains_key(left) && known.contains_key(right)
    });
    let merges = merges.map(|(left, right)| json!([left, right])).collect();
    fs::write(desk.path("model/tokenizer.json"), file(bpe(known, merges), vec![]).to_string()).unwrap();
    let line = "analyze model --data text.jsonl --samples 2 --seq-len 8 --memory 512MiB";
    let said = run(&desk, line).said;
    assert!(!said.contains("--memory"), "{said}");
}
