//! Rotary position embedding (arXiv 2104.09864): numbers half a head apart turn together, as in transformers'
//! `rotate_half`, or neighbours, as in the paper.

use candle_core::{DType, Tensor};

use super::cuda::{self, Arg, Grid};
use super::rows::{AllWritten, Rows, filled_rows, with_rows};
use crate::{Error, Result};

/// Rotates the first `rot` numbers of each head: number j and number j + rot/2 turn by the angle of their row.
/// `x` is `[t, n·e]` for any number of heads n of `head_dim` e; `cos` and `sin` are `[t, rot/2]`, rot ≤ e; all f32.
///
/// # Errors
/// Shapes that do not fit, or a device without this kernel.
pub fn rope(x: &Tensor, cos: &Tensor, sin: &Tensor, head_dim: usize) -> Result<Tensor> {
    turn(x, cos, sin, Rope { head_dim, back: false })
}

/// [`rope`] in which numbers 2j and 2j + 1 turn by angle j.
///
/// # Errors
/// Shapes that do not fit, or a device without this kernel.
pub fn rope_interleaved(x: &Tensor, cos: &Tensor, sin: &Tensor, head_dim: usize) -> Result<Tensor> {
    apart(rope(&together(x, head_dim, cos)?, cos, sin, head_dim)?, head_dim, cos)
}

/// The gradient of [`rope_interleaved`].
///
/// # Errors
/// Shapes that do not fit, or a device without this kernel.
pub fn rope_interleaved_backward(dy: &Tensor, cos: &Tensor, sin: &Tensor, head_dim: usize) -> Result<Tensor> {
    apart(rope_backward(&together(dy, head_dim, cos)?, cos, sin, head_dim)?, head_dim, cos)
}

/// Of the first numbers of each head, two for each angle, those at even places and then those at odd ones.
fn together(x: &Tensor, head_dim: usize, cos: &Tensor) -> Result<Tensor> {
    reordered(x, head_dim, cos.dim(1)?, |half| (half, 2))
}

/// Undoes [`together`].
fn apart(x: Tensor, head_dim: usize, cos: &Tensor) -> Result<Tensor> {
    reordered(&x, head_dim, cos.dim(1)?, |half| (2, half))
}

/// The first 2·`half` numbers of each head as a matrix of `sides`, transposed.
fn reordered(x: &Tensor, head_dim: usize, half: usize, sides: fn(usize) -> (usize, usize)) -> Result<Tensor> {
    let (t, width) = x.dims2()?;
    if head_dim == 0 || width % head_dim != 0 || 2 * half > head_dim {
        return Err(Error::work(format!("rope: x is {:?}, heads of {head_dim}, {half} angles", x.shape())));
    }
    let (heads, (rows, columns)) = (t * width / head_dim, sides(half));
    let x = x.contiguous()?.reshape((heads, head_dim))?;
    let turned = x.narrow(1, 0, 2 * half)?.contiguous()?.reshape((heads, rows, columns))?;
    let turned = turned.transpose(1, 2)?.contiguous()?.reshape((heads, 2 * half))?;
    let whole = match head_dim - 2 * half {
        0 => turned,
        rest => Tensor::cat(&[turned, x.narrow(1, 2 * half, rest)?.contiguous()?], 1)?,
    };
    Ok(whole.reshape((t, width))?)
}

/// The gradient of [`rope`]: `dy` turned back.
///
/// # Errors
/// Shapes that do not fit, or a device without this kernel.
pub fn rope_backward(dy: &Tensor, cos: &Tensor, sin: &Tensor, head_dim: usize) -> Result<Tensor> {
    turn(dy, cos, sin, Rope { head_dim, back: true })
}

fn turn(x: &Tensor, cos: &Tensor, sin: &Tensor, op: Rope) -> Result<Tensor> {
    let head_dim = op.head_dim;
    let ((t, width), (rows, half)) = (x.dims2()?, cos.dims2()?);
    if head_dim == 0 || width % head_dim != 0 || 2 * half > head_dim || rows != t || sin.dims2()? != (rows, half) {
        return Err(Error::work(format!(
            "rope: x is {:?}, heads of {head_dim}, cos {:?}, sin {:?}",
            x.shape(),
            cos.shape(),
            sin.shape()
        )));
    }
    if x.device().is_cuda() {
        return op.on_gpu(x, cos, sin);
    }
    let y = with_rows("rope", [x, cos, sin], |[x, cos, sin]| Ok(op.turn(x, cos, sin)))?;
    Ok(Tensor::from_vec(y, x.shape(), x.device())?)
}

struct Rope {
    head_dim: usize,
    /// Turn the other way: the transpose of a rotation, and so its gradient.
    back: bool,
}

