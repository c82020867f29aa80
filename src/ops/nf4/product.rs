//! Products with a four-bit weight.

use std::ops::Range;
use std::sync::Arc;

use candle_core::{CpuStorage, CustomOp1, Layout, Shape, Tensor, bail};

use super::Nf4Weight;
use crate::ops::panels::{self, Matrix};
use crate::{Error, Result};

/// x·Wᵀ with a frozen four-bit weight `[o, i]`: `x` is `[t, i]` f32, the product `[t, o]` f32. Weights are decoded
/// straight to f32, a panel at a time. Only `x` receives a gradient, and only where something below asks for it.
///
/// # Errors
/// Shapes that do not fit, or a device without this kernel.
pub fn nf4_linear(x: &Tensor, weight: &Arc<Nf4Weight>) -> Result<Tensor> {
    let (_, inputs) = x.dims2()?;
    if inputs != weight.columns {
        return Err(Error::work(format!("nf4_linear: x is {:?}, the weight {:?}", x.shape(), weight.shape())));
    }
    Ok(x.contiguous()?.apply_op1(Forward(Arc::clone(weight)))?)
}

/// dy·W: `dy` is `[t, o]` f32, the product `[t, i]` f32. No gradient.
///
/// # Errors
/// Shapes that do not fit, or a device without this kernel.
pub fn nf4_linear_backward(dy: &Tensor, weight: &Arc<Nf4Weight>) -> Result<Tensor> {
    let (_, outputs) = dy.dims2()?;
    if outputs != weight.rows {
        return Err(Error::work(format!("nf4_linear: dy is {:?}, the weight {:?}", dy.shape(), weight.shape())));
    }
    Ok(dy.contiguous()?.apply_op1_no_bwd(&Backward(Arc::clone(weight)))?)
}

impl Matrix for Nf4Weight {
    fn shape(&self) -> (usize, usize) {
        self.shape()
    }

    fn part(&self, rows: Range<usize>, columns: Range<usize>, out: &mut [f32]) {
        for (row, out) in rows.zip(out.chunks_mut(columns.len())) {
            self.decode(row * self.columns + columns.start, out);
        }
    }
}

/// x ↦ x·Wᵀ.
struct Forward(Arc<Nf4Weight>);

/// g ↦ g·W.
struct Backward(Arc<Nf4Weight>);

/// The numbers of a contiguous f32 tensor.
fn numbers<'a>(storage: &'a CpuStorage, layout: &Layout) -> candle_core::Result<&'a [f32]> {
    match (storage, layout.contiguous_offsets()) {
        (CpuStorage::F32(numbers), Some((begin, end))) => Ok(&numbers[begin..end]),
        _ => bail!("nf4_linear: expected contiguous f32 numbers"),
    }
}

impl CustomOp1 for Forward {
    fn name(&self) -> &'static str {
        "nf4_linear"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> candle_core::Result<(CpuStorage, Shape)> {
        let (tokens, _) = layout.shape().dims2()?;
        let mut y = vec![0_f32; tokens * self.0.rows];
        panels::times_transposed(numbers(storage, layout)?, &*self.0, &mut y, false);
        Ok((CpuStorage::F32(y), (tokens, self.0.rows).into()))
    }

    fn bwd(&self, x: &Tensor, _y: &Tensor, grad: &Tensor) -> candle_core::Result<Option<Tensor>> {
        if !x.track_op() {
            return Ok(None);
        }
        grad.contiguous()?.apply_op1_no_bwd(&Backward(Arc::clone(&self.0))).map(Some)
    }
}

impl CustomOp1 for Backward {
    fn name(&self) -> &'static str {
        "nf4_linear_backward"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> candle_core::Result<(CpuStorage, Shape)> {
        let (tokens, _) = layout.shape().dims2()?;
        let mut dx = vec![0_f32; tokens * self.0.columns];
        panels::times(numbers(storage, layout)?, &*self.0, &mut dx, false);
        Ok((CpuStorage::F32(dx), (tokens, self.0.columns).into()))
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{DType, Device, Var};

    use super::*;

    fn random(rows: usize, columns: usize) -> Tensor {
        Tensor::rand(-1.0_f32, 1.0, (rows, columns), &Device::Cpu).unwrap()
    }

    fn difference(a: &Tensor, b: &Tensor) -> f32 {
        (a - b).unwrap().abs().unwrap().flatten_all().unwrap().max(0).unwrap().to_scalar().unwrap()
    }

    /// The product and its gradient equal those of the decoded matrix, for shapes that divide nothing.
    #[test]
    fn equals_the_decoded_matrix() {
        for (tokens, outputs, inputs) in [(1, 3, 5), (7, 130, 65), (600, 64, 128), (33, 200, 600), (5, 1030, 64)] {
            for double in [false, true] {
                let weight = Arc::new(Nf4Weight::quantise(&random(outputs, inputs), double).unwrap());
                let dense = weight.dequantise(DType::F32, &Device::Cpu).unwrap();
                let x = Var::from_tensor(&random(tokens, inputs)).unwrap();
                let grad = random(tokens, outputs);
                let run = |y: Tensor| {
                    let grads = (&y * &grad).unwrap().sum_all().unwrap().backward().unwrap();
                    (y, grads.get(&x).unwrap().clone())
                };
                let (y, dx) = run(nf4_linear(&x, &weight).unwrap());
                let (expected_y, expected_dx) = run(x.matmul(&dense.t().unwrap()).unwrap());
                assert!(difference(&y, &expected_y) < 2e-4 && difference(&dx, &expected_dx) < 2e-4);
            }
        }
    }

    /// No gradient is computed for an input that nothing asks about.
    #[test]
    fn an_untracked_input_gets_no_gradient() {
        let weight = Arc::new(Nf4Weight::quantise(&random(8, 64), false).unwrap());
        let x = random(2, 64);
        assert!(Forward(weight).bwd(&x, &x, &random(2, 8)).unwrap().is_none());
    }
}
