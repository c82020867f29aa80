//! `prune doctor`: what this machine can do, and how the program sees it.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use candle_core::Device;
use serde::{Deserialize, Serialize};
use sysinfo::{CpuRefreshKind, RefreshKind, System};

use crate::checkpoint::{ByteSize, Cached, Hub};
use crate::model::limits::Limit;
use crate::model::memory;
use crate::progress::Progress;
use crate::{Result, ops};

/// Settings of `prune doctor`: there are none.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct DoctorSettings {}

/// What was found.
#[derive(Clone, Debug, Serialize)]
pub struct DoctorReport {
    /// Of the program.
    pub version: &'static str,
    /// System and processor type: `linux x86_64`.
    pub system: String,
    /// Name of the processor.
    pub cpu: String,
    /// Vector units that the loops use.
    pub vector_units: Option<&'static str>,
    /// What products in bf16 take.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bf16_units: Option<&'static str>,
    /// Cores the system counts.
    pub cores: usize,
    /// Worker threads.
    pub threads: usize,
    /// `available`, or why not.
    pub cuda: String,
    /// Bytes of memory free for this process.
    pub memory_free: u64,
    /// What bounds it: the machine, control groups, resource limits; the least free one binds.
    pub memory_bounds: Vec<Limit>,
    /// Floating-point operations a second of a large product, the program's own kernel.
    pub flops: Option<f64>,
    /// The same with `--dtype bf16`, where the processor has instructions for it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub flops_in_bf16: Option<f64>,
    /// Bytes of weights a second that generating reads.
    pub weight_bytes_per_second: Option<f64>,
    /// Where files of the hub are kept.
    pub hub: Option<HubReport>,
    /// The current directory, and what is free on its disk.
    pub here: Option<Disk>,
    /// What works and could work better, each with what to do.
    pub warnings: Vec<String>,
    /// What does not work, each with what to do.
    pub broken: Vec<String>,
}

