//! `prune cut`: removes layers and writes the smaller checkpoint, bit for bit.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use serde::Serialize;
use serde_json::{Value, json};

use super::cut_plan::{amount, one_choice, plan};
pub use super::cut_settings::CutSettings;
use super::cut_settings::Written;
pub use super::merging::Merged;
use super::merging::merging;
use super::repair::{Repairing, Shared};
use super::repair_report::RepairReport;
use super::rounds::Round;
use super::seam::Seam;
use super::{merges, open, rounds, seam};
use crate::card::called;
use crate::checkpoint::{ByteSize, Checkpoint, Origin, OutputDir, Workplace};
use crate::methods::{self, METHODS, MergeTrial};
use crate::plan::{Dropped, Notations, SubLayers, ranges};
use crate::progress::Progress;
use crate::repair::{BEST, REPAIRS};
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
    /// Type of the matrices of a GGUF file that was made of another model; absent elsewhere.
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    pub stored: Option<&'static str>,
    /// Its matrices whose rows are no whole blocks of that type, and are in a wider one.
    #[serde(skip_serializing_if = "is_zero")]
    pub odd: usize,
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
    /// The rounds in which layers went one at a time.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub rounds: Vec<Round>,
    /// The merges that were tried, by a method that merges.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub merges: Vec<MergeTrial>,
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

/// One weight file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ShardReport {
    /// Its name.
    pub file: String,
    /// Its length in bytes.
    pub bytes: u64,
}

fn is_zero(count: &usize) -> bool {
    *count == 0
}

/// Names that `--method` takes: those that need not be told the layers.
#[must_use]
pub fn method_names() -> Vec<&'static str> {
    METHODS.iter().filter(|method| !method.takes_names()).map(|method| method.name).chain([methods::BEST.0]).collect()
}

/// Names that `--repair` takes.
#[must_use]
pub fn repair_names() -> Vec<&'static str> {
    REPAIRS.iter().map(|repair| repair.name).chain([BEST.0]).collect()
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
    let merging_by = merges::check(settings)?;
    settings.check_repair()?;
    rounds::check(settings)?;
    let max_shard_size: ByteSize = settings.max_shard_size.parse().context(|| "--max-shard-size")?;
    let checkpoint = open::checkpoint(settings.model.as_deref(), progress)?;
    let layers = layer_count(&checkpoint.config).context(|| checkpoint.source.dir.display())?;
    let planned_for = open::identity(&checkpoint, layers);
    let written = settings.container(&checkpoint)?;
    let format = settings.format.as_deref().map(format).transpose().context(|| "--format")?;
    let options = CutOptions { max_shard_size, allow_unsliced: &settings.allow_unsliced, format };
    let opened = |target: &PathBuf| -> Result<Arc<Workplace>> {
        Ok(Arc::new(Workplace::open(target, &Origin::of("cut", settings)?)?))
    };
    let begun = |place: Arc<Workplace>| OutputDir::at(place, settings.force);
    // what is in the way is said before the work
    let is_late = settings.one_at_a_time || merging_by.is_some();
    let early = settings.out.as_ref().filter(|_| is_late).map(|target| opened(target).and_then(begun)).transpose()?;
    let of = (&checkpoint, &planned_for, &options);
    let (mut rounds, mut merges) = (Vec::new(), Vec::new());
    let plan = match (merging_by, amount(settings, &planned_for, &checkpoint)?) {
        (Some(by), _) => {
            let (plan, trials) = merges::choose(settings, of, by, progress)?;
            merges = trials;
            plan
        }
        (None, Some(n)) if settings.one_at_a_time => {
            let (plan, found) = rounds::choose(settings, of, n, shared, progress)?;
            rounds = found;
            plan
        }
        (None, share) => plan(settings, &planned_for, share)?,
    };
    let cut = Cut::new(&checkpoint, &planned_for, plan, &options)?;
    let cut = if matches!(written, Written::Copied) { cut.in_gguf(&settings.allow_unsliced)? } else { cut };
    let (cut, merged) = match settings.repair.filter(|repair| !repair.needs_text()) {
        None => (cut, None),
        Some(merge) => merging(merge, cut).map(|(cut, merged)| (cut, Some(merged)))?,
    };
    let name = settings.out.as_ref().and_then(|out| out.file_name()).map(|name| name.to_string_lossy().into_owned());
    let name = name.unwrap_or_else(|| called(&planned_for));
    let stored = |cut: Cut| match written {
        Written::Stored(stored) => cut.stored_as(stored, &name),
        Written::Safetensors | Written::Copied => Ok(cut),
    };
    let cut = stored(cut)?;
    if let (Some(format), None) = (&settings.format, cut.format()) {
        progress.note(&format!("--format {format} changes nothing: the plan leaves no sub-layers out"));
    }
    if let Some(why) = cut.not_computed() {
        progress.note(&format!("not computed here ({}): its layers are cut by names and bytes", shown_message(why)));
    }
    let mut report = CutReport { rounds, merges, merged, ..report(settings, &cut) };
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
    let mut state = None;
    let out = match early {
        Some(out) => out,
        None => {
            let place = opened(target)?;
            if let Some(repairing) = repairing.as_ref().filter(|_| !settings.dry_run) {
                place.refuse_taken(settings.force)?;
                state = repairing.state(&cut, (&place, settings), progress)?;
            }
            begun(place)?
        }
    };
    report.disk_free = Some(fs4::available_space(out.path()).map_err(|error| Error::io(target, &error))?);
    if settings.dry_run {
        return Ok(report);
    }
    out.require_space(report.disk_needed)?;
    let cut = match repairing {
        None => cut,
        Some(repairing) => {
            let (cut, repaired) = repairing.repair(cut, state.as_ref(), progress)?;
            let cut = stored(cut)?;
            // maps are tensors more
            (report.parameters, report.bytes) = (cut.parameters(), cut.bytes());
            (report.config, report.shards) = (cut.edits().to_vec(), shards(&cut));
            report.disk_needed = report.shards.iter().map(|shard| shard.bytes).sum();
            out.require_space(report.disk_needed)?;
            report.repair = Some(repaired);
            cut
        }
    };
    cut.write(out.path(), &provenance_settings(settings, &cut), settings.hash, progress)?;
    if settings.verify {
        let written = Arc::new(Checkpoint::open_dir(out.path())?);
        report.identical = Some(cut.verify(&written, out.path(), progress)?);
        if cut.not_computed().is_none() {
            report.seams = Some(seam::check(&cut, &written, progress)?);
        }
    }
    out.commit()?;
    if let Some(Err(Error::Request(why))) = state.map(|state| state.remove()) {
        progress.warn(&why);
    }
    Ok(report)
}

