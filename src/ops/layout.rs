//! How the tokens of one forward pass hang together.
//!
//! A pass runs over a flat list of tokens, `[t, d]`, without padding. The tokens form segments; a segment may follow
//! another one, as the answers of a question follow its prompt, and sees all of it. So a prefix that many samples
//! share is computed once, and sequences of any lengths share a pass.

use std::fmt;
use std::ops::Range;

use super::attention::TablesOnGpu;
use crate::{Error, Result};

/// A run of consecutive tokens of one sequence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// First token in the flat list.
    pub start: usize,
    /// Number of tokens, at least one.
    pub len: usize,
    /// The segment this one continues, an earlier one in the list.
    pub parent: Option<usize>,
    /// Position of its first token in its sequence.
    pub position: usize,
}

/// The segments of one pass; they cover the flat list in order.
#[derive(Default)]
pub struct Layout {
    segments: Vec<Segment>,
    tokens: usize,
    /// What attention on a GPU makes of the segments, once.
    pub(super) tables: TablesOnGpu,
}

impl Clone for Layout {
    fn clone(&self) -> Self {
        Self { segments: self.segments.clone(), tokens: self.tokens, tables: TablesOnGpu::default() }
    }
}

impl PartialEq for Layout {
    fn eq(&self, other: &Self) -> bool {
        self.segments == other.segments
    }
}

impl Eq for Layout {}

impl fmt::Debug for Layout {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Layout").field("segments", &self.segments).finish()
    }
}

impl Layout {
    /// Independent sequences of the given lengths, one after the other.
    ///
    /// # Errors
    /// A length of zero.
    pub fn sequences(lengths: impl IntoIterator<Item = usize>) -> Result<Self> {
        let mut layout = Self::default();
        for len in lengths {
            layout.push(len, None)?;
        }
        Ok(layout)
    }

    /// Appends a segment of `len` tokens that continues `parent`; returns its index.
    ///
    /// # Errors
    /// A length of zero, or a parent that is not there yet.
    pub fn push(&mut self, len: usize, parent: Option<usize>) -> Result<usize> {
        if len == 0 {
            return Err(Error::work("a segment needs at least one token"));
        }
        let position = match parent {
            None => 0,
            Some(index) => {
                let parent = self.segments.get(index).ok_or_else(|| {
                    Error::work(format!(
                        "segment {} continues segment {index}, which is not before it",
                        self.segments.len()
                    ))
                })?;
                parent.position + parent.len
            }
        };
        self.tables = TablesOnGpu::default();
        self.segments.push(Segment { start: self.tokens, len, parent, position });
        self.tokens += len;
        Ok(self.segments.len() - 1)
    }

    /// The segments, in the order of their tokens.
    #[must_use]
    pub fn segments(&self) -> &[Segment] {
        &self.segments
    }

    /// Tokens of the pass, `t`.
    #[must_use]
    pub fn tokens(&self) -> usize {
        self.tokens
    }

    /// Position of every token in its sequence, `[t]`.
    #[must_use]
    pub fn positions(&self) -> Vec<u32> {
        let runs = self.segments.iter().flat_map(|segment| segment.position..segment.position + segment.len);
        runs.map(|position| position as u32).collect()
    }

    /// For each segment, the length of the longest sequence that shares its first segment, prefixes counted.
    #[must_use]
    pub(crate) fn longest_of_each(&self) -> Vec<usize> {
        let roots = self.roots();
        let mut longest = vec![0; self.segments.len()];
        for (segment, root) in self.segments.iter().zip(&roots) {
            longest[*root] = longest[*root].max(segment.position + segment.len);
        }
        roots.into_iter().map(|root| longest[root]).collect()
    }

    /// Flat token ranges that segment `index` sees in full, the oldest first; its own tokens come after them.
    #[must_use]
    pub fn prefix(&self, index: usize) -> Vec<Range<usize>> {
        let mut ranges = Vec::new();
        let mut next = self.segments[index].parent;
        while let Some(parent) = next {
            let segment = self.segments[parent];
            ranges.push(segment.start..segment.start + segment.len);
            next = segment.parent;
        }
        ranges.reverse();
        ranges
    }

    /// For each segment, the first segment of its sequence: segments of different roots never see each other.
    #[must_use]
    pub(crate) fn roots(&self) -> Vec<usize> {
        let mut roots = Vec::with_capacity(self.segments.len());
        for (index, segment) in self.segments.iter().enumerate() {
            let root = segment.parent.map_or(index, |parent| roots[parent]);
            roots.push(root);
        }
        roots
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tree_of_segments() {
        let mut layout = Layout::default();
        let prefix = layout.push(3, None).unwrap();
        let question = layout.push(2, Some(prefix)).unwrap();
        layout.push(1, Some(question)).unwrap();
        layout.push(2, Some(prefix)).unwrap();
        layout.push(4, None).unwrap();
        assert_eq!(layout.positions(), [0, 1, 2, 3, 4, 5, 3, 4, 0, 1, 2, 3]);
        assert_eq!(layout.prefix(2), [0..3, 3..5]);
        assert_eq!(layout.prefix(3), std::slice::from_ref(&(0..3)));
        assert_eq!(layout.roots(), [0, 0, 0, 0, 4]);
        assert_eq!((layout.tokens(), layout.longest_of_each()), (12, vec![6, 6, 6, 6, 4]));
        assert!(layout.push(0, None).is_err());
        assert!(layout.push(1, Some(9)).is_err());
    }
}
