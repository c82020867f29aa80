//! Picks: from what is known of the layers to those that go.
//!
//! # Add a pick
//! A file here with a `PICK`, and its line in [`PICKS`]. `tail.rs` is the shortest example of one that looks at places
//! alone, `block.rs` of one that looks at scores.

mod block;
mod deepest;
mod greedy;
mod lowest;
mod merging;
mod policy;
mod tail;

use std::ops::Range;

use crate::importance::{Choice, Draws, Evaluate, Evidence, METRICS, Metric, RunnerUp, Scores, Subject};
use crate::{Error, Result};

/// What a pick over scores chooses from.
#[derive(Clone, Copy, Debug)]
pub struct Candidates<'a> {
    /// The metric to follow.
    pub metric: &'static Metric,
    /// Its scores.
    pub scores: &'a Scores,
    /// The layers that may go.
    pub allowed: &'a Range<usize>,
}

pub use merging::{LayerSum, MergeBounds, MergeTrial, MergedStack, Similarity};
pub use policy::{Policy, Step};

/// By which metric, layers allowed, the largest size, and what is drawn.
type Searching = fn(&mut dyn Evidence, &'static Metric, &Range<usize>, usize, &Draws) -> Result<Vec<Choice>>;

/// What measuring takes depends on.
#[derive(Clone, Copy, Debug)]
pub struct Work<'a> {
    /// Layers, or sub-layers, of the model.
    pub layers: usize,
    /// The largest choice.
    pub most: usize,
    /// Sequences of the text.
    pub texts: usize,
    /// What is drawn.
    pub draws: &'a Draws,
}

