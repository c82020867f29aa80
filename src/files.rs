//! Files that others wrote, read with suspicion: regular ones only, no longer than such a file sensibly is, and JSON
//! counted before it is built.
//!
//! A pipe may never end and a device never does, so that a model, recipe or plan is a regular file or is refused. JSON
//! grows when it is built: `[0,0,0]` takes some 40 bytes of memory for each byte of text.

use std::ffi::OsStr;
use std::fs::{File, FileType, Metadata};
use std::io::{ErrorKind, Read};
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;

use crate::{Context, Error, Result};

/// Bytes of a file that holds a few words: the name of a commit, a token, a note.
pub(crate) const NOTE: u64 = 64 << 10;

/// Bytes of a recipe or a file of settings at most; TOML takes some hundred bytes of memory for each.
pub const TOML: u64 = 1 << 20;

/// Bytes of the log of a training at most: a line a step.
pub(crate) const LOG: u64 = 256 << 20;

/// What a kind of file takes at most.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bound {
    /// Bytes of the file.
    pub bytes: u64,
    /// Values of its JSON: numbers, strings, lists, objects and all that is in them.
    pub values: usize,
}

impl Bound {
    /// A configuration, a recipe, a plan, an adapter's settings. The largest in the field have some thousand values.
    pub const CONFIG: Self = Self { bytes: 16 << 20, values: 200_000 };
    /// What this program or another tool recorded: results, a state; and the tokens a tokenizer adds.
    pub(crate) const RECORD: Self = Self { bytes: 64 << 20, values: 1_000_000 };
    /// An analysis, which may be of several texts. Those of a model of 80 layers have 300,000 values a text.
    pub(crate) const ANALYSIS: Self = Self { bytes: 128 << 20, values: 3_000_000 };
    /// The index of a sharded model, a line a tensor.
    pub const INDEX: Self = Self { bytes: 256 << 20, values: 2_000_000 };
    /// A vocabulary and its merges.
    pub(crate) const TOKENIZER: Self = Self { bytes: 128 << 20, values: 3_000_000 };
}

/// Opens the regular file at `path`, links followed.
///
/// # Errors
/// Request: no such file; a directory, pipe, socket or device. Work: it cannot be opened.
pub fn open(path: &Path) -> Result<(File, Metadata)> {
    let at = |error: std::io::Error| Error::io(path, &error);
    // before opening: that waits for a pipe's other end
    let metadata = std::fs::metadata(path).map_err(at)?;
    if !metadata.is_file() {
        let found = kind(metadata.file_type());
        return Err(Error::request(format!("{}: is {found}, expected a file", path.display())));
    }
    let file = File::open(path).map_err(at)?;
    let metadata = file.metadata().map_err(at)?;
    Ok((file, metadata))
}

/// What is there instead of a file, as an error message says it.
fn kind(found: FileType) -> &'static str {
    #[cfg(unix)]
    {
        use std::os::unix::fs::FileTypeExt;
        if found.is_fifo() {
            return "a pipe";
        }
        if found.is_socket() {
            return "a socket";
        }
        if found.is_char_device() || found.is_block_device() {
            return "a device";
        }
    }
    if found.is_dir() { "a directory" } else { "something else" }
}

/// Entries of a directory that are looked at for a name that was meant.
const ENTRIES: usize = 1000;

/// What a `path` that is not there may have meant, to stand behind saying so: `, did you mean text/train.jsonl?`, or
/// nothing.
#[must_use]
pub fn meant(path: &Path) -> String {
    near(path).map_or_else(String::new, |near| format!(", did you mean {}?", near.display()))
}

/// The path that is there and called nearly as `path`: the first part that is missing is another, the rest the same.
fn near(path: &Path) -> Option<PathBuf> {
    let parts: Vec<_> = path.components().collect();
    let to = |end: usize| parts[..end].iter().collect::<PathBuf>();
    let missing = (1..=parts.len()).find(|end| !to(*end).exists())?;
    let (parent, name) = (to(missing - 1), parts[missing - 1].as_os_str().to_str()?);
    let listed = if parent.as_os_str().is_empty() { Path::new(".") } else { &parent };
    let entries = std::fs::read_dir(listed).ok()?.take(ENTRIES).flatten();
    let rest: PathBuf = parts[missing..].iter().collect();
    let found = entries.filter_map(|entry| {
        let known = entry.file_name().into_string().ok()?;
        let near = parent.join(&known);
        let near = if rest.as_os_str().is_empty() { near } else { near.join(&rest) };
        (!known.starts_with('.') && near.exists()).then(|| (likeness(name, &known), near))
    });
    let (likeness, near) = found.max_by(|a, b| a.0.total_cmp(&b.0).then_with(|| b.1.cmp(&a.1)))?;
    (likeness >= LIKE).then_some(near)
}

