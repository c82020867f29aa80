//! What a teacher says of sequences, on disk: a directory with `cache.json`, which says of which teacher, text and
//! sequences it is, and `teacher.safetensors`:
//!
//! | tensor | shape | what |
//! |---|---|---|
//! | `sequence` | `[s, 16]` u8 | the beginning of SHA-256 over each sequence's tokens, see [`digest`] |
//! | `first` | `[s+1]` u64 | the row of each sequence's first learned token, and the number of all rows |
//! | `ids` | `[n, k]` u32 | the k likeliest tokens of each row, likeliest first |
//! | `log_probs` | `[n, k]` f16 | logarithms of their probabilities |
//! | `rest` | `[n]` f32 | logarithm of the probability of all others together |

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io::{Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use half::f16;
use safetensors::Dtype;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::checkpoint::{Entry, Index, Shard, Slot, read_json};
use crate::data::marked::{digest, learned};
use crate::model::Lessons;
use crate::ops::TopTokens;
use crate::{Context, Error, Result};

/// What the cache is of.
pub const CACHE: &str = "cache.json";
/// What the teacher said.
pub const SAID: &str = "teacher.safetensors";

/// The least logarithm of a probability that is kept: f16 has no more than 65504.
const LEAST: f32 = -60_000.0;
/// How far the masses of a row may be from 1, before what rounding left is taken away.
const OFF: f64 = 0.05;

/// `cache.json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CacheRecord {
    /// The program's version.
    pub prune: String,
    /// The teacher, as it was called.
    pub teacher: String,
    /// Its fingerprint.
    pub fingerprint: String,
    /// Tokens of its vocabulary.
    pub vocab_size: usize,
    /// All that decides what is in the cache.
    pub settings: Map<String, Value>,
    /// Tokens kept of each row.
    pub k: usize,
    /// What its distributions were softened by.
    pub temperature: f64,
    /// Sequences that a healing draws, repeated ones among them.
    pub drawn: u64,
    /// Whether these are all that the texts have.
    pub whole: bool,
    /// Sequences that differ.
    pub sequences: usize,
    /// Rows of all of them.
    pub rows: u64,
    /// Sequences that go through the teacher together: the last bits of sums may hang on it.
    pub group: usize,
    /// Sequences that are done.
    pub done: usize,
}

impl CacheRecord {
    /// Whether a run can have come so far.
    #[must_use]
    pub fn is_sound(&self) -> bool {
        (1..=MOST_TOGETHER).contains(&self.group)
            && self.done <= self.sequences
            && (self.done == self.sequences || self.done.is_multiple_of(self.group))
    }
}

/// More sequences than ever go through a teacher together.
const MOST_TOGETHER: usize = 1 << 16;

/// The sequences of a cache: what each is known by, and where its rows begin.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CachedSequences {
    pub(super) keys: Vec<[u8; 16]>,
    pub(super) first: Vec<u64>,
}

