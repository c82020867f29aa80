//! What a healing is measured with: the validation text, the models before and after, one at a time in memory.

use std::sync::Arc;

use candle_core::Device;

use super::heal_rows::shape_of;
use super::open;
use crate::arch::ModelSpec;
use crate::checkpoint::Checkpoint;
use crate::data::marked::learned;
use crate::data::{SequenceOptions, Sequences, TextSource, Tokenizer};
use crate::heal::{HealSettings, KnownLosses, Text, measurement};
use crate::model::{Budget, LoadOptions, Loss, Model, ModelOptions};
use crate::progress::Progress;
use crate::provenance::Provenance;
use crate::{Context, Error, Result};

/// The model before the cut.
pub(super) struct Uncut {
    pub(super) checkpoint: Arc<Checkpoint>,
    /// Named by the user, not found.
    pub(super) is_asked: bool,
}

impl Uncut {
    /// `--reference`, the teacher, or what the cut model's `prune.json` names, if it is still there.
    ///
    /// # Errors
    /// Request: a reference with another vocabulary, or that cannot be opened.
    pub(super) fn find(
        settings: &HealSettings,
        teacher: Option<&Arc<Checkpoint>>,
        (cut, spec): (&Checkpoint, &ModelSpec),
        progress: &dyn Progress,
    ) -> Result<Option<Self>> {
        if let Some(name) = &settings.reference {
            let checkpoint = open::computed(Some(name), progress).context(|| "--reference")?;
            let theirs =
                ModelSpec::from_config(&checkpoint.config).context(|| checkpoint.source.id.clone())?.vocab_size;
            if theirs != spec.vocab_size {
                let ours = spec.vocab_size;
                let fault = format!("--reference: its vocabulary has {theirs} tokens, the model's {ours}");
                return Err(Error::request(fault));
            }
            return Ok(Some(Self { checkpoint, is_asked: true }));
        }
        if let Some(teacher) = teacher {
            return Ok(Some(Self { checkpoint: teacher.clone(), is_asked: false }));
        }
        // a history that cannot be read, or whose model is gone or another one, is no reason not to heal
        let Ok(Some(history)) = Provenance::read(&cut.source.dir, spec.layers) else { return Ok(None) };
        let uncut = history.uncut();
        if uncut.layers == spec.layers && history.without.is_empty() && !history.is_rebuilt() {
            return Ok(None);
        }
        let found = open::local_checkpoint(&uncut.pinned()).ok();
        let same = found.filter(|found| found.fingerprint() == uncut.fingerprint);
        Ok(same.map(|checkpoint| Self { checkpoint: Arc::new(checkpoint), is_asked: false }))
    }
}

/// Where models are measured, one at a time.
pub(super) struct Gauge<'a> {
    /// Which tokens these are.
    pub(super) text: Text,
    /// The sequences.
    pub(super) rows: Vec<Vec<u32>>,
    device: Device,
    budget: Budget,
    progress: &'a dyn Progress,
}

impl<'a> Gauge<'a> {
    /// Reads the first sequences of `source`, of the shape that training has.
    ///
    /// # Errors
    /// Work: too little text, or a broken file.
    pub(super) fn new(
        source: &TextSource,
        tokenizer: &Tokenizer,
        settings: &HealSettings,
        (device, budget): (Device, Budget),
        progress: &'a dyn Progress,
    ) -> Result<Self> {
        let shape = shape_of(settings, source);
        let options = SequenceOptions { samples: Some(settings.eval_samples), shape, seed: None };
        let rows = Sequences::read(source, tokenizer, &options, progress)?.rows;
        let text = Text {
            source: source.name().to_owned(),
            sequences: rows.len(),
            seq_len: shape.seq_len,
            packing: shape.packing,
            tokens: rows.iter().map(Vec::len).sum(),
            answer_tokens: source.chat().map(|_| rows.iter().map(|row| learned(row)).sum()),
        };
        if rows.iter().all(|row| row.len() < 2) {
            return Err(Error::work(format!("{}: no sequence has a second token to predict", text.source)));
        }
        Ok(Self { text, rows, device, budget, progress })
    }

    /// The losses of `checkpoint` with `load_options`.
    ///
    /// # Errors
    /// Request: a budget that is too small for the model. Work: values that are not finite, files that cannot be read.
    pub(super) fn losses(
        &self,
        checkpoint: &Arc<Checkpoint>,
        load_options: LoadOptions,
        what: &str,
    ) -> Result<Vec<Loss>> {
        let options =
            ModelOptions { device: self.device.clone(), budget: self.budget, load_options, ..ModelOptions::default() };
        let place = || format!("measuring the {what} model");
        let model = Model::open(checkpoint.clone(), &options, self.progress).context(place)?;
        model.losses(&self.rows, model.pass_tokens(0), &format!("loss, {what}"), self.progress).context(place)
    }

    /// The losses of a model as it lies on disk, known by `identity`, unless they are `known` already.
    ///
    /// # Errors
    /// As [`Gauge::losses`].
    pub(super) fn stored(
        &self,
        checkpoint: &Arc<Checkpoint>,
        identity: &str,
        what: &str,
        known: &mut KnownLosses,
    ) -> Result<Vec<Loss>> {
        let name = measurement(identity, &self.rows);
        if let Some(losses) = known.get(&name) {
            return Ok(losses.clone());
        }
        let losses = self.losses(checkpoint, LoadOptions::default(), what)?;
        known.insert(name, losses.clone());
        Ok(losses)
    }
}
