//! Which tokens of a text stand in given parts of it.

use std::ops::Range;

use super::guard::fenced;
use super::tokenizer::Tokenizer;
use crate::Result;

/// Bytes of a text that is tokenized whole to tell its parts.
pub(super) const LONGEST_SPANNED: usize = 256 << 10;

impl Tokenizer {
    /// The ids of `text`, none put around it, and which of them stand in `parts` of it, as `char_to_token` of
    /// transformers finds where a part begins and ends.
    ///
    /// # Errors
    /// As [`Tokenizer::encode`]; a text longer than [`LONGEST_SPANNED`].
    pub(super) fn encode_parts(&self, text: &str, parts: &[Range<usize>]) -> Result<(Vec<u32>, Vec<bool>)> {
        if text.len() > LONGEST_SPANNED {
            return Err(self.fault("a text too long to tell its parts"));
        }
        let encoded = fenced(|| self.inner.encode(text, false)).map_err(|fault| self.fault(&fault))?;
        let encoded = encoded.map_err(|error| self.fault(&error.to_string()))?;
        let ids = self.within_vocabulary(encoded.get_ids().to_vec())?;
        let mut learned = vec![false; ids.len()];
        let offsets = encoded.get_offsets();
        let at = |byte: usize| offsets.iter().position(|(begin, end)| (*begin..*end).contains(&byte));
        for part in parts.iter().filter(|part| !part.is_empty()) {
            let last = text[part.clone()].char_indices().next_back().map_or(part.start, |(last, _)| part.start + last);
            // a blank that is in no token is no reason to take what is not of the part
            let begin = at(part.start).unwrap_or_else(|| offsets.partition_point(|(begin, _)| *begin < part.start));
            let end = at(last).map_or_else(|| offsets.partition_point(|(begin, _)| *begin < part.end), |last| last + 1);
            learned[begin..end.max(begin)].fill(true);
        }
        Ok((ids, learned))
    }
}
