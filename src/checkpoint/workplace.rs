//! Where an output comes to be: a hidden directory beside its place, `.OUT.prune`, which is also its lock.
//!
//! Whoever makes `OUT` holds the lock on the mark in `.OUT.prune` from before anything is touched until all is done;
//! what a killed process left there is cleared by the next one that takes it, whatever that one then finds.
//!
//! ```text
//! .OUT.prune/.prune   the mark; locked while somebody works here
//! .OUT.prune/new      the output that is being made; after the exchange, the old one
//! .OUT.prune/old      the old output while the new one takes its place, where the system cannot exchange them
//! .OUT.prune/gone     what is being removed
//! .OUT.prune/placed   SHA-256 of a file that has its place, and the output that is to stand with it
//! ```

use std::fs::{self, File};
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use super::belongings;
use super::fingerprint::hex;
use super::hash::sha256;
use super::lock::{lock, refuse_busy};
use super::mark::{self, MARK};
use super::origin::Origin;
use super::output::{sync_dir, sync_tree};
use super::rename::{exchange, rename_new};
use super::size::ByteSize;
use crate::progress::Silent;
use crate::shown::from_here;
use crate::{Error, Result, files};

const NEW: &str = "new";
const OLD: &str = "old";
const GONE: &str = "gone";
const PLACED: &str = "placed";

/// What an output is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Makes {
    Directory,
    File,
}

/// The lock of an output and the place to make it. Dropped, it leaves nothing behind.
#[derive(Debug)]
pub struct Workplace {
    target: PathBuf,
    dir: PathBuf,
    makes: Makes,
    origin: Origin,
    /// `None` where the system locks no files.
    _lock: Option<File>,
    /// Dropped last: parents can go when the directory in them is gone.
    _parents: Parents,
}

impl Workplace {
    /// Takes the place of `target`, which `origin` makes, and clears what killed runs left for it. Missing parents are
    /// made.
    ///
    /// # Errors
    /// Request: the target is a link or neither file nor directory, it lies in what it is made from, another run is
    /// writing it, somebody else's files lie where the work would be done. Work: no permission, no space.
    pub fn open(target: &Path, origin: &Origin) -> Result<Self> {
        Self::of(target, Makes::Directory, origin)
    }

    /// [`Workplace::open`] for an output that is a file.
    ///
    /// # Errors
    /// As there.
    pub fn open_file(target: &Path, origin: &Origin) -> Result<Self> {
        Self::of(target, Makes::File, origin)
    }

    pub(super) fn of(target: &Path, makes: Makes, origin: &Origin) -> Result<Self> {
        let (target, parents) = place_of(target)?;
        refuse_kind(&target, makes)?;
        origin.keep_out(&target)?;
        let dir = hidden(&target);
        let lock = lock(&dir, &target, origin.command)?;
        let place = Self { target, dir, makes, origin: origin.clone(), _lock: lock, _parents: parents };
        place.clear_leftovers()?;
        Ok(place)
    }

    /// Where the output will stand, absolute.
    #[must_use]
    pub fn target(&self) -> &Path {
        &self.target
    }

    /// Where it is made.
    pub(super) fn new_path(&self) -> PathBuf {
        self.dir.join(NEW)
    }

    /// Refuses a target that is there: without `force` any, with it one that an input lies in, that is not wholly this
    /// program's, or that another process works in.
    ///
    /// # Errors
    /// Request: as said.
    pub fn refuse_taken(&self, force: bool) -> Result<()> {
        let target = &self.target;
        let Ok(metadata) = target.symlink_metadata() else { return Ok(()) };
        refuse_kind(target, self.makes)?;
        self.origin.keep_inputs(target)?;
        if metadata.is_dir() {
            refuse_busy(target)?;
            let contents = belongings::contents(target).map_err(|error| Error::io(target, &error))?;
            if let Some(stranger) = contents.stranger() {
                // of earlier versions only what their records tell is known
                let unmarked = if target.join(MARK).exists() { "" } else { " (it has no mark, .prune)" };
                return Err(Error::request(format!(
                    "{} exists{unmarked} and holds {}, which is not known to be prune's: it stays; move it, or name \
                     another output",
                    from_here(target),
                    stranger.strip_prefix(target).unwrap_or(stranger).display()
                )));
            }
        }
        match force {
            true => Ok(()),
            false => Err(Error::request(format!("{} exists; --force replaces it", from_here(target)))),
        }
    }

