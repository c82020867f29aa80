//! `prune demo`: the job on the embedded checkpoint.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::analyze::{self, AnalyzeSettings};
use super::cut::{self, CutSettings};
use crate::checkpoint::Checkpoint;
use crate::data::{SequenceOptions, Sequences, Shape, Source, SourceOptions, Tokenizer};
use crate::importance::inclusive;
use crate::model::{Loss, Model, ModelOptions};
use crate::progress::Progress;
use crate::{Error, Result, demo};

/// Settings of `prune demo`.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct DemoSettings {
    /// Directory to keep everything in; a temporary one if absent.
    pub out: Option<PathBuf>,
    /// Only write the embedded files there.
    pub extract: Option<PathBuf>,
    /// Replace an existing directory.
    pub force: bool,
}

/// What the demo did.
#[derive(Debug, Serialize)]
pub struct DemoReport {
    /// Where everything is; absent when it was temporary.
    pub kept: Option<PathBuf>,
    /// Absent when only the files were asked for.
    pub job: Option<Job>,
}

/// The job's figures.
#[derive(Debug, Serialize)]
pub struct Job {
    /// Layers of the dense model.
    pub layers: usize,
    /// Samples measured.
    pub samples: usize,
    /// For each size that was tried: what went, and the loss without it.
    pub cuts: Vec<CutLoss>,
    /// Mean validation loss of the dense model, nats a token.
    pub dense_loss: f64,
    /// The size that was written as a checkpoint.
    pub written: usize,
    /// Bytes of weights, before and after.
    pub bytes: (u64, u64),
    /// Seconds, everything.
    pub seconds: f64,
    /// What these numbers are evidence for.
    pub caveat: &'static str,
}

/// One block size.
#[derive(Debug, Serialize)]
pub struct CutLoss {
    /// Layers dropped.
    pub n: usize,
    /// Which, by angular distance.
    pub dropped: String,
    /// Their distance.
    pub distance: f64,
    /// Validation loss without them.
    pub loss: f64,
    /// Validation loss without the deepest n, the last layer kept.
    pub deepest_loss: f64,
}

/// Validation texts the distances are measured on.
const SAMPLES: usize = 150;
/// Validation texts the losses are measured on.
const LOSS_TEXTS: usize = 100;
/// The model's context.
const SEQ_LEN: usize = 256;
/// Block sizes whose losses are shown.
const SIZES: [usize; 5] = [1, 2, 4, 6, 8];
/// The size that is written: a quarter of the layers.
const WRITTEN: usize = 4;

/// Runs `prune demo`.
///
/// # Errors
/// The file system's; an existing directory without `force`.
pub fn demo(settings: &DemoSettings, progress: &dyn Progress) -> Result<DemoReport> {
    if let Some(dir) = &settings.extract {
        claim(dir, settings.force)?;
        demo::extract(dir)?;
        return Ok(DemoReport { kept: Some(dir.clone()), job: None });
    }
    match &settings.out {
        Some(dir) => {
            claim(dir, settings.force)?;
            Ok(DemoReport { job: Some(job(dir, progress)?), kept: Some(dir.clone()) })
        }
        None => {
            let dir = tempfile::tempdir().map_err(|error| Error::io(std::env::temp_dir(), &error))?;
            Ok(DemoReport { job: Some(job(dir.path(), progress)?), kept: None })
        }
    }
}

/// The directory must be new, or given up by `--force`.
fn claim(dir: &Path, force: bool) -> Result<()> {
    if !dir.exists() {
        return Ok(());
    }
    if !force {
        return Err(Error::request(format!("{} exists; --force replaces it", dir.display())));
    }
    // Only what the demo itself wrote is given up, never somebody's home directory.
    if !dir.join("model/config.json").exists() || !dir.join("text/validation.jsonl").exists() {
        return Err(Error::request(format!("{} was not written by prune demo: it stays", dir.display())));
    }
    std::fs::remove_dir_all(dir).map_err(|error| Error::io(dir, &error))
}

