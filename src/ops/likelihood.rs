//! What the vocabulary head is asked for: log-likelihoods of given tokens, and the training loss.

use candle_core::{D, DType, IndexOp, Tensor};

use super::linear;
use crate::{Error, Result};

/// One candidate token of one row.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Scored {
    /// Natural logarithm of the token's probability.
    pub log_likelihood: f32,
    /// Whether it is the most likely token of the whole vocabulary; the smallest id wins a tie.
    pub greedy: bool,
}

/// Rows whose logits exist at one time.
const ROWS: usize = 64;

/// Log-likelihoods of candidate tokens: `hidden` is `[t, d]` f32, already normed, `head` `[v, d]` f32, bf16 or f16;
/// `candidates` names, for each of the t rows, the tokens to score there (none, one or several). No gradient.
///
/// # Errors
/// Shapes that do not fit, a token beyond the vocabulary, or a device without this kernel.
pub fn log_likelihood<C: AsRef<[u32]>>(hidden: &Tensor, head: &Tensor, candidates: &[C]) -> Result<Vec<Vec<Scored>>> {
    let (rows, _) = hidden.dims2()?;
    let (vocabulary, _) = head.dims2()?;
    if candidates.len() != rows {
        return Err(Error::work(format!("log_likelihood: {rows} rows and candidates for {}", candidates.len())));
    }
    if let Some(token) = candidates.iter().flat_map(AsRef::as_ref).find(|token| **token as usize >= vocabulary) {
        return Err(Error::work(format!("log_likelihood: token {token} is beyond the vocabulary of {vocabulary}")));
    }
    let mut scored = Vec::with_capacity(rows);
    for start in (0..rows).step_by(ROWS) {
        let logits = linear(&hidden.narrow(0, start, ROWS.min(rows - start))?.detach(), head)?;
        for (logits, candidates) in logits.to_vec2::<f32>()?.iter().zip(&candidates[start..]) {
            let (best, max) = logits.iter().enumerate().fold((0, f32::NEG_INFINITY), |best, (token, logit)| {
                if *logit > best.1 { (token, *logit) } else { best }
            });
            let sum: f32 = logits.iter().map(|logit| (logit - max).exp()).sum();
            let score = |token: &u32| Scored {
                log_likelihood: logits[*token as usize] - max - sum.ln(),
                greedy: best == *token as usize,
            };
            scored.push(candidates.as_ref().iter().map(score).collect());
        }
    }
    Ok(scored)
}

/// Sum over the rows of -ln p(target), a scalar f32: `hidden` is `[t, d]` f32, already normed, `head` `[v, d]` f32,
/// bf16 or f16; a row whose target is `None` does not count. Gradients for `hidden`, and for `head` if it is tracked.
///
/// # Errors
/// Shapes that do not fit, a target beyond the vocabulary, or a device without this kernel.
pub fn cross_entropy(hidden: &Tensor, head: &Tensor, targets: &[Option<u32>]) -> Result<Tensor> {
    let (rows, _) = hidden.dims2()?;
    let vocabulary = head.dim(0)?;
    if targets.len() != rows {
        return Err(Error::work(format!("cross_entropy: {rows} rows and {} targets", targets.len())));
    }
    let logits = super::trainable_linear(hidden, head)?;
    let mut sum = Tensor::zeros((), DType::F32, hidden.device())?;
    for (row, target) in targets.iter().enumerate() {
        let Some(target) = *target else { continue };
        if target as usize >= vocabulary {
            return Err(Error::work(format!("cross_entropy: token {target} is beyond the vocabulary of {vocabulary}")));
        }
        let logits = logits.i(row)?;
        sum = ((sum + logits.log_sum_exp(D::Minus1)?)? - logits.i(target as usize)?)?;
    }
    Ok(sum)
}
