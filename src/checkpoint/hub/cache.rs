//! The cache on disk, as `huggingface_hub` lays it out:
//!
//! ```text
//! models--org--name/refs/main              the commit a branch or tag was last seen at
//! models--org--name/blobs/ETAG             contents
//! models--org--name/snapshots/COMMIT/FILE  links to contents
//! models--org--name/blobs/ETAG.part        contents that are arriving
//! .locks/models--org--name/ETAG.lock       there and held while a blob is downloaded
//! ```

use std::fs::{self, File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use hf_hub::Cache;

use super::repo::Repo;
use crate::progress::Progress;
use crate::{Error, Result, files, interrupt};

/// One repository's part of the cache. `hf-hub` says where things are; here is what it does not do: commits without
/// the network, and the lock that `huggingface_hub` takes.
#[derive(Debug)]
pub(super) struct RepoCache<'a> {
    cache: &'a Cache,
    repo: &'a Repo,
}

impl<'a> RepoCache<'a> {
    pub(super) fn new(cache: &'a Cache, repo: &'a Repo) -> Self {
        Self { cache, repo }
    }

    fn at(&self, revision: &str) -> hf_hub::CacheRepo {
        self.cache.repo(self.repo.at(revision))
    }

    /// Where the cache keeps what `revision` stands for.
    fn reference(&self, revision: &str) -> PathBuf {
        self.cache.path().join(self.repo.at(revision).folder_name()).join("refs").join(revision)
    }

    /// The commit of the revision: itself, or what the cache remembers of a branch or tag.
    pub(super) fn commit(&self) -> Option<String> {
        let revision = &self.repo.revision;
        if is_commit(revision) {
            return Some(revision.clone());
        }
        let text = files::read_text(&self.reference(revision), files::NOTE).ok()?;
        Some(text.trim().to_owned()).filter(|commit| is_commit(commit))
    }

    /// Remembers the commit of a branch or tag.
    pub(super) fn remember(&self, commit: &str) -> Result<()> {
        if self.commit().as_deref() == Some(commit) {
            return Ok(());
        }
        let reference = self.reference(&self.repo.revision);
        self.at(&self.repo.revision).create_ref(commit).map_err(|error| Error::io(&reference, &error))
    }

    /// Where the files of `commit` are.
    pub(super) fn snapshot(&self, commit: &str) -> PathBuf {
        self.at(commit).pointer_path(commit)
    }

    /// Where the contents called `etag` are, or will be.
    pub(super) fn blob(&self, etag: &str) -> PathBuf {
        self.at(&self.repo.revision).blob_path(etag)
    }

    /// Where contents called `etag` arrive; what is there of a download that broke is gone on with.
    pub(super) fn part(&self, etag: &str) -> PathBuf {
        self.blob(etag).with_extension("part")
    }

    /// Puts `file` into the snapshot of `commit`: a link to the blob, or the blob itself where links cannot be made.
    pub(super) fn link(&self, commit: &str, file: &str, etag: &str) -> Result<PathBuf> {
        let pointer = self.snapshot(commit).join(file);
        if pointer.is_file() {
            return Ok(pointer);
        }
        let at = |error: io::Error| Error::io(&pointer, &error);
        if let Some(parent) = pointer.parent() {
            fs::create_dir_all(parent).map_err(at)?;
        }
        if pointer.symlink_metadata().is_ok() {
            // a link to contents that are gone
            fs::remove_file(&pointer).map_err(at)?;
        }
        let up = "../".repeat(2 + file.split('/').count() - 1);
        let target = PathBuf::from(format!("{up}blobs/{etag}"));
        #[cfg(unix)]
        let linked = std::os::unix::fs::symlink(&target, &pointer);
        #[cfg(windows)]
        let linked = std::os::windows::fs::symlink_file(&target, &pointer);
        linked.or_else(|_| fs::rename(self.blob(etag), &pointer)).map_err(at)?;
        Ok(pointer)
    }

    /// Holds the lock of a blob, waiting for others who download it; `huggingface_hub` takes the same lock.
    pub(super) fn lock(&self, etag: &str, progress: &dyn Progress) -> Result<Lock> {
        let dir = self.cache.path().join(".locks").join(self.repo.at("").folder_name());
        let path = dir.join(format!("{etag}.lock"));
        let at = |error: io::Error| Error::io(&path, &error);
        fs::create_dir_all(&dir).map_err(at)?;
        let open = || File::options().write(true).create(true).truncate(false).open(&path).map_err(at);
        let (mut file, mut told) = (open()?, false);
        loop {
            interrupt::check()?;
            match file.try_lock() {
                Ok(()) if is_at(&file, &path) => return Ok(Lock { path, _file: file }),
                // who had it has removed it meanwhile
                Ok(()) => file = open()?,
                Err(TryLockError::WouldBlock) if !told => {
                    told = true;
                    progress.warn(&format!("waiting for another download of the same file ({})", path.display()));
                }
                Err(TryLockError::WouldBlock) => std::thread::sleep(Duration::from_millis(200)),
                Err(TryLockError::Error(error)) => return Err(at(error)),
            }
        }
    }
}

/// The lock of a blob, held. Its file goes with it.
pub(super) struct Lock {
    path: PathBuf,
    _file: File,
}

impl Drop for Lock {
    /// Removed while it is held, so that nobody else's lock is.
    fn drop(&mut self) {
        drop(fs::remove_file(&self.path));
    }
}

/// Whether `path` still leads to `file`.
#[cfg(unix)]
fn is_at(file: &File, path: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    let (Ok(held), Ok(there)) = (file.metadata(), path.metadata()) else { return false };
    (held.dev(), held.ino()) == (there.dev(), there.ino())
}

/// Whether `path` still leads to the file: here a file that is open keeps its name.
#[cfg(not(unix))]
fn is_at(_file: &File, path: &Path) -> bool {
    path.exists()
}

/// Forty hexadecimal digits.
pub(super) fn is_commit(revision: &str) -> bool {
    revision.len() == 40 && is_hex(revision)
}

/// Lower-case hexadecimal digits.
pub(super) fn is_hex(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte))
}
