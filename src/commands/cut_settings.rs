//! Settings of `prune cut`: what goes, how it is written, what repairs it.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::checkpoint::Checkpoint;
use crate::data::{Attention, BadRow, Packing, Separator, TextSplit};
use crate::export::StoredAs;
use crate::methods::{KeepShare, Method};
use crate::repair::{LayerTraining, REPAIRS, Repair};
use crate::surgery::Target;
use crate::{Context, Error, Result};

/// What a cut is written as.
pub(super) enum Written {
    /// Safetensors.
    Safetensors,
    /// A GGUF file with the blocks of one.
    Copied,
    /// A GGUF file with its matrices in this type.
    Stored(&'static StoredAs),
}

/// Settings of `prune cut`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CutSettings {
    /// Directory or hub id.
    pub model: Option<String>,
    /// Directory of the new checkpoint; a dry run may do without.
    pub out: Option<PathBuf>,
    /// Plan file, or an `analysis.json` with a plan.
    pub plan: Option<PathBuf>,
    /// What to drop, such as `21-28,attn:30`; 0-based, inclusive.
    pub drop: Option<String>,
    /// Drops this many layers below the last.
    pub deepest: Option<usize>,
    /// Drops this many layers, the last one included.
    pub tail: Option<usize>,
    /// The method that chooses; with an analysis as `plan` where it chooses by scores.
    pub method: Option<&'static Method>,
    /// Share of the layers to drop: with an analysis as `plan`, its best choice of that size; alone, the deepest.
    pub fraction: Option<f64>,
    /// Layers to drop: with an analysis as `plan`, its best choice of so many, or what `method` says.
    pub layers: Option<usize>,
    /// The model that this one was cut of before, with `repair`: nothing is dropped, and what is left, trained since or
    /// not, is made to follow it.
    pub whole: Option<String>,
    /// What the model may have at most: as many layers go as that takes, as with `layers`, or alone the deepest.
    pub target: Option<Target>,
    /// What the loss may rise by: with an analysis as `plan` that measured it, its largest choice within that.
    pub max_loss: Option<f64>,
    /// The share of the accuracy that is to stay: with an analysis as `plan` that measured it, its largest choice that
    /// holds it.
    pub keep: Option<KeepShare>,
    /// Tensors of one weight file take no more than this, unless one alone does: `5GB`, `2GiB`.
    pub max_shard_size: String,
    /// Container of the new checkpoint, `safetensors` or `gguf`, which a recipe takes of a GGUF file alone; `None` is
    /// the source's.
    pub to: Option<String>,
    /// Type of the matrices of a GGUF file that is made of another model; `None` is the model's, or f32.
    pub r#type: Option<String>,
    /// How missing sub-layers are written: `per-layer`, `nas` or `zeros`; needed where some are left out.
    pub format: Option<String>,
    /// Config keys that stay although they look as if they had one value per layer: a name, or a path with dots.
    pub allow_unsliced: Vec<String>,
    /// What is put at the seams, without training or by training single layers; most take `data`.
    pub repair: Option<&'static Repair>,
    /// Whether layers go one after the other, the model repaired and scored anew between them.
    pub one_at_a_time: bool,
    /// How alike merges have to leave the final states, for a method that merges.
    pub threshold: Option<f64>,
    /// Layers that become one at a time; `None` is 4.
    pub merge_layers: Option<usize>,
    /// Layers to go down by after a merge that stays; `None` is 1.
    pub interval: Option<usize>,
    /// Where the text is that a repair is fitted on, layers that go one at a time are scored on, merges are judged on.
    pub data: Option<String>,
    /// Field of the rows that holds the text.
    pub text_field: String,
    /// How plain text files are cut into documents.
    pub text_split: TextSplit,
    /// What is done about a row that cannot be read.
    pub on_bad_row: BadRow,
    /// Sequences at most, every fourth of which judges; `None` is 128.
    pub samples: Option<usize>,
    /// Tokens of a sequence at most; `None` is 2048 or the model's context, whichever is less.
    pub seq_len: Option<usize>,
    /// One sequence a document, or documents joined and cut.
    pub packing: Packing,
    /// What stands between documents.
    pub separator: Separator,
    /// Whether documents of a packed sequence see each other.
    pub attention: Attention,
    /// Takes documents at random; `None` takes the first ones.
    pub seed: Option<u64>,
    /// The first token of each sequence takes no part in the fit of a repair.
    pub leave_out_first: bool,
    /// Rank of the map of `reduced-rank`; `None` is 64, or the width of the stream where that is less.
    pub rank: Option<usize>,
    /// Learning rate of a repair that trains layers; `None` is its paper's.
    pub lr: Option<f64>,
    /// Its steps for each layer; `None` is 300.
    pub steps: Option<usize>,
    /// Its sequences a step; `None` is 16, or all that fit where those are fewer.
    pub batch: Option<usize>,
    /// Forgets a training of layers that was stopped.
    pub restart: bool,
    /// Where a repair is computed: `auto`, `cpu`, `cuda`, `cuda:1`.
    pub device: Option<String>,
    /// What products with weights are computed in: `auto`, `bf16`, `f32`.
    pub dtype: Option<String>,
    /// Cap on memory of a repair.
    pub memory: Option<String>,
    /// Hashes the source's weight files whole, which reads them once more.
    pub hash: bool,
    /// Compares what was written with the source before it appears.
    pub verify: bool,
    /// Replaces an output that exists.
    pub force: bool,
    /// Decides everything, writes nothing.
    pub dry_run: bool,
}

