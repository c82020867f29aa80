//! Mixtures of experts: how many there are, which layers have them, and how a router weighs them.

use super::Role;
use super::keys::Keys;
use crate::{Error, Result};

/// Experts in a layer, at most.
const MOST: usize = 4096;

/// What the router's products become before experts are chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RouterScores {
    /// Their softmax over all experts, in f32.
    Softmax,
    /// The sigmoid of each (dots.llm1).
    Sigmoid,
}

/// The experts of a layer: gated MLPs, of which each token goes through those with the largest scores. What they give
/// is added up, each times its score.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Experts {
    /// `n`.
    pub count: usize,
    /// Experts of each token.
    pub chosen: usize,
    /// `f` of each.
    pub size: usize,
    /// RouterScores.
    pub scores: RouterScores,
    /// Whether the scores of those chosen are divided by their sum.
    pub normed: bool,
    /// What they are multiplied with then.
    pub scale: f64,
    /// Whether something is added to the scores for the choice alone.
    pub biased: bool,
    /// `f` of the expert that all tokens go through, where there is one.
    pub shared: Option<usize>,
    /// Whether what it gives is multiplied with a sigmoid of the token.
    pub shared_weight: bool,
    /// Whether all experts lie in one tensor for gate and up and one for down.
    pub stacked: bool,
}

/// Which layers have experts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExpertsAt {
    /// All.
    All,
    /// Every `decoder_sparse_step`-th but those in `mlp_only_layers` (Qwen).
    Steps,
    /// Those from `first_k_dense_replace` (this, when absent) up (dots.llm1).
    From(usize),
}

