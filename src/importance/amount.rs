//! How many layers go, and which may.

use std::ops::Range;

use crate::plan::layers_for_fraction;
use crate::{Error, Result};

/// How much to drop.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Amount {
    /// This many layers.
    Layers(usize),
    /// This fraction of the layers, as [`layers_for_fraction`] rounds it.
    Fraction(f64),
}

impl Amount {
    /// Number of layers to drop from a model of `layers`.
    ///
    /// # Errors
    /// Nothing to drop, or nothing left.
    pub fn of(self, layers: usize) -> Result<usize> {
        match self {
            Self::Fraction(fraction) => layers_for_fraction(fraction, layers),
            Self::Layers(0) => Err(Error::request("0 layers to drop: at least one, or there is no plan")),
            Self::Layers(count) if count >= layers => Err(Error::request(format!(
                "{count} layers to drop leave nothing of {layers}; at most {} can go",
                layers.saturating_sub(1)
            ))),
            Self::Layers(count) => Ok(count),
        }
    }
}

/// Layers that must stay.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Protect {
    /// The first ones.
    pub first: usize,
    /// The last ones.
    pub last: usize,
}

impl Protect {
    /// The layers that may go.
    #[must_use]
    pub fn allowed(self, layers: usize) -> Range<usize> {
        let end = layers.saturating_sub(self.last);
        self.first.min(end)..end
    }

    /// Refuses protection that leaves nothing, or not `wanted` layers, of a model of `layers`.
    ///
    /// # Errors
    /// Request: says how many can go.
    pub fn check(self, layers: usize, wanted: Option<usize>) -> Result<()> {
        let (Self { first, last }, most) = (self, self.allowed(layers).len().min(layers.saturating_sub(1)));
        if most == 0 {
            return Err(Error::request(format!(
                "the first {first} and the last {last} layers are protected, which is all {layers} of them"
            )));
        }
        match wanted.filter(|wanted| !(1..=most).contains(wanted)) {
            Some(wanted) => Err(Error::request(format!(
                "{wanted} layers cannot be dropped: 1 to {most} can, of {layers} layers with {first} first and {last} \
                 last ones protected"
            ))),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts() {
        for (amount, layers, count) in [
            (Amount::Layers(8), 32, 8),
            (Amount::Fraction(0.25), 32, 8),
            (Amount::Fraction(0.25), 22, 6),
            (Amount::Fraction(0.3), 5, 2),
        ] {
            assert_eq!(amount.of(layers).unwrap(), count);
        }
        for amount in [
            Amount::Layers(0),
            Amount::Layers(4),
            Amount::Layers(usize::MAX),
            Amount::Fraction(1.0),
            Amount::Fraction(-0.5),
            Amount::Fraction(f64::NAN),
        ] {
            assert_eq!(amount.of(4).unwrap_err().exit_code(), 2, "{amount:?}");
        }
    }

    #[test]
    fn protection_leaves_what_is_between() {
        assert_eq!(Protect { first: 2, last: 1 }.allowed(8), 2..7);
        assert!(Protect { first: 5, last: 5 }.allowed(8).is_empty());
        assert!(Protect { first: usize::MAX, last: usize::MAX }.allowed(8).is_empty());
    }
}
