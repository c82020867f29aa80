//! Everything that can be said about a healing, in one flat table.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::accuracy::BestBy;
use super::choices::{MergeOnto, Quant, Track, Train, TrainedLayers};
use super::distilling::DivergenceKind;
use super::hidden::HiddenStates;
use super::rollouts::RolloutTokens;
use super::schedule::{Decay, Schedule, warmup_steps};
use super::settled::{is_default, settled_packing};
use crate::Result;
use crate::arch::ModelSpec;
use crate::collective::{RANK_TIMEOUT, is_patient};
use crate::data::chat::{Form, LossOn};
use crate::data::{Attention, BadRow, Packing, Separator, Shape, SourceOptions, TextSplit};
use crate::ops::AdamW;
use crate::weights::lora::{LoraSettings, Patterns, RankSchedule, Targets};

/// Settings of `prune heal`. The defaults are those of the paper (arXiv 2403.17887, appendix A.1) where it has one for
/// all models.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default, remote = "Self")]
pub struct HealSettings {
    /// The cut model: directory or hub id.
    pub model: Option<String>,
    /// Texts to train on: each a file or a directory of files.
    #[serde(with = "crate::data::names")]
    pub data: Vec<String>,
    /// How much of the sequences comes from each of several texts; the same from each by default.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub weights: Vec<f64>,
    /// Directory of the results.
    pub out: Option<PathBuf>,

    /// The field that holds the text.
    pub text_field: String,
    /// How plain text files are cut into documents.
    pub text_split: TextSplit,
    /// What is done about a row that cannot be read.
    pub on_bad_row: BadRow,
    /// What rows hold: a text, or conversations in one of several forms; told by the rows where it is left open.
    #[serde(skip_serializing_if = "is_default")]
    pub form: Form,
    /// Which tokens of conversations are learned; those of the answers by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub loss_on: Option<LossOn>,
    /// A chat template to use in the place of the model's own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub chat_template: Option<PathBuf>,
    /// Tokens of a sequence, at most; 2048, or the model's positions where those are fewer.
    pub seq_len: Option<usize>,
    /// How documents become sequences: packed, and one a conversation.
    #[serde(serialize_with = "settled_packing")]
    pub packing: Option<Packing>,
    /// What stands between documents.
    pub separator: Separator,
    /// Whether documents of a packed sequence see each other.
    pub attention: Attention,
    /// Sequences are shuffled among so many that are read together; 1 keeps the order of the text.
    pub shuffle_window: usize,
    /// Text to measure the validation loss on.
    pub eval_data: Option<String>,
    /// The uncut model, to say how much of the damage is undone: directory or hub id. The teacher, or what `prune.json`
    /// names, where it is still there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reference: Option<String>,
    /// Sequences of it.
    pub eval_samples: usize,
    /// Steps between two validations; 0 validates at the end only.
    pub eval_every: usize,
    /// Tasks of questions with choices that the model is asked at each validation.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub eval_tasks: Vec<String>,
    /// Folder of task files in lm-evaluation-harness's YAML, whose names `eval_tasks` may have.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub eval_include_path: Option<PathBuf>,
    /// Folder (or, for a single task, file) with their data; the hub and its cache when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub eval_data_dir: Option<PathBuf>,
    /// First questions of each: a number, or a share when below 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub eval_limit: Option<f64>,
    /// Examples in front of each question; each task's own number when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub eval_few_shot: Option<usize>,
    /// Which validation is the best: that of the lowest `loss`, or that with the most right answers, `accuracy`.
    #[serde(skip_serializing_if = "is_default")]
    pub best_by: BestBy,
    /// Ends the run when so many validations in a row were no better than the best before them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub patience: Option<usize>,
    /// Writes what the last step gave, not what did best in validation.
    pub keep_last: bool,

    /// What is trained: `lora`; `layers`, those of `layers_to_transform` whole; or `lm-head+lastK`, the head, the final
    /// norm and the last K layers whole.
    pub train: Train,
    /// Rank of the adapters; `4..12` on a line from the lowest adapted layer to the highest.
    pub rank: RankSchedule,
    /// Strength of the adapters; equal to the rank by default, each layer's to its own.
    pub alpha: Option<f64>,
    /// Share of the adapters' inputs dropped in training.
    pub dropout: f64,
    /// Rank-stabilised scaling.
    pub rslora: bool,
    /// Magnitudes of each output beside the low-rank update (DoRA, arXiv 2402.09353).
    #[serde(skip_serializing_if = "is_default")]
    pub dora: bool,
    /// Adapted layers: `mlp`, `attention`, `all-linear` or names.
    pub target: Targets,
    /// The layers that have adapters, or are trained whole; all by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub layers_to_transform: Option<TrainedLayers>,
    /// Other ranks for modules by name.
    #[serde(skip_serializing_if = "Patterns::is_empty")]
    pub rank_pattern: Patterns<usize>,
    /// Other alphas for modules by name.
    #[serde(skip_serializing_if = "Patterns::is_empty")]
    pub alpha_pattern: Patterns<f64>,
    /// An adapter in PEFT's files to start from; it brings its own rank, alpha and targets.
    pub adapter: Option<PathBuf>,
    /// How the frozen weights are held.
    pub quant: Quant,
    /// Keeps the scales of four-bit weights in f32 instead of quantising them as well.
    pub plain_scales: bool,