/// Which keys a family has for its [`Experts`], and what they are where the keys are absent.
#[derive(Clone, Copy, Debug)]
pub struct ExpertRule {
    /// The number of experts, by the first of these keys that there is.
    pub count: (&'static [&'static str], usize),
    /// `num_experts_per_tok`.
    pub chosen: usize,
    /// The width of an expert.
    pub size: (&'static str, Option<usize>),
    /// RouterScores.
    pub scores: RouterScores,
    /// The key that says whether scores are divided by their sum, and what holds without it.
    pub normed: (Option<&'static str>, bool),
    /// Whether `routed_scaling_factor` is read.
    pub scaled: bool,
    /// Whether something is added to the scores for the choice alone.
    pub biased: bool,
    /// The width of the shared expert: its key, and where that is how many experts wide it is.
    pub shared: Option<(&'static str, bool)>,
    /// Whether the shared expert has a weight for each token.
    pub shared_weight: bool,
    /// Whether all experts lie in two tensors.
    pub stacked: bool,
    /// Layers that have them.
    pub at: ExpertsAt,
}

/// What Mixtral has, from which others differ.
pub(super) const MIXTRAL_EXPERTS: ExpertRule = ExpertRule {
    count: (&["num_local_experts", "num_experts"], 8),
    chosen: 2,
    size: ("intermediate_size", None),
    scores: RouterScores::Softmax,
    normed: (None, true),
    scaled: false,
    biased: false,
    shared: None,
    shared_weight: false,
    stacked: false,
    at: ExpertsAt::All,
};

impl ExpertRule {
    /// The keys that are read.
    pub(super) fn keys(self) -> impl Iterator<Item = &'static str> {
        let own = [self.size.0, "num_experts_per_tok"].into_iter();
        own.chain(self.count.0.iter().copied()).chain(self.shared.map(|(key, _)| key))
    }
}

impl Experts {
    /// Their tensors, in the order of computation.
    pub(super) fn roles(&self) -> Vec<Role> {
        let mut roles = vec![Role::Router];
        roles.extend(self.biased.then_some(Role::RouterBias));
        match self.stacked {
            true => roles.extend([Role::ExpertsGateUp, Role::ExpertsDown]),
            false => roles.extend(
                (0..self.count as u16)
                    .flat_map(|expert| [Role::ExpertGate(expert), Role::ExpertUp(expert), Role::ExpertDown(expert)]),
            ),
        }
        if self.shared.is_some() {
            roles.extend([Role::SharedGate, Role::SharedUp, Role::SharedDown]);
            roles.extend(self.shared_weight.then_some(Role::SharedWeight));
        }
        roles
    }

    /// The shape of the tensor `role` in a stream of width `d`.
    pub(super) fn shape(&self, role: Role, d: usize) -> Vec<usize> {
        let (n, f, shared) = (self.count, self.size, self.shared.unwrap_or(0));
        match role {
            Role::Router => vec![n, d],
            Role::RouterBias => vec![n],
            Role::ExpertGate(_) | Role::ExpertUp(_) => vec![f, d],
            Role::ExpertGateUp(_) => vec![2 * f, d],
            Role::ExpertDown(_) => vec![d, f],
            Role::ExpertsGateUp => vec![n, 2 * f, d],
            Role::ExpertsDown => vec![n, d, f],
            Role::SharedGate | Role::SharedUp => vec![shared, d],
            Role::SharedDown => vec![d, shared],
            Role::SharedWeight => vec![1, d],
            _ => Vec::new(),
        }
    }
}

/// The experts of a model of `layers` layers, and whether each layer has them, `[l]`.
///
/// # Errors
/// Work: a number that makes no sense. Each names the key.
pub(super) fn read(keys: &Keys<'_>, rule: Option<ExpertRule>, layers: usize) -> Result<(Option<Experts>, Vec<bool>)> {
    let Some(rule) = rule else { return Ok((None, vec![false; layers])) };
    let (names, default) = rule.count;
    let count_key = names.iter().copied().find(|name| keys.get(name).is_some()).unwrap_or(names[0]);
    let count = keys.size(count_key)?.unwrap_or(default);
    if count > MOST {
        return Err(Error::work(format!("{count_key} is {count}, expected at most {MOST}")));
    }
    let chosen = keys.size("num_experts_per_tok")?.unwrap_or(rule.chosen);
    if chosen > count {
        return Err(Error::work(format!("num_experts_per_tok is {chosen}, expected at most {count_key}, {count}")));
    }
    let (key, default) = rule.size;
    let size = keys.needed(key, keys.size(key)?.or(default))?;
    let normed = match rule.normed {
        (Some(key), default) => keys.flag(key)?.unwrap_or(default),
        (None, always) => always,
    };
    let scale = if rule.scaled { keys.positive("routed_scaling_factor")?.unwrap_or(1.0) } else { 1.0 };
    let shared = match rule.shared {
        None => None,
        Some((key, false)) => Some(keys.needed(key, keys.size(key)?)?),
        Some((key, true)) => keys.count(key)?.filter(|count| *count > 0).map(|count| count.saturating_mul(size)),
    };
    if let (Some((key, _)), Some(width)) = (rule.shared, shared.filter(|width| *width > 1 << 24)) {
        return Err(Error::work(format!("{key} makes an expert {width} wide, expected at most {}", 1 << 24)));
    }
    let experts = Experts {
        count,
        chosen,
        size,
        scores: rule.scores,
        normed,
        scale,
        biased: rule.biased,
        shared,
        shared_weight: rule.shared_weight,
        stacked: rule.stacked,
    };
    Ok((Some(experts), sparse(keys, rule.at, layers)?))
}

/// Which layers have experts, `[l]`.
fn sparse(keys: &Keys<'_>, at: ExpertsAt, layers: usize) -> Result<Vec<bool>> {
    match at {
        ExpertsAt::All => Ok(vec![true; layers]),
        ExpertsAt::Steps => {
            let step = keys.size("decoder_sparse_step")?.unwrap_or(1);
            let mut sparse: Vec<bool> = (0..layers).map(|layer| (layer + 1).is_multiple_of(step)).collect();
            for value in keys.list("mlp_only_layers")?.unwrap_or_default() {
                let layer = value.as_u64().ok_or_else(|| keys.fault("mlp_only_layers", value, "numbers of layers"))?;
                // transformers passes over a number that no layer has
                if let Some(sparse) = usize::try_from(layer).ok().and_then(|layer| sparse.get_mut(layer)) {
                    *sparse = false;
                }
            }
            Ok(sparse)
        }
        ExpertsAt::From(default) => {
            let first = keys.count("first_k_dense_replace")?.unwrap_or(default);
            Ok((0..layers).map(|layer| layer >= first).collect())
        }
    }
}