    /// Refuses to start what cannot end: `bytes` more must fit on the disk.
    ///
    /// # Errors
    /// Work: less than that is free.
    pub fn require_space(&self, bytes: u64) -> Result<()> {
        let free = fs4::available_space(&self.dir).map_err(|error| Error::io(&self.dir, &error))?;
        if free < bytes {
            let parent = self.target.parent().unwrap_or(&self.target).display();
            let (needed, free) = (ByteSize(bytes), ByteSize(free));
            return Err(Error::work(format!("{parent}: {needed} needed, {free} free on this disk")));
        }
        Ok(())
    }

    /// Makes a marked directory with these entries to be at `path`, beside the output or itself, at once whole.
    ///
    /// # Errors
    /// Work: the file system's.
    pub(crate) fn make_dir(&self, path: &Path, entries: &[&str]) -> Result<()> {
        let new = self.begin(entries)?;
        let at = |error: io::Error| Error::io(path, &error);
        // takes the place of an empty directory, never of another
        fs::rename(new, path).map_err(at)?;
        sync_dir(path.parent().unwrap_or(path)).map_err(at)
    }

    /// Makes the directory that is to become the output.
    pub(super) fn begin(&self, entries: &[&str]) -> Result<PathBuf> {
        let new = self.new_path();
        fs::create_dir(&new).map_err(|error| Error::io(&new, &error))?;
        mark::mark(&new, self.origin.command, entries)?;
        Ok(new)
    }

    /// Removes `path`, a directory of this program's. What else is in it stays, and is told.
    ///
    /// # Errors
    /// Request: somebody else's files are in it; nothing is removed. Work: the file system's.
    pub fn discard(&self, path: &Path) -> Result<()> {
        let at = |error: io::Error| Error::io(path, &error);
        match path.symlink_metadata() {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
            Ok(metadata) if metadata.is_dir() => {}
            _ => return Err(mark::strange(path)),
        }
        belongings::refuse_strangers(path)?;
        // it loses its name before its files: what is half removed must not be taken for whole
        let gone = self.dir.join(GONE);
        mark::adopt(path, &[])?;
        rename_new(path, &gone).map_err(at)?;
        self.clear(&gone)
    }

    /// Puts what was made in its place; what stood there, if `force` gives it up, is removed.
    pub(super) fn place(&self, force: bool) -> Result<()> {
        let (new, target) = (self.new_path(), &self.target);
        let at = |error: io::Error| Error::io(target, &error);
        sync_tree(&new).map_err(at)?;
        self.refuse_taken(force)?;
        let parent = target.parent().unwrap_or(target);
        if target.symlink_metadata().is_err() {
            match rename_new(&new, target) {
                Err(error) if error.kind() == ErrorKind::AlreadyExists => self.refuse_taken(false)?,
                done => done.map_err(at)?,
            }
            return sync_dir(parent).map_err(at);
        }
        if self.makes == Makes::Directory {
            mark::adopt(target, &[])?;
        }
        if exchange(&new, target).map_err(at)? {
            sync_dir(parent).map_err(at)?;
            return self.clear(&new);
        }
        let old = self.dir.join(OLD);
        fs::rename(target, &old).map_err(at)?;
        if let Err(error) = rename_new(&new, target) {
            fs::rename(&old, target).map_err(at)?;
            return Err(at(error));
        }
        sync_dir(parent).map_err(at)?;
        self.remove_old()
    }

    /// Says that the file with these bytes has its place before the output `with` it has, so that a killed process's is
    /// not taken for one that was there before.
    pub(super) fn note_placed(&self, bytes: &[u8], with: &Path) -> Result<()> {
        let path = self.dir.join(PLACED);
        let text = format!("{}\n{}\n", hex(&Sha256::digest(bytes)), with.display());
        fs::write(&path, text).map_err(|error| Error::io(&path, &error))
    }

    fn clear_leftovers(&self) -> Result<()> {
        let (old, placed, target) = (self.dir.join(OLD), self.dir.join(PLACED), &self.target);
        if old.symlink_metadata().is_ok() {
            if target.symlink_metadata().is_err() {
                // moved aside for one that never came
                rename_new(&old, target).map_err(|error| Error::io(target, &error))?;
            } else {
                self.remove_old()?;
            }
        }
        if let Ok(note) = files::read_text(&placed, files::NOTE)
            && let Some((digest, with)) = note.strip_suffix('\n').and_then(|note| note.split_once('\n'))
            && target.is_file()
            && !Path::new(with).exists()
            && sha256(target, &Silent)? == digest
        {
            fs::remove_file(target).map_err(|error| Error::io(target, &error))?;
        }
        [PLACED, NEW, GONE].iter().try_for_each(|name| self.clear(&self.dir.join(name)))
    }

