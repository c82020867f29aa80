//! The pocket atlas: a small trained Llama and the questions it can answer, embedded so that the whole job runs after
//! `cargo install` with no file and no network.
//!
//! The model (16 layers, hidden size 128, 3.2 M parameters, bf16) knows an invented world of cities, animals, moons,
//! queens and instruments. It was trained from scratch for this project with stochastic depth, so its deeper layers
//! matter less partly *by training*, and it was kept because its curves are clear. Its figures show how the tool
//! works; they are no evidence for the paper's claim about large models.

use std::io::Read;
use std::path::Path;

use flate2::read::GzDecoder;

use crate::checkpoint::{create_dir, write_new};
use crate::{Error, Result};

/// An embedded file: where it goes, and its bytes; `.gz` ones are unpacked.
struct File {
    path: &'static str,
    bytes: &'static [u8],
}

macro_rules! files {
    ($($path:literal),* $(,)?) => {
        &[$(File { path: $path, bytes: include_bytes!(concat!("files/", $path)) }),*]
    };
}

/// Everything that is embedded.
const FILES: &[File] = files![
    "recipe.toml",
    "model/config.json",
    "model/generation_config.json",
    "model/model.safetensors.gz",
    "model/tokenizer.json.gz",
    "model/tokenizer_config.json",
    "text/train.jsonl.gz",
    "text/validation.jsonl.gz",
    "boolq/train.jsonl.gz",
    "boolq/validation.jsonl.gz",
    "mmlu/dev/astronomy_dev.csv",
    "mmlu/dev/geography_dev.csv",
    "mmlu/dev/history_dev.csv",
    "mmlu/dev/music_dev.csv",
    "mmlu/dev/zoology_dev.csv",
    "mmlu/val/astronomy_val.csv",
    "mmlu/val/geography_val.csv",
    "mmlu/val/history_val.csv",
    "mmlu/val/music_val.csv",
    "mmlu/val/zoology_val.csv",
    "mmlu/test/astronomy_test.csv",
    "mmlu/test/geography_test.csv",
    "mmlu/test/history_test.csv",
    "mmlu/test/music_test.csv",
    "mmlu/test/zoology_test.csv",
];

/// Writes the checkpoint to `dir/model`, texts to `dir/text`, questions to `dir/mmlu` and `dir/boolq`, and the recipe
/// of the whole job to `dir/recipe.toml`.
///
/// # Errors
/// The file system's.
pub fn extract(dir: &Path) -> Result<()> {
    for file in FILES {
        let path = dir.join(file.path.strip_suffix(".gz").unwrap_or(file.path));
        path.parent().map_or(Ok(()), create_dir)?;
        let mut bytes = Vec::new();
        let read = match file.path.ends_with(".gz") {
            true => GzDecoder::new(file.bytes).read_to_end(&mut bytes),
            false => (&mut &*file.bytes).read_to_end(&mut bytes),
        };
        read.map_err(|error| Error::work(format!("{}: {error}", path.display())))?;
        write_new(&path, bytes)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn everything_is_there_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        extract(dir.path()).unwrap();
        for split in ["dev", "val", "test"] {
            assert_eq!(fs::read_dir(dir.path().join("mmlu").join(split)).unwrap().count(), 5);
        }
        let weights = fs::metadata(dir.path().join("model/model.safetensors")).unwrap().len();
        assert_eq!(weights, 6_446_696);
        let lines = fs::read_to_string(dir.path().join("text/validation.jsonl")).unwrap();
        assert_eq!(lines.lines().count(), 400);
    }
}
