//! One file from the hub into the cache. `hf-hub` brings the bytes; here the download stops on request, goes on where
//! it broke, and what arrives is verified before it counts.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use hf_hub::api::sync::ApiError;

use super::Hub;
use super::ask::{Facts, Failure, PATIENCE, TRIES, encoded, pause};
use super::cache::{RepoCache, is_hex};
use super::repo::Repo;
use crate::checkpoint::hash::sha256;
use crate::progress::{Progress, Silent};
use crate::{Error, Result, interrupt};

/// A file at a commit, and what the hub says of it.
pub(super) struct Wanted<'a> {
    pub(super) repo: &'a Repo,
    pub(super) commit: &'a str,
    pub(super) file: &'a str,
    pub(super) facts: Facts,
}

impl Hub {
    /// Brings the file into the cache and returns its place in the snapshot. Advances `progress` by its bytes.
    pub(super) fn download(
        &self,
        cache: &RepoCache,
        wanted: &Wanted,
        progress: &dyn Progress,
    ) -> Result<PathBuf, Failure> {
        let Wanted { commit, file, facts, .. } = wanted;
        let blob = cache.blob(&facts.etag);
        let at = |error: std::io::Error| Error::io(&blob, &error);
        fs::create_dir_all(blob.parent().unwrap_or(&blob)).map_err(at)?;
        let _lock = cache.lock(&facts.etag, progress)?;
        if blob.is_file() {
            progress.advance(facts.size);
        } else if facts.size == 0 {
            // nothing to ask for
            fs::write(&blob, []).map_err(at)?;
        } else {
            self.fill(cache, wanted, &blob, progress)?;
            cache.tidy(commit, &facts.etag);
        }
        Ok(cache.link(commit, file, &facts.etag)?)
    }

    /// Downloads until the blob is there and verified.
    fn fill(&self, cache: &RepoCache, wanted: &Wanted, blob: &Path, progress: &dyn Progress) -> Result<(), Failure> {
        let Wanted { repo, commit, file, facts } = wanted;
        let at = |error: std::io::Error| Error::io(blob, &error);
        let part = blob.with_extension("part");
        let partial = || part.metadata().map_or(0, |metadata| metadata.len());
        // large files are called by their SHA-256; only what can be verified in the end is worth resuming
        let verifiable = facts.etag.len() == 64 && is_hex(&facts.etag);
        if part.exists() && (!verifiable || partial() > facts.size) {
            fs::remove_file(&part).map_err(at)?;
        }
        let (mut tries, mut shown) = (0, 0);
        loop {
            let before = partial();
            match self.transfer(wanted, &mut shown, progress) {
                Ok(pointer) => {
                    let arrived = pointer.canonicalize().map_err(at)?;
                    if blob.canonicalize().ok().as_ref() != Some(&arrived) {
                        // `hf-hub` takes the mark of a weak ETag for a part of the name
                        fs::rename(&arrived, blob).map_err(at)?;
                    }
                    if pointer != cache.snapshot(commit).join(file) {
                        // it also takes the file's name in the URL for its name on disk
                        fs::remove_file(&pointer).map_err(at)?;
                    }
                    let len = blob.metadata().map_err(at)?.len();
                    if len == facts.size && (!verifiable || sha256(blob, &Silent)? == facts.etag) {
                        return Ok(());
                    }
                    fs::remove_file(blob).map_err(at)?;
                    // what was resumed may have been something else; what came in one go is damaged
                    if before == 0 {
                        let reason = "arrived damaged: its length or SHA-256 is not what the hub says; try again";
                        return Err(Error::work(format!("{repo}: {file} {reason}")).into());
                    }
                }
                Err(Failure::Unreachable(why)) => {
                    tries = if partial() > before { 1 } else { tries + 1 };
                    if tries == TRIES {
                        return Err(Failure::Unreachable(format!("{file}: {why}")));
                    }
                    pause(tries)?;
                }
                Err(other) => return Err(other),
            }
        }
    }

    /// One download by `hf-hub`, on a thread of its own: it cannot be asked to stop, but it can be left alone. Advances
    /// `progress` beyond the `shown` bytes of the file. Returns where `hf-hub` put it in the snapshot.
    fn transfer(&self, wanted: &Wanted, shown: &mut u64, progress: &dyn Progress) -> Result<PathBuf, Failure> {
        let Wanted { repo, commit, file, .. } = wanted;
        let (api, name) = (self.api.repo(repo.at(commit)), encoded(file));
        let (position, (sender, finished)) = (Arc::new(AtomicU64::new(0)), channel());
        let watch = Position(position.clone());
        let work = move || drop(sender.send(api.download_with_progress(&name, watch)));
        let thread = std::thread::Builder::new().name("download".into()).spawn(work);
        thread.map_err(|error| Error::work(format!("{repo}: {error}")))?;
        let mut moved = Instant::now();
        loop {
            let result = finished.recv_timeout(Duration::from_millis(100));
            let now = position.load(Ordering::Relaxed);
            if now > *shown {
                progress.advance(now - *shown);
                (*shown, moved) = (now, Instant::now());
            }
            match result {
                Ok(Ok(pointer)) => return Ok(pointer),
                Ok(Err(error)) => return Err(failure(repo, file, error)),
                Err(RecvTimeoutError::Disconnected) => {
                    return Err(Error::work(format!("{repo}: {file} cannot be downloaded")).into());
                }
                Err(RecvTimeoutError::Timeout) if moved.elapsed() > 2 * PATIENCE => {
                    // the thread waits for the host and holds the file: no use in another try
                    let silence = 2 * PATIENCE.as_secs();
                    return Err(Error::work(format!("{repo}: {file}: the hub has sent nothing for {silence} s")).into());
                }
                Err(RecvTimeoutError::Timeout) => interrupt::check()?,
            }
        }
    }
}

/// What another try may mend, and what not.
fn failure(repo: &Repo, file: &str, error: ApiError) -> Failure {
    let fault = || Error::work(format!("{repo}: {file}: {error}")).into();
    match &error {
        ApiError::RequestError(request) => match **request {
            ureq::Error::StatusCode(status @ 400..429) => Failure::Refused(status, String::new(), String::new()),
            _ => Failure::Unreachable(error.to_string()),
        },
        // errors of the disk and of the connection come alike
        ApiError::IoError(io) => match io.kind() {
            ErrorKind::StorageFull | ErrorKind::QuotaExceeded | ErrorKind::PermissionDenied => fault(),
            _ => Failure::Unreachable(error.to_string()),
        },
        _ => fault(),
    }
}

/// How far a download is, resumed bytes included.
struct Position(Arc<AtomicU64>);

impl hf_hub::api::Progress for Position {
    fn init(&mut self, _size: usize, _file: &str) {
        self.0.store(0, Ordering::Relaxed);
    }

    fn update(&mut self, bytes: usize) {
        self.0.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    fn finish(&mut self) {}
}