impl Rope {
    fn on_gpu(&self, x: &Tensor, cos: &Tensor, sin: &Tensor) -> Result<Tensor> {
        let (x, cos, sin) = (x.contiguous()?, cos.contiguous()?, sin.contiguous()?);
        let ((t, width), half) = (x.dims2()?, cos.dim(1)?);
        cuda::all_are(DType::F32, &[&cos, &sin])?;
        let sizes = [t, width, self.head_dim, half].map(Arg::Size);
        let sign = [Arg::Float(if self.back { -1.0 } else { 1.0 })];
        let kernel = cuda::named("rope", &[x.dtype()]);
        // SAFETY: t rows of whole heads, and as many of the angles of a head's halves, asked in `rope`; the kernel for
        // x's type writes all t·width numbers
        unsafe {
            let y = cuda::empty((t, width), x.dtype(), x.device())?;
            let tensors = [&x, &cos, &sin, &y].map(Arg::Tensor);
            cuda::launch(&kernel, Grid::over_eights(t * width), &[&tensors[..], &sizes, &sign].concat())?;
            Ok(y)
        }
    }

    fn turn(&self, x: Rows, cos: Rows, sin: Rows) -> Vec<f32> {
        let sign = if self.back { -1.0 } else { 1.0 };
        let half = cos.width;
        // SAFETY: a row is whole heads, asked in `turn`, of each of which both halves and the rest are written
        let all_written = unsafe { AllWritten::promised() };
        let [y] = filled_rows(
            x.count,
            x.width,
            all_written,
            #[inline(always)]
            |row, [y]| {
                let (cos, sin) = (&cos.row(row)[..half], &sin.row(row)[..half]);
                for (y, x) in y.chunks_exact_mut(self.head_dim).zip(x.row(row).chunks_exact(self.head_dim)) {
                    let (y_first, y_rest) = y.split_at_mut(half);
                    let (y_second, y_rest) = y_rest.split_at_mut(half);
                    let (x_first, x_rest) = x.split_at(half);
                    let (x_second, x_rest) = x_rest.split_at(half);
                    for j in 0..half {
                        let sin = sign * sin[j];
                        y_first[j].write(x_first[j] * cos[j] - x_second[j] * sin);
                        y_second[j].write(x_second[j] * cos[j] + x_first[j] * sin);
                    }
                    for (y, x) in y_rest.iter_mut().zip(x_rest) {
                        y.write(*x);
                    }
                }
            },
        );
        y
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::testing::{as_view, assert_close, assert_same_on_any_threads, check, random};
    use crate::reference;

    #[test]
    fn agrees_with_the_formula() {
        for (t, heads, head_dim, half) in
            [(1, 1, 2, 1), (3, 2, 8, 4), (7, 3, 10, 3), (130, 4, 96, 24), (50, 12, 64, 32)]
        {
            let (cos, sin) = (random(2, t, half), random(3, t, half));
            check(
                &[random(1, t, heads * head_dim)],
                |x| rope(&x[0], &cos, &sin, head_dim),
                |_, dy| Ok(vec![rope_backward(dy, &cos, &sin, head_dim)?]),
                |x| reference::rope(&x[0], &cos, &sin, head_dim),
                1e-6,
            );
        }
    }

    /// Neighbours turn as complex numbers do, and the gradient turns them back.
    #[test]
    fn neighbours_turn_together() {
        for (t, heads, head_dim, half) in [(1, 1, 2, 1), (3, 2, 8, 4), (7, 3, 10, 3)] {
            let (x, angles) = (random(1, t, heads * head_dim), random(2, t, half));
            let (cos, sin) = (angles.cos().unwrap(), angles.sin().unwrap());
            let y = rope_interleaved(&x, &cos, &sin, head_dim).unwrap();
            let rows = |x: &Tensor| x.to_vec2::<f32>().unwrap();
            let (before, after, angles) = (rows(&x), rows(&y), rows(&angles));
            for row in 0..t {
                for at in 0..heads * head_dim {
                    let (start, place) = (at / head_dim * head_dim, at % head_dim);
                    let pair = start + place / 2 * 2;
                    let expected = match angles[row].get(place / 2) {
                        None => before[row][at],
                        Some(angle) if place % 2 == 0 => {
                            before[row][pair] * angle.cos() - before[row][pair + 1] * angle.sin()
                        }
                        Some(angle) => before[row][pair + 1] * angle.cos() + before[row][pair] * angle.sin(),
                    };
                    assert!((after[row][at] - expected).abs() < 1e-6, "{row} {at}");
                }
            }
            let back = rope_interleaved_backward(&y, &cos, &sin, head_dim).unwrap();
            assert_close("back", &back, &x, 1e-6);
        }
        assert!(rope_interleaved(&random(1, 2, 8), &random(1, 2, 3), &random(1, 2, 3), 4).is_err());
    }

    #[test]
    fn views_threads_and_faults() {
        let (x, cos, sin) = (random(1, 300, 256), random(2, 300, 32), random(3, 300, 32));
        let expected = rope(&x, &cos, &sin, 64).unwrap();
        assert_close("view", &rope(&as_view(&x), &as_view(&cos), &as_view(&sin), 64).unwrap(), &expected, 0.0);
        assert_same_on_any_threads(|| vec![rope(&x, &cos, &sin, 64).unwrap()]);
        assert!(rope(&x, &cos, &sin, 48).is_err());
        assert!(rope(&x, &cos, &sin, 32).is_err());
        assert!(rope(&x, &cos.narrow(0, 0, 9).unwrap(), &sin, 64).is_err());
    }
}
