//! From what the stages left to a report.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::pipeline::{CutDone, Done};
use super::recipe::Recipe;
use super::stage::Job;
use crate::checkpoint::{Entry, Origin, OutputDir, Workplace, has_leftovers, write_file, write_new};
use crate::commands::analysis_view;
use crate::commands::heal::HealResult;
use crate::eval::compare::{Comparison, compare};
use crate::eval::finished::Finished;
use crate::eval::metrics::TaskMetric;
use crate::eval::side::Side;
use crate::eval::table::FigureReport;
use crate::eval::tasks;
use crate::heal::Line;
use crate::importance::{Analysis, Order, metric};
use crate::methods::{self, Follows};
use crate::plan::Dropped;
use crate::report::run::{Difference, Distances, Healing, RunData, Score, ScoreColumn, Variant};
use crate::report::{self, Figure};
use crate::{Context, Error, Result, files};

/// The run's figures.
///
/// # Errors
/// Work: a log that is gone.
pub(super) fn data(recipe: &Recipe, done: &Done, dir: &Path) -> Result<RunData> {
    let scored = done.dense.iter().chain(done.cuts.iter().flat_map(|cut| cut.scores.iter().chain(&cut.healed)));
    let measures = measures(scored.flatten());
    let scores = |figures: Option<&Vec<FigureReport>>| -> Vec<Option<Score>> {
        measures.iter().map(|measure| score(measure, figures?)).collect()
    };
    let tensors = done.checkpoint.index.tensors.values();
    let layers = done.layers;
    let dense = Variant {
        dir: "dense".to_owned(),
        strategy: None,
        repair: None,
        dropped: Dropped::default(),
        is_healed: false,
        layers,
        parameters: tensors.clone().map(numbers).sum(),
        bytes: tensors.map(|entry| entry.len).sum(),
        scores: scores(done.dense.as_ref()),
        healing: None,
        speed: done.speed,
    };
    let mut variants = Vec::new();
    for cut in &done.cuts {
        let variant = Variant {
            dir: cut.dir.clone(),
            strategy: Some(cut.wanted.strategy.clone()),
            repair: cut.wanted.repair.map(|repair| repair.name.to_owned()),
            dropped: cut.dropped.clone(),
            is_healed: false,
            layers: layers - cut.dropped.layers.len(),
            parameters: cut.size.parameters,
            bytes: cut.size.bytes,
            scores: scores(cut.scores.as_ref()),
            healing: None,
            speed: cut.speed.map(|found| found.model),
        };
        let healed = cut.healing.as_ref().map(|result| {
            let healing = Some(healing(cut, result, dir)?);
            Ok::<_, Error>(Variant { is_healed: true, scores: scores(cut.healed.as_ref()), healing, ..variant.clone() })
        });
        if cut.healing.is_none() || cut.scores.is_some() {
            variants.push(variant);
        }
        variants.extend(healed.transpose()?);
    }
    let source = &done.checkpoint.source;
    let mut provenance = vec![("prune".to_owned(), env!("CARGO_PKG_VERSION").to_owned())];
    provenance.push(("model".to_owned(), source.id.clone()));
    provenance.extend(source.revision.clone().map(|revision| ("revision".to_owned(), revision)));
    provenance.push(("fingerprint".to_owned(), done.checkpoint.fingerprint()));
    let family = done.checkpoint.config.get("model_type").and_then(|family| family.as_str());
    let mut data = RunData {
        model: recipe.model.clone(),
        family: family.unwrap_or_default().to_owned(),
        caveat: recipe.caveat.clone(),
        measures,
        dense,
        variants,
        distances: done.analysis.as_ref().map(distances).transpose()?,
        recipe: recipe.text.clone(),
        provenance,
        differences: Vec::new(),
        costs: BTreeMap::new(),
    };
    let strategies = data.variants.iter().filter_map(|variant| variant.strategy.clone());
    let cost = |name: String| {
        let method = methods::method(&name).ok()?;
        let followed = done.analysis.as_ref().filter(|_| method.follows == Follows::Analysis);
        let cost = match followed {
            Some(analysis) => methods::cost(&analysis.search),
            None => method.cost(),
        };
        Some((name, cost.to_owned()))
    };
    data.costs = strategies.filter_map(cost).collect();
    data.differences = differences(&data, dir).context(|| "comparing the scores")?;
    Ok(data)
}

/// How far the models that a report compares are apart, document by document.
fn differences(data: &RunData, dir: &Path) -> Result<Vec<Difference>> {
    let place = |variant: &Variant| {
        let part = if variant.is_healed { "healed-scores" } else { "scores" };
        dir.join(&variant.dir).join(part)
    };
    let is_compared = |task: &str| data.measures.iter().any(|measure| measure.task == task);
    let mut sides: BTreeMap<PathBuf, Side> = BTreeMap::new();
    let places: Vec<PathBuf> = data.all().map(place).collect();
    for path in &places {
        if path.is_dir() && !sides.contains_key(path) {
            // a group's figures are those of its tasks
            let side = Finished::open(path)?.side(&|task| is_compared(task))?;
            sides.insert(path.clone(), side);
        }
    }
    let mut differences = Vec::new();
    for (from, to) in data.pairs() {
        let (Some(before), Some(after)) = (sides.get(&places[from]), sides.get(&places[to])) else { continue };
        for found in compare(before, after, false)?.into_iter().filter(|found| found.paired) {
            let is_it = |measure: &ScoreColumn| (&measure.task, &measure.metric) == (&found.task, &found.metric);
            let Some(measure) = data.measures.iter().position(is_it) else { continue };
            let Comparison { difference, stderr, p, .. } = found;
            differences.push(Difference { from, to, measure, difference, stderr, p });
        }
    }
    Ok(differences)
}

