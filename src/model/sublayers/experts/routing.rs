//! Which experts each token goes through, with what weights, and the gradient of these.
//!
//! As transformers computes it: scores are the softmax over all experts in f32, or a sigmoid of each; the largest are
//! chosen, the first of equal ones; their scores are the weights, divided by their sum where the family does so. The
//! choice has no gradient.

use std::ops::Range;

use crate::arch::{Experts, GroupScores, Groups, RouterScores};

/// What is added to the sum of sigmoids before it divides.
const LEAST: f32 = 1e-20;

/// The way of some tokens through the experts. What is there for each token and each of its experts lies in the order
/// of experts, then of tokens.
#[derive(Debug)]
pub(super) struct Routing {
    /// RouterScores of all experts, `[t, n]`.
    scores: Vec<f32>,
    /// The tokens of each expert, ascending.
    tokens: Vec<u32>,
    /// Their weights.
    weights: Vec<f32>,
    /// Where in both each expert begins, `[n + 1]`.
    starts: Vec<usize>,
}

impl Routing {
    /// Of the router's products `[t, n]`.
    pub(super) fn new(rule: &Experts, logits: Vec<f32>, bias: Option<&[f32]>) -> Self {
        let (n, k) = (rule.count, rule.chosen);
        let mut scores = logits;
        let mut chosen = Vec::with_capacity(scores.len() / n.max(1) * k);
        let mut order: Vec<u32> = Vec::with_capacity(n);
        let mut biased = vec![0f32; n];
        for row in scores.chunks_exact_mut(n.max(1)) {
            to_scores(row, rule.scores);
            biased.copy_from_slice(row);
            for (score, bias) in biased.iter_mut().zip(bias.unwrap_or_default()) {
                *score += bias;
            }
            if let Some(groups) = rule.groups {
                leave_groups(&mut biased, groups);
            }
            let before = |a: &u32, b: &u32| biased[*b as usize].total_cmp(&biased[*a as usize]).then(a.cmp(b));
            order.clear();
            order.extend(0..n as u32);
            if k < n {
                order.select_nth_unstable_by(k, before);
            }
            // in the order in which sums are added up in transformers
            order[..k].sort_unstable_by(before);
            chosen.extend_from_slice(&order[..k]);
        }
        let mut starts = vec![0; n + 1];
        chosen.iter().for_each(|expert| starts[*expert as usize + 1] += 1);
        for expert in 0..n {
            starts[expert + 1] += starts[expert];
        }
        let mut next = starts.clone();
        let (mut tokens, mut weights) = (vec![0; chosen.len()], vec![0.0; chosen.len()]);
        for (token, (row, experts)) in scores.chunks_exact(n.max(1)).zip(chosen.chunks_exact(k.max(1))).enumerate() {
            let divisor = divisor(rule, experts.iter().map(|expert| row[*expert as usize]).sum());
            for &expert in experts {
                let place = next[expert as usize];
                next[expert as usize] += 1;
                tokens[place] = token as u32;
                weights[place] = row[expert as usize] / divisor * rule.scale as f32;
            }
        }
        Self { scores, tokens, weights, starts }
    }

    /// The experts that have tokens.
    pub(super) fn used(&self) -> Vec<usize> {
        (0..self.starts.len().saturating_sub(1)).filter(|expert| !self.of(*expert).is_empty()).collect()
    }

    /// Where in [`Routing::tokens`] and [`Routing::weights`] an expert's own are.
    pub(super) fn of(&self, expert: usize) -> Range<usize> {
        self.starts[expert]..self.starts[expert + 1]
    }

    /// Tokens of each expert, one expert after the other.
    pub(super) fn tokens(&self, of: &Range<usize>) -> &[u32] {
        &self.tokens[of.clone()]
    }

    /// Their weights.
    pub(super) fn weights(&self, of: &Range<usize>) -> &[f32] {
        &self.weights[of.clone()]
    }

    /// Weights in all.
    pub(super) fn len(&self) -> usize {
        self.weights.len()
    }

