//! CSV and TSV: every field a string, names from the first line or from the caller.

use std::collections::HashSet;
use std::fmt::Display;
use std::io::Read;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use csv::{ReaderBuilder, StringRecord};
use serde_json::{Map, Value};

use super::input::Input;
use super::rows::{ReadOptions, Row, RowIter, RowPlace, shortened};
use super::value::MOST;
use crate::{Error, Result, interrupt};

/// Fields that one row has at most. Each takes a dozen bytes of memory, and may take one of the file.
const FIELDS: usize = 1_000_000;

/// Opens a file with commas.
pub(super) fn open(path: &Path, options: &ReadOptions, bytes: Arc<AtomicU64>) -> Result<RowIter> {
    open_with(path, options, bytes, b',')
}

/// Opens a file with tabs.
pub(super) fn open_tabs(path: &Path, options: &ReadOptions, bytes: Arc<AtomicU64>) -> Result<RowIter> {
    open_with(path, options, bytes, b'\t')
}

fn open_with(path: &Path, options: &ReadOptions, bytes: Arc<AtomicU64>, delimiter: u8) -> Result<RowIter> {
    let input = Input::open(path, bytes)?;
    let path = Arc::clone(&input.path);
    // the number of fields is checked here, where the names are known
    let left = Arc::new(Left::default());
    let most = 2 * options.longest.bytes();
    let bytes = Bytes { input, delimiter, most, left: Arc::clone(&left) };
    let mut reader = ReaderBuilder::new().has_headers(false).flexible(true).delimiter(delimiter).from_reader(bytes);
    left.refill(most);
    let names: Vec<String> = if let Some(columns) = &options.columns {
        columns.to_vec()
    } else {
        let mut header = StringRecord::new();
        reader.read_record(&mut header).map_err(|e| fault(&path.display(), e))?;
        header.iter().map(str::to_owned).collect()
    };
    let mut known = HashSet::with_capacity(names.len());
    if let Some(twice) = names.iter().find(|name| !known.insert(name.as_str())) {
        return Err(Error::work(format!("{}: two columns are called `{}`", path.display(), shortened(twice, 60))));
    }
    let (options, mut record, mut number) = (options.clone(), StringRecord::new(), 0);
    Ok(Box::new(std::iter::from_fn(move || {
        number += 1;
        left.refill(most);
        // the crate's own line numbers are one short after CR LF
        let place = RowPlace { path: Arc::clone(&path), unit: "row", number };
        match reader.read_record(&mut record) {
            Ok(true) => Some(Ok(row(&record, &names, &options, place))),
            Ok(false) => None,
            Err(error) if matches!(error.kind(), csv::ErrorKind::Utf8 { .. }) => Some(Ok(Err(fault(&place, error)))),
            Err(error) => Some(Err(fault(&place, error))),
        }
    })))
}

fn row(record: &StringRecord, names: &[String], options: &ReadOptions, place: RowPlace) -> Result<Row> {
    if record.len() != names.len() {
        return Err(Error::work(format!("{place}: {} columns, expected {}", record.len(), names.len())));
    }
    if options.only.is_none() && names.len() > MOST {
        return Err(Error::work(format!("{place}: more than {MOST} columns")));
    }
    let wanted = names.iter().zip(record).filter(|(name, _)| options.wants(name));
    let fields: Map<String, Value> = wanted.map(|(name, value)| (name.clone(), Value::from(value))).collect();
    Ok(Row { fields, place })
}

/// An [`Input`] for a reader that wants to read, not to be handed lines.
struct Bytes {
    input: Input,
    delimiter: u8,
    /// Bytes of one record.
    most: usize,
    left: Arc<Left>,
}

/// What the record that is read may still take: a quote that is never closed makes the rest of the file one field.
#[derive(Default)]
struct Left {
    bytes: AtomicUsize,
    fields: AtomicUsize,
}

impl Left {
    /// For the next record, of `most` bytes.
    fn refill(&self, most: usize) {
        self.bytes.store(most, Ordering::Relaxed);
        self.fields.store(FIELDS, Ordering::Relaxed);
    }

    /// Takes as much from what is left, if there is as much.
    fn take(left: &AtomicUsize, taken: usize) -> bool {
        left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(taken)).is_ok()
    }
}

impl Read for Bytes {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let available = self.input.fill().map_err(std::io::Error::other)?;
        let taken = available.len().min(buffer.len());
        buffer[..taken].copy_from_slice(&available[..taken]);
        self.input.consume(taken);
        let path = self.input.path.display();
        let refuse = |what: String| Err(std::io::Error::other(format!("{path}: one row has more than {what}")));
        if !Left::take(&self.left.bytes, taken) {
            return refuse(format!("{} MiB; is a quote never closed?", self.most >> 20));
        }
        let delimiters = buffer[..taken].iter().filter(|byte| **byte == self.delimiter).count();
        if !Left::take(&self.left.fields, delimiters) {
            return refuse(format!("{FIELDS} fields"));
        }
        Ok(taken)
    }
}