fn job(dir: &Path, progress: &dyn Progress) -> Result<Job> {
    let started = std::time::Instant::now();
    demo::extract(dir)?;
    let (model, validation) = (dir.join("model"), dir.join("text/validation.jsonl"));
    let report = analyze::analyze(
        &AnalyzeSettings {
            model: Some(model.display().to_string()),
            data: Some(validation.display().to_string()),
            samples: Some(SAMPLES),
            layers: Some(WRITTEN),
            out: Some(dir.join("analysis")),
            ..AnalyzeSettings::default()
        },
        progress,
    )?;
    let analysis = report.analysis.ok_or_else(|| Error::work("the analysis has no scores"))?;
    let cut = cut::cut(
        &CutSettings {
            model: Some(model.display().to_string()),
            plan: Some(dir.join("analysis/analysis.json")),
            out: Some(dir.join("pruned")),
            verify: true,
            ..CutSettings::default()
        },
        progress,
    )?;
    let texts = texts(&model, &validation, progress)?;
    let layers = analysis.model.layers;
    let mut cuts = Vec::new();
    for n in SIZES {
        let choice = &analysis.search.best[n - 1];
        let deepest: Vec<usize> = (layers - 1 - n..layers - 1).collect();
        cuts.push(CutLoss {
            n,
            dropped: inclusive(&choice.drop),
            distance: choice.score,
            loss: loss(&model, &choice.drop, &texts, progress)?.mean(),
            deepest_loss: loss(&model, &deepest, &texts, progress)?.mean(),
        });
    }
    Ok(Job {
        layers,
        samples: analysis.data.samples,
        cuts,
        dense_loss: loss(&model, &[], &texts, progress)?.mean(),
        written: WRITTEN,
        bytes: (cut.bytes.before, cut.bytes.after),
        seconds: started.elapsed().as_secs_f64(),
        caveat: demo::CAVEAT,
    })
}

fn texts(model: &Path, validation: &Path, progress: &dyn Progress) -> Result<Vec<Vec<u32>>> {
    let source = Source::open(validation, &SourceOptions::default())?;
    let shape = Shape { seq_len: SEQ_LEN, ..Shape::default() };
    let options = SequenceOptions { samples: Some(LOSS_TEXTS), shape, seed: None };
    Ok(Sequences::read(&source, &Tokenizer::open(model)?, &options, progress)?.rows)
}

/// Loss of the model without the layers `dropped`, which nothing has to be written for.
fn loss(model: &Path, dropped: &[usize], texts: &[Vec<u32>], progress: &dyn Progress) -> Result<Loss> {
    let checkpoint = Arc::new(Checkpoint::open_dir(model)?);
    let layers = crate::arch::ModelSpec::from_config(&checkpoint.config)?.layers;
    let places = (0..layers).filter(|layer| !dropped.contains(layer)).collect();
    let model = Model::open(checkpoint, &ModelOptions { places: Some(places), ..ModelOptions::default() }, progress)?;
    model.loss(texts, "loss", progress)
}

impl fmt::Display for DemoReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let dir = self.kept.as_ref().map_or_else(|| "atlas".to_owned(), |dir| dir.display().to_string());
        if let Some(job) = &self.job {
            writeln!(f, "The pocket atlas: {} layers, {} texts measured\n", job.layers, job.samples)?;
            writeln!(f, "  drop  layers    distance  loss without them  loss without the deepest")?;
            writeln!(f, "     0  -                -             {:.3}", job.dense_loss)?;
            for cut in &job.cuts {
                let CutLoss { n, dropped, distance, loss, deepest_loss } = cut;
                writeln!(
                    f,
                    "  {n:>4}  {dropped:<8}  {distance:>8.4}             {loss:.3}                     {deepest_loss:.3}"
                )?;
            }
            let (before, after) = job.bytes;
            let saved = 100.0 * (1.0 - after as f64 / before as f64);
            writeln!(
                f,
                "\nWrote the model without its best {} layers: {saved:.0} % smaller, every kept byte verified.",
                job.written
            )?;
            writeln!(f, "{:.1} s. {}\n", job.seconds, job.caveat)?;
        }
        match &self.kept {
            Some(_) => writeln!(f, "Next, in {dir}:")?,
            None => writeln!(f, "Everything was temporary. To keep it: prune demo -o {dir}, then")?,
        }
        writeln!(f, "  prune analyze {dir}/model --data {dir}/text/validation.jsonl --layers 6 -o six")?;
        write!(f, "  prune cut {dir}/model --plan six/analysis.json -o pruned-six --verify")
    }
}