    /// An output that was moved aside loses its name before its files: half removed it must not be put back.
    fn remove_old(&self) -> Result<()> {
        let (old, gone) = (self.dir.join(OLD), self.dir.join(GONE));
        self.clear(&gone)?;
        fs::rename(&old, &gone).map_err(|error| Error::io(&old, &error))?;
        self.clear(&gone)
    }

    fn clear(&self, path: &Path) -> Result<()> {
        match belongings::clear(path).map_err(|error| Error::io(path, &error))? {
            true => Ok(()),
            false => {
                let contents = belongings::contents(path).ok();
                Err(mark::strange(contents.as_ref().and_then(belongings::Contents::stranger).unwrap_or(path)))
            }
        }
    }
}

impl Drop for Workplace {
    fn drop(&mut self) {
        for name in [PLACED, NEW, GONE] {
            // what stays is cleared by the next run
            drop(belongings::clear(&self.dir.join(name)));
        }
        let is_empty = fs::read_dir(&self.dir)
            .is_ok_and(|mut entries| entries.all(|entry| entry.is_ok_and(|entry| entry.file_name() == MARK)));
        if is_empty {
            drop(mark::remove_blank(&self.dir));
        }
    }
}

/// The absolute place of `target`, its parents made and free of links.
fn place_of(target: &Path) -> Result<(PathBuf, Parents)> {
    let at = |error: io::Error| Error::io(target, &error);
    let target = std::path::absolute(target).map_err(at)?;
    let (Some(parent), Some(name)) = (target.parent(), target.file_name()) else {
        return Err(Error::request(format!("{}: no name for an output", target.display())));
    };
    let name = name.to_str().ok_or_else(|| Error::request(format!("{}: not UTF-8", target.display())))?;
    if name.len() > 255 {
        return Err(Error::request(format!("{}: a name of {} bytes; 255 are possible", target.display(), name.len())));
    }
    let parents = Parents::make(parent).map_err(at)?;
    Ok((parent.canonicalize().map_err(at)?.join(name), parents))
}

/// The hidden directory of `target`. A name that leaves no room for more is shortened.
fn hidden(target: &Path) -> PathBuf {
    let name = target.file_name().unwrap_or_default().to_string_lossy();
    let name = if name.len() > 240 { hex(&Sha256::digest(name.as_bytes())) } else { name.into_owned() };
    target.with_file_name(format!(".{name}{MARK}"))
}

/// Whether a killed process left something for the output at `target`.
#[must_use]
pub fn has_leftovers(target: &Path) -> bool {
    std::path::absolute(target).is_ok_and(|target| hidden(&target).symlink_metadata().is_ok())
}

/// Refuses a place where something else than a directory is: a file, a link, a FIFO.
///
/// # Errors
/// Request: as said.
pub(crate) fn check_place(dir: &Path) -> Result<()> {
    refuse_kind(dir, Makes::Directory)
}

/// Only files and directories are ever replaced.
fn refuse_kind(target: &Path, makes: Makes) -> Result<()> {
    let Ok(metadata) = target.symlink_metadata() else { return Ok(()) };
    let what = match (metadata.file_type(), makes) {
        (kind, Makes::File) if kind.is_file() => return Ok(()),
        (kind, Makes::Directory) if kind.is_dir() => return Ok(()),
        (kind, _) if kind.is_file() => "a file: it stays; name a directory",
        (kind, _) if kind.is_dir() => "a directory: it stays; name a file",
        (kind, _) if kind.is_symlink() => "a symbolic link; name what it leads to",
        _ => "neither a file nor a directory: it stays; name another output",
    };
    Err(Error::request(format!("{} exists and is {what}", from_here(target))))
}

/// Directories made for an output, the deepest first. Those that stay empty are removed again.
#[derive(Debug)]
struct Parents(Vec<PathBuf>);

impl Parents {
    fn make(dir: &Path) -> io::Result<Self> {
        let missing = dir.ancestors().take_while(|dir| dir.symlink_metadata().is_err()).map(Path::to_owned).collect();
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