fn fault(place: &dyn Display, error: csv::Error) -> Error {
    if let Err(stopped) = interrupt::check() {
        return stopped;
    }
    match error.into_kind() {
        // already worded, with the path, by `Input`
        csv::ErrorKind::Io(inner) => Error::work(inner.to_string()),
        csv::ErrorKind::Utf8 { err, .. } => Error::work(format!("{place}: not UTF-8: {err}")),
        _ => Error::work(format!("{place}: not CSV")),
    }
}

#[cfg(test)]
mod tests {
    use super::super::rows::{rows, rows_with};
    use super::*;

    fn read(name: &str, text: impl AsRef<[u8]>, options: &ReadOptions) -> Result<Vec<(u64, String)>> {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join(name);
        std::fs::write(&path, text).unwrap();
        let shown = |row: Row| (row.place.number, Value::Object(row.fields).to_string());
        rows_with(&path, options)?.map(|row| row.map(shown)).collect()
    }

    #[test]
    fn header_quotes_and_lines_inside_quotes() {
        let text = "\u{feff}q,a\r\n\"x, \"\"y\"\"\nz\",1\r\n\"\", b \r\n";
        let rows = read("x.csv", text, &ReadOptions::default()).unwrap();
        assert_eq!(rows[0], (1, "{\"q\":\"x, \\\"y\\\"\\nz\",\"a\":\"1\"}".to_owned()));
        assert_eq!(rows[1], (2, "{\"q\":\"\",\"a\":\" b \"}".to_owned()));
        assert_eq!(
            read("x.tsv", "a\tb\n1,2\t3\n", &ReadOptions::default()).unwrap()[0].1,
            "{\"a\":\"1,2\",\"b\":\"3\"}"
        );
        assert_eq!(read("x.csv", "", &ReadOptions::default()).unwrap(), []);
    }

    #[test]
    fn the_callers_names_stand_for_a_header() {
        let names = ["q", "A", "answer"].map(str::to_owned);
        let mut options = ReadOptions { columns: Some(names.into()), ..ReadOptions::default() };
        assert_eq!(
            read("x.csv", "one,two,B\n", &options).unwrap(),
            [(1, "{\"q\":\"one\",\"A\":\"two\",\"answer\":\"B\"}".to_owned())]
        );
        options.only = Some(["A".to_owned()].into());
        assert_eq!(read("x.csv", "one,two,B\n", &options).unwrap(), [(1, "{\"A\":\"two\"}".to_owned())]);
    }

    #[test]
    fn errors_name_the_row() {
        let error = |text: &[u8]| read("x.csv", text, &ReadOptions::default()).unwrap_err().to_string();
        assert!(error(b"a,b\n1,2\n1,2,3\n").ends_with("x.csv row 2: 3 columns, expected 2"));
        assert!(error(b"a,a\n").ends_with("two columns are called `a`"));
        assert!(
            error(("c,".repeat(FIELDS + 8192) + "d\n").as_bytes()).ends_with("one row has more than 1000000 fields")
        );
        let open = [b"a\n\"", vec![b'x'; (32 << 20) + 8192].as_slice()].concat();
        assert!(error(&open).ends_with("one row has more than 32 MiB; is a quote never closed?"));
        let long = format!("{0},{0}\n", "n".repeat(1000));
        assert!(error(long.as_bytes()).len() < 300);
        assert!(error(b"a,b\n1,\xff\n").contains("x.csv row 1: not UTF-8"), "{}", error(b"a,b\n1,\xff\n"));
    }

    #[test]
    fn many_columns_are_no_work() {
        let names: Vec<String> = (0..300_000).map(|column| format!("c{column}")).collect();
        let text = format!("{},text\n{}hello\n", names.join(","), "x,".repeat(names.len()));
        let options = ReadOptions { only: Some(["text".to_owned()].into()), ..ReadOptions::default() };
        let started = std::time::Instant::now();
        assert_eq!(read("x.csv", &text, &options).unwrap(), [(1, "{\"text\":\"hello\"}".to_owned())]);
        assert!(started.elapsed().as_secs() < 10, "{:?}", started.elapsed());
    }

    #[test]
    fn errors_below_csv_keep_their_words() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("x.csv.gz");
        std::fs::write(&path, [0x1f, 0x8b, 8, 0]).unwrap();
        assert!(rows(&path).err().unwrap().to_string().contains("x.csv.gz: the gzip data ends early"));
    }
}
