//! `prune cut`: removes layers and writes the smaller checkpoint, bit for bit.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use serde::Serialize;
use serde_json::{Value, json};

pub use super::cut_settings::CutSettings;
use super::repair::{RepairReport, Repairing, Shared};
use super::seam::Seam;
use super::{open, seam};
use crate::arch::ModelSpec;
use crate::checkpoint::{ByteSize, Checkpoint, Origin, OutputDir};
use crate::files::{self, Bound};
use crate::importance::{Analysis, Protect, Subject, metric};
use crate::methods::{self, METHODS, method};
use crate::plan::{Dropped, Notations, Plan, PlannedFor, SubLayers, layers_for_fraction, parse_drop};
use crate::progress::Progress;
use crate::repair::{REPAIRS, Repair, merged};
use crate::shown::{shown, shown_message};
use crate::surgery::{ConfigEdit, Cut, CutOptions, FORMATS, Shrunk, format, layer_count, short_count};
use crate::weights::Identical;
use crate::{Context, Error, Result};

/// What the command did, or would do.
#[derive(Clone, Debug, Serialize)]
pub struct CutReport {
    /// Source: directory, or hub id with the commit.
    pub model: String,
    /// The new checkpoint; absent in a dry run without one.
    pub out: Option<PathBuf>,
    /// Whether nothing was written.
    pub dry_run: bool,
    /// Number of layers.
    pub layers: Shrunk,
    /// Dropped layers of the source, ascending.
    pub dropped: Vec<usize>,
    /// Sub-layers that are left out, by the source's layers; absent where there are none.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub without: BTreeMap<usize, SubLayers>,
    /// What stands at each place, where a list of what goes does not say it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stack: Option<String>,
    /// The plan in the words of other tools; absent where it does more than drop layers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub notations: Option<Notations>,
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
    /// What `verify` compared; absent when it was not asked for.
    pub identical: Option<Identical>,
    /// The joints, after `verify` ran both models over them; absent when it was not asked for, or could not be done.
    pub seams: Option<Vec<Seam>>,
    /// The tensors that are merged, by the repair that needs no text; absent where none was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub merged: Option<Merged>,
    /// How it was repaired, or would be; absent where nothing was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub repair: Option<RepairReport>,
    /// Why this program does not compute the model: its layers went by names and bytes, and no pass was run over the
    /// joints. Absent where it does.
    pub not_computed: Option<String>,
}

/// What a repair without a text did.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Merged {
    /// Its name.
    pub name: &'static str,
    /// Tensors that were made anew.
    pub tensors: usize,
}

/// One weight file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ShardReport {
    /// Its name.
    pub file: String,
    /// Its length in bytes.
    pub bytes: u64,
}

/// Names that `--method` takes: those that need not be told the layers.
#[must_use]
pub fn method_names() -> Vec<&'static str> {
    METHODS.iter().filter(|method| !method.takes_names()).map(|method| method.name).collect()
}

/// Names that `--repair` takes.
#[must_use]
pub fn repair_names() -> Vec<&'static str> {
    REPAIRS.iter().map(|repair| repair.name).collect()
}

/// Names that `--format` takes.
#[must_use]
pub fn format_names() -> Vec<&'static str> {
    FORMATS.iter().map(|format| format.name).collect()
}

/// Runs `prune cut`.
///
/// # Errors
/// Request: settings that do not fit together, a plan for another model, an output that exists, a config key that is
/// not understood. Work: a broken checkpoint, a full disk, a difference found by `verify`. Interrupted. Nothing is left
/// behind.
pub fn cut(settings: &CutSettings, progress: &dyn Progress) -> Result<CutReport> {
    cut_sharing(settings, &mut Shared::default(), progress)
}

