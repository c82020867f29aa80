//! Which files of a repository are needed, and bringing the missing ones.

use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::Hub;
use super::ask::Failure;
use super::cache::{RepoCache, is_commit};
use super::dataset::walk_names;
use super::gguf_files::{Chosen, choose, matching};
use super::repo::{Repo, is_relative};
use crate::checkpoint::container;
use crate::checkpoint::side::{CARD, is_side_file};
use crate::checkpoint::{CONFIG, Source, no_config};
use crate::progress::Progress;
use crate::{Error, Result};

/// What this program says of the history of a model that it made.
const HISTORY: &str = "prune.json";

/// A data file in the cache.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HubFile {
    /// Where it is; ends as the file's name on the hub.
    pub path: PathBuf,
    /// Commit of the repository.
    pub revision: String,
}

/// What the hub says of a repository.
#[derive(Deserialize)]
pub(super) struct Listing {
    pub(super) sha: String,
    siblings: Vec<Sibling>,
}

impl Listing {
    /// Names of the files.
    pub(super) fn names(self) -> Vec<String> {
        self.siblings.into_iter().map(|sibling| sibling.rfilename).collect()
    }
}

#[derive(Deserialize)]
struct Sibling {
    rfilename: String,
}

impl Hub {
    /// The model `org/name[@revision]` in the cache: config, safetensors weights, tokenizer and side files, nothing
    /// else; or a GGUF model, `org/name:TYPE[@revision]`, `org/name/FILE.gguf[@revision]`, by name alone where the
    /// repository holds that one only. Offline, or when the hub cannot be reached, what the cache has must do.
    ///
    /// # Errors
    /// Request: no such repository or revision, a gated one, none with safetensors weights and none or several GGUF
    /// models that may be meant; offline and not all cached.
    /// Work: the hub cannot be reached and not all is cached; a download fails. Interrupted. What was downloaded is
    /// kept, and the next call goes on from there.
    pub fn model(&self, id: &str, progress: &dyn Progress) -> Result<Source> {
        let (repo, chosen) = Repo::model(id)?;
        let cache = RepoCache::new(&self.cache, &repo);
        let (commit, gguf) = match self.online(|| self.fetch_model(&repo, &cache, &chosen, progress)) {
            Err(Failure::Unreachable(why)) => {
                let missing = |snapshot: &Path| missing_file(snapshot, &chosen);
                let commit = self.cached(&repo, &cache, &why, missing, progress)?;
                let snapshot = cache.snapshot(&commit);
                let gguf = match chosen == Chosen::Only && missing_weights(&snapshot).is_none() {
                    true => None,
                    false => choose(&repo.to_string(), &walk_names(&snapshot)?, &chosen)?.into_iter().next(),
                };
                (commit, gguf)
            }
            fetched => fetched.map_err(|failure| self.explain(failure, &repo, None))?,
        };
        let snapshot = cache.snapshot(&commit);
        let dir = gguf.map_or_else(|| snapshot.clone(), |file| snapshot.join(file));
        Ok(Source { id: id.to_owned(), dir, revision: Some(commit), unpacked: None })
    }

    /// The data file `datasets/org/name/path/in/repo[@revision]` in the cache.
    ///
    /// # Errors
    /// As [`Hub::model`]; also Request: no such file.
    pub fn dataset_file(&self, id: &str, progress: &dyn Progress) -> Result<HubFile> {
        let (repo, file) = Repo::dataset_file(id)?;
        let cache = RepoCache::new(&self.cache, &repo);
        let missing = |snapshot: &Path| (!snapshot.join(&file).is_file()).then(|| file.clone());
        let commit = match self.online(|| self.fetch_data(&repo, &cache, &file, progress)) {
            Err(Failure::Unreachable(why)) => self.cached(&repo, &cache, &why, missing, progress)?,
            fetched => fetched.map_err(|failure| self.explain(failure, &repo, Some(&file)))?,
        };
        Ok(HubFile { path: cache.snapshot(&commit).join(&file), revision: commit })
    }

    /// Runs `fetch` unless the network must not be used.
    pub(super) fn online<T>(&self, fetch: impl FnOnce() -> Result<T, Failure>) -> Result<T, Failure> {
        if self.is_offline() { Err(Failure::Unreachable("HF_HUB_OFFLINE is set".to_owned())) } else { fetch() }
    }

    /// The commit that the cache has in full, for `why` the hub was not asked. `missing` names a needed file that is
    /// not in a snapshot.
    pub(super) fn cached(
        &self,
        repo: &Repo,
        cache: &RepoCache,
        why: &str,
        missing: impl FnOnce(&Path) -> Option<String>,
        progress: &dyn Progress,
    ) -> Result<String> {
        let commit = cache.commit().filter(|commit| cache.snapshot(commit).is_dir());
        let missing = commit.as_ref().map_or(Some("it".to_owned()), |commit| missing(&cache.snapshot(commit)));
        match (commit, missing) {
            (Some(commit), None) => {
                if !self.is_offline() {
                    progress
                        .warn(&format!("{repo}: using the cached commit {commit}, the hub cannot be reached ({why})"));
                }
                Ok(commit)
            }
            (_, missing) => {
                let (what, dir) = (missing.unwrap_or_default(), self.cache().display());
                let why = if self.is_offline() { why.to_owned() } else { format!("the hub cannot be reached ({why})") };
                let message = format!("{repo}: {what} is not in the cache ({dir}), and {why}");
                Err(if self.is_offline() { Error::request(message) } else { Error::work(message) })
            }
        }
    }

