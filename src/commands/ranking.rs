//! `prune methods MODEL`: what each method would drop, and what the loss is without it, the best first.

use std::path::PathBuf;
use std::time::Instant;

use serde::Serialize;

use super::methods_settings::MethodsSettings;
use super::open;
use super::ranking_groups::{Group, groups, possible};
use super::ranking_repairs::{self, RankedBy, RankedRepair, Repairs};
use super::sample_text::{self, SampleText};
use crate::arch::ModelSpec;
use crate::checkpoint::{Origin, OutputDir, write_new};
use crate::data::Shape;
use crate::importance::{self, Draws, Evidence, Measured, Metric, metric, rises};
use crate::model::{Loss, Model, ModelOptions, Placement, Residency, Trie};
use crate::plan::{Dropped, SubLayer, SubLayers};
use crate::progress::Progress;
use crate::{Context, Error, Result};

/// Sequences where the user does not say.
pub(super) const SAMPLES: usize = 64;

/// The file that is written.
const FILE: &str = "methods.json";

/// The methods, ranked by what the model loses.
#[derive(Clone, Debug, Serialize)]
pub struct RankingReport {
    /// Directory, or hub id with the commit.
    pub model: String,
    /// Its layers.
    pub layers: usize,
    /// Layers that go.
    pub dropped_layers: usize,
    /// The text, as it was named.
    pub data: String,
    /// Sequences of it.
    pub samples: usize,
    /// Tokens of a sequence at most.
    pub seq_len: usize,
    /// Tokens in all of them.
    pub tokens: usize,
    /// Layers in memory, or streamed from disk.
    pub residency: Residency,
    /// Bytes of weights in memory at once.
    pub weight_bytes: u64,
    /// Cap on memory, bytes; not in the file.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_bytes: Option<u64>,
    /// Loss of the whole model, nats a token; absent in a dry run.
    pub whole: Option<f64>,
    /// The methods, the least loss first; in a dry run in the order of the table.
    pub methods: Vec<RankedMethod>,
    /// Methods that cannot choose so many layers of this model, and why.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub left_out: Vec<LeftOut>,
    /// The repair that each choice got, and by which they are ranked; absent where none was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub repair: Option<RankedBy>,
    /// Layers computed for each token to measure the losses of all plans; absent in a dry run.
    pub loss_layer_passes: Option<usize>,
    /// Seconds that took; none in the file, which is the same whenever it is made.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub loss_seconds: Option<f64>,
    /// The directory that was written.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub out: Option<PathBuf>,
}

/// One method.
#[derive(Clone, Debug, Serialize)]
pub struct RankedMethod {
    /// Its name.
    pub name: &'static str,
    /// What has to be computed to know its choice.
    pub cost: &'static str,
    /// That in layers computed for each token, at most; methods of one cost share what is computed.
    pub layer_passes: usize,
    /// Seconds it took, for all methods that share it; absent in a dry run, and in the file.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seconds: Option<f64>,
    /// What it chose; absent in a dry run.
    #[serde(flatten)]
    pub choice: Option<Ranked>,
}

impl RankedMethod {
    /// The same whenever it is measured.
    fn without_times(&self) -> Self {
        let mut row = Self { seconds: None, ..self.clone() };
        if let Some(repaired) = row.choice.as_mut().and_then(|choice| choice.repaired.as_mut()) {
            repaired.seconds = None;
        }
        row
    }
}

/// What a method chose and what comes of it. Losses in nats a token.
#[derive(Clone, Debug, Serialize)]
pub struct Ranked {
    /// What goes.
    pub dropped: Dropped,
    /// The method above that chose the same, whose measurement this is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub same_as: Option<&'static str>,
    /// Loss without it.
    pub loss: f64,
    /// Loss less that of the whole model.
    pub rise: f64,
    /// Standard error of that, sequence by sequence.
    pub rise_stderr: Option<f64>,
    /// Loss less that of the best method's choice.
    pub difference: f64,
    /// Standard error of that, sequence by sequence.
    pub difference_stderr: Option<f64>,
    /// The same choice repaired; absent where that was not asked for, or cannot be.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub repaired: Option<RankedRepair>,
}

/// A method that was not tried.
#[derive(Clone, Debug, Serialize)]
pub struct LeftOut {
    /// Its name.
    pub name: &'static str,
    /// Why not.
    pub why: String,
}

