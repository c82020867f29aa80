//! The cross-entropy as an op with gradients, which are computed along with it.

use std::sync::OnceLock;

use candle_core::{CpuStorage, CustomOp2, DType, Layout as Strides, Shape, Tensor, bail};

use super::likelihood::log_likelihood;
use super::linear::with_dense;
use super::objective::{Gradients, Work, present};
use super::rows::{Rows, by_rows};
use crate::{Error, Result};

/// Sum over the rows of -ln p(target), a scalar f32: `hidden` is `[t, d]` f32, already normed, `head` `[v, d]` f32,
/// bf16 or f16; a row whose target is `None` does not count and costs nothing. Gradients for `hidden`, and for `head`
/// if it is tracked (f32 then). Without tracked inputs only the loss is computed.
///
/// # Errors
/// Shapes that do not fit, a target beyond the vocabulary, a tracked narrow head, or a device without this kernel.
pub fn cross_entropy(hidden: &Tensor, head: &Tensor, targets: &[Option<u32>]) -> Result<Tensor> {
    let ((rows, d), (vocabulary, head_d)) = (hidden.dims2()?, head.dims2()?);
    if rows != targets.len() || d != head_d || d == 0 || vocabulary == 0 {
        return Err(Error::work(format!(
            "cross_entropy: hidden is {:?}, head {:?}, targets for {} rows",
            hidden.shape(),
            head.shape(),
            targets.len()
        )));
    }
    if let Some(token) = targets.iter().flatten().find(|token| **token as usize >= vocabulary) {
        return Err(Error::work(format!("token {token} is beyond the vocabulary of {vocabulary}")));
    }
    if !hidden.track_op() && !head.track_op() {
        let scored = log_likelihood(hidden, head, &targets.iter().map(Option::as_slice).collect::<Vec<_>>())?;
        let loss: f64 = scored.iter().flatten().map(|scored| -f64::from(scored.log_likelihood)).sum();
        return Ok(Tensor::new(loss as f32, hidden.device())?);
    }
    if head.track_op() && head.dtype() != DType::F32 {
        return Err(Error::work(format!("cross_entropy: a trained head is f32, this one {:?}", head.dtype())));
    }
    let targets = present(targets);
    let op = CrossEntropy { targets, head_tracked: head.track_op(), gradients: OnceLock::new() };
    Ok(by_rows(hidden)?.apply_op2(&by_rows(head)?, op)?)
}

struct CrossEntropy {
    /// The rows that count, and their tokens.
    targets: Vec<(usize, usize)>,
    head_tracked: bool,
    /// Of the sum, computed along with it.
    gradients: OnceLock<Gradients>,
}

