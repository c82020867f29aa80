//! Measurements kept as they come: a search that was killed goes on where it was and ends with the same bytes.
//!
//! `journal.jsonl` has a line for each candidate that was measured. A line that was cut short by the end of its process
//! does not count, nor does what follows a line that no search writes: the file may be anyone's.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::evidence::Evidence;
use super::metrics::{Metric, metric};
use super::moments::Scores;
use crate::model::Loss;
use crate::{Error, Result, files};

/// Bytes of a value in its line, at most, with the number of its sequence: `[-1.2345678901234567e-300,2048],1000,`.
const VALUE: u64 = 96;

/// The values of one candidate.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    metric: String,
    dropped: Vec<usize>,
    /// Numbers of the sequences; absent where all were measured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    on: Option<Vec<usize>>,
    /// Of each sequence, its sum and what it weighs.
    values: Vec<(f64, usize)>,
}

/// What tells a candidate from all others.
fn key(metric: &str, dropped: &[usize], on: Option<&[usize]>) -> String {
    format!("{metric} {dropped:?} {on:?}")
}

/// An open journal. Values stay on disk, what is in memory is where they lie.
#[derive(Debug)]
pub struct Journal {
    path: PathBuf,
    file: File,
    /// Tokens of each sequence.
    lengths: Vec<usize>,
    places: BTreeMap<String, (u64, usize)>,
    end: u64,
}

impl Journal {
    /// Takes up the journal at `path`, or begins it, of measurements on sequences of these lengths.
    ///
    /// # Errors
    /// The file system's.
    pub fn open(path: &Path, lengths: Vec<usize>) -> Result<Self> {
        let at = |error: std::io::Error| Error::io(path, &error);
        let file = OpenOptions::new().read(true).append(true).create(true).open(path).map_err(at)?;
        let mut journal = Self { path: path.to_owned(), file, lengths, places: BTreeMap::new(), end: 0 };
        journal.read().map_err(at)?;
        Ok(journal)
    }

    /// Candidates that are in it.
    #[must_use]
    pub fn len(&self) -> usize {
        self.places.len()
    }

    /// Whether none is.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.places.is_empty()
    }

    fn read(&mut self) -> std::io::Result<()> {
        let longest = files::NOTE + VALUE * self.lengths.len() as u64;
        let (mut reader, mut text) = (BufReader::new(&self.file), Vec::new());
        loop {
            text.clear();
            (&mut reader).take(longest).read_until(b'\n', &mut text)?;
            let line = text.strip_suffix(b"\n").and_then(|text| parse(text, &self.lengths));
            let Some(line) = line else { break };
            let place = (self.end, text.len());
            self.places.insert(key(&line.metric, &line.dropped, line.on.as_deref()), place);
            self.end += text.len() as u64;
        }
        // what follows the last good line was cut short, or is none of this program's
        self.file.set_len(self.end)
    }

    /// The values of a candidate, if it is in the journal.
    ///
    /// # Errors
    /// Work: the file changed meanwhile, or cannot be read.
    pub fn values(&mut self, metric: &Metric, dropped: &[usize], on: Option<&[usize]>) -> Result<Option<Vec<Loss>>> {
        let Some((start, len)) = self.places.get(&key(metric.name, dropped, on)).copied() else { return Ok(None) };
        let mut text = vec![0; len];
        let read = self.file.seek(SeekFrom::Start(start)).and_then(|_| self.file.read_exact(&mut text));
        read.map_err(|error| Error::io(&self.path, &error))?;
        let line = parse(&text[..len - 1], &self.lengths).filter(|line| line.dropped == dropped);
        let line = line.ok_or_else(|| Error::work(format!("{}: changed while it was read", self.path.display())))?;
        Ok(Some(line.values.into_iter().map(|(sum, tokens)| Loss { sum, tokens }).collect()))
    }

    /// Keeps the values of `candidates`, but of those that are not finite, which whoever asked has to see first.
    ///
    /// # Errors
    /// The file system's.
    pub fn keep(
        &mut self,
        metric: &Metric,
        candidates: &[Vec<usize>],
        on: Option<&[usize]>,
        found: &[Vec<Loss>],
    ) -> Result<()> {
        let (mut text, mut places) = (String::new(), Vec::new());
        for (dropped, values) in candidates.iter().zip(found) {
            if values.iter().any(|value| !value.sum.is_finite()) {
                continue;
            }
            let line = Line {
                metric: metric.name.to_owned(),
                dropped: dropped.clone(),
                on: on.map(<[usize]>::to_vec),
                values: values.iter().map(|value| (value.sum, value.tokens)).collect(),
            };
            let line = serde_json::to_string(&line).map_err(|error| Error::work(format!("journal: {error}")))? + "\n";
            places.push((key(metric.name, dropped, on), (self.end + text.len() as u64, line.len())));
            text += &line;
        }
        // one write, so that only what was on its way can be cut short
        self.file.write_all(text.as_bytes()).map_err(|error| Error::io(&self.path, &error))?;
        self.end += text.len() as u64;
        self.places.extend(places);
        Ok(())
    }
}

