//! What lies beside the weights and goes where they go: tokenizer, chat template, generation config, licence, code.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use super::Checkpoint;
use super::mark::{create_dir, create_file};
use crate::files::{self, Bound};
use crate::progress::Progress;
use crate::{Error, Result};

/// Names of side files, lower case; `*` stands for anything. Weights, indexes, `config.json`, the model card, logs and
/// results of the source are not among them: what is made from the source has its own.
const SIDE_FILES: &[&str] = &[
    // tokenizers of all kinds
    "tokenizer*",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab*",
    "merges*",
    "*.model",
    "*.tiktoken",
    "tekken.json",
    // how to talk to the model
    "chat_template*",
    "additional_chat_templates/*.jinja",
    "generation_config.json",
    "*preprocessor_config.json",
    "processor_config.json",
    // code of models that bring their own
    "*.py",
    // terms
    "license*",
    "licence*",
    "copying*",
    "notice*",
    "use_policy*",
    "acceptable_use_policy*",
];

/// Endings of weights, whatever the rest of the name.
const WEIGHTS: &[&str] = &[
    ".safetensors",
    ".bin",
    ".pt",
    ".pth",
    ".ckpt",
    ".gguf",
    ".ggml",
    ".onnx",
    ".onnx_data",
    ".h5",
    ".msgpack",
    ".npz",
    ".tflite",
    ".nemo",
    ".index.json",
];

/// Whether the file `name`, a path inside the model's directory with `/`, belongs to the side files.
pub(super) fn is_side_file(name: &str) -> bool {
    let name = name.to_lowercase();
    let hidden = name.split('/').any(|part| part.starts_with('.'));
    !hidden
        && !WEIGHTS.iter().any(|ending| name.ends_with(ending))
        && SIDE_FILES.iter().any(|pattern| fits(pattern, &name))
}

/// Whether `name` fits `pattern`, which has at most one `*`; that stands for no `/`.
pub(super) fn fits(pattern: &str, name: &str) -> bool {
    let Some((front, back)) = pattern.split_once('*') else { return pattern == name };
    name.strip_prefix(front).and_then(|rest| rest.strip_suffix(back)).is_some_and(|middle| !middle.contains('/'))
}

impl Checkpoint {
    /// Files that a new checkpoint takes over as they are, as paths inside [`Source::dir`](super::Source::dir), sorted.
    /// A link that leads out of the model's directory, and of the cache that it came from, is none of them.
    ///
    /// # Errors
    /// Work: the directory cannot be read.
    pub fn side_files(&self) -> Result<Vec<PathBuf>> {
        Ok(self.sorted_side_files()?.0)
    }

    /// The side files, and links of such names that lead elsewhere.
    fn sorted_side_files(&self) -> Result<(Vec<PathBuf>, Vec<PathBuf>)> {
        let homes = self.homes()?;
        let (mut found, mut outside) = (Vec::new(), Vec::new());
        for folder in ["", "additional_chat_templates/"] {
            let dir = self.source.dir.join(folder);
            if !dir.is_dir() {
                continue;
            }
            for file in fs::read_dir(&dir).map_err(|error| Error::io(&dir, &error))?.flatten() {
                // a name that is not UTF-8 is none of the above
                let Ok(name) = file.file_name().into_string() else { continue };
                let name = format!("{folder}{name}");
                let path = self.source.dir.join(&name);
                if !is_side_file(&name) || !path.is_file() {
                    continue;
                }
                let place = path.canonicalize().map_err(|error| Error::io(&path, &error))?;
                let is_home = homes.iter().any(|home| place.starts_with(home));
                if is_home { &mut found } else { &mut outside }.push(PathBuf::from(name));
            }
        }
        found.sort();
        outside.sort();
        Ok((found, outside))
    }

    /// Where files of the model may lie, links resolved: its directory, and of a snapshot of the hub cache the contents
    /// of its repository.
    fn homes(&self) -> Result<Vec<PathBuf>> {
        let dir = &self.source.dir;
        let dir = dir.canonicalize().map_err(|error| Error::io(dir, &error))?;
        let snapshots = dir.ancestors().find(|dir| dir.file_name().is_some_and(|name| name == "snapshots"));
        let blobs = snapshots.map(|snapshots| snapshots.with_file_name("blobs"));
        Ok(std::iter::once(dir.clone()).chain(blobs).collect())
    }

    /// Text of the source's model card, `README.md`, if it has one; a link that leads elsewhere is none.
    ///
    /// # Errors
    /// Work: it cannot be read.
    pub fn model_card(&self) -> Result<Option<String>> {
        let path = self.source.dir.join(CARD);
        let homes = self.homes()?;
        if !path.exists() || path.canonicalize().is_ok_and(|place| !homes.iter().any(|home| place.starts_with(home))) {
            return Ok(None);
        }
        // a card is for reading: broken characters are no reason to stop
        let bytes = files::read(&path, Bound::CONFIG.bytes)?;
        Ok(Some(String::from_utf8_lossy(&bytes).into_owned()))
    }

    /// Copies the [side files](Checkpoint::side_files) into `dir`; says which links it does not follow.
    ///
    /// # Errors
    /// Work: a file cannot be read or written.
    pub fn copy_side_files(&self, dir: &Path, progress: &dyn Progress) -> Result<()> {
        let (files, outside) = self.sorted_side_files()?;
        for name in outside {
            let path = self.source.dir.join(name);
            progress.warn(&format!("{}: leads out of the model's directory; not copied", path.display()));
        }
        for name in files {
            let (from, to) = (self.source.dir.join(&name), dir.join(&name));
            let at =
                |error: std::io::Error| Error::work(format!("copying {} to {}: {error}", from.display(), to.display()));
            to.parent().map_or(Ok(()), create_dir)?;
            let mut source = File::open(&from).map_err(at)?;
            std::io::copy(&mut source, &mut create_file(&to)?).map_err(at)?;
        }
        Ok(())
    }
}

/// The model card of a checkpoint.
pub(super) const CARD: &str = "README.md";

#[cfg(test)]
mod tests {
    use super::is_side_file;

    #[test]
    fn carries_what_the_model_needs_and_nothing_else() {
        for name in [
            "tokenizer.json",
            "tokenizer.model",
            "tokenizer.model.v3",
            "spiece.model",
            "vocab.json",
            "merges.txt",
            "qwen.tiktoken",
            "chat_template.jinja",
            "additional_chat_templates/tool_use.jinja",
            "LICENSE",
            "LICENSE.txt",
            "Notice.md",
            "USE_POLICY.md",
            "modeling_custom.py",
            "video_preprocessor_config.json",
        ] {
            assert!(is_side_file(name), "{name}");
        }
        for name in [
            "config.json",
            "model.safetensors",
            "model.safetensors.index.json",
            "pytorch_model.bin",
            "README.md",
            "tokenizer.bin",
            ".gitattributes",
            "original/tokenizer.model",
            "trainer_state.json",
            "eval_results.json",
            "prune.json",
            "additional_chat_templates/.hidden.jinja",
            "license/../x",
        ] {
            assert!(!is_side_file(name), "{name}");
        }
    }
}