/// From this likeness on a name may be a mistyped other one: one letter of five.
const LIKE: f64 = 0.8;

/// How alike two names are, 0 to 1: one less for every letter that is another, missing, too many or in another place,
/// as a share of all. Their stems alone have to be as much so: an ending in common makes none of the other.
fn likeness(name: &str, known: &str) -> f64 {
    let stem = |name: &str| Path::new(name).file_stem().and_then(OsStr::to_str).unwrap_or(name).to_lowercase();
    let whole = strsim::normalized_damerau_levenshtein(&name.to_lowercase(), &known.to_lowercase());
    whole.min(strsim::normalized_damerau_levenshtein(&stem(name), &stem(known)))
}

/// The bytes of the file at `path`.
///
/// # Errors
/// As [`open`]; Work: unreadable, or longer than `most` bytes.
pub fn read(path: &Path, most: u64) -> Result<Vec<u8>> {
    let (file, metadata) = open(path)?;
    let too_long = || Error::work(format!("{}: longer than {} MiB", path.display(), most >> 20));
    if metadata.len() > most {
        return Err(too_long());
    }
    let mut bytes = Vec::with_capacity(usize::try_from(metadata.len()).unwrap_or(0));
    file.take(most + 1).read_to_end(&mut bytes).map_err(|error| Error::io(path, &error))?;
    if bytes.len() as u64 > most { Err(too_long()) } else { Ok(bytes) }
}

/// The text of the file at `path`.
///
/// # Errors
/// As [`read`]; Work: not UTF-8.
pub(crate) fn read_text(path: &Path, most: u64) -> Result<String> {
    let text = String::from_utf8(read(path, most)?);
    text.map_err(|error| Error::io(path, &std::io::Error::new(ErrorKind::InvalidData, error.utf8_error())))
}

/// The JSON file at `path`, as `bound` allows.
///
/// # Errors
/// As [`read`]; Work: not JSON, or not of the asked shape, or of too many values.
pub fn json<T: DeserializeOwned>(path: &Path, bound: Bound) -> Result<T> {
    parse(&read(path, bound.bytes)?, bound).context(|| path.display())
}

/// As [`json`] of a file that the user named: whatever is wrong with it, it was asked for.
///
/// # Errors
/// Request, all of those.
pub(crate) fn asked_json<T: DeserializeOwned>(path: &Path, bound: Bound) -> Result<T> {
    json(path, bound).map_err(|error| match error {
        Error::Work(fault) => Error::Request(fault),
        error => error,
    })
}

/// The text of the JSON file at `path`, which is as `bound` allows.
///
/// # Errors
/// As [`read`]; Work: of too many values.
pub(crate) fn json_text(path: &Path, bound: Bound) -> Result<Vec<u8>> {
    let text = read(path, bound.bytes)?;
    counted(&text, bound).context(|| path.display())?;
    Ok(text)
}

/// JSON from its text, as `bound` allows.
///
/// # Errors
/// Work: not JSON, or not of the asked shape, or of too many values.
pub fn parse<T: DeserializeOwned>(text: &[u8], bound: Bound) -> Result<T> {
    counted(text, bound)?;
    serde_json::from_slice(text).map_err(|error| Error::work(json_fault(&error)))
}

/// What is wrong with a JSON text, for its user.
pub(crate) fn json_fault(error: &serde_json::Error) -> String {
    let fault = error.to_string().replace(RECURSION, NESTED);
    if error.is_data() || fault.starts_with(NESTED) { fault } else { format!("not JSON: {fault}") }
}

/// What JSON's reader says of brackets inside each other, more than 127, and what a user is told.
pub(crate) const RECURSION: &str = "recursion limit exceeded";
pub(crate) const NESTED: &str = "lists and objects lie too deep in one another";

