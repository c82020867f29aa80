//! Processes that begin something together: whether there are several, who they are, and whether all do the same.

use std::time::Duration;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::{Collective, Launched, ProcessGroup};
use crate::checkpoint::differences;
use crate::{Error, Result};

/// Seconds of silence that a process is granted where the user says nothing else.
pub const RANK_TIMEOUT: u64 = 60;

/// The same at most.
const MOST_SECONDS: u64 = 7 * 24 * 60 * 60;

/// Whether that many seconds say nothing: records of what was done are what they were before there was a choice.
#[must_use]
pub fn is_patient(seconds: &u64) -> bool {
    *seconds == RANK_TIMEOUT
}

/// Refuses seconds that nobody can mean.
///
/// # Errors
/// Request: none, or more than a week.
pub fn check_rank_timeout(seconds: u64) -> Result<()> {
    match seconds {
        1..=MOST_SECONDS => Ok(()),
        _ => Err(Error::request(format!("rank_timeout is {seconds}, expected from 1 to {MOST_SECONDS} seconds"))),
    }
}

/// Processes that do one thing together.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Members {
    /// How many there are.
    pub processes: usize,
    /// The number of this one, from 0.
    pub rank: usize,
    /// How many of them share this machine's memory.
    pub on_this_machine: usize,
    /// What started them.
    pub launcher: String,
}

impl Members {
    /// What there is to know of them when they begin.
    #[must_use]
    pub fn describe(&self) -> String {
        let Self { processes, on_this_machine, launcher, .. } = self;
        let threads = rayon::current_num_threads();
        format!("in {processes} processes ({launcher}), {on_this_machine} on this machine, {threads} threads each")
    }
}

impl ProcessGroup {
    /// The group that this process works in, if a launcher has started several, all of which run `command`. One that is
    /// not heard of for `rank_timeout` seconds is taken for dead.
    ///
    /// # Errors
    /// As [`Launched::here`] and [`ProcessGroup::start`]. Request: another command, or version, in another process.
    pub fn launched(command: &str, rank_timeout: u64) -> Result<Option<Self>> {
        let Some(launched) = Launched::here()? else { return Ok(None) };
        let group = Self::start(&launched, Duration::from_secs(rank_timeout))?;
        let own = [("command", command), ("version", env!("CARGO_PKG_VERSION"))];
        let own = own.map(|(name, value)| (name.to_owned(), value.into()));
        match group.check_alike(&own.into_iter().collect(), "does") {
            Ok(()) => Ok(Some(group)),
            Err(error) => group.close(Err(error)),
        }
    }

    /// Who they are.
    ///
    /// # Errors
    /// As [`Launched::here`].
    pub fn members(&self) -> Result<Members> {
        let launcher = Launched::here()?.map_or("", |launched| launched.launcher).to_owned();
        Ok(Members { processes: self.size(), rank: self.rank(), on_this_machine: self.on_this_machine(), launcher })
    }

    /// Says to the others what process 0 has, or hears it; what the others have is not looked at.
    ///
    /// # Errors
    /// Work: a process that is gone. What another one met. Interrupted.
    pub fn agree<T: Serialize + DeserializeOwned>(&self, own: &T) -> Result<T> {
        let said = self.broadcast(to_bytes(own)?)?;
        serde_json::from_slice(&said).map_err(|error| Error::work(format!("what process 0 says: {error}")))
    }

    /// Gives process 0 what each has, in their order; the others get nothing.
    ///
    /// # Errors
    /// As [`ProcessGroup::agree`].
    pub fn collect<T: Serialize + DeserializeOwned>(&self, own: T) -> Result<Vec<T>> {
        if self.rank() > 0 {
            return self.report(to_bytes(&own)?).map(|()| Vec::new());
        }
        let others = self.reports()?.into_iter().enumerate().map(|(at, report)| {
            serde_json::from_slice(&report).map_err(|error| Error::work(format!("process {}: {error}", at + 1)))
        });
        std::iter::once(Ok(own)).chain(others).collect()
    }

    /// Refuses processes that would do something else than process 0, which waits for all others: `own` is what this
    /// one would do, and `does` a word for it, such as `heals`.
    ///
    /// # Errors
    /// Request: one would; says what differs. Work, Request: what another process met. Interrupted.
    pub fn check_alike(&self, own: &Map<String, Value>, does: &str) -> Result<()> {
        let size = self.size();
        for (rank, theirs) in self.collect(own.clone())?.iter().enumerate() {
            let list = differences(own, theirs);
            if !list.is_empty() {
                let list = list.join("; ");
                return Err(Error::request(format!(
                    "process {rank} of {size} (from 0) {does} something else than process 0: {list}; start all alike"
                )));
            }
        }
        Ok(())
    }
}

fn to_bytes(value: &impl Serialize) -> Result<Vec<u8>> {
    serde_json::to_vec(value).map_err(|error| Error::work(error.to_string()))
}
