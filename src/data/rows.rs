//! Rows: any data file as JSON objects, with the place each came from.

use std::borrow::Cow;
use std::fmt;
use std::io::Read;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use serde_json::{Map, Value};

use super::longest::Longest;
use super::unpack::CODECS;
use super::{csv, json, parquet, text};
use crate::{Error, Result, files, interrupt};

/// Where a row stands: `file.jsonl line 17`, `file.parquet row 17`, both counted from 1.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RowPlace {
    /// The file.
    pub path: Arc<Path>,
    /// What is counted: `line`, `row` or `item`.
    pub unit: &'static str,
    /// Counted from 1.
    pub number: u64,
}

impl fmt::Display for RowPlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {}", self.path.display(), self.unit, self.number)
    }
}

/// One row of a data file.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    /// Its fields, in the file's order.
    pub fields: Map<String, Value>,
    /// Where it stands.
    pub place: RowPlace,
}

impl Row {
    /// The value of `field`.
    ///
    /// # Errors
    /// [`Error::Work`] naming the row and the fields it has.
    pub fn get(&self, field: &str) -> Result<&Value> {
        self.fields.get(field).ok_or_else(|| {
            let names: Vec<&str> = self.fields.keys().map(String::as_str).collect();
            Error::work(format!("{}: no field `{field}`, only {}", self.place, listed(&names)))
        })
    }

    /// The string in `field`.
    ///
    /// # Errors
    /// [`Error::Work`] naming the row when the field is missing or no string.
    pub fn text(&self, field: &str) -> Result<&str> {
        let value = self.get(field)?;
        let found = kind(value);
        value.as_str().ok_or_else(|| self.fault(&format!("field `{field}` is {found}, expected a string")))
    }

    /// The integer in `field`.
    ///
    /// # Errors
    /// [`Error::Work`] naming the row when the field is missing or no integer.
    pub fn integer(&self, field: &str) -> Result<i64> {
        let value = self.get(field)?;
        let found = kind(value);
        value.as_i64().ok_or_else(|| self.fault(&format!("field `{field}` is {found}, expected an integer")))
    }

    /// An error at this row.
    pub fn fault(&self, message: &str) -> Error {
        Error::work(format!("{}: {message}", self.place))
    }
}

/// Names that a message lists at most, and letters of each.
const LISTED: (usize, usize) = (12, 60);

/// `a`, `b` and `c`, as an error message lists them.
pub(super) fn listed(names: &[&str]) -> String {
    if names.is_empty() {
        return "an empty row".to_owned();
    }
    let (most, letters) = LISTED;
    let mut shown: Vec<String> =
        names.iter().take(most).map(|name| format!("`{}`", shortened(name, letters))).collect();
    if let Some(more) = names.len().checked_sub(most).filter(|more| *more > 0) {
        shown.push(format!("and {more} more"));
    }
    shown.join(", ")
}

/// The first `letters` of a text of somebody else's, for a message.
pub(super) fn shortened(text: &str, letters: usize) -> Cow<'_, str> {
    match text.char_indices().nth(letters) {
        Some((end, _)) => format!("{}…", &text[..end]).into(),
        None => text.into(),
    }
}

/// What a value is, as an error message says it.
pub(super) fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

/// How a plain text file is cut into documents (`sample_by` of Hugging Face's `datasets`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TextSplit {
    /// The whole file is one document, as perplexity tools read it.
    #[default]
    #[serde(alias = "none")]
    Document,
    /// Every line is a document.
    Lines,
    /// Runs of blank lines stand between documents.
    #[serde(alias = "blank-lines")]
    Paragraphs,
}

/// How files are read; the default suits every format.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ReadOptions {
    /// Read these fields only, which saves the work for the rest. All by default. A row that lacks one simply lacks it.
    pub only: Option<Arc<[String]>>,
    /// Names of the columns of a CSV file without a header line (MMLU's layout). By default the first line names them.
    pub columns: Option<Arc<[String]>>,
    /// How a plain text file is cut.
    pub split: TextSplit,
    /// The fields are texts: of a list in one the first items are kept, which say what it is.
    pub text: bool,
    /// How long a line of text or a field may be.
    pub longest: Longest,
}

impl ReadOptions {
    /// Whether `field` is wanted.
    pub(super) fn wants(&self, field: &str) -> bool {
        self.only.as_ref().is_none_or(|only| only.iter().any(|name| name == field))
    }
}