/// [`cut`], with what its repair has in common with those of other cuts.
///
/// # Errors
/// As [`cut`].
pub(super) fn cut_sharing(settings: &CutSettings, shared: &mut Shared, progress: &dyn Progress) -> Result<CutReport> {
    one_choice(settings)?;
    settings.check_repair()?;
    let max_shard_size: ByteSize = settings.max_shard_size.parse().context(|| "--max-shard-size")?;
    let checkpoint = open::checkpoint(settings.model.as_deref(), progress)?;
    let layers = layer_count(&checkpoint.config).context(|| checkpoint.source.dir.display())?;
    let planned_for = open::identity(&checkpoint, layers);
    let plan = plan(settings, &planned_for, &checkpoint)?;
    let format = settings.format.as_deref().map(format).transpose().context(|| "--format")?;
    let options = CutOptions { max_shard_size, allow_unsliced: &settings.allow_unsliced, format };
    let cut = Cut::new(&checkpoint, &planned_for, plan, &options)?;
    let (cut, merged) = match settings.repair.filter(|repair| !repair.needs_text()) {
        None => (cut, None),
        Some(merge) => merging(merge, cut).map(|(cut, merged)| (cut, Some(merged)))?,
    };
    if let (Some(format), None) = (&settings.format, cut.format()) {
        progress.note(&format!("--format {format} changes nothing: the plan leaves no sub-layers out"));
    }
    if let Some(why) = cut.not_computed() {
        progress.note(&format!("not computed here ({}): its layers are cut by names and bytes", shown_message(why)));
    }
    let mut report = CutReport { merged, ..report(settings, &cut) };
    let prepare = |repair| Repairing::prepare(repair, settings, &cut, shared, progress);
    let repairing = settings.repair.filter(|repair| repair.needs_text()).map(prepare).transpose()?;
    let told = repairing.as_ref().map(|repairing| repairing.report(settings.dry_run.then_some(shared)));
    report.repair = told.transpose()?;
    let Some(target) = &settings.out else {
        return match settings.dry_run {
            true => Ok(report),
            false => Err(Error::request("where to? name the directory of the new checkpoint with --out")),
        };
    };
    let out = OutputDir::create(target, settings.force, &Origin::of("cut", settings)?)?;
    report.disk_free = Some(fs4::available_space(out.path()).map_err(|error| Error::io(target, &error))?);
    if settings.dry_run {
        return Ok(report);
    }
    out.require_space(report.disk_needed)?;
    let cut = match repairing {
        None => cut,
        Some(repairing) => {
            let (cut, repaired) = repairing.repair(cut, progress)?;
            report.repair = Some(repaired);
            cut
        }
    };
    cut.write(out.path(), &provenance_settings(settings, cut.format()), settings.hash, progress)?;
    if settings.verify {
        let written = Arc::new(Checkpoint::open_dir(out.path())?);
        report.identical = Some(cut.blueprint().verify(&written, progress)?);
        if cut.not_computed().is_none() {
            report.seams = Some(seam::check(&cut, &written, progress)?);
        }
    }
    out.commit()?;
    Ok(report)
}

/// `cut`, with the layers before its gaps merged with those of the gaps.
fn merging(merge: &Repair, cut: Cut) -> Result<(Cut, Merged)> {
    let (name, source) = (merge.name, cut.blueprint().source().clone());
    if let Some(why) = cut.not_computed() {
        return Err(Error::request(format!("--repair {name}: the model is not computed here: {why}")));
    }
    let changed = merged(merge, cut.plan(), &ModelSpec::from_config(&source.config)?, &source)?;
    let told = Merged { name, tensors: changed.len() };
    let record = json!({"name": name, "about": merge.about, "reference": merge.reference});
    Ok((cut.repaired(changed, record)?, told))
}

