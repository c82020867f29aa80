//! Sources: data files seen as documents, one field of each row.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::Value;

use super::rows::{self, Place, ReadOptions, Rows, TextSplit, kind, listed};
use crate::{Error, Result};

/// How documents are found in files.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SourceOptions {
    /// The field that holds the text (`--text-field`).
    pub field: String,
    /// How plain text files are cut (`--text-split`).
    pub split: TextSplit,
}

impl Default for SourceOptions {
    fn default() -> Self {
        Self { field: "text".to_owned(), split: TextSplit::None }
    }
}

/// Text to measure or train on. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Source {
    name: String,
    revision: Option<String>,
    files: Arc<[PathBuf]>,
    read: ReadOptions,
    field: String,
    bytes: u64,
}

/// One document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Document {
    /// Its text; empty where the file has an empty string or null.
    pub text: String,
    /// Where it stands.
    pub place: Place,
}

impl Source {
    /// A local file, or all data files of a directory in the order of their names (subdirectories and hidden files are
    /// left alone).
    ///
    /// # Errors
    /// [`Error::Request`] when there is nothing at `path`, its name tells no format, or the directory holds no data file.
    pub fn open(path: impl AsRef<Path>, options: &SourceOptions) -> Result<Self> {
        let path = path.as_ref();
        let files = if path.is_dir() { data_files(path)? } else { vec![path.to_owned()] };
        Self::of_files(path.display().to_string(), files, options)
    }

    /// The given files, in their order; `name` is what messages and results call them.
    ///
    /// # Errors
    /// As [`Source::open`].
    pub fn of_files(name: String, files: Vec<PathBuf>, options: &SourceOptions) -> Result<Self> {
        let read =
            ReadOptions { only: Some([options.field.clone()].into()), split: options.split, ..ReadOptions::default() };
        let mut bytes = 0;
        for file in &files {
            // opening tells what is wrong with a name before any work is done
            rows::rows_with(file, &read)?;
            bytes += std::fs::metadata(file).map_err(|e| Error::io(file, &e))?.len();
        }
        Ok(Self { name, revision: None, files: files.into(), read, field: options.field.clone(), bytes })
    }

    /// What the user called it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The commit of the hub's data set it was fetched from.
    pub fn revision(&self) -> Option<&str> {
        self.revision.as_deref()
    }

    /// The same, known to be of this commit.
    pub(super) fn at_revision(self, revision: String) -> Self {
        Self { revision: Some(revision), ..self }
    }

    /// Its files, in the order in which they are read.
    pub fn files(&self) -> &[PathBuf] {
        &self.files
    }

    /// Bytes of all files, as they lie on the disk.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The documents of all files from the first, read in a stream.
    pub fn documents(&self) -> Documents {
        Documents { source: self.clone(), file: 0, rows: None, bytes_before: 0, ended: false }
    }
}

/// Data files directly inside `directory`, by name.
fn data_files(directory: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(directory).map_err(|e| Error::io(directory, &e))? {
        let path = entry.map_err(|e| Error::io(directory, &e))?.path();
        let hidden = path.file_name().is_none_or(|name| name.to_string_lossy().starts_with('.'));
        if !hidden && rows::is_data_file(&path) && path.is_file() {
            files.push(path);
        }
    }
    if files.is_empty() {
        let known = rows::known_endings();
        return Err(Error::request(format!(
            "{}: no data file in this directory, expected {known}",
            directory.display()
        )));
    }
    files.sort();
    Ok(files)
}

/// The documents of a [`Source`]. Ends after the first error.
pub struct Documents {
    source: Source,
    file: usize,
    rows: Option<Rows>,
    bytes_before: u64,
    ended: bool,
}

impl Documents {
    /// Bytes of the files read so far, never more than [`Source::bytes`].
    pub fn bytes_read(&self) -> u64 {
        let now = self.rows.as_ref().map_or(0, Rows::bytes_read);
        (self.bytes_before + now).min(self.source.bytes)
    }

