//! One line of a file, or one item of an array in it, read as a stream: it may be longer than memory allows.

use std::cell::Cell;
use std::io::{Error, Read, Result};

use super::input::Input;
use super::non_finite;
use crate::files::NESTED;

/// Lists and objects inside one another. JSON that is skipped takes a byte of memory for each.
const DEEPEST: usize = 10_000;

/// Where a piece ends.
pub(super) enum End {
    /// At the line feed.
    Line,
    /// At the `,` or `]` outside of the item.
    Item(Scan),
}

impl End {
    /// Bytes of `bytes` in front of the end, if it is there.
    pub(super) fn find(&mut self, bytes: &[u8]) -> Option<usize> {
        match self {
            Self::Line => bytes.iter().position(|byte| *byte == b'\n'),
            Self::Item(scan) => bytes.iter().position(|byte| scan.ends(*byte)),
        }
    }
}

/// Follows the brackets and strings of one item.
#[derive(Default)]
pub(super) struct Scan {
    depth: usize,
    in_string: bool,
    escaped: bool,
}

impl Scan {
    /// Whether `byte` stands behind the item: a `,` or `]` outside of it.
    fn ends(&mut self, byte: u8) -> bool {
        match byte {
            _ if self.escaped => self.escaped = false,
            b'\\' if self.in_string => self.escaped = true,
            b'"' => self.in_string = !self.in_string,
            _ if self.in_string => {}
            b',' | b']' if self.depth == 0 => return true,
            b'{' | b'[' => self.depth += 1,
            b'}' | b']' => self.depth = self.depth.saturating_sub(1),
            _ => {}
        }
        false
    }
}

/// The rest of a piece whose beginning was read already. Errors of the file are kept for the caller.
pub(super) struct Piece<'a> {
    /// What was read last, first of all the beginning, and how much of it was given out.
    pub(super) read: &'a mut Vec<u8>,
    pub(super) given: usize,
    pub(super) input: &'a mut Input,
    pub(super) end: &'a mut End,
    /// The byte at the end, once it was met; 0 at the end of the file.
    pub(super) last: &'a Cell<Option<u8>>,
    /// Bytes that may still be given out; `None` in what nobody wants, whose texts are passed over.
    pub(super) left: &'a Cell<Option<u64>>,
    /// Bytes that were passed over.
    pub(super) skipped: &'a Cell<usize>,
    pub(super) fault: &'a Cell<Option<crate::Error>>,
    /// Brackets that are open, whatever kind of piece it is.
    pub(super) open: Scan,
    /// Whether a number was met that is not finite; a string stands for it.
    pub(super) has_words: &'a Cell<bool>,
    /// Bytes that come before all others, the next one last.
    pub(super) ahead: Vec<u8>,
}

impl Read for Piece<'_> {
    /// One byte at a time, as the JSON reader asks for them.
    fn read(&mut self, buffer: &mut [u8]) -> Result<usize> {
        let Some(slot) = buffer.first_mut() else { return Ok(0) };
        let byte = match self.give() {
            Ok(Some(byte)) => byte,
            Ok(None) => return Ok(0),
            Err(error) => {
                self.fault.set(Some(error));
                return Err(Error::other("unreadable"));
            }
        };
        self.open.ends(byte);
        if self.open.depth > DEEPEST {
            return Err(Error::other(NESTED));
        }
        if let Some(left) = self.left.get() {
            let Some(left) = left.checked_sub(1) else { return Err(Error::other(TOO_LONG)) };
            self.left.set(Some(left));
        }
        *slot = byte;
        Ok(1)
    }
}

/// What the reader says when nothing is left of what may be given out.
pub(super) const TOO_LONG: &str = "a name or a field that is wanted is too long";

impl Piece<'_> {
    /// The next byte for the reader.
    #[inline]
    fn give(&mut self) -> crate::Result<Option<u8>> {
        if let Some(byte) = self.ahead.pop() {
            return Ok(Some(byte));
        }
        if self.open.in_string && !self.open.escaped && self.left.get().is_none() {
            self.skip()?;
        }
        match self.next()? {
            Some(first) if !self.open.in_string && non_finite::may_begin(first) => self.word(first),
            byte => Ok(byte),
        }
    }

    /// The first of the bytes that stand for what begins with `first`.
    fn word(&mut self, first: u8) -> crate::Result<Option<u8>> {
        let mut word = vec![first];
        while non_finite::is_beginning(&word)
            && let Some(byte) = self.next()?
        {
            word.push(byte);
        }
        if let Some(quoted) = non_finite::quoted_word(&word) {
            self.has_words.set(true);
            word = quoted;
        }
        word.reverse();
        self.ahead = word;
        Ok(self.ahead.pop())
    }

    /// Passes over a text up to the next quote or escape.
    fn skip(&mut self) -> crate::Result<()> {
        loop {
            let rest = &self.read[self.given..];
            let found = rest.iter().position(|byte| matches!(byte, b'"' | b'\\'));
            let passed = found.unwrap_or(rest.len());
            self.given += passed;
            self.skipped.set(self.skipped.get() + passed);
            if found.is_some() || !self.fill()? {
                return Ok(());
            }
        }
    }

    /// The next byte of the piece.
    #[inline]
    fn next(&mut self) -> crate::Result<Option<u8>> {
        if self.given == self.read.len() && !self.fill()? {
            return Ok(None);
        }
        self.given += 1;
        Ok(Some(self.read[self.given - 1]))
    }

    /// Reads on where all that was read is given out; whether there is more.
    fn fill(&mut self) -> crate::Result<bool> {
        self.read.clear();
        self.given = 0;
        while self.read.is_empty() && self.last.get().is_none() {
            self.last.set(take(self.input, self.end, |bytes| self.read.extend_from_slice(bytes))?);
        }
        Ok(!self.read.is_empty())
    }
}

/// Reads what is buffered of a piece, without what ends it; the byte at the end if it was met, 0 at the end of the
/// file.
fn take(input: &mut Input, end: &mut End, mut to: impl FnMut(&[u8])) -> crate::Result<Option<u8>> {
    let bytes = input.fill()?;
    if bytes.is_empty() {
        return Ok(Some(0));
    }
    let found = end.find(bytes);
    let taken = found.unwrap_or(bytes.len());
    let last = found.map(|at| bytes[at]);
    to(&bytes[..taken]);
    input.consume(taken + usize::from(last.is_some()));
    Ok(last)
}

/// Reads to the end of a piece; the byte at the end, 0 at the end of the file.
pub(super) fn drain(input: &mut Input, end: &mut End) -> crate::Result<u8> {
    loop {
        if let Some(last) = take(input, end, |_| ())? {
            return Ok(last);
        }
    }
}
