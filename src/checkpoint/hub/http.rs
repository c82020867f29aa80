//! Requests to the hub. The token goes to the hub's own host and to nobody else, redirects are followed one at a time
//! and a few of them only, and whoever waits for an answer still obeys Ctrl-C.

use std::io::ErrorKind;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::Duration;

use ureq::http::Response;
use ureq::{Agent, Body, RequestBuilder};

use super::ask::Failure;
use super::url::{Url, is_relative_reference};
use crate::{Error, Result, interrupt};

/// No answer within this time is no answer.
pub(super) const PATIENCE: Duration = Duration::from_secs(30);

/// Redirects of one request.
const REDIRECTS: usize = 10;

/// How often a thread that waits for the network looks for Ctrl-C.
pub(super) const TICK: Duration = Duration::from_millis(100);

/// Asks the hub, in somebody's name or in nobody's.
#[derive(Clone)]
pub(super) struct Client {
    agent: Agent,
    endpoint: String,
    token: Option<String>,
}

/// What is asked.
#[derive(Clone, Copy, Debug)]
pub(super) enum Ask {
    /// What the hub itself says of a file. Contents that lie elsewhere are not looked at.
    Head,
    /// A text, whole.
    Text,
    /// Contents from this byte on.
    Contents(u64),
}

/// An answer that says yes.
pub(super) struct Answer {
    /// Where it was found, redirects followed.
    pub(super) url: Url,
    /// Whether the hub's own host gave it, and no other was asked on the way.
    pub(super) own: bool,
    pub(super) response: Response<Body>,
}

impl Answer {
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        header(&self.response, name)
    }

    /// Name of the contents, and whether it is a strong one, for these bytes and no others.
    pub(super) fn etag(&self) -> Option<(&str, bool)> {
        let etag = self.header("x-linked-etag").or_else(|| self.header("etag"))?;
        let weak = etag.strip_prefix("W/");
        Some((weak.unwrap_or(etag).trim_matches('"'), weak.is_none()))
    }
}

impl Client {
    pub(super) fn new(endpoint: String, token: Option<String>) -> Self {
        // redirects are shown as they are: the hub's own answer says what the contents are called
        let config = Agent::config_builder().http_status_as_error(false).max_redirects(0);
        // the length of the contents, not of their compressed form
        let config = config.user_agent(concat!("prune/", env!("CARGO_PKG_VERSION"))).accept_encoding("identity");
        let config = config.timeout_connect(Some(PATIENCE)).timeout_recv_response(Some(PATIENCE));
        Self { agent: config.build().new_agent(), endpoint, token }
    }

    /// Where the hub is.
    pub(super) fn endpoint(&self) -> &str {
        &self.endpoint
    }

    pub(super) fn has_token(&self) -> bool {
        self.token.is_some()
    }

    /// `path` at the hub, percent-encoded already.
    pub(super) fn url(&self, path: &str) -> Result<Url> {
        let url = Url::parse(&format!("{}/{path}", self.endpoint));
        url.ok_or_else(|| Error::request(format!("HF_ENDPOINT: {:?} is no http or https address", self.endpoint)))
    }

    /// Sends one request and follows where it is sent on.
    pub(super) fn send(&self, ask: Ask, mut url: Url) -> Result<Answer, Failure> {
        let hub = self.url("")?;
        let mut own = true;
        for _ in 0..=REDIRECTS {
            own = own && url.is_beside(&hub);
            let answer = Answer { own, response: self.call(ask, &url, own)?, url };
            let status = answer.response.status();
            let place = answer.url.host();
            if status.is_success() {
                return Ok(answer);
            } else if !status.is_redirection() {
                return Err(match status.as_u16() {
                    status @ (429 | 500..) => Failure::Busy(format!("{} answers {status}", self.place(&answer))),
                    status if own => {
                        let say = |name| answer.header(name).unwrap_or_default().to_owned();
                        Failure::Refused(status, say("x-error-code"), say("x-error-message"))
                    }
                    // where contents lie, addresses are good for a while only
                    status => Failure::Busy(format!("{place} answers {status}")),
                });
            }
            let next = answer.header("location").filter(|to| !to.is_empty()).map(|to| (to, answer.url.join(to)));
            url = match (ask, next) {
                // a renamed repository is found under its new name on the same host
                (Ask::Head, Some((to, Some(next)))) if is_relative_reference(to) => next,
                (Ask::Head, _) => return Ok(answer),
                (_, Some((_, Some(next)))) if is_as_safe(&answer.url, &next) => next,
                (_, next) => {
                    let to = next.map_or("nowhere", |(to, _)| to);
                    let reason = format!("{place} answers {} and sends on to {to:?}", status.as_u16());
                    return Err(Error::work(reason).into());
                }
            };
        }
        Err(Error::work(format!("{}: sent on more than {REDIRECTS} times", self.endpoint)).into())
    }

    /// The endpoint as the user knows it, or another host.
    fn place<'a>(&'a self, answer: &'a Answer) -> &'a str {
        if answer.own { &self.endpoint } else { answer.url.host() }
    }

    fn call(&self, ask: Ask, url: &Url, own: bool) -> Result<Response<Body>, Failure> {
        let url = url.to_string();
        let request = match ask {
            Ask::Head => within_time(self.agent.head(url)),
            Ask::Text => within_time(self.agent.get(url)),
            Ask::Contents(from) => self.agent.get(url).header("range", format!("bytes={from}-")),
        };
        let request = match &self.token {
            Some(token) if own => request.header("authorization", format!("Bearer {token}")),
            _ => request,
        };
        request.call().map_err(|error| match error {
            // a connection that broke may come back; a host that is not there will not
            ureq::Error::Io(error) if error.kind() != ErrorKind::ConnectionRefused => {
                Failure::Busy(format!("{}: {error}", self.endpoint))
            }
            error => Failure::Unreachable(format!("{}: {error}", self.endpoint)),
        })
    }
}

fn within_time<T>(request: RequestBuilder<T>) -> RequestBuilder<T> {
    request.config().timeout_global(Some(PATIENCE)).build()
}

/// Whether `next` is encrypted if `url` is.
fn is_as_safe(url: &Url, next: &Url) -> bool {
    next.is_encrypted() || !url.is_encrypted()
}

pub(super) fn header<'a>(response: &'a Response<Body>, name: &str) -> Option<&'a str> {
    response.headers().get(name)?.to_str().ok()
}

/// Runs `work` on a thread of its own: it cannot be asked to stop, but it can be left alone when Ctrl-C comes. It ends
/// with its time.
pub(super) fn attended<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T> {
    let (sender, finished) = channel();
    spawn(move || drop(sender.send(work())))?;
    loop {
        interrupt::check()?;
        match finished.recv_timeout(TICK) {
            Ok(done) => return Ok(done),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return Err(Error::work("the hub cannot be asked")),
        }
    }
}

/// Starts a thread that waits for the network.
pub(super) fn spawn(work: impl FnOnce() + Send + 'static) -> Result<()> {
    let started = std::thread::Builder::new().name("hub".into()).spawn(work);
    started.map(drop).map_err(|error| Error::work(format!("no thread for the network: {error}")))
}
