//! Messages over TCP, between processes that torchrun's variables tell where to meet. Nothing is encrypted, as nothing
//! is that PyTorch's processes say to each other: for networks one trusts.

mod meet;
mod store;
mod wires;

use std::time::{Duration, Instant};

use super::launcher::Launched;
use super::transport::Transport;
use crate::{Error, Result};
use store::Store;
use wires::Wires;

/// Where process 0 is met.
///
/// Source: docs.pytorch.org, `torch.distributed`, initialization from environment variables, and torchrun's own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Meeting {
    /// `MASTER_ADDR`, a name or an address of its machine.
    host: String,
    /// `MASTER_PORT`.
    port: String,
    /// Where torchrun listens there itself: what process 0 tells it its own port as.
    key: Option<String>,
}

impl Meeting {
    /// What the variables say, where both are there.
    pub(super) fn find(variables: &dyn Fn(&str) -> Option<String>) -> Option<Self> {
        let set = |name| variables(name).map(|text| text.trim().to_owned()).filter(|text| !text.is_empty());
        let (host, port) = (set("MASTER_ADDR")?, set("MASTER_PORT")?);
        let has_store = set("TORCHELASTIC_USE_AGENT_STORE").is_some_and(|text| text.eq_ignore_ascii_case("true"));
        let part = |name| set(name).unwrap_or_default();
        let key = || format!("/prune/{}/{}", part("TORCHELASTIC_RUN_ID"), part("TORCHELASTIC_RESTART_COUNT"));
        Some(Self { host, port, key: has_store.then(key) })
    }

    /// The place by its variables' names, for messages.
    fn said(&self) -> String {
        format!("{}:{} (MASTER_ADDR, MASTER_PORT)", self.host, self.port)
    }

    fn port(&self) -> Result<u16> {
        let wrong = || Error::request(format!("MASTER_PORT={}: expected a port, 1 to 65535", self.port));
        self.port.parse().ok().filter(|port| *port > 0).ok_or_else(wrong)
    }
}

/// Connects each of the processes to all others, which takes `patience` at most.
///
/// # Errors
/// Request: a port that is no number or in use; processes that were not started together. Work: who does not come, by
/// its number.
pub(super) fn open(launched: &Launched, meeting: &Meeting, patience: Duration) -> Result<Box<dyn Transport>> {
    let (until, said, port) = (Instant::now() + patience, meeting.said(), meeting.port()?);
    let own = meet::Own { rank: launched.rank, size: launched.size, until, said: &said };
    let store = || Store::connect(&meeting.host, port, until);
    let met = match (launched.rank, &meeting.key) {
        (0, key) => {
            let at = if key.is_some() { 0 } else { port };
            let busy = |error| Error::request(format!("{said}: process 0 cannot listen there: {error}"));
            let listener = meet::listen(at).map_err(busy)?;
            if let Some(key) = key {
                let port = listener.local_addr().map_err(busy)?.port();
                store()?.set(key, port.to_string().as_bytes())?;
            }
            meet::welcome(&own, &listener)?
        }
        (_, None) => meet::join(&own, &meeting.host, port)?,
        (_, Some(key)) => {
            let told = String::from_utf8(store()?.get(key)?).ok().and_then(|port| port.parse().ok());
            let port = told.ok_or_else(|| Error::work(format!("{said}: process 0 has said no port")))?;
            meet::join(&own, &meeting.host, port)?
        }
    };
    Ok(Box::new(Wires::new(met, launched.rank)?))
}