impl Default for CutSettings {
    fn default() -> Self {
        Self {
            model: None,
            out: None,
            plan: None,
            drop: None,
            deepest: None,
            tail: None,
            to: None,
            r#type: None,
            method: None,
            fraction: None,
            layers: None,
            whole: None,
            target: None,
            max_loss: None,
            keep: None,
            max_shard_size: "5GB".to_owned(),
            format: None,
            allow_unsliced: Vec::new(),
            repair: None,
            one_at_a_time: false,
            threshold: None,
            merge_layers: None,
            interval: None,
            data: None,
            text_field: "text".to_owned(),
            text_split: TextSplit::default(),
            on_bad_row: BadRow::default(),
            samples: None,
            seq_len: None,
            packing: Packing::default(),
            separator: Separator::default(),
            attention: Attention::default(),
            seed: None,
            leave_out_first: false,
            rank: None,
            lr: None,
            steps: None,
            batch: None,
            restart: false,
            device: None,
            dtype: None,
            memory: None,
            hash: false,
            verify: false,
            force: false,
            dry_run: false,
        }
    }
}

impl CutSettings {
    /// How the repair trains layers; `None` where it trains none.
    pub(super) fn training(&self) -> Option<LayerTraining> {
        let own = self.repair.and_then(Repair::training)?;
        Some(LayerTraining {
            lr: self.lr.unwrap_or(own.lr),
            steps: self.steps.unwrap_or(own.steps),
            batch: self.batch.unwrap_or(own.batch),
        })
    }

