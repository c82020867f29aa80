//! `adapter_config.json`: which modules an adapter is for, by PEFT's own rules.

use regex::Regex;
use serde::Deserialize;
use serde_json::{Map, Value};

use super::LoraSettings;
use super::pattern::{Patterns, expression, whole};
use super::settings::{Targets, is_named};
use crate::{Context, Error, Result};

/// Keys that make the adapter something else than what is read here.
const UNSUPPORTED: [&str; 8] = [
    "alora_invocation_tokens",
    "arrow_config",
    "kasa_config",
    "layer_replication",
    "lora_bias",
    "monteclora_config",
    "use_bdlora",
    "use_qalora",
];

/// The keys that are read; the others are informative or listed in [`UNSUPPORTED`]. `fan_in_fan_out` speaks of layers
/// that these models do not have: PEFT itself takes it for false on a linear layer.
#[derive(Deserialize)]
pub(super) struct Config {
    peft_type: String,
    #[serde(default)]
    task_type: Option<String>,
    #[serde(default)]
    pub(super) base_model_name_or_path: Option<String>,
    #[serde(default = "eight")]
    r: usize,
    #[serde(default = "eight_f64")]
    lora_alpha: f64,
    #[serde(default)]
    lora_dropout: f64,
    #[serde(default)]
    use_rslora: bool,
    #[serde(default)]
    pub(super) use_dora: bool,
    #[serde(default)]
    bias: Option<String>,
    #[serde(default)]
    target_modules: Option<Names>,
    #[serde(default)]
    pub(super) target_parameters: Option<Vec<String>>,
    #[serde(default)]
    exclude_modules: Option<Names>,
    #[serde(default)]
    layers_to_transform: Option<Layers>,
    #[serde(default)]
    layers_pattern: Option<Names>,
    #[serde(default)]
    rank_pattern: Option<Patterns<usize>>,
    #[serde(default)]
    alpha_pattern: Option<Patterns<f64>>,
    #[serde(default)]
    modules_to_save: Option<Vec<String>>,
    #[serde(default)]
    pub(super) trainable_token_indices: Option<TokenIds>,
    #[serde(default)]
    pub(super) ensure_weight_tying: bool,
    #[serde(default)]
    init_lora_weights: Value,
}

/// PEFT's own defaults.
fn eight() -> usize {
    8
}

fn eight_f64() -> f64 {
    8.0
}

/// A list of names, or one expression.
#[derive(Deserialize)]
#[serde(untagged)]
enum Names {
    List(Vec<String>),
    Expression(String),
}

impl Names {
    fn is_empty(&self) -> bool {
        match self {
            Self::List(names) => names.is_empty(),
            Self::Expression(key) => key.is_empty(),
        }
    }
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Layers {
    One(usize),
    Some(Vec<usize>),
}

impl Layers {
    fn contains(&self, layer: usize) -> bool {
        match self {
            Self::One(one) => *one == layer,
            Self::Some(some) => some.contains(&layer),
        }
    }
}

/// Tokens that have rows of their own, of the embedding or by module.
#[derive(Deserialize)]
#[serde(untagged)]
pub(super) enum TokenIds {
    Embedding(Vec<u32>),
    ByModule(std::collections::BTreeMap<String, Vec<u32>>),
}

impl Config {
    /// Refuses what is not LoRA, or more than is read here.
    pub(super) fn check(&self, keys: &Map<String, Value>) -> Result<()> {
        let refuse = |reason: String| Err(Error::request(reason));
        if self.peft_type != "LORA" {
            return refuse(format!("peft_type is {}, expected LORA", self.peft_type));
        }
        if let Some(task) = self.task_type.as_deref().filter(|task| *task != "CAUSAL_LM") {
            return refuse(format!("task_type is {task}, expected CAUSAL_LM"));
        }
        let empty = |value: &Value| match value {
            Value::Null | Value::Bool(false) => true,
            Value::Array(list) => list.is_empty(),
            Value::Object(map) => map.is_empty(),
            Value::String(text) => text.is_empty(),
            _ => false,
        };
        if let Some(key) = UNSUPPORTED.iter().find(|key| keys.get(**key).is_some_and(|value| !empty(value))) {
            return refuse(format!("{key} is set, which is not supported"));
        }
        if self.target_parameters.iter().flatten().next().is_some() && (self.use_dora || self.lora_dropout > 0.0) {
            return refuse("target_parameters go with neither use_dora nor lora_dropout in PEFT".to_owned());
        }
        if let Some(bias) = self.bias.as_deref().filter(|bias| !["none", "all", "lora_only"].contains(bias)) {
            return refuse(format!("bias is {bias}, expected none, all or lora_only"));
        }
        if self.r == 0 || self.rank_pattern.iter().any(|ranks| ranks.iter().any(|(_, rank)| rank == 0)) {
            return refuse("rank is 0, expected at least 1".to_owned());
        }
        let expression = matches!(&self.target_modules, Some(Names::Expression(_)));
        if expression && self.layers_to_transform.is_some() {
            return refuse("layers_to_transform goes with a list of target_modules, not with an expression".to_owned());
        }
        // these say how A and B began; the others (pissa, olora, loftq, ...) also changed the base
        let harmless = ["gaussian", "eva", "orthogonal"];
        match &self.init_lora_weights {
            Value::String(init) if !harmless.contains(&init.as_str()) => refuse(format!(
                "init_lora_weights is {init}, which changes the base model too; convert the adapter to plain LoRA in \
                 PEFT first (save_pretrained with path_initial_model_for_weight_conversion)"
            )),
            _ => Ok(()),
        }
    }

