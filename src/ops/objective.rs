//! Losses over the vocabulary with their gradients, a few rows at a time, so that the logits of all rows never exist.

use candle_core::{DType, Device, Tensor};
use rayon::prelude::*;

use super::cuda::{self, Arg, Grid, plain as as_it_is, turned};
use super::divergence::Divergence;
use super::linear::{Dense, Multiply, WithWeight, with_dense};
use super::matmul::{Matrix, Target, Weight, product_back, weight_product, weight_product_back};
use super::row_losses::{distilled, plain, remembered, under};
use super::rows::{Rows, with_rows};
use super::soft_cap::{capped, soft_cap, soft_cap_slope};
use super::top_k::TopTokens;
use crate::{Error, Result};

/// A model to learn from, and how.
#[derive(Clone, Copy, Debug)]
pub struct Teacher<'a> {
    /// Its normed residual stream at the same rows, `[t, d']`.
    pub hidden: &'a Tensor,
    /// Its head, `[v, d']`.
    pub head: &'a Tensor,
    /// What [`soft_cap`](super::soft_cap()) holds its logits below, if anything.
    pub cap: Option<f32>,
    /// Weight of the divergence from the teacher; what is left of one is the weight of the cross-entropy.
    pub weight: f64,
    /// Both distributions are softened by this temperature.
    pub temperature: f64,
    /// Which divergence.
    pub divergence: Divergence,
}

/// A loss and its gradients.
#[derive(Debug)]
pub struct Objective {
    /// Sum over the rows.
    pub loss: f64,
    /// The cross-entropy alone, summed.
    pub cross_entropy: f64,
    /// Gradient of `hidden`, `[t, d]`.
    pub hidden: Tensor,
    /// Gradient of the head `[v, d]`, where it was asked for.
    pub head: Option<Tensor>,
}

/// What a teacher said before, and how to learn from it.
#[derive(Clone, Copy, Debug)]
pub struct Remembered<'a> {
    /// Its likeliest tokens, under the same temperature, at each row that has a target.
    pub top: &'a TopTokens,
    /// As [`Teacher::weight`].
    pub weight: f64,
    /// As [`Teacher::temperature`].
    pub temperature: f64,
    /// As [`Teacher::divergence`].
    pub divergence: Divergence,
}

