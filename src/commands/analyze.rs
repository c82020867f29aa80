//! `prune analyze`: which block of layers changes the residual stream least.

use std::path::PathBuf;

use serde::Serialize;
use serde_json::{Map, Value};

use super::against::Against;
pub use super::against::AgainstReport;
use super::analyze_outputs::Outputs;
use super::analyze_search::{Asked, Deciding, Kept};
pub use super::analyze_settings::AnalyzeSettings;
use super::analyze_texts::Texts;
use super::questions::Asks;
use super::{open, sample_text};
use crate::arch::ModelSpec;
use crate::checkpoint::{ByteSize, Checkpoint};
use crate::eval::questions::TaskQuestions;
use crate::importance::{self, Analysis, DataUsed, Evaluate, METRICS, Metric, Needs, Removals, Subject};
use crate::methods::{self, Goal, METHODS, Search};
use crate::model::{Batch, Budget, Model, ModelOptions, Placement, Residency};
use crate::progress::Progress;
use crate::{Context, Error, Result};

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
    /// Where there are several texts, what of each is used.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub texts: Vec<DataUsed>,
    /// Layers computed for each token where every candidate of a metric is; 0 where one pass gives all.
    pub layer_passes: usize,
    /// Questions that are asked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub questions: Option<AskedReport>,
    /// The passes of the other model and of both together, where there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub against: Option<AgainstReport>,
    /// Candidates that an earlier process measured, which this one went on from.
    #[serde(skip_serializing_if = "is_zero")]
    pub recalled: usize,
    /// Seconds of the pass, loading not counted; absent in a dry run.
    pub seconds: Option<f64>,
}

/// Questions and what asking them takes.
#[derive(Debug, Serialize)]
pub struct AskedReport {
    /// Names of the tasks.
    pub tasks: Vec<String>,
    /// How many questions.
    pub questions: usize,
    /// Tokens that are run, shared beginnings counted once a pass.
    pub tokens: usize,
    /// Layers computed for each of them.
    pub layer_passes: usize,
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
    METHODS.iter().filter(|method| method.needs_scores()).map(|method| method.name).chain([methods::BEST.0]).collect()
}

/// Runs `prune analyze`.
///
/// # Errors
/// Settings that do not fit together, a model or text that cannot be read, a forward pass that fails.
pub fn analyze(settings: &AnalyzeSettings, progress: &dyn Progress) -> Result<AnalyzeReport> {
    settings.check_amount()?;
    settings.check_against()?;
    let search = settings.search()?;
    settings.check_texts()?;
    settings.check_questions()?;
    let asked = settings.asked();
    asks(settings, &asked).check()?;
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
    let goal = Goal::of(settings.max_loss, settings.keep.as_ref(), analysis.data.asked.as_ref())?;
    let within = goal.map(|goal| methods::within(&analysis.search, analysis.model.layers, goal)).transpose()?;
    within.or(wanted).map_or(Ok(()), |layers| analysis.mark(layers).map(drop))
}

