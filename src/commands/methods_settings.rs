//! Settings of `prune methods`: the model and the text that the methods are tried on; without a model their table.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::data::{Attention, BadRow, Packing, Separator, TextSplit};
use crate::importance::Amount;
use crate::methods::{METHODS, Method};
use crate::repair::Repair;
use crate::{Error, Result};

/// Settings of `prune methods`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct MethodsSettings {
    /// Directory or hub id; absent: the table.
    pub model: Option<String>,
    /// Where the text is.
    pub data: Option<String>,
    /// Field of the rows that holds the text.
    pub text_field: String,
    /// How plain text files are cut into documents.
    pub text_split: TextSplit,
    /// What is done about a row that cannot be read.
    pub on_bad_row: BadRow,
    /// Sequences at most; `None` is 64.
    pub samples: Option<usize>,
    /// Tokens of a sequence at most; `None` is 2048 or the model's context, whichever is less.
    pub seq_len: Option<usize>,
    /// One sequence a document, or documents joined and cut.
    pub packing: Packing,
    /// What stands between documents.
    pub separator: Separator,
    /// Whether documents of a packed sequence see each other.
    pub attention: Attention,
    /// Takes documents at random, and draws subsets of layers; `None` takes the first ones, and draws as with 0.
    pub seed: Option<u64>,
    /// Layers to drop.
    pub layers: Option<usize>,
    /// Share of the layers to drop.
    pub fraction: Option<f64>,
    /// Methods to try; none named: those that take a pass or a few.
    pub methods: Vec<&'static Method>,
    /// Tries every method, the long searches as well.
    pub all: bool,
    /// What each choice is repaired by before the losses rank them.
    pub repair: Option<&'static Repair>,
    /// Directory for `methods.json`.
    pub out: Option<PathBuf>,
    /// Replaces an output that exists.
    pub force: bool,
    /// Where it computes: `auto`, `cpu`, `cuda`, `cuda:1`.
    pub device: Option<String>,
    /// What products with weights are computed in: `auto`, `bf16`, `f32`.
    pub dtype: Option<String>,
    /// Cap on memory.
    pub memory: Option<String>,
    /// Only says what would be done.
    pub dry_run: bool,
}

impl Default for MethodsSettings {
    fn default() -> Self {
        Self {
            model: None,
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
            layers: None,
            fraction: None,
            methods: Vec::new(),
            all: false,
            repair: None,
            out: None,
            force: false,
            device: None,
            dtype: None,
            memory: None,
            dry_run: false,
        }
    }
}

impl MethodsSettings {
    /// Refuses settings that are for a model where none is named.
    ///
    /// # Errors
    /// Request: as said.
    pub(super) fn check_table(&self) -> Result<()> {
        // a flag that would do nothing is none
        let [given, default] = [self, &Self::default()].map(serde_json::to_value);
        let (Ok(Value::Object(given)), Ok(default)) = (given, default) else { return Ok(()) };
        match given.iter().find(|(name, value)| default.get(name) != Some(value)) {
            Some((name, _)) => {
                let flag = name.replace('_', "-");
                Err(Error::request(format!("--{flag} goes with a model: prune methods MODEL --data TEXT")))
            }
            None => Ok(()),
        }
    }

    /// How many of `layers` layers go.
    ///
    /// # Errors
    /// Request: not said, or nothing to drop or nothing left.
    pub(super) fn amount(&self, layers: usize) -> Result<usize> {
        let amount = match (self.layers, self.fraction) {
            (Some(_), Some(_)) => return Err(Error::request("--layers and --fraction: give one of them")),
            (None, None) => return Err(Error::request("how many layers go? --layers or --fraction says it")),
            (Some(layers), None) => Amount::Layers(layers),
            (None, Some(fraction)) => Amount::Fraction(fraction),
        };
        amount.of(layers)
    }

    /// The methods to try, in the order of the table.
    ///
    /// # Errors
    /// Request: one whose layers the user names.
    pub(super) fn chosen(&self) -> Result<Vec<&'static Method>> {
        if let Some(method) = self.methods.iter().find(|method| method.takes_names()) {
            return Err(Error::request(format!("--methods {}: it chooses nothing, the user does", method.name)));
        }
        self.methods.iter().try_for_each(|method| method.check_counts())?;
        if self.all && !self.methods.is_empty() {
            return Err(Error::request("--all and --methods: give one of them"));
        }
        let is_chosen = |method: &&Method| match (self.methods.is_empty(), self.all) {
            (false, _) => self.methods.contains(method),
            (true, true) => !method.takes_names() && !method.merges(),
            (true, false) => method.is_cheap(),
        };
        Ok(METHODS.iter().filter(is_chosen).collect())
    }
}
