//! Policy gradient over masks ("Bypass Back-propagation", arXiv 2406.10576): each layer stays with a probability that
//! is learnt from the losses of random masks, forward passes alone; the n least likely go.
//!
//! The mask keeps layer u where a uniform number lies below s_u. A step runs two masks on a few texts, takes their mean
//! loss into a moving baseline δ, and moves s against g_u = Σ_k (l_k - δ) (m_ku - s_u) / √(s_u (1 - s_u)) / (K - 1);
//! then the least v ≥ 0 is taken from all of s that keeps as many layers as are to stay on the average. The start is
//! what each layer costs alone, as a sigmoid of its standard score (the repository's `sigmap`). The repository solves
//! for v by twenty halvings, to 1e-3, and lets the rate fall along a cosine over thousands of steps; with some dozen
//! layers the rate is larger, and stays.

use std::ops::Range;

use super::{How, Pick, Work};
use crate::importance::{Choice, Draws, Evidence, Metric, rises};
use crate::model::Loss;
use crate::{Error, Result};

pub(super) const PICK: Pick = Pick {
    name: "policy",
    about: "the n layers least likely to stay, learnt from the losses of random masks",
    how: How::Search {
        search,
        passes,
        cost: "some passes of masked models for each number of layers",
        draws_texts: true,
    },
};

/// Masks of a step, K.
const MASKS: usize = 2;
/// Texts of a step.
const TEXTS: usize = 8;
/// What a step moves by.
const RATE: f64 = 0.05;
/// How much of the baseline a new mean loss replaces.
const NEW: f64 = 0.2;
/// Keeps the gradient finite where a probability is 0 or 1.
const TINY: f64 = 1e-7;

/// What is drawn for a step.
#[derive(Clone, Debug)]
pub struct Step {
    /// The texts.
    pub on: Vec<usize>,
    /// For each mask, a number from 0 to 1 for each unit.
    pub uniforms: Vec<Vec<f64>>,
}

/// What is being learnt: how likely each of `units` is to stay, where `keep` of them are to.
#[derive(Clone, Debug)]
pub struct Policy {
    units: Range<usize>,
    keep: f64,
    /// Probabilities to stay, s.
    pub stay: Vec<f64>,
    baseline: Option<f64>,
}

impl Policy {
    /// Starts from these probabilities of `units`.
    #[must_use]
    pub fn new(units: Range<usize>, keep: f64, mut start: Vec<f64>) -> Self {
        project(&mut start, keep);
        Self { units, keep, stay: start, baseline: None }
    }

    /// Starts from how much each of `units` costs alone.
    #[must_use]
    pub fn from_costs(units: Range<usize>, keep: usize, costs: &[f64]) -> Self {
        let count = costs.len() as f64;
        let mean = costs.iter().sum::<f64>() / count;
        let spread = (costs.iter().map(|cost| (cost - mean).powi(2)).sum::<f64>() / count).sqrt();
        let standard = |cost: &f64| if spread > 0.0 { (cost - mean) / spread } else { 0.0 };
        let likely: Vec<f64> = costs.iter().map(|cost| 1.0 / (1.0 + (-standard(cost)).exp())).collect();
        let shift = keep as f64 / count - likely.iter().sum::<f64>() / count;
        Self::new(units, keep as f64, likely.iter().map(|likely| (likely + shift).clamp(0.0, 1.0)).collect())
    }