/// A line that a search can have written, of sequences of these lengths.
fn parse(text: &[u8], lengths: &[usize]) -> Option<Line> {
    let line: Line = serde_json::from_slice(text).ok()?;
    metric(&line.metric).ok()?;
    let own = |of: &[usize]| -> Option<Vec<usize>> { of.iter().map(|at| lengths.get(*at).copied()).collect() };
    let lengths = line.on.as_deref().map_or_else(|| Some(lengths.to_vec()), own)?;
    let sound = |((sum, weight), length): (&(f64, usize), &usize)| sum.is_finite() && weight <= length;
    (line.values.len() == lengths.len() && line.values.iter().zip(&lengths).all(sound)).then_some(line)
}

/// Evidence that answers from a journal what is in it, and keeps there what it has to measure.
pub struct Recalled<'a> {
    inner: &'a mut dyn Evidence,
    journal: &'a mut Journal,
}

impl<'a> Recalled<'a> {
    /// `inner`, with what `journal` knows.
    pub fn new(inner: &'a mut dyn Evidence, journal: &'a mut Journal) -> Self {
        Self { inner, journal }
    }
}

impl Evidence for Recalled<'_> {
    fn layers(&self) -> usize {
        self.inner.layers()
    }

    fn sequences(&self) -> usize {
        self.inner.sequences()
    }

    fn costs(&mut self, metric: &Metric, dropped: &[Vec<usize>], on: Option<&[usize]>) -> Result<Vec<Vec<Loss>>> {
        let known = dropped.iter().map(|dropped| self.journal.values(metric, dropped, on));
        let known = known.collect::<Result<Vec<_>>>()?;
        let mut missing: Vec<Vec<usize>> = Vec::new();
        for dropped in known.iter().zip(dropped).filter_map(|(known, own)| known.is_none().then_some(own)) {
            if !missing.contains(dropped) {
                missing.push(dropped.clone());
            }
        }
        let found = if missing.is_empty() { Vec::new() } else { self.inner.costs(metric, &missing, on)? };
        self.journal.keep(metric, &missing, on, &found)?;
        let found: BTreeMap<&Vec<usize>, &Vec<Loss>> = missing.iter().zip(&found).collect();
        let answers = known.into_iter().zip(dropped).map(|(known, dropped)| {
            let answer = known.or_else(|| found.get(dropped).map(|found| (*found).clone()));
            answer.ok_or_else(|| Error::work(format!("{} gave no value of {dropped:?}", metric.name)))
        });
        answers.collect()
    }

    fn rises(&self, whole: &[Loss], candidates: &[Vec<Loss>], name: &str) -> Scores {
        self.inner.rises(whole, candidates, name)
    }

    fn reached(&self, message: &str) {
        self.inner.reached(message);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Counts what is measured; a candidate costs what its numbers add up to.
    struct Counting(Vec<Vec<usize>>);

    impl Evidence for Counting {
        fn layers(&self) -> usize {
            8
        }

        fn sequences(&self) -> usize {
            3
        }

        fn costs(&mut self, _metric: &Metric, dropped: &[Vec<usize>], on: Option<&[usize]>) -> Result<Vec<Vec<Loss>>> {
            self.0.extend(dropped.iter().cloned());
            let own: Vec<usize> = on.map_or_else(|| vec![0, 1, 2], <[usize]>::to_vec);
            let cost = |dropped: &Vec<usize>| dropped.iter().sum::<usize>() as f64 / 7.0;
            let of = |dropped: &Vec<usize>, at: &usize| Loss { sum: cost(dropped) + 0.1 * *at as f64, tokens: 3 + at };
            Ok(dropped.iter().map(|dropped| own.iter().map(|at| of(dropped, at)).collect()).collect())
        }

        fn reached(&self, _message: &str) {}
    }

    fn lengths() -> Vec<usize> {
        vec![5, 6, 7]
    }

    #[test]
    fn what_was_measured_is_not_measured_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("journal.jsonl");
        let loss = metric("layer-loss").unwrap();
        let sets = [vec![], vec![1], vec![2, 5], vec![1]];
        let mut counting = Counting(Vec::new());
        let plain = counting.costs(loss, &sets, None).unwrap();
        let run = |sets: &[Vec<usize>], on: Option<&[usize]>, metric: &Metric| {
            let (mut counting, mut journal) = (Counting(Vec::new()), Journal::open(&path, lengths()).unwrap());
            let found = Recalled::new(&mut counting, &mut journal).costs(metric, sets, on).unwrap();
            (found, counting.0.len())
        };
        assert_eq!(run(&sets[..2], None, loss), (plain[..2].to_vec(), 2));
        // one of three is new, and asked for once
        assert_eq!(run(&sets, None, loss), (plain.clone(), 1));
        let text = std::fs::read(&path).unwrap();
        for cut in 1..text.len() {
            std::fs::write(&path, &text[..cut]).unwrap();
            let whole = text[..cut].iter().filter(|byte| **byte == b'\n').count();
            assert_eq!(run(&sets, None, loss), (plain.clone(), 3 - whole), "{cut}");
            assert_eq!(std::fs::read(&path).unwrap(), text);
        }
        // of other sequences, and by another metric, it is another measurement
        let (found, measured) = run(&sets, Some(&[2, 0]), loss);
        assert_eq!((found[0].len(), found[1][0].tokens, measured), (2, 5, 3));
        assert_eq!(run(&sets, None, metric("js").unwrap()).1, 3);
        assert_eq!(Journal::open(&path, lengths()).unwrap().len(), 9);
    }

    #[test]
    fn what_no_search_writes_ends_what_is_believed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("journal.jsonl");
        let good = "{\"metric\":\"layer-loss\",\"dropped\":[1],\"values\":[[0.5,4],[0.5,5],[0.5,6]]}\n";
        for odd in [
            "{\"metric\":\"layer-loss\",\"dropped\":[2],\"values\":[[0.5,4],[0.5,5]]}\n",
            "{\"metric\":\"layer-loss\",\"dropped\":[2],\"values\":[[0.5,4],[0.5,5],[0.5,8]]}\n",
            "{\"metric\":\"layer-loss\",\"dropped\":[2],\"values\":[[1e999,4],[0.5,5],[0.5,6]]}\n",
            "{\"metric\":\"layer-loss\",\"dropped\":[2],\"on\":[3],\"values\":[[0.5,4]]}\n",
            "{\"metric\":\"best\",\"dropped\":[2],\"values\":[[0.5,4],[0.5,5],[0.5,6]]}\n",
            "{\"metric\":\"layer-loss\",\"dropped\":[-2],\"values\":[]}\n",
            "\n",
            &format!("{{\"metric\":\"{}\"}}\n", "x".repeat(1 << 20)),
        ] {
            std::fs::write(&path, format!("{good}{odd}{good}")).unwrap();
            assert_eq!(Journal::open(&path, lengths()).unwrap().len(), 1, "{odd:.80}");
            assert_eq!(std::fs::read_to_string(&path).unwrap(), good);
        }
        let mut journal = Journal::open(&path, lengths()).unwrap();
        let loss = metric("layer-loss").unwrap();
        let broken = [vec![Loss { sum: f64::NAN, tokens: 1 }; 3], vec![Loss { sum: 1.0, tokens: 1 }; 3]];
        journal.keep(loss, &[vec![3], vec![4]], None, &broken).unwrap();
        assert_eq!(journal.values(loss, &[3], None).unwrap(), None);
        assert_eq!(journal.values(loss, &[4], None).unwrap(), Some(broken[1].clone()));
    }
}