    /// Brings all files a model needs and returns the commit, and of a GGUF model the file that it begins with.
    fn fetch_model(
        &self,
        repo: &Repo,
        cache: &RepoCache,
        chosen: &Chosen,
        progress: &dyn Progress,
    ) -> Result<(String, Option<String>), Failure> {
        let ModelFiles { commit, files, gguf } = self.model_files(repo, cache, chosen, progress)?;
        let files: Vec<&str> = files.iter().map(String::as_str).collect();
        self.fetch_files(repo, cache, &commit, &files, progress)?;
        cache.remember(&commit)?;
        Ok((commit, gguf))
    }

    /// The files a model needs. The list of a sharded model's weights is brought for it.
    pub(super) fn model_files(
        &self,
        repo: &Repo,
        cache: &RepoCache,
        chosen: &Chosen,
        progress: &dyn Progress,
    ) -> Result<ModelFiles, Failure> {
        let listing: Listing = self.listing(repo)?;
        let commit = listing.sha.clone();
        if !is_commit(&commit) {
            return Err(Error::work(format!("{repo}: the hub names no commit but {commit:?}")).into());
        }
        let names = listing.names();
        let has = |name: &str| names.iter().any(|other| other == name);
        let page = repo.to_string();
        let is_whole = has(CONFIG) && container::find(&has).is_some();
        let is_gguf = *chosen != Chosen::Only || !is_whole && !matching(&names, chosen).is_empty();
        if is_gguf {
            let weights = choose(&page, &names, chosen)?;
            let gguf = weights.first().cloned();
            let beside = [CARD, HISTORY].into_iter().filter(|name| has(name)).map(str::to_owned);
            return Ok(ModelFiles { commit, files: beside.chain(weights).collect(), gguf });
        }
        if !has(CONFIG) {
            return Err(no_config(&page, &names).into());
        }
        let (container, entrance) = container::find(&has).ok_or_else(|| container::no_weights(&page, &names))?;

        let beside =
            |name: &&String| [CONFIG, CARD].contains(&name.as_str()) || (is_relative(name) && is_side_file(name));
        let mut files: Vec<String> = names.iter().filter(beside).cloned().collect();
        if container.is_list(entrance) {
            self.fetch_files(repo, cache, &commit, &[entrance], progress)?;
            files.push(entrance.to_owned());
        }
        files.extend(container.files(&cache.snapshot(&commit), entrance)?);
        Ok(ModelFiles { commit, files, gguf: None })
    }

    /// Brings one file and returns the commit.
    fn fetch_data(
        &self,
        repo: &Repo,
        cache: &RepoCache,
        file: &str,
        progress: &dyn Progress,
    ) -> Result<String, Failure> {
        let facts = self.facts(repo, &repo.revision, file)?;
        let commit = facts.commit.clone().filter(|commit| is_commit(commit));
        let commit = commit.ok_or_else(|| Error::work(format!("{repo}: the hub names no commit for {file}")))?;
        self.fetch_files(repo, cache, &commit, &[file], progress)?;
        cache.remember(&commit)?;
        Ok(commit)
    }

    /// Brings those of `files` that the snapshot of `commit` does not have.
    pub(super) fn fetch_files(
        &self,
        repo: &Repo,
        cache: &RepoCache,
        commit: &str,
        files: &[&str],
        progress: &dyn Progress,
    ) -> Result<(), Failure> {
        let needed = self.look_up(repo, cache, commit, files)?;
        self.bring_files(&needed, cache, progress)
    }
}

/// What a model is made of.
pub(super) struct ModelFiles {
    pub(super) commit: String,
    /// Weights last.
    pub(super) files: Vec<String>,
    /// Of a GGUF model the file that it begins with.
    gguf: Option<String>,
}

/// A file without which the model in `snapshot` that is `chosen` cannot be opened, and which is not there.
pub(super) fn missing_file(snapshot: &Path, chosen: &Chosen) -> Option<String> {
    let absent = missing_weights(snapshot);
    if *chosen == Chosen::Only && absent.is_none() {
        return None;
    }
    let names = walk_names(snapshot).unwrap_or_default();
    let Some(files) = matching(&names, chosen).into_iter().next() else {
        return absent.filter(|_| *chosen == Chosen::Only).or_else(|| Some(chosen.what()));
    };
    files.into_iter().find(|file| !snapshot.join(file).is_file())
}

/// The same of one in safetensors.
fn missing_weights(snapshot: &Path) -> Option<String> {
    let absent = |name: &str| !snapshot.join(name).is_file();
    if absent(CONFIG) {
        return Some(CONFIG.to_owned());
    }
    container::missing(snapshot)
}