/// Whom to learn from.
#[derive(Clone, Copy, Debug)]
pub enum Tutor<'a> {
    /// A model that is there.
    Live(Teacher<'a>),
    /// What one has said.
    Remembered(Remembered<'a>),
}

/// The training loss summed over the rows that have a target, with its gradients: the
/// cross-entropy -ln p(target), or, with a teacher, (1-w)·cross-entropy + w·[`Divergence`] where both distributions are
/// those of logits/τ. Of a teacher that is remembered all tokens but its likeliest are one class, in its distribution
/// and in the model's. `hidden` is `[t, d]` f32, already normed, `head` `[v, d]`.
///
/// # Errors
/// Shapes that do not fit, a target beyond the vocabulary, or a device without this kernel.
pub fn objective(
    hidden: &Tensor,
    head: &Tensor,
    targets: &[Option<u32>],
    tutor: Option<Tutor<'_>>,
    of_head: bool,
) -> Result<Objective> {
    objective_capped(hidden, head, None, targets, tutor, of_head)
}

/// [`objective`] with logits that [`soft_cap`](super::soft_cap()) has held below `cap`.
///
/// # Errors
/// As [`objective`].
pub fn objective_capped(
    hidden: &Tensor,
    head: &Tensor,
    cap: Option<f32>,
    targets: &[Option<u32>],
    tutor: Option<Tutor<'_>>,
    of_head: bool,
) -> Result<Objective> {
    let ((rows, d), (vocabulary, head_d)) = (hidden.dims2()?, head.dims2()?);
    let fault = |what: &str, tensor: &Tensor| Error::work(format!("objective: {what} is {:?}", tensor.shape()));
    if rows != targets.len() || d != head_d {
        return Err(fault("hidden", hidden));
    }
    if let Some(token) = targets.iter().flatten().find(|token| **token as usize >= vocabulary) {
        return Err(Error::work(format!("token {token} is beyond the vocabulary of {vocabulary}")));
    }
    if let Some(Tutor::Remembered(Remembered { top, .. })) = &tutor {
        let count = targets.iter().flatten().count();
        let is_known = top.ids.iter().all(|id| (*id as usize) < vocabulary);
        if top.rows() != count || top.ids.len() != count * top.k || top.log_probs.len() != top.ids.len() || !is_known {
            return Err(Error::work(format!("objective: {} remembered rows for {count} targets", top.rows())));
        }
    }
    if let Some(Tutor::Live(teacher)) = &tutor {
        let ((teacher_rows, width), (teacher_vocabulary, head_width)) =
            (teacher.hidden.dims2()?, teacher.head.dims2()?);
        if teacher_rows != rows || width != head_width || teacher_vocabulary != vocabulary {
            return Err(fault("the teacher's head", teacher.head));
        }
    }
    if hidden.device().is_cuda() {
        let teacher = match tutor {
            None => None,
            Some(Tutor::Live(teacher)) => Some(teacher),
            Some(Tutor::Remembered(_)) => return Err(Error::work("objective: what is remembered is for a CPU")),
        };
        return on_gpu(hidden, (head, cap), &present(targets), teacher, of_head);
    }
    let (device, targets) = (hidden.device(), &present(targets));
    let (sums, gradients) =
        with_rows("objective", [hidden], |[hidden]| with_dense(head, Work { hidden, targets, tutor, of_head, cap })?)?;
    Ok(Objective {
        loss: sums.loss,
        cross_entropy: sums.cross_entropy,
        hidden: Tensor::from_vec(gradients.hidden, hidden.shape(), device)?,
        head: if of_head { Some(Tensor::from_vec(gradients.head, head.shape(), device)?) } else { None },
    })
}

/// The same on a GPU, some rows' logits at a time.
fn on_gpu(
    hidden: &Tensor,
    (head, cap): (&Tensor, Option<f32>),
    targets: &[(usize, usize)],
    teacher: Option<Teacher<'_>>,
    of_head: bool,
) -> Result<Objective> {
    let (device, (v, d)) = (hidden.device(), head.dims2()?);
    let matrix = cuda::operand(head)?;
    let other_matrix = teacher.map(|teacher| cuda::operand(teacher.head)).transpose()?;
    let dhidden = Tensor::zeros(hidden.shape(), DType::F32, device)?;
    let dhead = of_head.then(|| Tensor::zeros((v, d), DType::F32, device)).transpose()?;
    let rows = gpu_rows_at_once(v);
    let mut sums = Sums::default();
    for targets in targets.chunks(rows) {
        let n = targets.len();
        let places = Tensor::from_iter(targets.iter().map(|(row, _)| *row as u32), device)?;
        let tokens = Tensor::from_iter(targets.iter().map(|(_, token)| *token as u32), device)?;
        let inputs = hidden.index_select(&places, 0)?;
        let logits = capped_on_gpu(cuda::product(as_it_is(&inputs), turned(&matrix), DType::F32)?, cap)?;
        let slopes = cap.map(|cap| soft_cap_slope(&logits, cap)).transpose()?;
        // the loss of each row, and with a teacher its cross-entropy beside it
        // SAFETY: each block of the kernel writes those of its row
        let losses = unsafe { cuda::empty((n, if teacher.is_some() { 2 } else { 1 }), DType::F64, device)? };
        match teacher.zip(other_matrix.as_ref()) {
            None => {
                let tensors = [&logits, &tokens, &losses].map(Arg::Tensor);
                // SAFETY: a block for each of the n rows of v logits, in f32, and of tokens below v
                unsafe { cuda::launch("cross_entropy", Grid::rows(n, v), &[&tensors[..], &[Arg::Size(v)]].concat())? };
            }
            Some((teacher, other_matrix)) => {
                let inputs = teacher.hidden.index_select(&places, 0)?;
                let others = cuda::product(as_it_is(&inputs), turned(other_matrix), DType::F32)?;
                let others = capped_on_gpu(others, teacher.cap)?;
                let tensors = [&logits, &others, &tokens, &losses].map(Arg::Tensor);
                let (weight, temperature) = (teacher.weight as f32, teacher.temperature as f32);
                let scalars = [weight, temperature, teacher.divergence.beta() as f32].map(Arg::Float);
                let (kernel, scalars) = match teacher.divergence {
                    Divergence::Kl => ("distilled", &scalars[..2]),
                    Divergence::ReverseKl | Divergence::Jsd { .. } => ("distilled_jsd", &scalars[..]),
                };
                let args = [&tensors[..], &[Arg::Size(v)], scalars].concat();
                // SAFETY: as above, and as many of the teacher's logits
                unsafe { cuda::launch(kernel, Grid::rows(n, v), &args)? };
            }
        }
        for losses in losses.to_vec2::<f64>()? {
            sums.loss += losses[0];
            sums.cross_entropy += losses[losses.len() - 1];
        }
        let logits = match slopes {
            Some(slopes) => (logits * slopes)?,
            None => logits,
        };
        let dinputs = cuda::product(as_it_is(&logits), as_it_is(&matrix), DType::F32)?;
        let tensors = [&dinputs, &places, &dhidden].map(Arg::Tensor);
        // SAFETY: n rows of d numbers, to places below the rows of `hidden`, of which no two are the same
        unsafe { cuda::launch("scatter_rows", Grid::rows(n, d), &[&tensors[..], &[Arg::Size(d)]].concat())? };
        if let Some(dhead) = &dhead {
            cuda::multiply(turned(&logits), as_it_is(&inputs), dhead, true)?;
        }
    }
    Ok(Objective { loss: sums.loss, cross_entropy: sums.cross_entropy, hidden: dhidden, head: dhead })
}

/// Logits held below `cap`.
fn capped_on_gpu(logits: Tensor, cap: Option<f32>) -> Result<Tensor> {
    cap.map_or_else(|| Ok(logits.clone()), |cap| soft_cap(&logits, cap))
}

/// The rows that count, and their tokens.
fn present(targets: &[Option<u32>]) -> Vec<(usize, usize)> {
    targets.iter().enumerate().filter_map(|(row, token)| Some((row, (*token)? as usize))).collect()
}

/// `[t, d]`, and `[v, d]` if it was asked for.
struct Gradients {
    hidden: Vec<f32>,
    head: Vec<f32>,
}

/// Over the rows.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Sums {
    pub(super) loss: f64,
    pub(super) cross_entropy: f64,
}

