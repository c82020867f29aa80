//! Short lists: the best few choices by their scores, measured by what the loss rises by without them, which decides.

use std::collections::BTreeMap;

use super::pick::{Candidates, How, Pick};
use crate::importance::{Choice, Evaluate, Evidence, Listed, Metric, Rise, Scores, Subject, metric};
use crate::{Error, Result};

/// The longest short list.
const LONGEST: usize = 1000;

/// Refuses a length that leaves nothing to choose, or hardly ever ends, and picks that measure anyway.
///
/// # Errors
/// Request: as said.
pub(super) fn check(length: usize, pick: &Pick) -> Result<()> {
    if pick.measures() {
        let fault = "measures as it picks: --rerank is for picks by scores";
        return Err(Error::request(format!("strategy {} {fault}, such as block and lowest", pick.name)));
    }
    match length {
        2..=LONGEST => Ok(()),
        _ => Err(Error::request(format!("--rerank {length}: a short list has 2 to {LONGEST} candidates"))),
    }
}

/// The loss that removals of what `of` speaks of are measured by.
///
/// # Errors
/// None that can be met.
pub(super) fn loss_of(of: &Metric) -> Result<&'static Metric> {
    metric(if of.subject == Subject::SubLayer { "sublayer-loss" } else { "layer-loss" })
}

/// What the loss rises by without each of `sets`, all in one pass.
///
/// # Errors
/// Work: one that is not finite. Those of the evidence.
pub(super) fn losses(evidence: &mut dyn Evidence, of: &Metric, sets: &[Vec<usize>]) -> Result<Vec<Rise>> {
    let scores = costs(evidence, loss_of(of)?, sets)?;
    let rise = |(place, mean): (usize, &f64)| Rise { mean: *mean, stderr: scores.error(1, place) };
    Ok(scores.mean[0].iter().enumerate().map(rise).collect())
}

/// What each of `sets` costs by `metric`, a row of as many entries, all in one pass.
///
/// # Errors
/// As [`losses`].
pub(super) fn costs(evidence: &mut dyn Evidence, metric: &Metric, sets: &[Vec<usize>]) -> Result<Scores> {
    let mut all = vec![Vec::new()];
    all.extend_from_slice(sets);
    let costs = evidence.costs(metric, &all, None)?;
    let scores = evidence.rises(&costs[0], &costs[1..], metric.name);
    match scores.mean[0].iter().position(|mean| !mean.is_finite()) {
        None => Ok(scores),
        Some(broken) => {
            let measure = if matches!(metric.value, Evaluate::Loss) { "loss" } else { metric.name };
            let gone = metric.subject.gone(&sets[broken]);
            Err(Error::work(format!("the {measure} without {gone} is not finite")))
        }
    }
}

/// Ranks the first `length` choices by score of each of these `sizes` by their loss, and puts the best in its place in
/// `best`. All are measured in one pass.
///
/// # Errors
/// As [`losses`].
pub(super) fn rerank(
    evidence: &mut dyn Evidence,
    (pick, candidates): (&Pick, &Candidates<'_>),
    best: &mut [Choice],
    length: usize,
    sizes: impl Iterator<Item = usize>,
) -> Result<()> {
    let lists: Vec<(usize, Vec<Choice>)> = sizes.map(|n| (n, short_list(pick, candidates, n, length))).collect();
    let mut sets: Vec<Vec<usize>> = lists.iter().flat_map(|(_, list)| list).map(|own| own.drop.clone()).collect();
    sets.sort_unstable();
    sets.dedup();
    let found = losses(evidence, candidates.metric, &sets)?;
    let found: BTreeMap<&Vec<usize>, &Rise> = sets.iter().zip(&found).collect();
    for (n, list) in lists {
        let measured = list.iter().enumerate().filter_map(|(place, own)| {
            let loss = **found.get(&own.drop)?;
            Some(Listed { rank: place + 1, drop: own.drop.clone(), score: own.score, loss })
        });
        let mut measured: Vec<Listed> = measured.collect();
        // of equals the better by score stays first
        measured.sort_by(|a, b| a.loss.mean.total_cmp(&b.loss.mean));
        let first = measured.first().ok_or_else(|| Error::work("nothing on a short list"))?;
        let chosen = list[first.rank - 1].clone();
        // how sure the scores are of another choice says nothing of this one
        let known = if first.rank == 1 { best[n - 1].clone() } else { chosen };
        best[n - 1] = Choice { loss: Some(first.loss), short_list: measured, ..known };
    }
    Ok(())
}

/// The best choices of size `n` by score, the best first, and no more of them than there are.
fn short_list(pick: &Pick, candidates: &Candidates<'_>, n: usize, length: usize) -> Vec<Choice> {
    let allowed = candidates.allowed;
    let of = |drop: Vec<usize>, row: usize, entry: usize| Choice {
        drop,
        score: candidates.scores.mean[row - 1][entry],
        stderr: candidates.scores.error(row, entry),
        ..Choice::default()
    };
    match pick.how {
        How::Blocks(_) => {
            let ranked = candidates.ranked(n, allowed.start..allowed.end - n + 1).into_iter().take(length);
            ranked.map(|start| of((start..start + n).collect(), n, start)).collect()
        }
        _ => {
            let ranked = candidates.ranked(1, allowed.clone());
            let row = &candidates.scores.mean[0];
            let costs: Vec<f64> = ranked.iter().map(|own| candidates.metric.order.cost(row[*own])).collect();
            let sets = cheapest(&costs, n, length).into_iter().map(|places| {
                let worst = ranked[places[n - 1]];
                let mut drop: Vec<usize> = places.into_iter().map(|place| ranked[place]).collect();
                drop.sort_unstable();
                of(drop, 1, worst)
            });
            sets.collect()
        }
    }
}

/// The `count` sets of `n` places whose costs, which ascend, add up to least, the least first.
fn cheapest(costs: &[f64], n: usize, count: usize) -> Vec<Vec<usize>> {
    let sum = |set: &[usize]| set.iter().map(|place| costs[*place]).sum::<f64>();
    let mut open = vec![(0..n).collect::<Vec<usize>>()];
    let mut seen = std::collections::BTreeSet::from([open[0].clone()]);
    let mut found = Vec::new();
    while found.len() < count {
        let least = |a: &(usize, &Vec<usize>), b: &(usize, &Vec<usize>)| {
            sum(a.1).total_cmp(&sum(b.1)).then_with(|| a.1.cmp(b.1))
        };
        let Some((at, _)) = open.iter().enumerate().min_by(least) else { break };
        let set = open.swap_remove(at);
        // every other set is some set with one place moved on by one
        for place in 0..n {
            let mut next = set.clone();
            next[place] += 1;
            if next[place] < costs.len() && !set.contains(&next[place]) && seen.insert(next.clone()) {
                open.push(next);
            }
        }
        found.push(set);
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cheapest_sets_come_in_order() {
        let costs = [0.1, 0.2, 0.25, 0.5, 0.9];
        let mut all: Vec<Vec<usize>> =
            (0..5).flat_map(|a| (a + 1..5).flat_map(move |b| (b + 1..5).map(move |c| vec![a, b, c]))).collect();
        let sum = |set: &Vec<usize>| set.iter().map(|place| costs[*place]).sum::<f64>();
        all.sort_by(|a, b| sum(a).total_cmp(&sum(b)).then_with(|| a.cmp(b)));
        assert_eq!(cheapest(&costs, 3, 6), all[..6]);
        assert_eq!(cheapest(&costs, 3, 99), all);
        assert_eq!(cheapest(&costs, 5, 3), [[0, 1, 2, 3, 4]]);
    }
}
