//! A model directory: config, shards, side files. Bytes and names; only what computes decodes a tensor.
//!
//! Every file is untrusted: headers are checked against the real length of their file, indexes against their shards,
//! and nothing is mapped into memory.

mod belongings;
mod container;
mod content;
mod fingerprint;
mod flush;
mod four_bit;
pub(crate) mod gguf;
mod hash;
mod hub;
mod index;
mod json;
mod lease;
mod leftover;
mod load;
mod lock;
mod mark;
mod origin;
mod output;
mod overlay;
mod positioned;
mod python_json;
mod quantized;
mod read;
mod rename;
mod side;
mod size;
mod unfinished;
mod unmarked;
mod workplace;
mod writer;

pub(crate) use content::content_hash;
pub(crate) use four_bit::four_bit_owner;
pub(crate) use hash::bytes_hash;
pub use hash::sha256;
pub use hub::{Cached, Dataset, Hub, HubFile, Needed};
pub use index::{Entry, Index};
pub use json::read_json;
pub(crate) use lease::{Asked, Holder, Lease, Leases, Standing, machine, standing};
pub(crate) use lock::{Sharing, lock_dir};
pub(crate) use mark::is_listed;
pub use mark::{MARK, adopt, can_work_in, claim, create_dir, create_file, made_by, work_in, write_new};
pub use origin::Origin;
pub use output::{OutputDir, OutputFile, write_file};
pub use overlay::Computed;
pub use python_json::to_python_json;
pub(crate) use python_json::{parse_json, python_number};
pub(crate) use quantized::Quantized;
pub(crate) use read::{copy_range, read_at};
pub use size::ByteSize;
pub(crate) use unfinished::{Doing, Resumable, differences, refuse_other_work, replace_tensors, unfinished};
pub(crate) use workplace::check_place;
pub use workplace::{Workplace, has_leftovers};
pub(crate) use writer::with_bytes;
pub use writer::{Shard, ShardPlan, Slot, write_tensor};

use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::{Map, Value};
use tempfile::TempDir;

use crate::files::meant;
use crate::progress::Progress;
use crate::{Error, Result};

/// Where a checkpoint came from.
#[derive(Clone, Debug)]
pub struct Source {
    /// Directory or hub id (`org/name`, `org/name@revision`) as the user gave it.
    pub id: String,
    /// The directory its files are in: the user's, or a snapshot of the hub cache.
    pub dir: PathBuf,
    /// Commit of the hub repository.
    pub revision: Option<String>,
    /// Where the files beside the weights are while the checkpoint is open, of one that is a single file.
    pub(crate) unpacked: Option<Arc<TempDir>>,
}

/// An opened checkpoint: nothing decoded, no tensor read. It reads like its [`Index`]: `checkpoint.load(..)`.
#[derive(Debug)]
pub struct Checkpoint {
    /// Where it came from.
    pub source: Source,
    /// `config.json`, every key but one that was left over, in the file's order.
    pub config: Map<String, Value>,
    /// What the file says of a quantisation that the weights do not have: the key and its value.
    pub leftover: Option<(&'static str, Value)>,
    /// Every tensor by name.
    pub index: Index,
    /// What it is beside that as a GGUF file; `None` where it is none.
    pub(crate) gguf: Option<Arc<gguf::Gguf>>,
    /// How its weights are stored, where they are decoded as they are read.
    pub(crate) quantized: Option<Quantized>,
}

impl Deref for Checkpoint {
    type Target = Index;

    fn deref(&self) -> &Index {
        &self.index
    }
}

impl Checkpoint {
    /// Opens the model called `id`: a directory, a GGUF file, or a model of the hub, `org/name` or `org/name@revision`,
    /// of its GGUF models `org/name:TYPE` or `org/name/FILE.gguf`, fetched into the shared cache first. What exists, or
    /// starts with `.`, `/` or `~`, is a directory.
    ///
    /// # Errors
    /// As [`Checkpoint::open_dir`] and [`Hub::model`].
    pub fn open(id: &str, hub: &Hub, progress: &dyn Progress) -> Result<Self> {
        let path = hub::expand_home(Path::new(id));
        if path.is_absolute() || id.starts_with(['.', '~']) || path.exists() {
            return Self::open_at(Source { id: id.to_owned(), dir: path, revision: None, unpacked: None });
        }
        Self::open_at(hub.model(id, progress).map_err(|error| absent(id, &path, error))?)
    }

