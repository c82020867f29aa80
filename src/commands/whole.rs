//! The whole model that `prune cut` is told of, where the model that it is given was cut of it before.

use std::sync::Arc;

use super::cut_settings::CutSettings;
use super::open;
use crate::arch::ModelSpec;
use crate::checkpoint::Checkpoint;
use crate::plan::{Place, Plan, PlannedFor};
use crate::progress::Progress;
use crate::provenance::{FILE, Provenance};
use crate::surgery::layer_count;
use crate::{Error, Result};

/// What a cut follows that was trained since.
#[derive(Debug)]
pub(super) struct Whole {
    /// The whole model.
    pub(super) checkpoint: Arc<Checkpoint>,
    /// The same, as a history calls it.
    pub(super) identity: PlannedFor,
    /// What the cut has of it.
    pub(super) plan: Plan,
}

/// The whole model of `settings`, which `cut` was made of; `None` where none is named.
///
/// # Errors
/// Request: no history of `cut`, or one of another model; layers that were put in or made otherwise; other widths or
/// another vocabulary.
pub(super) fn whole(settings: &CutSettings, cut: &Checkpoint, progress: &dyn Progress) -> Result<Option<Whole>> {
    let Some(named) = &settings.whole else { return Ok(None) };
    let refused = |why: String| Err(Error::request(format!("--whole {named}: {why}")));
    let checkpoint = open::computed(Some(named), progress)?;
    let identity = open::identity(&checkpoint, layer_count(&checkpoint.config)?);
    let dir = &cut.source.dir;
    let Some(history) = Provenance::read(dir, layer_count(&cut.config)?)? else {
        return refused(format!("no {FILE} in {} tells which layers of it are left", dir.display()));
    };
    if history.origin.fingerprint != identity.fingerprint || history.origin.layers != identity.layers {
        return refused(format!("{} was made of another model: {}", cut.source.id, history.origin.id));
    }
    if !history.inserted.is_empty() || history.is_rebuilt() {
        return refused(format!("{} has layers that were put in or merged: nothing of it is theirs", cut.source.id));
    }
    let (spec, own) = (ModelSpec::from_config(&checkpoint.config)?, ModelSpec::from_config(&cut.config)?);
    if (spec.hidden_size, spec.vocab_size) != (own.hidden_size, own.vocab_size) {
        return refused(format!(
            "a stream of {} numbers and {} tokens, where {} has {} and {}",
            spec.hidden_size, spec.vocab_size, cut.source.id, own.hidden_size, own.vocab_size
        ));
    }
    if own.seam_maps.iter().any(Option::is_some) {
        return refused(format!("{} has a linear map behind a layer: repair the cut without", cut.source.id));
    }
    let place = |(at, layer): (usize, &usize)| Place {
        without: history.without.get(&at).copied().unwrap_or_default(),
        ..Place::of(*layer)
    };
    let stack = history.layers.iter().enumerate().map(place).collect();
    let plan = Plan { planned_for: identity.clone(), stack, why: serde_json::Map::new() };
    plan.check()?;
    Ok(Some(Whole { checkpoint, identity, plan }))
}
