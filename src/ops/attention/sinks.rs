//! Sinks (gpt-oss): a score of each query head that no key has. It takes its share of the softmax, and no value comes
//! with it.
//!
//! With N = log Σ e^score of the keys, what they give becomes less by σ(N - sink), and N becomes log(e^N + e^sink). The
//! gradients of queries, keys and values are then those of any attention of these sums.

use candle_core::Tensor;

use super::super::exp::exp;
use super::super::rows::with_rows;
use super::super::simd::dot;
use super::{Attended, Heads};
use crate::{Error, Result};

/// Gives the sinks their share of what the keys gave: `out` is `[t, h·e]`, `normalizer` `[t, h]`.
pub(super) fn take_share(heads: &Heads, out: &mut [f32], normalizer: &mut [f32]) {
    let Some(sinks) = &heads.sinks else { return };
    let tokens = out.chunks_exact_mut(heads.heads * heads.head_dim).zip(normalizer.chunks_exact_mut(heads.heads));
    for (out, normalizer) in tokens {
        let own = out.chunks_exact_mut(heads.head_dim).zip(normalizer);
        for ((out, normalizer), sink) in own.zip(sinks) {
            let most = normalizer.max(*sink);
            let (keys, own) = (exp(*normalizer - most), exp(*sink - most));
            let share = keys / (keys + own);
            out.iter_mut().for_each(|out| *out *= share);
            *normalizer = most + (keys + own).ln();
        }
    }
}

/// The gradient of the sinks, `[h]`, from that of what was attended, `dout` `[t, h·e]`, on a CPU: the sum over tokens
/// of -p · (out · dout), p the share of the sink.
///
/// # Errors
/// Shapes that do not fit, heads without sinks, or a device without this kernel.
pub fn sinks_backward(attended: &Attended, dout: &Tensor) -> Result<Tensor> {
    let Attended { out, normalizer, heads, .. } = attended;
    let sinks = heads.sinks.as_deref().ok_or_else(|| Error::work("attention: heads without sinks"))?;
    if dout.dims2()? != out.dims2()? {
        return Err(Error::work(format!("attention: dout is {:?}, out {:?}", dout.shape(), out.shape())));
    }
    let sums = with_rows("attention", [out, dout, normalizer], |[out, dout, normalizer]| {
        let mut sums = vec![0f64; heads.heads];
        for token in 0..out.count {
            for (head, (sum, sink)) in sums.iter_mut().zip(sinks).enumerate() {
                let share = exp(sink - normalizer.row(token)[head]);
                let columns = heads.columns(head);
                *sum -= f64::from(share * dot(&out.row(token)[columns.clone()], &dout.row(token)[columns]));
            }
        }
        Ok(sums)
    })?;
    let sums: Vec<f32> = sums.into_iter().map(|sum| sum as f32).collect();
    Ok(Tensor::from_vec(sums, heads.heads, dout.device())?)
}
