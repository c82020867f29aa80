//! Layerwise outliers: how many weights matter far more than the layer's mean, each weighed with what enters it.

use super::{Evaluate, Metric, Needs, OfWeights, Order, Sizes, Subject, Tokens, Weight, of_weights};
use crate::Result;

pub(super) const OF_3: Metric = Metric {
    name: "outliers-3",
    about: "weights with |w|·‖x‖ above 3 times the layer's mean, in percent; drops single layers",
    reference: "OWL, arXiv 2310.05175, M = 3",
    subject: Subject::Layer,
    tokens: Tokens::All,
    order: Order::Lowest,
    value: Evaluate::Weights(Needs::Inputs, |model| Outliers::boxed(model, 3.0)),
    usual: false,
};

pub(super) const OF_5: Metric = Metric {
    name: "outliers",
    about: "weights with |w|·‖x‖ above 5 times the layer's mean, in percent; drops single layers",
    reference: "OWL, arXiv 2310.05175, M = 5",
    subject: Subject::Layer,
    tokens: Tokens::All,
    order: Order::Lowest,
    value: Evaluate::Weights(Needs::Inputs, |model| Outliers::boxed(model, 5.0)),
    usual: false,
};

struct Outliers {
    times: f64,
    shares: Vec<f64>,
}

impl Outliers {
    fn boxed(model: &Sizes, times: f64) -> Box<dyn OfWeights> {
        Box::new(Self { times, shares: vec![0.0; model.layers] })
    }
}

/// The sum over the matrices of a layer of a function of each weight's score.
fn over_scores(weights: &[Weight<'_>], value: impl Fn(f64) -> f64 + Sync) -> f64 {
    let matrices = weights.iter().filter_map(|weight| Some((weight, weight.columns?)));
    let sums = matrices.map(|(weight, columns)| {
        let lengths: Vec<f64> = weight.inputs.iter().map(|squares| squares.sqrt()).collect();
        of_weights::sum_over(weight.numbers, |at, w| value(f64::from(w).abs() * lengths[at % columns]))
    });
    sums.sum()
}

impl OfWeights for Outliers {
    fn see(&mut self, layer: usize, weights: &[Weight<'_>]) -> Result<()> {
        let count = over_scores(weights, |_| 1.0);
        let bound = self.times * over_scores(weights, |score| score) / count;
        self.shares[layer] = 100.0 * over_scores(weights, |score| f64::from(u8::from(score > bound))) / count;
        Ok(())
    }

    fn finish(self: Box<Self>) -> Result<Vec<f64>> {
        Ok(self.shares)
    }
}
