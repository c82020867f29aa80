//! What would stop an output at its end, found before the work that leads there.

use std::path::Path;

use super::output::{OutputDir, Place};
use crate::{Error, Result};

impl OutputDir {
    /// Finds out before long work what [`OutputDir::create`] would refuse at its end, and whether `bytes` more fit on the
    /// disk. Nothing is left behind.
    ///
    /// # Errors
    /// As [`OutputDir::create`] and [`OutputDir::require_space`].
    pub fn foresee(target: &Path, force: bool, sources: &[&Path], bytes: u64) -> Result<()> {
        let (place, _parents) = Place::of(target)?;
        place.clear_leftovers()?;
        place.refuse_if_taken(force)?;
        place.keep_apart(sources)?;
        // whether something can be made there, only trying tells
        tempfile::tempfile_in(&place.parent).map_err(|error| Error::io(&place.parent, &error))?;
        place.require_space(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_would_fail_at_the_end_is_foreseen() {
        let dir = tempfile::tempdir().unwrap();
        let foresee = |name: &str, bytes| OutputDir::foresee(&dir.path().join(name), false, &[], bytes);
        foresee("a/out", 1).unwrap();
        assert!(foresee("out", u64::MAX).unwrap_err().to_string().contains("16777216.0 TiB needed"));
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0, "nothing is left behind");
        #[cfg(unix)]
        {
            std::os::unix::fs::symlink("nowhere", dir.path().join("link")).unwrap();
            assert!(foresee("link", 1).unwrap_err().to_string().contains("--force"));
        }
        std::fs::write(dir.path().join("file"), "x").unwrap();
        assert!(foresee("file/out", 1).is_err());
    }
}