    /// From the gradients of the weights, in their order, to that of the router's products, `[t, n]`.
    pub(super) fn backward(&self, rule: &Experts, dweights: &[f32]) -> Vec<f32> {
        let n = rule.count.max(1);
        let t = self.scores.len() / n;
        // of the scores of those chosen
        let mut dscores = vec![0f32; t * n];
        let (mut sums, mut products) = (vec![0f32; t], vec![0f32; t]);
        let all = || (0..rule.count).flat_map(|expert| self.of(expert).map(move |place| (expert, place)));
        for (expert, place) in all() {
            let token = self.tokens[place] as usize;
            sums[token] += self.scores[token * n + expert];
            products[token] += self.weights[place] * dweights[place];
        }
        for (expert, place) in all() {
            let token = self.tokens[place] as usize;
            let divisor = divisor(rule, sums[token]);
            let through_sum = if rule.normed && sums[token] >= rule.least { products[token] / divisor } else { 0.0 };
            dscores[token * n + expert] = dweights[place] * rule.scale as f32 / divisor - through_sum;
        }
        for (scores, dscores) in self.scores.chunks_exact(n).zip(dscores.chunks_exact_mut(n)) {
            match rule.scores {
                RouterScores::Softmax => {
                    let mean: f32 = scores.iter().zip(&*dscores).map(|(score, own)| score * own).sum();
                    dscores.iter_mut().zip(scores).for_each(|(own, score)| *own = score * (*own - mean));
                }
                RouterScores::Sigmoid => {
                    dscores.iter_mut().zip(scores).for_each(|(own, score)| *own *= score * (1.0 - score));
                }
            }
        }
        dscores
    }
}

/// Leaves the scores of the experts in the best groups, the first of equal ones; the others are lost.
fn leave_groups(scores: &mut [f32], Groups { all, best, scores: judged }: Groups) {
    let each = (scores.len() / all).max(1);
    let of = |group: &[f32]| {
        let (mut first, mut second) = (f32::NEG_INFINITY, f32::NEG_INFINITY);
        for &score in group {
            if score > first {
                (first, second) = (score, first);
            } else if score > second {
                second = score;
            }
        }
        match judged {
            GroupScores::Best => first,
            GroupScores::TwoBest => first + second,
        }
    };
    let sums: Vec<f32> = scores.chunks_exact(each).map(of).collect();
    let mut order: Vec<usize> = (0..sums.len()).collect();
    order.sort_by(|a, b| sums[*b].total_cmp(&sums[*a]));
    for &group in order.iter().skip(best) {
        scores[group * each..(group + 1) * each].fill(f32::NEG_INFINITY);
    }
}

/// What scores whose sum is `sum` are divided by.
fn divisor(rule: &Experts, sum: f32) -> f32 {
    match (rule.normed, rule.scores) {
        (false, _) => 1.0,
        (true, RouterScores::Softmax) => sum.max(rule.least),
        (true, RouterScores::Sigmoid) => sum + LEAST,
    }
}

/// From the router's products of a token to scores.
fn to_scores(row: &mut [f32], scores: RouterScores) {
    match scores {
        RouterScores::Softmax => {
            let most = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            row.iter_mut().for_each(|x| *x = (*x - most).exp());
            let sum: f32 = row.iter().sum();
            row.iter_mut().for_each(|x| *x /= sum);
        }
        RouterScores::Sigmoid => row.iter_mut().for_each(|x| *x = sigmoid(*x)),
    }
}