/// Exactly one way to say what goes.
fn one_choice(settings: &CutSettings) -> Result<()> {
    let named = [
        ("--plan", settings.plan.is_some()),
        ("--drop", settings.drop.is_some()),
        ("--deepest", settings.deepest.is_some()),
        ("--tail", settings.tail.is_some()),
        ("--method", settings.method.is_some()),
        ("--fraction", settings.fraction.is_some()),
        ("--layers", settings.layers.is_some()),
        ("--target", settings.target.is_some()),
        ("--max-loss", settings.max_loss.is_some()),
    ];
    let named: Vec<&str> = named.into_iter().filter_map(|(flag, given)| given.then_some(flag)).collect();
    match named[..] {
        [] => Err(Error::request("which layers? give --plan, --drop, --deepest, --tail, --method or --fraction")),
        ["--max-loss"] => Err(Error::request("--max-loss goes with an analysis that measured losses: give --plan")),
        ["--layers"] => Err(Error::request("--layers goes with an analysis or a method: give --plan or --method")),
        ["--method"] | ["--plan", "--method"] => {
            Err(Error::request("how many layers? --method goes with --layers, --fraction or --target"))
        }
        [_] | ["--plan" | "--method", "--fraction" | "--layers" | "--target"] | ["--plan", "--max-loss"] => Ok(()),
        ["--plan", "--method", "--fraction" | "--layers" | "--target"] => Ok(()),
        _ => Err(Error::request(format!("{} say different things; give one of them", named.join(" and ")))),
    }
}

fn plan(settings: &CutSettings, model: &PlannedFor, checkpoint: &Checkpoint) -> Result<Plan> {
    if let Some(text) = &settings.drop {
        let dropped = parse_drop(text, model.layers).context(|| "--drop")?;
        return Plan::drop_named(model.clone(), &dropped);
    }
    for (name, count) in [("deepest", settings.deepest), ("tail", settings.tail)] {
        if let Some(layers) = count {
            return method(name)?.plan(model, layers, None).context(|| format!("--{name}"));
        }
    }
    let share = settings.fraction.map(|fraction| layers_for_fraction(fraction, model.layers)).transpose();
    let mut share = share.context(|| "--fraction")?.or(settings.layers);
    if let Some(target) = &settings.target {
        let keeps = settings.method.map_or_else(Protect::default, |method| method.keeps);
        share = Some(target.layers(checkpoint, &keeps.allowed(model.layers)).context(|| "--target")?);
    }
    let plan = match (&settings.plan, share) {
        (Some(path), None) => match settings.max_loss {
            None => Plan::read(path)?,
            Some(most) => {
                let analysis = analysis(path)?;
                let layers =
                    methods::within(&analysis.search, analysis.model.layers, most).context(|| path.display())?;
                METHODS[0].plan(model, layers, Some(&analysis)).context(|| path.display())?
            }
        },
        (Some(path), Some(layers)) => {
            let method = settings.method.unwrap_or(&METHODS[0]);
            if !method.needs_scores() {
                return Err(Error::request(format!("--method {} looks at no scores: leave --plan out", method.name)));
            }
            let analysis = analysis(path)?;
            let is_fine = metric(&analysis.search.metric)?.subject == Subject::SubLayer;
            if settings.target.is_some() && is_fine {
                return Err(Error::request("--target counts whole layers, the analysis single sub-layers: --layers"));
            }
            method.plan(model, layers, Some(&analysis)).context(|| path.display())?
        }
        (None, Some(layers)) => settings.method.map_or_else(|| method("deepest"), Ok)?.plan(model, layers, None)?,
        (None, None) => return Err(Error::request("no plan")),
    };
    plan.check_for(model)
        .context(|| settings.plan.as_ref().map_or_else(String::new, |path| path.display().to_string()))?;
    Ok(plan)
}

/// The analysis in the file at `path`.
fn analysis(path: &std::path::Path) -> Result<Analysis> {
    let document: Value = files::asked_json(path, Bound::RECORD)?;
    if document.get("stack").is_some() {
        return Err(Error::request(format!(
            "{}: a plan says itself which layers go; --fraction and --layers go with an analysis.json",
            path.display()
        )));
    }
    let read = Analysis::from_value(document).and_then(|analysis| methods::check(&analysis).map(|()| analysis));
    read.context(|| path.display())
}

/// The settings that decide the output's bytes.
fn provenance_settings(settings: &CutSettings, format: Option<&str>) -> Value {
    let mut said = json!({
        "max_shard_size": settings.max_shard_size,
        "allow_unsliced": settings.allow_unsliced,
        "hash": settings.hash,
    });
    if let Some(format) = format {
        said["format"] = json!(format);
    }
    said
}

