//! What the user says about an adapter: where, how wide, how strong.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::arch::{ModelSpec, Role};
use crate::{Error, Result};

/// Which linear layers of every block get an adapter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Targets {
    /// Gate, up and down, as in arXiv 2403.17887.
    Mlp,
    /// Query, key, value and output.
    Attention,
    /// Both.
    AllLinear,
    /// Modules by the last part of their name: `q_proj`.
    Modules(Vec<String>),
}

impl Targets {
    /// The roles meant, in the order of the block.
    ///
    /// # Errors
    /// Request: a name that no linear layer of this model has; lists those it has.
    pub fn roles(&self, spec: &ModelSpec) -> Result<Vec<Role>> {
        let linear: Vec<Role> = spec.roles().into_iter().filter(|role| role.is_linear()).collect();
        let chosen = |role: &Role| match self {
            Self::Mlp => role.module().starts_with("mlp."),
            Self::Attention => role.module().starts_with("self_attn."),
            Self::AllLinear => true,
            Self::Modules(names) => names.iter().any(|name| is_named(role.module(), name)),
        };
        if let Self::Modules(names) = self {
            let unknown = |name: &&String| !linear.iter().any(|role| is_named(role.module(), name));
            if let Some(name) = names.iter().find(unknown) {
                let known: Vec<&str> = linear.iter().map(|role| last(role.module())).collect();
                let known = known.join(", ");
                return Err(Error::request(format!("target {name}: this model's linear layers are {known}")));
            }
            if names.is_empty() {
                return Err(Error::request("no target: name at least one linear layer"));
            }
        }
        Ok(linear.into_iter().filter(chosen).collect())
    }
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
    /// Where.
    pub targets: Targets,
    /// Other ranks for modules by name, as in PEFT's `rank_pattern`.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub rank_pattern: BTreeMap<String, usize>,
    /// Other alphas for modules by name, as in PEFT's `alpha_pattern`.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub alpha_pattern: BTreeMap<String, f64>,
}

impl Default for LoraSettings {
    fn default() -> Self {
        Self {
            rank: 64,
            alpha: None,
            dropout: 0.05,
            rslora: false,
            targets: Targets::Mlp,
            rank_pattern: BTreeMap::new(),
            alpha_pattern: BTreeMap::new(),
        }
    }
}

impl LoraSettings {
    /// Refuses what no adapter can be.
    ///
    /// # Errors
    /// Request: a rank of zero, a dropout outside [0, 1), an alpha that is not a positive number.
    pub fn check(&self) -> Result<()> {
        if self.rank == 0 || self.rank_pattern.values().any(|rank| *rank == 0) {
            return Err(Error::request("rank is 0, expected at least 1"));
        }
        if !(0.0..1.0).contains(&self.dropout) {
            return Err(Error::request(format!("dropout is {}, expected 0 or above and below 1", self.dropout)));
        }
        match self.alpha.iter().chain(self.alpha_pattern.values()).find(|alpha| !alpha.is_finite() || **alpha <= 0.0) {
            Some(alpha) => Err(Error::request(format!("alpha is {alpha}, expected a positive number"))),
            None => Ok(()),
        }
    }

    /// Refuses patterns that say nothing about the adapted layers.
    ///
    /// # Errors
    /// Request: a name in `rank_pattern` or `alpha_pattern` that is none of `roles`.
    pub(super) fn check_patterns(&self, roles: &[Role]) -> Result<()> {
        let known = |name: &&String| roles.iter().any(|role| is_named(role.module(), last(name)));
        match self.rank_pattern.keys().chain(self.alpha_pattern.keys()).find(|name| !known(name)) {
            Some(name) => Err(Error::request(format!("pattern {name}: no adapted layer has this name"))),
            None => Ok(()),
        }
    }

    /// Alpha where no pattern says otherwise.
    #[must_use]
    pub fn alpha(&self) -> f64 {
        self.alpha.unwrap_or(self.rank as f64)
    }

    /// Rank and alpha of the module at path `module` (`model.layers.3.mlp.up_proj`).
    pub(super) fn of(&self, module: &str) -> (usize, f64) {
        (by_pattern(&self.rank_pattern, module, self.rank), by_pattern(&self.alpha_pattern, module, self.alpha()))
    }
}

/// The value whose name is the last parts of `module`, else `default`.
pub(super) fn by_pattern<T: Copy>(patterns: &BTreeMap<String, T>, module: &str, default: T) -> T {
    patterns.iter().find(|(name, _)| is_named(module, name)).map_or(default, |(_, value)| *value)
}

/// Factor on B·A.
pub(super) fn scale(alpha: f64, rank: usize, rslora: bool) -> f64 {
    let rank = rank as f64;
    alpha / if rslora { rank.sqrt() } else { rank }
}