/// 1 / (1 + e⁻ˣ).
pub(super) fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + (-x).exp())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(count: usize, chosen: usize) -> Experts {
        Experts {
            count,
            chosen,
            size: 1,
            scores: RouterScores::Softmax,
            normed: true,
            least: 0.0,
            scale: 1.0,
            biased: false,
            bias_row: false,
            groups: None,
            shared: None,
            shared_weight: false,
            router_bias: false,
            clamped: None,
            stacked: None,
        }
    }

    /// Tokens and weights of each expert.
    fn groups(routing: &Routing, count: usize) -> Vec<Vec<(u32, f32)>> {
        let of = |expert| {
            let of = routing.of(expert);
            routing.tokens(&of).iter().copied().zip(routing.weights(&of).iter().copied()).collect()
        };
        (0..count).map(of).collect()
    }

    #[test]
    fn of_equal_scores_the_first_are_chosen() {
        let groups = groups(&Routing::new(&rule(4, 2), vec![1.0; 4], None), 4);
        assert_eq!(groups, [vec![(0, 0.5)], vec![(0, 0.5)], vec![], vec![]]);
        let tied = groups_of(vec![0.0, 2.0, 2.0, 2.0]);
        assert_eq!(tied, [0, 1, 1, 0]);
    }

    fn groups_of(logits: Vec<f32>) -> Vec<usize> {
        groups(&Routing::new(&rule(4, 2), logits, None), 4).iter().map(Vec::len).collect()
    }

    #[test]
    fn experts_without_tokens_and_experts_with_all() {
        let logits = [[0.0, 3.0, 1.0], [5.0, 9.0, 5.5], [-1.0, 0.0, -0.5]].concat();
        let found = groups(&Routing::new(&rule(3, 1), logits.clone(), None), 3);
        assert_eq!(found, [vec![], vec![(0, 1.0), (1, 1.0), (2, 1.0)], vec![]]);
        let all = groups(&Routing::new(&rule(3, 3), logits.clone(), None), 3);
        assert!(all.iter().all(|own| own.len() == 3));
        let plain = Experts { normed: false, ..rule(3, 1) };
        let found = groups(&Routing::new(&plain, logits[..3].to_vec(), None), 3);
        let weight = 3f32.exp() / (1.0 + 3f32.exp() + 1f32.exp());
        assert!((found[1][0].1 - weight).abs() < 1e-6);
        assert_eq!(Routing::new(&rule(3, 2), Vec::new(), None).len(), 0);
    }

    #[test]
    fn what_is_added_chooses_and_does_not_weigh() {
        let rule = Experts { scores: RouterScores::Sigmoid, scale: 2.5, biased: true, ..rule(3, 2) };
        let routing = Routing::new(&rule, vec![0.0, 1.0, -1.0], Some(&[0.0, -10.0, 0.0]));
        let found = groups(&routing, 3);
        let (a, c) = (0.5f32, sigmoid(-1.0));
        assert!(found[1].is_empty());
        assert!((found[0][0].1 - 2.5 * a / (a + c)).abs() < 1e-6 && (found[2][0].1 - 2.5 * c / (a + c)).abs() < 1e-6);
    }

    /// Of three groups of two the best two by their sums, though the best expert of all stands in the other.
    #[test]
    fn experts_are_chosen_in_the_best_groups() {
        let two_best = Groups { all: 3, best: 2, scores: GroupScores::TwoBest };
        let rule = Experts { scores: RouterScores::Sigmoid, groups: Some(two_best), biased: true, ..rule(6, 2) };
        let logits = vec![0.0, 0.1, 1.0, -9.0, 0.2, 0.3];
        let found = groups(&Routing::new(&rule, logits.clone(), Some(&[0.0; 6])), 6);
        let tokens: Vec<usize> = found.iter().map(Vec::len).collect();
        assert_eq!(tokens, [0, 0, 0, 0, 1, 1], "{found:?}");
        let best = Experts { groups: Some(Groups { scores: GroupScores::Best, ..two_best }), ..rule };
        let found = groups(&Routing::new(&best, logits.clone(), Some(&[0.0; 6])), 6);
        assert_eq!(found.iter().map(Vec::len).collect::<Vec<_>>(), [0, 0, 1, 0, 0, 1], "{found:?}");
        let moved = groups(&Routing::new(&rule, logits, Some(&[0.0, 0.0, 0.5, 0.0, 0.0, -0.8])), 6);
        assert_eq!(moved.iter().map(Vec::len).collect::<Vec<_>>(), [0, 1, 1, 0, 0, 0], "{moved:?}");
    }

    /// Slopes of Σ c·weight by each of the router's products.
    #[test]
    fn gradients_are_slopes() {
        let logits: Vec<f32> = (0..15).map(|at| ((at * 7 + 3) % 11) as f32 * 0.3 - 1.0).collect();
        for scores in [RouterScores::Softmax, RouterScores::Sigmoid] {
            for normed in [false, true] {
                let rule = Experts { scores, normed, scale: 1.5, ..rule(5, 2) };
                let routing = Routing::new(&rule, logits.clone(), None);
                let factors: Vec<f32> = (0..routing.len()).map(|at| (at as f32 * 1.7).sin()).collect();
                let found = routing.backward(&rule, &factors);
                let sum = |logits: Vec<f32>| -> f64 {
                    let routing = Routing::new(&rule, logits, None);
                    routing.weights.iter().zip(&factors).map(|(w, c)| f64::from(w * c)).sum()
                };
                for at in 0..logits.len() {
                    let moved = |step: f32| {
                        let mut logits = logits.clone();
                        logits[at] += step;
                        sum(logits)
                    };
                    let slope = (moved(0.01) - moved(-0.01)) / 0.02;
                    assert!(
                        (f64::from(found[at]) - slope).abs() < 1e-4,
                        "{scores:?} {normed} {at}: {} {slope}",
                        found[at]
                    );
                }
            }
        }
    }
}
