//! What every process of a healing opens: the model, its teacher, an adapter; and what training will take.

use std::path::Path;
use std::sync::Arc;

use candle_core::Device;
use serde_json::{Map, Value, json};

use super::heal_group::{GroupReport, beside, own_device};
use super::heal_record::sample_hash;
use super::open;
use super::taught::Taught;
use crate::arch::ModelSpec;
use crate::checkpoint::{Checkpoint, Workplace};
use crate::collective::ProcessGroup;
use crate::heal::{Estimate, HealSettings, StreamPair, TeacherSize, WorkDir, estimate};
use crate::model::Budget;
use crate::progress::Progress;
use crate::provenance::Provenance;
use crate::weights::lora::Adapters;
use crate::{Context, Error, Result};

/// A healing's models, open.
pub(super) struct Opened {
    /// With what was left open decided, the text's shape apart.
    pub(super) settings: HealSettings,
    pub(super) checkpoint: Arc<Checkpoint>,
    pub(super) spec: ModelSpec,
    pub(super) device: Device,
    pub(super) budget: Budget,
    pub(super) taught: Option<Taught>,
    pub(super) adapter: Option<Adapters>,
    /// Depths of the model that are held against the teacher's.
    pub(super) pairs: Vec<StreamPair>,
    pub(super) plan: Estimate,
    pub(super) group: Option<GroupReport>,
}

impl Opened {
    /// Opens what `settings` name, to train on it alone or in a group; `place` is where an unfinished run may lie.
    ///
    /// # Errors
    /// Request: settings that do not fit the model, an adapter for another model, a healing that does not fit in
    /// memory. Work: broken files.
    pub(super) fn new(
        settings: &HealSettings,
        place: Option<&Workplace>,
        group: Option<&ProcessGroup>,
        progress: &dyn Progress,
    ) -> Result<Self> {
        let checkpoint = open::computed(settings.model.as_deref(), progress)?;
        let spec = ModelSpec::from_config(&checkpoint.config).context(|| checkpoint.source.id.clone())?;
        spec.check(&checkpoint.index)?;
        let choice = if group.is_some() { own_device(&settings.device)? } else { settings.device.clone() };
        let device = open::device(Some(&choice), settings.dtype.as_deref(), progress)?;
        let budget = open::budget_beside_tokenizer(settings.memory.as_deref(), &device, &checkpoint)?;
        let taught = Taught::open(settings, progress)?;
        if device.is_cuda() && matches!(taught, Some(Taught::Cache(_))) {
            return Err(Error::request(
                "a cached teacher is learned from on a CPU: --device cpu, or name the model itself",
            ));
        }
        if let Some(taught) = &taught {
            taught.check_model(settings, &spec)?;
        }
        let adapter = settings.adapter.as_deref().map(|dir| trainable(dir, &checkpoint, &spec, &device)).transpose();
        let adapter = adapter.context(|| "--adapter")?;
        let (mut settings, said) = settled(settings, adapter.as_ref()).settled(spec.max_positions);
        said.iter().for_each(|warning| progress.warn(warning));
        if settings.dora && device.is_cuda() {
            return Err(Error::request("dora is not trained on a GPU: --device cpu, or leave --dora out"));
        }
        let history = Provenance::read(&checkpoint.source.dir, spec.layers).ok().flatten();
        settings = settings.with_inserted(history.as_ref().map_or(&[], |history| &history.inserted))?;
        let pairs = taught.as_ref().map(|taught| taught.pairs(&settings, &spec, history.as_ref()));
        let pairs = pairs.transpose()?.unwrap_or_default();
        if let Some(history) = history.filter(|history| history.format() == Some("zeros")) {
            progress.warn(&format!(
                "what was left out ({}) is zeros here, and training brings it back; cut with --format per-layer to \
                 heal without",
                history.gone()
            ));
        }
        let teacher_size = taught.as_ref().map(Taught::size).unwrap_or_default();
        let teacher_size = TeacherSize { streams: pairs.len(), ..teacher_size };
        let unfinished = place.filter(|place| !settings.restart && WorkDir::check(place).is_ok());
        let held = unfinished.map(|place| WorkDir::peek(place.target())).transpose()?.flatten();
        let held = held.and_then(|held| held.policy);
        let group = group.map(|group| GroupReport::new(group, (&settings, &spec), &device, progress)).transpose()?;
        let budget = beside(budget, &settings, group.as_ref());
        let plan = estimate(&checkpoint, &spec, &settings, (&device, budget), teacher_size, held)?;
        Ok(Self { settings, checkpoint, spec, device, budget, taught, adapter, pairs, plan, group })
    }

    /// What says whether two processes train the same.
    ///
    /// # Errors
    /// Work: a file that cannot be read.
    pub(super) fn identity(&self) -> Result<Map<String, Value>> {
        let mut identity = self.settings.deciding();
        identity.insert("version".to_owned(), json!(env!("CARGO_PKG_VERSION")));
        identity.insert("model_is".to_owned(), json!(sample_hash(&self.checkpoint)?));
        // one whose GPU cannot be used would compute on the CPU, other bytes
        identity.insert("device_is".to_owned(), json!(if self.device.is_cpu() { "a CPU" } else { "a GPU" }));
        match &self.taught {
            Some(Taught::Model(teacher)) => {
                identity.insert("teacher_is".to_owned(), json!(sample_hash(teacher)?));
            }
            Some(Taught::Cache(cache)) => {
                identity.insert("teacher_is".to_owned(), Value::Object(cache.record.settings.clone()));
            }
            None => {}
        }
        Ok(identity)
    }
}

/// The adapter in `dir`, which training goes on from.
fn trainable(dir: &Path, checkpoint: &Checkpoint, spec: &ModelSpec, device: &Device) -> Result<Adapters> {
    let adapters = Adapters::open_for(dir, checkpoint, spec, device)?;
    adapters.check_plain().context(|| dir.display())?;
    Ok(adapters)
}

/// With the rank, strength and targets of the adapter that training starts from.
pub(super) fn settled(settings: &HealSettings, adapter: Option<&Adapters>) -> HealSettings {
    let mut settings = settings.clone();
    if let Some(Adapters { settings: own, .. }) = adapter {
        (settings.rank, settings.alpha) = (own.rank.into(), own.alpha);
        (settings.rslora, settings.dora) = (own.rslora, own.dora);
        settings.rank_pattern.clone_from(&own.rank_pattern);
        settings.alpha_pattern.clone_from(&own.alpha_pattern);
        settings.target = own.targets.clone();
    }
    settings
}