impl CustomOp2 for CrossEntropy {
    fn name(&self) -> &'static str {
        "cross_entropy"
    }

    fn cpu_fwd(
        &self,
        hidden: &CpuStorage,
        hidden_strides: &Strides,
        head: &CpuStorage,
        head_strides: &Strides,
    ) -> candle_core::Result<(CpuStorage, Shape)> {
        let hidden = Rows::new(self.name(), hidden, hidden_strides)?;
        let work = Work { hidden, targets: &self.targets, teacher: None, of_head: self.head_tracked };
        let (sums, gradients) = with_dense(head, head_strides, work)??;
        self.gradients.get_or_init(|| gradients);
        Ok((CpuStorage::F32(vec![sums.loss as f32]), Shape::from(())))
    }

    fn bwd(
        &self,
        hidden: &Tensor,
        head: &Tensor,
        _loss: &Tensor,
        dloss: &Tensor,
    ) -> candle_core::Result<(Option<Tensor>, Option<Tensor>)> {
        let Some(gradients) = self.gradients.get() else { bail!("cross_entropy: backward before forward") };
        let dloss = dloss.to_scalar::<f32>()?;
        let scaled = |gradient: &[f32], like: &Tensor| {
            let gradient = gradient.iter().map(|gradient| gradient * dloss).collect();
            Tensor::from_vec(gradient, like.shape(), like.device())
        };
        Ok((
            hidden.track_op().then(|| scaled(&gradients.hidden, hidden)).transpose()?,
            self.head_tracked.then(|| scaled(&gradients.head, head)).transpose()?,
        ))
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{D, Var};

    use super::*;
    use crate::ops::testing::{as_view, assert_close, assert_same_on_any_threads, check, random};

    fn targets(rows: usize, vocabulary: usize) -> Vec<Option<u32>> {
        (0..rows).map(|row| (row % 5 != 3).then_some((row * 7919 % vocabulary) as u32)).collect()
    }

    fn formula(hidden: &Tensor, head: &Tensor, targets: &[Option<u32>]) -> candle_core::Result<Tensor> {
        let log_p = candle_nn::ops::log_softmax(&hidden.matmul(&head.t()?)?, D::Minus1)?;
        let mut sum = Tensor::zeros((), hidden.dtype(), hidden.device())?;
        for (row, token) in targets.iter().enumerate() {
            if let Some(token) = token {
                sum = (sum - log_p.get(row)?.get(*token as usize)?)?;
            }
        }
        Ok(sum)
    }

    #[test]
    fn agrees_with_the_formula() {
        for (t, d, v) in [(1, 3, 5), (6, 33, 100), (70, 16, 130), (600, 8, 37)] {
            let (targets, head) = (targets(t, v), random(2, v, d));
            let inputs = [(random(1, t, d) * 3.0).unwrap(), head.clone()];
            check(&inputs, |x| cross_entropy(&x[0], &x[1], &targets), |x| formula(&x[0], &x[1], &targets), 5e-6);
            let exact = head.to_dtype(DType::F64).unwrap();
            check(&inputs[..1], |x| cross_entropy(&x[0], &head, &targets), |x| formula(&x[0], &exact, &targets), 5e-6);
        }
    }

    #[test]
    fn narrow_heads_views_and_absent_targets() {
        let (hidden, head) = (random(1, 20, 24), random(2, 50, 24).to_dtype(DType::BF16).unwrap());
        let targets = targets(20, 50);
        let gradient = |hidden: &Tensor, head: &Tensor, targets: &[Option<u32>]| {
            let hidden = Var::from_tensor(hidden).unwrap();
            let loss = cross_entropy(&hidden, head, targets).unwrap();
            (loss.clone(), loss.backward().unwrap().get(&hidden).unwrap().clone())
        };
        let wide = gradient(&hidden, &head.to_dtype(DType::F32).unwrap(), &targets);
        let narrow = gradient(&hidden, &as_view(&head), &targets);
        assert_close("loss", &narrow.0, &wide.0, 0.0);
        assert_close("gradient", &narrow.1, &wide.1, 0.0);
        let (loss, none) = gradient(&hidden, &head, &[None; 20]);
        assert_eq!(loss.to_scalar::<f32>().unwrap(), 0.0);
        assert_close("gradient", &none, &hidden.zeros_like().unwrap(), 0.0);
        let tracked = Var::from_tensor(&head).unwrap();
        assert!(cross_entropy(&hidden, &tracked, &targets).is_err());
        assert!(cross_entropy(&hidden, &head, &[Some(50); 20]).is_err());
        assert!(cross_entropy(&hidden, &head, &targets[..19]).is_err());
    }

    #[test]
    fn same_on_any_threads() {
        let (hidden, head) = (random(1, 90, 200), random(2, 3000, 200));
        let targets = targets(90, 3000);
        assert_same_on_any_threads(|| {
            let (hidden, head) = (Var::from_tensor(&hidden).unwrap(), Var::from_tensor(&head).unwrap());
            let loss = cross_entropy(&hidden, &head, &targets).unwrap();
            let grads = loss.backward().unwrap();
            vec![loss, grads.get(&hidden).unwrap().clone(), grads.get(&head).unwrap().clone()]
        });
    }
}
