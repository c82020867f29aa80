//! The documents of a source, one after the other, and the rows that give none.

use std::collections::BTreeSet;
use std::path::Path;

use serde_json::{Map, Value};

use super::looks::advice;
use super::rows::{self, ReadOptions, Row, RowPlace, Rows, kind, listed};
use super::source::{BadRow, Document, TextSource};
use crate::{Error, Result};

/// Rows of a file that are looked through for a field before it is said to have none.
const LOOKED_AT: usize = 4000;

/// Rows that gave no document, or an empty one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PassedOver {
    /// Bad rows, passed over because [`BadRow::Skip`] says so.
    pub skipped: u64,
    /// What was wrong with the first of them, and where.
    pub first_skipped: Option<String>,
    /// Rows without the field, which stand for empty documents as null does.
    pub lacking: u64,
    /// Where the first of them stands.
    pub first_lacking: Option<RowPlace>,
}

impl PassedOver {
    /// A sentence for each kind that there was.
    #[must_use]
    pub fn notes(&self) -> Vec<String> {
        let rows = |count: u64| if count == 1 { "1 row".to_owned() } else { format!("{count} rows") };
        let skipped = self
            .first_skipped
            .as_ref()
            .map(|first| format!("{} passed over as --on-bad-row skip says; the first: {first}", rows(self.skipped)));
        let lacking = self.first_lacking.as_ref().map(|first| {
            format!("{} without the text field passed over like empty ones; the first: {first}", rows(self.lacking))
        });
        skipped.into_iter().chain(lacking).collect()
    }
}

/// The documents of a [`TextSource`]. Ends after the first error.
pub struct Documents {
    source: TextSource,
    file: usize,
    rows: Option<Rows>,
    bytes_before: u64,
    ended: bool,
    /// Fields that the file being read is known to have.
    known: BTreeSet<String>,
    passed_over: PassedOver,
}

impl Documents {
    /// From the first of `source`.
    pub(super) fn new(source: TextSource) -> Self {
        Self {
            source,
            file: 0,
            rows: None,
            bytes_before: 0,
            ended: false,
            known: BTreeSet::new(),
            passed_over: PassedOver::default(),
        }
    }

    /// Bytes of the files read so far, never more than [`TextSource::bytes`].
    pub fn bytes_read(&self) -> u64 {
        let now = self.rows.as_ref().map_or(0, Rows::bytes_read);
        (self.bytes_before + now).min(self.source.bytes())
    }

    /// What gave no document so far.
    #[must_use]
    pub fn passed_over(&self) -> &PassedOver {
        &self.passed_over
    }

    /// The next document, with an error left to the caller to end on.
    fn advance(&mut self) -> Result<Option<Document>> {
        let source = self.source.clone();
        loop {
            let Some(path) = source.files().get(self.file) else { return Ok(None) };
            let rows = match &mut self.rows {
                Some(rows) => rows,
                None => self.rows.insert(rows::rows_with(path, &source.read)?),
            };
            let Some(row) = rows.next_or_fault() else {
                self.bytes_before += std::fs::metadata(path).map_or(0, |metadata| metadata.len());
                self.rows = None;
                self.known.clear();
                self.file += 1;
                continue;
            };
            let document = match row? {
                Ok(row) => self.document(&source, path, row)?,
                Err(fault) => Err(fault),
            };
            match document {
                Ok(document) => return Ok(Some(document)),
                Err(fault) if source.on_bad_row == BadRow::Skip => {
                    self.passed_over.skipped += 1;
                    self.passed_over.first_skipped.get_or_insert_with(|| fault.to_string());
                }
                Err(fault) => {
                    let hint = "--on-bad-row skip passes over such rows";
                    return Err(fault.reworded(|message| format!("{message}; {hint}")));
                }
            }
        }
    }

