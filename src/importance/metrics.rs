//! The scores a pass yields, as a table. A new score is a new row here and nothing elsewhere.

use std::f64::consts::FRAC_1_PI;

use crate::{Error, Result};

/// Smallest norm [`Pair::relative_step`] divides by.
const NORM_FLOOR: f64 = 1e-6;

/// The residual stream of one token where it enters a block and where it leaves it, as far as a score can see: the
/// lengths of the two vectors and the angle between them.
#[derive(Clone, Copy, Debug)]
pub struct Pair {
    entering: f64,
    leaving: f64,
    product: f64,
    cosine: f64,
}

impl Pair {
    /// From the squared norms of the entering and the leaving stream and their inner product.
    ///
    /// A stream of zeros has no direction: two of them count as equal (cosine 1), one of them as orthogonal to the
    /// other (cosine 0).
    #[must_use]
    pub fn new(entering: f64, leaving: f64, product: f64) -> Self {
        // sqrt(a·a) is exactly a, so that the cosine of a stream with itself is exactly 1; sqrt(a)·sqrt(a) is not.
        // Squares of f32 numbers leave room for this product in f64, at both ends.
        let scale = (entering * leaving).sqrt();
        let cosine = match scale > 0.0 {
            true => (product / scale).clamp(-1.0, 1.0),
            false if entering == leaving => 1.0,
            false => 0.0,
        };
        Self { entering, leaving, product, cosine }
    }

    /// Cosine of the angle between the two, clamped to [-1, 1].
    #[must_use]
    pub fn cosine(&self) -> f64 {
        self.cosine
    }

    /// Angle between the two in units of π: 0 same direction, 0.5 orthogonal, 1 opposite.
    #[must_use]
    pub fn angle(&self) -> f64 {
        self.cosine.acos() * FRAC_1_PI
    }

    /// Length of the update in units of what leaves, `‖f(x)‖ / ‖x + f(x)‖`. The divisor is at least 1e-6.
    #[must_use]
    pub fn relative_step(&self) -> f64 {
        let update = (self.entering + self.leaving - 2.0 * self.product).max(0.0).sqrt();
        update / self.leaving.sqrt().max(NORM_FLOOR)
    }
}

/// What one value of a metric speaks about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Subject {
    /// The n layers from l on, for every l and n.
    Block,
    /// One layer.
    Layer,
}

impl Subject {
    /// Lengths of the rows of values for a model of `layers` layers: row n-1 holds the blocks of n layers, and single
    /// layers have one row.
    #[must_use]
    pub fn rows(self, layers: usize) -> Vec<usize> {
        match self {
            Self::Block => (1..=layers).rev().collect(),
            Self::Layer => vec![layers],
        }
    }
}

/// Which tokens of a sample count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tokens {
    /// The last one, the only one that has seen the whole sample; samples weigh the same.
    Last,
    /// All of them; tokens weigh the same.
    All,
}

/// Which values speak for dropping.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// The lowest go first: a distance.
    Lowest,
    /// The highest go first: a similarity.
    Highest,
}

impl Order {
    /// `value` turned so that the lowest goes first.
    #[must_use]
    pub fn cost(self, value: f64) -> f64 {
        match self {
            Self::Lowest => value,
            Self::Highest => -value,
        }
    }
}

/// What a value is computed from.
#[derive(Clone, Copy, Debug)]
pub enum Evaluate {
    /// The residual streams of one token at the two ends; the metric is the mean over tokens. One pass gives them all.
    Pair(fn(&Pair) -> f64),
    /// The loss of the model without those layers, less that of the whole model, in nats a token. Every candidate is
    /// computed, so it is taken where it is asked for alone.
    Loss,
}

/// One score: a row of [`METRICS`].
#[derive(Debug)]
pub struct Metric {
    /// What `--metric` calls it.
    pub name: &'static str,
    /// What it is, in a line.
    pub about: &'static str,
    /// Where it comes from.
    pub reference: &'static str,
    /// What a value speaks about.
    pub subject: Subject,
    /// Which tokens count.
    pub tokens: Tokens,
    /// Which values speak for dropping.
    pub order: Order,
    /// What a value is computed from.
    pub value: Evaluate,
}