fn measure(
    settings: &AnalyzeSettings,
    search: &Search,
    outputs: &Outputs,
    progress: &dyn Progress,
) -> Result<(Option<Analysis>, Option<PassReport>)> {
    let checkpoint = open::computed(settings.model.as_deref(), progress)?;
    let spec = ModelSpec::from_config(&checkpoint.config)?;
    let wanted = settings.wanted(spec.layers, Some(&checkpoint))?;
    if let (Some(target), Some(layers)) = (&settings.target, wanted) {
        progress.note(&format!("{target}: without {layers} of {} layers", spec.layers));
    }
    search.protect.check(spec.layers, wanted)?;
    check_parts(settings, search, &spec)?;
    let tasks = settings.asked();
    if settings.data.is_empty() && tasks.is_empty() {
        return of_weights(settings, search, (&checkpoint, &spec, wanted), progress);
    }
    let of_text = settings.of_text()?;
    if settings.data.is_empty() && !of_text.is_empty() {
        return Err(Error::request(format!("which text? --data names it; {} cannot do without", of_text.join(", "))));
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
    let searches = settings.measures_candidates()?;
    importance::check_size(settings.data.len(), &measured, spec.layers)?;
    let texts = Texts::read(settings, seq_len, &checkpoint, host, progress)?;
    if searches {
        texts.check_predictable()?;
    }
    let questions = asks(settings, &tasks).read(&checkpoint, &spec, host, progress)?;
    if measured.iter().any(|metric| matches!(metric.value, Evaluate::Probe(_))) {
        questions.as_ref().map_or(Ok(()), |questions| questions.ends().map(drop)).context(|| "probe")?;
    }
    let ((tokens, longest), together) = (texts.largest(), texts.together());
    options.reserved_bytes = importance::reserved_bytes(&measured, &spec, &options.device, (tokens, longest))
        + against.as_ref().map_or(0, Against::bytes);
    let number = questions.as_ref().map_or(0, |questions| questions.choices().len());
    if let Some(questions) = &questions {
        let kept = if options.device.is_cpu() { questions.bytes() } else { 0 };
        let sizes = (number, questions.requests());
        options.reserved_bytes += kept + importance::question_bytes(&measured, sizes, &spec);
    }
    let fit = match options.reserved_bytes {
        0 => plain,
        _ => fits(&options).context(|| {
            let names = names(&measured).join(", ");
            match number {
                0 => format!("{names} of {tokens} tokens, which --samples and --seq-len make fewer"),
                _ => {
                    format!("{names} of {number} questions and {tokens} tokens, which --limit and --samples make fewer")
                }
            }
        })?,
    };
    if let Some(questions) = &questions {
        check_pass(questions, (&spec, &fit), options.budget)?;
    }
    let removals = Removals::new(spec.layers, measured.iter().copied());
    let most = wanted.unwrap_or_else(|| search.protect.allowed(spec.layers).len().min(spec.layers - 1));
    let asked = measured.iter().filter_map(|metric| match metric.value {
        Evaluate::Coalitions(how) => Some((how.passes)(spec.layers, &search.draws)),
        _ => None,
    });
    let searched = texts.passes(search, spec.layers, (most, number))?;
    let of_candidates = searched.text + asked.sum::<usize>() + against.as_ref().map_or(0, Against::layer_passes);
    let mut pass = PassReport {
        residency: fit.residency,
        weight_bytes: fit.weight_bytes,
        memory_bytes: options.budget.bytes(),
        samples: together.samples,
        tokens: together.tokens as usize,
        texts: if texts.are_several() { texts.used.clone() } else { Vec::new() },
        layer_passes: match removals.layer_passes() + of_candidates {
            0 => 0,
            of_candidates => spec.layers + of_candidates,
        },
        questions: questions.as_ref().map(|questions| {
            let removals = Removals::of_questions(spec.layers, measured.iter().copied());
            let looks = |metric: &&&Metric| metric.value.asks_questions() && !metric.value.removes();
            let whole = if measured.iter().any(|metric| looks(&metric)) { spec.layers } else { 0 };
            AskedReport {
                tasks: questions.tasks().into_iter().map(str::to_owned).collect(),
                questions: number,
                tokens: questions.batches().iter().map(Batch::tokens).sum(),
                layer_passes: whole + removals.layer_passes() + searched.questions,
            }
        }),
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
            Some(Kept::open(place, key, (&texts, questions.as_ref()), progress)?)
        }
        None => None,
    };
    pass.recalled = kept.as_ref().map_or(0, Kept::candidates);
    let started = std::time::Instant::now();
    let asked = Asked { search, measured: &measured, most: wanted, searches };
    let found = asked.of(&model, (&texts, questions.as_ref()), kept.as_mut(), progress);
    let mut seconds = started.elapsed().as_secs_f64();
    // one model in memory after the other
    drop(model);
    let found = found.and_then(|mut found| {
        let Some(against) = against else { return Ok((found, None)) };
        let place = (options.budget, &options.device);
        let (compared, more, took) = against.measure(place, &texts.rows, progress).context(|| "--against")?;
        found.scores.extend(more);
        seconds += took;
        Ok((found, Some(compared)))
    });
    let (found, compared) = found.inspect_err(|_| kept.into_iter().for_each(Kept::close))?;
    pass.seconds = Some(seconds);
    let asked = pass.questions.as_ref();
    let asked = asked.map(|asked| importance::QuestionsUsed { tasks: asked.tasks.clone(), questions: asked.questions });
    let data = DataUsed { asked, ..together };
    let planned_for = open::identity(&checkpoint, spec.layers);
    let mut analysis = Analysis::new(planned_for, spec.hidden_size, data, resolved, found.scores, found.searched);
    (analysis.texts, analysis.agreement) = (found.texts, found.agreement);
    analysis.against = compared;
    mark(settings, &mut analysis, wanted)?;
    Ok((Some(analysis), Some(pass)))
}

