//! `prune fetch`: everything that is needed to work without a network, into the cache that every Hugging Face tool
//! shares.

use std::fmt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::checkpoint::{ByteSize, Checkpoint, Hub, Needed};
use crate::data::TextSource;
use crate::eval;
use crate::progress::Progress;
use crate::shown::shown;
use crate::{Error, Result, interrupt};

/// Settings of `prune fetch`.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct FetchSettings {
    /// Models: hub ids.
    pub models: Vec<String>,
    /// Texts as `--data` of analyze and heal takes them.
    pub data: Vec<String>,
    /// Tasks as `--tasks` of eval takes them.
    pub tasks: Vec<String>,
    /// Folder of task files, whose names `tasks` may have.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub include_path: Option<PathBuf>,
    /// Says what would be fetched and stops.
    pub dry_run: bool,
}

/// What was there, and what came.
#[derive(Clone, Debug, Serialize)]
pub struct FetchReport {
    /// The cache.
    pub cache: PathBuf,
    /// Free on its disk beforehand, bytes; absent where the system does not say.
    pub disk_free: Option<u64>,
    /// Nothing was fetched.
    pub dry_run: bool,
    /// Each repository.
    pub repositories: Vec<Fetched>,
}

/// One repository.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Fetched {
    /// `org/name`, `datasets/org/name`.
    pub id: String,
    /// Files that are needed of it.
    pub files: usize,
    /// Their bytes.
    pub bytes: u64,
    /// Files that the cache lacked.
    pub missing_files: usize,
    /// Their bytes.
    pub missing_bytes: u64,
}

/// Runs `prune fetch`. What is there already is not fetched again, and a broken download goes on where it broke.
///
/// # Errors
/// Request: nothing asked for, names that are none, a gated repository. Work: the hub cannot be reached, too little
/// room on the disk, a model that is broken. Interrupted.
pub fn fetch(settings: &FetchSettings, progress: &dyn Progress) -> Result<FetchReport> {
    let FetchSettings { models, data, tasks, include_path, dry_run } = settings;
    if models.is_empty() && data.is_empty() && tasks.is_empty() {
        return Err(Error::request("what is to be fetched? name models, --data or --tasks"));
    }
    if let Some(local) = models.iter().find(|model| Path::new(model).exists() || model.starts_with(['.', '/', '~'])) {
        return Err(Error::request(format!("{local}: on this machine already; a model on the hub is org/name")));
    }
    if include_path.is_some() && tasks.is_empty() {
        return Err(Error::request("--include-path has tasks: name them with --tasks"));
    }
    let texts: Vec<String> = data.iter().map(|data| TextSource::hub_files(data)).collect::<Result<Vec<_>>>()?.concat();
    let hub = Hub::from_env()?;
    let mut needed = Vec::new();
    for model in models {
        needed.push(hub.needed_for_model(model, progress)?);
    }
    for text in &texts {
        needed.push(hub.needed_for_file(text, progress)?);
    }
    if !tasks.is_empty() {
        for (dataset, files) in eval::source::hub_files(&hub, tasks, include_path.as_deref(), progress)? {
            needed.push(hub.needed_for_dataset(&dataset, &files)?);
        }
    }
    let report = FetchReport {
        cache: hub.cache().to_owned(),
        disk_free: hub.disk_free(),
        dry_run: *dry_run,
        repositories: needed.iter().map(fetched).collect(),
    };
    if *dry_run {
        return Ok(report);
    }
    hub.room_for(report.missing_bytes())?;
    for needed in &needed {
        interrupt::check()?;
        hub.bring(needed, progress)?;
    }
    // what came must open
    for model in models {
        Checkpoint::open(model, &hub, progress)?;
    }
    Ok(report)
}

fn fetched(needed: &Needed) -> Fetched {
    Fetched {
        id: needed.id(),
        files: needed.files(),
        bytes: needed.bytes(),
        missing_files: needed.missing().count(),
        missing_bytes: needed.missing_bytes(),
    }
}

impl FetchReport {
    /// Bytes that the cache lacked.
    #[must_use]
    pub fn missing_bytes(&self) -> u64 {
        self.repositories.iter().fold(0, |sum, fetched| sum.saturating_add(fetched.missing_bytes))
    }
}

impl fmt::Display for FetchReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let files = |count: usize| if count == 1 { "1 file".to_owned() } else { format!("{count} files") };
        let width = self.repositories.iter().map(|fetched| fetched.id.len()).max().unwrap_or(0);
        for Fetched { id, files: count, bytes, missing_files, missing_bytes } in &self.repositories {
            let (all, missing) = (ByteSize(*bytes), ByteSize(*missing_bytes));
            let verb = if self.dry_run { "to fetch" } else { "fetched" };
            let state = match missing_files {
                0 => "all there".to_owned(),
                missing_files => format!("{verb}: {}, {missing}", files(*missing_files)),
            };
            let id = shown(id);
            writeln!(f, "{id:width$}  {}, {all}; {state}", files(*count))?;
        }
        let missing = ByteSize(self.missing_bytes());
        let free = self.disk_free.map_or_else(String::new, |free| format!(", {} free", ByteSize(free)));
        match self.dry_run {
            true => write!(f, "{missing} to fetch into {}{free} (dry run: nothing fetched)", self.cache.display()),
            false => write!(f, "{missing} fetched into {}; HF_HUB_OFFLINE=1 works with it", self.cache.display()),
        }
    }
}
