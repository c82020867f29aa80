//! What enters the linear layers of a model: the sum of squares of each input over all tokens.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use candle_core::{DType, Tensor};

use super::loss::tokens_of_a_batch;
use super::{Batch, CheckpointingPolicy, ForwardContext, Model, TrainContext};
use crate::arch::Role;
use crate::ops::FiniteWatch;
use crate::progress::{Progress, Unit};
use crate::{Result, interrupt};

/// Sums over tokens of the squared inputs `[i]` of linear layers, in f64, by place and role.
#[derive(Debug, Default)]
pub struct InputSums(Mutex<BTreeMap<(usize, Role), Vec<f64>>>);

impl InputSums {
    /// Adds the rows of `x` `[t, i]`.
    pub(super) fn add(&self, module: (usize, Role), x: &Tensor) -> Result<()> {
        let (rows, width) = x.dims2()?;
        let numbers: Vec<f32> = x.to_dtype(DType::F32)?.contiguous()?.flatten_all()?.to_vec1()?;
        let mut sums = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let sums = sums.entry(module).or_insert_with(|| vec![0.0; width]);
        for row in numbers.chunks_exact(width.max(1)).take(rows) {
            for (sum, &number) in sums.iter_mut().zip(row) {
                *sum += f64::from(number) * f64::from(number);
            }
        }
        Ok(())
    }

    /// Notes that nothing has entered a module of `width` inputs.
    pub(super) fn add_none(&self, module: (usize, Role), width: usize) {
        let mut sums = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        sums.entry(module).or_insert_with(|| vec![0.0; width]);
    }

    /// The sums, by place and role.
    #[must_use]
    pub fn take(self) -> BTreeMap<(usize, Role), Vec<f64>> {
        self.0.into_inner().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Model {
    /// Sums over all tokens of `sequences` of the squared inputs of every linear layer.
    ///
    /// # Errors
    /// As [`Model::run`].
    pub(crate) fn input_sums(&self, sequences: &[Vec<u32>], what: &str, progress: &dyn Progress) -> Result<InputSums> {
        let batches = Batch::pack(sequences, tokens_of_a_batch(&self.device))?;
        let sums = InputSums::default();
        let policy = CheckpointingPolicy::on(&self.device, 0);
        let total: usize = batches.iter().map(Batch::tokens).sum();
        progress.begin(what, (total * self.layers()) as u64, Unit::Tokens);
        for wave in self.waves(&batches, 0) {
            let mut states = Vec::with_capacity(wave.len());
            for index in wave.clone() {
                let mut watch = FiniteWatch::new(self.layers() + 1, &self.device)?;
                let x = self.embed(&batches[index])?;
                self.look(&mut watch, 0, &x, &|token| Batch::place(&batches, index, token))?;
                states.push((x, ForwardContext::new(&self.spec, &batches[index], &self.device)?, watch));
            }
            self.stack.walk(|place, block| {
                for (index, (x, forward, watch)) in wave.clone().zip(&mut states) {
                    interrupt::check()?;
                    let training =
                        TrainContext { forward, place, dropout: None, policy, inputs: Some(&sums), rows: None };
                    *x = block.forward_saving(x, &training, false)?.0;
                    self.look(watch, place + 1, x, &|token| Batch::place(&batches, index, token))?;
                    progress.advance(batches[index].tokens() as u64);
                }
                Ok(())
            })?;
        }
        progress.end();
        Ok(sums)
    }
}
