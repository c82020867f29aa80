//! `prune analyze`: which block of layers changes the residual stream least.

use serde_json::{Map, Value};

use super::against::Against;
pub use super::against::AgainstReport;
use super::analyze_check::{check_parts, check_pass};
pub use super::analyze_group::AnalyzeGroup;
use super::analyze_group::{check_alike, check_settings};
use super::analyze_outputs::Outputs;
pub use super::analyze_report::{AnalyzeReport, AskedReport, PassReport};
use super::analyze_search::{Asked, Deciding, Kept};
pub use super::analyze_settings::AnalyzeSettings;
use super::analyze_texts::Texts;
use super::questions::Asks;
use super::{open, sample_text};
use crate::arch::ModelSpec;
use crate::checkpoint::Checkpoint;
use crate::collective::{Collective, ProcessGroup, check_rank_timeout};
use crate::importance::{self, Analysis, DataUsed, Evaluate, METRICS, Metric, Questions, Removals, Shared};
use crate::methods::{self, Goal, METHODS, Search};
use crate::model::{Batch, Model, ModelOptions, Placement};
use crate::progress::{Progress, Silent};
use crate::{Context, Error, Result};

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
/// Where a launcher has started several processes they share the text out: see [`crate::collective`]. The first of them
/// writes and tells what came of it; the reports of the others say who they are.
///
/// # Errors
/// Settings that do not fit together, a model or text that cannot be read, a forward pass that fails, processes that
/// nothing connects.
pub fn analyze(settings: &AnalyzeSettings, progress: &dyn Progress) -> Result<AnalyzeReport> {
    check_rank_timeout(settings.rank_timeout)?;
    match ProcessGroup::launched("analyze", settings.rank_timeout)? {
        Some(group) => analyze_together(settings, group, progress),
        None => analyze_alone(settings, progress),
    }
}

/// Runs `prune analyze` as one of processes that have met, all of which do the same.
///
/// # Errors
/// As [`analyze`]; what another process met.
pub fn analyze_together(
    settings: &AnalyzeSettings,
    group: ProcessGroup,
    progress: &dyn Progress,
) -> Result<AnalyzeReport> {
    let progress: &dyn Progress = if group.rank() == 0 { progress } else { &Silent };
    let done = check_settings(&group, settings).and_then(|()| analyzed(settings, Some(&group), progress));
    group.close(done)
}

/// Runs `prune analyze` in this process, whatever started it.
///
/// # Errors
/// As [`analyze`].
pub(super) fn analyze_alone(settings: &AnalyzeSettings, progress: &dyn Progress) -> Result<AnalyzeReport> {
    analyzed(settings, None, progress)
}

fn analyzed(
    settings: &AnalyzeSettings,
    group: Option<&ProcessGroup>,
    progress: &dyn Progress,
) -> Result<AnalyzeReport> {
    settings.check_amount()?;
    settings.check_against()?;
    let search = settings.search()?;
    settings.check_texts()?;
    settings.check_questions()?;
    let asked = settings.asked();
    asks(settings, &asked).check()?;
    let leads = group.is_none_or(|group| group.rank() == 0);
    // the others write nothing
    let outputs = if leads { Outputs::open(settings)? } else { Outputs::none() };
    let members = group.map(AnalyzeGroup::new).transpose()?;
    if let Some(group) = group.filter(|_| settings.from.is_some()) {
        // nothing to share
        group.leave();
        if !leads {
            return Ok(AnalyzeReport { analysis: None, pass: None, group: members, written: Vec::new() });
        }
    }
    let (analysis, pass) = match &settings.from {
        Some(path) => {
            let mut analysis = Analysis::read(path)?;
            methods::search(&mut analysis, &search)?;
            let wanted = settings.wanted(analysis.model.layers, None)?;
            mark(settings, &mut analysis, wanted)?;
            (analysis, None)
        }
        None => match measure(settings, &search, (&outputs, group), progress)? {
            (Some(analysis), pass) => (analysis, pass),
            (None, pass) => {
                return Ok(AnalyzeReport { analysis: None, pass, group: members, written: Vec::new() });
            }
        },
    };
    let written = outputs.write(settings, &analysis, progress)?;
    Ok(AnalyzeReport { analysis: Some(analysis), pass, group: members, written })
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
    (outputs, group): (&Outputs, Option<&ProcessGroup>),
    progress: &dyn Progress,
) -> Result<(Option<Analysis>, Option<PassReport>)> {
    let members = group.map(ProcessGroup::members).transpose()?;
    let follows = group.is_some_and(|group| group.rank() > 0);
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
        // nothing to share
        group.into_iter().for_each(ProcessGroup::leave);
        if follows {
            return Ok((None, None));
        }
        return of_weights(settings, search, (&checkpoint, &spec, wanted), progress);
    }
    let of_text = settings.of_text()?;
    if settings.data.is_empty() && !of_text.is_empty() {
        return Err(Error::request(format!("which text? --data names it; {} cannot do without", of_text.join(", "))));
    }
    let seq_len = sample_text::seq_len(settings.seq_len, &spec, progress);
    let device = open::device(settings.device.as_deref(), settings.dtype.as_deref(), progress)?;
    if group.is_some() && !device.is_cpu() {
        return Err(Error::request("processes analyze together on CPUs: --device cpu, or one process on the GPU"));
    }
    let budget = open::budget_beside_tokenizer(settings.memory.as_deref(), &device, &checkpoint)?;
    let beside = members.as_ref().map_or(1, |members| members.on_this_machine);
    let budget = open::own_share(budget, settings.memory.as_deref(), beside);
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
    let resolved = resolved(settings, search, Some(seq_len))?;
    let place = outputs.place().filter(|_| searches && !settings.dry_run);
    let deciding = Deciding { settings: &resolved, checkpoint: &checkpoint, device: &options.device };
    let deciding = match (place, group) {
        (None, None) => None,
        _ => Some(deciding.map((&texts, questions.as_ref()), progress)?),
    };
    if let (Some(group), Some(deciding)) = (group, &deciding) {
        check_alike(group, deciding)?;
    }
    if settings.dry_run {
        return Ok((None, Some(pass)));
    }
    if let Some(members) = members.filter(|_| !follows) {
        progress.note(&format!("analyzing {}", members.describe()));
    }
    let model = Model::open(checkpoint.clone(), &options, progress)?;
    let asks = questions.as_ref().map(|questions| questions as &dyn Questions);
    let shared = group.map(|group| Shared::new(group, &model, &texts.rows, asks)).transpose()?;
    if let Some(shared) = shared.filter(|_| follows) {
        return shared.follow().map(|()| (None, Some(pass)));
    }
    let mut kept = match (place, &deciding) {
        (Some(place), Some(deciding)) => Some(Kept::open(place, deciding, (&texts, questions.as_ref()), progress)?),
        _ => None,
    };
    pass.recalled = kept.as_ref().map_or(0, Kept::candidates);
    let started = std::time::Instant::now();
    let asked = Asked { search, measured: &measured, most: wanted, searches };
    let found = asked.of(&model, (&texts, questions.as_ref()), (kept.as_mut(), shared), progress);
    let found = found.and_then(|found| shared.as_ref().map_or(Ok(()), Shared::end).map(|()| found));
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
    for key in ["out", "csv", "force", "memory", "rank_timeout", "dry_run", "from"] {
        map.remove(key);
    }
    map.retain(|_, value| !value.is_null());
    Ok(map)
}
