//! Two runs side by side, question by question: what is different, and whether that is more than chance.
//!
//! The same questions are asked of both models, so the difference is much surer than the figures themselves: its
//! standard error is that of the paired differences, and McNemar's exact test looks only at the questions on which the
//! two disagree.

use serde::Serialize;

use super::degenerate::{Degenerate, judged};
use super::metrics::{NO_FILTER, TaskMetric, pooled, ratio};
use super::side::{Side, SideFigure, SideTask};
use crate::{Error, Result};

/// One metric of one task or group in both runs.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Comparison {
    /// Task or group; `all` for all documents together.
    pub task: String,
    /// What is compared.
    pub metric: String,
    /// Of which part of the answers; absent for all of them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub filter: Option<String>,
    /// Whether less of it is better.
    pub lower_is_better: bool,
    /// Documents that both runs have; without samples, what the results say.
    pub documents: usize,
    /// The other run's figure on them.
    pub from: f64,
    /// This run's.
    pub to: f64,
    /// This run's figure minus the other's.
    pub difference: f64,
    /// Standard error of the paired differences; of two independent figures where the documents are not known.
    pub stderr: Option<f64>,
    /// Whether it is compared document by document.
    pub paired: bool,
    /// Questions that only this run got right.
    pub gained: Option<usize>,
    /// Questions that only the other run got right.
    pub lost: Option<usize>,
    /// McNemar's exact two-sided p: how likely so uneven a split is by chance.
    pub p: Option<f64>,
    /// Why this run's figure says nothing good of it, whatever the difference.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub degenerate: Option<Degenerate>,
}

impl Comparison {
    /// Name of what is compared in tables.
    #[must_use]
    pub fn name(&self) -> String {
        let filter = self.filter.as_ref().map_or_else(String::new, |filter| format!(",{filter}"));
        format!("{}{filter}", self.metric)
    }

    /// Whether this run is better; nothing where the difference is less than two standard errors, or an exact test
    /// would see one as large in one of twenty comparisons of equal models.
    #[must_use]
    pub(crate) fn is_better(&self) -> Option<bool> {
        let is_beyond = self.stderr.is_some_and(|stderr| self.difference.abs() >= 2.0 * stderr);
        let is_rare = self.p.is_none_or(|p| p < 0.05);
        (self.difference != 0.0 && is_beyond && is_rare).then_some((self.difference < 0.0) == self.lower_is_better)
    }
}

/// A pair of (numerator, denominator) of the other run and this one.
type Pair = ((f64, f64), (f64, f64));

/// A task's metric in both runs.
struct Found {
    comparison: Comparison,
    pairs: Vec<Pair>,
}

/// Compares every task and group that both runs have, document by document where both kept them. `all` adds what all
/// documents together give, where there are several tasks.
///
/// # Errors
/// Request: no task in common, or a document that was asked differently.
pub fn compare(from: &Side, to: &Side, all: bool) -> Result<Vec<Comparison>> {
    let mut found: Vec<Found> = Vec::new();
    let common =
        || to.tasks.iter().filter_map(|ours| Some((from.tasks.iter().find(|task| task.name == ours.name)?, ours)));
    let is_group = |name: &str| to.groups.iter().any(|(group, _)| group == name);
    for (theirs, ours) in common().filter(|(_, ours)| !is_group(&ours.name)) {
        match (&theirs.documents, &ours.documents) {
            (Some(before), Some(after)) => {
                let ids: Vec<usize> = after.keys().copied().filter(|id| before.contains_key(id)).collect();
                if let Some(id) = ids.iter().find(|id| before[*id].0 != after[*id].0) {
                    return Err(Error::request(format!(
                        "document {id} of {} was asked differently there; compare runs with the same data, --few-shot, \
                         --seed and chat template",
                        ours.name
                    )));
                }
                let pairs = |theirs: usize, ours: usize| -> Option<Vec<Pair>> {
                    ids.iter().map(|id| Some((before[id].1[theirs]?, after[id].1[ours]?))).collect()
                };
                found.extend(matched(theirs, ours).filter_map(|(old, new)| {
                    let comparison = paired(&ours.figures[new], &pairs(old, new)?)?;
                    let comparison = judged(Comparison { task: ours.name.clone(), ..comparison }, ours);
                    Some(Found { comparison, pairs: pairs(old, new)? })
                }));
            }
            _ => found.extend(apart(theirs, ours).map(|comparison| Found { comparison, pairs: Vec::new() })),
        }
    }
    let mut groups = Vec::new();
    for (theirs, ours) in common().filter(|(_, ours)| is_group(&ours.name)) {
        let leaves = to.groups.iter().find(|(group, _)| *group == ours.name).map_or(&[][..], |(_, leaves)| leaves);
        match pool(leaves, &found) {
            Some(comparison) => groups.push(judged(Comparison { task: ours.name.clone(), ..comparison }, ours)),
            None => groups.extend(apart(theirs, ours)),
        }
    }
    if found.is_empty() && groups.is_empty() {
        return Err(Error::request("no task in common"));
    }
    let together = if all { together(&found) } else { Vec::new() };
    Ok(found.into_iter().map(|found| found.comparison).chain(groups).chain(together).collect())
}