/// How a pick comes to its layers.
#[derive(Clone, Copy, Debug)]
pub(crate) enum How {
    /// From the scores of blocks: `n` of the layers allowed, 1 <= n <= their number.
    Blocks(fn(&Candidates<'_>, usize) -> Choice),
    /// From the scores of single layers, which block scores hold as well.
    Layers(fn(&Candidates<'_>, usize) -> Choice),
    /// By measuring as it goes.
    Search {
        /// The best choice of every size up to the last argument, of the layers allowed.
        search: Searching,
        /// Layers it computes for each token, at most.
        passes: fn(&Work<'_>) -> usize,
        /// What that is, in a few words.
        cost: &'static str,
        /// Whether it draws some of the sequences at each step, among which several texts would not weigh the same.
        draws_texts: bool,
    },
    /// By merging some of so many layers as long as the final states stay alike.
    Merging {
        /// The new stack.
        merge: fn(&MergeBounds, usize, &mut Similarity<'_>) -> Result<MergedStack>,
        /// What that takes, in a few words.
        cost: &'static str,
    },
    /// By their place alone: `n` of so many layers.
    Place(fn(usize, usize) -> Result<Range<usize>>),
    /// The user says.
    Given,
}

/// A way to choose, a row of [`PICKS`].
#[derive(Debug)]
pub struct Pick {
    /// Its name, which `--strategy` takes where it chooses by scores.
    pub name: &'static str,
    /// What it is, in a line.
    pub about: &'static str,
    /// How it chooses.
    pub(crate) how: How,
}

/// Every way to choose.
pub const PICKS: &[Pick] = &[
    block::PICK,
    lowest::PICK,
    greedy::GREEDY,
    greedy::BEAM,
    policy::PICK,
    merging::LACO,
    merging::SLIDING,
    deepest::PICK,
    tail::PICK,
    GIVEN,
];

const GIVEN: Pick = Pick { name: "given", about: "the layers that are named", how: How::Given };

/// The pick over scores called `name`, or the one that suits `metric`.
///
/// # Errors
/// Request: no such pick, or one that needs scores the metric does not give.
pub fn pick(name: Option<&str>, metric: &Metric) -> Result<&'static Pick> {
    let suits = |pick: &&Pick| matches!(pick.how, How::Blocks(_)) == (metric.subject == Subject::Block);
    let found = match name {
        None => scored().find(suits),
        Some(name) => scored().find(|pick| pick.name == name),
    };
    match found {
        Some(pick)
            if matches!(pick.how, How::Blocks(_)) && matches!(metric.subject, Subject::Layer | Subject::SubLayer) =>
        {
            let single = if metric.subject == Subject::Layer { "layers" } else { "sub-layers" };
            Err(Error::request(format!(
                "strategy {} needs scores of blocks; metric {} scores single {single}",
                pick.name, metric.name
            )))
        }
        Some(pick) if matches!(pick.how, How::Search { .. }) && !is_measured_alone(metric) => {
            let known: Vec<_> = METRICS.iter().filter(|row| is_measured_alone(row)).map(|row| row.name).collect();
            let (pick, known) = (pick.name, known.join(", "));
            Err(Error::request(format!(
                "strategy {pick} runs the removal of single layers or sub-layers: metric {known}, not {}",
                metric.name
            )))
        }
        Some(pick) if matches!(pick.how, How::Search { draws_texts: true, .. }) && metric.value.asks_questions() => {
            Err(Error::request(format!(
                "strategy {} draws a few texts at each step, and questions go many to a pass: metric {} goes with greedy \
                 and beam",
                pick.name, metric.name
            )))
        }
        Some(_) if !metric.speaks_of_dropping() => Err(Error::request(format!(
            "metric {} {}, and a plan cannot follow it: name it with --metrics",
            metric.name,
            match metric.subject {
                Subject::Depth => "scores no layers",
                Subject::LayerPair | Subject::SubLayerPair => "scores pairs",
                _ => "compares two models' layers",
            }
        ))),
        Some(pick) => Ok(pick),
        None => {
            let known: Vec<_> = scored().map(|pick| pick.name).collect();
            let name = name.unwrap_or_default();
            Err(Error::request(format!("no strategy is called {name:?}; there are {}", known.join(", "))))
        }
    }
}

fn is_measured_alone(metric: &Metric) -> bool {
    matches!(metric.subject, Subject::Layer | Subject::SubLayer)
        && matches!(metric.value, Evaluate::Loss | Evaluate::Logits(_) | Evaluate::Accuracy)
}

/// The picks that choose by what is measured.
pub fn scored() -> impl Iterator<Item = &'static Pick> {
    PICKS.iter().filter(|pick| !matches!(pick.how, How::Place(_) | How::Merging { .. } | How::Given))
}

impl Pick {
    /// Whether it measures as it picks, so that it needs the model and not only scores.
    #[must_use]
    pub fn measures(&self) -> bool {
        matches!(self.how, How::Search { .. })
    }

    /// Refuses `texts` texts where it cannot weigh them alike.
    ///
    /// # Errors
    /// Request: as said.
    pub fn check_texts(&self, texts: usize) -> Result<()> {
        match self.how {
            How::Search { draws_texts: true, .. } if texts > 1 => Err(Error::request(format!(
                "strategy {} draws some sequences at each step, and cannot weigh {texts} texts alike: give one --data, \
                 or follow another strategy, such as greedy or beam",
                self.name
            ))),
            _ => Ok(()),
        }
    }

    /// Layers that measuring while it picks by `metric` computes for each token, at most.
    #[must_use]
    pub fn passes(&self, metric: &Metric, work: &Work<'_>) -> usize {
        let parts = metric.subject.unit().per_layer();
        let work = Work { layers: parts * work.layers, most: parts * work.most, ..*work };
        match self.how {
            How::Search { passes, .. } => passes(&work).div_ceil(parts),
            _ => 0,
        }
    }

    /// The `n` layers to drop by their scores.
    ///
    /// # Errors
    /// Request: more layers than may go, or a pick that looks at no scores.
    pub fn choose(&self, candidates: &Candidates<'_>, n: usize) -> Result<Choice> {
        let allowed = candidates.allowed;
        if n == 0 || n > allowed.len() {
            return Err(Error::request(format!(
                "{n} layers cannot be dropped from the {} that are not protected",
                allowed.len()
            )));
        }
        match self.how {
            How::Blocks(choose) | How::Layers(choose) => Ok(choose(candidates, n)),
            How::Search { .. } => {
                Err(Error::request(format!("{} measures as it picks: it needs the model", self.name)))
            }
            How::Place(_) | How::Merging { .. } | How::Given => {
                Err(Error::request(format!("{} looks at no scores", self.name)))
            }
        }
    }

    /// The best choice for every n from 1 to what may go; at least one layer stays.
    ///
    /// # Errors
    /// As [`Pick::choose`].
    pub fn choose_all(&self, candidates: &Candidates<'_>) -> Result<Vec<Choice>> {
        let most = candidates.allowed.len().min(candidates.scores.mean[0].len() - 1);
        (1..=most).map(|n| self.choose(candidates, n)).collect()
    }
}

impl Candidates<'_> {
    /// Entries of row n-1 by their standing: the best first, the later one among equals.
    pub(super) fn ranked(&self, n: usize, entries: Range<usize>) -> Vec<usize> {
        let row = &self.scores.mean[n - 1];
        let mut ranked: Vec<usize> = entries.rev().collect();
        ranked.sort_by(|&a, &b| self.metric.order.cost(row[a]).total_cmp(&self.metric.order.cost(row[b])));
        ranked
    }

    /// `drop` with the score of entry `best` of row n-1, against the entries `others`, the best of them first;
    /// `instead` says what dropping by another entry means.
    pub(super) fn choice(
        &self,
        n: usize,
        drop: Vec<usize>,
        best: usize,
        others: &[usize],
        instead: impl Fn(usize) -> Vec<usize>,
    ) -> Choice {
        let row = &self.scores.mean[n - 1];
        let against = |&other: &usize| RunnerUp {
            drop: instead(other),
            score: row[other],
            difference: (row[other] - row[best]).abs(),
            difference_stderr: self.scores.difference_error(n, best, other),
        };
        let mut rivals: Vec<usize> =
            others.iter().copied().filter(|other| against(other).is_within_error() == Some(true)).collect();
        rivals.sort_unstable();
        Choice {
            drop,
            score: row[best],
            stderr: self.scores.error(n, best),
            runner_up: others.first().map(against),
            rivals,
            ..Choice::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::importance::{Moments, metric};

    /// Block influence of Llama-2-7B, published with "A deeper look at depth pruning of LLMs" (arXiv 2407.16286).
    const LLAMA_2_7B: [f64; 32] = [
        0.4066, 0.2499, 0.1454, 0.1462, 0.1515, 0.1501, 0.1436, 0.1420, 0.1339, 0.1287, 0.1248, 0.1131, 0.1092, 0.1100,
        0.1058, 0.1059, 0.1062, 0.0839, 0.0756, 0.0637, 0.0616, 0.0466, 0.0440, 0.0365, 0.0347, 0.0308, 0.0332, 0.0299,
        0.0332, 0.0337, 0.0603, 0.3072,
    ];
    /// The same of Mistral-7B.
    const MISTRAL_7B: [f64; 32] = [
        0.4131, 0.2229, 0.185, 0.1542, 0.1579, 0.1619, 0.1558, 0.1551, 0.1419, 0.1315, 0.1252, 0.1169, 0.1101, 0.1061,
        0.1116, 0.1107, 0.1095, 0.1053, 0.1062, 0.097, 0.075, 0.0613, 0.0494, 0.0465, 0.0416, 0.0395, 0.0385, 0.0408,
        0.0504, 0.0602, 0.0613, 0.1741,
    ];

    fn exact(metric: &str, mean: Vec<Vec<f64>>) -> Scores {
        Scores { metric: metric.to_owned(), mean, stderr: None, difference_stderr: None }
    }

    fn choose(scores: &Scores, allowed: Range<usize>, n: usize) -> Choice {
        let metric = metric(&scores.metric).unwrap();
        let candidates = Candidates { metric, scores, allowed: &allowed };
        pick(None, metric).unwrap().choose(&candidates, n).unwrap()
    }

    #[test]
    fn block_influence_drops_what_its_authors_dropped() {
        let llama = exact("block-influence", vec![LLAMA_2_7B.to_vec()]);
        assert_eq!(choose(&llama, 0..32, 9).drop, (21..=29).collect::<Vec<_>>());
        let mistral = exact("block-influence", vec![MISTRAL_7B.to_vec()]);
        let choice = choose(&mistral, 0..32, 8);
        assert_eq!(choice.drop, (22..=29).collect::<Vec<_>>());
        // layers 21 and 30 tie; the deeper goes first
        let runner_up = choice.runner_up.unwrap();
        assert_eq!(runner_up.drop, (22..=28).chain([30]).collect::<Vec<_>>());
        assert_eq!((choice.score, runner_up.score), (0.0602, 0.0613));
    }

    #[test]
    fn the_best_block_is_the_lowest_distance_and_the_deeper_of_two() {
        let rows = vec![vec![0.3, 0.1, 0.1, 0.4], vec![0.5, 0.2, 0.3], vec![0.6, 0.6], vec![0.9]];
        let scores = exact("angular", rows.clone());
        assert_eq!(choose(&scores, 0..4, 1).drop, [2]);
        assert_eq!(choose(&scores, 0..4, 2).drop, [1, 2]);
        assert_eq!(choose(&scores, 0..4, 3).drop, [1, 2, 3]);
        assert_eq!(choose(&scores, 0..3, 3).drop, [0, 1, 2]);
        assert_eq!(choose(&scores, 1..4, 2).runner_up.unwrap().drop, [2, 3]);
        assert!(choose(&scores, 1..3, 2).runner_up.is_none());
        let similarity = exact("cosine", rows);
        assert_eq!(choose(&similarity, 0..4, 1).drop, [3]);
        assert_eq!(choose(&similarity, 0..4, 2).drop, [0, 1]);
        let metric = metric("angular").unwrap();
        let candidates = Candidates { metric, scores: &scores, allowed: &(0..4) };
        let all = pick(None, metric).unwrap().choose_all(&candidates).unwrap();
        assert_eq!(all.iter().map(Choice::layers).collect::<Vec<_>>(), [1, 2, 3]);
        for n in [0, 5] {
            assert_eq!(pick(None, metric).unwrap().choose(&candidates, n).unwrap_err().exit_code(), 2);
        }
    }

    #[test]
    fn rivals_are_told_by_the_paired_error() {
        // entries 1 and 2 move together from sample to sample, entry 0 moves on its own
        let mut moments = Moments::new(vec![4]);
        for k in 0..100 {
            let common = f64::from(k % 10) / 100.0;
            let own = f64::from(k / 10) / 100.0;
            moments.push(1.0, &[0.106 + own, 0.1 + common, 0.103 + common, 0.9]);
        }
        let scores = moments.finish("angular");
        let choice = choose(&scores, 0..4, 1);
        assert_eq!((choice.drop, choice.rivals), (vec![1], vec![0]));
        let runner_up = choice.runner_up.unwrap();
        assert_eq!(runner_up.drop, [2]);
        // 0.003 lies within the errors of the two means, and yet the two are told apart
        assert!(runner_up.difference < choice.stderr.unwrap() * 2.0);
        assert_eq!(runner_up.is_within_error(), Some(false));
        let single = exact("angular", vec![vec![0.1, 0.1]]);
        assert_eq!(choose(&single, 0..2, 1).runner_up.unwrap().is_within_error(), None);
    }

    #[test]
    fn single_layers_can_be_taken_from_block_scores_but_not_the_reverse() {
        let angular = metric("angular").unwrap();
        let scores = exact("angular", vec![vec![0.1, 0.5, 0.2], vec![0.6, 0.7], vec![0.8]]);
        let candidates = Candidates { metric: angular, scores: &scores, allowed: &(0..3) };
        let choice = pick(Some("lowest"), angular).unwrap().choose(&candidates, 2).unwrap();
        assert_eq!((choice.drop, choice.runner_up.unwrap().drop), (vec![0, 2], vec![0, 1]));
        let influence = metric("block-influence").unwrap();
        assert!(pick(Some("block"), influence).unwrap_err().to_string().contains("single layers"));
        assert!(pick(Some("best"), angular).unwrap_err().to_string().contains("block, lowest"));
    }
}
