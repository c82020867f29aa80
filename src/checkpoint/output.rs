//! Outputs appear whole or not at all: they are built in a hidden sibling of their place, made durable, and renamed.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use tempfile::{Builder, TempDir};

use super::size::ByteSize;
use crate::{Error, Result};

/// A directory that is being made. Dropped before [`OutputDir::commit`], it leaves nothing behind.
#[derive(Debug)]
pub struct OutputDir {
    place: Place,
    force: bool,
    temp: TempDir,
    /// Held while this process lives, so that no other takes the directory for one that a killed process left. `None`
    /// where the system locks no directories.
    _lock: Option<File>,
    /// Dropped last: parents can go when the directory in them is gone.
    _parents: Parents,
}

impl OutputDir {
    /// Starts a directory that will stand at `target`. Missing parents are made; what killed runs left for this target
    /// is cleared away. `sources` are what the output is made from.
    ///
    /// # Errors
    /// Request: the target exists and `force` is not set; it lies in a source, or replacing it would delete a source or
    /// the current directory; another run is writing it. Work: no permission, no space.
    pub fn create(target: &Path, force: bool, sources: &[&Path]) -> Result<Self> {
        let (place, parents) = Place::of(target)?;
        place.clear_leftovers()?;
        place.refuse_if_taken(force)?;
        place.keep_apart(sources)?;
        let temp = Builder::new().prefix(&place.prefix()).tempdir_in(&place.parent);
        let temp = temp.map_err(|error| Error::io(&place.parent, &error))?;
        let lock = match File::open(temp.path()).map(|dir| (dir.try_lock(), dir)) {
            Ok((Ok(()), dir)) => Some(dir),
            Ok((Err(TryLockError::WouldBlock), _)) => return Err(place.busy()),
            Ok((Err(TryLockError::Error(_)), _)) | Err(_) => None,
        };
        Ok(Self { place, force, temp, _lock: lock, _parents: parents })
    }

    /// Where to write until [`OutputDir::commit`].
    pub fn path(&self) -> &Path {
        self.temp.path()
    }

    /// Where the directory will stand, absolute.
    pub fn target(&self) -> PathBuf {
        self.place.target()
    }

    /// Refuses to start what cannot end: `bytes` more must fit on the disk.
    ///
    /// # Errors
    /// Work: less than that is free.
    pub fn require_space(&self, bytes: u64) -> Result<()> {
        self.place.require_space(bytes)
    }

    /// Makes everything written durable and puts the directory in its place. With `force`, what stood there is moved
    /// aside and removed after that.
    ///
    /// # Errors
    /// Request: the target appeared meanwhile and `force` is not set. Work: the disk is full or the rename fails; what
    /// stood there is still there.
    pub fn commit(mut self) -> Result<()> {
        let (target, aside) = (self.target(), self.place.aside());
        let at = |error: io::Error| Error::io(&target, &error);
        sync_tree(self.path()).map_err(at)?;
        self.place.refuse_if_taken(self.force)?;
        if exists(&target) {
            fs::rename(&target, &aside).map_err(at)?;
        }
        if let Err(error) = fs::rename(self.path(), &target) {
            if exists(&aside) {
                fs::rename(&aside, &target).map_err(at)?;
            }
            return Err(at(error));
        }
        self.temp.disable_cleanup(true);
        sync_dir(&self.place.parent).map_err(at)?;
        if exists(&aside) {
            self.place.discard(&aside).map_err(|error| Error::io(&aside, &error))?;
        }
        Ok(())
    }
}

/// Writes a file that appears whole or not at all.
///
/// # Errors
/// Request: the target exists and `force` is not set. Work: no permission, no space.
pub fn write_file(target: &Path, force: bool, bytes: &[u8]) -> Result<()> {
    let (place, _parents) = Place::of(target)?;
    place.refuse_if_taken(force)?;
    let at = |error: io::Error| Error::io(target, &error);
    let mut builder = Builder::new();
    #[cfg(unix)]
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
    let mut file = builder.prefix(&place.prefix()).tempfile_in(&place.parent).map_err(at)?;
    file.write_all(bytes).map_err(at)?;
    file.as_file().sync_all().map_err(at)?;
    match if force { file.persist(target) } else { file.persist_noclobber(target) } {
        Ok(_) => sync_dir(&place.parent).map_err(at),
        Err(error) if error.error.kind() == io::ErrorKind::AlreadyExists => place.refuse_if_taken(force),
        Err(error) => Err(at(error.error)),
    }
}

/// Where an output goes: a parent that exists, and a name in it.
#[derive(Debug)]
pub(super) struct Place {
    pub(super) parent: PathBuf,
    name: String,
}

impl Place {
    /// Makes the missing parents of `target`.
    pub(super) fn of(target: &Path) -> Result<(Self, Parents)> {
        let at = |error: io::Error| Error::io(target, &error);
        let target = std::path::absolute(target).map_err(at)?;
        let (Some(parent), Some(name)) = (target.parent(), target.file_name()) else {
            return Err(Error::request(format!("{}: no name for an output", target.display())));
        };
        let name = name.to_str().ok_or_else(|| Error::request(format!("{}: not UTF-8", target.display())))?.to_owned();
        let parents = Parents::make(parent).map_err(at)?;
        Ok((Self { parent: parent.canonicalize().map_err(at)?, name }, parents))
    }

