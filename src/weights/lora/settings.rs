//! What the user says about an adapter: where, how wide, how strong.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use super::LayerList;
use super::pattern::{Compiled, Patterns};
use crate::arch::{ModelSpec, Role};
use crate::{Context, Error, Result};

/// Which linear layers of every block get an adapter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Targets {
    /// Gate, up and down, as in arXiv 2403.17887.
    Mlp,
    /// Query, key, value and output.
    Attention,
    /// Both.
    AllLinear,
    /// Modules by the last parts of their path: `q_proj`, `layers.3.mlp.up_proj`.
    Modules(Vec<String>),
}

/// A linear layer of a block: its layer, its role, its path.
pub type Module = (usize, Role, String);

impl Targets {
    /// The linear layers meant, and the tensors that hold all experts of a layer, from the lowest layer up, in the
    /// order of the block.
    ///
    /// # Errors
    /// Request: a name that no linear layer of this model has; lists those it has.
    pub fn modules(&self, spec: &ModelSpec) -> Result<Vec<Module>> {
        let linear: Vec<Module> = (0..spec.layers).flat_map(|layer| modules_of(spec, layer)).collect();
        if let Self::Modules(names) = self {
            let unknown = |name: &&String| !linear.iter().any(|(.., path)| is_named(path, name));
            if let Some(name) = names.iter().find(unknown) {
                let mut known: Vec<&str> = Vec::new();
                for (.., path) in &linear {
                    if !known.contains(&last(path)) {
                        known.push(last(path));
                    }
                }
                let known = known.join(", ");
                return Err(Error::request(format!("target {name}: this model's linear layers are {known}")));
            }
            if names.is_empty() {
                return Err(Error::request("no target: name at least one linear layer"));
            }
        }
        let chosen = |(_, role, path): &Module| match self {
            Self::Mlp => role.is_of_mlp() || role.is_stacked(),
            Self::Attention => role.is_of_attention(),
            // as in PEFT, where a parameter is no linear layer
            Self::AllLinear => role.is_linear(),
            Self::Modules(names) => names.iter().any(|name| is_named(path, name)),
        };
        Ok(linear.into_iter().filter(chosen).collect())
    }
}

/// What of layer `layer` takes an adapter.
pub(super) fn modules_of(spec: &ModelSpec, layer: usize) -> impl Iterator<Item = Module> + use<> {
    let own = spec.linear_modules(layer).into_iter().chain(spec.stacked_parameters(layer));
    own.map(move |(role, path)| (layer, role, path))
}

/// Every linear layer of the blocks.
pub(super) fn linear(spec: &ModelSpec) -> Vec<Module> {
    let all = (0..spec.layers).flat_map(|layer| modules_of(spec, layer));
    all.filter(|(_, role, _)| role.is_linear()).collect()
}

/// Whether `name` is `module` or its last parts, as PEFT matches target names.
pub(super) fn is_named(module: &str, name: &str) -> bool {
    module.strip_suffix(name).is_some_and(|before| before.is_empty() || before.ends_with('.'))
}

/// `gate_proj` of `mlp.gate_proj`.
pub(super) fn last(module: &str) -> &str {
    module.rsplit('.').next().unwrap_or(module)
}

impl FromStr for Targets {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        Ok(match text {
            "mlp" => Self::Mlp,
            "attention" => Self::Attention,
            "all-linear" => Self::AllLinear,
            names => Self::Modules(names.split(',').map(|name| name.trim().to_owned()).collect()),
        })
    }
}

impl fmt::Display for Targets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Mlp => f.write_str("mlp"),
            Self::Attention => f.write_str("attention"),
            Self::AllLinear => f.write_str("all-linear"),
            Self::Modules(names) => f.write_str(&names.join(",")),
        }
    }
}

impl Serialize for Targets {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Targets {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged, expecting = "expected \"mlp\", \"attention\", \"all-linear\" or a list of module names")]
        enum Spelling {
            Text(String),
            List(Vec<String>),
        }
        match Spelling::deserialize(deserializer)? {
            Spelling::Text(text) => text.parse().map_err(de::Error::custom),
            Spelling::List(names) => Ok(Self::Modules(names)),
        }
    }
}

/// An adapter to make. The defaults are the paper's (arXiv 2403.17887, appendix A.1).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LoraSettings {
    /// Rank r of the update B·A.
    pub rank: usize,
    /// Strength: the update is scaled by alpha / r, or alpha / √r with `rslora`. Absent: equal to the rank.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub alpha: Option<f64>,
    /// Share of the adapter's inputs that are dropped in training.
    pub dropout: f64,
    /// Rank-stabilised scaling (arXiv 2312.03732).
    pub rslora: bool,
    /// Magnitudes for the outputs of each module (DoRA, arXiv 2402.09353): PEFT's `use_dora`.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub dora: bool,
    /// Where.
    pub targets: Targets,
    /// The layers that have one; absent: all. PEFT's `layers_to_transform`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub layers_to_transform: Option<LayerList>,
    /// Other ranks for modules by expressions over their paths: PEFT's `rank_pattern`.
    #[serde(skip_serializing_if = "Patterns::is_empty")]
    pub rank_pattern: Patterns<usize>,
    /// Other alphas likewise: PEFT's `alpha_pattern`.
    #[serde(skip_serializing_if = "Patterns::is_empty")]
    pub alpha_pattern: Patterns<f64>,
}