    /// The text of a row, or what is wrong with the row.
    ///
    /// # Errors
    /// What is wrong with the file.
    fn document(&mut self, source: &TextSource, path: &Path, mut row: Row) -> Result<Result<Document>> {
        if let Some(chat) = source.chat() {
            let told = chat.tell(&mut row);
            return Ok(told.map(|(text, told)| Document { text, place: row.place, told: Some(told) }));
        }
        let (mut text, mut lacks) = (String::new(), false);
        for field in source.fields(&row.fields) {
            match row.fields.get_mut(field).map(Value::take) {
                Some(Value::String(own)) => {
                    if text.is_empty() {
                        text = own;
                    } else {
                        text.push_str(&own);
                    }
                }
                Some(Value::Null) => {}
                Some(other) => {
                    let fields = Map::from_iter([(field.to_owned(), other)]);
                    let fault = format!(
                        "field `{field}` is {}, expected a string",
                        fields.values().next().map_or("nothing", kind)
                    );
                    // rows of another kind: not one of them is a text
                    if let Some(advice) = advice(&fields) {
                        return Err(Error::request(format!("{}: {fault}: {advice}", row.place)));
                    }
                    return Ok(Err(row.fault(&fault)));
                }
                None if self.has_field(path, field) => {
                    lacks = true;
                    continue;
                }
                None => return Err(self.missing(path, &row.place, field)),
            }
            if !self.known.contains(field) {
                self.known.insert(field.to_owned());
            }
        }
        if lacks && text.is_empty() {
            self.passed_over.lacking += 1;
            self.passed_over.first_lacking.get_or_insert_with(|| row.place.clone());
        }
        let most = source.read.longest;
        if text.len() > most.bytes() {
            let length = text.len().div_ceil(1 << 20);
            let message = format!("{}: a document of {length} MiB, expected at most {most}", row.place);
            return Ok(Err(Error::request(format!("{message}: make several rows of it"))));
        }
        Ok(Ok(Document { text, place: row.place, told: None }))
    }

    /// Whether any of the file's first rows has `field`: a row without it is then one that says nothing, not a sign
    /// that the text has another name.
    fn has_field(&mut self, path: &Path, field: &str) -> bool {
        if self.known.contains(field) {
            return true;
        }
        let Ok(mut rows) = rows::rows_with(path, &self.source.read) else { return false };
        let mut first = std::iter::from_fn(|| rows.next_or_fault()).take(LOOKED_AT).map_while(Result::ok);
        let found = first.any(|row| row.is_ok_and(|row| row.fields.contains_key(field)));
        if found {
            self.known.insert(field.to_owned());
        }
        found
    }

    /// The error for a file without the text field. Only that field was read, so the row is read once more.
    fn missing(&self, path: &Path, place: &RowPlace, field: &str) -> Error {
        let whole = ReadOptions { only: None, text: false, ..self.source.read.clone() };
        let row = rows::rows_with(path, &whole)
            .ok()
            .and_then(|mut rows| rows.find_map(|row| row.ok().filter(|row| row.place.number == place.number)));
        let names: Vec<&str> = row.iter().flat_map(|row| row.fields.keys().map(String::as_str)).collect();
        let advice = row.as_ref().and_then(|row| advice(&row.fields));
        let advice =
            advice.map_or_else(|| "; name the text's with --text-field".to_owned(), |advice| format!(": {advice}"));
        let only = if row.is_some() { format!(", only {}", listed(&names)) } else { String::new() };
        Error::request(format!("{place}: no field `{field}`{only}{advice}"))
    }
}

impl Iterator for Documents {
    type Item = Result<Document>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.ended {
            return None;
        }
        let next = self.advance().transpose();
        self.ended = !matches!(next, Some(Ok(_)));
        next
    }
}

#[cfg(test)]
mod tests {
    use super::super::rows::TextSplit;
    use super::super::source::SourceOptions;
    use super::*;