    /// What is said of the low-rank updates; their targets are for the reader to say, who knows the model.
    pub(super) fn settings(&self) -> LoraSettings {
        LoraSettings {
            rank: self.r,
            alpha: Some(self.lora_alpha),
            dropout: self.lora_dropout,
            rslora: self.use_rslora,
            dora: self.use_dora,
            targets: Targets::AllLinear,
            // the reader names every layer's modules, by what is there
            layers_to_transform: None,
            rank_pattern: self.rank_pattern.clone().unwrap_or_default(),
            alpha_pattern: self.alpha_pattern.clone().unwrap_or_default(),
        }
    }

    /// Whether the config speaks of single layers: what it means depends on how they are numbered.
    pub(super) fn names_layers(&self) -> bool {
        let number = |name: &String| name.split('.').any(|part| part.parse::<usize>().is_ok());
        let list = |names: &Option<Names>| matches!(names, Some(Names::List(names)) if names.iter().any(number));
        let expression = matches!(&self.target_modules, Some(Names::Expression(key)) if !is_all_linear(key));
        let saved = self.modules_to_save.iter().flatten().any(number);
        self.layers_to_transform.is_some() || expression || list(&self.target_modules) || saved
    }

    /// Whether PEFT saves the module at `path` whole: its path ends in one of the names, in the middle of a part too.
    pub(super) fn saves(&self, path: &str) -> bool {
        let parents = path.match_indices('.').map(|(end, _)| &path[..end]).chain([path]);
        let names = || self.modules_to_save.iter().flatten().filter(|name| !name.is_empty());
        parents.into_iter().any(|module| names().any(|name| module.ends_with(name.as_str())))
    }

    /// The rule of its targets, ready to ask.
    ///
    /// # Errors
    /// Request: no targets, or an expression that cannot be read.
    pub(super) fn rule(&self) -> Result<Rule<'_>> {
        let targets = self.target_modules.as_ref().filter(|targets| !targets.is_empty());
        if targets.is_none() && self.target_parameters.iter().flatten().next().is_none() {
            return Err(Error::request("target_modules names nothing"));
        }
        let match_of = |names: &Names, key: &str| match names {
            Names::Expression(text) => whole(text).context(|| key.to_owned()).map(Some),
            Names::List(_) => Ok(None),
        };
        let exclude = self.exclude_modules.as_ref().filter(|names| !names.is_empty());
        let all_linear = matches!(targets, Some(Names::Expression(key)) if is_all_linear(key));
        let saved =
            self.modules_to_save.iter().flatten().map(|name| expression(r"^(?:.*\.)?(?:", name, r")(?:$|\..*)"));
        let layers = self.layers_to_transform.as_ref().filter(|l| !matches!(l, Layers::Some(some) if some.is_empty()));
        let numbered = match self.layers_pattern.as_ref().filter(|names| !names.is_empty()) {
            None => vec![expression(r"^.*?\.[^.]*\.", "", r"(?P<idx>\d+)\.")?],
            Some(Names::Expression(key)) => vec![numbered(key)?],
            Some(Names::List(keys)) => keys.iter().map(|key| numbered(key)).collect::<Result<_>>()?,
        };
        Ok(Rule {
            targets,
            expression: match targets.filter(|_| !all_linear) {
                Some(targets) => match_of(targets, "target_modules")?,
                None => None,
            },
            all_linear,
            exclude,
            excluded: exclude.map(|names| match_of(names, "exclude_modules")).transpose()?.flatten(),
            saved: saved.collect::<Result<_>>().context(|| "modules_to_save")?,
            layers,
            numbered,
        })
    }
}

/// What finds a layer's number after the name `key`.
fn numbered(key: &str) -> Result<Regex> {
    expression(r"^(?:.*?\.)?(?:", key, r")\.(?P<idx>\d+)\.").context(|| "layers_pattern")
}

fn is_all_linear(key: &str) -> bool {
    key.eq_ignore_ascii_case("all-linear")
}

/// Which modules have an adapter: PEFT's `check_target_module_exists`.
pub(super) struct Rule<'a> {
    targets: Option<&'a Names>,
    expression: Option<Regex>,
    all_linear: bool,
    exclude: Option<&'a Names>,
    excluded: Option<Regex>,
    saved: Vec<Regex>,
    layers: Option<&'a Layers>,
    numbered: Vec<Regex>,
}

impl Rule<'_> {
    /// Whether the module at `path` has an adapter. `in_block` tells the linear layers of the blocks, which alone are
    /// meant by "all-linear", from the embedding and the head.
    pub(super) fn targets(&self, path: &str, in_block: bool) -> bool {
        let excluded = match (self.exclude, &self.excluded) {
            (_, Some(expression)) => expression.is_match(path),
            (Some(Names::List(names)), _) => names.iter().any(|name| is_named(path, name)),
            _ => false,
        };
        if excluded || self.saved.iter().any(|saved| saved.is_match(path)) {
            return false;
        }
        match (self.targets, &self.expression) {
            _ if self.all_linear => in_block,
            (_, Some(expression)) => expression.is_match(path),
            // a path that is named in full is meant, whatever layers are chosen
            (Some(Names::List(names)), _) if names.iter().any(|name| name == path) => true,
            (Some(Names::List(names)), _) => names.iter().any(|name| is_named(path, name)) && self.chosen(path),
            _ => false,
        }
    }

    /// Whether `layers_to_transform` has the layer that `path` is in.
    fn chosen(&self, path: &str) -> bool {
        let Some(layers) = self.layers else { return true };
        let found = self.numbered.iter().find_map(|numbered| numbered.captures(path));
        let number = found.and_then(|found| found.name("idx")?.as_str().parse().ok());
        number.is_some_and(|layer| layers.contains(layer))
    }
}
