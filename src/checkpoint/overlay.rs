//! An index in which tensors of another file stand for its own.

use std::collections::BTreeMap;

use super::index::Index;
use super::{Entry, four_bit_owner};
use crate::{Error, Result};

impl Index {
    /// The same files and tensors once more.
    ///
    /// # Errors
    /// Work: the system has no more room for open files.
    pub fn share(&self) -> Result<Self> {
        let files = self.files.iter().zip(&self.shards).map(|((file, metadata), path)| {
            Ok((file.try_clone().map_err(|error| Error::io(path, &error))?, metadata.clone()))
        });
        Ok(Self {
            files: files.collect::<Result<_>>()?,
            shards: self.shards.clone(),
            tensors: self.tensors.clone(),
            disputes: self.disputes.clone(),
        })
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