    fn target(&self) -> PathBuf {
        self.parent.join(&self.name)
    }

    /// Temporary names: this and six letters or digits.
    fn prefix(&self) -> String {
        format!(".{}.prune-", self.name)
    }

    pub(super) fn require_space(&self, bytes: u64) -> Result<()> {
        let free = fs4::available_space(&self.parent).map_err(|error| Error::io(&self.parent, &error))?;
        if free < bytes {
            let (needed, free, parent) = (ByteSize(bytes), ByteSize(free), self.parent.display());
            return Err(Error::work(format!("{parent}: {needed} needed, {free} free on this disk")));
        }
        Ok(())
    }

    /// Where the old output waits while the new one takes its place.
    fn aside(&self) -> PathBuf {
        self.parent.join(format!("{}old", self.prefix()))
    }

    /// Temporary directories of runs that were killed. An output that was moved aside for one that never came is put
    /// back.
    pub(super) fn clear_leftovers(&self) -> Result<()> {
        let at = |error: io::Error| Error::io(&self.parent, &error);
        let (target, aside) = (self.target(), self.aside());
        if exists(&aside) && !exists(&target) {
            fs::rename(&aside, &target).map_err(at)?;
        } else if exists(&aside) {
            self.discard(&aside).map_err(at)?;
        }
        for found in fs::read_dir(&self.parent).map_err(at)?.flatten() {
            let name = found.file_name();
            let random = name.to_str().and_then(|name| name.strip_prefix(&self.prefix()));
            if !random.is_some_and(|random| random.len() == 6 && random.bytes().all(|b| b.is_ascii_alphanumeric())) {
                continue;
            }
            // a directory that cannot be locked may be in use
            if let Ok(dir) = File::open(found.path()) {
                match dir.try_lock() {
                    Ok(()) => remove(&found.path()).map_err(at)?,
                    Err(TryLockError::WouldBlock) => return Err(self.busy()),
                    Err(TryLockError::Error(_)) => {}
                }
            }
        }
        Ok(())
    }

    /// Removes an output that was moved aside. It loses its name before its files: what a killed run left half removed
    /// must not be put back.
    fn discard(&self, aside: &Path) -> io::Result<()> {
        let trash = Builder::new().prefix(&self.prefix()).tempdir_in(&self.parent)?;
        fs::rename(aside, trash.path().join("old"))?;
        trash.close()
    }

    fn busy(&self) -> Error {
        Error::request(format!("{}: another run is writing it", self.target().display()))
    }

    pub(super) fn refuse_if_taken(&self, force: bool) -> Result<()> {
        match exists(&self.target()) && !force {
            true => Err(Error::request(format!("{} exists; --force replaces it", self.target().display()))),
            false => Ok(()),
        }
    }

    pub(super) fn keep_apart(&self, sources: &[&Path]) -> Result<()> {
        let target = self.target();
        let refuse = |why: String| Err(Error::request(format!("{}: {why}", target.display())));
        for source in sources.iter().filter_map(|source| source.canonicalize().ok()) {
            if target.starts_with(&source) {
                return refuse(format!("the output would lie in its source, {}", source.display()));
            }
            if source.starts_with(&target) {
                return refuse(format!("the output would replace its source, {}", source.display()));
            }
        }
        match std::env::current_dir() {
            Ok(current) if current.starts_with(&target) => {
                refuse("the output would replace the current directory".into())
            }
            _ => Ok(()),
        }
    }
}

/// Directories made for an output, the deepest first. Those that stay empty are removed again.
#[derive(Debug)]
pub(super) struct Parents(Vec<PathBuf>);

impl Parents {
    fn make(dir: &Path) -> io::Result<Self> {
        let missing = dir.ancestors().take_while(|dir| !exists(dir)).map(Path::to_owned).collect();
        let parents = Self(missing);
        fs::create_dir_all(dir)?;
        Ok(parents)
    }
}

impl Drop for Parents {
    fn drop(&mut self) {
        for dir in &self.0 {
            // fails, as it should, when something is in it
            drop(fs::remove_dir(dir));
        }
    }
}

/// Whether anything is there, a link into nowhere included.
fn exists(path: &Path) -> bool {
    path.symlink_metadata().is_ok()
}

/// A directory with all it holds, a file, or a link.
fn remove(path: &Path) -> io::Result<()> {
    if path.symlink_metadata()?.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) }
}

/// Every file and directory under `dir`, and `dir` itself, written through to the disk.
fn sync_tree(dir: &Path) -> io::Result<()> {
    for found in fs::read_dir(dir)? {
        let path = found?.path();
        if path.is_dir() {
            sync_tree(&path)?;
        } else {
            // Windows flushes only what is open for writing; elsewhere a read-only copy must be openable
            OpenOptions::new().read(true).write(cfg!(windows)).open(&path)?.sync_all()?;
        }
    }
    sync_dir(dir)
}