/// Logits that exist at one time, 64 MiB of them: enough rows of most vocabularies that the head is read once a pass.
const LOGITS: usize = 16 << 20;
/// The same on a GPU, 256 MiB of them.
const GPU_LOGITS: usize = 64 << 20;
/// Rows whose logits exist at one time, at least and at most.
const ROWS: (usize, usize) = (32, 512);

/// Rows whose logits over a vocabulary of `v` exist at one time on a GPU.
fn gpu_rows_at_once(v: usize) -> usize {
    (GPU_LOGITS / v.max(1)).max(1)
}

/// Rows of `count` whose logits over a vocabulary of `v` exist at one time.
fn rows_at_once(count: usize, v: usize) -> usize {
    (LOGITS / v.max(1)).clamp(ROWS.0, ROWS.1).min(count)
}

/// Bytes that [`objective`] takes on `device` for `rows` of `d` numbers and a vocabulary of `v`, besides its result;
/// `taught` where there is a teacher.
#[must_use]
pub(crate) fn objective_bytes(rows: usize, (d, v): (usize, usize), taught: bool, device: &Device) -> u64 {
    let teachers = if taught { v + d } else { 0 };
    if !device.is_cuda() {
        return 4 * (rows_at_once(rows, v) * (v + 2 * d + teachers)) as u64;
    }
    // logits and rows once more in the type of the products
    let (rows, narrow) = (gpu_rows_at_once(v).min(rows), if cuda::products(device) == DType::BF16 { 2 } else { 0 });
    (rows * (4 * (v + 2 * d + teachers) + narrow * (v + d))) as u64
}

