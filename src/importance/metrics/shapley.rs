//! What a layer is worth on the average over the company it may be in, after Shapley: by random subsets of the layers,
//! or for attentions and MLPs by windows around them.

use super::super::draws::Draws;
use super::super::evidence::Evidence;
use super::super::moments::{Moments, Scores};
use super::super::removals::without_all;
use super::{Coalitions, Evaluate, Metric, Order, Subject, Tokens, distances, loss};
use crate::model::Trie;
use crate::{Error, Result};

pub(super) const BY_LOSS: Metric = Metric {
    name: "shapley",
    about: "loss without the layer less that with it, over random halves of the layers; drops single layers",
    reference: "Siddiqui et al., A deeper look at depth pruning, arXiv 2407.16286 (loss Shapley)",
    subject: Subject::Layer,
    tokens: Tokens::All,
    order: Order::Lowest,
    value: Evaluate::Coalitions(Coalitions { value: &loss::LAYERS, passes: halves, scores: sampled }),
    usual: false,
};

pub(super) const BY_LOGITS: Metric = Metric {
    name: "shapley-logits",
    about: "the same by the distance of the logits from those of the whole model",
    reference: "Siddiqui et al., A deeper look at depth pruning, arXiv 2407.16286 (logit Shapley)",
    value: Evaluate::Coalitions(Coalitions { value: &distances::NORM_OF_TOKENS, passes: halves, scores: sampled }),
    ..BY_LOSS
};

pub(super) const WINDOWED: Metric = Metric {
    name: "shapley-windowed",
    about: "loss without an attention or MLP less that with it, alone and at the ends of windows of 2 and 3",
    reference: "Zhang et al., Investigating Layer Importance, arXiv 2409.14381 (the loss for a task's accuracy)",
    subject: Subject::SubLayer,
    value: Evaluate::Coalitions(Coalitions { value: &loss::SUBLAYERS, passes: windows_passes, scores: windowed }),
    ..BY_LOSS
};

/// Texts are dealt into so many groups at most; those of one see the same subsets, each weight is read once for all.
const GROUPS: usize = 32;

/// The longest window, in sub-layers.
const WINDOW: usize = 3;

/// Subsets of the layers that some texts are run with.
#[derive(Clone, Debug)]
pub struct Drawn {
    /// The texts.
    pub on: Vec<usize>,
    /// For each subset, the layers that are not in it.
    pub dropped: Vec<Vec<usize>>,
}

/// A subset has half of the layers.
fn halves(layers: usize, draws: &Draws) -> usize {
    draws.subsets * (layers / 2).max(1)
}

fn sampled(metric: &Metric, value: &'static Metric, evidence: &mut dyn Evidence, draws: &Draws) -> Result<Scores> {
    let (layers, texts) = (evidence.layers(), evidence.sequences());
    let size = texts.div_ceil(GROUPS).max(1);
    let groups: Vec<Vec<usize>> = (0..texts).collect::<Vec<_>>().chunks(size).map(<[usize]>::to_vec).collect();
    let drawn: Vec<Drawn> = groups
        .into_iter()
        .enumerate()
        .map(|(group, on)| {
            let mut drawing = draws.stream(group as u64);
            let keep = (layers / 2).max(1);
            let dropped = (0..draws.subsets).map(|_| without_all(layers, &drawing.sample(keep, layers)));
            Drawn { on, dropped: dropped.collect() }
        })
        .collect();
    of_subsets(metric.name, value, evidence, &drawn)
}

