//! The final norm and the vocabulary head; only rows that are scored meet it.

use std::sync::{Arc, OnceLock};

use candle_core::{DType, Device, Tensor};

use super::LoadOptions;
use super::load_options::normalization;
use super::not_finite::overflows;
use super::sublayers::Normalization;
use crate::arch::ModelSpec;
use crate::checkpoint::Checkpoint;
use crate::ops::{self, Divergence, Remembered, Scored, Teacher, TopTokens, Tutor, WeightMatrix};
use crate::weights::four_bit;
use crate::weights::lora::{At, Table};
use crate::{Context, Error, Result};

/// Columns of a head's bias: the first holds it, and the others are zero so that rows keep their alignment.
const BIAS_COLUMNS: usize = 32;

/// `column` `[n]` before columns of zeros.
fn first_column(column: &Tensor) -> Result<Tensor> {
    let zeros = Tensor::zeros((column.dim(0)?, BIAS_COLUMNS - 1), column.dtype(), column.device())?;
    Ok(Tensor::cat(&[&column.unsqueeze(1)?, &zeros], 1)?)
}

/// Rows of the head that are looked at together.
const ROWS: usize = 1024;

/// Final norm and head, `[d]` and `[v, d]`.
#[derive(Debug)]
pub struct Head {
    checkpoint: Arc<Checkpoint>,
    spec: Arc<ModelSpec>,
    device: Device,
    /// Held in f32, to be trained.
    unfrozen: bool,
    /// What is done to the matrix when it is read.
    table: Option<Table>,
    norm: Normalization,
    /// Read when the first rows are scored; an analysis never needs it.
    weight: OnceLock<Tensor>,
}

/// What a teacher says of a pass.
#[derive(Clone, Copy, Debug)]
pub enum Said<'a> {
    /// By a model that is there: its head, and what leaves its last layer, `[t, d']`.
    Now(&'a Head, &'a Tensor),
    /// Before, under the same temperature: its likeliest tokens at each row that has a target.
    Before(&'a TopTokens),
}

/// What a teacher said of sequences before.
pub trait Lessons: Sync {
    /// Its likeliest tokens at each place of `rows`, in order, that has a target.
    ///
    /// # Errors
    /// Work: a sequence that it never saw, a file that cannot be read.
    fn of(&self, rows: &[Vec<u32>]) -> Result<TopTokens>;
}

/// A model to learn from, as far as the loss is concerned.
#[derive(Clone, Copy, Debug)]
pub struct Lesson<'a> {
    /// What it says.
    pub said: Said<'a>,
    /// Weight of the divergence from the teacher, from 0 to 1.
    pub weight: f64,
    /// Softens both distributions.
    pub temperature: f64,
    /// Which divergence.
    pub divergence: Divergence,
}

/// The training loss of a pass, and its gradients.
#[derive(Debug)]
pub struct HeadLoss {
    /// Sum over the targets.
    pub loss: f64,
    /// The cross-entropy alone, summed.
    pub cross_entropy: f64,
    /// Gradient of what left the last layer, `[t, d]`, of the summed loss times `factor`.
    pub dx: Tensor,
    /// Gradients of the final norm and the head, when they are trained.
    pub own: Option<HeadGradients>,
}

/// Gradients of what stands behind the last layer.
#[derive(Debug)]
pub struct HeadGradients {
    /// Of the final norm's weight, `[d]`.
    pub norm: Tensor,
    /// Of its bias, `[d]`, where it has one.
    pub norm_bias: Option<Tensor>,
    /// Of the head, `[v, d]`.
    pub weight: Tensor,
}

impl Head {
    pub(super) fn open(
        checkpoint: Arc<Checkpoint>,
        spec: Arc<ModelSpec>,
        device: &Device,
        load_options: &LoadOptions,
    ) -> Result<Self> {
        let (weight, bias, shape) = (spec.final_norm_tensor(), spec.final_norm_bias(), [spec.hidden_size]);
        let norm = normalization((&checkpoint, &spec), &weight, bias.as_deref(), &shape, device)?;
        if spec.head_bias && load_options.unfrozen_head {
            return Err(Error::request(format!(
                "a {} model's head has a bias, which is not trained: train its layers alone",
                spec.model_type
            )));
        }
        let (unfrozen, table) = (load_options.unfrozen_head, load_options.table(spec.head).cloned());
        Ok(Self { checkpoint, spec, device: device.clone(), unfrozen, table, norm, weight: OnceLock::new() })
    }