impl fmt::Display for CutReport {
    /// A page for a person.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let size = |bytes: u64| ByteSize(bytes).to_string();
        let shrunk = |pair: Shrunk, show: &dyn Fn(u64) -> String| match pair.before == pair.after {
            true => show(pair.after),
            false => format!("{} -> {}", show(pair.before), show(pair.after)),
        };
        let gone = Dropped { layers: self.dropped.iter().copied().collect(), sublayers: self.without.clone() };
        let gone = gone.to_string();
        let dropped = if gone.is_empty() { "none" } else { &gone };
        writeln!(f, "model        {}", shown(&self.model))?;
        writeln!(f, "layers       {}", shrunk(self.layers, &|count| count.to_string()))?;
        match &self.stack {
            None => writeln!(f, "dropped      {dropped} (0-based, inclusive)")?,
            Some(stack) => writeln!(f, "stack        {stack}")?,
        }
        writeln!(f, "parameters   {}", shrunk(self.parameters, &short_count))?;
        writeln!(
            f,
            "weights      {}, {} of files: {}",
            shrunk(self.bytes, &size),
            size(self.disk_needed),
            self.files()
        )?;
        for edit in &self.config {
            writeln!(f, "config       {edit}")?;
        }
        if let Some(notations) = self.notations.as_ref().filter(|_| !self.dropped.is_empty()) {
            writeln!(f, "llama.cpp    --prune-layers {}", notations.llama_cpp)?;
            writeln!(f, "NeMo         --drop_layers {} (1-based)", notations.nemo)?;
            writeln!(f, "mergekit     passthrough, layer_range {}", notations.slices)?;
        }
        if let Some(free) = self.disk_free {
            writeln!(f, "disk         {} needed, {} free", size(self.disk_needed), size(free))?;
        }
        if let Some(Identical { tensors, bytes }) = self.identical {
            writeln!(f, "verified     {tensors} tensors, {} byte for byte the source's", size(bytes))?;
        }
        if let (Some(why), true) = (&self.not_computed, self.identical.is_some()) {
            writeln!(f, "seams        not run, the model is not computed here: {}", shown_message(why))?;
        }
        for Seam { layer, distance } in self.seams.iter().flatten() {
            let met = if *layer as u64 == self.layers.after { "the head".to_owned() } else { format!("layer {layer}") };
            writeln!(f, "seam         {met} meets a stream at angular distance {distance:.4}; both models run alike")?;
        }
        if let Some(Merged { name, tensors }) = &self.merged {
            writeln!(f, "repair       {name}, {tensors} tensors made anew, without a text")?;
        }
        if let Some(repair) = &self.repair {
            write!(f, "{repair}")?;
        }
        match (&self.out, self.dry_run) {
            (_, true) => write!(f, "nothing was written (dry run)"),
            (Some(out), false) => write!(f, "written      {}", out.display()),
            (None, false) => Ok(()),
        }
    }
}

impl CutReport {
    /// The weight files by name, the ends of the list only.
    fn files(&self) -> String {
        match self.shards.as_slice() {
            [] => "none".to_owned(),
            [only] => only.file.clone(),
            [first, .., last] => format!("{} to {}", first.file, last.file),
        }
    }
}

fn report(settings: &CutSettings, cut: &Cut) -> CutReport {
    let plan = cut.plan();
    let files = cut.blueprint().shards();
    let shards = files.shards.iter().map(|shard| ShardReport { file: shard.file.clone(), bytes: shard.size() });
    CutReport {
        model: plan.planned_for.pinned(),
        out: settings.out.clone(),
        dry_run: settings.dry_run,
        layers: Shrunk { before: plan.planned_for.layers as u64, after: plan.stack.len() as u64 },
        dropped: plan.dropped(),
        without: plan.gone().sublayers,
        stack: (!plan.only_drops()).then(|| plan.in_words()),
        notations: plan.notations(),
        parameters: cut.parameters(),
        bytes: cut.bytes(),
        shards: shards.collect(),
        config: cut.edits().to_vec(),
        disk_needed: files.disk_size(),
        disk_free: None,
        identical: None,
        seams: None,
        merged: None,
        repair: None,
        not_computed: cut.not_computed().map(str::to_owned),
    }
}
