//! Whose a directory is, and whose each entry in it: the one rule about what may be cleared or replaced.
//!
//! Every directory that this program makes or works in carries its mark, the file `.prune`. Its first line says which
//! version and which command made it, every other one names an entry, a path inside the directory, and is written
//! before the entry is made. So whatever ends the process, what lies there and is not listed was put there by somebody
//! else. Only a marked directory is cleared or replaced, only what its mark lists is removed, and never through a link.
//!
//! ```text
//! {"prune":"0.1.0","command":"cut"}
//! "model.safetensors"
//! "config.json"
//! ```

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Read, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::belongings::contents;
use super::unmarked::{self, Kind};
use crate::shown::from_here;
use crate::{Error, Result};

/// Name of the mark.
pub const MARK: &str = ".prune";

/// A mark that is being written.
pub(super) const NEW_MARK: &str = ".prune.new";

/// What every mark begins with.
const START: &[u8] = b"{\"prune\":\"";

/// Marks are lists of names; what is longer than this is none.
const LONGEST: u64 = 16 << 20;

/// First line of a mark.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Header {
    /// Version of the program.
    prune: String,
    command: String,
}

/// What a directory says of itself.
#[derive(Debug)]
pub(super) enum Mark {
    /// By its mark: the command, and the entries.
    Listed(String, BTreeSet<String>),
    /// By the record that a version without marks left in it.
    Old(&'static Kind),
}

impl Mark {
    /// That of `dir`, or what the record in it says.
    pub(super) fn of(dir: &Path) -> io::Result<Option<Self>> {
        match dir.join(MARK).symlink_metadata() {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(unmarked::recognize(dir).map(Self::Old)),
            _ => Self::read(dir),
        }
    }

