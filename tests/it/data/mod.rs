//! Data: the ids that transformers gives, the rows that pyarrow wrote, real corpora, and files that are none.

mod long_texts;
mod templates;

use std::fs;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use flate2::read::GzDecoder;
use flate2::write::GzEncoder;
use proptest::prelude::*;
use prune::checkpoint::Hub;
use prune::data::{
    Packing, Purpose, ReadOptions, Row, Rules, SequenceOptions, Sequences, Shape, SourceOptions, Special, TextSource,
    TextSplit, Tokenizer, rows, rows_with,
};
use prune::progress::Silent;
use rayon::prelude::*;
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};
use tempfile::{TempDir, tempdir};

use crate::fixture::material::shared;

fn own(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

fn expected() -> Value {
    serde_json::from_slice(&fs::read(own("tests/data/tokens/expected.json")).unwrap()).unwrap()
}

/// SHA-256 of the lengths and ids of sequences, as `tests/interop/test_tokens.py` computes it.
fn digest(sequences: &[Vec<u32>]) -> String {
    let mut hash = Sha256::new();
    for ids in sequences {
        hash.update((ids.len() as u32).to_le_bytes());
        ids.iter().for_each(|id| hash.update(id.to_le_bytes()));
    }
    hex(&hash.finalize())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn texts(path: &Path, field: &str) -> Vec<String> {
    let options = SourceOptions { field: field.to_owned(), ..SourceOptions::default() };
    TextSource::open(path, &options).unwrap().documents().map(|document| document.unwrap().text).collect()
}

/// The demo's tokenizer, unpacked.
fn demo() -> (TempDir, Tokenizer) {
    let directory = tempdir().unwrap();
    let mut json = Vec::new();
    let packed = fs::File::open(own("src/demo/files/model/tokenizer.json.gz")).unwrap();
    GzDecoder::new(packed).read_to_end(&mut json).unwrap();
    fs::write(directory.path().join("tokenizer.json"), json).unwrap();
    for name in ["config.json", "tokenizer_config.json"] {
        fs::copy(own("src/demo/files/model").join(name), directory.path().join(name)).unwrap();
    }
    let tokenizer = Tokenizer::open(directory.path()).unwrap();
    (directory, tokenizer)
}

#[test]
fn ids_are_those_of_transformers() {
    let expected = expected();
    let texts_: Vec<String> = serde_json::from_value(expected["texts"].clone()).unwrap();
    let corpus = texts(&own("src/demo/files/text/validation.jsonl.gz"), "text");
    for (style, by_rules) in expected["styles"].as_object().unwrap() {
        for (name, rules) in [("file", Rules::File), ("auto", Rules::Transformers5)] {
            let stored = &by_rules[name];
            let tokenizer = Tokenizer::open_as(own("tests/data/tokens").join(style), rules).unwrap();
            let id = |key: &str| stored["tokens"][key].as_u64().map(|id| id as u32);
            assert_eq!(
                (tokenizer.bos(), tokenizer.eos(), tokenizer.pad()),
                (id("bos"), id("eos"), id("pad")),
                "{style} {name}"
            );
            assert_eq!(Some(tokenizer.vocab_size() as u64), stored["length"].as_u64(), "{style} {name}");
            for (at, text) in texts_.iter().enumerate() {
                for (key, special) in [("default", Special::Default), ("none", Special::None)] {
                    let ids = tokenizer.encode(text, special).unwrap();
                    let (found, stored) = (digest(std::slice::from_ref(&ids)), &stored[key][at]);
                    assert_eq!(Some(&found[..12]), stored.as_str(), "{style} {name} {key} {text:?}: {ids:?}");
                }
                let decoded = tokenizer.decode(&tokenizer.encode(text, Special::Default).unwrap(), true).unwrap();
                let found = hex(&Sha256::digest(&decoded));
                assert_eq!(Some(&found[..12]), stored["decoded"][at].as_str(), "{style} {name} {text:?}: {decoded:?}");
            }
            let ids = encoded(&tokenizer, &corpus);
            assert_eq!(Some(&*digest(&ids)), stored["corpus"].as_str(), "{style} {name}");
        }
    }
}

#[test]
fn the_demos_ids_are_those_of_transformers() {
    let (expected, (_directory, tokenizer)) = (expected(), demo());
    for case in expected["demo"]["ids"].as_array().unwrap() {
        let ids: Vec<u32> = serde_json::from_value(case["ids"].clone()).unwrap();
        assert_eq!(
            tokenizer.encode(case["text"].as_str().unwrap(), Special::Default).unwrap(),
            ids,
            "{}",
            case["text"]
        );
    }
    let train = own("src/demo/files/text/train.jsonl.gz");
    let ids = encoded(&tokenizer, &texts(&train, "text"));
    assert_eq!((ids.len(), Some(&*digest(&ids))), (4000, expected["demo"]["train"].as_str()));

    let source = TextSource::open(&train, &SourceOptions::default()).unwrap();
    let shape = Shape { seq_len: 100, packing: Packing::RunClm, ..Shape::default() };
    let packed =
        Sequences::read(&source, &tokenizer, &SequenceOptions { shape, ..Default::default() }, &Silent).unwrap();
    let stored = &expected["demo"]["run_clm"];
    assert_eq!(Some(packed.rows.len() as u64), stored["rows"].as_u64());
    assert_eq!(Some(&*digest(&packed.rows)), stored["sha256"].as_str(), "packed as run_clm.py packs");
}

#[test]
fn ids_of_thousands_of_real_texts_are_those_of_transformers() {
    for case in expected()["wide"].as_array().unwrap() {
        let text = |key: &str| case[key].as_str().unwrap();
        let (Some(directory), Some(corpus)) = (shared(text("directory")), shared(text("corpus"))) else { return };
        let texts = texts(&corpus, text("field"));
        assert_eq!(Some(texts.len() as u64), case["texts"].as_u64());
        for (name, rules) in [("file", Rules::File), ("auto", Rules::Transformers5)] {
            let tokenizer = Tokenizer::open_as(&directory, rules).unwrap();
            let ids = encoded(&tokenizer, &texts);
            assert_eq!(digest(&ids), text(name), "{} {} {name}", text("directory"), text("corpus"));
        }
    }
}

fn encoded(tokenizer: &Tokenizer, texts: &[String]) -> Vec<Vec<u32>> {
    texts.par_iter().map(|text| tokenizer.encode(text, Special::Default).unwrap()).collect()
}

fn fields(path: &Path) -> Vec<Map<String, Value>> {
    rows(path).unwrap().map(|row| row.unwrap().fields).collect()
}

#[test]
fn parquet_of_pyarrow_is_read_value_for_value() {
    let expected = fields(&own("tests/data/rows/rows.jsonl"));
    for name in ["snappy", "zstd-v2", "gzip-delta", "brotli"] {
        let found = fields(&own("tests/data/rows").join(format!("{name}.parquet")));
        assert_eq!(found.len(), expected.len());
        for (row, (found, expected)) in found.iter().zip(&expected).enumerate() {
            for (field, value) in expected {
                assert_eq!(&found[field], value, "{name}.parquet row {row} field {field}");
            }
            assert_eq!(found.keys().collect::<Vec<_>>(), expected.keys().collect::<Vec<_>>());
        }
    }
}

#[test]
fn parquet_of_the_hub_holds_what_the_json_lines_hold() {
    let Some(data) = shared("golden/eval/data") else { return };
    for subject in ["abstract_algebra", "high_school_statistics", "us_foreign_policy"] {
        for split in ["dev", "test"] {
            let parquet = data.join(format!("mmlu_parquet/{subject}/{split}-00000-of-00001.parquet"));
            assert_eq!(fields(&parquet), fields(&data.join(format!("mmlu/{subject}/{split}.jsonl"))));
        }
    }
    for split in ["train", "validation"] {
        let parquet = fields(&data.join(format!("boolq_parquet/{split}-00000-of-00001.parquet")));
        assert_eq!(parquet, fields(&data.join(format!("boolq/{split}.jsonl"))));
    }
}

#[test]
fn mmlus_files_without_a_header() {
    let Some(mmlu) = shared("data/mmlu/test") else { return };
    let names = ["question", "A", "B", "C", "D", "answer"].map(str::to_owned);
    let options = ReadOptions { columns: Some(names.into()), ..ReadOptions::default() };
    let mut questions = 0;
    for entry in fs::read_dir(mmlu).unwrap() {
        for row in rows_with(entry.unwrap().path(), &options).unwrap() {
            let row = row.unwrap();
            assert!(["A", "B", "C", "D"].contains(&row.text("answer").unwrap()), "{}", row.place);
            questions += 1;
        }
    }
    assert_eq!(questions, 14_042);
}

#[test]
fn c4_reads_alike_in_every_format() {
    let Some(c4) = shared("data/c4/c4_en_train_head1000.jsonl") else { return };
    let lines = fs::read_to_string(&c4).unwrap();
    let expected = texts(&c4, "text");
    assert_eq!((expected.len(), expected.iter().map(String::len).sum::<usize>()), (1000, 2_200_107));
    assert!(expected[0].starts_with("Beginners BBQ Class Taking Place in Missoula!"));
    let directory = tempdir().unwrap();
    let at = |name: &str| directory.path().join(name);
    let mut gzip = GzEncoder::new(fs::File::create(at("c4.json.gz")).unwrap(), flate2::Compression::fast());
    gzip.write_all(lines.as_bytes()).unwrap();
    gzip.finish().unwrap();
    fs::write(at("c4.json"), format!("[{}]", lines.trim().replace('\n', ",\n"))).unwrap();
    fs::write(at("crlf.jsonl"), lines.replace('\n', "\r\n")).unwrap();
    for name in ["c4.json.gz", "c4.json", "crlf.jsonl"] {
        assert!(texts(&at(name), "text") == expected, "{name}");
    }
}

#[test]
fn plain_text_is_one_document_unless_it_is_cut() {
    let Some(wiki) = shared("data/wikitext2/wiki.test.raw") else { return };
    let read = |split: TextSplit| {
        let source = TextSource::open(&wiki, &SourceOptions { split, ..SourceOptions::default() }).unwrap();
        source.documents().map(|document| document.unwrap().text).collect::<Vec<_>>()
    };
    let whole = fs::read_to_string(&wiki).unwrap();
    assert_eq!(read(TextSplit::Document), [whole.as_str()]);
    let lines = read(TextSplit::Lines);
    assert_eq!((lines.len(), lines.join("\n") + "\n" == whole), (4358, true));
    let blank = whole.lines().filter(|line| line.trim().is_empty()).count();
    let paragraphs = read(TextSplit::Paragraphs);
    assert!(paragraphs.len() > 100 && paragraphs.len() <= blank + 1);
    assert!(paragraphs.iter().all(|text| !text.contains("\n \n") && !text.contains("\n\n")));
}

#[test]
fn samples_of_c4_for_a_measurement() {
    let Some(c4) = shared("data/c4/c4_en_train_head1000.jsonl") else { return };
    let (_directory, tokenizer) = demo();
    let source = TextSource::open(&c4, &SourceOptions::default()).unwrap();
    let read = |packing, seed| {
        let shape = Shape { seq_len: 256, packing, ..Shape::default() };
        Sequences::read(&source, &tokenizer, &SequenceOptions { samples: Some(100), shape, seed }, &Silent).unwrap()
    };
    let first = read(Packing::Document, None);
    assert_eq!((first.rows.len(), first.tally.documents, first.tally.longest), (100, 100, 256));
    assert!(first.rows.iter().all(|row| row[0] == 0), "BOS first");
    let packed = read(Packing::Packed, None);
    assert!(packed.rows.iter().all(|row| row.len() == 256));
    assert!(packed.tally.documents < 100, "a document of C4 has more than 256 tokens in the mean");
    for packing in [Packing::Document, Packing::Packed] {
        let sample = read(packing, Some(1));
        assert_eq!((sample.rows.len(), sample.tally.documents), (100, 1000));
        assert_eq!(sample, read(packing, Some(1)));
        assert_ne!(sample.rows, read(packing, Some(2)).rows);
    }
}

#[test]
fn a_hub_data_set_file_comes_out_of_the_shared_cache() {
    let (home, commit) = (tempdir().unwrap(), "0123456789abcdef0123456789abcdef01234567");
    let repo = home.path().join("hub/datasets--allenai--c4");
    let snapshot = repo.join("snapshots").join(commit).join("en");
    fs::create_dir_all(repo.join("refs")).unwrap();
    fs::create_dir_all(&snapshot).unwrap();
    fs::write(repo.join("refs/main"), commit).unwrap();
    let mut gzip = GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(b"{\"text\":\"kept\",\"timestamp\":\"\",\"url\":\"\"}\n").unwrap();
    fs::write(snapshot.join("c4-validation.00000-of-00008.json.gz"), gzip.finish().unwrap()).unwrap();
    let variables = |name: &str| match name {
        "HF_HOME" => Some(home.path().display().to_string()),
        "HF_HUB_OFFLINE" => Some("1".to_owned()),
        _ => None,
    };
    let hub = Hub::from_vars(variables).unwrap();
    let find = |spec: &str, purpose| {
        TextSource::find(spec, purpose, &SourceOptions::default(), &|id| hub.dataset_file(id, &Silent))
    };
    let names = ["allenai/c4", "hf://datasets/allenai/c4/en/c4-validation.00000-of-00008.json.gz"];
    for name in names {
        let source = find(name, Purpose::Measure).unwrap();
        assert_eq!((source.name(), source.revision()), (name, Some(commit)));
        let texts: Vec<String> = source.documents().map(|document| document.unwrap().text).collect();
        assert_eq!(texts, ["kept"]);
    }
    let missing = find("allenai/c4", Purpose::Train).unwrap_err().to_string();
    assert!(missing.contains("c4-train.00000-of-01024.json.gz is not in the cache"), "{missing}");
}

/// Everything that a file's reader gives; the error if there is one.
fn drain(name: &str, bytes: &[u8]) -> Result<Vec<Row>, String> {
    let directory = tempdir().unwrap();
    let path = directory.path().join(name);
    fs::write(&path, bytes).unwrap();
    let mut found = Vec::new();
    for split in [TextSplit::Document, TextSplit::Paragraphs, TextSplit::Lines] {
        let options = ReadOptions { split, ..ReadOptions::default() };
        let read = rows_with(&path, &options).and_then(Iterator::collect::<prune::Result<Vec<Row>>>);
        found = read.map_err(|error| error.to_string())?;
    }
    Ok(found)
}

const NAMES: [&str; 9] =
    ["a.jsonl", "a.json", "a.json.gz", "a.csv", "a.tsv", "a.txt", "a.txt.gz", "a.parquet", "a.jsonl.gz"];

/// A valid file of each format.
fn valid(name: &str) -> Vec<u8> {
    let json = b"{\"text\": \"a\\u00e9\\ud83d\\ude00\", \"n\": [1, {\"x\": null}]}\n{\"text\": \"b\"}\n".to_vec();
    let plain = match name.trim_end_matches(".gz") {
        "a.jsonl" => json,
        "a.json" => b"[{\"text\": \"a\", \"b\": \"]\"}, {\"text\": \"b\"}]\n".to_vec(),
        "a.csv" => b"text,b\n\"a\nb\",c\nd,e\n".to_vec(),
        "a.tsv" => b"text\tb\na\tb\n".to_vec(),
        "a.parquet" => fs::read(own("tests/data/rows/snappy.parquet")).unwrap(),
        _ => "a\n\nb\u{e9}\r\n".as_bytes().to_vec(),
    };
    if !name.ends_with(".gz") {
        return plain;
    }
    let mut gzip = GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(&plain).unwrap();
    gzip.finish().unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn random_bytes_are_rows_or_one_line_that_names_the_file(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        for name in NAMES {
            if let Err(message) = drain(name, &bytes) {
                prop_assert!(message.contains(name) && message.lines().count() == 1, "{message}");
            }
        }
    }

    #[test]
    fn spoilt_files_are_rows_or_one_line_that_names_the_file(
        name in prop::sample::select(&NAMES[..]),
        edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        end in prop::option::of(any::<prop::sample::Index>()),
    ) {
        let mut bytes = valid(name);
        prop_assert!(drain(name, &bytes).is_ok());
        for (at, byte) in edits {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        if let Some(end) = end {
            bytes.truncate(end.index(bytes.len()));
        }
        if let Err(message) = drain(name, &bytes) {
            prop_assert!(message.contains(name) && message.lines().count() == 1, "{message}");
        }
    }

    #[test]
    fn spoilt_tokenizers_are_refused_or_work(
        style in prop::sample::select(&["llama2", "llama3", "qwen2", "odd"][..]),
        edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
        text in ".{0,40}",
    ) {
        let directory = tempdir().unwrap();
        for entry in fs::read_dir(own("tests/data/tokens").join(style)).unwrap() {
            let entry = entry.unwrap();
            fs::copy(entry.path(), directory.path().join(entry.file_name())).unwrap();
        }
        let path = directory.path().join("tokenizer.json");
        let mut bytes = fs::read(&path).unwrap();
        for (at, byte) in edits {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        fs::write(&path, bytes).unwrap();
        for rules in [Rules::File, Rules::Transformers5] {
            let outcome = Tokenizer::open_as(directory.path(), rules)
                .and_then(|t| t.decode(&t.encode(&text, Special::Default)?, true));
            if let Err(error) = outcome {
                let message = error.to_string();
                prop_assert!(message.contains("tokenizer.json") && message.lines().count() == 1, "{message}");
            }
        }
    }
}
