//! `prune analyze`: which block of layers changes the residual stream least.

use std::path::PathBuf;

use serde::Serialize;
use serde_json::{Map, Value};

use super::against::Against;
pub use super::against::AgainstReport;
use super::analyze_outputs::Outputs;
use super::analyze_search::{Asked, Deciding, Kept};
pub use super::analyze_settings::AnalyzeSettings;
use super::open;
use super::sample_text::{self, SampleText};
use crate::arch::ModelSpec;
use crate::checkpoint::Checkpoint;
use crate::data::Shape;
use crate::importance::{self, Analysis, DataUsed, Evaluate, METRICS, Metric, Removals, Subject};
use crate::methods::{self, METHODS, Search};
use crate::model::{Model, ModelOptions, Placement, Residency};
use crate::progress::Progress;
use crate::{Context, Error, Result};

/// Sequences where the user does not say. The paper took 10,000; the standard errors say whether fewer will do.
const SAMPLES: usize = 1000;

/// What the command did.
#[derive(Debug, Serialize)]
pub struct AnalyzeReport {
    /// The scores and the plan; absent in a dry run.
    pub analysis: Option<Analysis>,
    /// How the pass ran, or would run.
    pub pass: Option<PassReport>,
    /// Files written.
    pub written: Vec<PathBuf>,
}

/// How a pass over the text runs.
#[derive(Debug, Serialize)]
pub struct PassReport {
    /// Layers in memory, or streamed from disk.
    pub residency: Residency,
    /// Bytes of weights in memory at once.
    pub weight_bytes: u64,
    /// Cap on memory, bytes.
    pub memory_bytes: u64,
    /// Sequences.
    pub samples: usize,
    /// Tokens.
    pub tokens: usize,
    /// Layers computed for each token where every candidate of a metric is; 0 where one pass gives all.
    pub layer_passes: usize,
    /// The passes of the other model and of both together, where there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub against: Option<AgainstReport>,
    /// Candidates that an earlier process measured, which this one went on from.
    #[serde(skip_serializing_if = "is_zero")]
    pub recalled: usize,
    /// Seconds of the pass, loading not counted; absent in a dry run.
    pub seconds: Option<f64>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "as serde calls it")]
fn is_zero(count: &usize) -> bool {
    *count == 0
}

/// Names that `--metric` takes.
#[must_use]
pub fn metric_names() -> Vec<&'static str> {
    METRICS.iter().map(|metric| metric.name).collect()
}

/// Names that `--strategy` takes.
#[must_use]
pub fn strategy_names() -> Vec<&'static str> {
    methods::scored().map(|pick| pick.name).collect()
}

/// Names that `--method` takes: those that choose by scores.
#[must_use]
pub fn method_names() -> Vec<&'static str> {
    METHODS.iter().filter(|method| method.needs_scores()).map(|method| method.name).collect()
}

/// Runs `prune analyze`.
///
/// # Errors
/// Settings that do not fit together, a model or text that cannot be read, a forward pass that fails.
pub fn analyze(settings: &AnalyzeSettings, progress: &dyn Progress) -> Result<AnalyzeReport> {
    settings.check_amount()?;
    settings.check_against()?;
    let search = settings.search()?;
    settings.measured()?;
    let outputs = Outputs::open(settings)?;
    let (analysis, pass) = match &settings.from {
        Some(path) => {
            let mut analysis = Analysis::read(path)?;
            methods::search(&mut analysis, &search)?;
            let wanted = settings.wanted(analysis.model.layers, None)?;
            mark(settings, &mut analysis, wanted)?;
            (analysis, None)
        }
        None => match measure(settings, &search, &outputs, progress)? {
            (Some(analysis), pass) => (analysis, pass),
            (None, pass) => return Ok(AnalyzeReport { analysis: None, pass, written: Vec::new() }),
        },
    };
    let written = outputs.write(settings, &analysis, progress)?;
    Ok(AnalyzeReport { analysis: Some(analysis), pass, written })
}

/// Marks the choice of `wanted` layers as the plan, or the largest whose loss is within what the settings allow.
fn mark(settings: &AnalyzeSettings, analysis: &mut Analysis, wanted: Option<usize>) -> Result<()> {
    let within =
        settings.max_loss.map(|most| methods::within(&analysis.search, analysis.model.layers, most)).transpose()?;
    within.or(wanted).map_or(Ok(()), |layers| analysis.mark(layers).map(drop))
}