    /// The next document, with an error left to the caller to end on.
    fn advance(&mut self) -> Result<Option<Document>> {
        loop {
            let Some(path) = self.source.files.get(self.file) else { return Ok(None) };
            let rows = match &mut self.rows {
                Some(rows) => rows,
                None => self.rows.insert(rows::rows_with(path, &self.source.read)?),
            };
            let Some(row) = rows.next() else {
                self.bytes_before += std::fs::metadata(path).map_or(0, |metadata| metadata.len());
                self.rows = None;
                self.file += 1;
                continue;
            };
            let mut row = row?;
            let text = match row.fields.get_mut(&self.source.field).map(Value::take) {
                Some(Value::String(text)) => text,
                Some(Value::Null) => String::new(),
                Some(other) => {
                    let fault = format!("field `{}` is {}, expected a string", self.source.field, kind(&other));
                    return Err(row.fault(&fault));
                }
                None => return Err(self.missing(path, &row.place)),
            };
            return Ok(Some(Document { text, place: row.place }));
        }
    }

    /// The error for a row without the text field. Only that field was read, so the row is read once more.
    fn missing(&self, path: &Path, place: &Place) -> Error {
        let whole = ReadOptions { only: None, ..self.source.read.clone() };
        let row = rows::rows_with(path, &whole)
            .ok()
            .and_then(|mut rows| rows.find_map(|row| row.ok().filter(|row| row.place.number == place.number)));
        let names: Vec<&str> = row.iter().flat_map(|row| row.fields.keys().map(String::as_str)).collect();
        let field = &self.source.field;
        Error::request(format!(
            "{place}: no field `{field}`, only {}; name the text's with --text-field",
            listed(&names)
        ))
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
    use super::*;

    fn texts(source: &Source) -> Result<Vec<String>> {
        source.documents().map(|document| document.map(|d| d.text)).collect()
    }

    #[test]
    fn a_directory_is_its_data_files_by_name() {
        let directory = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| std::fs::write(directory.path().join(name), text).unwrap();
        assert!(
            Source::open(directory.path(), &SourceOptions::default()).unwrap_err().to_string().contains("no data file")
        );
        write("b.jsonl", "{\"text\":\"two\",\"n\":1}\n{\"text\":null}\n");
        write("a.txt", "one\n");
        write("README.md", "no");
        write(".hidden.txt", "no");
        std::fs::create_dir(directory.path().join("c.txt")).unwrap();
        let source = Source::open(directory.path(), &SourceOptions::default()).unwrap();
        assert_eq!(texts(&source).unwrap(), ["one\n", "two", ""]);
        let mut documents = source.documents();
        while documents.next().is_some() {}
        assert_eq!((documents.bytes_read(), source.bytes()), (source.bytes(), 39));
    }

    #[test]
    fn the_text_field_is_named_in_errors() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a.jsonl");
        std::fs::write(&path, "{\"text\":\"x\",\"body\":\"y\"}\n{\"title\":\"t\",\"body\":\"y\"}\n{\"body\":3}\n")
            .unwrap();
        let error = |field: &str| {
            let options = SourceOptions { field: field.to_owned(), ..SourceOptions::default() };
            texts(&Source::open(&path, &options).unwrap()).unwrap_err()
        };
        let missing = error("text");
        assert!(matches!(missing, Error::Request(_)));
        assert!(
            missing.to_string().contains("a.jsonl line 2: no field `text`, only `title`, `body`; name"),
            "{missing}"
        );
        assert!(error("body").to_string().ends_with("a.jsonl line 3: field `body` is a number, expected a string"));
        std::fs::write(&path, "{}\n").unwrap();
        assert!(error("text").to_string().contains("only an empty row"), "{}", error("text"));
    }

    #[test]
    fn a_plain_text_file_has_any_field() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a.txt");
        std::fs::write(&path, "x\n\ny\n").unwrap();
        let options = SourceOptions { field: "body".to_owned(), split: TextSplit::BlankLines };
        assert_eq!(texts(&Source::open(&path, &options).unwrap()).unwrap(), ["x", "y"]);
    }
}
