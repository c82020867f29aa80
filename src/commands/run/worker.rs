//! Which of several processes this one is.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::RunSettings;
use crate::eval::shard::EvalShard;
use crate::{Context, Error, Result};

/// Seconds after which a silent process's claim is taken over, unless said otherwise.
pub(super) const TIMEOUT: u64 = 120;
/// What may be asked for: long enough to show life in, and short enough to be waited for.
const TIMEOUTS: std::ops::RangeInclusive<u64> = 1..=86_400;

/// Who works at a run.
#[derive(Clone, Debug)]
pub(super) struct Worker {
    /// Which of several: others work there meanwhile.
    pub(super) shard: Option<EvalShard>,
    /// A claim whose holder has not been heard of for so long is taken over.
    pub(super) timeout: Duration,
}

impl Worker {
    /// The process with these settings.
    ///
    /// # Errors
    /// Request: a time-out that cannot be.
    pub(super) fn of(settings: &RunSettings) -> Result<Self> {
        let timeout = settings.claim_timeout.unwrap_or(TIMEOUT);
        if !TIMEOUTS.contains(&timeout) {
            let (least, most) = (TIMEOUTS.start(), TIMEOUTS.end());
            return Err(Error::request(format!("--claim-timeout {timeout}: expected from {least} to {most} seconds")));
        }
        let shard = settings.shard.map(RunShard::resolved).transpose().context(|| "--shard")?;
        Ok(Self { shard, timeout: Duration::from_secs(timeout) })
    }

    /// Which of `count` pieces of work it tries first, so that several begin at different ones.
    pub(super) fn first(&self, count: usize) -> usize {
        self.shard.map_or(0, |shard| (shard.number() - 1) * count / shard.count())
    }
}

/// `--shard`: said, or what the scheduler says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum RunShard {
    /// By the variables of the array job that the process is one of.
    Auto,
    /// This one.
    Is(EvalShard),
}

impl RunShard {
    fn resolved(self) -> Result<EvalShard> {
        match self {
            Self::Is(shard) => Ok(shard),
            Self::Auto => super::array::shard(&|name| std::env::var(name).ok()),
        }
    }
}

impl FromStr for RunShard {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "auto" => Ok(Self::Auto),
            text => text.parse().map(Self::Is).map_err(|fault: String| format!("{fault}; or auto")),
        }
    }
}

impl TryFrom<String> for RunShard {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<RunShard> for String {
    fn from(shard: RunShard) -> Self {
        shard.to_string()
    }
}

impl fmt::Display for RunShard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::Is(shard) => shard.fmt(f),
        }
    }
}
