//! Final states: what the final norm makes of the last stream, and how alike two models' are. LaCo (arXiv 2402.11187)
//! and Sliding Layer Merging (arXiv 2502.19159) judge merges by it; their programs look behind the norm, as
//! transformers' last `hidden_states` do.

use candle_core::{Device, Tensor};

use crate::model::{EndOfStack, Model, StackUnit, Stacks};
use crate::progress::Progress;
use crate::{Error, Result};

/// The final states of a model on some sequences.
#[derive(Debug)]
pub struct FinalStates {
    /// Of each sequence its `[t, d]`, in rows.
    sequences: Vec<Vec<f32>>,
}

impl FinalStates {
    /// Those of `model` on `sequences`.
    ///
    /// # Errors
    /// As [`Model::run_stacks`].
    pub fn of(model: &Model, sequences: &[Vec<u32>], progress: &dyn Progress) -> Result<Self> {
        let stacks = [(0..model.layers()).collect()];
        let stacks = Stacks { unit: StackUnit::Layer, stacks: &stacks, beside_the_first: false };
        let mut found = Vec::with_capacity(sequences.len());
        let mut see = |end: &EndOfStack<'_>| {
            let states: Tensor = model.head().norm(end.x)?.to_device(&Device::Cpu)?;
            for segment in end.batch().layout.segments() {
                let own = states.narrow(0, segment.start, segment.len)?;
                found.push(own.flatten_all()?.to_vec1()?);
            }
            Ok(())
        };
        model.run_stacks(stacks, sequences, "final states", progress, &mut see)?;
        Ok(Self { sequences: found })
    }

    /// Bytes of those of `tokens` tokens.
    #[must_use]
    pub fn bytes(tokens: usize, hidden_size: usize) -> u64 {
        4 * tokens as u64 * hidden_size as u64
    }

    /// The cosine of the angle between the states of a sequence here and in `other`, all its tokens as one vector; the
    /// mean over the sequences.
    ///
    /// # Errors
    /// Work: those of other sequences.
    pub fn similarity(&self, other: &Self) -> Result<f64> {
        let lengths = |states: &Self| -> Vec<usize> { states.sequences.iter().map(Vec::len).collect() };
        if lengths(self) != lengths(other) {
            return Err(Error::work("final states of other sequences cannot be compared"));
        }
        let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>();
        let cosines = self.sequences.iter().zip(&other.sequences).map(|(a, b)| {
            let (squares, both) = (dot(a, a) * dot(b, b), dot(a, b));
            both / squares.sqrt()
        });
        Ok(cosines.sum::<f64>() / self.sequences.len() as f64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn states(sequences: &[&[f32]]) -> FinalStates {
        FinalStates { sequences: sequences.iter().map(|own| own.to_vec()).collect() }
    }

    #[test]
    fn the_mean_cosine_of_sequences() {
        let own = states(&[&[3.0, 4.0], &[1.0, 0.0, 0.0, 1.0]]);
        let other = states(&[&[4.0, 3.0], &[0.0, 2.0, 0.0, 2.0]]);
        assert!((own.similarity(&other).unwrap() - (0.96 + 0.5) / 2.0).abs() < 1e-15);
        assert!((own.similarity(&own).unwrap() - 1.0).abs() < 1e-15);
        assert!(own.similarity(&states(&[&[1.0, 2.0]])).is_err());
    }
}
