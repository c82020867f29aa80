//! Files that others wrote, read with suspicion: regular ones only, no longer than such a file sensibly is, and JSON
//! counted before it is built.
//!
//! A pipe may never end and a device never does, so that a model, recipe or plan is a regular file or is refused. JSON
//! grows when it is built: `[0,0,0]` takes some 40 bytes of memory for each byte of text.

use std::fs::{File, FileType, Metadata};
use std::io::{ErrorKind, Read};
use std::path::Path;

use serde::de::DeserializeOwned;

use crate::{Context, Error, Result};

/// Bytes of a recipe or a file of settings at most; TOML takes some hundred bytes of memory for each.
pub const TOML: u64 = 1 << 20;

/// Bytes of the log of a training at most: a line a step.
pub const LOG: u64 = 256 << 20;

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
    /// What this program or another tool recorded: an analysis, results, a state; and the tokens a tokenizer adds.
    pub const RECORD: Self = Self { bytes: 64 << 20, values: 1_000_000 };
    /// The index of a sharded model, a line a tensor.
    pub const INDEX: Self = Self { bytes: 256 << 20, values: 2_000_000 };
    /// A vocabulary and its merges.
    pub const TOKENIZER: Self = Self { bytes: 256 << 20, values: 8_000_000 };
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
pub fn read_text(path: &Path, most: u64) -> Result<String> {
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

/// The text of the JSON file at `path`, which is as `bound` allows.
///
/// # Errors
/// As [`read`]; Work: of too many values.
pub fn json_text(path: &Path, bound: Bound) -> Result<Vec<u8>> {
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
    serde_json::from_slice(text).map_err(|error| Error::work(error.to_string()))
}

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
        assert!(json::<Value>(&path, Bound::CONFIG).unwrap_err().to_string().contains("config.json: EOF"));
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
