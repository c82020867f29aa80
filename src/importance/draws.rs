//! What is drawn at random while candidates are measured: the same seed draws the same, whatever was drawn before.

use rand::{Rng as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;

/// How much is drawn, and from which seed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Draws {
    /// The seed.
    pub seed: u64,
    /// Subsets of the layers that each text is run with.
    pub subsets: usize,
    /// Steps in which a policy learns, for each number of layers.
    pub steps: usize,
}

impl Default for Draws {
    /// Ten subsets, as "A deeper look at depth pruning" draws; two hundred steps.
    fn default() -> Self {
        Self { seed: 0, subsets: 10, steps: 200 }
    }
}

impl Draws {
    /// The numbers for piece of work `number`, which need none of those before it.
    #[must_use]
    pub fn stream(&self, number: u64) -> Uniforms {
        let mut rng = ChaCha8Rng::seed_from_u64(self.seed);
        rng.set_stream(number);
        Uniforms(rng)
    }
}

/// Random numbers.
#[derive(Clone, Debug)]
pub struct Uniforms(ChaCha8Rng);

impl Uniforms {
    /// The next, from 0 to 1, 1 left out.
    pub fn uniform(&mut self) -> f64 {
        self.0.random()
    }

    /// `count` of the numbers below `of`, ascending, each set of them as likely as any other; all where there are
    /// fewer.
    pub fn sample(&mut self, count: usize, of: usize) -> Vec<usize> {
        let mut all: Vec<usize> = (0..of).collect();
        let count = count.min(of);
        for place in 0..count {
            all.swap(place, self.0.random_range(place..of));
        }
        all.truncate(count);
        all.sort_unstable();
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_needs_none_before_it() {
        let draws = Draws { seed: 7, ..Draws::default() };
        let mut second = draws.stream(2);
        let numbers: Vec<f64> = (0..5).map(|_| second.uniform()).collect();
        drop((0..9).map(|_| draws.stream(1).uniform()).collect::<Vec<_>>());
        assert_eq!((0..5).scan(draws.stream(2), |own, _| Some(own.uniform())).collect::<Vec<_>>(), numbers);
        assert_ne!(draws.stream(1).uniform(), numbers[0]);
        assert_ne!(Draws { seed: 8, ..draws }.stream(2).uniform(), numbers[0]);
        assert!(numbers.iter().all(|number| (0.0..1.0).contains(number)));
    }

    #[test]
    fn every_set_is_as_likely() {
        let mut drawing = Draws::default().stream(0);
        let mut counts = [0; 6];
        for _ in 0..6000 {
            let set = drawing.sample(2, 4);
            assert!(set.len() == 2 && set[0] < set[1] && set[1] < 4);
            let sets = [[0, 1], [0, 2], [0, 3], [1, 2], [1, 3], [2, 3]];
            counts[sets.iter().position(|own| own[..] == set[..]).unwrap()] += 1;
        }
        assert!(counts.iter().all(|count| (900..1100).contains(count)), "{counts:?}");
        assert_eq!(drawing.sample(5, 3), [0, 1, 2]);
    }
}
