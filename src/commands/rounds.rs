//! Layers that go one at a time: the model is scored, loses a layer, is repaired where that is asked for, and is scored
//! again, as Prune&Comp (arXiv 2507.18212) does. Nothing is written between the rounds.

use std::sync::Arc;

use serde::Serialize;
use serde_json::json;

use super::cut_settings::CutSettings;
use super::merging::merging;
use super::open;
use super::repair::{Repairing, Shared};
use super::repair_text::sequences;
use crate::arch::ModelSpec;
use crate::checkpoint::Checkpoint;
use crate::importance::{self, Metric, Protect, metric};
use crate::methods::{METHODS, Method, RemovalUnit};
use crate::model::{Model, ModelOptions};
use crate::plan::{Dropped, Plan, PlannedFor};
use crate::progress::Progress;
use crate::surgery::{Cut, CutOptions};
use crate::{Error, Result};

/// One round.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Round {
    /// The layer of the source that went.
    pub layer: usize,
    /// Its score in the model as it was then.
    pub score: f64,
}

/// Whether layers can go one at a time by `method`: by the scores of single layers.
fn is_suited(method: &Method) -> bool {
    method.unit == RemovalUnit::Layer && method.needs_scores() && !method.is_searched()
}

/// Refuses what layers cannot go one at a time by.
///
/// # Errors
/// Request: names the flag.
pub(super) fn check(settings: &CutSettings) -> Result<()> {
    if !settings.one_at_a_time {
        return Ok(());
    }
    let flag = "--one-at-a-time";
    match settings.method {
        Some(method) if is_suited(method) => {}
        other => {
            let known = METHODS.iter().filter(|method| is_suited(method)).map(|method| method.name);
            let known = known.collect::<Vec<_>>().join(", ");
            let not = other.map_or_else(String::new, |method| format!(", not {}", method.name));
            return Err(Error::request(format!("{flag} goes with a --method that scores single layers: {known}{not}")));
        }
    }
    let asks = |metric: &Metric| metric.value.asks_questions();
    match settings.method.and_then(Method::metric) {
        Some(metric) if asks(metric) => return Err(Error::request(format!("{flag}: {} asks questions", metric.name))),
        _ if settings.plan.is_some() => {
            return Err(Error::request(format!("{flag} scores the model itself: leave --plan out")));
        }
        _ if settings.data.is_none() => {
            return Err(Error::request(format!("{flag}: which text is the model scored on? --data names it")));
        }
        _ => {}
    }
    match settings.dry_run {
        false if settings.out.is_none() => {
            Err(Error::request("where to? name the directory of the new checkpoint with --out"))
        }
        true => Err(Error::request(format!("{flag}: which layers go is known only as they go, there is no dry run"))),
        false => Ok(()),
    }
}

/// The plan to drop `n` layers of `checkpoint`, one after the other, and how it came about.
///
/// # Errors
/// Request: too few layers that may go, too little text or memory. Work: a text that cannot be read, a score that is
/// not finite. Interrupted.
pub(super) fn choose(
    settings: &CutSettings,
    (checkpoint, planned_for, options): (&Arc<Checkpoint>, &PlannedFor, &CutOptions<'_>),
    n: usize,
    shared: &mut Shared,
    progress: &dyn Progress,
) -> Result<(Plan, Vec<Round>)> {
    let Some(method) = settings.method else { return Err(Error::request("--one-at-a-time: by which --method?")) };
    let spec = ModelSpec::from_config(&checkpoint.config)?;
    let keeps = method.search(Protect::default())?.protect;
    keeps.check(spec.layers, Some(n))?;
    let text = sequences(settings, checkpoint, shared, progress)?;
    let (mut dropped, mut rounds) = (Dropped::default(), Vec::new());
    let mut kept: Vec<usize> = (0..spec.layers).collect();
    let mut current = checkpoint.clone();
    for round in 1..=n {
        let (place, score) = lowest(settings, method, &current, &text, progress)?;
        let layer = kept.remove(place);
        progress.note(&format!("round {round} of {n}: without layer {layer}, score {score:.4}"));
        dropped.layers.insert(layer);
        rounds.push(Round { layer, score });
        if round < n {
            let cut = Cut::new(checkpoint, planned_for, Plan::drop_named(planned_for.clone(), &dropped)?, options)?;
            let cut = match settings.repair {
                None => cut,
                Some(merge) if !merge.needs_text() => merging(merge, cut)?.0,
                Some(repair) => {
                    let repairing = Repairing::prepare(repair, settings, &cut, shared, progress)?;
                    repairing.repair(cut, None, progress)?.0
                }
            };
            current = Arc::new(cut.blueprint().open()?);
        }
    }
    let mut plan = Plan::drop_named(planned_for.clone(), &dropped)?;
    plan.why.insert("method".to_owned(), method.name.into());
    plan.why.insert("one_at_a_time".to_owned(), json!(rounds));
    Ok((plan, rounds))
}

/// The place of the layer that goes first from the model as it is, and its score.
fn lowest(
    settings: &CutSettings,
    method: &Method,
    current: &Arc<Checkpoint>,
    text: &[Vec<u32>],
    progress: &dyn Progress,
) -> Result<(usize, f64)> {
    let search = method.search(Protect::default())?;
    let measured = importance::with_parts(&[metric(&search.metric)?]);
    let spec = ModelSpec::from_config(&current.config)?;
    let device = open::device(settings.device.as_deref(), settings.dtype.as_deref(), &crate::progress::Silent)?;
    let budget = open::budget_beside_tokenizer(settings.memory.as_deref(), &device, current)?;
    let sizes = (text.iter().map(Vec::len).sum(), text.iter().map(Vec::len).max().unwrap_or(0));
    let reserved_bytes = importance::reserved_bytes(&measured, &spec, &device, sizes);
    let options = ModelOptions { budget, device, reserved_bytes, ..ModelOptions::default() };
    let model = Model::open(current.clone(), &options, progress)?;
    let scores = importance::measure(&model, &measured, text, progress)?;
    let found = search.run(&scores, model.layers())?;
    let best = found.best.first().and_then(|choice| Some((*choice.drop.first()?, choice.score)));
    best.ok_or_else(|| Error::work("no layer can go"))
}
