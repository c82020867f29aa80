//! What the hub says of a repository and of a file, and what its refusals mean.

use std::time::{Duration, Instant};

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde::de::DeserializeOwned;
use ureq::http::Response;
use ureq::{Agent, Body};

use super::Hub;
use super::repo::Repo;
use crate::{Error, Result, interrupt};

/// What stays itself in the path of a URL.
const PATH: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~').remove(b'/');

/// Longest listing of a repository.
const MAX_LISTING: u64 = 100_000_000;

/// Tries of one request before it counts as failed, and of a download that brings nothing.
pub(super) const TRIES: u32 = 5;

/// No answer within this time is no answer.
pub(super) const PATIENCE: Duration = Duration::from_secs(30);

/// What the hub says of a file.
#[derive(Clone, Debug)]
pub(super) struct Facts {
    /// Name of the contents: SHA-256 of large files, git's hash of small ones.
    pub(super) etag: String,
    /// Length in bytes.
    pub(super) size: u64,
    /// Commit that the revision stands for.
    pub(super) commit: Option<String>,
}

/// Why the hub gave nothing.
#[derive(Debug)]
pub(super) enum Failure {
    /// No answer, or none that helps; the cache may.
    Unreachable(String),
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

/// Shows redirects as they are: the hub's own answer says what the contents are called.
pub(super) fn agent() -> Agent {
    Agent::config_builder()
        .http_status_as_error(false)
        .max_redirects(0)
        .user_agent(concat!("prune/", env!("CARGO_PKG_VERSION")))
        // the length of the contents, not of their compressed form
        .accept_encoding("identity")
        .timeout_global(Some(PATIENCE))
        .build()
        .new_agent()
}

/// The path of a file in a URL.
pub(super) fn encoded(file: &str) -> String {
    utf8_percent_encode(file, PATH).to_string()
}

impl Hub {
    /// What the hub lists for `repo`.
    pub(super) fn listing<T: DeserializeOwned>(&self, repo: &Repo) -> Result<T, Failure> {
        let api = self.api.repo(repo.at(&repo.revision));
        let mut response = self.send(|| {
            let request = api.info_request().config().http_status_as_error(false);
            request.timeout_global(Some(PATIENCE)).build().call()
        })?;
        let body = response.body_mut().with_config().limit(MAX_LISTING).read_to_vec();
        let body = body.map_err(|error| Failure::Unreachable(error.to_string()))?;
        let fault = |error| Error::work(format!("{repo}: the hub's listing cannot be read: {error}"));
        serde_json::from_slice(&body).map_err(|error| fault(error).into())
    }

    /// What the hub says of `file` at `revision`. `hf-hub` asks for the first byte, which an empty file does not have,
    /// and drops the reason of a refusal.
    pub(super) fn facts(&self, repo: &Repo, revision: &str, file: &str) -> Result<Facts, Failure> {
        let mut url = self.api.repo(repo.at(revision)).url(&encoded(file));
        let mut response = self.head(&url)?;
        // a renamed repository is found under its new name on the same host; contents elsewhere are not looked at
        for _ in 0..TRIES {
            match header(&response, "location") {
                Some(location) if response.status().is_redirection() && location.starts_with('/') => {
                    url = format!("{}{location}", self.origin());
                    response = self.head(&url)?;
                }
                _ => break,
            }
        }
        let fault = |what: &str| Failure::Other(Error::work(format!("{url}: the hub's answer has no {what}")));
        let etag = header(&response, "x-linked-etag").or_else(|| header(&response, "etag"));
        let etag = etag.map(|etag| etag.trim_start_matches("W/").trim_matches('"').to_owned());
        // becomes the name of a file
        let plain = |etag: &String| !etag.is_empty() && etag.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
        let size = header(&response, "x-linked-size").or_else(|| header(&response, "content-length"));
        Ok(Facts {
            etag: etag.filter(plain).ok_or_else(|| fault("usable ETag"))?,
            size: size.and_then(|size| size.parse().ok()).ok_or_else(|| fault("length"))?,
            commit: header(&response, "x-repo-commit").map(str::to_owned),
        })
    }

    fn head(&self, url: &str) -> Result<Response<Body>, Failure> {
        self.send(|| match &self.token {
            Some(token) => self.agent.head(url).header("authorization", format!("Bearer {token}")).call(),
            None => self.agent.head(url).call(),
        })
    }

    /// Scheme and host.
    fn origin(&self) -> &str {
        let host = self.endpoint.find("://").map_or(0, |at| at + 3);
        self.endpoint[host..].find('/').map_or(&self.endpoint, |end| &self.endpoint[..host + end])
    }

    /// Sends what `call` sends until the hub says yes or no. Overload and broken connections are tried again.
    fn send(&self, call: impl Fn() -> Result<Response<Body>, ureq::Error>) -> Result<Response<Body>, Failure> {
        let mut tries = 0;
        loop {
            interrupt::check()?;
            tries += 1;
            let failure = match call() {
                Ok(response) => match response.status().as_u16() {
                    200..400 => return Ok(response),
                    status @ (429 | 500..) => Failure::Unreachable(format!("{} answers {status}", self.endpoint)),
                    status => {
                        let say = |name| header(&response, name).unwrap_or_default().to_owned();
                        return Err(Failure::Refused(status, say("x-error-code"), say("x-error-message")));
                    }
                },
                // a connection that broke may come back; a host that is not there will not
                Err(ureq::Error::Io(error)) if error.kind() != std::io::ErrorKind::ConnectionRefused => {
                    Failure::Unreachable(format!("{}: {error}", self.endpoint))
                }
                Err(error) => return Err(Failure::Unreachable(format!("{}: {error}", self.endpoint))),
            };
            if tries == TRIES {
                return Err(failure);
            }
            pause(tries)?;
        }
    }

    /// A failure as the user reads it, `file` being what was asked for.
    pub(super) fn explain(&self, failure: Failure, repo: &Repo, file: Option<&str>) -> Error {
        let page = format!("{}/{}", self.endpoint, repo.page());
        match failure {
            Failure::Other(error) => error,
            Failure::Unreachable(why) => Error::work(format!("{repo}: the hub cannot be reached ({why})")),
            Failure::Refused(status, code, message) => Error::request(match (status, code.as_str()) {
                (_, "GatedRepo") | (403, _) if self.token.is_none() => {
                    format!("{repo} is gated: accept its terms at {page}, then set HF_TOKEN")
                }
                (_, "GatedRepo") | (403, _) => {
                    format!("{repo} is gated and HF_TOKEN does not open it: ask for access at {page} ({message})")
                }
                (_, "RevisionNotFound") => format!("{}: no revision {}", repo.page(), repo.revision),
                (_, "EntryNotFound") => format!("{repo}: no file {}", file.unwrap_or_default()),
                (401 | 404, _) if self.token.is_none() => {
                    format!("{repo}: no such repository at {}; set HF_TOKEN if it is private or gated", self.endpoint)
                }
                (401, _) => format!("{repo}: no such repository, or the hub does not accept HF_TOKEN ({message})"),
                (404, _) => format!("{repo}: no such repository at {}, or HF_TOKEN cannot see it", self.endpoint),
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

fn header<'a>(response: &'a Response<Body>, name: &str) -> Option<&'a str> {
    response.headers().get(name)?.to_str().ok()
}