impl Default for LoraSettings {
    fn default() -> Self {
        Self {
            rank: 64,
            alpha: None,
            dropout: 0.05,
            rslora: false,
            dora: false,
            targets: Targets::Mlp,
            layers_to_transform: None,
            rank_pattern: Patterns::default(),
            alpha_pattern: Patterns::default(),
        }
    }
}

impl LoraSettings {
    /// Refuses what no adapter can be.
    ///
    /// # Errors
    /// Request: a rank of zero, a dropout outside [0, 1), an alpha that is not a positive number, a pattern that cannot
    /// be read.
    pub fn check(&self) -> Result<()> {
        if self.rank == 0 || self.rank_pattern.iter().any(|(_, rank)| rank == 0) {
            return Err(Error::request("rank is 0, expected at least 1"));
        }
        if !(0.0..1.0).contains(&self.dropout) {
            return Err(Error::request(format!("dropout is {}, expected 0 or above and below 1", self.dropout)));
        }
        let mut alphas = self.alpha.into_iter().chain(self.alpha_pattern.iter().map(|(_, alpha)| alpha));
        match alphas.find(|alpha| !alpha.is_finite() || *alpha <= 0.0) {
            Some(alpha) => Err(Error::request(format!("alpha is {alpha}, expected a positive number"))),
            None => self.strengths().map(|_| ()),
        }
    }

    /// The linear layers that get an adapter.
    ///
    /// # Errors
    /// Request: as [`LoraSettings::check`] and [`Targets::modules`]; a layer that the model does not have; a pattern
    /// that matches none of them.
    pub fn modules(&self, spec: &ModelSpec) -> Result<Vec<Module>> {
        self.check()?;
        let mut modules = self.targets.modules(spec)?;
        if modules.iter().any(|(_, role, _)| role.is_stacked()) && (self.dropout > 0.0 || self.dora) {
            let instead = if self.dora { "leave --dora out" } else { "--dropout 0" };
            return Err(Error::request(format!(
                "target {}: the experts of a {} lie in one tensor, and PEFT has neither dropout nor DoRA for such a \
                 parameter: {instead}, or --target attention",
                self.targets, spec.model_type
            )));
        }
        if let Some(layers) = &self.layers_to_transform {
            layers.check(spec.layers)?;
            modules.retain(|(layer, ..)| layers.contains(*layer));
            if modules.is_empty() {
                let target = &self.targets;
                return Err(Error::request(format!("layers_to_transform {layers}: none of them has a {target}")));
            }
        }
        let paths: Vec<&str> = modules.iter().map(|(.., path)| path.as_str()).collect();
        let strengths = self.strengths()?;
        match strengths.rank_pattern.idle(&paths).or(strengths.alpha_pattern.idle(&paths)) {
            Some(key) => Err(Error::request(format!("pattern {key}: it matches no adapted layer"))),
            None => Ok(modules),
        }
    }

    /// Alpha where no pattern says otherwise.
    #[must_use]
    pub fn alpha(&self) -> f64 {
        self.alpha.unwrap_or(self.rank as f64)
    }

    /// Rank and strength of every module.
    ///
    /// # Errors
    /// Request: a pattern that cannot be read.
    pub(super) fn strengths(&self) -> Result<Strengths<'_>> {
        Ok(Strengths {
            settings: self,
            rank_pattern: self.rank_pattern.compile().context(|| "rank_pattern")?,
            alpha_pattern: self.alpha_pattern.compile().context(|| "alpha_pattern")?,
        })
    }
}

/// [`LoraSettings`] with their patterns ready to match.
pub(super) struct Strengths<'a> {
    settings: &'a LoraSettings,
    rank_pattern: Compiled<'a, usize>,
    alpha_pattern: Compiled<'a, f64>,
}

impl Strengths<'_> {
    /// Rank of the module at path `module` (`model.layers.3.mlp.up_proj`) and the factor on its B·A.
    pub(super) fn of(&self, module: &str) -> (usize, f64) {
        let rank = self.rank_pattern.of(module).unwrap_or(self.settings.rank);
        let alpha = self.alpha_pattern.of(module).unwrap_or(self.settings.alpha());
        (rank, alpha / if self.settings.rslora { (rank as f64).sqrt() } else { rank as f64 })
    }
}
