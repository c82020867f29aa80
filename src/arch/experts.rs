//! Mixtures of experts: how many there are, which layers have them, and how a router weighs them.

use super::Role;
use super::keys::Keys;
use crate::ops::ClampedSwiglu;
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

/// How the matrices of all experts lie in one tensor for gate and up and one for down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stacked {
    /// `[n, 2f, d]`, the rows of gate before those of up, and `[n, d, f]` (Granite).
    Rows,
    /// `[n, d, 2f]`, the columns of gate and of up in turns, and `[n, f, d]`, both with biases (gpt-oss).
    Columns,
}

/// What of its experts' scores a group of them is judged by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GroupScores {
    /// The largest (DeepSeek-V2).
    Best,
    /// The sum of the two largest (DeepSeek-V3).
    TwoBest,
}

/// Groups of experts that stand beside each other, of which only the experts of some are chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Groups {
    /// All of them.
    pub all: usize,
    /// Of how many experts are chosen: those with the largest scores.
    pub best: usize,
    /// What these are.
    pub scores: GroupScores,
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
    /// What they are divided by at least (ERNIE 4.5).
    pub least: f32,
    /// What they are multiplied with then.
    pub scale: f64,
    /// Whether something is added to the scores for the choice alone.
    pub biased: bool,
    /// Whether that is stored as a matrix of one row (ERNIE 4.5).
    pub bias_row: bool,
    /// The groups they stand in, where they do.
    pub groups: Option<Groups>,
    /// `f` of the expert that all tokens go through, where there is one.
    pub shared: Option<usize>,
    /// Whether what it gives is multiplied with a sigmoid of the token.
    pub shared_weight: bool,
    /// Whether the router's products have a bias.
    pub router_bias: bool,
    /// What gate and up become together, where that is not the activation of gate, times up.
    pub clamped: Option<ClampedSwiglu>,
    /// How all experts lie in two tensors, where they do.
    pub stacked: Option<Stacked>,
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
    /// Every `moe_layer_interval`-th of those from `moe_layer_start_index` (1, when absent) to `moe_layer_end_index`,
    /// which is the last where that is -1 or absent (ERNIE 4.5).
    Range,
}

