//! What a model said, kept as it comes: a line for each text that is over, in the order in which they end.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::checkpoint::Doing;
use crate::model::Ended;
use crate::{Error, Result, interrupt};

const TEXTS: &str = "texts.jsonl";

/// An unfinished generation.
pub(crate) const GENERATING: Doing =
    Doing { command: "generate", ending: "generating", work: "generation", entries: &["settings.json", TEXTS] };

/// Bytes of a line, at most.
const LONGEST: u64 = 256 << 20;

/// A text.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    item: usize,
    tokens: usize,
    ended: Ended,
    row: Map<String, Value>,
}

/// A line on the disk.
#[derive(Clone, Copy, Debug)]
struct Kept {
    start: u64,
    len: usize,
    tokens: usize,
    ended: Ended,
}

/// What there is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// Texts.
    pub texts: usize,
    /// New tokens in them.
    pub tokens: u64,
    /// Texts that ended because they were long enough, not because the model ended them.
    pub cut_off: usize,
    /// Texts that the model ended at once.
    pub empty: usize,
}

/// The file of texts. They stay on disk, what is in memory is where they lie.
#[derive(Debug)]
pub struct Texts {
    path: PathBuf,
    file: File,
    items: usize,
    kept: BTreeMap<usize, Kept>,
    end: u64,
}

impl Texts {
    /// Takes up the texts in the directory `dir`, or begins them, of `items` that there are to be.
    ///
    /// # Errors
    /// Work: the file system's.
    pub fn open(dir: &Path, items: usize) -> Result<Self> {
        let path = dir.join(TEXTS);
        let at = |error: std::io::Error| Error::io(&path, &error);
        let file = OpenOptions::new().read(true).append(true).create(true).open(&path).map_err(at)?;
        let mut texts = Self { path: path.clone(), file, items, kept: BTreeMap::new(), end: 0 };
        texts.read().map_err(at)?;
        Ok(texts)
    }

    fn read(&mut self) -> std::io::Result<()> {
        let (mut reader, mut text) = (BufReader::new(&self.file), Vec::new());
        loop {
            text.clear();
            (&mut reader).take(LONGEST).read_until(b'\n', &mut text)?;
            let line = text.strip_suffix(b"\n").and_then(|text| serde_json::from_slice::<Line>(text).ok());
            let Some(Line { item, tokens, ended, .. }) = line.filter(|line| line.item < self.items) else { break };
            self.kept.insert(item, Kept { start: self.end, len: text.len(), tokens, ended });
            self.end += text.len() as u64;
        }
        // what follows the last good line was cut short, or is none of this program's
        self.file.set_len(self.end)
    }

    /// Whether text `item` is there.
    #[must_use]
    pub fn has(&self, item: usize) -> bool {
        self.kept.contains_key(&item)
    }

    /// Which are, in order.
    #[must_use]
    pub fn known(&self) -> Vec<usize> {
        self.kept.keys().copied().collect()
    }

