//! Multipliers and caps, as configs spell them.

use super::keys::Keys;
use super::kinds::{MultiplierRule, Multipliers};
use crate::Result;

impl Multipliers {
    /// A Llama's, with heads of `head_dim`: scores are multiplied with one over its root, and nothing else is.
    #[must_use]
    pub fn plain(head_dim: usize) -> Self {
        let scores = (head_dim as f64).sqrt().recip();
        Self { embedding: 1.0, residual: 1.0, scores, logits: 1.0, score_cap: None, logit_cap: None }
    }
}

/// Reads the multipliers of a model with heads of `head_dim` in a stream of `hidden_size`.
pub(super) fn read(
    keys: &Keys<'_>,
    rule: MultiplierRule,
    (hidden_size, head_dim): (usize, usize),
) -> Result<Multipliers> {
    let root = |n: f64| n.sqrt().recip();
    let plain = Multipliers::plain(head_dim);
    let above_zero = |key: &str, default: f64| Ok::<_, crate::Error>(keys.positive(key)?.unwrap_or(default));
    // absent is the family's default, null is no cap
    let cap = |key: &str, default: f64| match keys.map().get(key) {
        None => Ok(Some(default)),
        Some(_) => keys.positive(key),
    };
    Ok(match rule {
        MultiplierRule::Plain => plain,
        MultiplierRule::Granite => Multipliers {
            embedding: above_zero("embedding_multiplier", 1.0)?,
            residual: above_zero("residual_multiplier", 1.0)?,
            scores: above_zero("attention_multiplier", 1.0)?,
            logits: above_zero("logits_scaling", 1.0)?.recip(),
            ..plain
        },
        MultiplierRule::Gemma { query_pre_attn_scalar, caps } => {
            let scores = match query_pre_attn_scalar {
                Some(default) => root(above_zero("query_pre_attn_scalar", default as f64)?),
                None => plain.scores,
            };
            let [score_cap, logit_cap] = match caps {
                Some([scores, logits]) => {
                    [cap("attn_logit_softcapping", scores)?, cap("final_logit_softcapping", logits)?]
                }
                None => [None, None],
            };
            Multipliers { embedding: (hidden_size as f64).sqrt(), scores, score_cap, logit_cap, ..plain }
        }
        MultiplierRule::Cohere(default) => Multipliers { logits: above_zero("logit_scale", default)?, ..plain },
    })
}