/// A loss to compute with whatever head.
struct Work<'a> {
    hidden: Rows<'a>,
    targets: &'a [(usize, usize)],
    tutor: Option<Tutor<'a>>,
    of_head: bool,
    cap: Option<f32>,
}

impl WithWeight for Work<'_> {
    type Output = candle_core::Result<(Sums, Gradients)>;

    fn run(self, head: &impl Weight) -> Self::Output {
        let (hidden, targets) = (self.hidden, self.targets);
        let (v, d) = (head.rows(), head.columns());
        let rows = rows_at_once(targets.len(), v);
        let mut gradients = Gradients {
            hidden: vec![0f32; hidden.count * d],
            head: if self.of_head { vec![0f32; v * d] } else { Vec::new() },
        };
        let mut logits = vec![0f32; rows * v];
        let (mut inputs, mut dinputs) = (vec![0f32; rows * d], vec![0f32; rows * d]);
        let mut sums = Sums::default();
        for (chunk, targets) in targets.chunks(rows.max(1)).enumerate() {
            let n = targets.len();
            for (input, (row, _)) in inputs.chunks_exact_mut(d).zip(targets) {
                input.copy_from_slice(hidden.row(*row));
            }
            let inputs = Matrix::new(&inputs, n, d, d, 1);
            weight_product(inputs, head, None, &mut Target::over(&mut logits, n, v, v));
            let own = logits[..n * v].par_chunks_exact_mut(v).zip(targets);
            let losses: Vec<Sums> = match &self.tutor {
                None => own.map(|(logits, (_, token))| under(self.cap, logits, |z| plain(z, *token))).collect(),
                Some(Tutor::Remembered(known)) => {
                    let first = chunk * rows;
                    let rows = own.enumerate();
                    let loss = |row, z: &mut [f32], token| remembered(z, token, known, first + row);
                    rows.map(|(row, (z, (_, token)))| under(self.cap, z, |z| loss(row, z, *token))).collect()
                }
                Some(Tutor::Live(teacher)) => {
                    let teachers = teacher.logits(targets)?;
                    let pairs = own.zip(teachers.par_chunks_exact(v));
                    let loss = |z: &mut [f32], token, other: &[f32]| distilled(z, token, other, teacher);
                    pairs.map(|((z, (_, token)), other)| under(self.cap, z, |z| loss(z, *token, other))).collect()
                }
            };
            for row in losses {
                sums.loss += row.loss;
                sums.cross_entropy += row.cross_entropy;
            }
            let dlogits = Matrix::new(&logits, n, v, v, 1);
            weight_product_back(dlogits, head, None, &mut Target::over(&mut dinputs, n, d, d), false);
            for (dinput, (row, _)) in dinputs.chunks_exact(d).zip(targets) {
                gradients.hidden[row * d..][..d].copy_from_slice(dinput);
            }
            if self.of_head {
                let mut out = Target::over(&mut gradients.head, v, d, d);
                product_back(dlogits.transposed(), &Dense::of_rows(inputs), None, &mut out, true);
            }
        }
        Ok((sums, gradients))
    }
}

impl Teacher<'_> {
    /// The teacher's logits at the rows of `targets`.
    fn logits(&self, targets: &[(usize, usize)]) -> candle_core::Result<Vec<f32>> {
        let rows: Vec<u32> = targets.iter().map(|(row, _)| *row as u32).collect();
        let rows = Tensor::from_vec(rows, targets.len(), self.hidden.device())?;
        let hidden = self.hidden.index_select(&rows, 0)?;
        with_rows("objective", [&hidden], |[x]| {
            let mut logits = with_dense(self.head, Multiply { x: x.matrix(), low: None, back: false })?;
            if let Some(cap) = self.cap {
                logits.iter_mut().for_each(|logit| *logit = capped(*logit, cap));
            }
            Ok(logits)
        })
    }
}

#[cfg(test)]
mod tests;
