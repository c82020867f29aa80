//! What `prune cut` drops, by its settings.

use serde_json::Value;

use super::cut_settings::CutSettings;
use crate::checkpoint::Checkpoint;
use crate::files::{self, Bound};
use crate::importance::{Analysis, Protect, Subject, metric};
use crate::methods::{self, Goal, METHODS, Method, method};
use crate::plan::{Dropped, Plan, PlannedFor, layers_for_fraction, parse_drop};
use crate::{Context, Error, Result};

/// Exactly one way to say what goes.
pub(super) fn one_choice(settings: &CutSettings) -> Result<()> {
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
        ("--keep", settings.keep.is_some()),
        ("--whole", settings.whole.is_some()),
    ];
    let named: Vec<&str> = named.into_iter().filter_map(|(flag, given)| given.then_some(flag)).collect();
    match named[..] {
        [] => Err(Error::request("which layers? give --plan, --drop, --deepest, --tail, --method or --fraction")),
        ["--max-loss"] => Err(Error::request("--max-loss goes with an analysis that measured losses: give --plan")),
        ["--keep"] => Err(Error::request("--keep goes with an analysis that asked questions: give --plan")),
        ["--layers"] => Err(Error::request("--layers goes with an analysis or a method: give --plan or --method")),
        ["--method"] if settings.method.is_some_and(Method::merges) => Ok(()),
        ["--method"] | ["--plan", "--method"] => {
            Err(Error::request("how many layers? --method goes with --layers, --fraction or --target"))
        }
        [_] | ["--plan" | "--method", "--fraction" | "--layers" | "--target"] | ["--plan", "--max-loss" | "--keep"] => {
            Ok(())
        }
        ["--plan", "--method", "--fraction" | "--layers" | "--target"] => Ok(()),
        _ => Err(Error::request(format!("{} say different things; give one of them", named.join(" and ")))),
    }
}

/// How many layers go, where the settings say that.
pub(super) fn amount(settings: &CutSettings, model: &PlannedFor, checkpoint: &Checkpoint) -> Result<Option<usize>> {
    let share = settings.fraction.map(|fraction| layers_for_fraction(fraction, model.layers)).transpose();
    let share = share.context(|| "--fraction")?.or(settings.layers);
    let Some(target) = &settings.target else { return Ok(share) };
    let keeps = settings.method.map_or_else(Protect::default, |method| method.keeps);
    target.layers(checkpoint, &keeps.allowed(model.layers)).context(|| "--target").map(Some)
}

/// The plan: what is named, the best of an analysis, or by a method of places.
pub(super) fn plan(settings: &CutSettings, model: &PlannedFor, share: Option<usize>) -> Result<Plan> {
    if settings.whole.is_some() {
        return Plan::drop_named(model.clone(), &Dropped::default());
    }
    if let Some(text) = &settings.drop {
        let dropped = parse_drop(text, model.layers).context(|| "--drop")?;
        return Plan::drop_named(model.clone(), &dropped);
    }
    for (name, count) in [("deepest", settings.deepest), ("tail", settings.tail)] {
        if let Some(layers) = count {
            return method(name)?.plan(model, layers, None).context(|| format!("--{name}"));
        }
    }
    let plan = match (&settings.plan, share) {
        (Some(path), None) => match settings.max_loss.is_some() || settings.keep.is_some() {
            false => Plan::read(path)?,
            true => {
                let analysis = analysis(path)?;
                let goal = Goal::of(settings.max_loss, settings.keep.as_ref(), analysis.data.asked.as_ref())?;
                let goal = goal.ok_or_else(|| Error::work("a goal that is none"))?;
                let layers =
                    methods::within(&analysis.search, analysis.model.layers, goal).context(|| path.display())?;
                METHODS[0].plan(model, layers, Some(&analysis)).context(|| path.display())?
            }
        },
        (Some(path), Some(layers)) => {
            let method = settings.method.unwrap_or(&METHODS[0]);
            method.check_counts()?;
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
    let document: Value = files::asked_json(path, Bound::ANALYSIS)?;
    if document.get("stack").is_some() {
        return Err(Error::request(format!(
            "{}: a plan says itself which layers go; --fraction and --layers go with an analysis.json",
            path.display()
        )));
    }
    let read = Analysis::from_value(document).and_then(|analysis| methods::check(&analysis).map(|()| analysis));
    read.context(|| path.display())
}
