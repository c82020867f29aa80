//! What a recipe repairs cuts by: `[repair]`, and the text of it.

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::commands::cut::CutSettings;
use crate::data::{Attention, BadRow, Packing, Separator, TextSplit};
use crate::repair::{Repair, repair};
use crate::{Error, Result};

/// `[repair]`: every cut is written once for each method, all fitted on the same text.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Repairs {
    /// Repairs by name, and `none`.
    pub methods: Vec<RepairChoice>,
    /// Where the text is that repairs are fitted on.
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
    /// The first token of each sequence takes no part in the fit.
    pub leave_out_first: bool,
    /// Rank of the map of `reduced-rank`; `None` is 64.
    pub rank: Option<usize>,
    /// Learning rate of repairs that train layers; `None` is that of each one's paper.
    pub lr: Option<f64>,
    /// Their steps for each layer; `None` is 300.
    pub steps: Option<usize>,
    /// Their sequences a step; `None` is 16.
    pub batch: Option<usize>,
    /// Where it computes: `auto`, `cpu`, `cuda`, `cuda:1`.
    pub device: Option<String>,
    /// What products with weights are computed in: `auto`, `bf16`, `f32`.
    pub dtype: Option<String>,
    /// Cap on memory.
    pub memory: Option<String>,
}

impl Default for Repairs {
    fn default() -> Self {
        let cut = CutSettings::default();
        Self {
            methods: Vec::new(),
            data: cut.data,
            text_field: cut.text_field,
            text_split: cut.text_split,
            on_bad_row: cut.on_bad_row,
            samples: cut.samples,
            seq_len: cut.seq_len,
            packing: cut.packing,
            separator: cut.separator,
            attention: cut.attention,
            seed: cut.seed,
            leave_out_first: cut.leave_out_first,
            rank: cut.rank,
            lr: cut.lr,
            steps: cut.steps,
            batch: cut.batch,
            device: cut.device,
            dtype: cut.dtype,
            memory: cut.memory,
        }
    }
}

/// What a cut is repaired by: a row of the repairs, or nothing, which is called `none`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RepairChoice(pub Option<&'static Repair>);

/// Name of the plain cut.
const NONE: &str = "none";

impl Serialize for RepairChoice {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        serializer.serialize_str(self.0.map_or(NONE, |repair| repair.name))
    }
}

impl<'de> Deserialize<'de> for RepairChoice {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        let name = String::deserialize(deserializer)?;
        if name == NONE {
            return Ok(Self(None));
        }
        let fault = |error| serde::de::Error::custom(format!("{error}, or {NONE}, the plain cut"));
        repair(&name).map(|repair| Self(Some(repair))).map_err(fault)
    }
}

impl Repairs {
    /// Whether `[cut]` has a key of this name that says something of a repair.
    pub(super) fn names(key: &str) -> bool {
        crate::settings::keys::<Self>().contains(&key)
    }

    /// Each that is named, once.
    pub(super) fn each(&self) -> Vec<Option<&'static Repair>> {
        let mut each = Vec::new();
        for RepairChoice(repair) in &self.methods {
            if !each.contains(repair) {
                each.push(*repair);
            }
        }
        each
    }

    /// Refuses no methods, and a repair without the text that it is fitted on.
    ///
    /// # Errors
    /// Request: as said.
    pub(super) fn check(&self) -> Result<()> {
        let fitted = self.methods.iter().filter_map(|choice| choice.0).find(|repair| repair.needs_text());
        match (fitted, &self.data) {
            _ if self.methods.is_empty() => Err(Error::request(
                "[repair] methods: which? such as [\"none\", \"refit\"], where none is the plain cut",
            )),
            (Some(repair), None) => {
                Err(Error::request(format!("[repair] data: which text is {} fitted on? name some", repair.name)))
            }
            _ => Ok(()),
        }
    }

    /// The settings of a cut that is written as `cut` says, and repaired.
    pub(super) fn put(&self, repair: &'static Repair, cut: &CutSettings) -> CutSettings {
        if !repair.needs_text() {
            return CutSettings { repair: Some(repair), ..cut.clone() };
        }
        let (of, trains) = (self.clone(), repair.training().is_some());
        CutSettings {
            repair: Some(repair),
            data: of.data,
            text_field: of.text_field,
            text_split: of.text_split,
            on_bad_row: of.on_bad_row,
            samples: of.samples,
            seq_len: of.seq_len,
            packing: of.packing,
            separator: of.separator,
            attention: of.attention,
            seed: of.seed,
            leave_out_first: of.leave_out_first,
            rank: of.rank.filter(|_| repair.has_rank()),
            lr: of.lr.filter(|_| trains),
            steps: of.steps.filter(|_| trains),
            batch: of.batch.filter(|_| trains),
            device: of.device,
            dtype: of.dtype,
            memory: of.memory,
            ..cut.clone()
        }
    }
}
