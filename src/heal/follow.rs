//! How process 0 leads others through a run: it says what the next step is made of, and they make it with it.

use candle_core::Tensor;
use serde::{Deserialize, Serialize};

use super::trainer::Trainer;
use crate::ops::Moments;
use crate::{Error, Result, ops};

/// What process 0 says to the others.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) enum Order {
    /// Make a step on these sequences, and on those that the model wrote itself.
    Step {
        /// Steps done before.
        done: usize,
        rows: Vec<Vec<u32>>,
        written: Vec<Vec<u32>>,
    },
    /// Training is over.
    Over,
}

impl Trainer<'_> {
    /// Puts the parameters and the optimiser of all processes where those of process 0 are.
    ///
    /// # Errors
    /// As [`crate::collective::Collective::sum`].
    pub(super) fn share_state(&mut self) -> Result<()> {
        let collective = self.collective();
        if collective.size() == 1 {
            return Ok(());
        }
        // what is sent before it can be taken would lie in memory
        collective.gather()?;
        let leads = collective.rank() == 0;
        let steps = collective.broadcast(self.steps().to_le_bytes().to_vec())?;
        let steps = steps.try_into().map(usize::from_le_bytes).map_err(|_| Error::work("a number of steps"))?;
        let shared = |tensor: &Tensor| -> Result<Vec<f32>> {
            let own = if leads { ops::numbers(tensor, <[f32]>::to_vec)? } else { Vec::new() };
            let bytes = collective.broadcast(own.iter().flat_map(|number| number.to_le_bytes()).collect())?;
            let (numbers, _) = bytes.as_chunks::<4>();
            if numbers.len() != tensor.elem_count() {
                return Err(Error::work("process 0 trains parameters of other sizes"));
            }
            Ok(numbers.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect())
        };
        for (name, parameter) in self.parameters().to_vec() {
            let values = shared(&parameter)?;
            if !leads {
                ops::edit(&parameter, |own| own.copy_from_slice(&values))?;
            }
            // before the first step there are none
            if steps > 0 {
                let of_leader = self.optimizer().moments.get(&name).cloned();
                let absent = || Tensor::zeros(parameter.elem_count(), parameter.dtype(), parameter.device());
                let moment = |which: fn(Moments) -> Tensor| -> Result<Tensor> {
                    let own = of_leader.clone().map(which).map_or_else(absent, Ok)?;
                    Ok(Tensor::from_vec(shared(&own)?, parameter.elem_count(), parameter.device())?)
                };
                let moments =
                    Moments { first: moment(|moments| moments.first)?, second: moment(|moments| moments.second)? };
                if !leads {
                    self.optimizer_mut().moments.insert(name, moments);
                }
            }
        }
        self.optimizer_mut().steps = steps;
        Ok(())
    }

    /// Says to the other processes what is to be done; nothing where there are none.
    ///
    /// # Errors
    /// As [`crate::collective::Collective::sum`].
    pub(super) fn order(&self, order: impl FnOnce() -> Order) -> Result<()> {
        if self.collective().size() == 1 {
            return Ok(());
        }
        let bytes = serde_json::to_vec(&order()).map_err(|error| Error::work(error.to_string()))?;
        self.collective().broadcast(bytes).map(drop)
    }

    /// Makes the steps that process 0 leads, to the last one; how many are done then. For all processes but that one.
    ///
    /// # Errors
    /// As [`Trainer::step`]; what another process met.
    pub fn follow(&mut self) -> Result<usize> {
        self.share_state()?;
        loop {
            let bytes = self.collective().broadcast(Vec::new())?;
            match serde_json::from_slice(&bytes).map_err(|error| Error::work(format!("an order: {error}")))? {
                Order::Step { done, .. } if done != self.steps() => {
                    let own = self.steps();
                    return Err(Error::work(format!("process 0 has done {done} steps, this one {own}")));
                }
                Order::Step { rows, written, .. } => drop(self.step_with(&rows, &written)?),
                Order::Over => return Ok(self.steps()),
            }
        }
    }
}
