//! From which depth on an answer can be read off the stream by a linear map.

use super::{Evaluate, Metric, Order, Subject, Tokens};
use crate::ops::{Cholesky, product64};
use crate::{Error, Result};

pub(super) const PROBE: Metric = Metric {
    name: "probe",
    about: "share of the questions of --tasks whose right choice, by its place, a ridge on x^(l) at the prompt's last \
            token tells, fitted on the other half of them; drops nothing",
    reference: "linear probes of Why layer-wise learning is hard to scale up, arXiv 2010.08038",
    subject: Subject::Depth,
    tokens: Tokens::Last,
    order: Order::Highest,
    value: Evaluate::Probe(right),
    usual: false,
};

/// The ridge, a share of the mean square of the features.
const RIDGE: f64 = 1e-2;

/// Of each question whether a probe tells `golds`, the place of its right choice, from its stream, a row of `streams`
/// `[question, d]`: two folds, those at even places and those at odd ones, each judged by what was fitted on the other.
fn right(streams: &[f32], golds: &[usize]) -> Result<Vec<bool>> {
    let (questions, classes) = (golds.len(), golds.iter().max().map_or(0, |most| most + 1));
    if questions < 2 {
        return Err(Error::request("probe: two halves take at least two questions; give more, or a larger --limit"));
    }
    let d = streams.len() / questions;
    let mut right = vec![false; questions];
    for fold in 0..2 {
        let of = |fold: usize| (fold..questions).step_by(2);
        let (fitted, judged): (Vec<usize>, Vec<usize>) = (of(1 - fold).collect(), of(fold).collect());
        let (mean, inputs) = centered(fitted.iter().map(|at| &streams[at * d..(at + 1) * d]), d);
        let labels = fitted.iter().flat_map(|at| (0..classes).map(move |class| (*at, class)));
        let labels: Vec<f64> = labels.map(|(at, class)| f64::from(u8::from(golds[at] == class))).collect();
        let (common, labels) = centered(labels.chunks(classes), classes);
        let map = ridge(&inputs, &labels, (fitted.len(), d, classes))?;
        let seen = judged.iter().flat_map(|at| &streams[at * d..(at + 1) * d]);
        let seen: Vec<f64> = seen.zip(mean.iter().cycle()).map(|(x, mean)| f64::from(*x) - mean).collect();
        let scores = product64(&seen, &map, (judged.len(), d, classes));
        for (at, scores) in judged.iter().zip(scores.chunks(classes)) {
            let score = |class: usize| scores[class] + common[class];
            let best = (1..classes).fold(0, |best, class| if score(class) > score(best) { class } else { best });
            right[*at] = best == golds[*at];
        }
    }
    Ok(right)
}

/// The mean of `rows`, each of `d` numbers, and the rows less that.
fn centered<'a, T: Copy + Into<f64> + 'a>(
    rows: impl Iterator<Item = &'a [T]> + Clone,
    d: usize,
) -> (Vec<f64>, Vec<f64>) {
    let mut mean = vec![0.0; d];
    let mut count = 0.0;
    for row in rows.clone() {
        mean.iter_mut().zip(row).for_each(|(mean, x)| *mean += (*x).into());
        count += 1.0;
    }
    mean.iter_mut().for_each(|mean| *mean /= count);
    let centered = rows.flat_map(|row| row.iter().zip(&mean).map(|(x, mean)| (*x).into() - mean)).collect();
    (mean, centered)
}

/// The map `[d, k]` of least squares from `x` `[n, d]` to `y` `[n, k]`, with a ridge; by whichever of the two forms has
/// the smaller system.
fn ridge(x: &[f64], y: &[f64], (n, d, k): (usize, usize, usize)) -> Result<Vec<f64>> {
    let energy: f64 = x.iter().map(|x| x * x).sum();
    if energy == 0.0 {
        return Ok(vec![0.0; d * k]);
    }
    let ridge = RIDGE * energy / d as f64;
    let turned = turned(x, n, d);
    let (size, mut system) = match n < d {
        true => (n, product64(x, &turned, (n, d, n))),
        false => (d, product64(&turned, x, (d, n, d))),
    };
    (0..size).for_each(|at| system[at * size + at] += ridge);
    let factor = Cholesky::new(system, size).ok_or_else(|| Error::work("probe: streams that are not finite"))?;
    let mut found = if n < d { y.to_vec() } else { product64(&turned, y, (d, n, k)) };
    factor.solve(&mut found, k);
    Ok(if n < d { product64(&turned, &found, (d, n, k)) } else { found })
}

/// The transpose of `x` `[n, d]`.
fn turned(x: &[f64], n: usize, d: usize) -> Vec<f64> {
    (0..d).flat_map(|column| (0..n).map(move |row| x[row * d + column])).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_give_the_same_map() {
        let number = |at: usize| ((at * 7919 + 13) % 101) as f64 / 50.0 - 1.0;
        for (n, d) in [(5, 9), (9, 5)] {
            let x: Vec<f64> = (0..n * d).map(number).collect();
            let y: Vec<f64> = (0..n * 2).map(|at| number(at + 1000)).collect();
            let map = ridge(&x, &y, (n, d, 2)).unwrap();
            // at the minimum the gradient is nothing: xᵀ(x·map - y) + a·map = 0
            let mut left = product64(&x, &map, (n, d, 2));
            left.iter_mut().zip(&y).for_each(|(left, y)| *left -= y);
            let pull = product64(&turned(&x, n, d), &left, (d, n, 2));
            let a = RIDGE * x.iter().map(|x| x * x).sum::<f64>() / d as f64;
            pull.iter().zip(&map).for_each(|(pull, map)| assert!((pull + a * map).abs() < 1e-12));
        }
    }

    #[test]
    fn what_the_stream_tells_is_told_and_nothing_else() {
        // the first number says which of three; the rest is the same for all
        let golds: Vec<usize> = (0..40).map(|at| (at * at + at / 3) % 3).collect();
        let told: Vec<f32> = golds.iter().flat_map(|gold| [[-1.0, 0.0, 2.0][*gold], 5.0, 1.0]).collect();
        // three places on a line: the middle one is never the highest for a linear map, the ends are told
        let found = right(&told, &golds).unwrap();
        assert!(golds.iter().zip(&found).all(|(gold, found)| *gold == 1 || *found));
        let blind = vec![5.0; 40 * 3];
        let share = right(&blind, &golds).unwrap().iter().filter(|right| **right).count();
        assert!(share < 25, "{share}");
        assert_eq!(right(&[1.0], &[0]).unwrap_err().exit_code(), 2);
    }
}