/// Places of the figures that both have and that are compared.
fn matched<'a>(theirs: &'a SideTask, ours: &'a SideTask) -> impl Iterator<Item = (usize, usize)> + 'a {
    ours.figures.iter().enumerate().filter(|(_, figure)| is_compared(figure)).filter_map(|(new, figure)| {
        let same = |other: &SideFigure| (&other.metric, &other.filter) == (&figure.metric, &figure.filter);
        Some((theirs.figures.iter().position(same)?, new))
    })
}

/// Perplexities are powers of what is compared anyway, losses by the vocabulary are multiples of it.
fn is_compared(figure: &SideFigure) -> bool {
    TaskMetric::named(&figure.metric).is_none_or(|metric| metric.compared.is_some())
}

fn filter(measured: &SideFigure) -> Option<String> {
    Some(measured.filter.clone()).filter(|filter| filter != NO_FILTER)
}

/// Two figures of which no more is known, as those of independent samples.
fn apart<'a>(theirs: &'a SideTask, ours: &'a SideTask) -> impl Iterator<Item = Comparison> + 'a {
    matched(theirs, ours).map(|(old, new)| {
        let (old, new) = (&theirs.figures[old], &ours.figures[new]);
        let comparison = Comparison {
            task: ours.name.clone(),
            metric: new.metric.clone(),
            filter: filter(new),
            lower_is_better: !new.higher_is_better,
            documents: ours.count,
            from: old.value,
            to: new.value,
            difference: new.value - old.value,
            stderr: old.stderr.zip(new.stderr).map(|(a, b)| a.hypot(b)),
            paired: false,
            gained: None,
            lost: None,
            p: None,
            degenerate: None,
        };
        judged(comparison, ours)
    })
}

/// What `pairs` say; nothing where there are none, or texts were split into other tokens.
fn paired(measured: &SideFigure, pairs: &[Pair]) -> Option<Comparison> {
    if pairs.is_empty() || pairs.iter().any(|(theirs, ours)| ours.1 != theirs.1) {
        return None;
    }
    // a metric of its own is a mean over documents; bits a byte are nats a byte in another unit
    let known = TaskMetric::named(&measured.metric);
    let scale = known.unwrap_or(TaskMetric::MEAN).compared?;
    let of = |part: &dyn Fn(&Pair) -> (f64, f64)| ratio(&pairs.iter().map(part).collect::<Vec<_>>());
    let (difference, stderr) = of(&|(theirs, ours)| (ours.0 - theirs.0, ours.1));
    let is_question = known.is_some_and(|metric| metric.higher_is_better);
    let count = |sign: f64| pairs.iter().filter(|(theirs, ours)| (ours.0 - theirs.0) * sign > 0.0).count();
    let (gained, lost) = (is_question.then(|| count(1.0)), is_question.then(|| count(-1.0)));
    Some(Comparison {
        task: String::new(),
        metric: measured.metric.clone(),
        filter: filter(measured),
        lower_is_better: !measured.higher_is_better,
        documents: pairs.len(),
        from: scale * of(&|(theirs, _)| *theirs).0,
        to: scale * of(&|(_, ours)| *ours).0,
        difference: scale * difference,
        stderr: stderr.map(|stderr| scale.abs() * stderr),
        paired: true,
        gained,
        lost,
        p: gained.zip(lost).map(|(gained, lost)| mcnemar(gained, lost)),
        degenerate: None,
    })
}