/// Of each layer, the mean of `value` over the texts and subsets without it, less the mean over those with it, under
/// the name `name`. Errors are over the texts.
///
/// # Errors
/// Request: a layer that is in all of the subsets, or in none. Those of the evidence.
pub fn of_subsets(name: &str, value: &Metric, evidence: &mut dyn Evidence, drawn: &[Drawn]) -> Result<Scores> {
    let layers = evidence.layers();
    let subsets = || drawn.iter().flat_map(|drawn| &drawn.dropped);
    let odd = |layer: &usize| {
        let absent = subsets().filter(|dropped| dropped.contains(layer)).count();
        absent == 0 || absent == subsets().count()
    };
    if let Some(layer) = (0..layers).find(odd) {
        return Err(Error::request(format!(
            "of {} subsets of the layers drawn, layer {layer} is in all or in none: draw more with --subsets",
            subsets().count()
        )));
    }
    // of each text, its value in each subset
    let mut texts: Vec<Vec<(&[usize], f64)>> = Vec::new();
    for Drawn { on, dropped } in drawn {
        let costs = evidence.costs(value, dropped, Some(on))?;
        for text in 0..on.len() {
            let own = dropped.iter().zip(&costs).filter(|(_, costs)| costs[text].tokens > 0);
            let own: Vec<_> = own.map(|(dropped, costs)| (dropped.as_slice(), costs[text].mean())).collect();
            if !own.is_empty() {
                texts.push(own);
            }
        }
    }
    // sum and number of those with a layer, and without
    let sums = |layer: usize| {
        let mut sums = [(0.0, 0.0); 2];
        for (dropped, value) in texts.iter().flatten() {
            let (sum, count) = &mut sums[usize::from(dropped.contains(&layer))];
            (*sum, *count) = (*sum + value, *count + 1.0);
        }
        sums
    };
    let sums: Vec<_> = (0..layers).map(sums).collect();
    // the mean of these over the texts is the score, and they vary as the texts move it
    let count = texts.len() as f64;
    let of_text = |own: &Vec<(&[usize], f64)>, layer: usize| {
        let [with, without] = sums[layer].map(|(sum, count)| (sum / count, count));
        let moved = own.iter().map(|(dropped, value)| match dropped.contains(&layer) {
            true => (value - without.0) / without.1,
            false => (with.0 - value) / with.1,
        });
        without.0 - with.0 + count * moved.sum::<f64>()
    };
    let mut moments = Moments::new(vec![layers]);
    for own in &texts {
        moments.push(1.0, &(0..layers).map(|layer| of_text(own, layer)).collect::<Vec<_>>());
    }
    finite(moments.finish(name))
}

/// Every window of up to [`WINDOW`] neighbours of `units`, the short ones first.
fn windows(units: usize) -> Vec<Vec<usize>> {
    let of = |len: usize| (0..(units + 1).saturating_sub(len)).map(move |start| (start..start + len).collect());
    (1..=WINDOW).flat_map(of).collect()
}

fn windows_passes(layers: usize, _draws: &Draws) -> usize {
    let units = layers * Subject::SubLayer.unit().per_layer();
    let stacks: Vec<Vec<usize>> = windows(units).iter().map(|window| without_all(units, window)).collect();
    Trie::new(&stacks).layer_passes().div_ceil(Subject::SubLayer.unit().per_layer())
}

fn windowed(metric: &Metric, value: &'static Metric, evidence: &mut dyn Evidence, _draws: &Draws) -> Result<Scores> {
    let units = evidence.layers() * Subject::SubLayer.unit().per_layer();
    let mut removed = vec![Vec::new()];
    removed.extend(windows(units));
    let costs = evidence.costs(value, &removed, None)?;
    // what the loss rises by without each window, of each text
    let scores = |rows: &[f64]| -> Vec<f64> {
        let of = |start: usize, len: usize| match len {
            0 => 0.0,
            // windows one shorter are all that come before, from `units` down
            _ => rows[(0..len - 1).map(|shorter| units - shorter).sum::<usize>() + start],
        };
        let unit = |own: usize| {
            let ends = (2..=WINDOW).flat_map(|len| {
                let first = (own + len <= units).then(|| of(own, len) - of(own + 1, len - 1));
                let last = (own + 1).checked_sub(len).map(|start| of(start, len) - of(start, len - 1));
                [first, last]
            });
            let terms: Vec<f64> = std::iter::once(of(own, 1)).chain(ends.flatten()).collect();
            terms.iter().sum::<f64>() / terms.len() as f64
        };
        (0..units).map(unit).collect()
    };
    let mut moments = Moments::new(vec![units]);
    for (text, whole) in costs[0].iter().enumerate().filter(|(_, whole)| whole.tokens > 0) {
        let rows: Vec<f64> = costs[1..].iter().map(|costs| costs[text].mean() - whole.mean()).collect();
        moments.push(whole.tokens as f64, &scores(&rows));
    }
    finite(moments.finish(metric.name))
}