fn measure(
    settings: &AnalyzeSettings,
    search: &Search,
    outputs: &Outputs,
    progress: &dyn Progress,
) -> Result<(Option<Analysis>, Option<PassReport>)> {
    let checkpoint = open::checkpoint(settings.model.as_deref(), progress)?;
    let spec = ModelSpec::from_config(&checkpoint.config)?;
    let wanted = settings.wanted(spec.layers, Some(&checkpoint))?;
    if let (Some(target), Some(layers)) = (&settings.target, wanted) {
        progress.note(&format!("{target}: without {layers} of {} layers", spec.layers));
    }
    search.protect.check(spec.layers, wanted)?;
    check_parts(settings, search, &spec)?;
    if settings.data.is_none() {
        return of_weights(settings, search, (&checkpoint, &spec, wanted), progress);
    }
    let seq_len = sample_text::seq_len(settings.seq_len, &spec, progress);
    let device = open::device(settings.device.as_deref(), settings.dtype.as_deref(), progress)?;
    let budget = open::budget_beside_tokenizer(settings.memory.as_deref(), &device, &checkpoint)?;
    let mut options = ModelOptions { budget, device, ..ModelOptions::default() };
    match &spec.check(&checkpoint.index)?[..] {
        [] => {}
        [only] => progress.warn(&format!("the model does not use its tensor {only}")),
        [first, rest @ ..] => {
            progress.warn(&format!("the model does not use its tensor {first} and {} more", rest.len()));
        }
    }
    let (mixing, measured): (Vec<_>, Vec<_>) =
        settings.measured()?.into_iter().partition(|metric| metric.mixture().is_some());
    let other = settings.against.as_deref();
    let against = other.map(|name| Against::open(name, (&checkpoint, &spec), &mixing, &options.device, progress));
    let against = against.transpose().context(|| "--against")?;
    let compared = against.as_ref().map(|against| against.report(options.budget, &options.device));
    let compared = compared.transpose().context(|| "--against")?;
    let places: Vec<usize> = (0..spec.layers).collect();
    let fits = |options: &ModelOptions| Placement::new(&checkpoint, &spec, &places, options);
    let plain = fits(&options)?;
    let host = open::host(options.budget, &options.device);
    let sequences = text(settings, seq_len).read(&checkpoint, host, progress)?;
    let searches = settings.measures_candidates()?;
    let (tokens, longest) = (sequences.tally.tokens as usize, sequences.rows.iter().map(Vec::len).max().unwrap_or(0));
    options.reserved_bytes = importance::reserved_bytes(&measured, &spec, &options.device, (tokens, longest))
        + against.as_ref().map_or(0, Against::bytes);
    let fit = match options.reserved_bytes {
        0 => plain,
        _ => fits(&options).context(|| {
            let names = names(&measured).join(", ");
            format!("{names} of {tokens} tokens, which --samples and --seq-len make fewer")
        })?,
    };
    let removals = Removals::new(spec.layers, measured.iter().copied());
    let most = wanted.unwrap_or_else(|| search.protect.allowed(spec.layers).len().min(spec.layers - 1));
    let asked = measured.iter().filter_map(|metric| match metric.value {
        Evaluate::Coalitions(how) => Some((how.passes)(spec.layers, &search.draws)),
        _ => None,
    });
    let searched = search.passes(spec.layers, most, sequences.rows.len())?
        + asked.sum::<usize>()
        + against.as_ref().map_or(0, Against::layer_passes);
    let mut pass = PassReport {
        residency: fit.residency,
        weight_bytes: fit.weight_bytes,
        memory_bytes: options.budget.bytes(),
        samples: sequences.rows.len(),
        tokens,
        layer_passes: match removals.is_empty() && searched == 0 {
            true => 0,
            false => spec.layers + removals.layer_passes() + searched,
        },
        against: compared,
        recalled: 0,
        seconds: None,
    };
    if settings.dry_run {
        return Ok((None, Some(pass)));
    }
    let model = Model::open(checkpoint.clone(), &options, progress)?;
    let resolved = resolved(settings, search, Some(seq_len))?;
    let mut kept = match outputs.place().filter(|_| searches) {
        Some(place) => {
            let key = Deciding { settings: &resolved, checkpoint: &checkpoint, device: &options.device };
            Some(Kept::open(place, key, &sequences.rows, progress)?)
        }
        None => None,
    };
    pass.recalled = kept.as_ref().map_or(0, Kept::candidates);
    let started = std::time::Instant::now();
    let asked = Asked { search, measured: &measured, most: wanted, searches };
    let found = asked.of(&model, &sequences.rows, kept.as_mut(), progress);
    let mut seconds = started.elapsed().as_secs_f64();
    // one model in memory after the other
    drop(model);
    let found = found.and_then(|(mut scores, searched)| {
        let Some(against) = against else { return Ok((scores, searched, None)) };
        let place = (options.budget, &options.device);
        let (compared, more, took) = against.measure(place, &sequences.rows, progress).context(|| "--against")?;
        scores.extend(more);
        seconds += took;
        Ok((scores, searched, Some(compared)))
    });
    let (scores, searched, compared) = found.inspect_err(|_| kept.into_iter().for_each(Kept::close))?;
    let data = DataUsed {
        source: settings.data.clone().unwrap_or_default(),
        samples: sequences.rows.len(),
        tokens: sequences.tally.tokens,
        seq_len,
        seed: settings.seed.unwrap_or(0),
    };
    pass.seconds = Some(seconds);
    let planned_for = open::identity(&checkpoint, spec.layers);
    let mut analysis = Analysis::new(planned_for, spec.hidden_size, data, resolved, scores, searched);
    analysis.against = compared;
    mark(settings, &mut analysis, wanted)?;
    Ok((Some(analysis), Some(pass)))
}