fn counted(text: &[u8], bound: Bound) -> Result<()> {
    if values(text) > bound.values {
        return Err(Error::work(format!("JSON of more than {} values, more than such a file has", bound.values)));
    }
    Ok(())
}

/// Values in a JSON text, the whole not counted: at most one stands behind each bracket and comma.
fn values(text: &[u8]) -> usize {
    let (mut values, mut in_string, mut escaped) = (0, false, false);
    for byte in text {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_string => escaped = true,
            b'"' => in_string = !in_string,
            b',' | b'[' | b'{' if !in_string => values += 1,
            _ => {}
        }
    }
    values
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    #[test]
    fn values_are_counted_before_they_are_built() {
        for (text, expected) in [("{}", 1), ("[1,2,3]", 3), (r#"{"a":[1,{"b":","}],"c\",":"]["}"#, 5), ("7", 0)] {
            assert_eq!(values(text.as_bytes()), expected, "{text}");
        }
        let bound = Bound { bytes: 100, values: 3 };
        assert_eq!(parse::<Vec<u8>>(b"[1,2,3]", bound).unwrap(), [1, 2, 3]);
        let error = parse::<Value>(b"[[],[],[]]", bound).unwrap_err().to_string();
        assert!(error.contains("more than 3 values"), "{error}");
        let nested = format!("{{\"a\": {}", "[".repeat(200));
        let error = parse::<Value>(nested.as_bytes(), Bound::RECORD).unwrap_err().to_string();
        assert_eq!(error, "lists and objects lie too deep in one another at line 1 column 133");
    }

    #[test]
    fn a_mistyped_path_says_what_was_meant() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(dir.path().join("atlas/text")).unwrap();
        for name in ["validation.jsonl", "train.jsonl", "a.jsonl"] {
            std::fs::write(dir.path().join("atlas/text").join(name), "x").unwrap();
        }
        let place = |name: &str| dir.path().join(name);
        for (typed, right) in [
            ("atlas/text/validaton.jsonl", "atlas/text/validation.jsonl"),
            ("atlsa/text/train.jsonl", "atlas/text/train.jsonl"),
            ("Atlas", "atlas"),
            ("atlas/text/trian.jsonl", "atlas/text/train.jsonl"),
        ] {
            // the rest of a path has to be there as well
            let expected = format!(", did you mean {}?", place(right).display());
            assert_eq!(meant(&place(typed)), expected, "{typed}");
            let error = Error::io(place(typed), &ErrorKind::NotFound.into());
            let expected = format!("{}: no such file or directory{expected}", place(typed).display());
            assert!(matches!(&error, Error::Request(m) if *m == expected), "{error}");
        }
        for typed in ["atlas/text/b.jsonl", "atlas/text/train.json/x", "atlsa/none", "atlas/text/train.jsonl", "x", ""]
        {
            assert_eq!(meant(&place(typed)), "", "{typed}");
        }
    }

    #[test]
    fn a_long_file_is_refused_by_its_length() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("config.json");
        // a hole: nothing of it may be read
        File::create(&path).unwrap().set_len(1 << 40).unwrap();
        let error = json::<Value>(&path, Bound::CONFIG).unwrap_err();
        assert!(matches!(&error, Error::Work(m) if m.ends_with("config.json: longer than 16 MiB")), "{error}");
        std::fs::write(&path, "{\"a\": ").unwrap();
        assert!(json::<Value>(&path, Bound::CONFIG).unwrap_err().to_string().contains("config.json: not JSON: EOF"));
        assert!(matches!(json::<Value>(&dir.path().join("no"), Bound::CONFIG), Err(Error::Request(_))));
    }

    #[test]
    fn only_a_regular_file_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let error = read(dir.path(), 10).unwrap_err();
        assert!(matches!(&error, Error::Request(m) if m.ends_with("is a directory, expected a file")), "{error}");
        #[cfg(unix)]
        {
            let error = read(Path::new("/dev/zero"), 10).unwrap_err().to_string();
            assert_eq!(error, "/dev/zero: is a device, expected a file");
            let socket = dir.path().join("socket");
            let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
            assert!(read(&socket, 10).unwrap_err().to_string().ends_with("is a socket, expected a file"));
        }
    }
}
