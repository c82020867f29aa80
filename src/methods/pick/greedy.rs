//! Search by measured loss, or another distance that is measured of every candidate: the sets of layers that cost least
//! are extended by every layer they lack, and measured again. With one set kept at a time and the loss that is SLEB
//! (arXiv 2402.09025, algorithm 1), with the distance of predictions and sub-layers for layers FinerCut (arXiv
//! 2405.18218); with more of them a beam search.

use std::collections::BTreeSet;
use std::ops::Range;

use super::{Candidates, How, Pick, Work};
use crate::importance::{Choice, Evaluate, Evidence, Metric, Subject};
use crate::{Error, Result};

const COST: &str = "a pass over every candidate's layers, for each layer that goes";

pub(super) const GREEDY: Pick = Pick {
    name: "greedy",
    about: "one layer after the other, the loss measured anew each time",
    how: How::Search {
        search: |evidence, metric, allowed, most, _| search(evidence, metric, (allowed, most), 1),
        passes: |work| passes(work, 1),
        cost: COST,
        draws_texts: false,
    },
};

pub(super) const BEAM: Pick = Pick {
    name: "beam",
    about: "the same with the four best sets of every size",
    how: How::Search {
        search: |evidence, metric, allowed, most, _| search(evidence, metric, (allowed, most), 4),
        passes: |work| passes(work, 4),
        cost: COST,
        draws_texts: false,
    },
};

fn search(
    evidence: &mut dyn Evidence,
    metric: &'static Metric,
    (allowed, most): (&Range<usize>, usize),
    width: usize,
) -> Result<Vec<Choice>> {
    let measure = if matches!(metric.value, Evaluate::Loss) { "loss" } else { metric.name };
    let whole = evidence.costs(metric, &[Vec::new()], None)?.pop().unwrap_or_default();
    let mut kept: Vec<Vec<usize>> = vec![Vec::new()];
    let mut best: Vec<Choice> = Vec::new();
    while best.len() < most {
        // of equals the later stands first: the lower layers, then, for they come last
        let sets: BTreeSet<Vec<usize>> = kept.iter().flat_map(|set| extended(set, allowed)).collect();
        let sets: Vec<Vec<usize>> = sets.into_iter().rev().collect();
        let losses = evidence.costs(metric, &sets, None)?;
        let scores = evidence.rises(&whole, &losses, metric.name);
        if let Some(broken) = scores.mean[0].iter().position(|rise| !rise.is_finite()) {
            return Err(Error::work(format!("the {measure} without the layers {:?} is not finite", sets[broken])));
        }
        let candidates = Candidates { metric, scores: &scores, allowed: &(0..sets.len()) };
        let ranked = candidates.ranked(1, 0..sets.len());
        let Some((first, others)) = ranked.split_first() else { break };
        let mut choice = candidates.choice(1, sets[*first].clone(), *first, others, |other| sets[other].clone());
        // sets that cannot be told apart, by the layers in which they differ
        let rivals = choice.rivals.iter().flat_map(|rival| &sets[*rival]);
        let rivals: BTreeSet<usize> = rivals.copied().filter(|layer| !choice.drop.contains(layer)).collect();
        choice.rivals = rivals.into_iter().collect();
        let layers = choice.drop.len();
        let found = metric.subject.gone(&choice.drop);
        let what = if metric.subject == Subject::SubLayer { "sub-layers" } else { "layers" };
        evidence.reached(&format!("{layers} of {most} {what}: {found}, {measure} {:+.4}", choice.score));
        kept = ranked.iter().take(width).map(|place| sets[*place].clone()).collect();
        best.push(choice);
    }
    Ok(best)
}

/// The whole model, and for each size every stack of one layer fewer from the stacks before it: m(m+1)/2 for one of m.
fn passes(&Work { layers, most, .. }: &Work<'_>, width: usize) -> usize {
    let sizes = (0..most).map(|gone| (layers - gone, if gone == 0 { 1 } else { width }));
    layers + sizes.map(|(m, width)| width * m * (m + 1) / 2).sum::<usize>()
}

/// `set` with one more of the layers allowed.
fn extended<'a>(set: &'a [usize], allowed: &Range<usize>) -> impl Iterator<Item = Vec<usize>> + 'a {
    allowed.clone().filter(|layer| !set.contains(layer)).map(|layer| {
        let mut larger = set.to_vec();
        larger.insert(larger.partition_point(|own| *own < layer), layer);
        larger
    })
}
