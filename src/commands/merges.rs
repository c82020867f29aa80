//! Methods that merge: neighbouring layers become one as long as the final states stay alike, on some text.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::json;

use super::cut_settings::CutSettings;
use super::open;
use super::repair::Shared;
use super::repair_text::sequences;
use crate::arch::ModelSpec;
use crate::card::placeless;
use crate::checkpoint::Checkpoint;
use crate::importance::FinalStates;
use crate::methods::{LayerSum, MergeBounds, MergeTrial, Method};
use crate::model::{Model, ModelOptions};
use crate::plan::{Made, Place, Plan, PlannedFor, Term, ranges};
use crate::progress::{Progress, Silent};
use crate::surgery::{Cut, CutOptions};
use crate::{Error, Result};

/// Sequences where the user does not say; the papers take five to ten.
const SAMPLES: usize = 16;

/// Layers that become one at a time where the user does not say.
const LAYERS: usize = 4;

/// What the settings bound merges by.
///
/// # Errors
/// Request: names the flag that is missing, out of range, or goes with other methods.
pub(super) fn check(settings: &CutSettings) -> Result<Option<(&'static Method, MergeBounds)>> {
    let CutSettings { threshold, merge_layers, interval, .. } = *settings;
    let given = [
        ("--threshold", threshold.is_some()),
        ("--merge-layers", merge_layers.is_some()),
        ("--interval", interval.is_some()),
    ];
    let Some(method) = settings.method.filter(|method| method.merges()) else {
        return match given.into_iter().find(|(_, given)| *given) {
            None => Ok(None),
            Some((flag, _)) => Err(Error::request(format!("{flag} goes with --method laco or sliding, which merge"))),
        };
    };
    let name = method.name;
    if settings.layers.is_some() || settings.fraction.is_some() || settings.target.is_some() {
        method.check_counts()?;
    }
    if let (Some((flag, _)), false) = (given[1..].iter().find(|(_, given)| *given), name == "laco") {
        return Err(Error::request(format!("{flag} goes with --method laco; windows of {name} have any size")));
    }
    let range = "a cosine, from -1 to 1";
    let threshold = match threshold {
        Some(threshold) if (-1.0..=1.0).contains(&threshold) => threshold,
        Some(other) => return Err(Error::request(format!("--threshold {other}: expected {range}"))),
        None => {
            return Err(Error::request(format!(
                "how much may change? --method {name} takes --threshold T: merges stay that leave the final states \
                 more alike than that, {range}, such as 0.7"
            )));
        }
    };
    let (layers, interval) = (merge_layers.unwrap_or(LAYERS), interval.unwrap_or(1));
    for (flag, number, least) in [("--merge-layers", layers, 2), ("--interval", interval, 1)] {
        if number < least {
            return Err(Error::request(format!("{flag} {number}: expected at least {least}")));
        }
    }
    if settings.data.is_none() {
        return Err(Error::request(format!("--method {name}: which text are the models compared on? --data names it")));
    }
    match settings.dry_run {
        true => {
            Err(Error::request(format!("--method {name}: what merges is known only as it does, there is no dry run")))
        }
        false if settings.out.is_none() => {
            Err(Error::request("where to? name the directory of the new checkpoint with --out"))
        }
        false => Ok(Some((method, MergeBounds { threshold, layers, interval }))),
    }
}