/// Every score, the paper's own first.
pub const METRICS: &[Metric] = &[
    Metric {
        name: "angular",
        about: "angular distance of the last token, arccos(cos(x^(l), x^(l+n))) / π",
        reference: "Gromov et al., arXiv 2403.17887, eq. 7",
        subject: Subject::Block,
        tokens: Tokens::Last,
        order: Order::Lowest,
        value: Evaluate::Pair(Pair::angle),
    },
    Metric {
        name: "cosine",
        about: "cosine similarity over all tokens, cos(x^(l), x^(l+n))",
        reference: "LLM-Streamline, arXiv 2403.19135",
        subject: Subject::Block,
        tokens: Tokens::All,
        order: Order::Highest,
        value: Evaluate::Pair(Pair::cosine),
    },
    Metric {
        name: "angular-all",
        about: "angular distance over all tokens",
        reference: "short-transformers, angular_distance_all_tokens",
        subject: Subject::Block,
        tokens: Tokens::All,
        order: Order::Lowest,
        value: Evaluate::Pair(Pair::angle),
    },
    Metric {
        name: "block-influence",
        about: "block influence over all tokens, 1 - cos(x^(l), x^(l+1)); drops single layers",
        reference: "ShortGPT, arXiv 2403.03853",
        subject: Subject::Layer,
        tokens: Tokens::All,
        order: Order::Lowest,
        value: Evaluate::Pair(|pair| 1.0 - pair.cosine()),
    },
    Metric {
        name: "relative-magnitude",
        about: "relative magnitude over all tokens, ‖x^(l+1) - x^(l)‖ / ‖x^(l+1)‖; drops single layers",
        reference: "Samragh et al., arXiv 2312.09299; short-transformers, relative_magnitude",
        subject: Subject::Layer,
        tokens: Tokens::All,
        order: Order::Lowest,
        value: Evaluate::Pair(Pair::relative_step),
    },
    Metric {
        name: "loss",
        about: "what the loss rises by without the layers l..=l+n-1, for every block; exact, and dear",
        reference: "every candidate of Gromov et al. measured by what it costs",
        subject: Subject::Block,
        tokens: Tokens::All,
        order: Order::Lowest,
        value: Evaluate::Loss,
    },
    Metric {
        name: "layer-loss",
        about: "what the loss rises by without layer l alone; drops single layers",
        reference: "Shortened LLaMA, arXiv 2402.02834 (PPL), before retraining; first step of SLEB, arXiv 2402.09025",
        subject: Subject::Layer,
        tokens: Tokens::All,
        order: Order::Lowest,
        value: Evaluate::Loss,
    },
];

/// The row called `name`.
///
/// # Errors
/// No such row; the message lists what there is.
pub fn metric(name: &str) -> Result<&'static Metric> {
    METRICS.iter().find(|metric| metric.name == name).ok_or_else(|| {
        let known: Vec<_> = METRICS.iter().map(|metric| metric.name).collect();
        Error::request(format!("no metric is called {name:?}; there are {}", known.join(", ")))
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn pair(x: &[f32], y: &[f32]) -> Pair {
        let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum();
        Pair::new(dot(x, x), dot(y, y), dot(x, y))
    }

    #[test]
    fn known_angles() {
        assert_eq!(pair(&[1.0, 0.0], &[0.0, 3.0]).angle(), 0.5);
        assert_eq!(pair(&[1.0, 2.0], &[-2.0, -4.0]).angle(), 1.0);
        assert!((pair(&[1.0, 0.0], &[2.0, 2.0]).angle() - 0.25).abs() < 1e-15);
        // x = (3, 0), x + f(x) = (3, 4): the update is 4 long, what leaves is 5 long
        assert!((pair(&[3.0, 0.0], &[3.0, 4.0]).relative_step() - 0.8).abs() < 1e-15);
    }

    #[test]
    fn streams_of_zeros() {
        assert_eq!(pair(&[0.0, 0.0], &[0.0, 0.0]).angle(), 0.0);
        assert_eq!(pair(&[0.0, 0.0], &[0.0, 0.0]).relative_step(), 0.0);
        assert_eq!(pair(&[0.0, 0.0], &[1.0, 2.0]).angle(), 0.5);
        assert!(pair(&[1.0, 2.0], &[0.0, 0.0]).relative_step().is_finite());
    }

    #[test]
    fn the_smallest_and_largest_floats_have_directions() {
        assert_eq!(pair(&[f32::MAX; 4096], &[f32::MAX; 4096]).angle(), 0.0);
        assert_eq!(pair(&[1e-45], &[1e-45]).angle(), 0.0);
        assert_eq!(pair(&[1e-45], &[-1e-45]).angle(), 1.0);
    }

    #[test]
    fn names_are_unique_and_found() {
        for (index, row) in METRICS.iter().enumerate() {
            assert!(METRICS[..index].iter().all(|earlier| earlier.name != row.name));
            assert_eq!(metric(row.name).unwrap().name, row.name);
        }
        assert!(metric("angulr").unwrap_err().to_string().contains("block-influence"));
    }

    fn vectors() -> impl Strategy<Value = (Vec<f32>, Vec<f32>)> {
        (1usize..40).prop_flat_map(|d| {
            let numbers = || prop::collection::vec(-100f32..100f32, d);
            (numbers(), numbers())
        })
    }

    proptest! {
        #[test]
        fn an_angle_is_a_distance((x, y) in vectors(), scale in 1e-3f32..1e3f32) {
            prop_assert_eq!(pair(&x, &x).angle(), 0.0);
            prop_assert_eq!(pair(&x, &y).angle(), pair(&y, &x).angle());
            prop_assert!((0.0..=1.0).contains(&pair(&x, &y).angle()));
            let twice: Vec<f32> = x.iter().map(|x| x * 4.0).collect();
            prop_assert_eq!(pair(&twice, &y).angle(), pair(&x, &y).angle());
            // scaling rounds every number in f32, so the angle moves by that much
            let scaled: Vec<f32> = x.iter().map(|x| x * scale).collect();
            prop_assert!((pair(&scaled, &y).angle() - pair(&x, &y).angle()).abs() < 1e-6);
        }
    }
}
