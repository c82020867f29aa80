//! The small JSON files of a model: its configuration and what lies beside it.

use std::path::Path;

use serde::de::DeserializeOwned;

use super::python_json::parse_json;
use crate::files::{self, Bound};
use crate::{Error, Result};

/// Reads the JSON file at `path`, as [`Bound::CONFIG`] allows.
///
/// # Errors
/// Those of [`files::json`].
pub fn read_json<T: DeserializeOwned>(path: &Path) -> Result<T> {
    let text = files::json_text(path, Bound::CONFIG)?;
    parse_json(&text).map_err(|error| Error::work(format!("{}: {}", path.display(), files::json_fault(&error))))
}
