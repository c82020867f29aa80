//! `prune status`: how far a run is, and who works at it. It is read; nothing is asked of those who work.

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use serde::Serialize;

use super::kept::{Entry, FILE, Kept};
use super::place::refuse_other;
use super::view::duration;
use crate::checkpoint::{Standing, standing};
use crate::report::{Column, table};
use crate::{Error, Result};

/// How far a run is.
#[derive(Debug, Serialize)]
pub struct StatusReport {
    /// Its directory.
    pub dir: PathBuf,
    /// Stages by what they are.
    pub counts: StageCounts,
    /// Every stage, in order; before the analysis is done, as many cuts as the recipe asks for.
    pub stages: Vec<StageStatus>,
}

/// How many stages are so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct StageCounts {
    /// Done.
    pub done: usize,
    /// Being done.
    pub running: usize,
    /// Not begun, or begun and left.
    pub waiting: usize,
    /// Failed, and not tried again yet.
    pub failed: usize,
}

/// One stage.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct StageStatus {
    /// Its name: the path of its output in the run's directory.
    pub name: String,
    /// How far it is.
    pub state: Progressed,
    /// Name of the machine that works, or worked, on it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    /// Number of the process there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pid: Option<u32>,
    /// Which of several processes that is, `2/4`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub shard: Option<String>,
    /// Since when it is being done: seconds since 1970, by that machine's clock.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub since: Option<u64>,
    /// When its process was last heard of: seconds since 1970, by the clock of the file system.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub heard: Option<u64>,
    /// Seconds of work that are done with, by all processes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seconds: Option<f64>,
    /// Why it failed, or what else there is to say.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// How far a stage is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Progressed {
    /// It is done.
    Done,
    /// A process works on it.
    Running,
    /// No process works on it.
    Waiting,
    /// It failed.
    Failed,
}

/// How far the run in `dir` is.
///
/// # Errors
/// Request: no such directory, or none of a run. Work: a broken state.
pub fn status(dir: &Path) -> Result<StatusReport> {
    if !dir.is_dir() {
        return Err(Error::io(dir, &std::io::ErrorKind::NotFound.into()));
    }
    refuse_other(dir)?;
    if !dir.join(FILE).exists() {
        return Err(Error::request(format!("{}: holds no run (no {FILE})", dir.display())));
    }
    let kept = Kept::read(&dir.join(FILE))?;
    let mut standing = standing(dir)?;
    // versions that planned nothing kept what they had begun
    let names = if kept.planned.is_empty() { kept.stages.keys().cloned().collect() } else { kept.planned.clone() };
    let stages: Vec<StageStatus> =
        names.into_iter().map(|name| stage(&name, kept.stages.get(&name), standing.remove(&name))).collect();
    let count = |state| stages.iter().filter(|stage| stage.state == state).count();
    let counts = StageCounts {
        done: count(Progressed::Done),
        running: count(Progressed::Running),
        waiting: count(Progressed::Waiting),
        failed: count(Progressed::Failed),
    };
    Ok(StatusReport { dir: dir.to_owned(), counts, stages })
}

fn stage(name: &str, entry: Option<&Entry>, standing: Option<Standing>) -> StageStatus {
    let by = entry.and_then(|entry| entry.by.as_ref());
    let mut status = StageStatus {
        name: name.to_owned(),
        state: match entry {
            Some(Entry { report: Some(_), .. }) => Progressed::Done,
            Some(Entry { error: Some(_), .. }) => Progressed::Failed,
            _ => Progressed::Waiting,
        },
        host: by.map(|by| by.host.clone()),
        pid: by.map(|by| by.pid),
        shard: by.and_then(|by| by.shard.clone()),
        since: None,
        heard: None,
        seconds: entry.and_then(|entry| entry.seconds),
        error: entry.and_then(|entry| entry.error.clone()),
    };
    let Some(Standing { holder, heard, is_dead }) = standing else { return status };
    status.host = Some(holder.host);
    status.pid = Some(holder.pid);
    status.shard = holder.shard;
    if is_dead {
        if status.state == Progressed::Waiting {
            status.error = Some("its process has died; the next one goes on".to_owned());
        }
        return status;
    }
    status.state = Progressed::Running;
    status.error = None;
    status.since = Some(holder.since);
    status.heard = heard.and_then(|heard| heard.duration_since(UNIX_EPOCH).ok()).map(|heard| heard.as_secs());
    status
}

impl fmt::Display for StatusReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.as_secs());
        let ago = |then: Option<u64>| then.map(|then| duration(now.saturating_sub(then) as f64));
        let head = ["stage", "state"].map(Column::left).into_iter().chain([Column::right("time"), Column::left("by")]);
        let rows = self.stages.iter().map(|stage| {
            let state = match stage.state {
                Progressed::Done => "done",
                Progressed::Running => "running",
                Progressed::Waiting => "waiting",
                Progressed::Failed => "failed",
            };
            let time = ago(stage.since).or(stage.seconds.map(duration)).unwrap_or_default();
            let mut by = match (&stage.host, stage.pid) {
                (Some(host), Some(pid)) => format!("{host} {pid}"),
                _ => String::new(),
            };
            by += &stage.shard.as_ref().map_or_else(String::new, |shard| format!(", {shard}"));
            by += &ago(stage.heard).map_or_else(String::new, |ago| format!(", heard {ago} ago"));
            vec![stage.name.clone(), state.to_owned(), time, by]
        });
        writeln!(f, "{}", table(&head.collect::<Vec<_>>(), rows).trim_end())?;
        for StageStatus { name, error, .. } in &self.stages {
            if let Some(error) = error {
                writeln!(f, "{name}: {error}")?;
            }
        }
        let StageCounts { done, running, waiting, failed } = self.counts;
        write!(f, "\n{done} done, {running} running, {waiting} waiting, {failed} failed")
    }
}
