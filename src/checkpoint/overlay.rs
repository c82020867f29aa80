//! An index in which tensors of another file, or computed ones, stand for its own.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::fs::{File, Metadata};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::gguf::Packed;
use super::index::Index;
use super::{Entry, Slot, four_bit_owner};
use crate::{Error, Result};

/// A tensor that no file holds.
pub trait Computed: Debug + Send + Sync {
    /// Fills `bytes` from byte `offset` of the tensor, which is not left.
    ///
    /// # Errors
    /// Work: what it is computed from cannot be read, or gives numbers that are not finite.
    fn read_at(&self, offset: u64, bytes: &mut [u8]) -> Result<()>;
}

/// What holds the bytes of a shard.
#[derive(Debug)]
pub(super) enum Held {
    /// An open file, and what it was when its header was checked.
    File(File, Metadata),
    /// A GGUF file, whose tensors are read as the numbers they stand for.
    Packed(Arc<Packed>),
    /// Nothing: the one tensor of this shard is computed when it is read.
    Computed(Arc<dyn Computed>),
}

impl Held {
    /// Bytes of the file.
    pub(super) fn file_len(&self) -> u64 {
        match self {
            Self::File(_, metadata) => metadata.len(),
            Self::Packed(packed) => packed.metadata.len(),
            Self::Computed(_) => 0,
        }
    }

    fn share(&self, path: &Path) -> Result<Self> {
        Ok(match self {
            Self::File(file, metadata) => {
                Self::File(file.try_clone().map_err(|error| Error::io(path, &error))?, metadata.clone())
            }
            Self::Packed(packed) => Self::Packed(packed.clone()),
            Self::Computed(tensor) => Self::Computed(tensor.clone()),
        })
    }
}

impl Index {
    /// The same files and tensors once more.
    ///
    /// # Errors
    /// Work: the system has no more room for open files.
    pub fn share(&self) -> Result<Self> {
        let files = self.files.iter().zip(&self.shards).map(|(held, path)| held.share(path));
        Ok(Self {
            files: files.collect::<Result<_>>()?,
            shards: self.shards.clone(),
            tensors: self.tensors.clone(),
            disputes: self.disputes.clone(),
        })
    }

    /// An index of nothing but its tensors `stored` (name here by new name) and of those `computed`, each a shard of
    /// its own, which is called after it and is no file.
    ///
    /// # Errors
    /// Work: a name that is not there, a tensor that no memory could hold; the system has no more room for open files.
    pub(crate) fn with_computed<'a>(
        &self,
        stored: impl IntoIterator<Item = (&'a str, &'a str)>,
        computed: impl IntoIterator<Item = (Slot, Arc<dyn Computed>)>,
    ) -> Result<Self> {
        let mut index = Self { tensors: BTreeMap::new(), disputes: BTreeMap::new(), ..self.share()? };
        for (name, old) in stored {
            index.tensors.insert(name.to_owned(), Entry { name: name.to_owned(), ..self.entry(old)?.clone() });
        }
        let dir = self.shards.first().and_then(|shard| shard.parent()).unwrap_or(Path::new("")).to_owned();
        for (slot, tensor) in computed {
            let len = slot.len().ok_or_else(|| Error::work(format!("tensor {} is too large", slot.name)))? as u64;
            let Slot { name, dtype, shape } = slot;
            let entry = Entry { name: name.clone(), dtype, shape, shard: index.shards.len(), begin: 0, len };
            index.shards.push(dir.join(format!("{name} (computed)")));
            index.files.push(Held::Computed(tensor));
            index.tensors.insert(name, entry);
        }
        Ok(index)
    }

    /// The files among the shards: not those that are computed.
    pub(crate) fn stored(&self) -> impl Iterator<Item = &PathBuf> {
        let files = self.shards.iter().zip(&self.files);
        files.filter(|(_, held)| !matches!(held, Held::Computed(_))).map(|(path, _)| path)
    }

    /// Lets `name`, where there is no such tensor, be `other`.
    pub fn alias(&mut self, name: &str, other: &str) {
        if let (false, Some(entry)) = (self.tensors.contains_key(name), self.tensors.get(other)) {
            let entry = Entry { name: name.to_owned(), ..entry.clone() };
            self.tensors.insert(name.to_owned(), entry);
        }
    }

    /// Puts tensors of `file` in the place of those called like the keys of `names`, whose values are their names
    /// there.
    ///
    /// # Errors
    /// Work: a name that `file` does not have; the system has no more room for open files.
    pub fn replace(&mut self, file: &Self, names: &BTreeMap<String, String>) -> Result<()> {
        let first = self.shards.len();
        let Self { shards, files, .. } = file.share()?;
        self.shards.extend(shards);
        self.files.extend(files);
        // what lies beside a weight in four bits belongs to the one that goes
        self.tensors.retain(|name, _| four_bit_owner(name).is_none_or(|owner| !names.contains_key(owner)));
        for (name, theirs) in names {
            let entry = file.entry(theirs)?;
            let entry = Entry { name: name.clone(), shard: first + entry.shard, ..entry.clone() };
            self.tensors.insert(name.clone(), entry);
        }
        Ok(())
    }
}