/// A group's difference in accuracy, as its figures are pooled; `None` unless both runs have all its tasks' documents.
fn pool(leaves: &[String], found: &[Found]) -> Option<Comparison> {
    let members = leaves.iter().map(|leaf| {
        let is_it = |found: &&Found| found.comparison.task == *leaf && found.comparison.metric == TaskMetric::ACC.name;
        found.iter().find(is_it).map(|found| &found.comparison).filter(|comparison| comparison.paired)
    });
    let members: Vec<&Comparison> = members.collect::<Option<_>>()?;
    let of = |value: &dyn Fn(&Comparison) -> f64| {
        let parts: Vec<_> = members.iter().map(|member| (value(member), member.stderr, member.documents)).collect();
        pooled((TaskMetric::ACC, NO_FILTER), &parts, true)
    };
    let sum = |count: &dyn Fn(&Comparison) -> Option<usize>| members.iter().filter_map(|member| count(member)).sum();
    let (gained, lost): (usize, usize) = (sum(&|member| member.gained), sum(&|member| member.lost));
    let differences = of(&|member| member.difference);
    Some(Comparison {
        documents: members.iter().map(|member| member.documents).sum(),
        from: of(&|member| member.from).value,
        to: of(&|member| member.to).value,
        difference: differences.value,
        stderr: differences.stderr,
        gained: Some(gained),
        lost: Some(lost),
        p: Some(mcnemar(gained, lost)),
        ..(*members.first()?).clone()
    })
}

/// All documents of all tasks, metric by metric, where several tasks have one.
fn together(found: &[Found]) -> Vec<Comparison> {
    let mut metrics: Vec<&Comparison> = Vec::new();
    for found in found {
        let same =
            |known: &Comparison| (&known.metric, &known.filter) == (&found.comparison.metric, &found.comparison.filter);
        if found.comparison.paired && !metrics.iter().any(|known| same(known)) {
            metrics.push(&found.comparison);
        }
    }
    let of = |first: &&Comparison| {
        let is_it =
            |found: &&Found| (&found.comparison.metric, &found.comparison.filter) == (&first.metric, &first.filter);
        let same: Vec<&Found> = found.iter().filter(is_it).collect();
        if same.len() < 2 {
            return None;
        }
        let measured = SideFigure {
            metric: first.metric.clone(),
            filter: first.filter.clone().unwrap_or_else(|| NO_FILTER.to_owned()),
            value: 0.0,
            stderr: None,
            higher_is_better: !first.lower_is_better,
        };
        let pairs: Vec<Pair> = same.iter().flat_map(|found| found.pairs.iter().copied()).collect();
        Some(Comparison { task: "all".to_owned(), ..paired(&measured, &pairs)? })
    };
    metrics.iter().filter_map(of).collect()
}

