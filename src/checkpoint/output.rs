//! Outputs appear whole or not at all: they are made in the [`Workplace`] beside their place, made durable, and
//! renamed.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::mark;
use super::origin::Origin;
use super::workplace::{Makes, Workplace};
use crate::{Error, Result};

/// A directory that is being made. Dropped before [`OutputDir::commit`], it leaves nothing behind.
#[derive(Debug)]
pub struct OutputDir {
    place: Arc<Workplace>,
    force: bool,
    path: PathBuf,
}

impl OutputDir {
    /// Starts a directory that will stand at `target` and is made by `origin`. Missing parents are made; what killed
    /// runs left for this target is cleared away.
    ///
    /// # Errors
    /// As [`Workplace::open`] and [`Workplace::refuse_taken`].
    pub fn create(target: &Path, force: bool, origin: &Origin) -> Result<Self> {
        Self::at(Arc::new(Workplace::open(target, origin)?), force)
    }

    /// Starts the directory that `place` is for.
    ///
    /// # Errors
    /// As [`Workplace::refuse_taken`]. Work: the file system's.
    pub fn at(place: Arc<Workplace>, force: bool) -> Result<Self> {
        place.refuse_taken(force)?;
        let path = place.begin(&[])?;
        Ok(Self { place, force, path })
    }

    /// Where to write until [`OutputDir::commit`].
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Where the directory will stand, absolute.
    #[must_use]
    pub fn target(&self) -> &Path {
        self.place.target()
    }

    /// As [`Workplace::require_space`].
    ///
    /// # Errors
    /// Work: less than that is free.
    pub fn require_space(&self, bytes: u64) -> Result<()> {
        self.place.require_space(bytes)
    }

    /// Makes everything written durable and puts the directory in its place. With `force`, what stood there is removed
    /// after that.
    ///
    /// # Errors
    /// Request: the target appeared meanwhile and `force` is not set; somebody else's file came into what it replaces.
    /// Work: the disk is full or the rename fails. What stood there is still there.
    pub fn commit(self) -> Result<()> {
        self.place.place(self.force)
    }
}

/// A file that is going to be made. Dropped before [`OutputFile::commit`], it leaves nothing behind.
#[derive(Debug)]
pub struct OutputFile {
    place: Arc<Workplace>,
    force: bool,
    /// It has its place, and nothing stood there before.
    is_placed: bool,
}

impl OutputFile {
    /// Starts a file that will stand at `target` and is made by `origin`.
    ///
    /// # Errors
    /// As [`OutputDir::create`]; in a directory of this program's, also for a file that its mark does not list.
    pub fn create(target: &Path, force: bool, origin: &Origin) -> Result<Self> {
        Self::at(Arc::new(Workplace::of(target, Makes::File, origin)?), force)
    }

    /// Starts the file that `place` is for.
    ///
    /// # Errors
    /// As [`OutputFile::create`].
    pub fn at(place: Arc<Workplace>, force: bool) -> Result<Self> {
        place.refuse_taken(force)?;
        mark::refuse_strange(place.target())?;
        Ok(Self { place, force, is_placed: false })
    }

    /// Puts these bytes in their place, to be taken back unless the output `with` them follows, and then
    /// [`OutputFile::commit`]; not so where they replaced something.
    ///
    /// # Errors
    /// Request: the target appeared meanwhile and `force` is not set. Work: the disk is full.
    pub fn place(&mut self, bytes: &[u8], with: &Path) -> Result<()> {
        let is_new = self.place.target().symlink_metadata().is_err();
        if is_new {
            self.place.note_placed(bytes, with)?;
        }
        self.write(bytes)?;
        self.is_placed = is_new;
        Ok(())
    }

    /// The file stays.
    pub fn commit(mut self) {
        self.is_placed = false;
    }

    /// Puts these bytes in their place.
    ///
    /// # Errors
    /// As [`OutputFile::place`].
    pub fn write(&self, bytes: &[u8]) -> Result<()> {
        self.write_with(|file| file.write_all(bytes).map_err(|error| Error::io(self.place.target(), &error)))
    }

    /// Puts what `write` writes in its place.
    ///
    /// # Errors
    /// As [`OutputFile::place`], and what `write` finds.
    pub fn write_with(&self, write: impl FnOnce(&mut dyn Write) -> Result<()>) -> Result<()> {
        let at = |error: io::Error| Error::io(self.place.target(), &error);
        let mut file = BufWriter::new(File::create_new(self.place.new_path()).map_err(at)?);
        write(&mut file)?;
        file.flush().map_err(at)?;
        drop(file);
        mark::claim(self.place.target())?;
        self.place.place(self.force)
    }
}

impl Drop for OutputFile {
    fn drop(&mut self) {
        if self.is_placed {
            drop(fs::remove_file(self.place.target()));
        }
    }
}

/// Writes a file that appears whole or not at all.
///
/// # Errors
/// Request: the target exists and `force` is not set. Work: no permission, no space.
pub fn write_file(target: &Path, force: bool, bytes: &[u8]) -> Result<()> {
    OutputFile::create(target, force, &Origin::program("file"))?.write(bytes)
}

/// The file at `path`, or every file and directory under it and itself, written through to the disk. What is neither
/// nobody has written here, and to open it may never end.
pub(super) fn sync_tree(path: &Path) -> io::Result<()> {
    let metadata = path.symlink_metadata()?;
    if !metadata.is_dir() && !metadata.is_file() {
        return Ok(());
    }
    if metadata.is_file() {
        // Windows flushes only what is open for writing; elsewhere a read-only copy must be openable
        return OpenOptions::new().read(true).write(cfg!(windows)).open(path)?.sync_all();
    }
    for found in fs::read_dir(path)? {
        sync_tree(&found?.path())?;
    }
    sync_dir(path)
}

/// The names in `dir` written through to the disk, on systems and file systems that can.
pub(super) fn sync_dir(dir: &Path) -> io::Result<()> {
    if !cfg!(unix) {
        return Ok(());
    }
    match File::open(dir)?.sync_all() {
        Err(error) if matches!(error.kind(), io::ErrorKind::InvalidInput | io::ErrorKind::Unsupported) => Ok(()),
        done => done,
    }
}

#[cfg(test)]
mod tests;
