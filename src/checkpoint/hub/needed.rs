//! What is needed of a repository, what of it the cache has, and bringing the rest.

use std::path::PathBuf;

use super::Hub;
use super::ask::{Facts, Failure};
use super::cache::{RepoCache, is_commit};
use super::dataset::{Dataset, walk_names};
use super::download::Wanted;
use super::fetch::{ModelFiles, missing_file};
use super::repo::Repo;
use crate::checkpoint::ByteSize;
use crate::progress::{Progress, Unit};
use crate::{Error, Result};

/// Files of a repository at a commit, and which of them are not in the cache.
#[derive(Clone, Debug)]
pub struct Needed {
    repo: Repo,
    commit: String,
    files: Vec<File>,
}

#[derive(Clone, Debug)]
struct File {
    name: String,
    bytes: u64,
    /// What the hub says of a file that the snapshot lacks.
    facts: Option<Facts>,
    /// Whether its contents have to come over the network.
    absent: bool,
}

impl Needed {
    /// The repository: `org/name`, `datasets/org/name`, with its revision if it is not the main one.
    #[must_use]
    pub fn id(&self) -> String {
        self.repo.to_string()
    }

    /// How many files.
    #[must_use]
    pub fn files(&self) -> usize {
        self.files.len()
    }

    /// Bytes of all of them.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        sum(self.files.iter().map(|file| file.bytes))
    }

    /// Names of those that the cache lacks.
    pub fn missing(&self) -> impl Iterator<Item = &str> {
        self.files.iter().filter(|file| file.absent).map(|file| file.name.as_str())
    }

    /// Bytes of those.
    #[must_use]
    pub fn missing_bytes(&self) -> u64 {
        sum(self.files.iter().filter(|file| file.absent).map(|file| file.bytes))
    }
}

impl Hub {
    /// What the model `org/name[@revision]` needs. Of a sharded model the list of its weight files is brought, nothing
    /// else.
    ///
    /// # Errors
    /// As [`Hub::model`].
    pub(crate) fn needed_for_model(&self, id: &str, progress: &dyn Progress) -> Result<Needed> {
        let (repo, chosen) = Repo::model(id)?;
        let cache = RepoCache::new(&self.cache, &repo);
        let look_up = || {
            let ModelFiles { commit, files, .. } = self.model_files(&repo, &cache, &chosen, progress)?;
            let files: Vec<&str> = files.iter().map(String::as_str).collect();
            self.look_up(&repo, &cache, &commit, &files)
        };
        match self.online(look_up) {
            Err(Failure::Unreachable(why)) => {
                let missing = |snapshot: &std::path::Path| missing_file(snapshot, &chosen);
                let commit = self.cached(&repo, &cache, &why, missing, progress)?;
                let files = walk_names(&cache.snapshot(&commit))?;
                Ok(self.all_there(&repo, &cache, commit, files))
            }
            found => found.map_err(|failure| self.explain(failure, &repo, None)),
        }
    }

    /// What the data file `datasets/org/name/path/in/repo[@revision]` needs.
    ///
    /// # Errors
    /// As [`Hub::dataset_file`].
    pub(crate) fn needed_for_file(&self, id: &str, progress: &dyn Progress) -> Result<Needed> {
        let (repo, file) = Repo::dataset_file(id)?;
        let cache = RepoCache::new(&self.cache, &repo);
        let look_up = || {
            let commit = self.facts(&repo, &repo.revision, &file)?.commit.filter(|commit| is_commit(commit));
            let commit = commit.ok_or_else(|| Error::work(format!("{repo}: the hub names no commit for {file}")))?;
            self.look_up(&repo, &cache, &commit, &[&file])
        };
        match self.online(look_up) {
            Err(Failure::Unreachable(why)) => {
                let missing = |snapshot: &std::path::Path| (!snapshot.join(&file).is_file()).then(|| file.clone());
                let commit = self.cached(&repo, &cache, &why, missing, progress)?;
                Ok(self.all_there(&repo, &cache, commit, vec![file]))
            }
            found => found.map_err(|failure| self.explain(failure, &repo, Some(&file))),
        }
    }

    /// What `files` of `dataset` need.
    ///
    /// # Errors
    /// As [`Hub::dataset_files`].
    pub(crate) fn needed_for_dataset(&self, dataset: &Dataset, files: &[String]) -> Result<Needed> {
        let Dataset { repo, commit, .. } = dataset;
        let cache = RepoCache::new(&self.cache, repo);
        let snapshot = cache.snapshot(commit);
        if files.iter().all(|file| snapshot.join(file).is_file()) {
            return Ok(self.all_there(repo, &cache, commit.clone(), files.to_vec()));
        }
        let names: Vec<&str> = files.iter().map(String::as_str).collect();
        let found = self.online(|| self.look_up(repo, &cache, commit, &names));
        found.map_err(|failure| self.explain(failure, repo, names.first().copied()))
    }

