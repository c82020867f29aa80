//! What can be said about a generation.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::data::chat::Form;
use crate::data::{BadRow, SourceOptions, TextSplit};
use crate::model::SamplingParams;
use crate::{Error, Result};

/// What becomes of texts that were long enough before the model ended them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum CutOff {
    /// They are written as they are.
    #[default]
    Keep,
    /// They are left out.
    Drop,
}

/// Settings of `prune generate`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct GenerateSettings {
    /// Model: directory or hub id.
    pub model: Option<String>,
    /// What it goes on with: a file or a directory of files.
    pub prompts: Option<String>,
    /// So many texts that begin with nothing.
    pub from_bos: Option<usize>,
    /// The file to write.
    pub out: Option<PathBuf>,
    /// Adapter on top of the model, in PEFT's files.
    pub adapter: Option<PathBuf>,
    /// The field that holds the text.
    pub text_field: String,
    /// How plain text files are cut into documents.
    pub text_split: TextSplit,
    /// What is done about a row that cannot be read or is too long.
    pub on_bad_row: BadRow,
    /// What rows hold: told by the rows where it is left open.
    pub form: Form,
    /// A chat template to use in the place of the model's own.
    pub chat_template: Option<PathBuf>,
    /// Rows at most.
    pub limit: Option<usize>,
    /// Of a text its first tokens are the prompt.
    pub prompt_tokens: Option<usize>,
    /// New tokens of a text at most.
    pub tokens: usize,
    /// Texts of each prompt.
    pub samples: usize,
    /// Divides the logits; 0 takes the likeliest token each time.
    pub temperature: f64,
    /// Draws among so many of the likeliest tokens.
    pub top_k: Option<usize>,
    /// Draws among the likeliest tokens that together have this probability.
    pub top_p: Option<f64>,
    /// Draws among tokens of at least this share of the likeliest one's probability.
    pub min_p: Option<f64>,
    /// Seed of the draws.
    pub seed: u64,
    /// What becomes of texts that the model did not end.
    pub cut_off: CutOff,
    /// Texts at a time.
    pub batch: usize,
    /// Forgets the texts of an unfinished run.
    pub restart: bool,
    /// Replaces an output that exists.
    pub force: bool,
    /// Computes memory and time; generates nothing.
    pub dry_run: bool,
    /// Where it computes: `auto`, `cpu`.
    pub device: Option<String>,
    /// What products with weights are computed in: `auto`, `bf16`, `f32`.
    pub dtype: Option<String>,
    /// Cap on memory, such as `8GiB`.
    pub memory: Option<String>,
}

impl Default for GenerateSettings {
    fn default() -> Self {
        Self {
            model: None,
            prompts: None,
            from_bos: None,
            out: None,
            adapter: None,
            text_field: "text".to_owned(),
            text_split: TextSplit::default(),
            on_bad_row: BadRow::default(),
            form: Form::default(),
            chat_template: None,
            limit: None,
            prompt_tokens: None,
            tokens: 256,
            samples: 1,
            temperature: 1.0,
            top_k: None,
            top_p: None,
            min_p: None,
            seed: 0,
            cut_off: CutOff::default(),
            batch: 8,
            restart: false,
            force: false,
            dry_run: false,
            device: None,
            dtype: None,
            memory: None,
        }
    }
}

/// Settings that do not change what is said.
const FREE: [&str; 9] = ["out", "cut_off", "batch", "restart", "force", "dry_run", "device", "memory", "on_bad_row"];

impl GenerateSettings {
    /// Refuses what cannot be done, whatever the model.
    ///
    /// # Errors
    /// Request: names the setting, what it is and what was expected.
    pub fn check(&self) -> Result<()> {
        let given = |(name, count): (&'static str, Option<usize>)| Some((name, count?));
        let counts = [
            ("from_bos", self.from_bos),
            ("limit", self.limit),
            ("prompt_tokens", self.prompt_tokens),
            ("tokens", Some(self.tokens)),
            ("samples", Some(self.samples)),
            ("batch", Some(self.batch)),
        ];
        if let Some((name, _)) = counts.into_iter().filter_map(given).find(|(_, count)| *count == 0) {
            return Err(Error::request(format!("{name} is 0, expected 1 or more")));
        }
        match (&self.prompts, self.from_bos) {
            (Some(_), Some(_)) => return Err(Error::request("prompts and from_bos exclude each other: give one")),
            (None, None) => {
                return Err(Error::request("what to go on with? name rows with --prompts, or give --from-bos N"));
            }
            _ => {}
        }
        self.sampling().drawer()?;
        if self.temperature == 0.0 && self.texts_of_a_prompt()? > 1 {
            let fault = "temperature is 0: all texts of a prompt would be the same; give one above 0";
            return Err(Error::request(fault));
        }
        Ok(())
    }

    /// How tokens are drawn.
    #[must_use]
    pub fn sampling(&self) -> SamplingParams {
        let GenerateSettings { temperature, top_k, top_p, min_p, seed, .. } = *self;
        SamplingParams { temperature: Some(temperature), top_k, top_p, min_p, seed }
    }

    /// Texts of each prompt; nothing is a prompt as well.
    ///
    /// # Errors
    /// Request: more than can be counted.
    pub fn texts_of_a_prompt(&self) -> Result<usize> {
        let texts = self.samples.checked_mul(self.from_bos.unwrap_or(1));
        texts.ok_or_else(|| Error::request("from_bos times samples is more than can be counted"))
    }

    /// How prompts are found in files.
    #[must_use]
    pub fn source(&self) -> SourceOptions {
        SourceOptions {
            field: self.text_field.clone(),
            split: self.text_split,
            on_bad_row: self.on_bad_row,
            ..SourceOptions::default()
        }
    }

    /// The settings that decide what is said, by name.
    #[must_use]
    pub fn deciding(&self) -> Map<String, Value> {
        let Ok(Value::Object(mut map)) = serde_json::to_value(self) else { return Map::new() };
        map.retain(|name, value| !FREE.contains(&name.as_str()) && !value.is_null());
        map
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn impossible_settings_are_named() {
        for (text, name) in [
            ("", "--prompts"),
            ("prompts = \"p\"\nfrom_bos = 2", "exclude"),
            ("from_bos = 0", "from_bos"),
            ("prompts = \"p\"\ntokens = 0", "tokens"),
            ("prompts = \"p\"\nbatch = 0", "batch"),
            ("prompts = \"p\"\nsamples = 2\ntemperature = 0.0", "temperature"),
            ("from_bos = 2\ntemperature = 0.0", "temperature"),
            ("prompts = \"p\"\ntop_p = 1.5", "--top-p"),
            ("prompts = \"p\"\ntop_k = 3\ntemperature = 0.0", "--temperature"),
        ] {
            let error = toml::from_str::<GenerateSettings>(text).unwrap().check().unwrap_err();
            assert!(error.to_string().contains(name) && error.exit_code() == 2, "{error}");
        }
        let settings: GenerateSettings = toml::from_str("prompts = \"p\"\ntemperature = 0.0").unwrap();
        settings.check().unwrap();
        let deciding = settings.deciding();
        assert!(deciding.contains_key("seed") && FREE.iter().all(|name| !deciding.contains_key(*name)));
    }
}