    /// Opens the model in `dir`: config, and the headers of all weights.
    ///
    /// # Errors
    /// Request: no such directory, no model in it, weights that are not safetensors. Work: a broken config,
    /// header or index.
    pub fn open_dir(dir: &Path) -> Result<Self> {
        let id = dir.display().to_string();
        Self::open_at(Source { id, dir: dir.to_owned(), revision: None, unpacked: None })
    }

    fn open_at(source: Source) -> Result<Self> {
        let dir = &source.dir;
        if gguf::is_gguf(dir) {
            return gguf::open(source);
        }
        let place = dir.display().to_string();
        let refused = |reason: &str| Err(Error::request(format!("{place}: {reason}")));
        if !dir.is_dir() {
            let here = |parent: &Path| parent.as_os_str().is_empty();
            let parent = dir.parent().map(|parent| if here(parent) { Path::new(".") } else { parent });
            let model = parent.filter(|parent| parent.join(CONFIG).exists());
            return refused(&match model {
                Some(model) if dir.exists() => format!("not a directory; the model is {}", model.display()),
                None if dir.exists() => "not a directory".to_owned(),
                _ => format!("no such directory{}", meant(dir)),
            });
        }
        let path = dir.join(CONFIG);
        if !path.exists() {
            if let Some(file) = gguf::in_dir(dir)? {
                return gguf::open(Source { dir: file, ..source });
            }
            let adapter = dir.join(ADAPTER_CONFIG).exists().then(|| ADAPTER_CONFIG.to_owned());
            return Err(no_config(&place, adapter.as_slice()));
        }
        let mut config: Map<String, Value> = read_json(&path)?;
        let index = Index::open_dir(dir)?;
        let leftover = leftover::take(&mut config, &index);
        Ok(Self { source, config, leftover, index, gguf: None, quantized: None })
    }

    /// The files that decide what the model makes of a text: config, tokenizer, weights, in order; for
    /// [`content_hash`].
    pub(crate) fn content_files(&self) -> Vec<PathBuf> {
        let tokenizer = ["tokenizer.json", "tokenizer_config.json"].map(|name| self.source.dir.join(name));
        let tokenizer = tokenizer.into_iter().filter(|path| path.exists());
        let config = self.source.dir.join(CONFIG);
        std::iter::once(config).chain(tokenizer).chain(self.index.stored().cloned()).collect()
    }

    /// The file that has the config: of a checkpoint that is a single file, that.
    #[must_use]
    pub fn config_file(&self) -> PathBuf {
        match (&self.source.unpacked, self.index.shards.first()) {
            (Some(_), Some(file)) => file.clone(),
            _ => self.source.dir.join(CONFIG),
        }
    }

    /// Dtype the weights were saved in, as the config says: `bfloat16`. Both spellings of the key, `dtype` and
    /// `torch_dtype`, with or without `torch.` in front.
    pub fn dtype_name(&self) -> Option<&str> {
        let name = self.config.get("dtype").or_else(|| self.config.get("torch_dtype"))?.as_str()?;
        Some(name.strip_prefix("torch.").unwrap_or(name))
    }
}

/// What to say of the model `id`, which is not at `path` and which the hub has failed to give for `why`. A mistyped
/// path looks like a name on the hub: where it nearly is one here, or begins with a directory that is here, a hub that
/// cannot be reached has nothing to do with it.
fn absent(id: &str, path: &Path, why: Error) -> Error {
    let meant = meant(path);
    let begins_here = path.parent().is_some_and(|parent| !parent.as_os_str().is_empty() && parent.is_dir());
    match why {
        Error::Work(_) if begins_here || !meant.is_empty() => Error::request(format!("{id}: no such directory{meant}")),
        why => why.reworded(|message| format!("{id}: no such directory here{meant}; on the hub: {message}")),
    }
}

/// What a model is.
const CONFIG: &str = "config.json";
/// What a PEFT adapter is.
const ADAPTER_CONFIG: &str = "adapter_config.json";

/// What to say of a `place` whose files, `names`, have no config.
fn no_config(place: &str, names: &[String]) -> Error {
    let adapter = names.iter().any(|name| name == ADAPTER_CONFIG);
    Error::request(format!(
        "{place}: {}",
        match adapter {
            true => "holds a PEFT adapter, not a model; name the model it was trained on, and the adapter beside it",
            false => "holds no config.json, so it is no model",
        }
    ))
}
