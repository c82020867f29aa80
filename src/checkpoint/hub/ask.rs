//! What the hub says of a repository and of a file, and what its refusals mean.

use std::time::{Duration, Instant};

use serde::de::DeserializeOwned;

use super::Hub;
use super::contents::Sum;
use super::http::{Answer, Ask, attended};
use super::repo::Repo;
use super::url::Url;
use crate::files::{self, Bound};
use crate::{Error, Result, interrupt};

/// Longest listing of a repository.
const MAX_LISTING: u64 = 32 << 20;

/// Tries of one request before it counts as failed, and of a download that brings nothing.
pub(super) const TRIES: u32 = 5;

/// Longest file anybody has, bytes: 1 PiB.
const MAX_SIZE: u64 = 1 << 50;

/// Longest name of contents; a hash in hexadecimal has 64 digits.
const MAX_ETAG: usize = 128;

/// What the hub says of a file.
#[derive(Clone, Debug)]
pub(super) struct Facts {
    /// Name of the contents: SHA-256 of large files, git's hash of small ones.
    pub(super) etag: String,
    /// Length in bytes.
    pub(super) size: u64,
    /// Commit that the revision stands for.
    pub(super) commit: Option<String>,
    /// Where the hub has it: on its own host, moved repositories followed.
    pub(super) url: Url,
    /// How contents that this is the name of are told from others.
    pub(super) sum: Sum,
}

/// Why the hub gave nothing.
#[derive(Debug)]
pub(super) enum Failure {
    /// No answer, or none that helps; the cache may.
    Unreachable(String),
    /// As unreachable, for now: the next try may be answered.
    Busy(String),
    /// An answer that says no: status, the hub's error code, its message.
    Refused(u16, String, String),
    /// Anything else, already worded.
    Other(Error),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Other(error)
    }
}

impl Hub {
    /// What the hub lists for `repo`.
    pub(super) fn listing<T: DeserializeOwned>(&self, repo: &Repo) -> Result<T, Failure> {
        let url = self.client.url(&repo.api_path())?;
        let body = self.persist(|| {
            let (client, url) = (self.client.clone(), url.clone());
            attended(move || {
                let mut answer = client.send(Ask::Text, url)?;
                let body = answer.response.body_mut().with_config().limit(MAX_LISTING).read_to_vec();
                body.map_err(|error| Failure::Unreachable(error.to_string()))
            })?
        })?;
        let fault = |error| Error::work(format!("{repo}: the hub's listing cannot be read: {error}"));
        files::parse(&body, Bound::INDEX).map_err(|error| fault(error).into())
    }

    /// What the hub says of `file` at `revision`.
    pub(super) fn facts(&self, repo: &Repo, revision: &str, file: &str) -> Result<Facts, Failure> {
        let url = self.client.url(&repo.file_path(revision, file))?;
        let answer: Answer = self.persist(|| {
            let (client, url) = (self.client.clone(), url.clone());
            attended(move || client.send(Ask::Head, url))?
        })?;
        let fault = |what: &str| Failure::Other(Error::work(format!("{url}: the hub's answer has no {what}")));
        // becomes the name of a file
        let plain = |etag: &str| {
            let allowed = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
            (1..=MAX_ETAG).contains(&etag.len()) && etag.bytes().all(allowed)
        };
        let (etag, strong) = answer.etag().filter(|(etag, _)| plain(etag)).ok_or_else(|| fault("usable ETag"))?;
        let size = answer.header("x-linked-size").or_else(|| answer.header("content-length"));
        let size = size.and_then(|size| size.parse().ok()).filter(|size| *size <= MAX_SIZE);
        let size = size.ok_or_else(|| fault("usable length"))?;
        Ok(Facts {
            etag: etag.to_owned(),
            size,
            commit: answer.header("x-repo-commit").map(str::to_owned),
            sum: Sum::of(etag, strong, size),
            url: answer.url.clone(),
        })
    }

    /// Calls until the hub says yes or no. Overload and broken connections are tried again.
    fn persist<T>(&self, call: impl Fn() -> Result<T, Failure>) -> Result<T, Failure> {
        let mut tries = 0;
        loop {
            tries += 1;
            match call() {
                Err(Failure::Busy(why)) if tries == TRIES => return Err(Failure::Unreachable(why)),
                Err(Failure::Busy(_)) => pause(tries)?,
                done => return done,
            }
        }
    }

    /// A failure as the user reads it, `file` being what was asked for.
    pub(super) fn explain(&self, failure: Failure, repo: &Repo, file: Option<&str>) -> Error {
        let (endpoint, has_token) = (self.endpoint(), self.has_token());
        let page = format!("{endpoint}/{}", repo.page());
        match failure {
            Failure::Other(error) => error,
            Failure::Unreachable(why) | Failure::Busy(why) => {
                Error::work(format!("{repo}: the hub cannot be reached ({why})"))
            }
            Failure::Refused(status, code, message) => Error::request(match (status, code.as_str()) {
                (_, "GatedRepo") | (403, _) if !has_token => {
                    format!("{repo} is gated: accept its terms at {page}, then set HF_TOKEN")
                }
                (_, "GatedRepo") | (403, _) => {
                    format!("{repo} is gated and HF_TOKEN does not open it: ask for access at {page} ({message})")
                }
                (_, "RevisionNotFound") => format!("{}: no revision {}", repo.page(), repo.revision),
                (_, "EntryNotFound") => format!("{repo}: no file {}", file.unwrap_or_default()),
                (401 | 404, _) if !has_token => {
                    format!("{repo}: no such repository at {endpoint}; set HF_TOKEN if it is private or gated")
                }
                (401, _) => format!("{repo}: no such repository, or the hub does not accept HF_TOKEN ({message})"),
                (404, _) => format!("{repo}: no such repository at {endpoint}, or HF_TOKEN cannot see it"),
                _ => return Error::work(format!("{repo}: {page} answers {status} {message}")),
            }),
        }
    }
}

/// Waits before try number `tries` + 1: a quarter of a second, doubled each time.
pub(super) fn pause(tries: u32) -> Result<()> {
    let end = Instant::now() + Duration::from_millis(125) * 2u32.pow(tries);
    while Instant::now() < end {
        interrupt::check()?;
        std::thread::sleep(Duration::from_millis(50));
    }
    Ok(())
}