/// What a format's reader gives. The inner error is of one row: those after it can be read. The outer one is of the
/// file; nothing is asked of the reader after it.
pub(super) type RowIter = Box<dyn Iterator<Item = Result<Result<Row>>> + Send>;

/// A file format: the endings of its files' names, and its reader.
struct Format {
    endings: &'static [&'static str],
    /// Whether its files may be compressed as a whole.
    packs: bool,
    open: fn(&Path, &ReadOptions, Arc<AtomicU64>) -> Result<RowIter>,
}

/// The formats, the better to have the earlier; a new one is a row here and a file beside this one.
const FORMATS: &[Format] = &[
    Format { endings: &["parquet"], packs: false, open: parquet::open },
    Format { endings: &["jsonl", "json", "ndjson"], packs: true, open: json::open },
    Format { endings: &["csv"], packs: true, open: csv::open },
    Format { endings: &["tsv"], packs: true, open: csv::open_tabs },
    Format { endings: &["txt", "text", "raw"], packs: true, open: text::open },
];

/// The format that the name of `path` says, compression aside.
fn format(path: &Path) -> Option<&'static Format> {
    let name = path.file_name()?.to_str()?.to_ascii_lowercase();
    let packed = CODECS.iter().find_map(|codec| name.strip_suffix(codec.ending)?.strip_suffix('.'));
    let (_, ending) = packed.unwrap_or(&name).rsplit_once('.')?;
    FORMATS.iter().find(|format| format.endings.contains(&ending) && (packed.is_none() || format.packs))
}

/// Whether `path` is named like a data file.
pub(super) fn is_data_file(path: &Path) -> bool {
    format(path).is_some()
}

/// The place of a data file's format among all.
pub(super) fn format_rank(path: &Path) -> usize {
    let own = format(path);
    FORMATS.iter().position(|format| own.is_some_and(|own| std::ptr::eq(own, format))).unwrap_or(FORMATS.len())
}

/// Whether `path` is named like a file of the format whose files end in `.ending`, compressed or not.
#[must_use]
pub(crate) fn is_of_format(path: &Path, ending: &str) -> bool {
    format(path).is_some_and(|format| format.endings.contains(&ending))
}

/// What data files' names end in, without the dot, the better to have the earlier: `parquet`, `jsonl`, `jsonl.gz`.
#[must_use]
pub fn endings() -> Vec<String> {
    let plain = FORMATS.iter().flat_map(|format| format.endings).map(|ending| (*ending).to_owned());
    let packs = FORMATS.iter().filter(|format| format.packs).flat_map(|format| format.endings);
    let packed = packs.flat_map(|ending| CODECS.iter().map(move |codec| format!("{ending}.{}", codec.ending)));
    plain.chain(packed).collect()
}

/// The endings of all formats, as an error message lists them.
pub(super) fn known_endings() -> String {
    let endings: Vec<String> = FORMATS.iter().flat_map(|f| f.endings).map(|ending| format!(".{ending}")).collect();
    let codecs: Vec<String> = CODECS.iter().map(|codec| format!(".{}", codec.ending)).collect();
    format!("{} (each also with {}, parquet excepted)", endings.join(", "), codecs.join(", "))
}

/// The rows of one file, in its order. Ends after the first error.
pub struct Rows {
    inner: Option<RowIter>,
    bytes: Arc<AtomicU64>,
    longest: Longest,
}

impl Rows {
    /// Bytes of the file read so far, before decompression: never more than the file's length.
    pub fn bytes_read(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// The next row, or what is wrong with it; those after it can still be read.
    ///
    /// # Errors
    /// Those of the file, after which there is nothing.
    pub(super) fn next_or_fault(&mut self) -> Option<Result<Result<Row>>> {
        let next = match interrupt::check() {
            Ok(()) => self.inner.as_mut()?.next().map(|next| next.map(|row| row.and_then(|row| self.bounded(row)))),
            Err(stopped) => Some(Err(stopped)),
        };
        if !matches!(next, Some(Ok(_))) {
            self.inner = None;
        }
        next
    }

    /// The row, if no text in it is too long.
    fn bounded(&self, row: Row) -> Result<Row> {
        let most = self.longest.bytes();
        let long = row.fields.iter().find(|(_, value)| value.as_str().is_some_and(|text| text.len() > most));
        match long {
            None => Ok(row),
            Some((name, value)) => {
                let length = value.as_str().map_or(0, str::len).div_ceil(1 << 20);
                let name = shortened(name, LISTED.1);
                let fault = format!("field `{name}` has {length} MiB, expected at most {}", self.longest);
                Err(row.fault(&format!("{fault}: make several rows of it")))
            }
        }
    }
}

impl Iterator for Rows {
    type Item = Result<Row>;

