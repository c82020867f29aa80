//! Renames that replace nothing by accident, and replace everything in one step where the system can.

use std::fs;
use std::io::{self, ErrorKind};
use std::path::Path;

/// Gives `from` the name `to`, which nothing has.
pub(super) fn rename_new(from: &Path, to: &Path) -> io::Result<()> {
    #[cfg(target_os = "linux")]
    match flagged(from, to, rustix::fs::RenameFlags::NOREPLACE) {
        Err(error) if is_unknown(&error) => {}
        done => return done,
    }
    match to.symlink_metadata() {
        Ok(_) => Err(ErrorKind::AlreadyExists.into()),
        Err(_) => fs::rename(from, to),
    }
}

/// Exchanges two names in one step; `false` where the system cannot.
pub(super) fn exchange(one: &Path, other: &Path) -> io::Result<bool> {
    #[cfg(target_os = "linux")]
    match flagged(one, other, rustix::fs::RenameFlags::EXCHANGE) {
        Err(error) if is_unknown(&error) => {}
        done => return done.map(|()| true),
    }
    #[cfg(not(target_os = "linux"))]
    let _ = (one, other);
    Ok(false)
}

#[cfg(target_os = "linux")]
fn flagged(from: &Path, to: &Path, flags: rustix::fs::RenameFlags) -> io::Result<()> {
    Ok(rustix::fs::renameat_with(rustix::fs::CWD, from, rustix::fs::CWD, to, flags)?)
}

/// Whether the kernel or the file system does not know the flags.
#[cfg(target_os = "linux")]
fn is_unknown(error: &io::Error) -> bool {
    use rustix::io::Errno;
    [Errno::NOSYS, Errno::INVAL, Errno::NOTSUP].iter().any(|errno| error.raw_os_error() == Some(errno.raw_os_error()))
}
