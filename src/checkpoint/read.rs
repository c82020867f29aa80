//! Bytes of tensors: into memory, or from file to file.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};

use super::index::{Entry, Index};
use super::positioned::read_exact_at;
use crate::{Error, Result};

impl Index {
    /// All bytes of one tensor, as on disk.
    ///
    /// # Errors
    /// Work: the file cannot be read, or ends early.
    pub fn read(&self, entry: &Entry) -> Result<Vec<u8>> {
        let mut bytes = vec![0; entry.len as usize];
        self.read_range(entry, 0, &mut bytes)?;
        Ok(bytes)
    }

    /// Fills `bytes` from byte `offset` of the tensor.
    ///
    /// # Errors
    /// Work: the range leaves the tensor; the file cannot be read, or ends early.
    pub fn read_range(&self, entry: &Entry, offset: u64, bytes: &mut [u8]) -> Result<()> {
        if offset.checked_add(bytes.len() as u64).is_none_or(|end| end > entry.len) {
            return Err(self.fault(entry, format!("has {} bytes, not {} at {offset}", entry.len, bytes.len())));
        }
        read_exact_at(&self.files[entry.shard].0, bytes, entry.begin + offset)
            .map_err(|error| self.fault(entry, format!("cannot be read: {error}")))
    }

    /// Copies the tensor's bytes to `out`; when that is a file, inside the kernel where the system can, so that memory
    /// does not grow with the tensor.
    ///
    /// # Errors
    /// Work: either side fails, or the file changed since it was opened.
    pub fn copy_to<W: Write>(&self, entry: &Entry, out: &mut W) -> Result<()> {
        let fault = |error| {
            let file = self.shards[entry.shard].display();
            Error::work(format!("copying tensor {} out of {file}: {error}", entry.name))
        };
        // a handle of its own, because the kernel's copy moves the file's cursor
        let mut file = File::open(&self.shards[entry.shard]).map_err(fault)?;
        let (now, then) = (file.metadata().map_err(fault)?, &self.files[entry.shard].1);
        if now.len() != then.len() || now.modified().ok() != then.modified().ok() {
            return Err(fault(io::Error::other("the file changed since it was opened")));
        }
        file.seek(SeekFrom::Start(entry.begin)).map_err(fault)?;
        match io::copy(&mut (&file).take(entry.len), out).map_err(fault)? {
            copied if copied == entry.len => Ok(()),
            _ => Err(fault(io::ErrorKind::UnexpectedEof.into())),
        }
    }

    /// What is wrong with a tensor, after its file and name. Never a wrong request: the file was there when opened.
    pub(super) fn fault(&self, entry: &Entry, what: String) -> Error {
        Error::work(format!("{}: tensor {} {what}", self.shards[entry.shard].display(), entry.name))
    }
}
