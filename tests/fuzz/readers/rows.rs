//! Data files of text: JSON lines, JSON, CSV and its kin, plain text, folders of them.

use std::fs;
use std::path::Path;

use prune::data::{BadRow, Purpose, ReadOptions, SourceOptions, TextSource, TextSplit, rows_with};
use rand::Rng as _;

use super::super::case::Case;
use super::super::{bytes, json as values};
use super::Feed;

/// Reads `path` in one of the ways there are.
pub(super) fn read(case: &mut Case<'_>, path: &Path) {
    let split = [TextSplit::Document, TextSplit::Lines, TextSplit::Paragraphs][case.rng.random_range(0..3)];
    if case.rng.random() {
        let names = |names: &[&str]| Some(names.iter().map(|name| (*name).to_owned()).collect());
        let only = if case.rng.random() { names(&["text", "question"]) } else { None };
        let columns = if case.is_one_in(4) { names(&["question", "A", "B", "answer"]) } else { None };
        let options = ReadOptions { only, columns, split, text: case.rng.random(), ..ReadOptions::default() };
        let Some(rows) = case.heard(rows_with(path, &options)) else { return };
        for row in rows {
            let Some(row) = case.heard(row) else { return };
            case.heard(row.text("text"));
            case.heard(row.integer("answer"));
        }
    } else {
        let field = case.pick(&["text", "text", "question", "text+question", "missing", ""]).to_owned();
        let on_bad_row = if case.rng.random() { BadRow::Skip } else { BadRow::Error };
        let options = SourceOptions { field, split, on_bad_row, ..SourceOptions::default() };
        let Some(source) = case.heard(TextSource::open(path, &options)) else { return };
        case.heard(source.check());
        let mut documents = source.documents();
        for document in documents.by_ref() {
            case.heard(document);
        }
        documents.passed_over().notes().iter().for_each(|note| case.message(&prune::shown::shown_message(note)));
        if documents.bytes_read() > source.bytes() {
            case.fault("more was read than there is");
        }
    }
}

/// Feeds `good`, its bytes changed with these words among them, by the name `name`.
fn fed(dir: &Path, name: &str, good: &'static str, words: &'static [&'static str]) -> Feed {
    let path = dir.join(name);
    Box::new(move |case| {
        let mut text = good.as_bytes().to_vec();
        bytes::change(&mut case.rng, &mut text, words);
        fs::write(&path, text).unwrap();
        read(case, &path);
    })
}

const LINES: &str = "{\"text\":\"one two\",\"answer\":3,\
    \"deep\":{\"a\":[1,2,{\"b\":null}],\"c\":\"\\u00e9\\ud83d\\ude00\"}}\n\
    {\"question\":\"q\",\"text\":\"three\",\"answer\":-1e3,\"x\":NaN}\r\n\n  {\"text\":null}\n\
    {\"text\":\"\",\"y\":[Infinity,-Infinity]}\n\
    {\"messages\":[{\"role\":\"user\",\"content\":\"hi\"}],\"text\":\"end\"}";

/// JSON lines.
pub(super) fn jsonl(dir: &Path) -> Feed {
    fed(dir, "a.jsonl", LINES, &["{\"text\":", "\"text\":\"", "}\n{", "\\ud83d", "\n\n\n", "]}", "\"answer\":"])
}

/// One JSON array, or one object.
pub(super) fn json(dir: &Path) -> Feed {
    let path = dir.join("a.json");
    let good = serde_json::json!([{"text": "one", "answer": 1}, {"text": "two", "question": "q", "deep": [[{"a": []}]]},
        {"text": null}]);
    Box::new(move |case| {
        let mut text = values::changed(&mut case.rng, &good);
        if case.rng.random() {
            bytes::change(&mut case.rng, &mut text, &["[", "]", "},{", ",,", "]\n[", "{\"text\":"]);
        }
        fs::write(&path, text).unwrap();
        read(case, &path);
    })
}

const CSV: &str = "text,question,answer\n\"one, \"\"two\"\"\",q,1\n\"line\nfeed\",,2\r\nplain,\"\",x\n\n é,q,-3";

/// CSV, and the same between tabs.
pub(super) fn csv(dir: &Path) -> Feed {
    let words = &["\"", "\"\"", ",", "\t", "\"\n", ",\"", "text,", "\n,\n", "\r"];
    let (commas, tabs) =
        (fed(dir, "a.csv", CSV, words), fed(dir, "a.tsv", "text\tanswer\na b\t1\n\"c\td\"\t2\n", words));
    Box::new(move |case| if case.rng.random_ratio(3, 4) { commas(case) } else { tabs(case) })
}

/// Plain text.
pub(super) fn text(dir: &Path) -> Feed {
    fed(dir, "a.txt", "a line\n\n\na paragraph\nof two\r\n\r\né\u{2028}end", &["\n\n", "\r", "\u{85}", "\u{2029}"])
}

/// Names of files in a folder of data.
pub(super) fn folder(_: &Path) -> Feed {
    Box::new(|case| {
        let dir = case.fresh();
        for _ in 0..case.rng.random_range(1..6) {
            let good = ["train.jsonl", "test.csv", "data/train-00000-of-00001.json", "validation.txt", "README.md"];
            let mut name = case.pick(&good).as_bytes().to_vec();
            bytes::change(
                &mut case.rng,
                &mut name,
                &["train", "test", "/", ".jsonl", ".gz", "\n", "\u{1b}[2J", "\u{202e}"],
            );
            let name = String::from_utf8_lossy(&name).replace('\0', "").replace("..", "");
            let path = dir.join(name.trim_start_matches('/').chars().take(100).collect::<String>());
            // a name may be impossible, or that of a folder
            if path.starts_with(&dir) && path.parent().is_some_and(|parent| fs::create_dir_all(parent).is_ok()) {
                drop(fs::write(&path, "{\"text\": \"a\"}\n"));
            }
        }
        let purpose = if case.rng.random() { Purpose::Train } else { Purpose::Measure };
        let spec = dir.display().to_string();
        let fetch = |_: &str| Err(prune::Error::work("the hub is not asked"));
        let source = case.heard(TextSource::find(&spec, purpose, &SourceOptions::default(), &fetch));
        if let Some(source) = source {
            source.note().into_iter().for_each(|note| case.message(&prune::shown::shown_message(note)));
            source.documents().for_each(|document| drop(case.heard(document)));
        }
    })
}
