//! Codes of a few bits, one after the other in words of 32 bits, the lowest bit first; one may begin in a word and end
//! in the next.

use crate::checkpoint::{Entry, Index};
use crate::{Error, Result};

/// The words of a tensor of I32.
pub(super) fn words(index: &Index, entry: &Entry) -> Result<Vec<u32>> {
    if entry.dtype != safetensors::Dtype::I32 {
        return Err(Error::work(format!("{} is {}, expected I32: codes in words", entry.name, entry.dtype)));
    }
    let mut words = vec![0_u32; entry.shape.iter().product()];
    index.read_range(entry, 0, bytemuck::cast_slice_mut(&mut words))?;
    Ok(words)
}

/// Code number `place` of the words that `word` gives.
pub(super) fn code(place: usize, bits: usize, word: impl Fn(usize) -> u32) -> u32 {
    let (first, shift) = (place * bits / 32, place * bits % 32);
    let low = word(first) >> shift;
    let code = if shift + bits > 32 { low | word(first + 1) << (32 - shift) } else { low };
    code & mask(bits)
}

/// The largest code.
pub(super) fn mask(bits: usize) -> u32 {
    u32::MAX >> (32 - bits)
}

/// Words that `count` codes take.
pub(super) fn words_of(count: usize, bits: usize) -> usize {
    count.saturating_mul(bits).div_ceil(32)
}

/// The bits of a code where `count` of them take `words` words.
pub(super) fn width(count: usize, words: usize) -> Option<usize> {
    (1..=8).find(|bits| words_of(count, *bits) == words)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_cross_words() {
        for bits in 1..=8 {
            let codes: Vec<u32> = (0..77).map(|n| (n * 37 + 11) & mask(bits)).collect();
            let mut words = vec![0_u32; words_of(codes.len(), bits)];
            for (place, own) in codes.iter().enumerate() {
                for bit in (0..bits).filter(|bit| own >> bit & 1 == 1) {
                    words[(place * bits + bit) / 32] |= 1 << ((place * bits + bit) % 32);
                }
            }
            let read: Vec<u32> = (0..codes.len()).map(|place| code(place, bits, |word| words[word])).collect();
            assert_eq!(read, codes, "{bits} bits");
            assert_eq!(width(codes.len(), words.len()), Some(bits));
        }
        assert_eq!(width(64, 17), None);
    }
}