fn finite(scores: Scores) -> Result<Scores> {
    match scores.mean[0].iter().position(|value| !value.is_finite()) {
        Some(own) => Err(Error::work(format!("{} of {own} is not finite", scores.metric))),
        None => Ok(scores),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Loss;

    /// Layers that each cost something, and 1 with 2 together something more.
    struct Company;

    impl Evidence for Company {
        fn layers(&self) -> usize {
            4
        }

        fn sequences(&self) -> usize {
            3
        }

        fn costs(&mut self, metric: &Metric, dropped: &[Vec<usize>], on: Option<&[usize]>) -> Result<Vec<Vec<Loss>>> {
            let texts = on.map_or_else(|| vec![0, 1, 2], <[usize]>::to_vec);
            let cost = |dropped: &Vec<usize>, text: usize| {
                let alone: f64 = dropped.iter().map(|own| 1.0 + 0.5 * *own as f64).sum();
                let together = if dropped.contains(&1) && dropped.contains(&2) { 3.0 } else { 0.0 };
                alone + together + 0.01 * text as f64 * dropped.len() as f64
            };
            assert!(metric.name.contains("loss"));
            let of = |dropped: &Vec<usize>, text: usize| Loss {
                sum: (2.0 + cost(dropped, text)) * (5 + text) as f64,
                tokens: 5 + text,
            };
            Ok(dropped.iter().map(|dropped| texts.iter().map(|text| of(dropped, *text)).collect()).collect())
        }

        fn reached(&self, _message: &str) {}
    }

    #[test]
    fn a_layer_is_worth_what_it_adds_over_all_subsets() {
        let pairs = [[0, 1], [0, 2], [0, 3], [1, 2], [1, 3], [2, 3]].map(|pair| pair.to_vec()).to_vec();
        let drawn = [Drawn { on: vec![0, 1, 2], dropped: pairs.clone() }];
        let scores = of_subsets("shapley", &loss::LAYERS, &mut Company, &drawn).unwrap();
        // without a layer, each of the three others is missing once; with it, each twice
        let alone = |own: usize| 1.0 + 0.5 * own as f64;
        let others = |own: usize| (0..4).filter(|other| *other != own).map(alone).sum::<f64>();
        for own in 0..4 {
            let pair = if [1, 2].contains(&own) { 1.0 } else { -1.0 };
            let expected = alone(own) + others(own) / 3.0 - others(own) * 2.0 / 3.0 + pair;
            assert!((scores.mean[0][own] - expected).abs() < 1e-12, "{own}: {:?}", scores.mean);
        }
        // the texts say the same
        assert!(scores.stderr.unwrap()[0].iter().all(|error| *error < 1e-12));
        let few = [Drawn { on: vec![0], dropped: vec![vec![0, 1]] }];
        let error = of_subsets("shapley", &loss::LAYERS, &mut Company, &few).unwrap_err();
        assert!(error.exit_code() == 2 && error.to_string().contains("--subsets"), "{error}");
    }

    #[test]
    fn the_seed_draws_the_subsets() {
        let Evaluate::Coalitions(how) = BY_LOSS.value else { unreachable!() };
        let of = |draws: Draws| (how.scores)(&BY_LOSS, how.value, &mut Company, &draws).unwrap();
        let draws = Draws { subsets: 20, ..Draws::default() };
        assert_eq!(of(draws), of(draws));
        assert_ne!(of(draws).mean, of(Draws { seed: 1, ..draws }).mean);
        // many come near to what all subsets say
        let many = of(Draws { subsets: 4000, ..draws });
        let pairs = [[0, 1], [0, 2], [0, 3], [1, 2], [1, 3], [2, 3]].map(|pair| pair.to_vec()).to_vec();
        let drawn = [Drawn { on: vec![0, 1, 2], dropped: pairs }];
        let all = of_subsets("shapley", &loss::LAYERS, &mut Company, &drawn).unwrap();
        for (found, expected) in many.mean[0].iter().zip(&all.mean[0]) {
            assert!((found - expected).abs() < 0.1, "{many:?} {all:?}");
        }
    }

    #[test]
    fn windows_around_a_sublayer() {
        assert_eq!(windows(8).len(), 8 + 7 + 6);
        assert!(windows_passes(4, &Draws::default()) < (8 + 7 + 6) * 4);
        let Evaluate::Coalitions(how) = WINDOWED.value else { unreachable!() };
        let scores = (how.scores)(&WINDOWED, how.value, &mut Company, &Draws::default()).unwrap();
        // 0: alone, first of two and of three; 1: with 2 beside it, as first and last
        let value = |own: usize| 1.0 + 0.5 * own as f64 + 0.01 * (5.0 * 0.0 + 6.0 + 7.0 * 2.0) / 18.0;
        assert!((scores.mean[0][0] - value(0)).abs() < 1e-12, "{:?}", scores.mean);
        // [1], [1 2], [1 2 3] with 2; [0 1] without it
        assert!((scores.mean[0][1] - value(1) - 3.0 * 2.0 / 4.0).abs() < 1e-12, "{:?}", scores.mean);
        assert_eq!(scores.mean[0].len(), 8);
        assert!(scores.stderr.is_some());
    }
}
