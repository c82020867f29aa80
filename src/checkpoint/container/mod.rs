//! The kinds of files that hold a model's tensors.
//!
//! # Add a container
//! One file here with a type that implements [`Container`], and its line in [`CONTAINERS`]. It says by which file of a
//! directory, or of a repository of the hub, it is known, which other files belong to it, and where in them the tensors
//! are. Tensors that are not stored as plain numbers can be given as [`Computed`](super::Computed) ones, whose bytes
//! are made when they are read. Everything else, from a cut to a pass of the model, reads the [`Index`] that it gives.

mod header;
mod safetensors;

pub(super) use header::{MAX_HEADER, PREFIX};
pub(super) use safetensors::{INDEX, SINGLE, Safetensors};

use std::fs;
use std::path::Path;

use super::index::Index;
use crate::{Error, Result};

/// A kind of files.
pub(super) trait Container: Sync {
    /// The file by which it is known among those that are there.
    fn entrance(&self, has: &dyn Fn(&str) -> bool) -> Option<&'static str>;

    /// Whether the file `entrance` has to be read before the files that belong to it are known.
    fn is_list(&self, entrance: &str) -> bool;

    /// Names of the files that hold the tensors, as `entrance` in `dir` has it.
    ///
    /// # Errors
    /// Work: it cannot be read, or makes no sense.
    fn files(&self, dir: &Path, entrance: &str) -> Result<Vec<String>>;

    /// Every tensor: names, types, shapes, places. No tensor is read.
    ///
    /// # Errors
    /// Work: a file that is missing, truncated, or inconsistent.
    fn open(&self, dir: &Path, entrance: &str) -> Result<Index>;
}

/// Every kind; the first that is there counts.
pub(super) const CONTAINERS: &[&dyn Container] = &[&Safetensors];

/// What holds the tensors among files of which `has` tells whether they are there, and the file by which it is known.
pub(super) fn find(has: &dyn Fn(&str) -> bool) -> Option<(&'static dyn Container, &'static str)> {
    CONTAINERS.iter().find_map(|container| Some((*container, container.entrance(has)?)))
}

/// The tensors of the model in `dir`.
///
/// # Errors
/// Request: no weights that are read. Work: as [`Container::open`].
pub(super) fn open(dir: &Path) -> Result<Index> {
    // a link into nowhere is found here and named by the error of opening it
    match find(&|name| dir.join(name).symlink_metadata().is_ok()) {
        Some((container, entrance)) => container.open(dir, entrance),
        None => {
            let names = fs::read_dir(dir).into_iter().flatten().flatten();
            let names: Vec<String> = names.map(|file| file.file_name().to_string_lossy().into_owned()).collect();
            Err(no_weights(&dir.display().to_string(), &names))
        }
    }
}

/// A file without which the tensors of the model in `dir` are not all there.
pub(super) fn missing(dir: &Path) -> Option<String> {
    let has = |name: &str| dir.join(name).is_file();
    let Some((container, entrance)) = find(&has) else { return Some(SINGLE.to_owned()) };
    // a broken list is named when it is opened
    container.files(dir, entrance).ok()?.into_iter().find(|file| !has(file))
}

/// What to say of a `place` whose files, `names`, are no weights that are read.
pub(super) fn no_weights(place: &str, names: &[String]) -> Error {
    let reason = if names.iter().any(|name| name.starts_with("pytorch_model") && name.contains(".bin")) {
        "holds pytorch_model.bin, which can run code when opened; convert it to safetensors first: in transformers, \
         AutoModelForCausalLM.from_pretrained(DIR).save_pretrained(NEW)"
    } else if names.iter().any(|name| name.ends_with(".gguf")) {
        "holds a GGUF file beside the config of another checkpoint; name the GGUF file itself"
    } else {
        "holds neither model.safetensors nor model.safetensors.index.json"
    };
    Error::request(format!("{place}: {reason}"))
}