    fn next(&mut self) -> Option<Self::Item> {
        let row = self.next_or_fault()?.and_then(|row| row);
        if row.is_err() {
            self.inner = None;
        }
        Some(row)
    }
}

/// The rows of `path`: JSON lines, an array of JSON objects, parquet, CSV or text, by its name; all but parquet may be
/// compressed. Read in a stream, whatever the file's size.
///
/// # Errors
/// [`Error::Request`] for a file that is not there or whose name tells no format; [`Error::Work`] for a broken file.
/// The iterator's errors name file and line.
pub fn rows(path: impl AsRef<Path>) -> Result<Rows> {
    rows_with(path, &ReadOptions::default())
}

/// [`rows`], read as `options` say.
///
/// # Errors
/// As [`rows`].
pub fn rows_with(path: impl AsRef<Path>, options: &ReadOptions) -> Result<Rows> {
    let path = path.as_ref();
    let Some(format) = format(path) else {
        if !path.exists() {
            return Err(Error::request(format!("{}: no such file", path.display())));
        }
        return Err(Error::request(format!(
            "{}: the name tells no known data format, expected {}",
            path.display(),
            known_endings()
        )));
    };
    refuse_pointer(path)?;
    let bytes = Arc::new(AtomicU64::new(0));
    let inner = (format.open)(path, options, Arc::clone(&bytes))?;
    Ok(Rows { inner: Some(inner), bytes, longest: options.longest })
}

/// A clone made without Git LFS has a few lines of text in the place of each large file.
fn refuse_pointer(path: &Path) -> Result<()> {
    const POINTER: &[u8] = b"version https://git-lfs.github.com/spec/";
    let mut head = Vec::new();
    let read = files::open(path)?.0.take(POINTER.len() as u64).read_to_end(&mut head);
    read.map_err(|error| Error::io(path, &error))?;
    if head == POINTER {
        return Err(Error::request(format!(
            "{}: a Git LFS pointer, not the data it stands for; `git lfs pull` in that clone brings them",
            path.display()
        )));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_tells_the_format() {
        for name in [
            "a.jsonl",
            "a.JSON",
            "c4.00000-of-00008.json.gz",
            "a.parquet",
            "x.csv",
            "x.tsv.gz",
            "wiki.test.raw",
            "a.json.bz2",
            "b.jsonl.ZST",
            "c.txt.xz",
        ] {
            assert!(is_data_file(Path::new(name)), "{name}");
        }
        for name in ["a", "README.md", "jsonl", ".gz", "x.arrow", "a.json.zip", "a.parquet.gz", "a.zst"] {
            assert!(!is_data_file(Path::new(name)), "{name}");
        }
    }

    #[test]
    fn unknown_and_missing_files_are_wrong_requests() {
        let missing = rows("no/such/file.jsonl").err().unwrap();
        assert!(matches!(&missing, Error::Request(m) if m.starts_with("no/such/file.jsonl: ")), "{missing}");
        let unknown = rows(concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml")).err().unwrap();
        assert!(matches!(&unknown, Error::Request(m) if m.contains(".parquet")), "{unknown}");
    }

    #[test]
    fn long_names_and_many_of_them_are_cut_in_messages() {
        let names: Vec<String> = (0..100_000).map(|i| format!("{i}{}", "é".repeat(1000))).collect();
        let listed = listed(&names.iter().map(String::as_str).collect::<Vec<_>>());
        assert!(listed.chars().count() < 1000 && listed.ends_with("`, and 99988 more"), "{listed}");
    }

    #[test]
    fn a_row_says_what_it_lacks() {
        let place = RowPlace { path: Path::new("a.jsonl").into(), unit: "line", number: 3 };
        let fields = serde_json::json!({"text": 1, "url": "u"});
        let row = Row { fields: fields.as_object().unwrap().clone(), place };
        assert_eq!(row.text("body").unwrap_err().to_string(), "a.jsonl line 3: no field `body`, only `text`, `url`");
        assert_eq!(
            row.text("text").unwrap_err().to_string(),
            "a.jsonl line 3: field `text` is a number, expected a string"
        );
        assert_eq!((row.integer("text").unwrap(), row.text("url").unwrap()), (1, "u"));
    }
}