    /// Learns from a step by `metric`, and gives the cost of each mask.
    ///
    /// # Errors
    /// Work: a cost that is not finite. Those of the evidence.
    pub fn learn(&mut self, evidence: &mut dyn Evidence, metric: &Metric, step: &Step) -> Result<Vec<f64>> {
        let stays = |uniforms: &Vec<f64>| uniforms.iter().zip(&self.stay).map(|(u, stay)| u < stay).collect();
        let masks: Vec<Vec<bool>> = step.uniforms.iter().map(stays).collect();
        let gone = |mask: &Vec<bool>| -> Vec<usize> {
            self.units.clone().zip(mask).filter_map(|(own, stays)| (!stays).then_some(own)).collect()
        };
        let dropped: Vec<Vec<usize>> = masks.iter().map(gone).collect();
        let costs = evidence.costs(metric, &dropped, Some(&step.on))?;
        let costs: Vec<f64> = costs.iter().map(|costs| Loss::total(costs).mean()).collect();
        if let Some(broken) = costs.iter().position(|cost| !cost.is_finite()) {
            let gone = metric.subject.gone(&dropped[broken]);
            return Err(Error::work(format!("the {} without {gone} is not finite", metric.name)));
        }
        let mean = costs.iter().sum::<f64>() / costs.len() as f64;
        let baseline = self.baseline.map_or(mean, |before| (1.0 - NEW) * before + NEW * mean);
        self.baseline = Some(baseline);
        let gradient = |unit: usize, stay: f64| {
            let scale = ((stay + TINY) * (1.0 - stay + TINY)).sqrt();
            let of_mask =
                |(mask, cost): (&Vec<bool>, &f64)| (cost - baseline) * (f64::from(u8::from(mask[unit])) - stay) / scale;
            masks.iter().zip(&costs).map(of_mask).sum::<f64>() / (costs.len() - 1) as f64
        };
        let mut stay: Vec<f64> =
            self.stay.iter().enumerate().map(|(unit, stay)| stay - RATE * gradient(unit, *stay)).collect();
        project(&mut stay, self.keep);
        self.stay = stay;
        Ok(costs)
    }

    /// The `n` least likely to stay, ascending; of equals the lower.
    #[must_use]
    pub fn least(&self, n: usize) -> Vec<usize> {
        let mut order: Vec<usize> = (0..self.stay.len()).collect();
        order.sort_by(|a, b| self.stay[*a].total_cmp(&self.stay[*b]));
        let mut least: Vec<usize> = order[..n].iter().map(|place| self.units.start + place).collect();
        least.sort_unstable();
        least
    }
}

/// The probabilities nearest to `stay` whose sum is at most `keep`: clamp(s - v, 0, 1) with the least v ≥ 0.
fn project(stay: &mut [f64], keep: f64) {
    let sum = |v: f64| stay.iter().map(|s| (s - v).clamp(0.0, 1.0)).sum::<f64>();
    let mut v = 0.0;
    if sum(0.0) > keep {
        let (mut low, mut high) = (0.0, stay.iter().copied().fold(0.0, f64::max));
        // until the two are neighbours
        loop {
            v = f64::midpoint(low, high);
            if v <= low || v >= high {
                break;
            }
            if sum(v) > keep { low = v } else { high = v }
        }
        v = high;
    }
    stay.iter_mut().for_each(|s| *s = (*s - v).clamp(0.0, 1.0));
}

/// Learns for every size up to `most` by itself, and measures what comes of each on all texts.
fn search(
    evidence: &mut dyn Evidence,
    metric: &'static Metric,
    allowed: &Range<usize>,
    most: usize,
    draws: &Draws,
) -> Result<Vec<Choice>> {
    let mut sets: Vec<Vec<usize>> = vec![Vec::new()];
    sets.extend(allowed.clone().map(|own| vec![own]));
    let costs = evidence.costs(metric, &sets, None)?;
    let alone = rises(&costs[0], &costs[1..].iter().collect::<Vec<_>>(), vec![allowed.len()], metric.name);
    let finite = |value: &f64, set: &[usize]| match value.is_finite() {
        true => Ok(()),
        false => Err(Error::work(format!("the {} without {} is not finite", metric.name, metric.subject.gone(set)))),
    };
    alone.mean[0].iter().zip(&sets[1..]).try_for_each(|(value, set)| finite(value, set))?;
    let texts: Vec<usize> = (0..evidence.sequences()).filter(|text| costs[0][*text].tokens > 0).collect();
    let mut chosen: Vec<Vec<usize>> = Vec::new();
    for n in 1..=most {
        let mut policy = Policy::from_costs(allowed.clone(), allowed.len() - n, &alone.mean[0]);
        let mut drawing = draws.stream(n as u64);
        let mut last = 0.0;
        for _ in 0..draws.steps {
            let on = drawing.sample(TEXTS, texts.len()).into_iter().map(|place| texts[place]).collect();
            let uniforms = (0..MASKS).map(|_| (0..allowed.len()).map(|_| drawing.uniform()).collect()).collect();
            let costs = policy.learn(evidence, metric, &Step { on, uniforms })?;
            last = costs.iter().sum::<f64>() / costs.len() as f64;
        }
        let gone = metric.subject.gone(&policy.least(n));
        evidence.reached(&format!("{n} of {most}: {gone}, {last:.4} in the last step"));
        chosen.push(policy.least(n));
    }
    let whole = &costs[0];
    let costs = evidence.costs(metric, &chosen, None)?;
    let scores = rises(whole, &costs.iter().collect::<Vec<_>>(), vec![chosen.len()], metric.name);
    let choices = chosen.into_iter().enumerate().map(|(place, drop)| {
        finite(&scores.mean[0][place], &drop)?;
        let (score, stderr) = (scores.mean[0][place], scores.error(1, place));
        Ok(Choice { drop, score, stderr, ..Choice::default() })
    });
    choices.collect()
}

