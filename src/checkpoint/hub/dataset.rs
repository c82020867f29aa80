//! Data sets of several files: what there is, and bringing those that are chosen.

use std::path::{Path, PathBuf};

use super::Hub;
use super::ask::Failure;
use super::cache::{RepoCache, is_commit};
use super::fetch::Listing;
use super::repo::{Repo, is_relative};
use crate::progress::Progress;
use crate::{Error, Result};

/// A data set at a commit: the names of its files on the hub, or of those the cache has.
#[derive(Clone, Debug)]
pub struct Dataset {
    pub(super) repo: Repo,
    pub(super) commit: String,
    names: Vec<String>,
}

impl Dataset {
    /// Names of its files, `/` between folders.
    #[must_use]
    pub fn names(&self) -> &[String] {
        &self.names
    }
}

/// Levels of folders in a cached data set.
const DEPTH: usize = 8;

impl Hub {
    /// The files of the data set `org/name[@revision]`. Offline, or when the hub cannot be reached, those in the cache.
    ///
    /// # Errors
    /// Request: no such data set or revision, a gated one; offline and nothing cached. Work: the hub cannot be reached
    /// and nothing is cached.
    pub fn dataset(&self, id: &str, progress: &dyn Progress) -> Result<Dataset> {
        let repo = Repo::dataset(id)?;
        let cache = RepoCache::new(&self.cache, &repo);
        match self.online(|| self.listing::<Listing>(&repo)) {
            Ok(listing) if is_commit(&listing.sha) => {
                let commit = listing.sha.clone();
                let names = listing.names().into_iter().filter(|name| is_relative(name)).collect();
                Ok(Dataset { commit, names, repo: repo.clone() })
            }
            Ok(listing) => Err(Error::work(format!("{repo}: the hub names no commit but {:?}", listing.sha))),
            Err(Failure::Unreachable(why)) => {
                let commit = self.cached(&repo, &cache, &why, |_| None, progress)?;
                let names = walk_names(&cache.snapshot(&commit))?;
                Ok(Dataset { commit, names, repo: repo.clone() })
            }
            Err(failure) => Err(self.explain(failure, &repo, None)),
        }
    }

    /// Brings `files` of `dataset` into the cache; where they are, in the same order.
    ///
    /// # Errors
    /// As [`Hub::model`].
    pub(crate) fn dataset_files(
        &self,
        dataset: &Dataset,
        files: &[String],
        progress: &dyn Progress,
    ) -> Result<Vec<PathBuf>> {
        let Dataset { repo, commit, .. } = dataset;
        let cache = RepoCache::new(&self.cache, repo);
        let snapshot = cache.snapshot(commit);
        let paths: Vec<PathBuf> = files.iter().map(|file| snapshot.join(file)).collect();
        if paths.iter().all(|path| path.is_file()) {
            return Ok(paths);
        }
        let names: Vec<&str> = files.iter().map(String::as_str).collect();
        let fetched = self.online(|| self.fetch_files(repo, &cache, commit, &names, progress));
        fetched.map_err(|failure| self.explain(failure, repo, names.first().copied()))?;
        cache.remember(commit)?;
        Ok(paths)
    }
}

/// Names of the files below `root`, sorted, `/` between folders.
pub(super) fn walk_names(root: &Path) -> Result<Vec<String>> {
    let mut names = Vec::new();
    walk(root, "", DEPTH, &mut names)?;
    names.sort();
    Ok(names)
}

fn walk(root: &Path, below: &str, depth: usize, names: &mut Vec<String>) -> Result<()> {
    let folder = root.join(below);
    let io = |error: std::io::Error| Error::io(&folder, &error);
    for entry in std::fs::read_dir(&folder).map_err(io)? {
        let entry = entry.map_err(io)?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let name = if below.is_empty() { name } else { format!("{below}/{name}") };
        // a link to contents counts as a file
        if !entry.path().is_dir() {
            names.push(name);
        } else if depth > 0 {
            walk(root, &name, depth - 1, names)?;
        }
    }
    Ok(())
}