fn numbers(entry: &Entry) -> u64 {
    entry.shape.iter().map(|size| *size as u64).product()
}

/// The columns: accuracies of questions, losses of texts, each once.
fn measures<'a>(figures: impl Iterator<Item = &'a FigureReport>) -> Vec<ScoreColumn> {
    let mut measures: Vec<ScoreColumn> = Vec::new();
    for figure in figures {
        let known = measures.iter().any(|known| (&known.task, &known.metric) == (&figure.task, &figure.metric));
        let metric = TaskMetric::named(figure.metric.split(',').next().unwrap_or_default());
        let is_shown = metric.is_some_and(|metric| {
            metric.higher_is_better || [TaskMetric::LOSS, TaskMetric::REPEATED_SUFFIX].contains(&metric)
        });
        if known || !is_shown {
            continue;
        }
        measures.push(ScoreColumn {
            task: figure.task.clone(),
            title: title(figure),
            metric: figure.metric.clone(),
            chance: figure.chance,
            is_loss: metric.is_some_and(|metric| !metric.higher_is_better),
            depth: figure.depth,
        });
    }
    measures
}

/// A task's name in print; that of a text is its file's.
fn title(figure: &FigureReport) -> String {
    match (tasks::named(&figure.task), figure.task.strip_prefix("text_")) {
        (Some(task), _) => task.about().title.to_owned(),
        (None, Some(file)) => file.to_owned(),
        (None, None) => figure.alias.clone(),
    }
}

fn score(measure: &ScoreColumn, figures: &[FigureReport]) -> Option<Score> {
    let is_it = |figure: &&FigureReport| (&measure.task, &measure.metric) == (&figure.task, &figure.metric);
    let figure = figures.iter().find(is_it)?;
    Some(Score {
        value: figure.value,
        stderr: figure.stderr,
        documents: figure.documents,
        majority: figure.majority,
        is_degenerate: figure.degenerate.is_some(),
    })
}

fn healing(cut: &CutDone, result: &HealResult, dir: &Path) -> Result<Healing> {
    let path = dir.join(&cut.dir).join("healed/log.jsonl");
    let text = files::read_text(&path, files::LOG)?;
    let (mut training, mut validation) = (Vec::new(), Vec::new());
    for line in text.lines() {
        let line = serde_json::from_str(line).map_err(|error| Error::work(format!("{}: {error}", path.display())))?;
        match line {
            Line::Step { step, loss, .. } => training.push((step, loss)),
            Line::Validation { step, val_loss, .. } => validation.push((step, val_loss)),
            Line::Measured { .. } => {}
        }
    }
    let measured = result.measured.as_ref();
    Ok(Healing {
        uncut: measured.and_then(|measured| measured.uncut),
        cut: measured.map(|measured| measured.cut),
        healed: measured.map(|measured| measured.healed),
        healed_stderr: measured.and_then(|measured| measured.gain.stderr),
        undone: measured.and_then(|measured| measured.undone),
        text: measured.map(|measured| measured.text.to_string()),
        steps: result.steps,
        tokens: result.tokens,
        loss_before: result.loss_before,
        best_loss: result.best_loss,
        best_step: result.best_step,
        training,
        validation,
    })
}

fn distances(analysis: &Analysis) -> Result<Distances> {
    let triangle = analysis_view::triangle(analysis)?;
    let scores = analysis.scores(&analysis.search.metric)?;
    Ok(Distances {
        metric: analysis.search.metric.clone(),
        title: analysis_view::measure(analysis),
        mean: scores.mean.clone(),
        stderr: scores.stderr.clone().unwrap_or_default(),
        best: triangle.best,
        samples: analysis.data.samples,
        text: analysis.data.source.clone(),
        highest_first: metric(&analysis.search.metric)?.order == Order::Highest,
    })
}

/// What the report is, in the run's directory: the page, its numbers, its figures.
pub(super) const PARTS: [&str; 4] = ["figures", "tables", "report.json", PAGE];
/// The page.
pub(super) const PAGE: &str = "report.html";

/// Writes the report and what it shows into the run's directory `dir`, under the claim of `job`.
///
/// # Errors
/// The disk's. Work: another process has taken it over.
pub(super) fn publish(data: &RunData, state: &Path, job: &Job<'_>) -> Result<()> {
    let folder = |name: &str, files: Vec<(String, Vec<u8>)>| -> Result<()> {
        let out = OutputDir::create(&job.beside(name), true, &Origin::program("run"))?;
        for (name, bytes) in files {
            write_new(&out.path().join(name), bytes)?;
        }
        out.commit()
    };
    let mut figures = Vec::new();
    for figure in report::figures(data) {
        figures.push((format!("{}.svg", figure.name), figure.drawing.svg()?.into_bytes()));
        figures.push((format!("{}.png", figure.name), figure.drawing.png()?));
    }
    folder("figures", figures)?;
    let tables = report::tables(data)?.into_iter();
    folder("tables", tables.map(|table| (format!("{}.csv", table.name), table.text.into_bytes())).collect())?;
    let text = serde_json::to_string_pretty(data).map_err(|error| Error::work(error.to_string()))?;
    write_file(&job.beside("report.json"), true, (text + "\n").as_bytes())?;
    write_file(&job.beside(PAGE), true, report::page(data)?.as_bytes())?;
    for name in PARTS {
        let place = state.join(name);
        if has_leftovers(&place) {
            // of a run of an earlier version
            let open = if place.extension().is_some() { Workplace::open_file } else { Workplace::open };
            drop(open(&place, &Origin::program("run"))?);
        }
        job.place(name, &place)?;
    }
    Ok(())
}
