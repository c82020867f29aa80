//! A run's directory: made, found, and removed.

use std::fs::File;
use std::path::Path;

use super::kept::{FILE, Kept};
use crate::checkpoint::{
    Origin, Sharing, Workplace, adopt, can_work_in, check_place, has_leftovers, lock_dir, work_in,
};
use crate::{Error, Result};

/// Refuses a directory in which something else than a run is.
///
/// # Errors
/// Request: as said.
pub(super) fn refuse_other(dir: &Path) -> Result<()> {
    check_place(dir)?;
    if dir.exists() && !can_work_in(dir, "run")? {
        let fault = format!("{} exists and holds no run (no {FILE}): name another directory", dir.display());
        return Err(Error::request(fault));
    }
    Ok(())
}

/// Makes `dir` unless it is there, marks it, and locks it.
///
/// # Errors
/// Request: the directory holds something else, or another run works there. Work: a broken state.
pub(super) fn prepare(dir: &Path, sharing: Sharing) -> Result<(Option<File>, Kept)> {
    refuse_other(dir)?;
    if !dir.exists() || has_leftovers(dir) {
        let place = Workplace::open(dir, &Origin::program("run"))?;
        if !dir.exists() {
            place.make_dir(place.target(), &[FILE])?;
        }
    }
    let lock = lock_dir(dir, sharing)?;
    refuse_other(dir)?;
    work_in(dir, "run")?;
    let kept = Kept::read(&dir.join(FILE))?;
    // where an earlier version left no mark, its own record says what is a run's
    let mut parts: Vec<String> =
        kept.stages.keys().flat_map(|name| [name.clone(), format!("{name}.healing")]).collect();
    parts.extend(kept.stages.keys().filter_map(|name| Some(name.split_once('/')?.0.to_owned())));
    adopt(dir, &parts.iter().map(String::as_str).collect::<Vec<_>>())?;
    Ok((lock, kept))
}

/// Removes the run in `dir`, if there is one.
///
/// # Errors
/// Request: another run works there, or somebody else's files are in it. Work: the file system's.
pub(in crate::commands) fn forget(dir: &Path) -> Result<()> {
    if dir.symlink_metadata().is_err() {
        return Ok(());
    }
    drop(prepare(dir, Sharing::Alone)?);
    let place = Workplace::open(dir, &Origin::program("run"))?;
    let _lock = lock_dir(dir, Sharing::Alone)?;
    place.discard(dir)
}