    /// Bytes that the head's matrix takes in the memory of `device`: in f32 where it is trained or changed.
    #[must_use]
    pub fn bytes(checkpoint: &Checkpoint, spec: &ModelSpec, load_options: &LoadOptions, device: &Device) -> u64 {
        let entry = checkpoint.index.tensors.get(spec.head_tensor(&checkpoint.index));
        let numbers = (spec.vocab_size * spec.hidden_size) as u64;
        let bias = if spec.head_bias { 4 * (spec.vocab_size * BIAS_COLUMNS) as u64 } else { 0 };
        let wide = load_options.unfrozen_head || load_options.table(spec.head).is_some();
        let matrix = || entry.map_or(0, |entry| ops::weight_bytes(numbers, entry.len, device));
        bias + if wide { 4 * numbers } else { matrix() }
    }

    /// The head's matrix, `[v, d]`, which is trained as it stands here; where the head has a bias, more columns.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn weight(&self) -> Result<&Tensor> {
        self.matrix()
    }

    /// What is multiplied with, `[v, d]`, and where there is a bias this beside it.
    fn matrix(&self) -> Result<&Tensor> {
        if let Some(weight) = self.weight.get() {
            return Ok(weight);
        }
        let name = self.spec.head_tensor(&self.checkpoint.index);
        let shape = [self.spec.vocab_size, self.spec.hidden_size];
        let stored = four_bit::load_matrix(&self.checkpoint, name, &shape)?;
        let stored = match &self.table {
            Some(table) => WeightMatrix::Dense(table.updated(&stored.dense(DType::F32, &Device::Cpu)?, At::From(0))?),
            None => stored,
        };
        let weight = match stored {
            weight if self.unfrozen => weight.dense(DType::F32, &self.device)?,
            WeightMatrix::Dense(weight) => ops::on_device(&weight, &self.device)?,
            weight => ops::on_device(&weight.dense(DType::F32, &Device::Cpu)?, &self.device)?,
        };
        let weight = match self.spec.head_bias_tensor() {
            None => weight,
            Some(name) => {
                let bias = self.checkpoint.load_f32(name, &shape[..1], &self.device)?.to_dtype(weight.dtype())?;
                Tensor::cat(&[&weight, &first_column(&bias)?], 1)?
            }
        };
        Ok(self.weight.get_or_init(|| weight))
    }

    /// Whether it is trained.
    #[must_use]
    pub(crate) fn is_trained(&self) -> bool {
        self.unfrozen
    }

    /// The final norm's weight, `[d]`.
    #[must_use]
    pub fn norm_weight(&self) -> &Tensor {
        &self.norm.weight
    }

    /// The final norm's bias, `[d]`, where it has one.
    #[must_use]
    pub fn norm_bias(&self) -> Option<&Tensor> {
        self.norm.bias.as_ref()
    }

    /// The stream `[t, d]` behind the final norm.
    ///
    /// # Errors
    /// Shapes that do not go together.
    pub fn norm(&self, x: &Tensor) -> Result<Tensor> {
        self.norm.forward(x)
    }

    /// What meets the head's matrix: the stream behind the final norm, times what logits are multiplied with. A head
    /// with a bias holds it as one more column, which meets a one.
    fn hidden(&self, x: &Tensor) -> Result<Tensor> {
        let normed = self.norm.forward(x)?;
        let times = self.spec.multipliers.logits;
        let hidden = if times == 1.0 { normed } else { (normed * times)? };
        if !self.spec.head_bias {
            return Ok(hidden);
        }
        let ones = Tensor::ones(hidden.dim(0)?, hidden.dtype(), hidden.device())?;
        Ok(Tensor::cat(&[&hidden, &first_column(&ones)?], 1)?)
    }

    /// Where logits end, if anywhere.
    fn cap(&self) -> Option<f32> {
        self.spec.multipliers.logit_cap.map(|cap| cap as f32)
    }

    /// Logits `[n, v]`, all finite.
    pub(super) fn logits(&self, x: &Tensor) -> Result<Tensor> {
        let logits = ops::linear(&self.hidden(x)?, self.matrix()?)?;
        let logits = match self.cap() {
            Some(cap) => ops::soft_cap(&logits, cap)?,
            None => logits,
        };
        if ops::all_finite(&logits)? { Ok(logits) } else { Err(self.not_finite(x)?) }
    }

    /// Finite log-likelihoods; `place` names a row of `x` for the message that ends everything else.
    pub(super) fn score(
        &self,
        x: &Tensor,
        candidates: &[&[u32]],
        place: &dyn Fn(usize) -> String,
    ) -> Result<Vec<Vec<Scored>>> {
        let scored = ops::log_likelihood_capped(&self.hidden(x)?, self.matrix()?, candidates, self.cap())?;
        let is_broken = |row: &Vec<Scored>| row.iter().any(|scored| !scored.log_likelihood.is_finite());
        match scored.iter().position(is_broken) {
            None => Ok(scored),
            Some(row) => Err(self.not_finite(&x.narrow(0, row, 1)?)?).context(|| place(row)),
        }
    }

    /// Says what makes the numbers that come of `x`, itself finite, something else: the first of final norm and head
    /// with a weight that is not finite, or that gives such a number.
    fn not_finite(&self, x: &Tensor) -> Result<Error> {
        let holds = |name: &str| format!("tensor {name} holds non-finite values");
        Ok(self.fault(&if !ops::all_finite(&self.norm.weight)? {
            holds(&self.spec.final_norm_tensor())
        } else if !ops::all_finite(&self.norm(x)?)? {
            overflows("the final norm")
        } else if !self.weight_is_finite()? {
            holds(self.spec.head_tensor(&self.checkpoint.index))
        } else {
            overflows("the head")
        }))
    }

    /// Some rows at a time: each part is widened.
    fn weight_is_finite(&self) -> Result<bool> {
        let weight = self.matrix()?;
        let rows = weight.dim(0)?;
        for first in (0..rows).step_by(ROWS) {
            if !ops::all_finite(&weight.narrow(0, first, ROWS.min(rows - first))?)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn fault(&self, message: &str) -> Error {
        Error::work(format!("{}: {message}", self.checkpoint.source.id))
    }

    /// The training loss over the rows of `x` `[t, d]` (what leaves the last layer) that have a target; its gradients
    /// are multiplied with `factor`.
    ///
    /// # Errors
    /// The head cannot be read, or a target is beyond the vocabulary.
    pub fn train(
        &self,
        x: &Tensor,
        targets: &[Option<u32>],
        factor: f64,
        lesson: Option<Lesson<'_>>,
    ) -> Result<HeadLoss> {
        let normed = self.hidden(x)?;
        let taught = match lesson.map(|lesson| lesson.said) {
            Some(Said::Now(head, x)) => Some(head.hidden(x)?),
            _ => None,
        };
        let tutor = match (lesson, &taught) {
            (Some(Lesson { said: Said::Now(head, _), weight, temperature, divergence }), Some(hidden)) => {
                let (head, cap) = (head.matrix()?, head.cap());
                Some(Tutor::Live(Teacher { hidden, head, cap, weight, temperature, divergence }))
            }
            (Some(Lesson { said: Said::Before(top), weight, temperature, divergence }), _) => {
                Some(Tutor::Remembered(Remembered { top, weight, temperature, divergence }))
            }
            _ => None,
        };
        let found = ops::objective_capped(&normed, self.matrix()?, self.cap(), targets, tutor, self.unfrozen)?;
        if !found.cross_entropy.is_finite() {
            return Err(self.not_finite(x)?);
        }
        if let Some(lesson) = lesson.filter(|_| !found.loss.is_finite()) {
            return match lesson.said {
                Said::Now(head, x) => Err(head.not_finite(x)?).context(|| "the teacher"),
                Said::Before(_) => Err(Error::work("the teacher's cache holds numbers that are none")),
            };
        }
        drop((normed, taught));
        let dhidden =
            if self.spec.head_bias { found.hidden.narrow(1, 0, x.dim(1)?)?.contiguous()? } else { found.hidden };
        let dnormed = (dhidden * (factor * self.spec.multipliers.logits))?;
        let (dx, dnorm) = self.norm.backward(x, &dnormed, self.unfrozen)?;
        let dweight = found.head.map(|head| head * factor).transpose()?;
        let own = dnorm.zip(dweight).map(|((norm, norm_bias), weight)| HeadGradients { norm, norm_bias, weight });
        Ok(HeadLoss { loss: found.loss, cross_entropy: found.cross_entropy, dx, own })
    }
}
