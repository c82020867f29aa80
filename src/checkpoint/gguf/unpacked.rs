//! The files that would lie beside a model's weights, of a GGUF file that holds them all: written to a directory of
//! the system for temporary ones, which goes with the checkpoint.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use serde_json::{Map, Value as Json, json};
use tempfile::TempDir;

use super::header::Header;
use super::tokenizer;
use super::value::Value;
use crate::checkpoint::python_json::to_python_json;
use crate::checkpoint::side::CARD;
use crate::{Error, Result};

/// Files beside a GGUF file that speak of it, where this program wrote it: its history and its card.
const HISTORY: &str = "prune.json";
/// Token ids that end what a model says, beside the one that ends a text.
const ENDS: [&str; 3] = ["eos", "eot", "eom"];
/// Bytes of the name of a chat template.
const LONGEST_NAME: usize = 64;

/// The directory, and why there is no tokenizer in it.
#[derive(Debug)]
pub(super) struct Unpacked {
    pub(super) root: TempDir,
    pub(super) dir: PathBuf,
    pub(super) no_tokenizer: Option<String>,
}

/// Writes the files of the model at `path`.
///
/// # Errors
/// Work: no room.
pub(super) fn unpack(path: &Path, header: &Header, config: &Map<String, Json>) -> Result<Unpacked> {
    let root = tempfile::Builder::new().prefix("prune-gguf-").tempdir();
    let root = root.map_err(|error| Error::io(std::env::temp_dir(), &error))?;
    // errors name a file of the model
    let dir = root.path().join(path.file_name().unwrap_or_default());
    fs::create_dir(&dir).map_err(|error| Error::io(&dir, &error))?;
    // what is kept by the times of files is that of the model
    let changed = fs::metadata(path).and_then(|metadata| metadata.modified()).unwrap_or(SystemTime::UNIX_EPOCH);
    let write = |name: &str, text: &str| {
        let path = dir.join(name);
        let at = |error: std::io::Error| Error::io(&path, &error);
        fs::write(&path, text).map_err(at)?;
        File::options().write(true).open(&path).and_then(|file| file.set_modified(changed)).map_err(at)
    };
    let python = |value: &Json| to_python_json(value).map_err(|error| Error::work(error.to_string()));
    write("config.json", &python(&Json::Object(config.clone()))?)?;
    let id = |key: &str| header.get(&format!("tokenizer.ggml.{key}_token_id")).and_then(Value::unsigned);
    let mut generation = Map::new();
    let mut ends: Vec<u64> = Vec::new();
    for end in ENDS.into_iter().filter_map(id) {
        if !ends.contains(&end) {
            ends.push(end);
        }
    }
    match ends[..] {
        [] => {}
        [end] => drop(generation.insert("eos_token_id".to_owned(), json!(end))),
        _ => drop(generation.insert("eos_token_id".to_owned(), json!(ends))),
    }
    for (key, id) in [("bos_token_id", id("bos")), ("pad_token_id", id("padding"))] {
        if let Some(id) = id {
            generation.insert(key.to_owned(), json!(id));
        }
    }
    write("generation_config.json", &python(&Json::Object(generation))?)?;
    let no_tokenizer = match tokenizer::files(header) {
        Ok(files) => {
            write("tokenizer.json", &files.tokenizer.to_string())?;
            write("tokenizer_config.json", &python(&files.settings)?)?;
            None
        }
        // a file without any has nothing that could be read
        Err(why) => header.get("tokenizer.ggml.model").map(|_| why),
    };
    for pair in &header.pairs {
        let Some(template) = header.get(&pair.key).and_then(Value::text) else { continue };
        match pair.key.strip_prefix("tokenizer.chat_template") {
            Some("") => write("chat_template.jinja", template)?,
            Some(name) if is_name(name.trim_start_matches('.')) && name.starts_with('.') => {
                let folder = dir.join("additional_chat_templates");
                fs::create_dir_all(&folder).map_err(|error| Error::io(&folder, &error))?;
                write(&format!("additional_chat_templates/{}.jinja", &name[1..]), template)?;
            }
            _ => {}
        }
    }
    let home = path.parent().unwrap_or(Path::new(""));
    if home.join(HISTORY).is_file() {
        for name in [HISTORY, CARD] {
            let from = home.join(name);
            if from.is_file() {
                fs::copy(&from, dir.join(name)).map_err(|error| Error::io(&from, &error))?;
            }
        }
    }
    Ok(Unpacked { root, dir, no_tokenizer })
}

/// Whether a template may be called so.
fn is_name(name: &str) -> bool {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    !name.is_empty() && name.len() <= LONGEST_NAME && name.chars().all(is_plain)
}
