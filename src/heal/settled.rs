//! What the user left open, decided for the model and the length of the run.

use std::collections::BTreeSet;

use serde::{Serialize, Serializer};

use super::choices::{Train, TrainedLayers};
use super::settings::HealSettings;
use crate::data::Packing;
use crate::{Error, Result};

/// Tokens of a sequence where neither the user nor the model says less.
const SEQ_LEN: usize = 2048;

/// Steps of the warm-up, the paper's; at most one in [`WARMUP_SHARE`] of the run.
const WARMUP: usize = 100;
const WARMUP_SHARE: usize = 10;

/// How plain texts become sequences.
const PACKING: Packing = Packing::Packed;

/// Whether a setting says nothing: records of plain healings are what they were before it came.
pub(super) fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// A record says what was done, not what was left open.
pub(super) fn settled_packing<S: Serializer>(
    packing: &Option<Packing>,
    serializer: S,
) -> std::result::Result<S::Ok, S::Error> {
    packing.unwrap_or(PACKING).serialize(serializer)
}

impl HealSettings {
    /// Tokens of a sequence, at most.
    #[must_use]
    pub fn seq_len(&self) -> usize {
        self.seq_len.unwrap_or(SEQ_LEN)
    }

    /// How documents become sequences, where nobody said otherwise of plain text.
    #[must_use]
    pub fn packing(&self) -> Packing {
        self.packing.unwrap_or(PACKING)
    }

    /// Steps of the warm-up, or its share.
    pub(super) fn warmup(&self) -> f64 {
        self.warmup.unwrap_or_else(|| WARMUP.min(self.steps / WARMUP_SHARE) as f64)
    }

    /// With what was left open decided for a model made for `positions`; and what there is to say of what was not.
    #[must_use]
    pub fn settled(&self, positions: usize) -> (Self, Vec<String>) {
        let mut said = Vec::new();
        if let Some(asked) = self.seq_len.filter(|asked| *asked > positions) {
            said.push(format!("seq_len {asked} is longer than the {positions} positions the model was made for"));
        }
        let (steps, lr) = (self.steps, self.lr);
        if let Some(asked) = self.warmup.filter(|asked| *asked >= 1.0 && *asked >= steps as f64) {
            said.push(format!(
                "warmup {asked} is as long as all {steps} steps: the learning rate never reaches {lr:e}"
            ));
        }
        let seq_len = self.seq_len.unwrap_or_else(|| SEQ_LEN.min(positions));
        (Self { seq_len: Some(seq_len), warmup: Some(self.warmup()), ..self.clone() }, said)
    }
}

impl HealSettings {
    /// With the layers that were `inserted` named where they are to be trained.
    ///
    /// # Errors
    /// Request: there are none.
    pub fn with_inserted(mut self, inserted: &[usize]) -> Result<Self> {
        if self.layers_to_transform != Some(TrainedLayers::Inserted) {
            return Ok(self);
        }
        if inserted.is_empty() {
            return Err(Error::request(
                "layers_to_transform is inserted, and the model's prune.json tells of no inserted layers: name them by \
                 number, such as 2,5,8",
            ));
        }
        self.layers_to_transform = Some(TrainedLayers::Named(inserted.iter().copied().collect()));
        Ok(self)
    }

    /// The layers of a model of `layers` that are trained whole, ascending.
    pub(super) fn whole_layers(&self, layers: usize) -> BTreeSet<usize> {
        match self.train {
            Train::Lora => BTreeSet::new(),
            Train::Last(last) => (layers.saturating_sub(last)..layers).collect(),
            Train::Layers => match self.layers_to_transform.as_ref().and_then(TrainedLayers::named) {
                Some(named) => named.iter().collect(),
                // at most, as long as nobody knows which
                None => (0..layers).collect(),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_open_suits_model_and_run() {
        let settled = |text: &str| toml::from_str::<HealSettings>(text).unwrap().settled(512);
        let (settings, said) = settled("steps = 5000");
        assert_eq!((settings.seq_len, settings.rates().warmup, said.len()), (Some(512), 100, 0));
        assert_eq!(HealSettings::default().settled(8192).0.seq_len, Some(2048));
        assert_eq!(settled("steps = 60").0.rates().warmup, 6);
        assert_eq!(settled("steps = 9").0.warmup, Some(0.0));
        let (settings, said) = settled("steps = 60\nseq_len = 1024\nwarmup = 60");
        assert_eq!((settings.seq_len(), settings.rates().warmup), (1024, 60));
        assert!(said[0].contains("512 positions") && said[1].contains("warmup 60"), "{said:?}");
        assert!(settled("steps = 60\nwarmup = 59").1.is_empty() && settled("warmup = 0.03").1.is_empty());
    }

    #[test]
    fn inserted_layers_get_their_numbers() {
        let settings = |text: &str| toml::from_str::<HealSettings>(text).unwrap();
        let inserted = settings("layers_to_transform = \"inserted\"\ntrain = \"layers\"");
        inserted.check().unwrap();
        assert_eq!(inserted.whole_layers(3), [0, 1, 2].into());
        assert!(inserted.clone().with_inserted(&[]).unwrap_err().to_string().contains("no inserted layers"));
        let named = inserted.with_inserted(&[2, 5]).unwrap();
        assert_eq!(named, settings("layers_to_transform = [2, 5]\ntrain = \"layers\""));
        assert_eq!(named.whole_layers(8), [2, 5].into());
        assert_eq!(serde_json::to_value(&named).unwrap()["layers_to_transform"], serde_json::json!([2, 5]));
        assert_eq!(settings("train = \"lm-head+last2\"").whole_layers(8), [6, 7].into());
        assert!(settings("").whole_layers(8).is_empty());
    }
}
