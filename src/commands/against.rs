//! The other model of `prune analyze --against`, and what lies between the two.

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use candle_core::Device;
use serde::Serialize;

use super::open;
use crate::arch::ModelSpec;
use crate::checkpoint::{ByteSize, Checkpoint};
use crate::importance::{self, Metric, Mixtures, Scores};
use crate::model::{Budget, LoadOptions, Loss, Model, ModelOptions, Placement, Residency};
use crate::plan::PlannedFor;
use crate::progress::Progress;
use crate::weights::lora::{ADAPTER_FILES, Adapters};
use crate::weights::{Blueprint, Other, between};
use crate::{Context, Error, Result};

/// How the passes of a comparison run.
#[derive(Clone, Debug, Serialize)]
pub struct AgainstReport {
    /// The other model.
    pub model: String,
    /// Its layers in memory, or streamed from disk.
    pub residency: Residency,
    /// Bytes of its weights in memory at once.
    pub weight_bytes: u64,
    /// Layers of the analyzed model and mixtures, in memory or streamed.
    pub mixed_residency: Residency,
    /// Bytes of their weights in memory at once.
    pub mixed_weight_bytes: u64,
}

/// Another model of the same shapes, opened and compared, and the stack of both that is to be run.
pub(super) struct Against {
    identity: PlannedFor,
    /// Its own; under an adapter, the analyzed model's.
    checkpoint: Arc<Checkpoint>,
    adapters: Option<Arc<Adapters>>,
    mixtures: Mixtures,
    blueprint: Arc<Blueprint>,
    stacked: ModelSpec,
}

/// Where a model with another one's layers between its own is to compute.
struct Place {
    other: ModelOptions,
    mixed: ModelOptions,
}