/// The names in `dir` written through to the disk, on systems and file systems that can.
fn sync_dir(dir: &Path) -> io::Result<()> {
    if !cfg!(unix) {
        return Ok(());
    }
    match File::open(dir)?.sync_all() {
        Err(error) if matches!(error.kind(), io::ErrorKind::InvalidInput | io::ErrorKind::Unsupported) => Ok(()),
        done => done,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(dir: &Path) -> Vec<String> {
        let mut names: Vec<String> =
            fs::read_dir(dir).unwrap().map(|file| file.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    fn build(target: &Path, force: bool, text: &str) -> Result<()> {
        let out = OutputDir::create(target, force, &[])?;
        fs::write(out.path().join("file"), text).unwrap();
        out.commit()
    }

    #[test]
    fn appears_whole_or_not_at_all() {
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path().join("a/b/out");
        let out = OutputDir::create(&target, false, &[]).unwrap();
        fs::write(out.path().join("half"), "x").unwrap();
        assert!(!target.exists());
        drop(out);
        assert!(names(dir.path()).is_empty(), "neither the output nor the parents made for it");

        build(&target, false, "new").unwrap();
        assert_eq!(names(&dir.path().join("a/b")), ["out"]);
        assert_eq!(fs::read_to_string(target.join("file")).unwrap(), "new");
    }

    #[test]
    fn existing_output_needs_force() {
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path().join("out");
        build(&target, false, "old").unwrap();
        let error = build(&target, false, "new").unwrap_err();
        assert!(matches!(&error, Error::Request(message) if message.contains("--force")), "{error}");
        assert_eq!(fs::read_to_string(target.join("file")).unwrap(), "old");
        build(&target, true, "new").unwrap();
        assert_eq!(fs::read_to_string(target.join("file")).unwrap(), "new");
        assert_eq!(names(dir.path()), ["out"]);

        fs::remove_dir_all(&target).unwrap();
        let out = OutputDir::create(&target, false, &[]).unwrap();
        fs::write(&target, "appeared meanwhile").unwrap();
        assert!(out.commit().is_err());
        assert_eq!(fs::read_to_string(&target).unwrap(), "appeared meanwhile");
    }

    #[test]
    fn leftovers_of_killed_runs_are_cleared() {
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path().join("out");
        for name in [".out.prune-Ab12Cd", ".out.prune-old", ".out.prune-x.prune-Ab12Cd", ".other.prune-Ab12Cd"] {
            fs::create_dir(dir.path().join(name)).unwrap();
            fs::write(dir.path().join(name).join("file"), name).unwrap();
        }
        // killed between moving the old output aside and renaming the new one: the old one comes back
        assert!(build(&target, false, "new").is_err());
        assert_eq!(fs::read_to_string(target.join("file")).unwrap(), ".out.prune-old");
        build(&target, true, "new").unwrap();
        assert_eq!(names(dir.path()), [".other.prune-Ab12Cd", ".out.prune-x.prune-Ab12Cd", "out"]);
    }

    #[test]
    #[cfg(unix)]
    fn two_runs_do_not_write_one_output() {
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path().join("out");
        let first = OutputDir::create(&target, false, &[]).unwrap();
        let error = OutputDir::create(&target, true, &[]).unwrap_err().to_string();
        assert!(error.contains("another run"), "{error}");
        fs::write(first.path().join("file"), "first").unwrap();
        first.commit().unwrap();
        assert!(target.join("file").exists());
    }

    #[test]
    fn sources_are_safe() {
        let dir = tempfile::tempdir().unwrap();
        let source = dir.path().join("models/source");
        fs::create_dir_all(&source).unwrap();
        for (target, force) in [("models/source/out", false), ("models/source", true), ("models", true)] {
            let error = OutputDir::create(&dir.path().join(target), force, &[&source]).unwrap_err();
            assert!(matches!(&error, Error::Request(message) if message.contains("source")), "{error}");
        }
        let current = std::env::current_dir().unwrap();
        let error = OutputDir::create(current.parent().unwrap(), true, &[]).unwrap_err();
        assert!(error.to_string().contains("the current directory"), "{error}");
        assert!(OutputDir::create(Path::new("/"), true, &[]).is_err());
        assert_eq!(names(dir.path()), ["models"]);
        assert_eq!(names(&source), [""; 0]);
    }

    #[test]
    fn too_little_space_is_said_before_the_work() {
        let dir = tempfile::tempdir().unwrap();
        let out = OutputDir::create(&dir.path().join("out"), false, &[]).unwrap();
        out.require_space(1).unwrap();
        let error = out.require_space(u64::MAX).unwrap_err().to_string();
        assert!(error.contains("16777216.0 TiB needed"), "{error}");
    }

    #[test]
    fn files_appear_whole() {
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path().join("a.json");
        write_file(&target, false, b"one").unwrap();
        assert!(matches!(write_file(&target, false, b"two"), Err(Error::Request(_))));
        write_file(&target, true, b"three").unwrap();
        assert_eq!(fs::read(&target).unwrap(), b"three");
        assert!(write_file(&target.join("below/a/file"), false, b"").is_err());
        assert_eq!(names(dir.path()), ["a.json"]);
    }
}
