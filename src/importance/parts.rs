//! Measurements on several texts, whose sequences stand one text after the other: on one of them, and on all.

use std::ops::Range;

use super::evidence::Evidence;
use super::metrics::Metric;
use super::moments::Scores;
use super::texts::mean;
use crate::Result;
use crate::model::Loss;

/// One of the texts: some of the sequences of another evidence, numbered from 0.
pub struct PartOf<'a> {
    inner: &'a mut dyn Evidence,
    sequences: Range<usize>,
}

impl<'a> PartOf<'a> {
    /// These sequences of `inner`.
    pub fn new(inner: &'a mut dyn Evidence, sequences: Range<usize>) -> Self {
        Self { inner, sequences }
    }
}

impl Evidence for PartOf<'_> {
    fn layers(&self) -> usize {
        self.inner.layers()
    }

    fn sequences(&self) -> usize {
        self.sequences.len()
    }

    fn costs(&mut self, metric: &Metric, dropped: &[Vec<usize>], on: Option<&[usize]>) -> Result<Vec<Vec<Loss>>> {
        let on: Vec<usize> = match on {
            None => self.sequences.clone().collect(),
            Some(on) => on.iter().map(|at| self.sequences.start + at).collect(),
        };
        self.inner.costs(metric, dropped, Some(&on))
    }

    fn rises(&self, whole: &[Loss], candidates: &[Vec<Loss>], name: &str) -> Scores {
        self.inner.rises(whole, candidates, name)
    }

    fn reached(&self, message: &str) {
        self.inner.reached(message);
    }
}

/// All the texts, each weighing the same, however many sequences and tokens it has.
pub struct Together<'a> {
    inner: &'a mut dyn Evidence,
    texts: &'a [Range<usize>],
}

impl<'a> Together<'a> {
    /// The sequences of `inner`, which are those of these texts, one after the other.
    pub fn new(inner: &'a mut dyn Evidence, texts: &'a [Range<usize>]) -> Self {
        Self { inner, texts }
    }
}

impl Evidence for Together<'_> {
    fn layers(&self) -> usize {
        self.inner.layers()
    }

    fn sequences(&self) -> usize {
        self.inner.sequences()
    }

    /// Text by text, as each by itself is measured.
    fn costs(&mut self, metric: &Metric, dropped: &[Vec<usize>], on: Option<&[usize]>) -> Result<Vec<Vec<Loss>>> {
        if on.is_some() {
            return self.inner.costs(metric, dropped, on);
        }
        let mut all = vec![Vec::new(); dropped.len()];
        for text in self.texts {
            let on: Vec<usize> = text.clone().collect();
            let own = self.inner.costs(metric, dropped, Some(&on))?;
            all.iter_mut().zip(own).for_each(|(all, own)| all.extend(own));
        }
        Ok(all)
    }

    fn rises(&self, whole: &[Loss], candidates: &[Vec<Loss>], name: &str) -> Scores {
        let of_text = |text: &Range<usize>| {
            let own: Vec<Vec<Loss>> = candidates.iter().map(|costs| costs[text.clone()].to_vec()).collect();
            self.inner.rises(&whole[text.clone()], &own, name)
        };
        let each: Vec<Scores> = self.texts.iter().map(of_text).collect();
        mean(&each.iter().collect::<Vec<_>>())
    }

    fn reached(&self, message: &str) {
        self.inner.reached(message);
    }
}

#[cfg(test)]
mod tests {
    use super::super::metrics::metric;
    use super::*;

    /// Sequence s costs s more a token for each layer that goes, and has s + 1 tokens.
    struct Costly;

    impl Evidence for Costly {
        fn layers(&self) -> usize {
            4
        }

        fn sequences(&self) -> usize {
            5
        }

        fn costs(&mut self, _metric: &Metric, dropped: &[Vec<usize>], on: Option<&[usize]>) -> Result<Vec<Vec<Loss>>> {
            let on: Vec<usize> = on.map_or_else(|| (0..5).collect(), <[usize]>::to_vec);
            let of = |gone: usize, s: usize| Loss { sum: (s + 1) as f64 * (1.0 + (s * gone) as f64), tokens: s + 1 };
            Ok(dropped.iter().map(|dropped| on.iter().map(|s| of(dropped.len(), *s)).collect()).collect())
        }

        fn reached(&self, _message: &str) {}
    }

    #[test]
    fn parts_are_numbered_by_themselves_and_all_weigh_the_same() {
        let (loss, sets) = (metric("layer-loss").unwrap(), [vec![], vec![1], vec![0, 2]]);
        let (mut evidence, texts) = (Costly, [0..2, 2..5]);
        let all = evidence.costs(loss, &sets, None).unwrap();
        let mut part = PartOf::new(&mut evidence, texts[1].clone());
        assert_eq!(part.sequences(), 3);
        let own = part.costs(loss, &sets, None).unwrap();
        assert_eq!(own[1], all[1][2..]);
        assert_eq!(part.costs(loss, &sets, Some(&[2, 0])).unwrap()[2], [all[2][4], all[2][2]]);
        let rises = part.rises(&own[0], &own[1..], "layer-loss");
        // (2 * 3 + 3 * 4 + 4 * 5) / 12 for one layer, twice that for two
        assert!((rises.mean[0][0] - 38.0 / 12.0).abs() < 1e-14 && (rises.mean[0][1] - 76.0 / 12.0).abs() < 1e-14);
        let mut both = Together::new(&mut evidence, &texts);
        let found = both.costs(loss, &sets, None).unwrap();
        assert_eq!((&found, both.sequences()), (&all, 5));
        assert_eq!(both.costs(loss, &sets, Some(&[3])).unwrap()[1], [all[1][3]]);
        let rises = both.rises(&found[0], &found[1..], "layer-loss");
        // (0 * 1 + 1 * 2) / 3 of the first text
        assert!((rises.mean[0][0] - (2.0 / 3.0 + 38.0 / 12.0) / 2.0).abs() < 1e-14);
        assert!(rises.error(1, 1).unwrap() > 0.0);
    }
}