    /// Optimiser steps.
    pub steps: usize,
    /// Sequences of a step.
    pub batch: usize,
    /// Tokens that go through the model together, unless one sequence is longer. Fewer take less memory; the result is
    /// the same but for rounding.
    pub pass_tokens: usize,
    /// The highest learning rate.
    pub lr: f64,
    /// How it goes after the warm-up.
    pub schedule: Decay,
    /// Steps of the warm-up, or, below 1, its share of all steps; 100, at most a tenth of the run.
    pub warmup: Option<f64>,
    /// AdamW: decay of the mean of the gradients.
    pub beta1: f64,
    /// AdamW: decay of the mean of their squares.
    pub beta2: f64,
    /// AdamW: added to the root of the latter.
    pub eps: f64,
    /// AdamW: share of a parameter that a step takes away, times the learning rate.
    pub weight_decay: f64,
    /// Gradients of a larger norm are scaled down to it; 0 does not.
    pub clip: f64,
    /// Seed of adapters, shuffle and dropout.
    pub seed: u64,

    /// The uncut model, to learn from: directory or hub id.
    pub teacher: Option<String>,
    /// Weight of the divergence from the teacher; what is left of 1 is that of the cross-entropy.
    pub teacher_weight: f64,
    /// Softens teacher's and model's distributions.
    pub temperature: f64,
    /// Which divergence: `kl`, that of the model from the teacher, which temperature squared scales; `reverse-kl`; or
    /// `jsd`, between the two. The latter are those of TRL's GKD, without that factor.
    #[serde(skip_serializing_if = "is_default")]
    pub divergence: DivergenceKind,
    /// Of `jsd`: the weight of the teacher in the mixture, above 0 and below 1; 0.5 by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub jsd_beta: Option<f64>,
    /// Streams that are held against the teacher's, squared differences added to the loss: `seam`, or layers, of which
    /// it is what enters them; the number of layers is what leaves the last.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hidden_states: Option<HiddenStates>,
    /// What the mean squared difference is multiplied with; 1 by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hidden_weight: Option<f64>,
    /// Share of the sequences that the model writes itself, from the beginnings of the text's; of these the divergence
    /// from the teacher alone is learned.
    #[serde(skip_serializing_if = "is_default")]
    pub on_policy: f64,
    /// Tokens that it writes at most: `64..512` begins with 64 and ends with 512 as its texts come to end in fewer
    /// repetitions.
    #[serde(skip_serializing_if = "is_default")]
    pub rollout_tokens: RolloutTokens,
    /// Of a plain text the first tokens, which it goes on with; 32 by default, at most half a sequence. Of a
    /// conversation it is all before the last answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prompt_tokens: Option<usize>,

    /// Steps between two saved states.
    pub save_every: usize,
    /// Writes its numbers for TensorBoard as well.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub track: Option<Track>,
    /// Writes the adapter alone, no merged model.
    pub adapter_only: bool,
    /// The weights that the adapter is merged onto.
    pub merge_onto: MergeOnto,
    /// Writes the base model in four bits as well.
    pub save_4bit: bool,
    /// Tensors of one weight file take no more than this, unless one alone does.
    pub max_shard_size: String,
    /// Goes on with an unfinished run although its text has changed since.
    pub data_changed: bool,
    /// Forgets the state of an unfinished run.
    pub restart: bool,
    /// Replaces an output that exists.
    pub force: bool,
    /// Computes memory, disk and time; trains nothing.
    pub dry_run: bool,
    /// Cap on memory: `8GiB`.
    pub memory: Option<String>,
    /// Seconds after which another process of the same training that nothing is heard of is taken for dead.
    #[serde(skip_serializing_if = "is_patient")]
    pub rank_timeout: u64,
    /// Where to compute: `auto`, `cpu`, `cuda`, `cuda:1`.
    pub device: String,
    /// What products with weights are computed in: `auto`, `bf16`, `f32`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dtype: Option<String>,
}

