//! `prune grow`: inserts layers and writes the deeper checkpoint; the source's own stay bit for bit.

use std::collections::BTreeSet;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use candle_core::Device;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::cut::{ShardReport, names, shards};
use super::{open, seam};
use crate::arch::ModelSpec;
use crate::checkpoint::{ByteSize, Checkpoint, Origin, OutputDir};
use crate::plan::{Plan, PlannedFor, parse_drop, ranges};
use crate::progress::Progress;
use crate::repair::{Predicted, lesa_bytes, predict};
use crate::shown::{shown, shown_message};
use crate::surgery::{ConfigEdit, Cut, CutOptions, GROWTHS, Growth, Shrunk, grow as grown, repeat};
use crate::surgery::{layer_count, short_count};
use crate::weights::Identical;
use crate::{Context, Error, Result};

/// Settings of `prune grow`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct GrowSettings {
    /// Directory or hub id.
    pub model: Option<String>,
    /// Directory of the new checkpoint; a dry run may do without.
    pub out: Option<PathBuf>,
    /// Layers that an inserted one comes after, such as `1,3,5,7`; 0-based.
    pub after: Option<String>,
    /// How inserted layers are made; `None` is `mean`.
    pub by: Option<&'static Growth>,
    /// Seed of what a growth learns with.
    pub seed: u64,
    /// A range of layers that comes once more behind its last, such as `8-23`.
    pub repeat: Option<String>,
    /// Tensors of one weight file take no more than this, unless one alone does: `5GB`, `2GiB`.
    pub max_shard_size: String,
    /// Config keys that stay although they look as if they had one value per layer: a name, or a path with dots.
    pub allow_unsliced: Vec<String>,
    /// Hashes the source's weight files whole, which reads them once more.
    pub hash: bool,
    /// Compares what was written with the source before it appears.
    pub verify: bool,
    /// Replaces an output that exists.
    pub force: bool,
    /// Decides everything, writes nothing.
    pub dry_run: bool,
}

impl Default for GrowSettings {
    fn default() -> Self {
        Self {
            model: None,
            out: None,
            after: None,
            by: None,
            seed: 0,
            repeat: None,
            max_shard_size: "5GB".to_owned(),
            allow_unsliced: Vec::new(),
            hash: false,
            verify: false,
            force: false,
            dry_run: false,
        }
    }
}

/// What the command did, or would do.
#[derive(Clone, Debug, Serialize)]
pub struct GrowReport {
    /// Source: directory, or hub id with the commit.
    pub model: String,
    /// The new checkpoint; absent in a dry run without one.
    pub out: Option<PathBuf>,
    /// Whether nothing was written.
    pub dry_run: bool,
    /// Number of layers.
    pub layers: Shrunk,
    /// Inserted layers, by their numbers in the new model, ascending.
    pub inserted: Vec<usize>,
    /// How they were made.
    pub by: &'static str,
    /// What stands at each place, by the source's layers.
    pub stack: String,
    /// Numbers stored, tied ones once.
    pub parameters: Shrunk,
    /// Bytes of tensors.
    pub bytes: Shrunk,
    /// Weight files of the new checkpoint.
    pub shards: Vec<ShardReport>,
    /// What changes in `config.json`.
    pub config: Vec<ConfigEdit>,
    /// Bytes the output takes on disk; side files are not counted.
    pub disk_needed: u64,
    /// Bytes free where the output goes; absent in a dry run without one.
    pub disk_free: Option<u64>,
    /// What was learned of each kind of matrix; absent where nothing is.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub learned: Vec<Learned>,
    /// What `verify` compared; absent when it was not asked for.
    pub identical: Option<Identical>,
    /// Angular distance between the streams that leave both models, 0 where all numbers are the same, as `verify` ran
    /// both; absent when it was not asked for, or could not be done.
    pub distance: Option<f64>,
    /// Why this program does not compute the model; absent where it does.
    pub not_computed: Option<String>,
}

/// What was learned of a kind of matrix: mean squared errors over rows in the basis of all layers.
#[derive(Clone, Debug, Serialize)]
pub struct Learned {
    /// The matrix, as its module is called.
    pub module: String,
    /// Of the network, in its last epoch.
    pub error: f64,
    /// Of the mean of a layer's neighbors.
    pub of_means: f64,
}

/// Names that `--by` takes.
#[must_use]
pub fn growth_names() -> Vec<&'static str> {
    GROWTHS.iter().map(|growth| growth.name).collect()
}

