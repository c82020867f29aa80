//! The gate of a gated MLP (arXiv 2002.05202).

use candle_core::Tensor;

use super::cuda::{self, Arg, Grid};
use super::exp::exp;
use super::rows::{AllWritten, filled_rows, with_rows};
use crate::{Error, Result};

/// silu(gate) · up, element by element; both `[t, f]` f32.
///
/// # Errors
/// Shapes that differ, or a device without this kernel.
pub fn swiglu(gate: &Tensor, up: &Tensor) -> Result<Tensor> {
    if gate.dims2()? != up.dims2()? {
        return Err(Error::work(format!("swiglu: gate is {:?}, up {:?}", gate.shape(), up.shape())));
    }
    if gate.device().is_cuda() {
        let (gate, up) = (gate.contiguous()?, cuda::in_type(up, gate.dtype())?);
        let (n, kernel) = (gate.elem_count(), cuda::named("swiglu", &[gate.dtype()]));
        // SAFETY: the kernel for these types reads n numbers of both and writes as many
        return unsafe {
            let y = cuda::empty(gate.shape(), gate.dtype(), gate.device())?;
            let args = [Arg::Tensor(&gate), Arg::Tensor(&up), Arg::Tensor(&y), Arg::Size(n)];
            cuda::launch(&kernel, Grid::over_eights(n), &args)?;
            Ok(y)
        };
    }
    let y = with_rows("swiglu", [gate, up], |[gate, up]| {
        // SAFETY: both are as wide as the row, asked above
        let all_written = unsafe { AllWritten::promised() };
        let [y] = filled_rows(
            gate.count,
            gate.width,
            all_written,
            #[inline(always)]
            |row, [y]| {
                for (y, (gate, up)) in y.iter_mut().zip(gate.row(row).iter().zip(up.row(row))) {
                    y.write(gate * sigmoid(*gate) * up);
                }
            },
        );
        Ok(y)
    })?;
    Ok(Tensor::from_vec(y, gate.shape(), gate.device())?)
}

/// The gradients of [`swiglu`], of gate and up, which are used up: on a GPU their gradients lie where they lay.
///
/// # Errors
/// Shapes that differ, or a device without this kernel.
pub fn swiglu_backward(gate: Tensor, up: Tensor, dy: &Tensor) -> Result<(Tensor, Tensor)> {
    if gate.dims2()? != dy.dims2()? || up.dims2()? != dy.dims2()? {
        return Err(Error::work(format!("swiglu: gate is {:?}, dy {:?}", gate.shape(), dy.shape())));
    }
    if dy.device().is_cuda() {
        let (gate, up) = (gate.contiguous()?, cuda::in_type(&up, gate.dtype())?);
        let (dy, n) = (cuda::in_type(dy, gate.dtype())?, gate.elem_count());
        let tensors = [&gate, &up, &dy, &gate, &up].map(Arg::Tensor);
        let kernel = cuda::named("swiglu_backward", &[gate.dtype()]);
        // SAFETY: all hold n numbers of the kernel's type; a gradient is written where its input has been read
        unsafe { cuda::launch(&kernel, Grid::over_eights(n), &[&tensors[..], &[Arg::Size(n)]].concat())? };
        return Ok((gate, up));
    }
    let (dgate, dup) = with_rows("swiglu", [&gate, &up, dy], |[gate, up, dy]| {
        // SAFETY: all three are as wide as the rows, asked above
        let all_written = unsafe { AllWritten::promised() };
        let [dgate, dup] = filled_rows(
            gate.count,
            gate.width,
            all_written,
            #[inline(always)]
            |row, [dgate, dup]| {
                let inputs = gate.row(row).iter().zip(up.row(row)).zip(dy.row(row));
                for ((dgate, dup), ((gate, up), dy)) in dgate.iter_mut().zip(dup).zip(inputs) {
                    let sigmoid = sigmoid(*gate);
                    let silu = gate * sigmoid;
                    dgate.write(dy * up * (sigmoid + silu * (1.0 - sigmoid)));
                    dup.write(dy * silu);
                }
            },
        );
        Ok((dgate, dup))
    })?;
    Ok((Tensor::from_vec(dgate, gate.shape(), gate.device())?, Tensor::from_vec(dup, up.shape(), up.device())?))
}

/// 1 / (1 + e^-x).
#[inline(always)]
fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + exp(-x))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::testing::{as_view, assert_close, assert_same_on_any_threads, check, random};
    use crate::reference;

    #[test]
    fn agrees_with_the_formula() {
        for (t, f) in [(1, 1), (1, 77), (5, 33), (40, 300), (300, 257)] {
            let inputs = [(random(1, t, f) * 9.0).unwrap(), random(2, t, f)];
            check(
                &inputs,
                |x| swiglu(&x[0], &x[1]),
                |x, dy| swiglu_backward(x[0].clone(), x[1].clone(), dy).map(|(dgate, dup)| vec![dgate, dup]),
                |x| reference::swiglu(&x[0], &x[1]),
                1e-6,
            );
        }
    }

    #[test]
    fn views_extremes_and_threads() {
        let (gate, up) = (random(1, 70, 1000), random(2, 70, 1000));
        let expected = swiglu(&gate, &up).unwrap();
        assert_close("view", &swiglu(&as_view(&gate), &as_view(&up)).unwrap(), &expected, 0.0);
        assert_same_on_any_threads(|| vec![swiglu(&gate, &up).unwrap()]);
        let extremes = Tensor::new(&[[-1e30f32, -100.0, 100.0, f32::NAN]], gate.device()).unwrap();
        let y = swiglu(&extremes, &extremes.ones_like().unwrap()).unwrap().to_vec2::<f32>().unwrap();
        assert_eq!(y[0][..3], [0.0, 0.0, 100.0]);
        assert!(y[0][3].is_nan());
        assert!(swiglu(&gate, &up.t().unwrap()).is_err());
    }
}
