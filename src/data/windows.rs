//! Long texts tokenized in windows: the ids of the whole text in a small part of the memory.
//!
//! A tokenizer takes some two hundred bytes of memory for each byte of text. So a long text is seen through windows
//! that overlap, each from one *cut* of the text on. At a cut the tokens on its left do not depend on the text on its
//! right and the other way round: between two words of the pre-tokenizer, whose expressions go on from where they are;
//! or, inside a word (Llama 2's tokenizer knows no words), between two letters that stand side by side in no token of
//! the vocabulary, so that no merge ever joins them. What a window's own ends do to its tokens (a space put in front,
//! an accent or an added token cut through) ends before the cut that is used; that it did is seen where two windows
//! overlap and have to agree.

use std::collections::HashSet;
use std::sync::{Mutex, OnceLock};

use tokenizers::models::ModelWrapper;
use tokenizers::{Model, Tokenizer};

use crate::interrupt;

/// Bytes of a window. A text of as many is tokenized whole.
pub(super) const WINDOW: usize = 32 << 10;

/// Bytes of a window at most, where there is no cut in a smaller one.
const LARGEST: usize = 256 << 10;

/// Bytes that two windows have in common, at least.
const OVERLAP: usize = 1 << 10;

/// Held while a window is larger than usual: one at a time is enough memory.
static LARGE: Mutex<()> = Mutex::new(());

/// One token of a window, at bytes of the whole text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Token {
    id: u32,
    begin: usize,
    end: usize,
    /// Whether the text can be cut in front of it.
    is_cut: bool,
}

/// Where one window is done with and the next one takes over.
#[derive(Default)]
struct Seam {
    /// Bytes of the text whose ids are known.
    done: usize,
    /// How many ids that makes.
    ids: usize,
    /// Where the next window starts, a cut.
    start: usize,
    /// What the last window saw there and beyond.
    seen: Vec<Token>,
    /// How far it saw it whatever comes behind its end.
    sure: usize,
}

/// Letters that are neighbours in some token of a vocabulary.
#[derive(Default)]
pub(super) struct Neighbors(OnceLock<HashSet<(char, char)>>);

impl Neighbors {
    fn of(&self, tokenizer: &Tokenizer) -> &HashSet<(char, char)> {
        self.0.get_or_init(|| {
            let vocabulary = tokenizer.get_model().get_vocab();
            vocabulary.keys().flat_map(|token| token.chars().zip(token.chars().skip(1))).collect()
        })
    }
}

/// Adds the ids of `text`, without the special tokens around it, to `ids`. `tokenizer` has no post-processor.
///
/// # Errors
/// The tokenizer's, a text that has no place to cut it within [`LARGEST`] bytes, and an interruption.
pub(super) fn add_ids(
    tokenizer: &Tokenizer,
    neighbors: &Neighbors,
    text: &str,
    ids: &mut Vec<u32>,
) -> tokenizers::Result<()> {
    // grown by doubling, they would stand in memory one and a half times; what is not written takes none
    ids.reserve(text.len() + 8);
    let before_text = ids.len();
    let (mut seam, mut before, mut size) = (Seam::default(), None, WINDOW);
    loop {
        interrupt::check()?;
        let large = (size > WINDOW).then(|| LARGE.lock());
        let end = floor(text, seam.done + size);
        let window = window(tokenizer, neighbors, text, seam.start, end)?;
        drop(large);
        if !agree(&seam, &window) {
            // the last cut was none: back to the window before, seen larger
            let (earlier, tried) = before.take().ok_or_else(|| stuck(seam.done))?;
            (seam, size) = (earlier, larger(tried, seam.done)?);
            ids.truncate(before_text + seam.ids);
            continue;
        }
        let rest = window.iter().skip_while(|token| token.begin < seam.done);
        if end == text.len() {
            ids.extend(rest.map(|token| token.id));
            return Ok(());
        }
        let Some((cut, sure)) = last_cut(text, &window, seam.done, end) else {
            size = larger(size, seam.done)?;
            continue;
        };
        ids.extend(rest.take_while(|token| token.begin < cut).map(|token| token.id));
        let cuts = window.iter().filter(|token| token.is_cut && token.begin + OVERLAP <= cut);
        let start = cuts.map(|token| token.begin).next_back().unwrap_or(seam.start);
        let seen = window.into_iter().filter(|token| token.begin >= start && token.begin < sure).collect();
        before = Some((
            std::mem::replace(&mut seam, Seam { done: cut, ids: ids.len() - before_text, start, seen, sure }),
            size,
        ));
        size = WINDOW;
    }
}

