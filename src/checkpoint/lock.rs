//! The locks: of an output, that on the mark in its hidden directory; of a directory that is worked in, that on itself.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, ErrorKind, Write};
use std::path::Path;

use super::mark::{self, MARK};
use crate::shown::from_here;
use crate::{Error, Result};

/// Refuses a directory that another process works in: it holds the lock on the directory itself, as [`lock_dir`] takes
/// it.
pub(super) fn refuse_busy(dir: &Path) -> Result<()> {
    match File::open(dir).map(|dir| dir.try_lock()) {
        Ok(Err(TryLockError::WouldBlock)) => Err(busy(dir)),
        _ => Ok(()),
    }
}

/// Who else may work in a directory meanwhile.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sharing {
    /// Nobody.
    Alone,
    /// Those who say the same.
    Shared,
}

/// Locks a directory that is worked in, for whose neighbours there may be no right to write; `None` where the system
/// locks no directories.
///
/// # Errors
/// Request: another process works there.
pub(crate) fn lock_dir(dir: &Path, sharing: Sharing) -> Result<Option<File>> {
    let lock = |dir: &File| match sharing {
        Sharing::Alone => dir.try_lock(),
        Sharing::Shared => dir.try_lock_shared(),
    };
    match File::open(dir).map(|dir| (lock(&dir), dir)) {
        Ok((Ok(()), dir)) => Ok(Some(dir)),
        Ok((Err(TryLockError::WouldBlock), _)) => Err(busy(dir)),
        Ok((Err(TryLockError::Error(_)), _)) | Err(_) => Ok(None),
    }
}

fn busy(dir: &Path) -> Error {
    Error::request(format!("{}: another run is working there", from_here(dir)))
}

/// Makes and marks the hidden directory `dir` of the output `target` unless that is done, and locks it; `None` where
/// the system locks no files.
///
/// # Errors
/// Request: somebody else's directory; another process holds the lock. Work: the file system's.
pub(super) fn lock(dir: &Path, target: &Path, command: &str) -> Result<Option<File>> {
    let at = |error: io::Error| Error::io(dir, &error);
    let path = dir.join(MARK);
    loop {
        match fs::create_dir(dir) {
            Err(error) if error.kind() != ErrorKind::AlreadyExists => {
                return Err(Error::io(dir.parent().unwrap_or(dir), &error));
            }
            _ => {}
        }
        let is_ours = match dir.symlink_metadata() {
            Ok(metadata) if metadata.is_dir() => match mark::is_blank(dir) {
                // another run has just ended
                Err(error) if error.kind() == ErrorKind::NotFound => continue,
                is_blank => is_blank.unwrap_or(false) || mark::made_by(dir).is_some(),
            },
            Ok(_) => false,
            Err(_) => continue,
        };
        if !is_ours {
            return Err(mark::strange(dir));
        }
        let mut file = match OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path) {
            Err(error) if error.kind() == ErrorKind::NotFound => continue,
            opened => opened.map_err(at)?,
        };
        let lock = file.try_lock();
        if matches!(lock, Err(TryLockError::WouldBlock)) {
            return Err(Error::request(format!("{}: another run is writing it", from_here(target))));
        }
        if !is_same(&file, &path) {
            continue;
        }
        if mark::is_cut_short(&path).map_err(at)? {
            // not by another name first: this file is the lock
            let text = mark::header(command)? + "\"new\"\n\"old\"\n\"gone\"\n\"placed\"\n";
            file.set_len(0).and_then(|()| file.write_all(text.as_bytes())).map_err(|error| {
                drop(mark::remove_blank(dir));
                at(error)
            })?;
        }
        return Ok(lock.is_ok().then_some(file));
    }
}

/// Whether `file` is still what `path` names.
fn is_same(file: &File, path: &Path) -> bool {
    #[cfg(unix)]
    {
        use std::os::unix::fs::MetadataExt;
        let id = |metadata: fs::Metadata| (metadata.dev(), metadata.ino());
        file.metadata().map(id).ok() == path.symlink_metadata().map(id).ok()
    }
    #[cfg(not(unix))]
    path.exists()
}
