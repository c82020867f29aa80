//! What stands between documents, and whether documents of one sequence see each other.

use super::pack::{Packing, Shape};
use super::tokenizer::{Special, Tokenizer};
use crate::{Error, Result};

/// The token that is put to every document besides those that the tokenizer adds by itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Separator {
    /// [`Separator::Eos`] for [`Packing::Packed`] where the tokenizer adds nothing by itself (Qwen, SmolLM2), as TRL
    /// and axolotl do; nothing otherwise.
    #[default]
    Auto,
    /// EOS after each document that does not end with it.
    Eos,
    /// BOS in front of each document that does not begin with it.
    Bos,
    /// Nothing.
    None,
}

/// What a token of a packed sequence sees.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Attention {
    /// All that stands before it in the sequence, other documents too: what models are usually trained with.
    #[default]
    Across,
    /// Its own document only, whose positions begin at 0. No document's first token is predicted from another document.
    Within,
}

/// The tokens put around a document.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Ends {
    before: Option<u32>,
    after: Option<u32>,
}

impl Ends {
    /// What `shape` asks for, in the tokens of `tokenizer`. A conversation (`is_chat`) ends as its template ends it.
    ///
    /// # Errors
    /// [`Error::Request`] for a token that the tokenizer or the model does not have.
    pub(super) fn new(shape: &Shape, tokenizer: &Tokenizer, is_chat: bool) -> Result<Self> {
        let known = |name: &str, id: Option<u32>| {
            id.filter(|id| tokenizer.has_embedding(*id)).ok_or_else(|| {
                Error::request(format!(
                    "separator {name}: the tokenizer has no {} token; take another one",
                    name.to_uppercase()
                ))
            })
        };
        let ends = match shape.separator {
            Separator::Auto if !is_chat && shape.packing == Packing::Packed && !adds_tokens(tokenizer)? => {
                Self { before: None, after: known("eos", tokenizer.eos()).ok() }
            }
            Separator::Auto | Separator::None => Self::default(),
            Separator::Eos => Self { before: None, after: Some(known("eos", tokenizer.eos())?) },
            Separator::Bos => Self { before: Some(known("bos", tokenizer.bos())?), after: None },
        };
        Ok(ends)
    }

    /// Puts them around a document's tokens, unless they are there.
    pub(super) fn put(self, tokens: &mut Vec<u32>) {
        if let Some(bos) = self.before.filter(|bos| tokens.first() != Some(bos)) {
            tokens.insert(0, bos);
        }
        if let Some(eos) = self.after.filter(|eos| tokens.last() != Some(eos)) {
            tokens.push(eos);
        }
    }
}

/// Whether the tokenizer puts special tokens to a text by itself.
fn adds_tokens(tokenizer: &Tokenizer) -> Result<bool> {
    Ok(tokenizer.encode("a", Special::Default)? != tokenizer.encode("a", Special::None)?)
}

#[cfg(test)]
mod tests {
    use super::super::tokenizer::tests::{bytes, without_bos};
    use super::*;

    fn ends(tokenizer: &Tokenizer, separator: Separator, packing: Packing) -> Result<Ends> {
        Ends::new(&Shape { separator, packing, ..Shape::default() }, tokenizer, false)
    }

    fn put(ends: Ends, tokens: &[u32]) -> Vec<u32> {
        let mut tokens = tokens.to_vec();
        ends.put(&mut tokens);
        tokens
    }

    #[test]
    fn eos_by_default_only_where_nothing_else_tells_documents_apart() {
        let plain = without_bos();
        let (bos, eos) = (plain.bos().unwrap(), plain.eos().unwrap());
        let auto = ends(&plain, Separator::Auto, Packing::Packed).unwrap();
        assert_eq!((put(auto, &[7]), put(auto, &[7, eos])), (vec![7, eos], vec![7, eos]));
        for packing in [Packing::Document, Packing::RunClm] {
            assert_eq!(ends(&plain, Separator::Auto, packing).unwrap(), Ends::default());
        }
        assert_eq!(ends(&plain, Separator::None, Packing::Packed).unwrap(), Ends::default());
        let first = ends(&plain, Separator::Bos, Packing::Document).unwrap();
        assert_eq!((put(first, &[7]), put(first, &[bos, 7])), (vec![bos, 7], vec![bos, 7]));
        // a tokenizer that puts BOS in front by itself
        let own = bytes();
        assert_eq!(ends(&own, Separator::Auto, Packing::Packed).unwrap(), Ends::default());
        let error = ends(&own, Separator::Eos, Packing::Packed).unwrap_err().to_string();
        assert!(error.contains("no EOS token"), "{error}");
    }
}
