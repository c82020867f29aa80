//! Answers kept as they come: a run that was killed continues where it was and ends with the same bytes.
//!
//! `journal.jsonl` in the output directory starts with a line that says which run it belongs to; then comes one line a
//! finished pass. A line that was cut short by the end of its process does not count.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::passes::PassTokens;
use super::request::{Answer, Completion, Written};
use crate::checkpoint::{MARK, Workplace, adopt, claim, made_by, work_in};
use crate::shown::from_here;
use crate::{Error, Result, files};

/// Name of the file in the output directory.
pub const JOURNAL: &str = "journal.jsonl";

/// Which run a journal belongs to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunId {
    /// Version of the program.
    pub version: String,
    /// The model, for the reader.
    pub model: String,
    /// Digest of the model's files, of every request and of what changes an answer.
    pub digest: String,
    /// Tokens a pass was planned for: a continued run plans the same passes on a machine with other memory.
    pub pass_tokens: PassTokens,
    /// Tokens that answers in the model's own words were planned to have room for, where there are such.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cached_tokens: Option<usize>,
}

/// One finished pass.
#[derive(Serialize, Deserialize)]
struct Line {
    pass: usize,
    answers: Vec<Entry>,
}

impl Line {
    fn new(pass: usize, answers: &[Answer]) -> Result<Self> {
        Ok(Self { pass, answers: answers.iter().map(Entry::new).collect::<Result<_>>()? })
    }

    /// The answers; none where one is a number that is none.
    fn answers(self) -> Option<Vec<Answer>> {
        self.answers.into_iter().map(Entry::answer).collect()
    }
}

/// A pass and its answers as one process tells another: as they stand in a journal.
pub(super) fn to_report(pass: usize, answers: &[Answer]) -> Result<Vec<u8>> {
    serde_json::to_vec(&Line::new(pass, answers)?).map_err(|error| Error::work(format!("journal: {error}")))
}

/// The pass and the answers of a report.
pub(super) fn of_report(report: &[u8]) -> Option<(usize, Vec<Answer>)> {
    let line: Line = serde_json::from_slice(report).ok()?;
    Some((line.pass, line.answers()?))
}

/// The answer to a token request.
#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum Entry {
    /// Log-likelihood and greediness.
    Scored(f32, bool),
    /// What the model said, and how.
    Said(String, Written),
}

impl Entry {
    fn new(answer: &Answer) -> Result<Self> {
        match answer {
            Answer::LogLikelihood { log_likelihood, greedy } => Ok(Self::Scored(*log_likelihood, *greedy)),
            Answer::Text(Completion { text, written: Some(written) }) => Ok(Self::Said(text.clone(), *written)),
            Answer::Text(_) => Err(Error::work("journal: an answer that no model wrote")),
            Answer::Rolling { .. } => Err(Error::work("journal: a text is kept by its windows")),
        }
    }

    /// The answer; none with a number that is none.
    fn answer(self) -> Option<Answer> {
        match self {
            Self::Scored(log_likelihood, greedy) => {
                log_likelihood.is_finite().then_some(Answer::LogLikelihood { log_likelihood, greedy })
            }
            Self::Said(text, written) => Some(Answer::Text(Completion { text, written: Some(written) })),
        }
    }
}

/// Bytes of a token in JSON, at most.
const TOKEN: usize = 1024;

/// An open journal.
#[derive(Debug)]
pub struct Journal {
    path: PathBuf,
    file: File,
    done: BTreeMap<usize, Vec<Answer>>,
}

impl Journal {
    /// The run that the journal in `dir` belongs to, if there is one.
    #[must_use]
    pub fn run(dir: &Path) -> Option<RunId> {
        let (file, _) = files::open(&dir.join(JOURNAL)).ok()?;
        let mut first = Vec::new();
        BufReader::new(file.take(files::NOTE)).read_until(b'\n', &mut first).ok()?;
        serde_json::from_slice(first.strip_suffix(b"\n")?).ok()
    }