/// Runs `prune methods MODEL`.
///
/// # Errors
/// Request: settings that do not fit together, an output that exists, a method that was named and cannot choose so many
/// layers of the model. Work: a model or a text that cannot be read, a loss that is not finite. Interrupted.
pub fn rank(settings: &MethodsSettings, progress: &dyn Progress) -> Result<RankingReport> {
    let chosen = settings.chosen()?;
    if settings.data.is_none() {
        return Err(Error::request("which text? --data names it: the loss on it ranks the methods"));
    }
    settings.repair.map_or(Ok(()), ranking_repairs::check)?;
    let checkpoint = open::computed(settings.model.as_deref(), progress)?;
    let spec = ModelSpec::from_config(&checkpoint.config)?;
    let n = settings.amount(spec.layers)?;
    let out = settings.out.as_ref();
    let out = out.map(|out| OutputDir::create(out, settings.force, &Origin::of("methods", settings)?)).transpose()?;
    let draws = Draws { seed: settings.seed.unwrap_or_default(), ..Draws::default() };
    let (tried, left_out) = possible(&chosen, &spec, n);
    if let Some(LeftOut { name, why }) = left_out.first().filter(|_| !settings.methods.is_empty()) {
        return Err(Error::request(format!("--methods {name}: {why}")));
    }

    let seq_len = sample_text::seq_len(settings.seq_len, &spec, progress);
    let device = open::device(settings.device.as_deref(), settings.dtype.as_deref(), progress)?;
    let budget = open::budget_beside_tokenizer(settings.memory.as_deref(), &device, &checkpoint)?;
    let host = open::host(budget, &device);
    let sequences = text(settings, seq_len).read(&checkpoint, host, progress)?.rows;
    let tokens: usize = sequences.iter().map(Vec::len).sum();
    let longest = sequences.iter().map(Vec::len).max().unwrap_or(0);
    let metrics: Vec<&'static Metric> = tried.iter().filter_map(|method| method.metric()).collect();
    let reserved_bytes = importance::reserved_bytes(&metrics, &spec, &device, (tokens, longest));
    let options = ModelOptions { budget, device, reserved_bytes, ..ModelOptions::default() };
    let places: Vec<usize> = (0..spec.layers).collect();
    let fit = Placement::new(&checkpoint, &spec, &places, &options)
        .context(|| format!("{tokens} tokens, which --samples and --seq-len make fewer"))?;
    let groups = groups(&tried, &spec, (n, sequences.len()), &draws)?;
    let mut report = RankingReport {
        model: open::identity(&checkpoint, spec.layers).pinned(),
        layers: spec.layers,
        dropped_layers: n,
        data: settings.data.clone().unwrap_or_default(),
        samples: sequences.len(),
        seq_len,
        tokens,
        residency: fit.residency,
        weight_bytes: fit.weight_bytes,
        memory_bytes: Some(options.budget.bytes()),
        whole: None,
        methods: Vec::new(),
        left_out,
        repair: None,
        loss_layer_passes: None,
        loss_seconds: None,
        out: settings.out.clone(),
    };
    let mut repairs = settings.repair.map(|repair| Repairs::new(repair, settings, &checkpoint, spec.layers));
    // what the text and the model do not allow, they do not allow of any choice
    let deepest: Dropped = (spec.layers.saturating_sub(n + 1)..spec.layers - 1).collect();
    let ahead = repairs.as_mut().map(|repairs| repairs.ahead(&deepest, settings.dry_run, progress)).transpose()?;
    if settings.dry_run {
        report.repair = ahead;
        report.methods = groups.iter().flat_map(Group::ahead).collect();
        report.methods.sort_by_key(|row| tried.iter().position(|method| method.name == row.name));
        return Ok(report);
    }
    let model = Model::open(checkpoint.clone(), &options, progress)?;
    let mut measured = Measured::new(&model, &sequences, progress)?;
    let mut choices: Vec<(RankedMethod, Dropped)> = Vec::new();
    for group in &groups {
        let started = Instant::now();
        let gone = group.choose((&model, n), &sequences, (&mut measured, &draws), progress)?;
        let seconds = Some(started.elapsed().as_secs_f64());
        choices.extend(group.ahead().zip(gone).map(|(row, gone)| (RankedMethod { seconds, ..row }, gone)));
    }
    choices.sort_by_key(|(row, _)| tried.iter().position(|method| method.name == row.name));
    ranked(&mut report, choices, &mut measured)?;
    // its memory is the repairs'
    drop(model);
    if let Some(repairs) = repairs {
        repairs.rank(&mut report, progress)?;
    }
    if let Some(out) = out {
        let rows = report.methods.iter().map(RankedMethod::without_times);
        let kept = RankingReport {
            methods: rows.collect(),
            loss_seconds: None,
            out: None,
            memory_bytes: None,
            ..report.clone()
        };
        let text = serde_json::to_string_pretty(&kept).map_err(|error| Error::work(error.to_string()))?;
        write_new(&out.path().join(FILE), text + "\n")?;
        out.commit()?;
    }
    Ok(report)
}