impl CachedSequences {
    /// Sequences.
    #[must_use]
    pub fn len(&self) -> usize {
        self.keys.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// Rows of all.
    #[must_use]
    pub fn rows(&self) -> u64 {
        self.first.last().copied().unwrap_or(0)
    }

    /// The file for `k` tokens of each row.
    ///
    /// # Errors
    /// Work: more than a file can hold.
    pub fn file(&self, k: usize) -> Result<Shard> {
        let (sequences, rows) = (self.len(), self.rows() as usize);
        let slot = |name: &str, dtype, shape: &[usize]| Slot { name: name.to_owned(), dtype, shape: shape.to_vec() };
        Shard::new(
            SAID,
            vec![
                slot("sequence", Dtype::U8, &[sequences, 16]),
                slot("first", Dtype::U64, &[sequences + 1]),
                slot("ids", Dtype::U32, &[rows, k]),
                slot("log_probs", Dtype::F16, &[rows, k]),
                slot("rest", Dtype::F32, &[rows]),
            ],
        )
    }
}

/// A cache that is being written.
#[derive(Debug)]
pub struct CacheWriter {
    path: PathBuf,
    file: File,
    ids: Entry,
    log_probs: Entry,
    rest: Entry,
    k: usize,
}

impl CacheWriter {
    /// Begins the file in `dir` with the places of `sequences`, or, where some are `done`, takes it up.
    ///
    /// # Errors
    /// Work: the disk is full, or a file that is not that of these sequences.
    pub fn open(dir: &Path, sequences: &CachedSequences, k: usize, done: usize) -> Result<Self> {
        let path = dir.join(SAID);
        if done == 0 {
            sequences.file(k)?.begin(dir)?;
        }
        let index = Index::open_file(&path)?;
        let entry = |name: &str| index.entry(name).cloned();
        let file = OpenOptions::new().write(true).open(&path).map_err(|error| Error::io(&path, &error))?;
        let mut writer =
            Self { ids: entry("ids")?, log_probs: entry("log_probs")?, rest: entry("rest")?, path, file, k };
        let first: Vec<u8> = sequences.first.iter().flat_map(|row| row.to_le_bytes()).collect();
        let keys = sequences.keys.concat();
        for (name, bytes) in [("first", first), ("sequence", keys)] {
            let entry = entry(name)?;
            if done == 0 {
                writer.put(&entry, 0, &bytes)?;
            } else if index.read(&entry)? != bytes {
                return Err(Error::work(format!("{}: of other sequences; --force begins anew", writer.path.display())));
            }
        }
        Ok(writer)
    }

    fn put(&mut self, entry: &Entry, offset: u64, bytes: &[u8]) -> Result<()> {
        let at = |error: std::io::Error| Error::io(&self.path, &error);
        if offset + bytes.len() as u64 > entry.len {
            return Err(Error::work(format!("{}: more rows than there is room for", self.path.display())));
        }
        self.file.seek(SeekFrom::Start(entry.begin + offset)).map_err(at)?;
        self.file.write_all(bytes).map_err(at)
    }

    /// Writes rows from row `first` on, and makes them durable.
    ///
    /// # Errors
    /// Work: the disk is full.
    pub fn keep(&mut self, first: u64, top: &TopTokens) -> Result<()> {
        let ids: Vec<u8> = top.ids.iter().flat_map(|id| id.to_le_bytes()).collect();
        let narrow = |log_prob: &f32| f16::from_f32(log_prob.max(LEAST)).to_le_bytes();
        let log_probs: Vec<u8> = top.log_probs.iter().flat_map(narrow).collect();
        let rest: Vec<u8> = top.rest.iter().flat_map(|rest| rest.to_le_bytes()).collect();
        let k = self.k as u64;
        let (of_ids, of_log_probs, of_rest) = (self.ids.clone(), self.log_probs.clone(), self.rest.clone());
        self.put(&of_ids, 4 * k * first, &ids)?;
        self.put(&of_log_probs, 2 * k * first, &log_probs)?;
        self.put(&of_rest, 4 * first, &rest)?;
        self.file.sync_data().map_err(|error| Error::io(&self.path, &error))
    }
}

/// A cache that is whole.
#[derive(Debug)]
pub struct TeacherCache {
    /// What it is of.
    pub record: CacheRecord,
    dir: PathBuf,
    index: Index,
    places: HashMap<[u8; 16], (u64, usize)>,
}

impl TeacherCache {
    /// Whether a directory is a cache, whole or not.
    #[must_use]
    pub fn is_at(dir: &Path) -> bool {
        dir.join(CACHE).is_file()
    }

    /// Its files.
    #[must_use]
    pub fn files(&self) -> Vec<PathBuf> {
        [CACHE, SAID].map(|name| self.dir.join(name)).into()
    }

