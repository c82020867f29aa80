//! The models of a training, in memory.

use std::sync::Arc;

use candle_core::Device;

use super::taught::Taught;
use crate::Result;
use crate::arch::ModelSpec;
use crate::checkpoint::Checkpoint;
use crate::collective::{Alone, Collective, ProcessGroup};
use crate::distill::TeacherCache;
use crate::heal::{HealSettings, StreamPair, Train, Trainer, load_options};
use crate::model::{Budget, CheckpointingPolicy, Model, ModelOptions, Residency};
use crate::progress::Progress;
use crate::weights::lora::Adapters;

/// The model in training, and whom it learns from.
pub(super) struct Training {
    pub(super) model: Model,
    pub(super) adapters: Option<Arc<Adapters>>,
    tutor: Option<Model>,
    cache: Option<Box<TeacherCache>>,
}

impl Training {
    /// Reads the models, the experts of a mixture only when tokens are sent to them where that is said; an `adapter` is
    /// gone on from.
    ///
    /// # Errors
    /// Request: they do not fit in memory. Work: broken files.
    pub(super) fn open(
        (checkpoint, spec): (&Arc<Checkpoint>, &ModelSpec),
        settings: &HealSettings,
        (device, budget, experts_on_disk): (&Device, Budget, bool),
        (adapter, teacher): (Option<Adapters>, Option<Taught>),
        progress: &dyn Progress,
    ) -> Result<Self> {
        let is_fresh = adapter.is_none();
        let adapters = match (settings.train, adapter) {
            (Train::Lora, Some(adapters)) => Some(adapters),
            (Train::Lora, None) => Some(Adapters::new(spec, &settings.lora(spec)?, settings.seed, device)?),
            (Train::Last(_) | Train::Layers, _) => None,
        };
        let adapters = adapters.map(Arc::new);
        let mut load_options = load_options(spec, settings);
        load_options.adapters.clone_from(&adapters);
        load_options.experts_on_disk = experts_on_disk;
        let options = ModelOptions {
            device: device.clone(),
            budget,
            load_options,
            residency: Some(Residency::Resident),
            rows_on_host: true,
            ..ModelOptions::default()
        };
        let model = Model::open(checkpoint.clone(), &options, progress)?;
        if is_fresh {
            model.begin_magnitudes()?;
        }
        let (tutor, cache) = match teacher {
            Some(Taught::Model(teacher)) => {
                let options = ModelOptions { device: device.clone(), budget, ..ModelOptions::default() };
                (Some(Model::open(teacher, &options, progress)?), None)
            }
            Some(Taught::Cache(cache)) => (None, Some(cache)),
            None => (None, None),
        };
        Ok(Self { model, adapters, tutor, cache })
    }

    /// What trains it, in a group or alone.
    ///
    /// # Errors
    /// As [`Trainer::new`].
    pub(super) fn trainer<'a>(
        &'a self,
        settings: &HealSettings,
        policy: CheckpointingPolicy,
        pairs: Vec<StreamPair>,
        group: Option<&'a ProcessGroup>,
    ) -> Result<Trainer<'a>> {
        let trainer = Trainer::new(&self.model, self.tutor.as_ref(), settings, policy)?.held_to(pairs);
        let trainer = match &self.cache {
            Some(cache) => trainer.taught_by(&**cache),
            None => trainer,
        };
        Ok(trainer.together(group.map_or(&Alone as &dyn Collective, |group| group)))
    }
}