    /// The mark in `dir`; what is no regular file or cannot be read as one is none.
    pub(super) fn read(dir: &Path) -> io::Result<Option<Self>> {
        let path = dir.join(MARK);
        match path.symlink_metadata() {
            Ok(metadata) if metadata.is_file() && metadata.len() <= LONGEST => {
                let mut bytes = Vec::new();
                File::open(&path)?.read_to_end(&mut bytes)?;
                Ok(String::from_utf8(bytes).ok().and_then(|text| Self::parse(&text)))
            }
            Ok(_) => Ok(None),
            Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn parse(text: &str) -> Option<Self> {
        let (first, rest) = text.split_once('\n')?;
        let header: Header = serde_json::from_str(first).ok()?;
        // a line that was cut short names nothing that was made
        let entries = rest.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
        Some(Self::Listed(header.command, entries))
    }

    pub(super) fn lists(&self, name: &str, is_dir: bool) -> bool {
        match self {
            Self::Listed(_, entries) => entries.contains(name),
            Self::Old(kind) => kind.lists(name, is_dir),
        }
    }
}

/// Marks `dir`, which has no mark or one that is cut short, as made by `command` with these entries: at once, since one
/// that is half there would make strangers of the others.
pub(super) fn mark(dir: &Path, command: &str, entries: &[&str]) -> Result<()> {
    let (new, path) = (dir.join(NEW_MARK), dir.join(MARK));
    let text = header(command)? + &entries.iter().map(line).collect::<Result<String>>()?;
    let at = |error: io::Error| Error::io(&path, &error);
    if is_cut_short(&new).map_err(at)? {
        fs::remove_file(&new).map_err(at)?;
    }
    let mut file = File::create_new(&new).map_err(at)?;
    let done = file.write_all(text.as_bytes()).and_then(|()| fs::rename(&new, &path));
    done.map_err(|error| {
        drop(fs::remove_file(&new));
        at(error)
    })
}

/// Whether `path` is a mark that a killed process or a full disk left without its first line, or one that had not got
/// its name yet.
pub(super) fn is_cut_short(path: &Path) -> io::Result<bool> {
    match path.symlink_metadata() {
        Ok(metadata) if metadata.is_file() && metadata.len() <= LONGEST => {}
        Ok(_) => return Ok(false),
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => return Ok(false),
        Err(error) => return Err(error),
    }
    let is_new = path.file_name().is_some_and(|name| name == NEW_MARK);
    let mut bytes = Vec::new();
    File::open(path)?.read_to_end(&mut bytes)?;
    Ok((START.starts_with(&bytes) || bytes.starts_with(START)) && (is_new || !bytes.contains(&b'\n')))
}

/// Text of a mark without entries.
pub(super) fn header(command: &str) -> Result<String> {
    let header = Header { prune: env!("CARGO_PKG_VERSION").to_owned(), command: command.to_owned() };
    line(&header)
}

fn line(of: &(impl Serialize + ?Sized)) -> Result<String> {
    serde_json::to_string(of).map(|text| text + "\n").map_err(|error| Error::work(error.to_string()))
}

/// Gives a directory that has no mark of its own, of an earlier version or a part of another, one with what is this
/// program's in it, and `more` entries.
///
/// # Errors
/// Work: the file system's.
pub fn adopt(dir: &Path, more: &[&str]) -> Result<()> {
    let at = |error: io::Error| Error::io(dir, &error);
    if Mark::read(dir).map_err(at)?.is_some() {
        return Ok(());
    }
    let command = made_by(dir).unwrap_or_default();
    let own = contents(dir).map_err(at)?.own;
    let own = own.iter().filter_map(|path| path.strip_prefix(dir).ok()?.to_str());
    mark(dir, &command, &own.chain(more.iter().copied()).collect::<Vec<_>>())
}

/// The command that made `dir`, if this program made it.
#[must_use]
pub fn made_by(dir: &Path) -> Option<String> {
    match Mark::of(dir).ok()?? {
        Mark::Listed(command, _) => Some(command),
        Mark::Old(kind) => Some(kind.command.to_owned()),
    }
}

/// Whether `dir` is one that `command` made, or one in which there is nothing yet.
///
/// # Errors
/// Work: the file system's.
pub fn can_work_in(dir: &Path, command: &str) -> Result<bool> {
    match made_by(dir) {
        Some(made_by) => Ok(made_by == command),
        None => is_blank(dir).map_err(|error| Error::io(dir, &error)),
    }
}

/// Marks `dir` as made by `command` if there is nothing in it yet.
///
/// # Errors
/// Work: the file system's.
pub fn work_in(dir: &Path, command: &str) -> Result<()> {
    match made_by(dir).is_none() && can_work_in(dir, command)? {
        true => mark(dir, command, &[]),
        false => Ok(()),
    }
}

/// Whether nothing is in `dir`, or nothing but a mark that is cut short.
pub(super) fn is_blank(dir: &Path) -> io::Result<bool> {
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        let is_mark = path.file_name().is_some_and(|name| name == MARK || name == NEW_MARK);
        // another process may be removing its own just now
        if !is_mark || !(is_cut_short(&path)? || path.symlink_metadata().is_err()) {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Removes a directory of this program's in which nothing but a mark is.
pub(super) fn remove_blank(dir: &Path) -> io::Result<()> {
    for name in [NEW_MARK, MARK] {
        match fs::remove_file(dir.join(name)) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    fs::remove_dir(dir)
}

/// The marked directory that `path` lies in, and the path inside it with `/`.
pub(super) fn home(path: &Path) -> io::Result<Option<(PathBuf, Mark, String)>> {
    for dir in path.ancestors().skip(1) {
        if let Some(mark) = Mark::read(dir)? {
            let parts = path.strip_prefix(dir).unwrap_or(path).components();
            let parts: Vec<&str> = parts.filter_map(|part| part.as_os_str().to_str()).collect();
            return Ok(Some((dir.to_owned(), mark, parts.join("/"))));
        }
    }
    Ok(None)
}

/// Says, in the mark of the directory that `path` lies in, that it and the directories around it are this program's;
/// outside of marked directories there is nothing to say. Made before `path` is.
///
/// # Errors
/// Request: it is there already and somebody else's. Work: the file system's.
pub fn claim(path: &Path) -> Result<()> {
    let at = |error: io::Error| Error::io(path, &error);
    let Some((dir, mark, name)) = home(path).map_err(at)? else { return Ok(()) };
    let mut text = String::new();
    let ends = name.match_indices('/').map(|(end, _)| end).chain([name.len()]);
    for part in ends.map(|end| &name[..end]) {
        if mark.lists(part, false) {
            continue;
        }
        let is_last = part.len() == name.len();
        if is_last && path.symlink_metadata().is_ok() {
            return Err(strange(path));
        }
        // a directory that somebody else made stays theirs
        if is_last || !dir.join(part).exists() || made_by(&dir.join(part)).is_some() {
            text += &line(part)?;
        }
    }
    if text.is_empty() {
        return Ok(());
    }
    let path = dir.join(MARK);
    let at = |error: io::Error| Error::io(&path, &error);
    let known = fs::read(&path).map_err(at)?;
    let mut file = OpenOptions::new().append(true).open(&path).map_err(at)?;
    // a killed run's last line may be cut short: it lists nothing, and goes; it may lack its end alone
    let whole = known.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
    if serde_json::from_slice::<String>(&known[whole..]).is_ok() {
        text.insert(0, '\n');
    } else if whole < known.len() {
        file.set_len(whole as u64).map_err(at)?;
    }
    file.write_all(text.as_bytes()).map_err(at)
}

/// Whether [`claim`] has nothing to say of `path`.
///
/// # Errors
/// Work: the file system's.
pub(crate) fn is_listed(path: &Path) -> Result<bool> {
    let home = home(path).map_err(|error| Error::io(path, &error))?;
    Ok(home.is_none_or(|(_, mark, name)| mark.lists(&name, false)))
}

/// Refuses a `path` in a directory of this program's that is there and not listed.
pub(super) fn refuse_strange(path: &Path) -> Result<()> {
    match home(path).map_err(|error| Error::io(path, &error))? {
        Some((_, mark, name)) if path.symlink_metadata().is_ok() && !mark.lists(&name, false) => Err(strange(path)),
        _ => Ok(()),
    }
}

/// The error of meeting somebody else's `path`.
pub(super) fn strange(path: &Path) -> Error {
    Error::request(format!("{}: not written by prune, so it stays; move it, or name another output", from_here(path)))
}

/// Makes the file `path` in a directory of this program's, listed in its mark.
///
/// # Errors
/// Work: it is there already; the file system's.
pub fn create_file(path: &Path) -> Result<File> {
    claim(path)?;
    File::create_new(path).map_err(|error| Error::io(path, &error))
}

/// Writes the file `path` as [`create_file`] makes it.
///
/// # Errors
/// As [`create_file`].
pub fn write_new(path: &Path, bytes: impl AsRef<[u8]>) -> Result<()> {
    create_file(path)?.write_all(bytes.as_ref()).map_err(|error| Error::io(path, &error))
}

/// Makes the directory `path`, and what is missing above it, in a directory of this program's.
///
/// # Errors
/// Work: the file system's.
pub fn create_dir(path: &Path) -> Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    claim(path)?;
    fs::create_dir_all(path).map_err(|error| Error::io(path, &error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_that_was_cut_short_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        mark(dir.path(), "test", &[]).unwrap();
        let path = dir.path().join(MARK);
        let empty = fs::read(&path).unwrap();
        claim(&dir.path().join("first")).unwrap();
        let first = fs::read(&path).unwrap();
        claim(&dir.path().join("second")).unwrap();
        let both = fs::read(&path).unwrap();
        for end in empty.len()..=first.len() {
            fs::write(&path, &first[..end]).unwrap();
            for name in ["first", "second"] {
                claim(&dir.path().join(name)).unwrap();
            }
            assert_eq!(fs::read(&path).unwrap(), both, "{end}");
        }
        // what is listed already is not lost when another is
        fs::write(&path, &first[..first.len() - 1]).unwrap();
        claim(&dir.path().join("second")).unwrap();
        assert_eq!(fs::read(&path).unwrap(), both);
    }
}
