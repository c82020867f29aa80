//! Token ids that are given, not to be learned: they carry a mark, so that ids and what is learned of them go one way.
//!
//! A sequence to train or to measure on is a list of *tokens*: ids, those that the loss does not count with the highest
//! bit set, which no vocabulary reaches. `model::Batch` takes the two apart. Plain texts have no marks.

/// The mark.
const GIVEN: u32 = 1 << 31;

/// The token that is given with this id.
#[must_use]
pub fn given(id: u32) -> u32 {
    id | GIVEN
}

/// Whether a token is given, not learned.
#[must_use]
pub fn is_given(token: u32) -> bool {
    token & GIVEN != 0
}

/// The id of a token.
#[must_use]
pub fn id(token: u32) -> u32 {
    token & !GIVEN
}

/// Tokens of a sequence that are predicted and learned: all but the first that are not given.
#[must_use]
pub fn learned(tokens: &[u32]) -> usize {
    tokens.iter().skip(1).filter(|token| !is_given(**token)).count()
}
