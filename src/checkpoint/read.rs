//! Bytes of tensors: into memory, or from file to file.

use std::fs::File;
use std::io::{self, Write};
use std::ops::Range;

use super::index::{Entry, Index};
use super::overlay::Held;
use super::positioned::read_exact_at;
use crate::{Error, Result};

/// Bytes copied at a time. Tensors begin anywhere in a page, at another place in each file, which makes the kernel's
/// own copy from file to file touch every page twice; through a buffer that stays in cache it is faster. With twice as
/// much, Linux spends more time on finding room in the page cache than on copying.
const COPIED: usize = 512 << 10;

/// Fills `bytes` from byte `offset` of `file`.
///
/// # Errors
/// The system's; a file that ends early.
pub(crate) fn read_at(file: &File, bytes: &mut [u8], offset: u64) -> io::Result<()> {
    read_exact_at(file, bytes, offset)
}

/// Copies the bytes `range` of `file` to `out`, a piece at a time.
///
/// # Errors
/// Work: either side fails.
pub(crate) fn copy_range(file: &File, range: Range<u64>, out: &mut impl Write) -> Result<()> {
    let fault = |error: io::Error| Error::work(error.to_string());
    let mut piece = vec![0; COPIED.min((range.end - range.start) as usize)];
    for at in range.clone().step_by(COPIED) {
        let piece = &mut piece[..COPIED.min((range.end - at) as usize)];
        read_exact_at(file, piece, at).map_err(fault)?;
        out.write_all(piece).map_err(fault)?;
    }
    Ok(())
}

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
        match &self.files[entry.shard] {
            Held::File(file, _) => read_exact_at(file, bytes, entry.begin + offset)
                .map_err(|error| self.fault(entry, format!("cannot be read: {error}"))),
            Held::Packed(packed) => packed
                .read_at(entry.begin, offset, bytes)
                .map_err(|error| self.fault(entry, format!("cannot be read: {error}"))),
            Held::Computed(tensor) => tensor.read_at(offset, bytes),
        }
    }

    /// Copies the tensor's bytes to `out`, a piece at a time: memory does not grow with the tensor.
    ///
    /// # Errors
    /// Work: either side fails, or the file changed since it was opened.
    pub fn copy_to<W: Write>(&self, entry: &Entry, out: &mut W) -> Result<()> {
        let fault = |error| {
            let file = self.shards[entry.shard].display();
            Error::work(format!("copying tensor {} out of {file}: {error}", entry.name))
        };
        let is_same = match &self.files[entry.shard] {
            Held::File(file, then) => {
                let now = file.metadata().map_err(fault)?;
                now.len() == then.len() && now.modified().ok() == then.modified().ok()
            }
            Held::Packed(packed) => packed.is_same().map_err(fault)?,
            Held::Computed(_) => true,
        };
        if !is_same {
            return Err(fault(io::Error::other("the file changed since it was opened")));
        }
        let mut piece = vec![0; COPIED.min(entry.len as usize)];
        for offset in (0..entry.len).step_by(COPIED) {
            let len = COPIED.min((entry.len - offset) as usize);
            match &self.files[entry.shard] {
                Held::File(file, _) => {
                    read_exact_at(file, &mut piece[..len], entry.begin + offset).map_err(fault)?;
                }
                Held::Packed(packed) => packed.read_at(entry.begin, offset, &mut piece[..len])?,
                Held::Computed(tensor) => tensor.read_at(offset, &mut piece[..len])?,
            }
            out.write_all(&piece[..len]).map_err(fault)?;
        }
        Ok(())
    }

    /// What is wrong with a tensor, after its file and name. Never a wrong request: the file was there when opened.
    pub(super) fn fault(&self, entry: &Entry, what: String) -> Error {
        Error::work(format!("{}: tensor {} {what}", self.shards[entry.shard].display(), entry.name))
    }
}