/// How the hub is reached and cached.
#[derive(Clone, Debug, Serialize)]
pub struct HubReport {
    /// Its address.
    pub endpoint: String,
    /// Variables that are set; a token's value is not told.
    pub variables: Vec<(&'static str, String)>,
    /// Whether it is asked in somebody's name.
    pub has_token: bool,
    /// Whether the network must not be used.
    pub offline: bool,
    /// The cache, and what is free on its disk.
    pub cache: Disk,
    /// What it holds.
    pub cached: Vec<Cached>,
}

/// A place on a disk.
#[derive(Clone, Debug, Serialize)]
pub struct Disk {
    /// The folder.
    pub path: PathBuf,
    /// Bytes free there.
    pub free: Option<u64>,
}

impl Disk {
    fn at(path: &Path) -> Self {
        Self { path: path.to_owned(), free: fs4::available_space(existing(path)).ok() }
    }
}

/// Variables that decide about the hub; those whose value is a secret are only said to be set.
const VARIABLES: [(&str, bool); 10] = [
    ("HF_HOME", false),
    ("XDG_CACHE_HOME", false),
    ("HF_HUB_CACHE", false),
    ("HUGGINGFACE_HUB_CACHE", false),
    ("HF_ENDPOINT", false),
    ("HF_HUB_OFFLINE", false),
    ("TRANSFORMERS_OFFLINE", false),
    ("HF_TOKEN_PATH", false),
    ("HF_TOKEN", true),
    ("HUGGING_FACE_HUB_TOKEN", true),
];

/// Memory that the probe takes and leaves.
const ROOM: u64 = 512 << 20;
/// Less free memory than this is worth a word.
const LITTLE_MEMORY: u64 = 2 << 30;
/// Less free disk than this is worth a word.
const LITTLE_DISK: u64 = 10 << 30;

/// The speed of products in bf16, where they are faster.
fn in_bf16(device: &Device) -> Result<Option<f64>> {
    if ops::settle_dtype(device, "bf16").is_err() {
        return Ok(None);
    }
    let rate = ops::multiply_adds(device)?;
    ops::settle_dtype(device, "f32")?;
    Ok(Some(2.0 * rate))
}

/// Runs `prune doctor`. What is wrong is in the report.
///
/// # Errors
/// The probe cannot run.
pub fn doctor(_settings: &DoctorSettings, progress: &dyn Progress) -> Result<DoctorReport> {
    let system = System::new_with_specifics(RefreshKind::nothing().with_cpu(CpuRefreshKind::nothing()));
    let (device, _) = ops::device("cpu")?;
    let memory_bounds = memory::bounds();
    let memory_free = memory_bounds.iter().map(|bound| bound.free).min().unwrap_or(0);
    let probed = memory_free > ROOM;
    let mut report = DoctorReport {
        version: env!("CARGO_PKG_VERSION"),
        system: format!("{} {}", std::env::consts::OS, std::env::consts::ARCH),
        cpu: system.cpus().first().map(|cpu| cpu.brand().trim().to_owned()).unwrap_or_default(),
        vector_units: ops::vector_units(),
        bf16_units: ops::bf16_units(),
        cores: std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
        threads: rayon::current_num_threads(),
        cuda: ops::device("cuda").map_or_else(|error| error.to_string(), |_| "available".to_owned()),
        memory_free,
        memory_bounds,
        flops: probed.then(|| ops::multiply_adds(&device)).transpose()?.map(|rate| 2.0 * rate),
        flops_in_bf16: if probed { in_bf16(&device)? } else { None },
        weight_bytes_per_second: probed.then(|| ops::reading(&device)).transpose()?,
        hub: None,
        here: std::env::current_dir().ok().map(|path| Disk::at(&path)),
        warnings: Vec::new(),
        broken: Vec::new(),
    };
    match hub(&mut report.broken) {
        Ok(hub) => report.hub = Some(hub),
        Err(error) => report.broken.push(error.to_string()),
    }
    report.warnings = warnings(&report);
    for warning in &report.warnings {
        progress.warn(warning);
    }
    Ok(report)
}

fn hub(broken: &mut Vec<String>) -> Result<HubReport> {
    let hub = Hub::from_env()?;
    let set = |(name, secret): &(&'static str, bool)| {
        let value = std::env::var(name).ok().filter(|value| !value.is_empty())?;
        Some((*name, if *secret { "set".to_owned() } else { value }))
    };
    let place = existing(hub.cache());
    let written =
        if place.is_dir() { tempfile::tempfile_in(place).map(drop) } else { Err(ErrorKind::NotADirectory.into()) };
    if let (Err(error), false) = (written, hub.is_offline()) {
        broken.push(format!("{}: {error}, so nothing can be downloaded; HF_HOME names another place", place.display()));
    }
    let cached = hub.inventory().unwrap_or_else(|error| {
        broken.push(format!("{error}; HF_HOME names another place for the cache"));
        Vec::new()
    });
    Ok(HubReport {
        endpoint: hub.endpoint().to_owned(),
        variables: VARIABLES.iter().filter_map(set).collect(),
        has_token: hub.has_token(),
        offline: hub.is_offline(),
        cache: Disk::at(hub.cache()),
        cached,
    })
}

fn warnings(report: &DoctorReport) -> Vec<String> {
    let mut warnings = Vec::new();
    if report.memory_free < LITTLE_MEMORY {
        warnings.push(format!(
            "only {} of memory are free: larger models are streamed from disk, which is slower; close other programs",
            ByteSize(report.memory_free)
        ));
    }
    if report.vector_units.is_none() {
        warnings.push("the processor has no AVX2: products run several times slower than they could elsewhere".into());
    }
    if report.threads > report.cores {
        warnings.push(format!(
            "{} worker threads on {} cores get in each other's way: leave --threads and RAYON_NUM_THREADS away",
            report.threads, report.cores
        ));
    }
    let Some(hub) = &report.hub else { return warnings };
    if hub.cache.free.is_some_and(|free| free < LITTLE_DISK) {
        warnings.push(format!(
            "only {} are free where hub files are kept ({}): HF_HOME names another place",
            ByteSize(hub.cache.free.unwrap_or(0)),
            hub.cache.path.display()
        ));
    }
    if hub.offline {
        warnings.push("HF_HUB_OFFLINE is set: only what is cached can be used; unset it to download".into());
    }
    if !hub.has_token && !hub.offline {
        warnings
            .push("no HF_TOKEN: gated models, such as Meta's Llama, need one (huggingface.co/settings/tokens)".into());
    }
    for Cached { id, missing, .. } in &hub.cached {
        if let Some(missing) = missing {
            warnings.push(format!("{id} is cached in part, {missing} is missing: prune fetch {id} brings the rest"));
        }
    }
    warnings
}

/// The nearest folder above `path`, or itself, that is there.
fn existing(path: &Path) -> &Path {
    path.ancestors().find(|path| path.exists()).unwrap_or(path)
}
