//! What can be said about a teacher that is asked beforehand: the text as a healing reads it, and what is kept.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::data::chat::{Form, LossOn};
use crate::data::{Attention, BadRow, Packing, Separator, TextSplit};
use crate::heal::HealSettings;
use crate::{Error, Result};

/// Settings of `prune teach`. Those of the text have the names and defaults that `prune heal` has.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TeachSettings {
    /// The teacher: directory or hub id.
    pub model: Option<String>,
    /// Texts that will be trained on.
    #[serde(with = "crate::data::names")]
    pub data: Vec<String>,
    /// How much of the sequences comes from each of several texts.
    pub weights: Vec<f64>,
    /// Directory of the cache.
    pub out: Option<PathBuf>,
    /// The field that holds the text.
    pub text_field: String,
    /// How plain text files are cut into documents.
    pub text_split: TextSplit,
    /// What is done about a row that cannot be read.
    pub on_bad_row: BadRow,
    /// What rows hold.
    pub form: Form,
    /// Which tokens of conversations are learned.
    pub loss_on: Option<LossOn>,
    /// A chat template to use in the place of the model's own.
    pub chat_template: Option<PathBuf>,
    /// Tokens of a sequence, at most.
    pub seq_len: Option<usize>,
    /// How documents become sequences.
    pub packing: Option<Packing>,
    /// What stands between documents.
    pub separator: Separator,
    /// Whether documents of a packed sequence see each other.
    pub attention: Attention,
    /// Sequences are shuffled among so many that are read together.
    pub shuffle_window: usize,
    /// Steps of the healing.
    pub steps: usize,
    /// Sequences of a step.
    pub batch: usize,
    /// Seed of the shuffle.
    pub seed: u64,
    /// Likeliest tokens that are kept at each place.
    pub top_k: usize,
    /// Softens the teacher's distributions.
    pub temperature: f64,
    /// Replaces a cache that exists.
    pub force: bool,
    /// Computes sizes; asks nothing.
    pub dry_run: bool,
    /// Where it computes: `auto`, `cpu`.
    pub device: Option<String>,
    /// What products with weights are computed in: `auto`, `bf16`, `f32`.
    pub dtype: Option<String>,
    /// Cap on memory, such as `8GiB`.
    pub memory: Option<String>,
}

impl Default for TeachSettings {
    fn default() -> Self {
        let heal = HealSettings::default();
        Self {
            model: None,
            data: heal.data,
            weights: heal.weights,
            out: None,
            text_field: heal.text_field,
            text_split: heal.text_split,
            on_bad_row: heal.on_bad_row,
            form: heal.form,
            loss_on: heal.loss_on,
            chat_template: heal.chat_template,
            seq_len: heal.seq_len,
            packing: heal.packing,
            separator: heal.separator,
            attention: heal.attention,
            shuffle_window: heal.shuffle_window,
            steps: heal.steps,
            batch: heal.batch,
            seed: heal.seed,
            top_k: 64,
            temperature: heal.temperature,
            force: false,
            dry_run: false,
            device: None,
            dtype: None,
            memory: None,
        }
    }
}

impl TeachSettings {
    /// Refuses what cannot be done, whatever the model.
    ///
    /// # Errors
    /// Request: names the setting, what it is and what was expected.
    pub fn check(&self) -> Result<()> {
        if self.top_k == 0 {
            return Err(Error::request("top_k is 0, expected 1 or more"));
        }
        self.healing().check()
    }

    /// The healing whose sequences these are.
    #[must_use]
    pub fn healing(&self) -> HealSettings {
        HealSettings {
            data: self.data.clone(),
            weights: self.weights.clone(),
            text_field: self.text_field.clone(),
            text_split: self.text_split,
            on_bad_row: self.on_bad_row,
            form: self.form,
            loss_on: self.loss_on,
            chat_template: self.chat_template.clone(),
            seq_len: self.seq_len,
            packing: self.packing,
            separator: self.separator,
            attention: self.attention,
            shuffle_window: self.shuffle_window,
            steps: self.steps,
            batch: self.batch,
            seed: self.seed,
            temperature: self.temperature,
            ..HealSettings::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_teacher_reads_what_a_healing_reads() {
        let text = "data = [\"a\", \"b\"]\nweights = [1, 3]\nseq_len = 64\npacking = \"document\"\nattention = \"within\"\n\
                    shuffle_window = 9\nsteps = 7\nbatch = 3\nseed = 5\ntemperature = 2.0\nloss_on = \"all\"\n\
                    separator = \"eos\"\nform = \"alpaca\"\ntext_field = \"t\"\ntext_split = \"lines\"\n\
                    on_bad_row = \"skip\"\nchat_template = \"c\"\n";
        let (teach, heal): (TeachSettings, HealSettings) =
            (toml::from_str(text).unwrap(), toml::from_str(text).unwrap());
        assert_eq!(teach.healing(), heal);
        assert_eq!(TeachSettings::default().healing(), HealSettings::default());
        for (text, name) in [("top_k = 0", "top_k"), ("steps = 0", "steps"), ("temperature = 0.0", "temperature")] {
            let error = toml::from_str::<TeachSettings>(text).unwrap().check().unwrap_err();
            assert!(error.to_string().contains(name) && error.exit_code() == 2, "{error}");
        }
    }
}