/// Refuses scores of every attention and MLP where the model lacks some.
fn check_parts(settings: &AnalyzeSettings, search: &Search, spec: &ModelSpec) -> Result<()> {
    let mut measured = settings.measured()?;
    measured.push(importance::metric(&search.metric)?);
    let fine: Vec<&Metric> = measured.into_iter().filter(|metric| metric.subject == Subject::SubLayer).collect();
    match (spec.without.iter().position(|without| !without.is_empty()), fine.first()) {
        (Some(layer), Some(metric)) => Err(Error::request(format!(
            "{} looks at every attention and MLP, and layer {layer} of this model has no {}: follow scores of layers, \
             or analyze the model before parts were left out",
            metric.name, spec.without[layer]
        ))),
        _ => Ok(()),
    }
}

fn names(metrics: &[&Metric]) -> Vec<&'static str> {
    metrics.iter().map(|metric| metric.name).collect()
}

/// Scores that need no text: the weights are read, and no model is opened.
fn of_weights(
    settings: &AnalyzeSettings,
    search: &Search,
    (checkpoint, spec, wanted): (&Checkpoint, &ModelSpec, Option<usize>),
    progress: &dyn Progress,
) -> Result<(Option<Analysis>, Option<PassReport>)> {
    let measured = settings.measured()?;
    let with_text: Vec<&Metric> = measured.iter().copied().filter(|metric| metric.value.needs_text()).collect();
    if !with_text.is_empty() || search.measures()? {
        let of = names(if with_text.is_empty() { &measured } else { &with_text }).join(", ");
        return Err(Error::request(format!("which text? --data names it; {of} cannot do without")));
    }
    spec.check(&checkpoint.index)?;
    if settings.dry_run {
        return Ok((None, None));
    }
    let scores = importance::measure_weights(checkpoint, spec, &measured, progress)?;
    let searched = search.run(&scores, spec.layers)?;
    let data = DataUsed { source: String::new(), samples: 0, tokens: 0, seq_len: 0, seed: 0 };
    let resolved = resolved(settings, search, None)?;
    let planned_for = open::identity(checkpoint, spec.layers);
    let mut analysis = Analysis::new(planned_for, spec.hidden_size, data, resolved, scores, searched);
    mark(settings, &mut analysis, wanted)?;
    Ok((Some(analysis), None))
}

/// The text of a measurement.
fn text(settings: &AnalyzeSettings, seq_len: usize) -> SampleText<'_> {
    let AnalyzeSettings { packing, separator, attention, .. } = *settings;
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

/// The settings that made the numbers, none of those that say where they went.
fn resolved(settings: &AnalyzeSettings, search: &Search, seq_len: Option<usize>) -> Result<Map<String, Value>> {
    let mut settings = AnalyzeSettings { seq_len, ..settings.clone() };
    if settings.data.is_none() {
        settings.metric.clone_from(&search.metric);
    }
    if settings.method.take().is_some() {
        (settings.metric, settings.strategy) = (search.metric.clone(), search.strategy.clone());
    }
    let value = serde_json::to_value(&settings).map_err(|error| Error::work(format!("settings: {error}")))?;
    let Value::Object(mut map) = value else { return Err(Error::work("settings are no table")) };
    for key in ["out", "csv", "force", "memory", "dry_run", "from"] {
        map.remove(key);
    }
    map.retain(|_, value| !value.is_null());
    Ok(map)
}
