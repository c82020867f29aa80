//! Tokenizers of every kind, and the files beside them.

use std::path::Path;

use prune::data::{
    Rules, SequenceOptions, Sequences, Shape, SourceOptions, Special, Spoken, TextSource, Tokenizer, end_tokens,
};
use prune::progress::Silent;
use rand::Rng as _;
use serde_json::{Map, Value, json};

use super::super::json as values;
use super::{Feed, Files, small};

/// Letters, the marks of two kinds of pieces, and some words.
fn vocabulary() -> Map<String, Value> {
    let letters = ('a'..='z').map(String::from);
    let more =
        ["<unk>", "<s>", "</s>", "Ġ", "▁", "##b", "ab", "Ġa", "▁a", "é", "0", "<0x0A>", "w3", "w4"].map(str::to_owned);
    more.into_iter().chain(letters).enumerate().map(|(id, piece)| (piece, json!(id))).collect()
}

/// A good tokenizer of each kind.
fn good() -> Vec<Value> {
    let token = |id: u32, content: &str| {
        json!({"id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": true,
               "normalized": false, "special": true})
    };
    let template = json!({"type": "TemplateProcessing",
        "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 0}}],
        "special_tokens": {"<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]}}});
    let whole = |model: Value, normalizer: Value, pre: Value, decoder: Value| {
        json!({"version": "1.0", "truncation": null, "padding": null,
               "added_tokens": [token(0, "<unk>"), token(1, "<s>"), token(2, "</s>")],
               "normalizer": normalizer, "pre_tokenizer": pre, "post_processor": template, "decoder": decoder,
               "model": model})
    };
    let bytes = json!({"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true});
    let split = json!({"type": "Sequence", "pretokenizers": [
        {"type": "Split", "pattern": {"Regex": "(?i:'s|'t)|\\p{N}{1,3}| ?\\p{L}+|\\s+(?!\\S)|\\s+"},
            "behavior": "Isolated", "invert": false},
        {"type": "Digits", "individual_digits": true}, bytes]});
    let bpe = json!({"type": "BPE", "vocab": vocabulary(), "merges": ["a b", ["Ġ", "a"]], "unk_token": "<unk>",
        "fuse_unk": true, "byte_fallback": true, "ignore_merges": false, "dropout": null,
        "continuing_subword_prefix": null, "end_of_word_suffix": null});
    let pieces: Vec<Value> = vocabulary().keys().map(|piece| json!([piece, -(piece.len() as f64)])).collect();
    let replaced = json!({"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "▁"}, {"type": "NFC"},
        {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}]});
    let spoken = json!({"type": "Sequence", "decoders": [
        {"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
        {"type": "ByteFallback"}, {"type": "Fuse"}, {"type": "Strip", "content": " ", "start": 1, "stop": 0}]});
    let metaspace = json!({"type": "Metaspace", "replacement": "▁", "prepend_scheme": "first", "split": true});
    vec![
        whole(bpe.clone(), Value::Null, bytes.clone(), bytes),
        whole(bpe.clone(), json!({"type": "NFC"}), split, json!({"type": "ByteLevel"})),
        whole(bpe, replaced, Value::Null, spoken),
        whole(
            json!({"type": "Unigram", "unk_id": 0, "vocab": pieces, "byte_fallback": false}),
            Value::Null,
            metaspace.clone(),
            metaspace,
        ),
        whole(
            json!({"type": "WordPiece", "vocab": vocabulary(), "unk_token": "<unk>", "continuing_subword_prefix": "##",
                   "max_input_chars_per_word": 20}),
            json!({"type": "BertNormalizer", "clean_text": true, "handle_chinese_chars": true, "strip_accents": null,
                "lowercase": true}),
            json!({"type": "BertPreTokenizer"}),
            json!({"type": "WordPiece", "prefix": "##", "cleanup": true}),
        ),
        whole(
            json!({"type": "WordLevel", "vocab": vocabulary(), "unk_token": "<unk>"}),
            Value::Null,
            json!({"type": "Whitespace"}),
            Value::Null,
        ),
    ]
}

/// What the files beside say.
fn beside() -> Vec<(&'static str, Value)> {
    vec![
        (
            "tokenizer_config.json",
            json!({"tokenizer_class": "LlamaTokenizerFast", "bos_token": "<s>", "eos_token": {"content": "</s>",
            "lstrip": false}, "add_bos_token": true, "legacy": false, "model_max_length": 1e30, "added_tokens_decoder":
            {"40":
            {"content": "<x>", "special": true}}}),
        ),
        (
            "special_tokens_map.json",
            json!({"bos_token": "<s>", "additional_special_tokens": ["<a>", {"content": "<b>"}]}),
        ),
        ("added_tokens.json", json!({"<new>": 41, "<newer>": 42})),
        ("generation_config.json", json!({"eos_token_id": [2, 3], "bos_token_id": 1})),
        ("config.json", json!({"vocab_size": 64, "bos_token_id": 1, "eos_token_id": 2, "model_type": "llama"})),
    ]
}

/// `tokenizer.json` and what lies beside it.
pub(super) fn tokenizer(dir: &Path) -> Feed {
    small().write(dir);
    let path = dir.join("text.jsonl");
    std::fs::write(&path, "{\"text\": \"ab w3 ab</s>é\"}\n{\"text\": \"  a\\n\\nb 123\"}\n").unwrap();
    let source = TextSource::open(&path, &SourceOptions::default()).unwrap();
    let (files, good, beside) = (Files::of(dir), good(), beside());
    let long = "ab abc w3 w4\n".repeat(3000);
    Box::new(move |case| {
        let tokenizer = &good[case.rng.random_range(0..good.len())];
        let (name, other) = &beside[case.rng.random_range(0..beside.len())];
        let (tokenizer, other) = match case.rng.random_range(0..3) {
            0 => (tokenizer.to_string().into_bytes(), values::changed(&mut case.rng, other)),
            1 => (values::changed(&mut case.rng, tokenizer), other.to_string().into_bytes()),
            _ => (values::changed(&mut case.rng, tokenizer), values::changed(&mut case.rng, other)),
        };
        files.replace(&[("tokenizer.json", tokenizer), (name, other)]);
        let rules = if case.rng.random() { Rules::File } else { Rules::Transformers5 };
        let Some(tokenizer) = case.heard(Tokenizer::open_as(&files.dir, rules)) else { return };
        case.heard(end_tokens(&files.dir, &tokenizer));
        let long = if case.is_one_in(40) { &long[..] } else { "a" };
        for text in ["", "ab w3 </s> 123\n\n", "\u{0}\u{1b}é😀 \u{301}", " <s>ab<x>", long] {
            let special = [Special::None, Special::Default, Special::Always][case.rng.random_range(0..3)];
            let Some(ids) = case.heard(tokenizer.encode(text, special)) else { continue };
            let skip = case.rng.random();
            case.heard(tokenizer.decode(&ids, skip));
        }
        case.heard(tokenizer.decode(&[0, 1, 7, 9999, u32::MAX], true));
        let mut spoken = Spoken::after(&tokenizer, &[1, 2]);
        for id in [3, 10, 11, 90] {
            case.heard(spoken.push(id));
        }
        case.heard(spoken.finish());
        let shape = Shape { seq_len: 8, ..Shape::default() };
        let options = SequenceOptions { samples: Some(3), shape, seed: None };
        case.heard(Sequences::read(&source, &tokenizer, &options, &Silent));
    })
}