    /// Texts of a file of these bytes, what was passed over, and the error that ended it.
    fn read(name: &str, bytes: &[u8], options: &SourceOptions) -> (Vec<String>, PassedOver, String) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        let mut documents = match TextSource::open(&path, options) {
            Ok(source) => source.documents(),
            Err(error) => return (Vec::new(), PassedOver::default(), error.to_string()),
        };
        let (mut texts, mut error) = (Vec::new(), String::new());
        for document in documents.by_ref() {
            match document {
                Ok(document) => texts.push(document.text),
                Err(fault) => error = fault.to_string(),
            }
        }
        (texts, documents.passed_over().clone(), error)
    }

    fn field(name: &str) -> SourceOptions {
        SourceOptions { field: name.to_owned(), ..SourceOptions::default() }
    }

    fn skip() -> SourceOptions {
        SourceOptions { on_bad_row: BadRow::Skip, ..SourceOptions::default() }
    }

    const BAD: &[u8] = b"{\"text\":\"a\"}\n{\"text\":3}\n{\"text\" 4}\n{\"text\":\"\xff\"}\n{\"text\":\"b\"}\n[1]\n{\"text\":[]}\n{\"text\":\"c\"}\n";

    #[test]
    fn a_bad_row_is_an_error_or_passed_over_and_counted() {
        let (texts, passed_over, error) = read("x.jsonl", BAD, &SourceOptions::default());
        assert_eq!((texts.len(), passed_over), (1, PassedOver::default()));
        assert!(error.contains("x.jsonl line 2: field `text` is a number, expected a string; --on-bad-row"), "{error}");
        let (texts, passed_over, error) = read("x.jsonl", BAD, &skip());
        assert_eq!((texts.join(""), passed_over.skipped, error.as_str()), ("abc".to_owned(), 5, ""));
        let note = passed_over.notes().join("\n");
        assert!(note.starts_with("5 rows passed over") && note.contains("x.jsonl line 2: field"), "{note}");
        let csv = read("x.csv", b"text,n\na,1\nb\n\xff,1\nc,2\n", &skip());
        assert_eq!((csv.0.join(""), csv.1.skipped, csv.2.as_str()), ("ac".to_owned(), 2, ""));
        let array = read("x.json", b"[{\"text\":\"a\"},{\"text\":NULL},3,{\"text\":\"b\"}]", &skip());
        assert_eq!((array.0.join(""), array.1.skipped, array.2.as_str()), ("ab".to_owned(), 2, ""));
        let lines = SourceOptions { split: TextSplit::Lines, ..skip() };
        assert_eq!(read("x.txt", b"a\n\xff\nb\n", &lines).0, ["a", "b"]);
    }

    #[test]
    fn a_broken_file_is_no_bad_row() {
        let whole = zstd::stream::encode_all(BAD, 3).unwrap();
        let (_, _, error) = read("x.jsonl.zst", &whole[..whole.len() - 4], &skip());
        assert!(error.contains("ends early") && !error.contains("--on-bad-row"), "{error}");
        let (texts, _, error) = read("x.json", b"[{\"text\":\"a\"},{\"text\"", &skip());
        assert!(texts == ["a"] && error.contains("not closed"), "{error}");
    }

    #[test]
    fn rows_without_the_field_say_nothing_where_others_have_it() {
        let rows = b"{\"title\":\"t\"}\n{\"text\":\"a\"}\n{\"text\":null}\n{}\n";
        let (texts, passed_over, error) = read("x.jsonl", rows, &SourceOptions::default());
        assert_eq!((texts, error.as_str()), (vec![String::new(), "a".to_owned(), String::new(), String::new()], ""));
        assert_eq!(passed_over.lacking, 2);
        assert!(passed_over.notes()[0].contains("2 rows without") && passed_over.notes()[0].ends_with("line 1"));
        for options in [field("name"), SourceOptions { on_bad_row: BadRow::Skip, ..field("name") }] {
            let (_, _, error) = read("x.jsonl", rows, &options);
            assert!(
                error.ends_with("x.jsonl line 1: no field `name`, only `title`; name the text's with --text-field"),
                "{error}"
            );
        }
        assert!(read("x.jsonl", b"{}\n", &field("text")).2.contains("only an empty row"));
    }

    #[test]
    fn fields_are_joined_and_rows_of_other_kinds_told() {
        let rows =
            b"{\"prompt\":\"a \",\"completion\":\"b\"}\n{\"prompt\":\"c\",\"completion\":null}\n{\"prompt\":\"d\"}\n";
        let (texts, passed_over, error) = read("x.jsonl", rows, &field("prompt+completion"));
        assert_eq!(
            (texts, passed_over.lacking, error.as_str()),
            (vec!["a b".to_owned(), "c".to_owned(), "d".to_owned()], 0, "")
        );
        assert!(read("x.jsonl", rows, &field("text")).2.contains("--text-field prompt+completion"));
        assert_eq!(read("x.jsonl", b"{\"a+b\":\"x\",\"a\":\"y\"}", &field("a+b")).0, ["x"]);
        let messages = b"{\"messages\":[{\"role\":\"user\",\"content\":\"hi\"}]}";
        for name in ["text", "messages"] {
            let error = read("x.jsonl", messages, &field(name)).2;
            assert!(error.contains("line 1: ") && error.contains("only `prune heal` reads those"), "{error}");
        }
    }

    #[test]
    fn a_text_too_long_for_one_document_says_how_to_cut_it() {
        let lines = "line\n".repeat((16 << 20) / 5 + 1);
        let (_, _, error) = read("a.txt", lines.as_bytes(), &skip());
        assert!(
            error.contains("a.txt: the text is longer than 16 MiB") && error.contains("--text-split lines"),
            "{error}"
        );
        let split = SourceOptions { split: TextSplit::Lines, ..SourceOptions::default() };
        assert_eq!(read("a.txt", lines.as_bytes(), &split).0[0], "line");
        let row = serde_json::json!({ "text": lines }).to_string();
        let (_, _, error) = read("a.jsonl", row.as_bytes(), &SourceOptions::default());
        assert!(
            error.contains("make several rows of it; --on-bad-row skip") && !error.contains("--text-split"),
            "{error}"
        );
        assert_eq!(read("a.jsonl", (row + "\n{\"text\":\"x\"}").as_bytes(), &skip()).0, ["x"]);
    }
}