    /// Whether nothing but an unfinished evaluation is in `dir`.
    #[must_use]
    pub fn is_alone(dir: &Path) -> bool {
        let names = fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.file_name());
        let others = names.filter(|name| name.to_str().is_none_or(|name| name != JOURNAL && name != MARK)).count();
        others == 0 && (!dir.join(JOURNAL).exists() || made_by(dir).as_deref() == Some("eval"))
    }

    /// Continues the journal in the directory that `place` is for, or starts one; `force` throws away another run's.
    /// `sizes` are the numbers of answers of the passes.
    ///
    /// # Errors
    /// A journal of another run, a directory of somebody else's, or the file system's.
    pub fn open(place: &Workplace, run: &RunId, sizes: &[usize], force: bool) -> Result<Self> {
        let dir = place.target();
        let path = dir.join(JOURNAL);
        // no token is longer than this
        let said = run.cached_tokens.map_or(0, |tokens| tokens.saturating_mul(TOKEN));
        let io = |error: std::io::Error| Error::io(&path, &error);
        place.refuse_taken(true)?;
        if !dir.exists() {
            place.make_dir(dir, &[JOURNAL])?;
        } else {
            work_in(dir, "eval")?;
        }
        adopt(dir, &[])?;
        claim(&path)?;
        let mut file = OpenOptions::new().read(true).append(true).create(true).open(&path).map_err(io)?;
        let (known, done, whole) = read(&file, sizes, said).map_err(io)?;
        if known.as_ref() == Some(run) {
            // what follows the last whole line was cut short
            file.set_len(whole).map_err(io)?;
            return Ok(Self { path, file, done });
        }
        if known.is_some() && !force {
            return Err(Error::request(format!(
                "{}: holds an unfinished evaluation with another model, other data or settings; --force starts anew",
                from_here(dir)
            )));
        }
        file.set_len(0).and_then(|()| file.seek(SeekFrom::Start(0))).map_err(io)?;
        let mut journal = Self { path, file, done: BTreeMap::new() };
        journal.append(run)?;
        Ok(journal)
    }

    /// The passes that another process has finished in `dir`, of the same run.
    ///
    /// # Errors
    /// Request: no journal there, or one of another run. The file system's.
    pub fn finished(dir: &Path, run: &RunId, sizes: &[usize]) -> Result<BTreeMap<usize, Vec<Answer>>> {
        let path = dir.join(JOURNAL);
        let (file, _) = files::open(&path)
            .map_err(|_| Error::request(format!("--merge {}: no share of an evaluation is there", dir.display())))?;
        let said = run.cached_tokens.map_or(0, |tokens| tokens.saturating_mul(TOKEN));
        let (known, done, _) = read(&file, sizes, said).map_err(|error| Error::io(&path, &error))?;
        match known {
            Some(known) if known == *run => Ok(done),
            _ => Err(Error::request(format!(
                "--merge {}: holds a share of another evaluation: another model, other data, settings or --pass-tokens",
                dir.display()
            ))),
        }
    }

    /// Answers of a pass that an earlier process finished.
    #[must_use]
    pub fn answers(&self, pass: usize) -> Option<&[Answer]> {
        self.done.get(&pass).map(Vec::as_slice)
    }

    /// Keeps the answers of a pass.
    ///
    /// # Errors
    /// The file system's.
    pub fn keep(&mut self, pass: usize, answers: &[Answer]) -> Result<()> {
        self.append(&Line::new(pass, answers)?)
    }

    fn append(&mut self, line: &impl Serialize) -> Result<()> {
        let mut text = serde_json::to_string(line).map_err(|error| Error::work(format!("journal: {error}")))?;
        text.push('\n');
        // one write a line, so that only the last one can be cut short
        self.file.write_all(text.as_bytes()).map_err(|error| Error::io(&self.path, &error))
    }
}

/// The run, its finished passes, and the length of the whole lines.
type Found = (Option<RunId>, BTreeMap<usize, Vec<Answer>>, u64);

