//! What a step of training gives, summed over its micro-batches.

use std::collections::BTreeMap;

use candle_core::Tensor;

use crate::Result;

/// Gradients by the name of their parameter, summed over passes.
pub type Gradients = BTreeMap<String, Tensor>;

/// Sums over the targets of a pass.
#[derive(Clone, Copy, Debug, Default)]
pub struct PassLoss {
    /// The loss.
    pub loss: f64,
    /// The cross-entropy alone.
    pub cross_entropy: f64,
    /// The mean squared difference of hidden states, not weighted, times the targets.
    pub hidden: f64,
}

/// What some micro-batches of a step gave.
#[derive(Debug, Default)]
pub struct Sums {
    /// The loss, over their targets.
    pub loss: PassLoss,
    /// Gradients by the name of their parameter.
    pub gradients: Gradients,
}

impl Sums {
    /// Adds what the micro-batches that follow gave.
    ///
    /// # Errors
    /// The device's.
    pub fn add(&mut self, next: Self) -> Result<()> {
        self.loss.loss += next.loss.loss;
        self.loss.cross_entropy += next.loss.cross_entropy;
        self.loss.hidden += next.loss.hidden;
        next.gradients.into_iter().try_for_each(|(name, gradient)| add(&mut self.gradients, name, gradient))
    }
}

/// Adds a gradient to the sum for its parameter.
pub(crate) fn add(gradients: &mut Gradients, name: String, gradient: Tensor) -> Result<()> {
    let sum = match gradients.remove(&name) {
        Some(sum) => (sum + gradient)?,
        None => gradient,
    };
    gradients.insert(name, sum);
    Ok(())
}
