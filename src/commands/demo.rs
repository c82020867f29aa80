//! `prune demo`: the whole job on the embedded checkpoint. It is `prune run` on an embedded recipe.

use std::fmt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::run::{self, RunReport, RunSettings};
use crate::checkpoint::{Origin, OutputDir, Workplace, made_by};
use crate::progress::Progress;
use crate::{Error, Result, demo};

/// Settings of `prune demo`.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct DemoSettings {
    /// Directory to keep everything in; `prune-demo` if absent.
    pub out: Option<PathBuf>,
    /// Only write the embedded files there.
    pub extract: Option<PathBuf>,
    /// Replace an existing directory.
    pub force: bool,
    /// Where every stage computes: `auto`, `cpu`, `cuda`, `cuda:1`.
    pub device: Option<String>,
    /// What products with weights are computed in: `auto`, `bf16`, `f32`.
    pub dtype: Option<String>,
    /// Cap on memory, such as `8GiB`.
    pub memory: Option<String>,
    /// Only says what would be done.
    pub dry_run: bool,
}

/// What the demo did.
#[derive(Debug, Serialize)]
pub struct DemoReport {
    /// Where everything is.
    pub dir: PathBuf,
    /// Absent when only the files were asked for.
    pub run: Option<RunReport>,
}

/// Where the demo goes unless the user says so.
const PLACE: &str = "prune-demo";
/// The recipe's name among the embedded files.
const RECIPE: &str = "recipe.toml";
/// The embedded files' directory in the demo's.
const ATLAS: &str = "atlas";
/// The job's directory in it.
const RUN: &str = "run";

/// Runs `prune demo`. One that was stopped goes on.
///
/// # Errors
/// The file system's; an existing directory with something else in it; those of the job.
pub fn demo(settings: &DemoSettings, progress: &dyn Progress) -> Result<DemoReport> {
    if let Some(dir) = &settings.extract {
        extract(dir, settings.force)?;
        return Ok(DemoReport { dir: dir.clone(), run: None });
    }
    let dir = settings.out.clone().unwrap_or_else(|| PathBuf::from(PLACE));
    let job = RunSettings {
        device: settings.device.clone(),
        dtype: settings.dtype.clone(),
        memory: settings.memory.clone(),
        ..RunSettings::default()
    };
    if settings.dry_run {
        let atlas = tempfile::tempdir().map_err(|error| Error::io(std::env::temp_dir(), &error))?;
        demo::extract(atlas.path())?;
        let job = RunSettings { recipe: Some(atlas.path().join(RECIPE)), dry_run: true, ..job };
        return Ok(DemoReport { dir, run: Some(run::run(&job, progress)?) });
    }
    let (atlas, out) = (dir.join(ATLAS), dir.join(RUN));
    // no other demo works there meanwhile
    let _place = Workplace::open(&dir.join("demo"), &Origin::program("demo"))?;
    if settings.force {
        // before anything is touched
        Workplace::open(&atlas, &Origin::program("demo"))?.refuse_taken(true)?;
        run::forget(&out)?;
    }
    if settings.force || !atlas.join(RECIPE).exists() {
        extract(&atlas, settings.force)?;
    }
    let job = RunSettings { recipe: Some(atlas.join(RECIPE)), out: Some(out), ..job };
    let run = Some(run::run(&job, progress)?);
    Ok(DemoReport { dir, run })
}

/// Writes the embedded files to `dir`, which must be new, or given up by `--force`.
fn extract(dir: &Path, force: bool) -> Result<()> {
    // not what another command wrote either
    if dir.exists() && force && made_by(dir).is_some_and(|command| command != "demo") {
        return Err(Error::request(format!("{} was not written by prune demo: it stays", dir.display())));
    }
    let out = OutputDir::create(dir, force, &Origin::program("demo"))?;
    demo::extract(out.path())?;
    out.commit()
}

impl fmt::Display for DemoReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let atlas = if self.run.is_some() { self.dir.join(ATLAS) } else { self.dir.clone() };
        let dir = atlas.display();
        if let Some(run) = self.run.as_ref().filter(|run| run.data.is_none()) {
            return write!(f, "{run}");
        }
        if let Some(run) = &self.run {
            writeln!(f, "The pocket atlas, an embedded model of {} layers\n", layers(run))?;
            writeln!(f, "{run}\n")?;
        }
        writeln!(f, "Next:")?;
        writeln!(f, "  prune analyze {dir}/model --data {dir}/text/validation.jsonl --layers 6 -o six")?;
        writeln!(f, "  prune cut {dir}/model --plan six/analysis.json -o pruned-six --verify")?;
        write!(f, "  prune run {dir}/{RECIPE} --set heal.steps=100 -o longer")
    }
}

fn layers(run: &RunReport) -> usize {
    run.data.as_ref().map_or(0, |data| data.dense.layers)
}
