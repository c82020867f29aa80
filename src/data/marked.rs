//! Token ids that are given, not to be learned: they carry a mark, so that ids and what is learned of them go one way.
//!
//! A sequence to train or to measure on is a list of *tokens*: ids, those that the loss does not count with the highest
//! bit set, which no vocabulary reaches. `model::Batch` takes the two apart. Plain texts have no marks.

use sha2::{Digest, Sha256};

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

/// What a sequence of tokens is known by: the first 16 bytes of SHA-256 over them as u32, little-endian, those that are
/// given with the highest bit set.
#[must_use]
pub fn digest(tokens: &[u32]) -> [u8; 16] {
    let mut hash = Sha256::new();
    tokens.iter().for_each(|token| hash.update(token.to_le_bytes()));
    let mut first = [0; 16];
    first.copy_from_slice(&hash.finalize()[..16]);
    first
}

/// Tokens of a sequence that are predicted and learned: all but the first that are not given.
#[must_use]
pub fn learned(tokens: &[u32]) -> usize {
    tokens.iter().skip(1).filter(|token| !is_given(**token)).count()
}