/// Two-sided exact binomial test that a disagreement is as likely one way as the other.
fn mcnemar(gained: usize, lost: usize) -> f64 {
    let n = (gained + lost) as f64;
    let mut logarithm = -n * std::f64::consts::LN_2;
    let mut tail = 0.0;
    for k in 0..=gained.min(lost) {
        tail += logarithm.exp();
        logarithm += ((n - k as f64) / (k as f64 + 1.0)).ln();
    }
    (2.0 * tail).min(1.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mcnemar_is_an_exact_binomial_test() {
        for (gained, lost, p) in [
            (0, 0, 1.0),
            (1, 1, 1.0),
            (0, 5, 0.0625),
            (3, 12, 0.035_156_25),
            (12, 3, 0.035_156_25),
            // scipy.stats.binomtest(450, 1000).pvalue
            (450, 550, 0.001_730_536_084_976_317_6),
        ] {
            let found = mcnemar(gained, lost);
            assert!((found / p - 1.0).abs() < 1e-9, "{gained} {lost}: {found}");
        }
        assert!(mcnemar(5000, 9000) < 1e-200);
    }

    fn measured(metric: TaskMetric) -> SideFigure {
        let (metric, higher_is_better) = (metric.name.to_owned(), metric.higher_is_better);
        SideFigure { metric, filter: "none".into(), value: 0.0, stderr: Some(0.3), higher_is_better }
    }

    #[test]
    fn the_error_is_that_of_the_paired_differences() {
        let pairs: Vec<Pair> =
            [(1.0, 0.0), (1.0, 1.0), (0.0, 1.0), (1.0, 0.0)].map(|(a, b)| ((b, 1.0), (a, 1.0))).into();
        let comparison = paired(&measured(TaskMetric::ACC), &pairs).unwrap();
        assert_eq!((comparison.difference, comparison.gained, comparison.lost), (0.25, Some(2), Some(1)));
        assert_eq!((comparison.from, comparison.to), (0.5, 0.75));
        // differences 1, 0, -1, 1: sample deviation sqrt(11/12), over sqrt(4)
        assert!((comparison.stderr.unwrap() - (11.0f64 / 12.0).sqrt() / 2.0).abs() < 1e-15);
        let texts = [((-1.0, 4.0), (-2.0, 4.0)), ((-3.0, 6.0), (-3.0, 6.0))];
        let bits = paired(&measured(TaskMetric::BITS_PER_BYTE), &texts).unwrap();
        assert!((bits.difference - 0.1 / 2f64.ln()).abs() < 1e-15 && bits.p.is_none());
        assert!(paired(&measured(TaskMetric::LOSS), &[((-1.0, 5.0), (-2.0, 4.0))]).is_none(), "another tokenisation");
    }

    /// A task of `right` questions, or one whose questions are not known.
    fn task(name: &str, right: &[u8], are_known: bool) -> SideTask {
        let documents = right.iter().enumerate();
        let documents = documents.map(|(id, right)| (id, ("h".to_owned(), vec![Some((f64::from(*right), 1.0))])));
        SideTask {
            name: name.into(),
            figures: vec![SideFigure { value: 0.5, ..measured(TaskMetric::ACC) }],
            documents: are_known.then(|| documents.collect()),
            count: right.len(),
            majority: Vec::new(),
        }
    }

    #[test]
    fn groups_and_all_of_them() {
        let side = |a: &[u8], b: &[u8], are_known| Side {
            tasks: vec![task("a", a, are_known), task("b", b, are_known), task("g", &[], false)],
            groups: vec![("g".into(), vec!["a".into(), "b".into()])],
        };
        let (from, to) = (side(&[1, 0, 0, 0], &[1, 1], true), side(&[1, 1, 1, 0], &[1, 0], true));
        let all = compare(&from, &to, true).unwrap();
        let names: Vec<(&str, usize)> = all.iter().map(|found| (found.task.as_str(), found.documents)).collect();
        assert_eq!(names, [("a", 4), ("b", 2), ("g", 6), ("all", 6)]);
        for found in &all[2..] {
            assert!((found.difference - 1.0 / 6.0).abs() < 1e-15);
            assert_eq!((found.gained, found.lost), (Some(2), Some(1)));
        }
        // without documents, as independent figures
        let apart = compare(&side(&[1, 0], &[1], false), &to, false).unwrap();
        assert!(apart.iter().all(|found| !found.paired && found.p.is_none()));
        assert!((apart[0].stderr.unwrap() - 0.3f64.hypot(0.3)).abs() < 1e-15);
        // other questions
        let mut other = to.clone();
        other.tasks[1].documents.as_mut().unwrap().get_mut(&1).unwrap().0 = "x".into();
        let error = compare(&from, &other, false).unwrap_err();
        assert!(error.to_string().contains("document 1 of b was asked differently"), "{error}");
    }
}
