//! Token ids to text as they come: a token may be part of a letter, and what it reads as depends on its neighbours.

use super::Tokenizer;
use crate::Result;

/// Tokens of the text before that are decoded along, for the spaces between words.
const BEFORE: usize = 6;

/// A text that grows token by token.
#[derive(Debug)]
pub struct Spoken<'a> {
    tokenizer: &'a Tokenizer,
    ids: Vec<u32>,
    /// From here on tokens are decoded together.
    from: usize,
    /// The text of the tokens up to here has been given out.
    given: usize,
}

impl<'a> Spoken<'a> {
    /// A text that continues that of `prompt`.
    #[must_use]
    pub fn after(tokenizer: &'a Tokenizer, prompt: &[u32]) -> Self {
        let ids = prompt[prompt.len().saturating_sub(BEFORE)..].to_vec();
        Self { tokenizer, given: ids.len(), ids, from: 0 }
    }

    /// What can be read now that `id` has come; nothing while a letter is incomplete. Special tokens read as nothing.
    ///
    /// # Errors
    /// The tokenizer's.
    pub fn push(&mut self, id: u32) -> Result<String> {
        self.ids.push(id);
        let new = self.new_text()?;
        if new.is_empty() || new.ends_with(char::REPLACEMENT_CHARACTER) {
            return Ok(String::new());
        }
        (self.from, self.given) = (self.given, self.ids.len());
        Ok(new)
    }

    /// What is left, incomplete or not.
    ///
    /// # Errors
    /// The tokenizer's.
    pub fn finish(mut self) -> Result<String> {
        let new = self.new_text()?;
        self.given = self.ids.len();
        Ok(new)
    }

    fn new_text(&self) -> Result<String> {
        let old = self.tokenizer.decode(&self.ids[self.from..self.given], true)?;
        let all = self.tokenizer.decode(&self.ids[self.from..], true)?;
        Ok(all.strip_prefix(&old).unwrap_or_default().to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::super::Special;
    use super::super::tokenizer::tests::bytes;
    use super::*;

    #[test]
    fn letters_come_whole_and_everything_comes() {
        let tokenizer = bytes();
        for text in ["a é 語 🦀.", "", "plain"] {
            let prompt = tokenizer.encode("before", Special::Default).unwrap();
            let mut spoken = Spoken::after(&tokenizer, &prompt);
            let ids = tokenizer.encode(text, Special::None).unwrap();
            let mut parts: Vec<String> = ids.iter().map(|id| spoken.push(*id).unwrap()).collect();
            assert!(parts.iter().all(|part| part.chars().count() <= 1));
            parts.push(spoken.finish().unwrap());
            assert_eq!(parts.concat(), text);
        }
        // half a letter at the end
        let half = tokenizer.encode("é", Special::None).unwrap()[0];
        let mut spoken = Spoken::after(&tokenizer, &[0]);
        assert_eq!(spoken.push(half).unwrap(), "");
        assert_eq!(spoken.finish().unwrap(), "\u{fffd}");
    }
}