/// What stands in a journal. Lines of other passes than there are count, and give nothing. A text takes `said` bytes at
/// most.
fn read(file: &File, sizes: &[usize], said: usize) -> io::Result<Found> {
    /// Bytes of a score in its line, at most: `[-1.2345678e-30,false],`.
    const ANSWER: usize = 32;
    let longest = files::NOTE.max((sizes.iter().max().unwrap_or(&0) * ANSWER).max(said) as u64);
    let (mut reader, mut line) = (BufReader::new(file), Vec::new());
    let (mut run, mut done, mut whole) = (None, BTreeMap::new(), 0);
    loop {
        line.clear();
        (&mut reader).take(longest).read_until(b'\n', &mut line)?;
        if line.last() != Some(&b'\n') {
            return Ok((run, done, whole));
        }
        if run.is_none() {
            run = serde_json::from_slice(&line).ok();
            if run.is_none() {
                return Ok((None, done, 0));
            }
        } else {
            let Some((pass, answers)) = of_report(&line) else { return Ok((run, done, whole)) };
            if sizes.get(pass) == Some(&answers.len()) {
                done.insert(pass, answers);
            }
        }
        whole += line.len() as u64;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkpoint::Origin;

    fn run(digest: &str) -> RunId {
        RunId {
            version: "1".into(),
            model: "m".into(),
            digest: digest.into(),
            pass_tokens: PassTokens { usual: 8, most: 9 },
            cached_tokens: None,
        }
    }

    /// Answers of each pass.
    const SIZES: [usize; 10] = [1, 2, 0, 0, 3, 0, 0, 0, 0, 1];

    fn place(dir: &tempfile::TempDir) -> Workplace {
        Workplace::open(&dir.path().join("out"), &Origin::program("eval")).unwrap()
    }

    fn answers(n: usize) -> Vec<Answer> {
        (0..n).map(|i| Answer::LogLikelihood { log_likelihood: -1.0 / (i as f32 + 3.0), greedy: i == 1 }).collect()
    }

    #[test]
    fn what_was_kept_is_there_again() {
        let dir = tempfile::tempdir().unwrap();
        let mut journal = Journal::open(&place(&dir), &run("a"), &SIZES, false).unwrap();
        journal.keep(4, &answers(3)).unwrap();
        journal.keep(1, &answers(2)).unwrap();
        drop(journal);
        let path = dir.path().join("out").join(JOURNAL);
        let mut bytes = fs::read(&path).unwrap();
        let whole = bytes.len();
        bytes.extend_from_slice(b"{\"pass\":9,\"answers\":[[-0.");
        fs::write(&path, &bytes).unwrap();
        assert_eq!(Journal::run(&dir.path().join("out")), Some(run("a")));
        // what no evaluation writes ends what is believed
        let odd = b"{\"pass\":2,\"answers\":[[-1e39,false]]}\n{\"pass\":3,\"answers\":[]}\n";
        fs::write(&path, [&bytes[..whole], odd].concat()).unwrap();
        assert_eq!(Journal::open(&place(&dir), &run("a"), &SIZES, false).unwrap().answers(3), None);
        let mut journal = Journal::open(&place(&dir), &run("a"), &SIZES, false).unwrap();
        assert_eq!(journal.answers(4), Some(answers(3).as_slice()));
        assert_eq!((journal.answers(1).unwrap().len(), journal.answers(9)), (2, None));
        assert_eq!(fs::metadata(&path).unwrap().len(), whole as u64);
        journal.keep(9, &answers(1)).unwrap();
        drop(journal);
        assert_eq!(Journal::open(&place(&dir), &run("a"), &SIZES, false).unwrap().answers(9).unwrap().len(), 1);
    }

    #[test]
    fn what_no_pass_says_is_not_taken_in() {
        let dir = tempfile::tempdir().unwrap();
        let mut journal = Journal::open(&place(&dir), &run("a"), &SIZES, false).unwrap();
        journal.keep(1, &answers(2)).unwrap();
        drop(journal);
        let path = dir.path().join("out").join(JOURNAL);
        let kept = fs::read_to_string(&path).unwrap();
        // a pass that there is not, one of other answers, and a line longer than any
        let odd = "{\"pass\":18446744073709551615,\"answers\":[]}\n{\"pass\":0,\"answers\":[[0,true],[0,true]]}\n";
        let long = format!("{{\"pass\":0,\"answers\":[{}[0,true]]}}\n", "[0,true],".repeat(100_000));
        fs::write(&path, format!("{kept}{odd}{long}")).unwrap();
        let journal = Journal::open(&place(&dir), &run("a"), &SIZES, false).unwrap();
        assert_eq!((journal.done.len(), journal.answers(1).unwrap().len()), (1, 2));
        assert_eq!(fs::read_to_string(&path).unwrap(), format!("{kept}{odd}"));
    }

    #[test]
    fn another_runs_journal_is_refused_unless_forced() {
        let dir = tempfile::tempdir().unwrap();
        let mut journal = Journal::open(&place(&dir), &run("a"), &SIZES, false).unwrap();
        journal.keep(0, &answers(1)).unwrap();
        drop(journal);
        let error = Journal::open(&place(&dir), &run("b"), &SIZES, false).unwrap_err();
        assert!(error.to_string().contains("--force"), "{error}");
        let journal = Journal::open(&place(&dir), &run("b"), &SIZES, true).unwrap();
        assert_eq!(journal.answers(0), None);
        drop(journal);
        assert_eq!(Journal::run(&dir.path().join("out")), Some(run("b")));
    }

    #[test]
    fn other_files_are_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let out = dir.path().join("out");
        fs::create_dir(&out).unwrap();
        fs::write(out.join(JOURNAL), "day one\n").unwrap();
        for force in [false, true] {
            let error = Journal::open(&place(&dir), &run("a"), &SIZES, force).unwrap_err();
            assert!(error.exit_code() == 2 && error.to_string().contains(JOURNAL), "{error}");
            assert_eq!(fs::read_to_string(out.join(JOURNAL)).unwrap(), "day one\n");
        }
        assert_eq!(fs::read_dir(&out).unwrap().count(), 1);
    }
}
