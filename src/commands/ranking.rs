//! `prune methods MODEL`: what each method would drop, and what the loss is without it, the best first.

use std::path::PathBuf;
use std::time::Instant;

use serde::Serialize;

use super::methods_settings::MethodsSettings;
use super::open;
use super::sample_text::{self, SampleText};
use crate::arch::ModelSpec;
use crate::checkpoint::{Origin, OutputDir, write_new};
use crate::data::Shape;
use crate::importance::{
    self, Draws, Evaluate, Evidence, Measured, Metric, Needs, Protect, Removals, Scores, Subject, metric, rises,
};
use crate::methods::{Method, Search};
use crate::model::{Loss, Model, ModelOptions, Placement, Residency, Trie};
use crate::plan::{Dropped, SubLayer, SubLayers};
use crate::progress::Progress;
use crate::{Context, Error, Result};

/// Sequences where the user does not say.
const SAMPLES: usize = 64;

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
    /// Tokens in them.
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
}

/// A method that was not tried.
#[derive(Clone, Debug, Serialize)]
pub struct LeftOut {
    /// Its name.
    pub name: &'static str,
    /// Why not.
    pub why: String,
}

/// Methods whose choices come of one computation.
struct Group {
    methods: Vec<&'static Method>,
    layer_passes: usize,
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
    let checkpoint = open::checkpoint(settings.model.as_deref(), progress)?;
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
        tokens,
        residency: fit.residency,
        weight_bytes: fit.weight_bytes,
        memory_bytes: Some(options.budget.bytes()),
        whole: None,
        methods: Vec::new(),
        left_out,
        loss_layer_passes: None,
        loss_seconds: None,
        out: settings.out.clone(),
    };
    if settings.dry_run {
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
    if let Some(out) = out {
        let rows = report.methods.iter().map(|row| RankedMethod { seconds: None, ..row.clone() });
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

/// The methods that can choose `n` layers of a model, and those that cannot.
fn possible(chosen: &[&'static Method], spec: &ModelSpec, n: usize) -> (Vec<&'static Method>, Vec<LeftOut>) {
    let (mut tried, mut left_out) = (Vec::new(), Vec::new());
    for method in chosen {
        let is_fine = method.metric().is_some_and(|metric| metric.subject == Subject::SubLayer);
        let lacks = spec.without.iter().position(|without| !without.is_empty()).filter(|_| is_fine);
        let checked = match lacks {
            Some(layer) => Err(Error::request(format!("layer {layer} has no {}", spec.without[layer]))),
            None if method.needs_scores() => {
                method.search(Protect::default()).and_then(|search| search.protect.check(spec.layers, Some(n)))
            }
            None => method.layers(spec.layers, n).map(drop),
        };
        match checked {
            Ok(()) => tried.push(*method),
            Err(error) => left_out.push(LeftOut { name: method.name, why: error.to_string() }),
        }
    }
    (tried, left_out)
}

/// The methods by what is computed for them: those that search alone, the others with all that cost the same.
fn groups(
    tried: &[&'static Method],
    spec: &ModelSpec,
    (n, texts): (usize, usize),
    draws: &Draws,
) -> Result<Vec<Group>> {
    let mut groups: Vec<Group> = Vec::new();
    for method in tried {
        let same = |group: &&mut Group| {
            !method.is_searched() && group.methods.iter().all(|own| !own.is_searched() && own.cost() == method.cost())
        };
        match groups.iter_mut().find(same) {
            Some(group) => group.methods.push(method),
            None => groups.push(Group { methods: vec![method], layer_passes: 0 }),
        }
    }
    for group in &mut groups {
        group.layer_passes = group.passes(spec.layers, (n, texts), draws)?;
    }
    Ok(groups)
}

impl Group {
    fn metrics(&self) -> Vec<&'static Metric> {
        self.methods.iter().filter_map(|method| method.metric()).collect()
    }

    /// Layers computed for each token, at most.
    fn passes(&self, layers: usize, (n, texts): (usize, usize), draws: &Draws) -> Result<usize> {
        let [method, ..] = self.methods[..] else { return Ok(0) };
        if method.is_searched() {
            return Ok(searching(method, draws)?.passes(layers, n, (texts, 0))?.text);
        }
        let metrics = self.metrics();
        let removals = Removals::new(layers, metrics.iter().copied());
        if !removals.is_empty() {
            return Ok(removals.layer_passes());
        }
        let of = |metric: &&Metric| match metric.value {
            Evaluate::Weights(Needs::Nothing, _) => 0,
            // back is twice as much as forward
            Evaluate::Weights(Needs::Gradients, _) | Evaluate::Gates(_) | Evaluate::GatePairs => 3 * layers,
            Evaluate::Coalitions(how) => (how.passes)(layers, draws),
            _ => layers,
        };
        let each = metrics.iter().map(of);
        let one_by_one = metrics.iter().any(|metric| matches!(metric.value, Evaluate::Coalitions(_)));
        Ok(if one_by_one { each.sum() } else { each.max().unwrap_or(0) })
    }

    /// What is known of the methods before anything is computed.
    fn ahead(&self) -> impl Iterator<Item = RankedMethod> {
        self.methods.iter().map(|method| RankedMethod {
            name: method.name,
            cost: method.cost(),
            layer_passes: self.layer_passes,
            seconds: None,
            choice: None,
        })
    }

    /// What goes by each of the methods.
    fn choose(
        &self,
        (model, n): (&Model, usize),
        sequences: &[Vec<u32>],
        (evidence, draws): (&mut dyn Evidence, &Draws),
        progress: &dyn Progress,
    ) -> Result<Vec<Dropped>> {
        let layers = model.layers();
        let scores: Vec<Scores> = match self.methods.iter().any(|method| method.is_searched()) {
            true => Vec::new(),
            false => importance::measure_with(model, &self.metrics(), sequences, (&mut *evidence, draws), progress)?,
        };
        let mut of = |method: &&'static Method| -> Result<Dropped> {
            if let Some(range) = method.layers(layers, n)? {
                return Ok(range.collect());
            }
            let search = searching(method, draws)?;
            let searched = match method.is_searched() {
                true => search.run_with(&mut *evidence, &scores, Some(n))?,
                false => search.run(&scores, layers)?,
            };
            searched.gone(n, layers)
        };
        self.methods.iter().map(|method| of(method).context(|| method.name)).collect()
    }
}

/// What a method that looks at scores searches, with these draws.
fn searching(method: &Method, draws: &Draws) -> Result<Search> {
    Ok(Search { draws: *draws, ..method.search(Protect::default())? })
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
