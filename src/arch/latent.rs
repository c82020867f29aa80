//! Latent attention (DeepSeek-V2, arXiv 2405.04434): a token's keys and values come from one short vector, and all
//! heads share the part of a key that is rotated.

use serde_json::Value;

use super::Role;
use super::keys::Keys;
use crate::{Error, Result};

/// Widths of latent attention.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Latent {
    /// Width of the vector that queries come from; without one they come from the stream.
    pub q_rank: Option<usize>,
    /// Width of the vector that keys and values come from.
    pub kv_rank: usize,
    /// Numbers of a query or key head that no position turns; they come first.
    pub unrotated: usize,
    /// Numbers that positions turn, which keys have once for all heads.
    pub rotated: usize,
    /// Numbers of a value head.
    pub value: usize,
}

/// What the widths are where their keys are absent, and the key that says whether rotations turn neighbours.
#[derive(Clone, Copy, Debug)]
pub struct LatentRule {
    /// Widths.
    pub usual: Latent,
    /// Without one they always do.
    pub interleave: Option<&'static str>,
}

/// DeepSeek's, V2 and V3.
pub(super) const DEEPSEEK_LATENT: LatentRule = LatentRule {
    usual: Latent { q_rank: Some(1536), kv_rank: 512, unrotated: 128, rotated: 64, value: 128 },
    interleave: None,
};

impl LatentRule {
    /// The keys that are read.
    pub(super) fn keys() -> [&'static str; 2] {
        ["q_lora_rank", "kv_lora_rank"]
    }
}

impl Latent {
    /// Epsilon of the norms of both vectors, whatever the config says of others.
    pub const EPS: f64 = 1e-6;

    /// Numbers of a query or key head.
    #[must_use]
    pub fn key(&self) -> usize {
        self.unrotated + self.rotated
    }

    /// Numbers of a head that attention computes with: the wider of keys and values, of which the others are filled up
    /// with zeros.
    #[must_use]
    pub fn head_dim(&self) -> usize {
        self.key().max(self.value)
    }

    /// The tensors, in the order of computation.
    pub(super) fn roles(&self) -> Vec<Role> {
        let q: &[Role] = if self.q_rank.is_some() { &[Role::QDown, Role::QDownNorm, Role::QUp] } else { &[Role::Q] };
        [q, &[Role::KvDown, Role::KvDownNorm, Role::KvUp, Role::O]].concat()
    }

    /// The shape of the tensor `role`, of `heads` heads in a stream of width `d`; none where attention lacks it.
    pub(super) fn shape(&self, role: Role, (d, heads): (usize, usize)) -> Option<Vec<usize>> {
        let q_rank = self.q_rank.unwrap_or(0);
        Some(match role {
            Role::Q => vec![heads * self.key(), d],
            Role::QDown => vec![q_rank, d],
            Role::QDownNorm => vec![q_rank],
            Role::QUp => vec![heads * self.key(), q_rank],
            Role::KvDown => vec![self.kv_rank + self.rotated, d],
            Role::KvDownNorm => vec![self.kv_rank],
            Role::KvUp => vec![heads * (self.unrotated + self.value), self.kv_rank],
            Role::O => vec![d, heads * self.value],
            _ => return None,
        })
    }
}

/// The widths of a model whose query heads are `heads`, and key heads `kv_heads`.
///
/// # Errors
/// Work: a number that makes no sense. Request: fewer key heads than query heads. Each names the key.
pub(super) fn read(
    keys: &Keys<'_>,
    rule: Option<LatentRule>,
    (heads, kv_heads): (usize, usize),
) -> Result<Option<Latent>> {
    let Some(LatentRule { usual, .. }) = rule else { return Ok(None) };
    if heads != kv_heads {
        return Err(Error::request(format!(
            "num_key_value_heads is {kv_heads} of {heads} heads; latent attention has keys and values of every head"
        )));
    }
    let size = |key, default| Ok::<_, Error>(keys.size(key)?.unwrap_or(default));
    Ok(Some(Latent {
        q_rank: match keys.map().get("q_lora_rank") {
            // null says that there is none
            Some(Value::Null) => None,
            _ => keys.size("q_lora_rank")?.or(usual.q_rank),
        },
        kv_rank: size("kv_lora_rank", usual.kv_rank)?,
        unrotated: size("qk_nope_head_dim", usual.unrotated)?,
        rotated: size("qk_rope_head_dim", usual.rotated)?,
        value: size("v_head_dim", usual.value)?,
    }))
}
