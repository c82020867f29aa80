//! JSON files that others wrote: bounded in size, bounded in depth (by `serde_json`), named when they are broken.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use serde::de::DeserializeOwned;

use super::python_json::parse_json;
use crate::{Error, Result};

/// Longest JSON file read into memory. The index of the largest models has a few megabytes.
const MAX_JSON: u64 = 100_000_000;

/// Reads the JSON file at `path`.
///
/// # Errors
/// Request: no such file. Work: unreadable, longer than 100 MB, not JSON, or not of the asked shape.
pub fn read_json<T: DeserializeOwned>(path: &Path) -> Result<T> {
    let at = |error: std::io::Error| Error::io(path, &error);
    let mut text = Vec::new();
    File::open(path).map_err(at)?.take(MAX_JSON + 1).read_to_end(&mut text).map_err(at)?;
    if text.len() as u64 > MAX_JSON {
        return Err(Error::work(format!("{}: longer than {MAX_JSON} bytes", path.display())));
    }
    parse_json(&text).map_err(|error| Error::work(format!("{}: {error}", path.display())))
}
