//! A file that arrives: no longer than announced, and what its name says.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use sha1::Sha1;
use sha2::{Digest, Sha256};

use super::cache::is_hex;
use crate::checkpoint::fingerprint::hex;
use crate::{Error, Result, interrupt};

/// Bytes read at a time of what arrived earlier.
const CHUNK: usize = 1 << 20;

/// What an ETag says of contents. Large files are called by their SHA-256, small ones by git's hash of a blob: SHA-1 of
/// `blob LENGTH\0` and the contents. Some mirrors take the SHA-1 of the contents alone.
#[derive(Clone, Debug)]
pub(super) enum Sum {
    Sha256(Sha256),
    Sha1 {
        git: Sha1,
        plain: Sha1,
    },
    /// No hash that is known here.
    Unknown,
}

impl Sum {
    /// Of no contents yet. A weak `etag` may stand for other bytes of the same meaning.
    pub(super) fn of(etag: &str, strong: bool, size: u64) -> Self {
        match etag.len() {
            64 if is_hex(etag) => Self::Sha256(Sha256::new()),
            40 if is_hex(etag) && strong => {
                Self::Sha1 { git: Sha1::new_with_prefix(format!("blob {size}\0")), plain: Sha1::new() }
            }
            _ => Self::Unknown,
        }
    }

    /// Whether contents can be told from others.
    pub(super) fn is_known(&self) -> bool {
        !matches!(self, Self::Unknown)
    }

    fn update(&mut self, bytes: &[u8]) {
        match self {
            Self::Sha256(sum) => sum.update(bytes),
            Self::Sha1 { git, plain } => {
                git.update(bytes);
                plain.update(bytes);
            }
            Self::Unknown => {}
        }
    }

    /// Whether the contents so far are those that `etag` names.
    fn is(&self, etag: &str) -> bool {
        match self.clone() {
            Self::Sha256(sum) => hex(&sum.finalize()) == etag,
            Self::Sha1 { git, plain } => hex(&git.finalize()) == etag || hex(&plain.finalize()) == etag,
            Self::Unknown => true,
        }
    }
}

/// Contents that arrive beside their place.
pub(super) struct Part {
    path: PathBuf,
    file: File,
    len: u64,
    /// Of nothing.
    empty: Sum,
    /// Of what is there.
    sum: Sum,
}

impl Part {
    /// Opens what is at `path`, or begins. What is there already is hashed; what is too long is thrown away.
    pub(super) fn open(path: PathBuf, sum: &Sum, size: u64) -> Result<Self> {
        let at = |error: io::Error| Error::io(&path, &error);
        let mut options = File::options();
        let file = options.read(true).write(true).create(true).truncate(false).open(&path).map_err(at)?;
        let mut part = Self { file, len: 0, empty: sum.clone(), sum: sum.clone(), path };
        if part.file.metadata().map_err(|error| part.at(&error))?.len() > size {
            part.clear()?;
        }
        let mut chunk = vec![0; CHUNK];
        loop {
            interrupt::check()?;
            match part.file.read(&mut chunk).map_err(|error| part.at(&error))? {
                0 => return Ok(part),
                read => {
                    part.sum.update(&chunk[..read]);
                    part.len += read as u64;
                }
            }
        }
    }

    pub(super) fn len(&self) -> u64 {
        self.len
    }

    /// Begins again.
    pub(super) fn clear(&mut self) -> Result<()> {
        let cleared = self.file.set_len(0).and_then(|()| io::Seek::rewind(&mut self.file));
        cleared.map_err(|error| self.at(&error))?;
        (self.len, self.sum) = (0, self.empty.clone());
        Ok(())
    }

    pub(super) fn append(&mut self, bytes: &[u8]) -> Result<()> {
        self.file.write_all(bytes).map_err(|error| self.at(&error))?;
        self.sum.update(bytes);
        self.len += bytes.len() as u64;
        Ok(())
    }

    /// Whether all `size` bytes are there and are those that `etag` names.
    pub(super) fn is(&self, etag: &str, size: u64) -> bool {
        self.len == size && self.sum.is(etag)
    }

    /// Puts it into its place.
    pub(super) fn keep(self, blob: &Path) -> Result<()> {
        fs::rename(&self.path, blob).map_err(|error| Error::io(blob, &error))
    }

    /// Throws it away.
    pub(super) fn discard(self) -> Result<()> {
        fs::remove_file(&self.path).map_err(|error| Error::io(&self.path, &error))
    }

    fn at(&self, error: &io::Error) -> Error {
        Error::io(&self.path, error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn contents_are_told_from_others() {
        // `git hash-object`, `sha1sum`, `sha256sum` of "hello\n"
        let names = [
            "ce013625030ba8dba906f756967f9e9ca394464a",
            "f572d396fae9206628714fb2ce00f72e94f2258f",
            "5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03",
        ];
        for name in names {
            for (contents, right) in [("hello\n", true), ("hellO\n", false), ("hello", false)] {
                let mut sum = Sum::of(name, true, 6);
                sum.update(contents.as_bytes());
                assert_eq!(sum.is(name), right, "{name} {contents:?}");
            }
        }
        assert!(!Sum::of(names[0], false, 6).is_known() && !Sum::of("5f-1234", true, 6).is_known());
    }
}
