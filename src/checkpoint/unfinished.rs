//! Unfinished work beside an output, in `OUT.healing` or `OUT.analyzing`: what a command that stopped goes on from.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::{Map, Value};

use super::belongings::refuse_strangers;
use super::json::read_json;
use super::mark::{adopt, claim, made_by};
use super::output::write_file;
use super::workplace::Workplace;
use super::writer::{Shard, Slot};
use crate::progress::Silent;
use crate::shown::from_here;
use crate::{Error, Result};

const SETTINGS: &str = "settings.json";

/// What kind of unfinished work a directory holds.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Doing {
    /// Whose it is.
    pub(crate) command: &'static str,
    /// Ending of the directory's name.
    pub(crate) ending: &'static str,
    /// What a message calls it.
    pub(crate) work: &'static str,
    /// All that is ever in the directory, `settings.json` among them.
    pub(crate) entries: &'static [&'static str],
}

/// Unfinished work that is taken up by the settings it was begun with and no others. Who holds the output's
/// [`Workplace`] works in it.
#[derive(Debug)]
pub(crate) struct Resumable {
    path: PathBuf,
    place: Arc<Workplace>,
}

impl Resumable {
    /// Opens or makes the directory of the work whose output `place` is for. `deciding` is all that decides the
    /// result; `restart` forgets what is there.
    ///
    /// # Errors
    /// Request: something else is there, or work that began with other settings (names them). Work: it cannot be made.
    pub(crate) fn open(
        place: Arc<Workplace>,
        doing: &Doing,
        deciding: &Map<String, Value>,
        restart: bool,
    ) -> Result<Self> {
        let path = unfinished(place.target(), doing.ending);
        refuse_other_work(&path, doing.command, doing.work)?;
        let settings = path.join(SETTINGS);
        if path.exists() && (restart || !settings.exists()) {
            place.discard(&path)?;
        }
        if path.exists() {
            adopt(&path, &[])?;
            let list = differences(&read_json(&settings)?, deciding);
            if !list.is_empty() {
                return Err(Error::request(format!(
                    "{}: the unfinished {} there began with other settings: {}; use those, or --restart to begin anew",
                    from_here(&path),
                    doing.work,
                    list.join("; ")
                )));
            }
        } else {
            claim(&path)?;
            place.make_dir(&path, doing.entries)?;
            let text = serde_json::to_vec_pretty(deciding).map_err(|error| Error::work(error.to_string()))?;
            write_file(&settings, true, &text).inspect_err(|_| drop(place.discard(&path)))?;
        }
        Ok(Self { path, place })
    }

    /// The path of a file in it.
    #[must_use]
    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// Removes the directory: the work is over, or nothing of it is worth keeping.
    ///
    /// # Errors
    /// Request: somebody else's files are in it; it stays. Work: it cannot be removed.
    pub(crate) fn remove(&self) -> Result<()> {
        self.place.discard(&self.path)
    }
}

/// Writes the safetensors file `name` of `dir` beside its place, makes it durable and renames it: the old one stands
/// until then. `write` is given the name of each of `slots`, and the file.
///
/// # Errors
/// Work: the disk is full; what `write` finds wrong.
pub(crate) fn replace_tensors(
    dir: &Path,
    name: &str,
    slots: Vec<Slot>,
    mut write: impl FnMut(&str, &mut File) -> Result<()>,
) -> Result<()> {
    let new = format!("{name}.new");
    let (fresh, target) = (dir.join(&new), dir.join(name));
    let at = |error: std::io::Error| Error::io(&fresh, &error);
    match fs::remove_file(&fresh) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(at(error)),
        _ => {}
    }
    Shard::new(new, slots)?.write(dir, &Silent, |slot, file| write(&slot.name, file))?;
    File::open(&fresh).and_then(|file| file.sync_all()).map_err(at)?;
    fs::rename(&fresh, &target).map_err(at)?;
    if cfg!(unix) {
        File::open(dir).and_then(|dir| dir.sync_all()).map_err(at)?;
    }
    Ok(())
}

/// The settings that differ, with what they were and are: `lr was 0.001, is 0.003`.
#[must_use]
pub(crate) fn differences(before: &Map<String, Value>, now: &Map<String, Value>) -> Vec<String> {
    let keys: BTreeSet<&String> = before.keys().chain(now.keys()).collect();
    let differing = keys.into_iter().filter(|key| before.get(*key) != now.get(*key));
    // of a hash, its beginning tells enough
    let show = |value: Option<&Value>| match value {
        Some(Value::String(hash)) if hash.len() == 64 && hash.bytes().all(|byte| byte.is_ascii_hexdigit()) => {
            format!("{}…", &hash[..12])
        }
        value => value.map_or_else(|| "absent".to_owned(), Value::to_string),
    };
    differing.map(|key| format!("{key} was {}, is {}", show(before.get(key)), show(now.get(key)))).collect()
}

/// Where the unfinished work for `out` lies that is called `doing`: `healing`, `analyzing`.
#[must_use]
pub(crate) fn unfinished(out: &Path, doing: &str) -> PathBuf {
    let mut name = out.as_os_str().to_owned();
    name.push(format!(".{doing}"));
    PathBuf::from(name)
}

/// Refuses what is at `path` unless it is unfinished work of `command`, or nothing.
///
/// # Errors
/// Request: as said; files of others in it.
pub(crate) fn refuse_other_work(path: &Path, command: &str, work: &str) -> Result<()> {
    if path.symlink_metadata().is_err() {
        return Ok(());
    }
    if path.is_symlink() || made_by(path).as_deref() != Some(command) {
        let fault = format!("is in the way and no unfinished {work}: it stays; move it, or name another output");
        return Err(Error::request(format!("{} {fault}", from_here(path))));
    }
    // which would keep the directory when the work is done
    refuse_strangers(path)
}
