//! Sources: data files seen as documents, one field of each row.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::{Map, Value};

use super::chat::{Chat, Form, Told, recognized};
use super::documents::Documents;
use super::find::Purpose;
use super::folder::{self, Chosen};
use super::longest::Longest;
use super::rows::{self, ReadOptions, RowPlace, TextSplit};
use crate::{Error, Result};

/// How documents are found in files.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SourceOptions {
    /// The field that holds the text (`--text-field`), or several, `prompt+completion`, joined as they stand.
    pub field: String,
    /// How plain text files are cut (`--text-split`).
    pub split: TextSplit,
    /// What is done about a bad row (`--on-bad-row`).
    pub on_bad_row: BadRow,
    /// How long a document may be; no setting, but what memory allows.
    #[serde(skip)]
    pub longest: Longest,
}

impl Default for SourceOptions {
    fn default() -> Self {
        Self {
            field: "text".to_owned(),
            split: TextSplit::default(),
            on_bad_row: BadRow::default(),
            longest: Longest::default(),
        }
    }
}

/// What is done about a row that is no row of its format, holds bytes that are no text, or has something else than a
/// string where the text should be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum BadRow {
    /// It is an error.
    #[default]
    Error,
    /// It is passed over, and counted.
    Skip,
}

/// Text to measure or train on. Cheap to clone.
#[derive(Clone, Debug)]
pub struct TextSource {
    name: String,
    revision: Option<String>,
    files: Arc<[PathBuf]>,
    note: Option<String>,
    pub(super) read: ReadOptions,
    pub(super) on_bad_row: BadRow,
    /// The field, or its parts: fields that are joined.
    field: Arc<[String]>,
    bytes: u64,
    chat: Option<Arc<Chat>>,
}

/// One document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Document {
    /// Its text; empty where the file has an empty string or null.
    pub text: String,
    /// Where it stands.
    pub place: RowPlace,
    /// How it is tokenized and learned, where it was a conversation.
    pub(super) told: Option<Told>,
}

impl TextSource {
    /// A local file, or the files of a directory that are to be trained on: [`TextSource::find`] says which.
    ///
    /// # Errors
    /// [`Error::Request`] when there is nothing at `path`, its name tells no format, or the directory holds no data
    /// file.
    pub fn open(path: impl AsRef<Path>, options: &SourceOptions) -> Result<Self> {
        Self::open_for(path.as_ref(), Purpose::Train, options)
    }

    /// [`TextSource::open`] for a purpose.
    pub(super) fn open_for(path: &Path, purpose: Purpose, options: &SourceOptions) -> Result<Self> {
        let name = path.display().to_string();
        if !path.is_dir() {
            return Self::of_files(name, vec![path.to_owned()], options);
        }
        let Chosen { files, note } = folder::choose(path, purpose)?;
        Ok(Self { note, ..Self::of_files(name, files, options)? })
    }

    /// The given files, in their order; `name` is what messages and results call them.
    ///
    /// # Errors
    /// As [`TextSource::open`].
    pub(crate) fn of_files(name: String, files: Vec<PathBuf>, options: &SourceOptions) -> Result<Self> {
        let mut field = vec![options.field.clone()];
        if options.field.contains('+') {
            field.extend(options.field.split('+').map(str::to_owned));
        }
        let field: Arc<[String]> = field.into();
        let SourceOptions { split, longest, .. } = *options;
        let only = Some(Arc::clone(&field));
        let read = ReadOptions { only, split, text: true, longest, ..ReadOptions::default() };
        let mut bytes = 0;
        for file in &files {
            // opening tells what is wrong with a name before any work is done
            rows::rows_with(file, &read)?;
            bytes += std::fs::metadata(file).map_err(|e| Error::io(file, &e))?.len();
        }
        let on_bad_row = options.on_bad_row;
        Ok(Self { name, revision: None, files: files.into(), note: None, read, on_bad_row, field, bytes, chat: None })
    }

    /// What the rows hold, told by the first ones of the first file: plain text where any of them has its field.
    ///
    /// # Errors
    /// Those of the file.
    pub fn form(&self) -> Result<Form> {
        self.form_of(false)
    }

    /// [`TextSource::form`] of rows that ask something, and may lack the answers.
    ///
    /// # Errors
    /// Those of the file.
    pub fn prompt_form(&self) -> Result<Form> {
        self.form_of(true)
    }

    fn form_of(&self, asks: bool) -> Result<Form> {
        const ROWS: usize = 100;
        let Some(file) = self.files.first() else { return Ok(Form::Text) };
        let read = ReadOptions { only: None, text: true, ..self.read.clone() };
        let mut rows = rows::rows_with(file, &read)?;
        let first = std::iter::from_fn(|| rows.next_or_fault()).take(ROWS).map_while(Result::ok);
        let rows: Vec<Map<String, Value>> = first.flatten().map(|row| row.fields).collect();
        Ok(recognized(rows.iter(), &self.field, asks))
    }

