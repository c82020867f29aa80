//! What a holder takes over from those before it.

use std::fs;
use std::io::{self, ErrorKind};
use std::path::Path;

use super::{FROM, GONE, Lease, OUT, holder, id, is_dead};
use crate::checkpoint::belongings;
use crate::checkpoint::mark::{MARK, NEW_MARK, adopt, claim};
use crate::{Error, Result};

impl Lease {
    /// Takes the leases of lower numbers out of their holders' hands, and what is unfinished there.
    ///
    /// # Errors
    /// Work: the file system's.
    pub(super) fn succeed_all(&self, slug: &str) -> Result<()> {
        for lower in self.lower(slug)? {
            let is_dead = holder(&lower).is_none_or(|holder| is_dead(&lower, &holder));
            self.succeed(&lower, is_dead).map_err(|error| Error::io(&lower, &error))?;
        }
        Ok(())
    }

    /// Takes over the lease in `lower`. What a dead process left is renamed; one that may wake could still write into
    /// files that it has open, so that what it left is copied.
    fn succeed(&self, lower: &Path, is_dead: bool) -> io::Result<()> {
        let to = if is_dead { self.work().to_owned() } else { self.dir.join(FROM) };
        if !is_dead {
            fs::create_dir(&to)?;
        }
        // what was being copied before what it was copied to
        take_all(&lower.join(FROM), &to)?;
        for entry in entries(lower)? {
            if entry.starts_with(OUT) {
                take_all(&lower.join(entry), &to)?;
            }
        }
        if !is_dead {
            for entry in entries(&to)? {
                let copy = self.work().join(&entry);
                if !copy.exists() {
                    claim(&copy).map_err(io::Error::other)?;
                    copy_tree(&to.join(&entry), &copy)?;
                }
            }
            let gone = self.dir.join(GONE);
            belongings::clear(&gone)?;
            fs::rename(&to, &gone)?;
            fs::remove_dir_all(&gone)?;
        }
        let gone = Self::departed(lower, &id());
        match fs::rename(lower, &gone) {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
            Err(error) => Err(error),
            Ok(()) => belongings::clear(&gone).map(drop),
        }
    }
}

/// Moves the directories in `from` to `to`, but for those that are there and what was in the making, and removes
/// `from`: nobody can rename anything out of it any more, even one who has opened it before.
fn take_all(from: &Path, to: &Path) -> io::Result<()> {
    loop {
        for name in entries(from)? {
            let (entry, place) = (from.join(&name), to.join(&name));
            let is_made = name.starts_with('.') && name.ends_with(MARK);
            if !is_made && entry.is_dir() && !place.exists() {
                // what the list of `from` alone knows of it goes with it
                adopt(&entry, &[]).map_err(io::Error::other)?;
                if !to.ends_with(FROM) {
                    claim(&place).map_err(io::Error::other)?;
                }
                match fs::rename(&entry, &place) {
                    Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
                    _ => {}
                }
            } else if !belongings::clear(&entry)? {
                return Err(io::Error::other(format!("{name}: not written by prune, so it stays; move it")));
            }
        }
        for mark in [NEW_MARK, MARK] {
            drop(fs::remove_file(from.join(mark)));
        }
        match fs::remove_dir(from) {
            Err(error) if matches!(error.kind(), ErrorKind::DirectoryNotEmpty | ErrorKind::AlreadyExists) => {}
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
            _ => return Ok(()),
        }
    }
}

/// Whether nothing was made under the lease in `dir`.
pub(super) fn is_empty(dir: &Path) -> bool {
    let made = |name: &String| {
        name == FROM || name.starts_with(OUT) && entries(&dir.join(name)).is_ok_and(|all| !all.is_empty())
    };
    entries(dir).is_ok_and(|names| !names.iter().any(made))
}

/// Names in `dir` but its mark's; none where it is not there.
fn entries(dir: &Path) -> io::Result<Vec<String>> {
    let entries = match fs::read_dir(dir) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let mut names = Vec::new();
    for entry in entries {
        let name = entry?.file_name().to_string_lossy().into_owned();
        if name != MARK && name != NEW_MARK {
            names.push(name);
        }
    }
    names.sort();
    Ok(names)
}

/// Copies files and directories; links and the like are nobody's here.
fn copy_tree(from: &Path, to: &Path) -> io::Result<()> {
    let kind = from.symlink_metadata()?.file_type();
    if kind.is_file() {
        return fs::copy(from, to).map(drop);
    }
    if !kind.is_dir() {
        return Ok(());
    }
    fs::create_dir(to)?;
    for entry in fs::read_dir(from)? {
        let name = entry?.file_name();
        let text = name.to_string_lossy();
        // what was in the making is made again
        if !(text.starts_with('.') && text.ends_with(MARK) && text != MARK) {
            copy_tree(&from.join(&name), &to.join(&name))?;
        }
    }
    Ok(())
}
