//! Unfinished work beside an output, in `OUT.healing` or `OUT.analyzing`: what a command that stopped goes on from.

use std::path::{Path, PathBuf};

use super::belongings::refuse_strangers;
use super::mark::made_by;
use crate::shown::from_here;
use crate::{Error, Result};

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