/// Which keys a family has for its [`Experts`], and what they are where the keys are absent.
#[derive(Clone, Copy, Debug)]
pub struct ExpertRule {
    /// The number of experts, by the first of these keys that there is.
    pub count: (&'static [&'static str], usize),
    /// `num_experts_per_tok`; 0 where the key is needed.
    pub chosen: usize,
    /// Another name of that key, which comes first.
    pub chosen_key: Option<&'static str>,
    /// The width of an expert.
    pub size: (&'static str, Option<usize>),
    /// RouterScores.
    pub scores: RouterScores,
    /// The key that says whether scores are divided by their sum, and what holds without it.
    pub normed: (Option<&'static str>, bool),
    /// What `moe_norm_min` is where that key is absent, in a family that reads it.
    pub least: Option<f64>,
    /// What `routed_scaling_factor` is where that key is absent, in a family that reads it.
    pub scaled: Option<f64>,
    /// Whether something is added to the scores for the choice alone.
    pub biased: bool,
    /// Whether that is stored as a matrix of one row.
    pub bias_row: bool,
    /// How experts are grouped.
    pub groups: Option<GroupRule>,
    /// The width of the shared expert: its key, and where that is how many experts wide it is, which may be absent.
    pub shared: Option<(&'static str, Option<usize>)>,
    /// Whether the shared expert has a weight for each token.
    pub shared_weight: bool,
    /// Whether the router's products have a bias.
    pub router_bias: bool,
    /// Of gate and up held within a limit, what `swiglu_alpha` and `swiglu_limit` are where the keys are absent.
    pub clamped: Option<ClampedSwiglu>,
    /// How all experts lie in two tensors, where they do.
    pub stacked: Option<Stacked>,
    /// Layers that have them.
    pub at: ExpertsAt,
}

/// How a family groups its experts.
#[derive(Clone, Copy, Debug)]
pub struct GroupRule {
    /// What groups are judged by.
    pub scores: GroupScores,
    /// What `n_group` and `topk_group` are where the keys are absent.
    pub usual: (usize, usize),
    /// Whether there are groups only where `topk_method` is `group_limited_greedy`, and not where it is `greedy`, which
    /// it is where it is absent (DeepSeek-V2).
    pub switched: bool,
}

impl GroupRule {
    /// One group where the config does not say it.
    pub(super) const TWO_BEST: Self = Self { scores: GroupScores::TwoBest, usual: (1, 1), switched: false };
}

/// What Mixtral has, from which others differ.
pub(super) const MIXTRAL_EXPERTS: ExpertRule = ExpertRule {
    count: (&["num_local_experts", "num_experts"], 8),
    chosen: 2,
    chosen_key: None,
    size: ("intermediate_size", None),
    scores: RouterScores::Softmax,
    normed: (None, true),
    least: None,
    scaled: None,
    biased: false,
    bias_row: false,
    groups: None,
    shared: None,
    shared_weight: false,
    router_bias: false,
    clamped: None,
    stacked: None,
    at: ExpertsAt::All,
};

impl ExpertRule {
    /// The keys that are read.
    pub(super) fn keys(self) -> impl Iterator<Item = &'static str> {
        let own = [self.size.0, "num_experts_per_tok"].into_iter().chain(self.chosen_key);
        let groups: &[&str] = if self.groups.is_some() { &["n_group", "topk_group"] } else { &[] };
        own.chain(groups.iter().copied()).chain(self.count.0.iter().copied()).chain(self.shared.map(|(key, _)| key))
    }
}

impl Experts {
    /// Their tensors, in the order of computation.
    pub(super) fn roles(&self) -> Vec<Role> {
        let mut roles = vec![Role::Router];
        roles.extend(self.biased.then_some(Role::RouterBias));
        match self.stacked {
            Some(_) => roles.extend([Role::ExpertsGateUp, Role::ExpertsDown]),
            None => roles.extend((0..self.count as u16).flat_map(|expert| self.matrices_of(expert))),
        }
        if self.shared.is_some() {
            roles.extend([Role::SharedGate, Role::SharedUp, Role::SharedDown]);
            roles.extend(self.shared_weight.then_some(Role::SharedWeight));
        }
        roles
    }

    /// The matrices of expert `expert`, in the order of computation.
    pub(crate) fn matrices_of(&self, expert: u16) -> Vec<Role> {
        match self.stacked {
            Some(_) => vec![Role::ExpertGateUp(expert), Role::ExpertDown(expert)],
            None => vec![Role::ExpertGate(expert), Role::ExpertUp(expert), Role::ExpertDown(expert)],
        }
    }

    /// Whether the tensor `role` has a bias, where those of other MLPs have one or not.
    pub(super) fn has_bias(&self, role: Role, mlp_bias: bool) -> bool {
        match role {
            Role::SharedGate | Role::SharedUp | Role::SharedDown => mlp_bias,
            Role::Router => self.router_bias,
            stacked => stacked.is_stacked() && self.stacked == Some(Stacked::Columns),
        }
    }

    /// The shape of the tensor `role` in a stream of width `d`.
    pub(crate) fn shape(&self, role: Role, d: usize) -> Vec<usize> {
        let (n, f, shared) = (self.count, self.size, self.shared.unwrap_or(0));
        match role {
            Role::Router => vec![n, d],
            Role::RouterBias if self.bias_row => vec![1, n],
            Role::RouterBias => vec![n],
            Role::ExpertGate(_) | Role::ExpertUp(_) => vec![f, d],
            Role::ExpertGateUp(_) => vec![2 * f, d],
            Role::ExpertDown(_) => vec![d, f],
            Role::ExpertsGateUp if self.stacked == Some(Stacked::Columns) => vec![n, d, 2 * f],
            Role::ExpertsDown if self.stacked == Some(Stacked::Columns) => vec![n, f, d],
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
    let usual = (rule.chosen > 0).then_some(rule.chosen);
    let chosen_key = rule.chosen_key.filter(|key| keys.get(key).is_some()).unwrap_or("num_experts_per_tok");
    let chosen = keys.needed(chosen_key, keys.size(chosen_key)?.or(usual))?;
    if chosen > count {
        return Err(Error::work(format!("{chosen_key} is {chosen}, expected at most {count_key}, {count}")));
    }
    let (key, default) = rule.size;
    let size = keys.needed(key, keys.size(key)?.or(default))?;
    let normed = match rule.normed {
        (Some(key), default) => keys.flag(key)?.unwrap_or(default),
        (None, false) if keys.flag("norm_topk_prob")?.unwrap_or(false) => {
            let fault = "norm_topk_prob is true, which transformers passes over in such a model and others do not";
            return Err(Error::request(fault));
        }
        (None, always) => always,
    };
    let scale = match rule.scaled {
        Some(usual) => keys.positive("routed_scaling_factor")?.unwrap_or(usual),
        None => 1.0,
    };
    let shared = match rule.shared {
        None => None,
        Some((key, None)) => Some(keys.needed(key, keys.size(key)?)?),
        Some((key, Some(default))) => {
            let count = keys.count(key)?.unwrap_or(default);
            (count > 0).then(|| count.saturating_mul(size))
        }
    };
    if let (Some((key, _)), Some(width)) = (rule.shared, shared.filter(|width| *width > 1 << 24)) {
        return Err(Error::work(format!("{key} makes an expert {width} wide, expected at most {}", 1 << 24)));
    }
    let clamped = rule.clamped.map(|ClampedSwiglu { alpha, limit }| {
        let of = |key, default| Ok::<_, Error>(keys.positive(key)?.map_or(default, |number| number as f32));
        Ok::<_, Error>(ClampedSwiglu { alpha: of("swiglu_alpha", alpha)?, limit: of("swiglu_limit", limit)? })
    });
    let experts = Experts {
        count,
        chosen,
        size,
        scores: rule.scores,
        normed,
        least: match rule.least {
            Some(usual) => keys.positive("moe_norm_min")?.unwrap_or(usual) as f32,
            None => 0.0,
        },
        scale,
        biased: rule.biased,
        bias_row: rule.bias_row,
        groups: rule.groups.map_or(Ok(None), |rule| groups(keys, rule, (count, chosen)))?,
        shared,
        shared_weight: rule.shared_weight,
        router_bias: rule.router_bias,
        clamped: clamped.transpose()?,
        stacked: rule.stacked,
    };
    Ok((Some(experts), sparse(keys, rule.at, layers)?))
}

/// Groups of `count` experts, where there are several.
fn groups(keys: &Keys<'_>, rule: GroupRule, (count, chosen): (usize, usize)) -> Result<Option<Groups>> {
    if rule.switched {
        match keys.text("topk_method")?.unwrap_or("greedy") {
            "greedy" => return Ok(None),
            "group_limited_greedy" => {}
            other => {
                let fault = format!("topk_method is {other:?}; computed are greedy and group_limited_greedy");
                return Err(Error::request(fault));
            }
        }
    }
    let number = |key, usual| Ok::<_, Error>(keys.size(key)?.unwrap_or(usual));
    let (all, some) = (number("n_group", rule.usual.0)?, number("topk_group", rule.usual.1)?);
    let each = count / all;
    if all == 1 && some == 1 {
        return Ok(None);
    }
    let least = if rule.scores == GroupScores::TwoBest { 2 } else { 1 };
    if !count.is_multiple_of(all) || each < least {
        return Err(Error::work(format!(
            "n_group is {all}, expected groups of {least} or more of the {count} experts"
        )));
    }
    if some > all || chosen > some * each {
        let fault = format!("topk_group is {some}, expected groups, of {all}, in which {chosen} experts can be chosen");
        return Err(Error::work(fault));
    }
    Ok(Some(Groups { all, best: some, scores: rule.scores }))
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
        ExpertsAt::Range => {
            let first = keys.count("moe_layer_start_index")?.unwrap_or(1);
            let step = keys.size("moe_layer_interval")?.unwrap_or(1);
            let end = match keys.get("moe_layer_end_index") {
                Some(value) if value.as_i64() != Some(-1) => keys.count("moe_layer_end_index")?.unwrap_or(layers),
                _ => layers,
            };
            Ok((0..layers).map(|l| (l + 1).is_multiple_of(step) && (first..=end).contains(&l)).collect())
        }
    }
}