/// Runs `prune grow`.
///
/// # Errors
/// Request: settings that do not fit together, layers that are not there or cannot be made, an output that exists, a
/// config key that is not understood. Work: a broken checkpoint, a full disk, a difference found by `verify`.
/// Interrupted. Nothing is left behind.
pub fn grow(settings: &GrowSettings, progress: &dyn Progress) -> Result<GrowReport> {
    one_way(settings)?;
    let max_shard_size: ByteSize = settings.max_shard_size.parse().context(|| "--max-shard-size")?;
    let checkpoint = open::checkpoint(settings.model.as_deref(), progress)?;
    let layers = layer_count(&checkpoint.config).context(|| checkpoint.source.dir.display())?;
    let planned_for = open::identity(&checkpoint, layers);
    let (plan, by) = plan(settings, &checkpoint, &planned_for)?;
    let options = CutOptions { max_shard_size, allow_unsliced: &settings.allow_unsliced, format: None };
    let cut = Cut::new(&checkpoint, &planned_for, plan, &options)?;
    if let Some(why) = cut.not_computed() {
        progress.note(&format!("not computed here ({}): its layers go by names and bytes", shown_message(why)));
    }
    kinds(&cut, &checkpoint, progress);
    if by.predicts {
        let spec = ModelSpec::from_config(&checkpoint.config)?;
        let (needed, budget) = (lesa_bytes(&spec, cut.plan().inserted().len()), open::budget(None, &Device::Cpu)?);
        if needed > budget.usable() {
            let (needed, free) = (ByteSize(needed), ByteSize(budget.usable()));
            return Err(Error::request(format!(
                "--by lesa takes {needed} of memory, {free} are free; --by mean takes none"
            )));
        }
    }
    let mut report = report(settings, &cut, by);
    let Some(target) = &settings.out else {
        return match settings.dry_run {
            true => Ok(report),
            false => Err(Error::request("where to? name the directory of the new checkpoint with --out")),
        };
    };
    let out = OutputDir::create(target, settings.force, &Origin::of("grow", settings)?)?;
    report.disk_free = Some(fs4::available_space(out.path()).map_err(|error| Error::io(target, &error))?);
    if settings.dry_run {
        return Ok(report);
    }
    out.require_space(report.disk_needed)?;
    let cut = match by.predicts {
        false => cut,
        true => {
            let (cut, learned) = learn(cut, settings.seed, by, progress)?;
            report.learned = learned;
            cut
        }
    };
    let said = json!({
        "max_shard_size": settings.max_shard_size,
        "allow_unsliced": settings.allow_unsliced,
        "hash": settings.hash,
    });
    cut.write(out.path(), &said, settings.hash, progress)?;
    if settings.verify {
        let written = Arc::new(Checkpoint::open_dir(out.path())?);
        report.identical = Some(cut.blueprint().verify(&written, progress)?);
        if cut.not_computed().is_none() {
            let drift = seam::drift(&cut, &written, progress)?;
            if let (Some(distance), true) = (drift, by.keeps_function) {
                return Err(Error::work(format!(
                    "verification failed: the stream that leaves the last layer is at angular distance {distance:e} \
                     from the source's, and {} changes nothing",
                    by.name
                )));
            }
            report.distance = Some(drift.unwrap_or(0.0));
        }
    }
    out.commit()?;
    Ok(report)
}

/// The layers that `cut` inserts, learned from those of its source.
///
/// # Errors
/// Request: too few layers. Work: memory, weights that cannot be read. Interrupted.
fn learn(cut: Cut, seed: u64, by: &Growth, progress: &dyn Progress) -> Result<(Cut, Vec<Learned>)> {
    let source = cut.blueprint().source().clone();
    let spec = ModelSpec::from_config(&source.config)?;
    let stack = &cut.plan().stack;
    let places: Vec<(usize, usize)> = cut.plan().inserted().iter().map(|place| (stack[*place].layer, *place)).collect();
    let (changes, predicted) = predict(&source, &spec, &places, seed, progress)?;
    let learned = predicted.iter().map(|Predicted { role, error, of_means }| Learned {
        module: spec.module(*role).into_owned(),
        error: *error,
        of_means: *of_means,
    });
    let record = json!({"name": by.name, "about": by.about, "reference": by.reference, "seed": seed});
    Ok((cut.repaired(changes, record)?, learned.collect()))
}

/// Exactly one way to say which layers.
fn one_way(settings: &GrowSettings) -> Result<()> {
    match (&settings.after, &settings.repeat, settings.by) {
        (None, None, _) => Err(Error::request(
            "where to? give --after with the layers that a new one comes after, or --repeat with a range of layers",
        )),
        (Some(_), Some(_), _) => Err(Error::request("--after and --repeat say different things; give one of them")),
        _ if settings.seed != 0 && !settings.by.is_some_and(|by| by.predicts) => {
            Err(Error::request("--seed goes with --by lesa, which learns; the others draw nothing"))
        }
        (None, Some(_), Some(by)) if by.name != "copy" => {
            Err(Error::request(format!("--by {}: --repeat copies layers; --after goes with any growth", by.name)))
        }
        _ => Ok(()),
    }
}