/// The plan of merged layers of `checkpoint` that `method` comes to, and how.
///
/// # Errors
/// Request: a model that is not computed or whose layers differ, too few of them, too little text or memory. Work: a
/// text that cannot be read. Interrupted.
pub(super) fn choose(
    settings: &CutSettings,
    (checkpoint, planned_for, options): (&Arc<Checkpoint>, &PlannedFor, &CutOptions<'_>),
    (method, bounds): (&Method, MergeBounds),
    progress: &dyn Progress,
) -> Result<(Plan, Vec<MergeTrial>)> {
    let spec = ModelSpec::from_config(&checkpoint.config)?;
    if spec.experts.is_some() {
        return Err(Error::request(format!(
            "expert 3 of one layer is not expert 3 of the next, so layers of a {} are not merged; methods that drop \
             layers work on it",
            spec.model_type
        )));
    }
    if let Some(other) = (1..spec.layers).find(|l| spec.without[*l] != spec.without[0]) {
        return Err(Error::request(format!(
            "--method {}: layers 0 and {other} have different sub-layers, and cannot become one",
            method.name
        )));
    }
    let text = CutSettings { samples: settings.samples.or(Some(SAMPLES)), ..settings.clone() };
    // a repair that follows reads its own, of its own length
    let text = sequences(&text, checkpoint, &mut Shared::default(), progress)?;
    let device = open::device(settings.device.as_deref(), settings.dtype.as_deref(), &Silent)?;
    let budget = open::budget_beside_tokenizer(settings.memory.as_deref(), &device, checkpoint)?;
    let states = FinalStates::bytes(text.iter().map(Vec::len).sum(), spec.hidden_size);
    let model_options = ModelOptions { budget, device, reserved_bytes: 3 * states, ..ModelOptions::default() };
    let of = |checkpoint: Arc<Checkpoint>| -> Result<FinalStates> {
        FinalStates::of(&Model::open(checkpoint, &model_options, &Silent)?, &text, progress)
    };
    let mut whole = None;
    let plan = |stack: &[LayerSum]| Plan {
        planned_for: planned_for.clone(),
        stack: stack.iter().map(|layer| place(layer, &spec)).collect(),
        why: serde_json::Map::new(),
    };
    let mut similarity = |stack: &[LayerSum]| -> Result<f64> {
        let whole = match &whole {
            Some(whole) => whole,
            None => whole.insert(of(checkpoint.clone())?),
        };
        let cut = Cut::new(checkpoint, planned_for, plan(stack), options)?;
        let found = whole.similarity(&of(Arc::new(cut.blueprint().open()?))?)?;
        let merged: Vec<String> = stack.iter().filter(|layer| !layer.is_copy()).map(span).collect();
        let left = stack.len();
        progress.note(&format!("{left} layers, merged {}: similarity {found:.4}", merged.join(" and ")));
        Ok(found)
    };
    let found = method.merge(&bounds, spec.layers, &mut similarity)?;
    if found.stack.iter().all(LayerSum::is_copy) {
        let most = found.trials.iter().map(|trial| trial.similarity).fold(f64::NEG_INFINITY, f64::max);
        return Err(Error::request(format!(
            "--threshold {}: no merge leaves the final states that alike; the nearest of {} leaves {most:.4}",
            bounds.threshold,
            found.trials.len()
        )));
    }
    let mut plan = plan(&found.stack);
    plan.why.insert("method".to_owned(), method.name.into());
    plan.why.insert("threshold".to_owned(), json!(bounds.threshold));
    plan.why.insert("data".to_owned(), json!(settings.data.as_deref().map(placeless)));
    plan.why.insert("samples".to_owned(), json!(text.len()));
    if method.name == "laco" {
        plan.why.insert("merge_layers".to_owned(), json!(bounds.layers));
        plan.why.insert("interval".to_owned(), json!(bounds.interval));
    }
    if let Some(last) = found.trials.iter().rev().find(|trial| trial.stays) {
        plan.why.insert("similarity".to_owned(), json!(last.similarity));
    }
    Ok((plan, found.trials))
}

/// The layers of the source that one is the sum of: `12..=14`.
fn span(layer: &LayerSum) -> String {
    ranges(layer.terms.keys().copied())
}

/// The place of a merged layer: its base, whose projections are made anew.
fn place(layer: &LayerSum, spec: &ModelSpec) -> Place {
    if layer.is_copy() {
        return Place::of(layer.base);
    }
    let sum = || {
        let terms = layer.terms.iter().filter(|(_, times)| **times != 0.0);
        Made::Sum(terms.map(|(l, times)| Term { times: *times, of: Made::Layer(*l) }).collect())
    };
    let made: BTreeMap<String, Made> = spec
        .layer_tensors(layer.base)
        .into_iter()
        .filter(|tensor| tensor.role.is_linear())
        .filter_map(|tensor| Some((tensor.name[tensor.name.find(&*spec.module(tensor.role))?..].to_owned(), sum())))
        .collect();
    Place { made, ..Place::of(layer.base) }
}
