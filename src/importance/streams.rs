//! What a probe is given of a batch.

use std::ops::Range;

use super::gram::Gram;
use crate::{Error, Result};

/// The residual streams of a batch, or what the scores need to know of them.
#[derive(Clone, Copy)]
pub enum Streams<'a> {
    /// `states[l]` is x^(l), `[t, d]`, for l = 0 ..= L, the last one before the final norm.
    Numbers {
        /// L + 1 of them.
        states: &'a [&'a [f32]],
        /// Numbers of a token.
        d: usize,
    },
    /// Their inner products in f64, `[t, (L+1)·(L+2)/2]`: of each stream those with itself and the later ones.
    Products(&'a [f64]),
}

/// Pairs of `streams` streams, those of one with itself among them.
fn triangle(streams: usize) -> usize {
    streams * (streams + 1) / 2
}

impl Streams<'_> {
    /// Refuses streams of the wrong number or size.
    pub(super) fn check(&self, layers: usize, tokens: usize) -> Result<()> {
        match self {
            Self::Numbers { states, d } => {
                let expected = tokens * d;
                if states.len() == layers + 1 && states.iter().all(|state| state.len() == expected) {
                    return Ok(());
                }
                let sizes: Vec<_> = states.iter().map(|state| state.len()).collect();
                Err(Error::work(format!(
                    "scores need {} residual streams of {tokens} x {d} numbers, got {sizes:?}",
                    layers + 1
                )))
            }
            Self::Products(products) if products.len() == tokens * triangle(layers + 1) => Ok(()),
            Self::Products(products) => Err(Error::work(format!(
                "{} inner products of {} streams of {tokens} tokens",
                products.len(),
                layers + 1
            ))),
        }
    }

    /// The inner products of `token` among `streams` streams.
    pub(super) fn fill(&self, gram: &mut Gram, streams: usize, token: usize) {
        match self {
            Self::Numbers { states, d } => gram.fill(states, token, *d),
            Self::Products(products) => {
                let size = triangle(streams);
                gram.take(&products[token * size..][..size]);
            }
        }
    }

    /// The first stream that holds a number that is none in `tokens`; `gram` has the products of one of them.
    pub(super) fn broken(&self, gram: &Gram, tokens: &Range<usize>, layers: usize) -> usize {
        let is_broken = |layer: &usize| match self {
            Self::Numbers { states, d } => {
                states[*layer][tokens.start * d..tokens.end * d].iter().any(|x| !x.is_finite())
            }
            Self::Products(_) => !gram.get(*layer, *layer).is_finite(),
        };
        (0..=layers).find(is_broken).unwrap_or(layers)
    }
}