fn plan(settings: &GrowSettings, source: &Checkpoint, model: &PlannedFor) -> Result<(Plan, &'static Growth)> {
    let named = |text: &str, flag: &str| -> Result<BTreeSet<usize>> {
        let named = parse_drop(text, model.layers).context(|| flag)?;
        match named.are_layers() {
            true => Ok(named.layers),
            false => Err(Error::request(format!("{flag} {text}: whole layers are inserted, expected such as 1,3,5-7"))),
        }
    };
    if let Some(text) = &settings.repeat {
        let copy = crate::surgery::growth("copy")?;
        return repeat(model, &named(text, "--repeat")?).context(|| "--repeat").map(|plan| (plan, copy));
    }
    let by = settings.by.unwrap_or(&GROWTHS[0]);
    let after = named(settings.after.as_deref().unwrap_or_default(), "--after")?;
    Ok((grown(source, model, &after, by)?, by))
}

/// Says which kind an inserted layer is of where the layers on both sides of it differ.
fn kinds(cut: &Cut, source: &Checkpoint, progress: &dyn Progress) {
    let Ok(spec) = ModelSpec::from_config(&source.config) else { return };
    let differ = |low: usize, high: usize| {
        spec.windows.get(low) != spec.windows.get(high) || spec.rotated.get(low) != spec.rotated.get(high)
    };
    let stack = &cut.plan().stack;
    let torn = cut.plan().inserted().into_iter().filter(|place| {
        stack.get(place + 1).is_some_and(|next| !next.inserted && differ(stack[*place].layer, next.layer))
    });
    let torn = ranges(torn);
    if !torn.is_empty() {
        progress.note(&format!(
            "inserted layers {torn} have the attention window and the positions of the layer before them; the one \
             behind them is of another kind"
        ));
    }
}

fn report(settings: &GrowSettings, cut: &Cut, by: &Growth) -> GrowReport {
    let plan = cut.plan();
    GrowReport {
        model: plan.planned_for.pinned(),
        out: settings.out.clone(),
        dry_run: settings.dry_run,
        layers: Shrunk { before: plan.planned_for.layers as u64, after: plan.stack.len() as u64 },
        inserted: plan.inserted(),
        by: by.name,
        stack: plan.in_words(),
        parameters: cut.parameters(),
        bytes: cut.bytes(),
        shards: shards(cut),
        config: cut.edits().to_vec(),
        disk_needed: cut.blueprint().shards().disk_size(),
        disk_free: None,
        learned: Vec::new(),
        identical: None,
        distance: None,
        not_computed: cut.not_computed().map(str::to_owned),
    }
}

impl fmt::Display for GrowReport {
    /// A page for a person.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let size = |bytes: u64| ByteSize(bytes).to_string();
        let (layers, parameters, bytes) = (self.layers, self.parameters, self.bytes);
        writeln!(f, "model        {}", shown(&self.model))?;
        writeln!(f, "layers       {} -> {}", layers.before, layers.after)?;
        let inserted = ranges(self.inserted.iter().copied());
        writeln!(f, "inserted     {inserted} (0-based, of the new model), by {}", self.by)?;
        writeln!(f, "parameters   {} -> {}", short_count(parameters.before), short_count(parameters.after))?;
        let (before, after, disk) = (size(bytes.before), size(bytes.after), size(self.disk_needed));
        writeln!(f, "weights      {before} -> {after}, {disk} of files: {}", names(&self.shards))?;
        for edit in &self.config {
            writeln!(f, "config       {edit}")?;
        }
        if let Some(free) = self.disk_free {
            writeln!(f, "disk         {disk} needed, {} free", size(free))?;
        }
        for Learned { module, error, of_means } in &self.learned {
            writeln!(f, "learned      {module}: squared error {error:.3e} of a row, {of_means:.3e} by the mean")?;
        }
        if let Some(Identical { tensors, bytes }) = self.identical {
            writeln!(f, "verified     {tensors} tensors, {} byte for byte the source's", size(bytes))?;
        }
        match (self.distance, &self.not_computed) {
            (Some(0.0), _) => writeln!(f, "stream       what leaves the last layer is the source's")?,
            (Some(distance), _) => {
                writeln!(
                    f,
                    "stream       what leaves the last layer is at angular distance {distance:.4} from the source's"
                )?;
            }
            (None, Some(why)) if self.identical.is_some() => {
                writeln!(f, "stream       not run, the model is not computed here: {}", shown_message(why))?;
            }
            _ => {}
        }
        match (&self.out, self.dry_run) {
            (_, true) => write!(f, "nothing was written (dry run)"),
            (Some(out), false) => write!(f, "written      {}", out.display()),
            (None, false) => Ok(()),
        }
    }
}
