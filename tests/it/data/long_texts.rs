//! Long texts through windows: the ids of the whole text, whatever the tokenizer and wherever the text can be cut.

use std::fs;
use std::path::Path;

use prune::data::{Special, Tokenizer};
use serde_json::{Value, json};

use crate::fixture::material::shared;

/// Bytes of a text, about: three windows.
const LONG: usize = 90_000;

const GPT2: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";
const LLAMA3: &str = concat!(
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}|",
    r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
);
const QWEN2: &str =
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// The demo model's tokenizer, GPT-2's kind, as a value to make others of.
fn demo(dir: &Path) -> Value {
    prune::demo::extract(dir).unwrap();
    serde_json::from_slice(&fs::read(dir.join("model/tokenizer.json")).unwrap()).unwrap()
}

/// Byte-level BPE with words by `pattern`.
fn byte_level(demo: &Value, pattern: &str, normalizer: Value) -> Value {
    let mut tokenizer = demo.clone();
    tokenizer["normalizer"] = normalizer;
    tokenizer["pre_tokenizer"] = json!({"type": "Sequence", "pretokenizers": [
        {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": false},
        {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false},
    ]});
    tokenizer["post_processor"] =
        json!({"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true});
    tokenizer
}

/// Llama 2's kind: the demo's vocabulary with `▁` for a space, runs of it, and bytes to fall back on.
fn metaspace(demo: &Value, legacy: bool) -> Value {
    let mut tokenizer = demo.clone();
    let ascii = |token: &String| token.replace('Ġ', "").bytes().all(|byte| byte.is_ascii_graphic());
    let mut names: Vec<String> = (0..256).map(|byte| format!("<0x{byte:02X}>")).collect();
    names.extend(["<unk>".to_owned(), "▁".to_owned(), "▁▁".to_owned(), "▁▁▁▁".to_owned()]);
    let model = &demo["model"];
    let vocabulary: Vec<&String> = model["vocab"].as_object().unwrap().keys().filter(|token| ascii(token)).collect();
    names.extend(vocabulary.iter().filter(|token| **token != "Ġ").map(|token| token.replace('Ġ', "▁")));
    let known: std::collections::HashSet<&String> = names.iter().collect();
    let mut merges = vec![json!(["▁", "▁"]), json!(["▁▁", "▁▁"])];
    for merge in model["merges"].as_array().unwrap() {
        let pair: Vec<String> = match merge {
            Value::String(pair) => pair.split(' ').map(|part| part.replace('Ġ', "▁")).collect(),
            pair => pair.as_array().unwrap().iter().map(|part| part.as_str().unwrap().replace('Ġ', "▁")).collect(),
        };
        let all = [pair[0].clone(), pair[1].clone(), pair.concat()];
        if all.iter().all(|token| known.contains(token)) {
            merges.push(json!(pair));
        }
    }
    let vocabulary: serde_json::Map<String, Value> =
        names.iter().enumerate().map(|(id, name)| (name.clone(), id.into())).collect();
    let count = vocabulary.len();
    tokenizer["model"] = json!({"type": "BPE", "dropout": null, "unk_token": "<unk>", "continuing_subword_prefix": null,
        "end_of_word_suffix": null, "fuse_unk": true, "byte_fallback": true, "ignore_merges": false,
        "vocab": vocabulary, "merges": merges});
    for (index, token) in tokenizer["added_tokens"].as_array_mut().unwrap().iter_mut().enumerate() {
        token["id"] = (count + index).into();
    }
    tokenizer["post_processor"] = Value::Null;
    let (prepend, replace) = (
        json!({"type": "Prepend", "prepend": "▁"}),
        json!({"type": "Replace", "pattern": {"String": " "}, "content": "▁"}),
    );
    if legacy {
        tokenizer["normalizer"] = json!({"type": "Sequence", "normalizers": [prepend, replace]});
        tokenizer["pre_tokenizer"] = Value::Null;
    } else {
        tokenizer["normalizer"] = Value::Null;
        tokenizer["pre_tokenizer"] =
            json!({"type": "Metaspace", "replacement": "▁", "prepend_scheme": "first", "split": false});
    }
    tokenizer
}

/// Words split into pieces, each the likeliest way: T5's and XLM-R's kind.
fn unigram(demo: &Value) -> Value {
    let mut tokenizer = metaspace(demo, true);
    let names = tokenizer["model"]["vocab"].as_object().unwrap().keys();
    let names = names.filter(|name| !name.starts_with("<0x") && *name != "<unk>");
    let score = |name: &String| -9.0 + 0.1 * name.chars().count() as f64 - (name.len() % 3) as f64;
    let pieces: Vec<Value> = names.map(|name| json!([name, score(name)])).collect();
    let vocabulary = [vec![json!(["<unk>", 0.0])], pieces].concat();
    tokenizer["model"] = json!({"type": "Unigram", "unk_id": 0, "vocab": vocabulary, "byte_fallback": false});
    tokenizer["added_tokens"] = json!([]);
    tokenizer["normalizer"] = json!({"type": "Sequence", "normalizers": [
        {"type": "NFKC"}, {"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": " "},
    ]});
    tokenizer["pre_tokenizer"] =
        json!({"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": true});
    tokenizer
}

/// BERT's kind: words without accents, and what follows in a word marked `##`.
fn word_piece(demo: &Value) -> Value {
    let mut tokenizer = demo.clone();
    let pieces = demo["model"]["vocab"].as_object().unwrap().keys();
    let pieces = pieces.filter(|name| name.bytes().all(|byte| byte.is_ascii_graphic())).flat_map(|name| {
        let name = name.to_lowercase();
        [format!("##{name}"), name]
    });
    let mut names: Vec<String> = pieces.chain(["[UNK]".to_owned()]).collect();
    names.sort();
    names.dedup();
    let vocabulary: serde_json::Map<String, Value> =
        names.into_iter().enumerate().map(|(id, name)| (name, id.into())).collect();
    tokenizer["model"] = json!({"type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##",
        "max_input_chars_per_word": 100, "vocab": vocabulary});
    tokenizer["added_tokens"] = json!([]);
    tokenizer["normalizer"] = json!({"type": "BertNormalizer", "clean_text": true, "handle_chinese_chars": true,
        "strip_accents": true, "lowercase": true});
    tokenizer["pre_tokenizer"] = json!({"type": "BertPreTokenizer"});
    tokenizer["post_processor"] = Value::Null;
    tokenizer
}

/// Texts that are hard to cut, each several windows long.
fn texts(token: &str) -> Vec<(&'static str, String)> {
    let until = |length: usize, part: &dyn Fn(usize) -> String| {
        let mut text = String::new();
        let mut index = 0;
        while text.len() < length {
            text.push_str(&part(index));
            index += 1;
        }
        text
    };
    // no period that a window could hide
    let odd = |index: usize| (index * index * 7919) % 10_007;
    let words =
        ["The", " moon", " is", " round.", "\n", " Isn't", " it", " 'tis?", "  ", "\t", " 1984", "!!!", "\r\n\r\n"];
    vec![
        ("words", until(LONG, &|index| words[odd(index) % words.len()].to_owned())),
        ("digits", until(LONG, &|index| odd(index).to_string())),
        ("digits and letters", until(LONG, &|index| format!("{:x}", odd(index)))),
        (
            "Chinese",
            until(LONG, &|index| {
                char::from_u32(0x4e00 + odd(index) as u32 % 5000).unwrap().to_string()
                    + if index % 37 == 0 { "。" } else { "" }
            }),
        ),
        (
            "accents to compose",
            until(LONG, &|index| {
                format!(
                    "e\u{301}{}",
                    ["o\u{302}\u{323}", " a", "\u{1f468}\u{200d}\u{1f469}", "x\u{327}"][odd(index) % 4]
                )
            }),
        ),
        ("runs of spaces", until(LONG, &|index| format!("x{}", " ".repeat(odd(index) % 900)))),
        (
            "runs of line ends",
            until(LONG, &|index| format!("x.{}{}", "\n".repeat(odd(index) % 900), " ".repeat(odd(index) % 7))),
        ),
        (
            "a long run of mixed spaces",
            format!(
                "{}{}\n{}x\n{}",
                "word ".repeat(6000),
                " \n".repeat(10_000),
                " ".repeat(20_000),
                "word ".repeat(8000)
            ),
        ),
        ("a long word", format!("{}{}{}", "word ".repeat(6000), "a".repeat(50_000), " word".repeat(8000))),
        (
            "added tokens",
            until(LONG, &|index| {
                format!(
                    "{}{token}{}",
                    ["x", " ", "\n", "", "<|"][odd(index) % 5],
                    ["", " y", "  ", token][odd(index) % 4]
                )
            }),
        ),
        (
            "code",
            until(LONG, &|index| {
                format!(
                    "{}if (a[{}] != \"\\n\") {{ b->c += 0x{:X}; }} // {}\n",
                    "    ".repeat(odd(index) % 6),
                    odd(index),
                    odd(index),
                    "-=".repeat(odd(index) % 30)
                )
            }),
        ),
    ]
}

fn check(name: &str, path: &Path) {
    let mut whole = tokenizers::Tokenizer::from_file(path.join("tokenizer.json")).unwrap();
    whole.with_truncation(None).unwrap();
    whole.with_padding(None);
    let ours = Tokenizer::open(path).unwrap();
    let token =
        whole.get_added_tokens_decoder().values().next().map_or("<s>".to_owned(), |token| token.content.clone());
    for (kind, text) in texts(&token) {
        // what stands around a text does not hang on the text
        let both = [(false, Special::None), (true, Special::Default)];
        for (special, asked) in both.into_iter().take(if kind == "words" { 2 } else { 1 }) {
            let expected = whole.encode_fast(text.as_str(), special).unwrap();
            let found = ours.encode(&text, asked).unwrap_or_else(|error| panic!("{name}, {kind}: {error}"));
            let first = expected.get_ids().iter().zip(&found).position(|(a, b)| a != b);
            assert!(first.is_none(), "{name}, {kind}: id {first:?} of {} differs", found.len());
            assert_eq!(expected.len(), found.len(), "{name}, {kind}");
        }
    }
}

#[test]
fn windows_give_the_ids_of_the_whole() {
    let dir = tempfile::tempdir().unwrap();
    let demo = demo(dir.path());
    let nfc = || json!({"type": "NFC"});
    for (name, tokenizer) in [
        ("GPT-2", demo.clone()),
        ("GPT-2 written out", byte_level(&demo, GPT2, Value::Null)),
        ("Llama 3", byte_level(&demo, LLAMA3, Value::Null)),
        ("Qwen2", byte_level(&demo, QWEN2, nfc())),
        ("Llama 2", metaspace(&demo, true)),
        ("Llama 2 without legacy", metaspace(&demo, false)),
        ("Unigram", unigram(&demo)),
        ("WordPiece", word_piece(&demo)),
    ] {
        let path = dir.path().join(name);
        fs::create_dir(&path).unwrap();
        fs::write(path.join("tokenizer.json"), tokenizer.to_string()).unwrap();
        check(name, &path);
    }
}

/// The small copies of real tokenizers that the tests have, and those that lie beside the checkout.
#[test]
fn windows_of_real_tokenizers() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    for name in ["granite", "llama2", "llama3", "odd", "qwen2", "smollm"] {
        check(name, &root.join("tests/data/tokens").join(name));
    }
    for name in ["data/stories260K", "data/TinyStories-656K", "golden/eval/model-tok-l2", "golden/mini/mini"] {
        if let Some(path) = shared(name) {
            check(name, &path);
        }
    }
}

#[test]
fn a_word_without_end_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let demo = demo(dir.path());
    let path = dir.path().join("model");
    fs::write(path.join("tokenizer.json"), metaspace(&demo, true).to_string()).unwrap();
    let spaces = || " ".repeat(3 << 20);
    for (text, place) in [(spaces(), 0), ("word ".repeat(10_000) + &spaces(), 48)] {
        let error = Tokenizer::open(&path).unwrap().encode(&text, Special::None).unwrap_err().to_string();
        assert!(error.contains("tokenizer.json: 256 KiB of text, "), "{error}");
        assert!(error.contains(&format!("{place} KiB behind its start, are one word or one run")), "{error}");
    }
}