impl Against {
    /// The model or adapter `name` beside the model `spec` of `own`, for those of `metrics` that compare two.
    ///
    /// # Errors
    /// Request: no such model, one whose layers differ, an adapter of another model. Work: broken files.
    pub(super) fn open(
        name: &str,
        (own, spec): (&Arc<Checkpoint>, &ModelSpec),
        metrics: &[&'static Metric],
        device: &Device,
        progress: &dyn Progress,
    ) -> Result<Self> {
        let (identity, checkpoint, adapters) = match adapter(name)? {
            Some(dir) => {
                let adapters = Adapters::open_for(dir, own, spec, device)?;
                let identity = PlannedFor { id: name.to_owned(), revision: None, ..open::identity(own, spec.layers) };
                (identity, own.clone(), Some(Arc::new(adapters)))
            }
            None => {
                let checkpoint = open::computed(Some(name), progress)?;
                let theirs = ModelSpec::from_config(&checkpoint.config).context(|| name.to_owned())?;
                if let Some((key, here, there)) = spec.difference(&theirs) {
                    return Err(Error::request(format!(
                        "the two models are not of one shape: {key} is {here} in {}, {there} in {name}",
                        own.source.id
                    )));
                }
                theirs.check(&checkpoint.index).context(|| name.to_owned())?;
                (open::identity(&checkpoint, theirs.layers), checkpoint, None)
            }
        };
        let mixtures = Mixtures::new(spec.layers, metrics.iter().copied());
        let other = Other::new(&checkpoint, spec, adapters.clone())?;
        let (blueprint, stacked) = between(own, spec, &other, mixtures.parts())?;
        Ok(Self { identity, checkpoint, adapters, mixtures, blueprint: Arc::new(blueprint), stacked })
    }

    /// Layers computed for each token.
    pub(super) fn layer_passes(&self) -> usize {
        self.mixtures.layer_passes()
    }

    /// Bytes that an adapter takes as long as this lives.
    pub(super) fn bytes(&self) -> u64 {
        self.adapters.as_ref().map_or(0, |adapters| 4 * adapters.parameters() as u64)
    }

    fn place(&self, budget: Budget, device: &Device) -> Result<Place> {
        let base = ModelOptions { budget, device: device.clone(), ..ModelOptions::default() };
        let load_options = LoadOptions { adapters: self.adapters.clone(), ..LoadOptions::default() };
        // mixtures are computed in main memory
        let mixing = if device.is_cpu() { self.blueprint.size()?.memory } else { 0 };
        let reserved_bytes = self.bytes() + mixing;
        Ok(Place {
            other: ModelOptions { load_options, ..base.clone() },
            mixed: ModelOptions { reserved_bytes, ..base },
        })
    }

    /// How its passes will run.
    ///
    /// # Errors
    /// Request: too little memory.
    pub(super) fn report(&self, budget: Budget, device: &Device) -> Result<AgainstReport> {
        let place = self.place(budget, device)?;
        let fits = |checkpoint: &Checkpoint, spec: &ModelSpec, options: &ModelOptions| {
            Placement::new(checkpoint, spec, &(0..spec.layers).collect::<Vec<_>>(), options)
        };
        let spec = ModelSpec::from_config(&self.checkpoint.config)?;
        let own = fits(&self.checkpoint, &spec, &place.other)?;
        let mixed = fits(&self.blueprint.open()?, &self.stacked, &place.mixed).context(|| "layers of both models")?;
        Ok(AgainstReport {
            model: self.identity.id.clone(),
            residency: own.residency,
            weight_bytes: own.weight_bytes,
            mixed_residency: mixed.residency,
            mixed_weight_bytes: mixed.weight_bytes,
        })
    }

    /// Runs the other model, then the layers of both, one in memory after the other; also the seconds that took,
    /// loading not counted.
    ///
    /// # Errors
    /// As [`Mixtures::measure`].
    pub(super) fn measure(
        self,
        (budget, device): (Budget, &Device),
        sequences: &[Vec<u32>],
        progress: &dyn Progress,
    ) -> Result<(importance::Against, Vec<Scores>, f64)> {
        let Place { other, mixed } = self.place(budget, device)?;
        let id = self.identity.id.clone();
        let (theirs, their_seconds) = {
            let model = Model::open(self.checkpoint.clone(), &other, progress).context(|| id.clone())?;
            let started = Instant::now();
            let losses = Mixtures::other(&model, sequences, progress).context(|| id.clone())?;
            (losses, started.elapsed().as_secs_f64())
        };
        // what is kept beside the model is no room for its streams either
        let budget = Budget::new(Some(budget.bytes().saturating_sub(mixed.reserved_bytes)));
        let mixed = ModelOptions { budget, reserved_bytes: 0, ..mixed };
        let step = 1 + self.mixtures.parts().len();
        let place = || format!("layers of both models, layer l at place {step}l, what it is mixed to behind it");
        let model = Model::open_as(self.stacked.clone(), Arc::new(self.blueprint.open()?), &mixed, progress);
        let model = model.context(place)?;
        let started = Instant::now();
        let (own, scores) = self.mixtures.measure(&model, &theirs, sequences, progress).context(place)?;
        let seconds = their_seconds + started.elapsed().as_secs_f64();
        let mean = |losses: &[Loss]| Loss::total(losses).mean();
        Ok((importance::Against { model: self.identity, loss: mean(&theirs), own_loss: mean(&own) }, scores, seconds))
    }
}

/// The directory `name`, where it holds an adapter and no model.
///
/// # Errors
/// Request: it holds a healing, which is an adapter and a model.
fn adapter(name: &str) -> Result<Option<&Path>> {
    let dir = Path::new(name);
    let has = |file: &str| dir.join(file).exists();
    if has("config.json") {
        return Ok(None);
    }
    if has(ADAPTER_FILES[0]) {
        return Ok(Some(dir));
    }
    let parts = ["adapter", "merged"].into_iter().filter(|part| has(part));
    let parts: Vec<String> = parts.map(|part| dir.join(part).display().to_string()).collect();
    match parts.is_empty() {
        true => Ok(None),
        false => Err(Error::request(format!("{name} is no model itself: name {}", parts.join(" or ")))),
    }
}

impl AgainstReport {
    /// A line of a page.
    pub(super) fn text(&self) -> String {
        format!(
            "against {}: its layers {}, {} of weights at once, then layers of both {}, {} at once",
            self.model,
            self.residency.says(),
            ByteSize(self.weight_bytes),
            self.mixed_residency.says(),
            ByteSize(self.mixed_weight_bytes)
        )
    }
}