    /// Whether all are.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        self.kept.len() == self.items
    }

    /// What there is.
    #[must_use]
    pub fn counts(&self) -> Counts {
        let count = |is: &dyn Fn(&Kept) -> bool| self.kept.values().filter(|kept| is(kept)).count();
        Counts {
            texts: self.kept.len(),
            tokens: self.kept.values().map(|kept| kept.tokens as u64).sum(),
            cut_off: count(&|kept| kept.ended == Ended::Length),
            empty: count(&|kept| kept.tokens == 0),
        }
    }

    /// Keeps a text of `tokens` tokens.
    ///
    /// # Errors
    /// Work: the disk is full.
    pub fn keep(&mut self, item: usize, tokens: usize, ended: Ended, row: Map<String, Value>) -> Result<()> {
        if self.has(item) {
            return Ok(());
        }
        let line = serde_json::to_string(&Line { item, tokens, ended, row });
        let line = line.map_err(|error| Error::work(format!("text {item}: {error}")))? + "\n";
        // one write, so that only what was on its way can be cut short
        self.file.write_all(line.as_bytes()).map_err(|error| Error::io(&self.path, &error))?;
        self.kept.insert(item, Kept { start: self.end, len: line.len(), tokens, ended });
        self.end += line.len() as u64;
        Ok(())
    }

    /// Writes the rows in order, without those of texts that were cut off where `whole_only` says so; their number.
    /// `at` is what messages call the place.
    ///
    /// # Errors
    /// Work: the disk is full, or the file changed meanwhile. Interrupted.
    pub fn write(&mut self, to: &mut dyn Write, at: &Path, whole_only: bool) -> Result<usize> {
        let (mut text, mut written) = (Vec::new(), 0);
        let wanted = self.kept.values().filter(|kept| !whole_only || kept.ended == Ended::EndOfText);
        for kept in wanted {
            interrupt::check()?;
            text.resize(kept.len, 0);
            let read = self.file.seek(SeekFrom::Start(kept.start)).and_then(|_| self.file.read_exact(&mut text));
            read.map_err(|error| Error::io(&self.path, &error))?;
            let line = serde_json::from_slice::<Line>(&text);
            let changed = |_| Error::work(format!("{}: changed while it was read", self.path.display()));
            let row = serde_json::to_string(&line.map_err(changed)?.row);
            let row = row.map_err(|error| Error::work(error.to_string()))? + "\n";
            to.write_all(row.as_bytes()).map_err(|error| Error::io(at, &error))?;
            written += 1;
        }
        Ok(written)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn row(text: &str) -> Map<String, Value> {
        Map::from_iter([("text".to_owned(), json!(text))])
    }

    fn written(texts: &mut Texts, whole_only: bool) -> String {
        let mut bytes = Vec::new();
        texts.write(&mut bytes, Path::new("out"), whole_only).unwrap();
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn texts_come_in_any_order_and_a_cut_line_is_no_text() {
        let dir = tempfile::tempdir().unwrap();
        let open = || Texts::open(dir.path(), 3).unwrap();
        let mut texts = open();
        texts.keep(2, 5, Ended::Length, row("c")).unwrap();
        texts.keep(0, 0, Ended::EndOfText, row("")).unwrap();
        // what is there stands
        texts.keep(0, 7, Ended::Length, row("other")).unwrap();
        let path = dir.path().join(TEXTS);
        let whole = std::fs::read(&path).unwrap();
        for cut in 0..whole.len() {
            std::fs::write(&path, &whole[..cut]).unwrap();
            let lines = whole[..cut].iter().filter(|byte| **byte == b'\n').count();
            assert_eq!(open().counts().texts, lines, "{cut}");
        }
        std::fs::write(&path, &whole).unwrap();
        let mut texts = open();
        assert_eq!(texts.counts(), Counts { texts: 2, tokens: 5, cut_off: 1, empty: 1 });
        assert!(!texts.is_whole() && !texts.has(1));
        texts.keep(1, 1, Ended::EndOfText, row("b")).unwrap();
        assert!(texts.is_whole());
        assert_eq!(written(&mut texts, false), "{\"text\":\"\"}\n{\"text\":\"b\"}\n{\"text\":\"c\"}\n");
        assert_eq!(written(&mut texts, true), "{\"text\":\"\"}\n{\"text\":\"b\"}\n");
    }

    #[test]
    fn what_no_generation_writes_ends_what_is_believed() {
        let dir = tempfile::tempdir().unwrap();
        let good = "{\"item\":1,\"tokens\":1,\"ended\":\"length\",\"row\":{\"text\":\"b\"}}\n";
        for odd in ["\n", "{}\n", "[1]\n", "{\"item\":3,\"tokens\":1,\"ended\":\"length\",\"row\":{}}\n"] {
            std::fs::write(dir.path().join(TEXTS), format!("{good}{odd}{good}")).unwrap();
            assert_eq!(Texts::open(dir.path(), 3).unwrap().counts().texts, 1, "{odd}");
            assert_eq!(std::fs::read_to_string(dir.path().join(TEXTS)).unwrap(), good);
        }
    }
}