    /// What is written, of `source`.
    ///
    /// # Errors
    /// Request: another container than there are, what the one that is asked for cannot hold.
    pub(super) fn container(&self, source: &Checkpoint) -> Result<Written> {
        let is_gguf = source.gguf.is_some();
        let written = match (self.to.as_deref(), is_gguf) {
            (None | Some("safetensors"), false) | (Some("safetensors"), true) => Written::Safetensors,
            (Some("gguf"), false) => Written::Stored(match &self.r#type {
                Some(name) => StoredAs::named(name).context(|| "--type")?,
                None => StoredAs::of(source)?,
            }),
            (None | Some("gguf"), true) => Written::Copied,
            (Some(other), _) => {
                return Err(Error::request(format!("to is {other:?}, expected \"safetensors\" or \"gguf\"")));
            }
        };
        let hint = "write --to safetensors, or prune convert it first";
        match (&written, &self.r#type, self.repair, &self.format) {
            (Written::Copied, Some(name), ..) => Err(Error::request(format!(
                "--type {name}: the cut of a GGUF file has its blocks as they are; prune convert the cut to change them"
            ))),
            (Written::Safetensors, Some(name), ..) => Err(Error::request(format!(
                "--type {name} goes with --to gguf; safetensors have the model's own types, and prune convert others"
            ))),
            (Written::Copied, _, Some(repair), _) => {
                Err(Error::request(format!("--repair {} changes numbers, a GGUF file keeps them: {hint}", repair.name)))
            }
            (Written::Copied, _, _, Some(_)) => {
                Err(Error::request(format!("--format is about safetensors checkpoints: {hint}")))
            }
            (Written::Stored(_), _, Some(repair), _) if repair.has_maps() => Err(Error::request(format!(
                "--repair {} puts maps between layers, which llama.cpp does not have: leave --to gguf out",
                repair.name
            ))),
            (Written::Stored(_), ..) if self.verify => Err(Error::request(
                "--verify compares with the bytes of the source, and --to gguf stores its numbers anew: leave one out",
            )),
            _ => Ok(written),
        }
    }

    /// Refuses settings of a repair where there is none, and a repair without a text.
    ///
    /// # Errors
    /// Request: names the flag.
    pub(super) fn check_repair(&self) -> Result<()> {
        let default = Self::default();
        if self.whole.is_some() && !self.repair.is_some_and(Repair::follows) {
            let follow = REPAIRS.iter().filter(|repair| repair.follows()).map(|repair| repair.name);
            let follow = follow.collect::<Vec<_>>().join(", ");
            return Err(Error::request(format!("--whole goes with a --repair that follows a model: {follow}")));
        }
        let fitted = self.repair.filter(|repair| repair.needs_text());
        if let (Some(repair), None) = (fitted, &self.data) {
            return Err(Error::request(format!(
                "--repair {}: which text is it fitted on? --data names it",
                repair.name
            )));
        }
        let given = [
            ("--data", self.data.is_some()),
            ("--text-field", self.text_field != default.text_field),
            ("--text-split", self.text_split != default.text_split),
            ("--on-bad-row", self.on_bad_row != default.on_bad_row),
            ("--samples", self.samples.is_some()),
            ("--seq-len", self.seq_len.is_some()),
            ("--packing", self.packing != default.packing),
            ("--separator", self.separator != default.separator),
            ("--attention", self.attention != default.attention),
            ("--seed", self.seed.is_some()),
            ("--leave-out-first", self.leave_out_first),
            ("--device", self.device.is_some()),
            ("--dtype", self.dtype.is_some()),
            ("--memory", self.memory.is_some()),
        ];
        let of_training = [
            ("--lr", self.lr.is_some()),
            ("--steps", self.steps.is_some()),
            ("--batch", self.batch.is_some()),
            ("--restart", self.restart),
        ];
        if let (Some((flag, _)), None) =
            (of_training.iter().find(|(_, given)| *given), self.repair.and_then(Repair::training))
        {
            let train = REPAIRS.iter().filter(|repair| repair.training().is_some()).map(|repair| repair.name);
            let train = train.collect::<Vec<_>>().join(" and ");
            return Err(Error::request(format!("{flag} goes with a --repair that trains layers: {train}")));
        }
        if let (Some(rank), false) = (self.rank, self.repair.is_some_and(Repair::has_rank)) {
            let ranked = REPAIRS.iter().filter(|repair| repair.has_rank()).map(|repair| repair.name);
            let ranked = ranked.collect::<Vec<_>>().join(" and ");
            return Err(Error::request(format!("--rank {rank} goes with a --repair whose map has one: {ranked}")));
        }
        if self.rank == Some(0) {
            return Err(Error::request("--rank 0: expected 1 or more"));
        }
        if let Some(lr) = self.lr.filter(|lr| !lr.is_finite() || *lr <= 0.0) {
            return Err(Error::request(format!("--lr {lr}: expected a learning rate above 0, such as 2e-4")));
        }
        for (flag, number) in [("--steps", self.steps), ("--batch", self.batch)] {
            if number == Some(0) {
                return Err(Error::request(format!("{flag} 0: expected 1 or more")));
            }
        }
        // what scores layers between the rounds, or judges merges, reads the same text
        let reads = self.one_at_a_time || self.method.is_some_and(Method::merges);
        let is_free = |flag: &str| fitted.is_some() || reads && flag != "--leave-out-first";
        let given = given.into_iter().find(|(flag, given)| *given && !is_free(flag));
        match (given, self.repair) {
            (None, _) => Ok(()),
            (Some((flag, _)), None) => {
                Err(Error::request(format!("{flag} goes with --repair: a cut alone reads no text")))
            }
            (Some((flag, _)), Some(repair)) => Err(Error::request(format!(
                "{flag} goes with a repair that is fitted on text: {} reads none",
                repair.name
            ))),
        }
    }
}
