//! A text whose every token is predicted.

use super::python::words;

/// A text to predict, and the size of what it was made from, which perplexities are divided by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Text {
    /// What is predicted.
    pub text: String,
    /// Words before any tidying, white space at an end making an empty one.
    pub words: usize,
    /// UTF-8 bytes before any tidying.
    pub bytes: usize,
}

impl Text {
    /// What is predicted of `original`, tidied.
    pub(super) fn new(original: &str, text: String) -> Self {
        Self { text, words: words(original), bytes: original.len() }
    }
}