/// The whole model, each layer's loss, the masks of every size, and what came of them.
fn passes(&Work { layers, most, texts, draws }: &Work<'_>) -> usize {
    let alone = layers * (layers + 1) / 2;
    let sizes = |of: &dyn Fn(usize) -> usize| (1..=most).map(of).sum::<usize>();
    let steps = (draws.steps * MASKS * TEXTS.min(texts)).div_ceil(texts.max(1));
    layers + alone + sizes(&|n| steps * (layers - n)) + sizes(&|n| layers - n)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::importance::metric;

    #[test]
    fn a_projection_keeps_what_may_stay() {
        let mut few = [0.2, 0.3, 1.4, -0.5];
        project(&mut few, 3.0);
        assert_eq!(few, [0.2, 0.3, 1.0, 0.0]);
        let mut many = [0.9, 0.8, 0.2, 1.0];
        project(&mut many, 2.0);
        assert!((many.iter().sum::<f64>() - 2.0).abs() < 1e-14, "{many:?}");
        assert!((many[3] - many[1] - 0.2).abs() < 1e-14 && many[2] == 0.0, "{many:?}");
        let mut none = [0.5; 3];
        project(&mut none, 0.0);
        assert_eq!(none, [0.0; 3]);
    }

    /// Layers 1 and 3 cost nothing.
    struct Quiet;

    impl Evidence for Quiet {
        fn layers(&self) -> usize {
            6
        }

        fn sequences(&self) -> usize {
            5
        }

        fn costs(&mut self, metric: &Metric, dropped: &[Vec<usize>], on: Option<&[usize]>) -> Result<Vec<Vec<Loss>>> {
            assert_eq!(metric.name, "layer-loss");
            let texts = on.map_or(5, <[usize]>::len);
            let cost = |dropped: &Vec<usize>| dropped.iter().filter(|own| ![1, 3].contains(*own)).count() as f64;
            let of = |dropped: &Vec<usize>| vec![Loss { sum: 10.0 * (1.0 + cost(dropped)), tokens: 10 }; texts];
            Ok(dropped.iter().map(of).collect())
        }

        fn reached(&self, _message: &str) {}
    }

    #[test]
    fn what_costs_nothing_is_learnt_to_go() {
        let draws = Draws { steps: 60, ..Draws::default() };
        let loss = metric("layer-loss").unwrap();
        let found = search(&mut Quiet, loss, &(0..6), 3, &draws).unwrap();
        assert!([1, 3].contains(&found[0].drop[0]));
        assert_eq!((found[1].drop.as_slice(), found[1].score), (&[1, 3][..], 0.0));
        assert_eq!((found[2].layers(), found[2].score), (3, 1.0));
        // a size is learnt by itself, whatever sizes are asked for beside it; layer 1 has to stay
        assert_eq!(search(&mut Quiet, loss, &(0..6), 2, &draws).unwrap(), found[..2]);
        assert_eq!(search(&mut Quiet, loss, &(2..6), 1, &draws).unwrap()[0].drop, [3]);
    }
}