impl Default for HealSettings {
    fn default() -> Self {
        let (lora, adam) = (LoraSettings::default(), AdamW::default());
        Self {
            model: None,
            data: Vec::new(),
            weights: Vec::new(),
            out: None,
            text_field: "text".to_owned(),
            text_split: TextSplit::default(),
            on_bad_row: BadRow::default(),
            form: Form::default(),
            loss_on: None,
            chat_template: None,
            seq_len: None,
            packing: None,
            separator: Separator::default(),
            attention: Attention::default(),
            shuffle_window: 8192,
            eval_data: None,
            reference: None,
            eval_samples: 100,
            eval_every: 100,
            eval_tasks: Vec::new(),
            eval_include_path: None,
            eval_data_dir: None,
            eval_limit: None,
            eval_few_shot: None,
            best_by: BestBy::default(),
            patience: None,
            keep_last: false,
            train: Train::Lora,
            rank: lora.rank.into(),
            alpha: lora.alpha,
            dropout: lora.dropout,
            rslora: lora.rslora,
            dora: lora.dora,
            target: lora.targets,
            layers_to_transform: None,
            rank_pattern: Patterns::default(),
            alpha_pattern: Patterns::default(),
            adapter: None,
            quant: Quant::Nf4,
            plain_scales: false,
            steps: 5000,
            batch: 16,
            pass_tokens: 512,
            lr: 3e-4,
            schedule: Decay::Cosine,
            warmup: None,
            beta1: adam.beta1,
            beta2: adam.beta2,
            eps: adam.eps,
            weight_decay: adam.weight_decay,
            clip: 1.0,
            seed: 0,
            teacher: None,
            teacher_weight: 0.5,
            temperature: 1.0,
            divergence: DivergenceKind::default(),
            jsd_beta: None,
            hidden_states: None,
            hidden_weight: None,
            on_policy: 0.0,
            rollout_tokens: RolloutTokens::default(),
            prompt_tokens: None,
            save_every: 100,
            track: None,
            adapter_only: false,
            merge_onto: MergeOnto::Full,
            save_4bit: false,
            max_shard_size: "5GB".to_owned(),
            data_changed: false,
            restart: false,
            force: false,
            dry_run: false,
            memory: None,
            rank_timeout: RANK_TIMEOUT,
            device: "auto".to_owned(),
            dtype: None,
        }
    }
}

impl HealSettings {
    /// The adapters to make for the model `spec`.
    ///
    /// # Errors
    /// Request: as [`LoraSettings::with_ranks`].
    pub fn lora(&self, spec: &ModelSpec) -> Result<LoraSettings> {
        self.unspread().with_ranks(self.rank, spec)
    }

    /// The adapters to make, all of the lowest rank.
    pub(super) fn unspread(&self) -> LoraSettings {
        LoraSettings {
            rank: self.rank.bounds().0,
            alpha: self.alpha,
            dropout: self.dropout,
            rslora: self.rslora,
            dora: self.dora,
            targets: self.target.clone(),
            layers_to_transform: self.layers_to_transform.as_ref().and_then(TrainedLayers::named).cloned(),
            rank_pattern: self.rank_pattern.clone(),
            alpha_pattern: self.alpha_pattern.clone(),
        }
    }

    /// The optimiser's settings.
    #[must_use]
    pub fn adam(&self) -> AdamW {
        AdamW { beta1: self.beta1, beta2: self.beta2, eps: self.eps, weight_decay: self.weight_decay }
    }

    /// The learning rates.
    #[must_use]
    pub fn rates(&self) -> Schedule {
        let warmup = warmup_steps(self.warmup(), self.steps);
        Schedule { peak: self.lr, warmup, steps: self.steps, decay: self.schedule }
    }

    /// How documents are found in files.
    #[must_use]
    pub fn source(&self) -> SourceOptions {
        SourceOptions {
            field: self.text_field.clone(),
            split: self.text_split,
            on_bad_row: self.on_bad_row,
            ..SourceOptions::default()
        }
    }

    /// The shape of the sequences.
    #[must_use]
    pub fn shape(&self) -> Shape {
        Shape {
            seq_len: self.seq_len(),
            packing: self.packing(),
            separator: self.separator,
            attention: self.attention,
            ..Shape::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn from_a_file_and_back() {
        let text =
            "model = \"m\"\ntarget = [\"q_proj\"]\ntrain = \"lm-head+last3\"\nschedule = \"linear\"\nwarmup = 0.1";
        let settings: HealSettings = toml::from_str(text).unwrap();
        assert_eq!(settings.target, Targets::Modules(vec!["q_proj".into()]));
        assert_eq!((settings.train, settings.schedule, settings.batch), (Train::Last(3), Decay::Linear, 16));
        let json = serde_json::to_value(&settings).unwrap();
        // what is written says how documents became sequences
        let settings = HealSettings { packing: Some(Packing::Packed), ..settings };
        assert_eq!(serde_json::from_value::<HealSettings>(json).unwrap(), settings);
        assert!(toml::from_str::<HealSettings>("rnak = 3").unwrap_err().to_string().contains("rnak"));
        assert!(toml::from_str::<HealSettings>("train = \"head\"").unwrap_err().to_string().contains("lm-head+last3"));
    }
}