/// The settings that decide the output's bytes.
fn provenance_settings(settings: &CutSettings, cut: &Cut) -> Value {
    let mut said = json!({
        "max_shard_size": settings.max_shard_size,
        "allow_unsliced": settings.allow_unsliced,
        "hash": settings.hash,
    });
    if let Some(format) = cut.format() {
        said["format"] = json!(format);
    }
    if let Some((stored, _)) = cut.stored() {
        (said["to"], said["type"]) = (json!("gguf"), json!(stored.name));
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
        if !self.rounds.is_empty() {
            let order: Vec<String> = self.rounds.iter().map(|round| round.layer.to_string()).collect();
            writeln!(f, "one by one   {}", order.join(", "))?;
        }
        for MergeTrial { layers, similarity, .. } in self.merges.iter().filter(|trial| trial.stays) {
            writeln!(f, "merged       {}: similarity {similarity:.4}", ranges(layers.iter().copied()))?;
        }
        writeln!(f, "parameters   {}", shrunk(self.parameters, &short_count))?;
        writeln!(
            f,
            "weights      {}, {} of files: {}",
            shrunk(self.bytes, &size),
            size(self.disk_needed),
            names(&self.shards)
        )?;
        if let Some(stored) = self.stored {
            writeln!(f, "stored as    {stored}")?;
        }
        if let (Some(stored), 1..) = (self.stored, self.odd) {
            let odd = self.odd;
            writeln!(f, "             {odd} of them in a wider type: their rows are no whole blocks of {stored}")?;
        }
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

/// The weight files by name, the ends of the list only.
pub(super) fn names(shards: &[ShardReport]) -> String {
    match shards {
        [] => "none".to_owned(),
        [only] => only.file.clone(),
        [first, .., last] => format!("{} to {}", first.file, last.file),
    }
}

/// The weight files that `cut` makes.
pub(super) fn shards(cut: &Cut) -> Vec<ShardReport> {
    cut.files().into_iter().map(|(file, bytes)| ShardReport { file, bytes }).collect()
}

fn report(settings: &CutSettings, cut: &Cut) -> CutReport {
    let plan = cut.plan();
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
        shards: shards(cut),
        stored: cut.stored().map(|(stored, _)| stored.name),
        odd: cut.stored().map_or(0, |(_, odd)| odd),
        config: cut.edits().to_vec(),
        disk_needed: cut.files().iter().map(|(_, bytes)| bytes).sum(),
        disk_free: None,
        identical: None,
        seams: None,
        rounds: Vec::new(),
        merges: Vec::new(),
        merged: None,
        repair: None,
        not_computed: cut.not_computed().map(str::to_owned),
    }
}