/// Refuses questions of which the longest pass does not fit beside the weights: passes are the same whatever memory
/// there is.
fn check_pass(questions: &TaskQuestions, (spec, fit): (&ModelSpec, &Placement), budget: Budget) -> Result<()> {
    let longest = questions.batches().iter().map(Batch::tokens).max().unwrap_or(0);
    // what enters a layer, what leaves it, and what waits for the next candidate
    let streams = (3 * longest * spec.hidden_size * 4) as u64;
    let needed = fit.pass_bytes(spec, longest) + streams;
    match needed <= budget.usable() {
        true => Ok(()),
        false => Err(Error::request(format!(
            "--tasks: {longest} tokens of questions go through together, which takes {} with the weights, and there are {}: \
             fewer examples, --few-shot, make them shorter, or give more with --memory",
            ByteSize(needed),
            ByteSize(budget.usable())
        ))),
    }
}

/// Refuses scores of every attention and MLP where the model lacks some.
fn check_parts(settings: &AnalyzeSettings, search: &Search, spec: &ModelSpec) -> Result<()> {
    let mut measured = settings.measured()?;
    measured.push(importance::metric(&search.metric)?);
    let of_inputs = |metric: &&&Metric| matches!(metric.value, Evaluate::Weights(Needs::Inputs, _));
    if let Some(metric) = measured.iter().find(of_inputs)
        && spec.experts.is_some_and(|experts| experts.stacked.is_some())
    {
        return Err(Error::request(format!(
            "{} weighs each matrix by what enters it, and the experts of a {} lie in one tensor",
            metric.name, spec.model_type
        )));
    }
    let fine: Vec<&Metric> = measured.into_iter().filter(|metric| metric.subject == Subject::SubLayer).collect();
    if let Some(metric) = fine.iter().find(|metric| spec.parallel && metric.runs_sublayers()) {
        return Err(Error::request(format!(
            "{} runs attention and MLP one after the other, and in a {} model they stand side by side: follow scores of \
             layers, or gate-sublayers",
            metric.name, spec.model_type
        )));
    }
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
    let data = DataUsed { source: String::new(), samples: 0, tokens: 0, seq_len: 0, seed: 0, asked: None };
    let resolved = resolved(settings, search, None)?;
    let planned_for = open::identity(checkpoint, spec.layers);
    let mut analysis = Analysis::new(planned_for, spec.hidden_size, data, resolved, scores, searched);
    mark(settings, &mut analysis, wanted)?;
    Ok((Some(analysis), None))
}

/// The questions of a measurement.
fn asks<'a>(settings: &'a AnalyzeSettings, tasks: &'a [String]) -> Asks<'a> {
    let AnalyzeSettings { include_path, data_dir, few_shot, limit, .. } = settings;
    Asks { tasks, include_path, data_dir, few_shot: *few_shot, limit: *limit }
}

/// The settings that made the numbers, none of those that say where they went.
fn resolved(settings: &AnalyzeSettings, search: &Search, seq_len: Option<usize>) -> Result<Map<String, Value>> {
    let mut settings = AnalyzeSettings { seq_len, ..settings.clone() };
    if settings.data.is_empty() {
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
