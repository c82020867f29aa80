//! Figures of classes: of pairs of the right one and the one that is taken for it.

/// Twice the hits of a class by what is of it and what is taken for it, nothing where there is none; of right classes
/// and taken ones.
pub(super) fn f1(pairs: &[(f64, f64)], class: f64) -> f64 {
    let hits = pairs.iter().filter(|pair| **pair == (class, class)).count();
    let of_it = pairs.iter().map(|(right, taken)| usize::from(*right == class) + usize::from(*taken == class));
    2.0 * hits as f64 / of_it.sum::<usize>().max(1) as f64
}

/// The mean of the F1 of three classes.
pub(super) fn f1_of_three(pairs: &[(f64, f64)]) -> f64 {
    (f1(pairs, 0.0) + f1(pairs, 1.0) + f1(pairs, 2.0)) / 3.0
}

/// Covariance of the classes, one-hot, by the root of both variances; nothing where one of those is nothing.
pub(super) fn correlation(pairs: &[(f64, f64)]) -> f64 {
    let classes = pairs.iter().flat_map(|(right, taken)| [*right as usize, *taken as usize]).max().unwrap_or(0) + 1;
    let (mut right, mut taken, mut hits) = (vec![0.0; classes], vec![0.0; classes], 0.0);
    for pair in pairs {
        right[pair.0 as usize] += 1.0;
        taken[pair.1 as usize] += 1.0;
        hits += f64::from(u8::from(pair.0 == pair.1));
    }
    let all = pairs.len() as f64;
    let product = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
    let spread = |own: &[f64]| all * all - product(own, own);
    let scale = (spread(&right) * spread(&taken)).sqrt();
    if scale == 0.0 { 0.0 } else { (hits * all - product(&right, &taken)) / scale }
}

#[cfg(test)]
mod tests {
    use crate::eval::metrics::{NO_FILTER, TaskMetric, figure};

    #[test]
    fn classes_correlate() {
        let pairs = [(0.0, 0.0), (1.0, 1.0), (1.0, 0.0), (2.0, 2.0), (2.0, 1.0), (0.0, 0.0)];
        let value = |metric, pairs: &[(f64, f64)]| figure(metric, NO_FILTER, pairs, 10).value;
        // sklearn.metrics.matthews_corrcoef and f1_score
        assert!((value(TaskMetric::MCC, &pairs) - 0.522_232_967_867_093_5).abs() < 1e-12);
        assert_eq!(value(TaskMetric::MCC, &[(1.0, 0.0), (0.0, 0.0)]), 0.0);
        let two = [(0.0, 0.0), (1.0, 1.0), (1.0, 0.0), (1.0, 1.0), (0.0, 1.0)];
        assert!((value(TaskMetric::F1_OF_TWO, &two) - 2.0 / 3.0).abs() < 1e-15);
    }

    #[test]
    fn classes_have_an_f1_each() {
        let pairs = [(0.0, 0.0), (0.0, 1.0), (1.0, 1.0), (1.0, 1.0)];
        let found = figure(TaskMetric::F1_OF_THREE, NO_FILTER, &pairs, 10);
        assert!((found.value - (2.0 / 3.0 + 0.8) / 3.0).abs() < 1e-15 && found.stderr.is_none());
    }
}