    /// Brings what is missing; what is brought already is kept when this fails, and not asked for again.
    ///
    /// # Errors
    /// As [`Hub::model`].
    pub fn bring(&self, needed: &Needed, progress: &dyn Progress) -> Result<()> {
        let cache = RepoCache::new(&self.cache, &needed.repo);
        if needed.files.iter().any(|file| file.facts.is_some()) {
            let brought = self.online(|| self.bring_files(needed, &cache, progress));
            brought.map_err(|failure| self.explain(failure, &needed.repo, None))?;
        }
        cache.remember(&needed.commit)
    }

    /// Asks for what the snapshot of `commit` does not have of `files`.
    pub(super) fn look_up(
        &self,
        repo: &Repo,
        cache: &RepoCache,
        commit: &str,
        files: &[&str],
    ) -> Result<Needed, Failure> {
        let snapshot = cache.snapshot(commit);
        let found = files.iter().map(|&name| {
            if let Some(bytes) = length(snapshot.join(name)) {
                return Ok(File { name: name.to_owned(), bytes, facts: None, absent: false });
            }
            let facts = self.facts(repo, commit, name);
            // a file that the listing or the index has and the hub has not
            let facts = facts.map_err(|failure| match failure {
                Failure::Refused(404, ..) => Failure::Other(self.explain(failure, repo, Some(name))),
                other => other,
            })?;
            let absent = length(cache.blob(&facts.etag)).is_none();
            Ok(File { name: name.to_owned(), bytes: facts.size, facts: Some(facts), absent })
        });
        let files = found.collect::<Result<Vec<_>, Failure>>()?;
        Ok(Needed { repo: repo.clone(), commit: commit.to_owned(), files })
    }

    pub(super) fn bring_files(
        &self,
        needed: &Needed,
        cache: &RepoCache,
        progress: &dyn Progress,
    ) -> Result<(), Failure> {
        let Needed { repo, commit, files } = needed;
        let wanted = files.iter().filter_map(|file| Some((file, file.facts.clone()?)));
        let wanted: Vec<Wanted> =
            wanted.map(|(file, facts)| Wanted { repo, commit, file: file.name.as_str(), facts }).collect();
        if wanted.is_empty() {
            return Ok(());
        }
        self.check_space(cache, &wanted)?;
        let bytes = sum(wanted.iter().map(|wanted| wanted.facts.size));
        progress.begin(&format!("fetching {repo}"), bytes, Unit::Bytes);
        for wanted in &wanted {
            self.download(cache, wanted, progress)?;
        }
        progress.end();
        Ok(())
    }

    /// Refuses what the disk has no room for. What arrived of a file earlier has its place already.
    fn check_space(&self, cache: &RepoCache, wanted: &[Wanted]) -> Result<()> {
        let absent = wanted.iter().filter(|wanted| length(cache.blob(&wanted.facts.etag)).is_none());
        let left = absent.map(|wanted| {
            let Facts { etag, size, .. } = &wanted.facts;
            size.saturating_sub(length(cache.part(etag)).unwrap_or(0))
        });
        self.room_for(sum(left))
    }

    /// Refuses `bytes` that the disk of the cache has no room for.
    ///
    /// # Errors
    /// Work: too little room.
    pub(crate) fn room_for(&self, bytes: u64) -> Result<()> {
        match self.disk_free() {
            Some(free) if bytes > free => {
                let (bytes, free, cache) = (ByteSize(bytes), ByteSize(free), self.cache().display());
                let reason = format!("{cache}: {bytes} to fetch, {free} free on this disk; HF_HOME names another");
                Err(Error::work(reason))
            }
            _ => Ok(()),
        }
    }

    /// Files of a snapshot that are there.
    fn all_there(&self, repo: &Repo, cache: &RepoCache, commit: String, names: Vec<String>) -> Needed {
        let snapshot = cache.snapshot(&commit);
        let file = |name: String| {
            let bytes = length(snapshot.join(&name)).unwrap_or(0);
            File { name, bytes, facts: None, absent: false }
        };
        Needed { repo: repo.clone(), commit, files: names.into_iter().map(file).collect() }
    }
}

/// What is announced is not to be trusted, not even to have a sum.
fn sum(bytes: impl Iterator<Item = u64>) -> u64 {
    bytes.fold(0, u64::saturating_add)
}

/// Length of the file at `path`, if there is one.
fn length(path: PathBuf) -> Option<u64> {
    path.metadata().ok().filter(std::fs::Metadata::is_file).map(|metadata| metadata.len())
}