/// The end of the last letter that ends within `at` bytes.
fn floor(text: &str, at: usize) -> usize {
    (0..=at.min(text.len())).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0)
}

/// The size of the window to try after one of `size` bytes.
fn larger(size: usize, done: usize) -> tokenizers::Result<usize> {
    if size < LARGEST { Ok(size * 2) } else { Err(stuck(done)) }
}

fn stuck(done: usize) -> tokenizers::Error {
    let (most, at) = (LARGEST >> 10, done >> 10);
    format!(
        "{most} KiB of text, {at} KiB behind its start, are one word or one run of blanks to the tokenizer, and no \
         long text can be cut there"
    )
    .into()
}

/// The tokens of `text[start..end]`.
fn window(
    tokenizer: &Tokenizer,
    neighbors: &Neighbors,
    text: &str,
    start: usize,
    end: usize,
) -> tokenizers::Result<Vec<Token>> {
    let part = &text[start..end];
    let encoding = tokenizer.encode(part, false)?;
    let (offsets, words, names) = (encoding.get_offsets(), encoding.get_word_ids(), encoding.get_tokens());
    let mut tokens = Vec::with_capacity(encoding.len());
    for (index, id) in encoding.get_ids().iter().enumerate() {
        let (begin, end) = offsets[index];
        let is_cut = index.checked_sub(1).is_some_and(|left| {
            let other_word = words[left] != words[index];
            match part.get(offsets[left].1..begin) {
                Some("") => other_word || apart(tokenizer, neighbors, &names[left], &names[index]),
                // blanks that are in no token stand between words
                Some(blanks) => other_word && blanks.trim().is_empty(),
                None => false,
            }
        });
        tokens.push(Token { id: *id, begin: start + begin, end: start + end, is_cut });
    }
    Ok(tokens)
}

/// Whether no token could hold the end of `left` and the beginning of `right`, two tokens of one word.
fn apart(tokenizer: &Tokenizer, neighbors: &Neighbors, left: &str, right: &str) -> bool {
    let ModelWrapper::BPE(model) = tokenizer.get_model() else { return false };
    let marks = |mark: &Option<String>| mark.as_ref().is_some_and(|mark| !mark.is_empty());
    let unknown = model.get_unk_token().as_deref();
    if marks(&model.continuing_subword_prefix) || marks(&model.end_of_word_suffix) {
        return false;
    }
    // unknown letters side by side become one token
    let Some(pair) = left.chars().next_back().zip(right.chars().next()) else { return false };
    unknown != Some(left) && unknown != Some(right) && !neighbors.of(tokenizer).contains(&pair)
}

/// Whether a window saw what the one before it saw around its seam.
fn agree(seam: &Seam, window: &[Token]) -> bool {
    // what stands at the window's own start may read otherwise
    let from = seam.done.saturating_sub(OVERLAP / 2).max(seam.start);
    let around = |tokens: &[Token]| -> Vec<Token> {
        let tokens = tokens.iter().skip_while(|token| token.begin < from);
        tokens.take_while(|token| token.begin < seam.sure).copied().collect()
    };
    seam.done == 0
        || (around(&seam.seen) == around(window) && window.iter().any(|token| token.is_cut && token.begin == seam.done))
}

/// The cut between `done` and `end` to go on from, and the last one up to which nothing that follows after `end` can
/// change a token: another cut follows it, and between the two there is more than spaces, a run of which may belong
/// together.
fn last_cut(text: &str, window: &[Token], done: usize, end: usize) -> Option<(usize, usize)> {
    let cuts = || window.iter().rev().filter(|token| token.is_cut).map(|token| token.begin);
    let after = cuts().find(|cut| cut + OVERLAP / 2 <= end)?;
    let written = done + text[done..after].rfind(|letter: char| !letter.is_whitespace())?;
    let sure = cuts().find(|cut| *cut <= written).filter(|sure| *sure > done)?;
    let cut = cuts().find(|cut| cut + OVERLAP / 2 <= sure && *cut > done);
    Some((cut.unwrap_or(sure), sure))
}