    /// Opens the cache in `dir`.
    ///
    /// # Errors
    /// Request: one that is unfinished. Work: files that are broken, or do not go together.
    pub fn open(dir: &Path) -> Result<Self> {
        let record: CacheRecord = read_json(&dir.join(CACHE))?;
        let path = dir.join(SAID);
        if record.done < record.sequences {
            return Err(Error::request(format!(
                "{}: {} of {} sequences are there; the `prune teach` command that began it finishes it",
                dir.display(),
                record.done,
                record.sequences
            )));
        }
        let index = Index::open_file(&path)?;
        let fault = |what: &str| Error::work(format!("{}: {what}; make the cache anew", path.display()));
        let (sequences, rows, k) = (record.sequences, record.rows as usize, record.k);
        for (name, dtype, shape) in [
            ("sequence", Dtype::U8, vec![sequences, 16]),
            ("first", Dtype::U64, vec![sequences.saturating_add(1)]),
            ("ids", Dtype::U32, vec![rows, k]),
            ("log_probs", Dtype::F16, vec![rows, k]),
            ("rest", Dtype::F32, vec![rows]),
        ] {
            let entry = index.entry(name)?;
            if entry.dtype != dtype || entry.shape != shape {
                return Err(fault(&format!("tensor {name} is not what cache.json says")));
            }
        }
        let keys = index.read(index.entry("sequence")?)?;
        let first = index.read(index.entry("first")?)?;
        let first: Vec<u64> = first.as_chunks::<8>().0.iter().map(|bytes| u64::from_le_bytes(*bytes)).collect();
        if !first.is_sorted() || first.first() != Some(&0) || first.last() != Some(&record.rows) {
            return Err(fault("the rows of its sequences are in no order"));
        }
        let spans = first.windows(2).map(|pair| (pair[0], (pair[1] - pair[0]) as usize));
        let places = keys.as_chunks::<16>().0.iter().copied().zip(spans).collect();
        Ok(Self { record, dir: dir.to_owned(), index, places })
    }

    /// The rows from `first` on, `rows` of them, appended to `to`.
    fn read(&self, first: u64, rows: usize, to: &mut TopTokens) -> Result<()> {
        let k = self.record.k;
        let bytes = |name: &str, width: usize| -> Result<Vec<u8>> {
            let mut bytes = vec![0; rows * width];
            self.index.read_range(self.index.entry(name)?, first * width as u64, &mut bytes)?;
            Ok(bytes)
        };
        let (ids, log_probs, rest) = (bytes("ids", 4 * k)?, bytes("log_probs", 2 * k)?, bytes("rest", 4)?);
        let vocabulary = self.record.vocab_size as u32;
        for row in 0..rows {
            let fault = |what: &str| {
                let row = first + row as u64;
                Error::work(format!("{}: row {row}: {what}; make the cache anew", self.dir.join(SAID).display()))
            };
            let ids = ids[row * 4 * k..(row + 1) * 4 * k].as_chunks::<4>().0;
            let ids = ids.iter().map(|bytes| u32::from_le_bytes(*bytes));
            let log_probs = log_probs[row * 2 * k..(row + 1) * 2 * k].as_chunks::<2>().0;
            let log_probs: Vec<f64> = log_probs.iter().map(|bytes| f64::from(f16::from_le_bytes(*bytes))).collect();
            let rest = f64::from(f32::from_le_bytes(rest.as_chunks::<4>().0[row]));
            if ids.clone().any(|id| id >= vocabulary) {
                return Err(fault("a token that is beyond the vocabulary"));
            }
            let mass = log_probs.iter().chain([&rest]).map(|log_prob| log_prob.exp()).sum::<f64>();
            if !(mass - 1.0).abs().le(&OFF) {
                return Err(fault("probabilities that do not add up to 1"));
            }
            to.ids.extend(ids);
            to.log_probs.extend(log_probs.iter().map(|log_prob| (log_prob - mass.ln()) as f32));
            to.rest.push((rest - mass.ln()) as f32);
        }
        Ok(())
    }
}

impl Lessons for TeacherCache {
    fn of(&self, rows: &[Vec<u32>]) -> Result<TopTokens> {
        let mut top = TopTokens { k: self.record.k, ..TopTokens::default() };
        for row in rows {
            let targets = learned(row);
            if targets == 0 {
                continue;
            }
            let place = self.places.get(&digest(row)).filter(|(_, rows)| *rows == targets);
            let (first, rows) = place.ok_or_else(|| {
                Error::work("the teacher's cache lacks a sequence of this text: it was made for others")
            })?;
            self.read(*first, *rows, &mut top).context(|| "teacher")?;
        }
        Ok(top)
    }
}
