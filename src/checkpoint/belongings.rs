//! What is in a directory, sorted by whose it is; and the removal of what is this program's.

use std::fs;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use super::mark::{MARK, Mark, NEW_MARK, home, is_blank, is_cut_short, strange};
use crate::{Error, Result};

/// What is in a directory: this program's, contents before what contains them, and what is not.
#[derive(Debug, Default)]
pub(super) struct Contents {
    pub(super) own: Vec<PathBuf>,
    strangers: Vec<PathBuf>,
}

impl Contents {
    /// The first that is somebody else's.
    pub(super) fn stranger(&self) -> Option<&Path> {
        self.strangers.first().map(PathBuf::as_path)
    }
}

/// Sorts what is in `dir`, by its mark, or the mark of what it lies in. Marks come last in their directories.
pub(super) fn contents(dir: &Path) -> io::Result<Contents> {
    let mut found = Contents::default();
    match Mark::of(dir)? {
        Some(mark) => visit(dir, "", &mark, &mut found)?,
        None => match home(dir)? {
            Some((_, mark, name)) if mark.lists(&name, true) => visit(dir, &format!("{name}/"), &mark, &mut found)?,
            _ if is_blank(dir)? => found.own.extend(marks(dir)),
            _ => found.strangers.extend(fs::read_dir(dir)?.next().transpose()?.map(|entry| entry.path())),
        },
    }
    Ok(found)
}

/// The files of marks in `dir`.
fn marks(dir: &Path) -> impl Iterator<Item = PathBuf> {
    let paths = [NEW_MARK, MARK].map(|name| dir.join(name));
    paths.into_iter().filter(|path| path.exists())
}

fn visit(dir: &Path, prefix: &str, mark: &Mark, found: &mut Contents) -> io::Result<()> {
    let mut entries = fs::read_dir(dir)?.collect::<io::Result<Vec<_>>>()?;
    entries.sort_by_key(fs::DirEntry::file_name);
    let mut own_marks = Vec::new();
    for entry in entries {
        let (path, kind) = (entry.path(), entry.file_type()?);
        let name = entry.file_name();
        let name = name.to_str().map(|name| format!("{prefix}{name}"));
        let is_own = name.as_ref().is_some_and(|name| mark.lists(name, kind.is_dir()));
        let is_mark = match entry.file_name() {
            file if file == MARK && kind.is_file() => Mark::read(dir)?.is_some() || is_cut_short(&path)?,
            file => file == NEW_MARK && is_cut_short(&path)?,
        };
        if is_mark {
            own_marks.push(path);
        } else if kind.is_dir()
            && let Some(inner) = inner(mark, &path, is_own)?.filter(|_| is_own || is_workplace(&path))
        {
            let mut inside = Contents::default();
            visit(&path, "", &inner, &mut inside)?;
            // a record in it may be that of a step, not of the whole
            if is_own && matches!(inner, Mark::Old(_)) && inside.stranger().is_some() {
                inside = Contents::default();
                visit(&path, &format!("{}/", name.unwrap_or_default()), mark, &mut inside)?;
            }
            found.own.extend(inside.own);
            found.strangers.extend(inside.strangers);
            found.own.push(path);
        } else if kind.is_dir() && is_workplace(&path) && is_blank(&path)? {
            found.own.extend(marks(&path));
            found.own.push(path);
        } else if is_own && kind.is_dir() {
            visit(&path, &format!("{}/", name.unwrap_or_default()), mark, found)?;
            found.own.push(path);
        } else if is_own && kind.is_file() {
            found.own.push(path);
        } else {
            found.strangers.push(path);
        }
    }
    found.own.extend(own_marks);
    Ok(())
}

/// What `dir` says of itself; where the list of what it lies in knows its entries, a record in it says nothing.
fn inner(outer: &Mark, dir: &Path, is_own: bool) -> io::Result<Option<Mark>> {
    match outer {
        Mark::Listed(..) if is_own => Mark::read(dir),
        _ => Mark::of(dir),
    }
}

/// Whether `dir` is called as the hidden directories beside outputs are.
fn is_workplace(dir: &Path) -> bool {
    let name = dir.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    name.len() > MARK.len() + 1 && name.starts_with('.') && name.ends_with(MARK)
}

/// Removes `path` with what is this program's in it. Whether all is gone: what is somebody else's stays, and with it
/// the marks of what it lies in.
pub(super) fn clear(path: &Path) -> io::Result<bool> {
    match path.symlink_metadata() {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(true),
        Err(error) => return Err(error),
        Ok(metadata) if metadata.is_file() => return fs::remove_file(path).map(|()| true),
        Ok(metadata) if !metadata.is_dir() => return Ok(false),
        Ok(_) => {}
    }
    let Contents { own, strangers } = contents(path)?;
    for entry in &own {
        let dir = entry.parent().unwrap_or(path);
        let holds_strangers = || strangers.iter().any(|stranger| stranger.starts_with(dir));
        if entry.is_dir() {
            // fails, as it should, when somebody else's is in it
            drop(fs::remove_dir(entry));
        } else if entry.file_name().is_some_and(|name| name != MARK && name != NEW_MARK) || !holds_strangers() {
            fs::remove_file(entry)?;
        }
    }
    match fs::remove_dir(path) {
        Ok(()) => Ok(true),
        Err(error) if matches!(error.kind(), ErrorKind::DirectoryNotEmpty | ErrorKind::AlreadyExists) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Refuses a directory of this program's in which somebody else's files are.
///
/// # Errors
/// Request: as said. Work: the file system's.
pub(crate) fn refuse_strangers(dir: &Path) -> Result<()> {
    let contents = contents(dir).map_err(|error| Error::io(dir, &error))?;
    contents.stranger().map_or(Ok(()), |stranger| Err(strange(stranger)))
}
