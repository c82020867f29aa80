//! How much text is held in memory at once: a bound that follows `--memory`.

use std::fmt;

/// Bytes of the longest line of text, field or document. What is read at once otherwise, such as the pages of a parquet
/// file, is bounded by some times as much. A token's id takes as much memory as four bytes of text and the fewest
/// letters are one token, so that a document takes up to some ten times its length while it is tokenized.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Longest(usize);

impl Longest {
    const LEAST: usize = 1 << 20;
    const MOST: usize = 16 << 20;

    /// As much as fits into `memory` bytes with all that is made of it, between 1 and 16 MiB.
    #[must_use]
    pub fn within(memory: u64) -> Self {
        const PARTS: u64 = 12;
        let whole = usize::try_from(memory / PARTS).unwrap_or(usize::MAX) >> 20 << 20;
        Self(whole.clamp(Self::LEAST, Self::MOST))
    }

    /// In bytes.
    #[must_use]
    pub fn bytes(self) -> usize {
        self.0
    }
}

impl Default for Longest {
    /// What fits into the memory that every machine has.
    fn default() -> Self {
        Self(Self::MOST)
    }
}

impl fmt::Display for Longest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} MiB", self.0 >> 20)?;
        if self.0 < Self::MOST { f.write_str(" (more with more --memory)") } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn more_memory_allows_longer_texts() {
        for (memory, expected) in [
            (0, "1 MiB (more with more --memory)"),
            (100 << 20, "8 MiB (more with more --memory)"),
            (192 << 20, "16 MiB"),
            (u64::MAX, "16 MiB"),
        ] {
            assert_eq!(Longest::within(memory).to_string(), expected);
        }
    }
}