    /// The same, its rows read as conversations.
    #[must_use]
    pub fn talking(self, chat: Arc<Chat>) -> Self {
        let only = chat.form.fields().iter().map(|name| (*name).to_owned()).collect();
        let read = ReadOptions { only: Some(only), text: false, ..self.read.clone() };
        Self { read, chat: Some(chat), ..self }
    }

    /// How its rows are read as conversations, where they are.
    #[must_use]
    pub fn chat(&self) -> Option<&Chat> {
        self.chat.as_deref()
    }

    /// Reads the first rows of every file, so that what is wrong with them is told before any work is done: some
    /// thousand rows or 16 MiB, but only the first row of a file once so much is read.
    ///
    /// # Errors
    /// As [`Documents`].
    pub fn check(&self) -> Result<()> {
        const ROWS: usize = 4000;
        const BYTES: u64 = 16 << 20;
        let (mut rows, mut bytes) = (0, 0);
        for file in self.files.iter() {
            let one = Self { files: [file.clone()].into(), bytes: u64::MAX, ..self.clone() };
            let mut documents = one.documents();
            while let Some(document) = documents.next() {
                document?;
                rows += 1;
                if rows >= ROWS || bytes + documents.bytes_read() >= BYTES {
                    break;
                }
            }
            bytes += documents.bytes_read();
        }
        Ok(())
    }

    /// Which of several files are read, where that is not plain.
    #[must_use]
    pub fn note(&self) -> Option<&str> {
        self.note.as_deref()
    }

    /// The fields whose texts make a row's document.
    pub(super) fn fields<'a>(&'a self, row: &Map<String, Value>) -> impl Iterator<Item = &'a str> + use<'a> {
        let whole = self.field.len() == 1 || row.contains_key(&self.field[0]);
        let parts = if whole { &self.field[..1] } else { &self.field[1..] };
        parts.iter().map(String::as_str)
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
        Documents::new(self.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(source: &TextSource) -> Result<Vec<String>> {
        source.documents().map(|document| document.map(|d| d.text)).collect()
    }

    #[test]
    fn a_directory_is_its_data_files_by_name() {
        let directory = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| std::fs::write(directory.path().join(name), text).unwrap();
        assert!(
            TextSource::open(directory.path(), &SourceOptions::default())
                .unwrap_err()
                .to_string()
                .contains("no data file")
        );
        write("b.jsonl", "{\"text\":\"two\",\"n\":1}\n{\"text\":null}\n");
        write("a.json", "{\"text\":\"one\"}\n");
        write("README.md", "no");
        write(".hidden.txt", "no");
        std::fs::create_dir(directory.path().join("c.txt")).unwrap();
        let source = TextSource::open(directory.path(), &SourceOptions::default()).unwrap();
        assert_eq!(texts(&source).unwrap(), ["one", "two", ""]);
        let mut documents = source.documents();
        while documents.next().is_some() {}
        assert_eq!((documents.bytes_read(), source.bytes()), (source.bytes(), 50));
    }

    #[test]
    fn the_first_rows_of_every_file_are_checked() {
        let directory = tempfile::tempdir().unwrap();
        let write = |name: &str, rows: &str| std::fs::write(directory.path().join(name), rows).unwrap();
        let good = "{\"text\":\"x\"}\n";
        let check = || TextSource::open(directory.path(), &SourceOptions::default()).unwrap().check();
        write("a.jsonl", &good.repeat(5000));
        write("b.jsonl", good);
        check().unwrap();
        write("b.jsonl", "{\"text\":1}");
        let error = check().unwrap_err().to_string();
        assert!(error.contains("b.jsonl line 1: field `text` is a number"), "{error}");
        write("b.jsonl", "{\"body\":\"x\"}");
        assert!(
            matches!(check(), Err(Error::Request(message)) if message.contains("name the text's with --text-field"))
        );
        // far inside a file nothing is promised
        write("b.jsonl", &(good.repeat(5000) + "{"));
        check().unwrap();
    }

    #[test]
    fn a_plain_text_file_has_any_field() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a.txt");
        std::fs::write(&path, "x\n\ny\n").unwrap();
        let options =
            SourceOptions { field: "body".to_owned(), split: TextSplit::Paragraphs, ..SourceOptions::default() };
        assert_eq!(texts(&TextSource::open(&path, &options).unwrap()).unwrap(), ["x", "y"]);
    }
}