/// Measures each different choice once, all in one pass, and sorts.
fn ranked(
    report: &mut RankingReport,
    choices: Vec<(RankedMethod, Dropped)>,
    evidence: &mut dyn Evidence,
) -> Result<()> {
    let started = Instant::now();
    let mut different: Vec<&Dropped> = Vec::new();
    for (_, gone) in &choices {
        if !different.contains(&gone) {
            different.push(gone);
        }
    }
    let is_fine = different.iter().any(|gone| !gone.are_layers());
    let loss = metric(if is_fine { "sublayer-loss" } else { "layer-loss" })?;
    let parts = loss.subject.unit().per_layer();
    let numbers = |gone: &Dropped| -> Vec<usize> {
        let whole = gone.layers.iter().flat_map(|layer| layer * parts..(layer + 1) * parts);
        let of = |(layer, own): (&usize, &SubLayers)| {
            let (layer, own) = (*layer, *own);
            let places = SubLayer::ALL.into_iter().enumerate().filter(move |(_, part)| own.contains(*part));
            places.map(move |(place, _)| layer * parts + place)
        };
        whole.chain(gone.sublayers.iter().flat_map(of)).collect()
    };
    let sets: Vec<Vec<usize>> = std::iter::once(Vec::new()).chain(different.iter().map(|gone| numbers(gone))).collect();
    let costs = evidence.costs(loss, &sets, None)?;
    let mean = |place: usize| Loss::total(&costs[place]).mean();
    if let Some(place) = (0..costs.len()).find(|place| !mean(*place).is_finite()) {
        let gone = place.checked_sub(1).map_or_else(|| "nothing".to_owned(), |place| different[place].to_string());
        return Err(Error::work(format!("the loss without {gone} is not finite")));
    }
    let least = (1..costs.len()).min_by(|a, b| mean(*a).total_cmp(&mean(*b))).unwrap_or(0);
    let candidates: Vec<&Vec<Loss>> = costs.iter().collect();
    let from = |place: usize| rises(&costs[place], &candidates, vec![costs.len()], loss.name);
    let (to_whole, to_best) = (from(0), from(least));
    let mut rows: Vec<(RankedMethod, usize)> = Vec::new();
    let place = |gone: &Dropped| different.iter().position(|known| *known == gone).map_or(0, |place| place + 1);
    for (row, gone) in &choices {
        let at = place(gone);
        let same_as = rows.iter().find(|(_, known)| *known == at).map(|(row, _)| row.name);
        let choice = Ranked {
            dropped: gone.clone(),
            same_as,
            loss: mean(at),
            rise: to_whole.mean[0][at],
            rise_stderr: to_whole.error(1, at),
            difference: to_best.mean[0][at],
            difference_stderr: to_best.error(1, at).filter(|_| at != least),
            repaired: None,
        };
        rows.push((RankedMethod { choice: Some(choice), ..row.clone() }, at));
    }
    rows.sort_by(|(_, a), (_, b)| mean(*a).total_cmp(&mean(*b)).then(a.cmp(b)));
    let units = report.layers * parts;
    let stacks: Vec<Vec<usize>> =
        sets.iter().map(|set| (0..units).filter(|unit| !set.contains(unit)).collect()).collect();
    report.whole = Some(mean(0));
    report.methods = rows.into_iter().map(|(row, _)| row).collect();
    report.loss_layer_passes = Some(Trie::new(&stacks).layer_passes().div_ceil(parts));
    report.loss_seconds = Some(started.elapsed().as_secs_f64());
    Ok(())
}

/// The text of the measurements.
fn text(settings: &MethodsSettings, seq_len: usize) -> SampleText<'_> {
    let MethodsSettings { packing, separator, attention, .. } = *settings;
    SampleText {
        data: settings.data.as_deref(),
        field: &settings.text_field,
        split: settings.text_split,
        on_bad_row: settings.on_bad_row,
        samples: (settings.samples, SAMPLES),
        shape: Shape { seq_len, packing, separator, attention, ..Shape::default() },
        seed: settings.seed,
    }
}
