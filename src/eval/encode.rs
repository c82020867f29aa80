//! Strings to token requests, as the reference tokenises them.

use std::ops::Range;
use std::sync::Arc;

use super::passes::{Targets, TokenRequest};
use super::prompts::Document;
use super::python::rstrip;
use super::request::{Prompt, Request};
use super::room::{Taken, size};
use super::settings::Compat;
use crate::data::{Special, Tokenizer};
use crate::{Error, Result, interrupt};

/// How strings become tokens.
#[derive(Debug)]
pub struct Encoder<'a> {
    tokenizer: &'a Tokenizer,
    /// Which special tokens a text gets: usually a beginning-of-sequence token in front.
    special: Special,
    /// Token that stands for an empty context, and its text.
    prefix: Option<(u32, String)>,
    /// Whether a text that already starts with the prefix's text gets no special tokens.
    once: bool,
    /// Longest input of the model, in tokens.
    max_length: usize,
    /// Score single answer tokens the way the paper's scripts do.
    paper: bool,
}

/// The requests of one document.
#[derive(Clone, Debug)]
pub struct Asked {
    /// One a choice, or one a window of a text.
    pub requests: Vec<TokenRequest>,
    /// Whether the first request is a special token in front of a text: part of the reference's sum, not of the text.
    pub lead: bool,
    /// Tokens that did not fit into the model and were left out, from the left.
    pub truncated: usize,
    /// Memory taken, these requests included.
    taken: Taken,
}

impl Asked {
    fn new(taken: Taken) -> Self {
        Self { requests: Vec::new(), lead: false, truncated: 0, taken }
    }

    fn add(&mut self, request: TokenRequest) -> Result<()> {
        self.taken.take(size(&request, self.requests.last()))?;
        self.requests.push(request);
        Ok(())
    }
}

impl<'a> Encoder<'a> {
    /// `bos` forces or forbids the special tokens; without it version 0.4.0 adds none and later ones ask the tokenizer.
    ///
    /// # Errors
    /// A beginning-of-sequence token that is wanted from a tokenizer without one.
    pub fn new(
        tokenizer: &'a Tokenizer,
        compat: Option<Compat>,
        bos: Option<bool>,
        max_length: usize,
        paper: bool,
    ) -> Result<Self> {
        let old = compat == Some(Compat::V0_4_0);
        let (begin, end) = (tokenizer.bos(), tokenizer.eos());
        let special = match bos {
            Some(true) if begin.is_none() => {
                return Err(Error::request("--bos yes: this model's tokenizer has no beginning-of-sequence token"));
            }
            Some(true) => Special::Always,
            None if !old => Special::Default,
            Some(false) | None => Special::None,
        };
        let prefix = if old { end } else { begin.or(end) };
        let prefix = prefix.map(|id| Ok::<_, Error>((id, tokenizer.decode(&[id], false)?))).transpose()?;
        Ok(Self { tokenizer, special, prefix, once: !old, max_length, paper })
    }

    /// Token ids of a whole string.
    fn tokens(&self, text: &str) -> Result<Vec<u32>> {
        let has = |prefix: &(u32, String)| self.once && text.starts_with(&prefix.1);
        let special = if self.prefix.as_ref().is_some_and(has) { Special::None } else { self.special };
        self.tokenizer.encode(text, special)
    }

    fn prefix(&self) -> Result<u32> {
        self.prefix.as_ref().map(|(id, _)| *id).ok_or_else(|| {
            Error::request(
                "the tokenizer has neither a beginning-of-sequence nor an end-of-sequence token, and there is nothing \
                 else to predict a first token from",
            )
        })
    }

    /// What `document` asks of the model, in memory of which so much is `taken`.
    ///
    /// # Errors
    /// Tokens that leave nothing to score, an answer longer than the model's context, a tokenizer without a token to
    /// start from; requests that take more memory; an interruption.
    pub fn document(&self, document: &Document, taken: Taken) -> Result<Asked> {
        let mut asked = Asked::new(taken);
        let mut last = None;
        for request in &document.requests {
            interrupt::check()?;
            match request {
                Request::LogLikelihood { context, continuation } if self.paper => {
                    self.paper_continuation(&mut asked, context, continuation)
                }
                Request::LogLikelihood { context, continuation } => {
                    self.continuation(&mut asked, &context.text(), continuation, &mut last)
                }
                Request::LogLikelihoodRolling { text } => self.text(&mut asked, text),
                Request::GenerateUntil { .. } => Err(Error::work("generated answers are not there yet")),
            }?;
        }
        Ok(asked)
    }

    /// `last` is the context before and its tokens, which the choices of a question share.
    fn continuation(
        &self,
        asked: &mut Asked,
        context: &str,
        continuation: &str,
        last: &mut Option<(String, Vec<u32>)>,
    ) -> Result<()> {
        if context.is_empty() {
            let tokens = self.tokenizer.encode(continuation, Special::None)?;
            let prefix = self.prefix()?;
            let all = if tokens.first() == Some(&prefix) { tokens } else { [vec![prefix], tokens].concat() };
            return self.push(asked, all, 1);
        }
        // white space at the end of the context is tokenised with the continuation
        let kept = rstrip(context);
        let context_tokens = match last {
            Some((text, tokens)) if text == kept => tokens.clone(),
            _ => self.tokens(kept)?,
        };
        let whole = self.tokens(&format!("{context}{continuation}"))?;
        let mut all = context_tokens.clone();
        all.extend(whole.iter().skip(context_tokens.len()));
        self.push(asked, all, context_tokens.len())?;
        *last = Some((kept.to_owned(), context_tokens));
        Ok(())
    }

    /// The likeliest of the answers' own first words decides: each answer's last token, written with and without a
    /// space in front.
    fn paper_continuation(&self, asked: &mut Asked, context: &Prompt, continuation: &str) -> Result<()> {
        let input = self.fit(asked, &self.tokens(&context.text())?, self.max_length)?;
        let answer = paper_answer(continuation);
        let mut ids = Vec::new();
        for text in [answer.clone(), format!(" {answer}")] {
            let id = self.tokenizer.encode(&text, Special::None)?.last().copied();
            let id = id.ok_or_else(|| Error::work(format!("the tokenizer makes no token of {text:?}")))?;
            if !ids.contains(&id) {
                ids.push(id);
            }
        }
        asked.add(TokenRequest { from: input.len() - 1, input, targets: Targets::AnyOf(ids) })
    }

    /// One request: all but the last token go in, those from `context` on are scored.
    fn push(&self, asked: &mut Asked, tokens: Vec<u32>, context: usize) -> Result<()> {
        let scored = tokens.len().saturating_sub(context);
        if context == 0 || scored == 0 {
            let what = if context == 0 { "context" } else { "answer" };
            return Err(Error::work(format!("the {what} of a question has no token of its own")));
        }
        if scored > self.max_length {
            return Err(Error::work(format!(
                "an answer has {scored} tokens, the model reads at most {}",
                self.max_length
            )));
        }
        let targets = tokens[context..].to_vec();
        let input = self.fit(asked, &tokens[..tokens.len() - 1], self.max_length)?;
        let from = input.len() - targets.len();
        asked.add(TokenRequest { input, from, targets: Targets::Sequence(targets) })
    }

    /// The last `most` tokens, in one piece of memory with the previous request's input where they are equal.
    fn fit(&self, asked: &mut Asked, input: &[u32], most: usize) -> Result<Arc<[u32]>> {
        let skipped = input.len().saturating_sub(most);
        asked.truncated = asked.truncated.max(skipped);
        let input = &input[skipped..];
        if input.is_empty() {
            return Err(Error::work("a prompt has no tokens"));
        }
        Ok(match asked.requests.last() {
            Some(last) if *last.input == *input => last.input.clone(),
            _ => Arc::from(input),
        })
    }

    /// Disjoint windows; each but the first starts with the last token of the one before.
    fn text(&self, asked: &mut Asked, text: &str) -> Result<()> {
        let mut all = if self.paper { self.tokenizer.encode(text, Special::None)? } else { self.tokens(text)? };
        if all.is_empty() {
            return Ok(());
        }
        let prefix = self.prefix()?;
        all.insert(0, prefix);
        let tokens = &all[1..];
        // the reference predicts a special token in front of the text too
        let own = self.prefix.as_ref().is_some_and(|(_, prefix)| text.starts_with(prefix));
        asked.lead = tokens.first() == Some(&prefix) && !own;
        for window in windows(tokens.len(), self.max_length) {
            // `tokens[i]` is `all[i + 1]`, so a window reads one place to the left of what it predicts
            let input: Arc<[u32]> = Arc::from(&all[window.reads.clone()]);
            let mut predicts = window.predicts.clone();
            let from = predicts.start - window.reads.start;
            if window.predicts.start == 0 && asked.lead {
                let targets = Targets::Sequence(vec![tokens[0]]);
                asked.add(TokenRequest { input: input.clone(), from, targets })?;
                predicts.start += 1;
            }
            if !predicts.is_empty() {
                let targets = Targets::Sequence(tokens[predicts.clone()].to_vec());
                let from = predicts.start - window.reads.start;
                asked.add(TokenRequest { input, from, targets })?;
            }
        }
        Ok(())
    }
}

/// The scripts ask for `Yes` and `No`, without a space in front; letters are letters.
pub(super) fn paper_answer(continuation: &str) -> String {
    let mut chars = continuation.strip_prefix(' ').unwrap_or(continuation).chars();
    chars.next().map(|first| first.to_uppercase().chain(chars).collect()).unwrap_or_default()
}

/// A window of a text of known length: positions in the text with a prefix in front that it reads, and positions in
/// the text that it predicts.
#[derive(Debug, PartialEq, Eq)]
struct Window {
    reads: Range<usize>,
    predicts: Range<usize>,
}

/// The reference's rolling windows with one token of context: the last, short one reads as much as fits.
fn windows(tokens: usize, longest: usize) -> impl Iterator<Item = Window> {
    (0..tokens).step_by(longest.max(1)).map(move |done| {
        let end = done.saturating_add(longest).min(tokens);
        Window { reads: end.saturating_sub(longest)..end, predicts: done..end }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::eval::prompts::tests::{GOLDEN, golden_data, golden_prompts};
    use crate::eval::room::Room;

    fn taken() -> Taken {
        Room::new(u64::MAX).taken()
    }

    fn whole(request: &TokenRequest) -> (Vec<u32>, Vec<u32>) {
        let Targets::Sequence(targets) = &request.targets else { panic!("a continuation") };
        (request.input[..=request.from].to_vec(), targets.clone())
    }

    #[test]
    fn every_golden_token() {
        let Some(folder) = golden_data() else { return };
        let text = std::fs::read_to_string(format!("{GOLDEN}/requests.json")).unwrap();
        let golden: serde_json::Value = serde_json::from_str(&text).unwrap();
        let mut compared = 0;
        for (name, mode, bos) in [
            ("tok-l3", "default", None),
            ("tok-l3", "nobos", Some(false)),
            ("tok-l2", "default", None),
            ("tok-l2", "nobos", Some(false)),
        ] {
            let tokenizer = Tokenizer::open(format!("{GOLDEN}/model-{name}")).unwrap();
            let encoder = Encoder::new(&tokenizer, None, bos, 2048, false).unwrap();
            for task in golden["tasks"].as_array().unwrap() {
                let shots = task["num_fewshot"].as_u64().unwrap() as usize;
                let prompts = golden_prompts(folder.path(), task["task"].as_str().unwrap(), shots);
                let mut requests = task["requests"].as_array().unwrap().iter();
                for document in &prompts.documents {
                    let asked = encoder.document(document, taken()).unwrap();
                    let tokens = |request: &serde_json::Value, what: &str| -> Vec<u32> {
                        serde_json::from_value(request["tokens"][format!("{name}/{mode}")][what].clone()).unwrap()
                    };
                    match &document.requests[0] {
                        Request::LogLikelihood { .. } => {
                            for request in &asked.requests {
                                let golden = requests.next().unwrap();
                                let expected = (tokens(golden, "context_enc"), tokens(golden, "continuation_enc"));
                                assert_eq!(whole(request), expected, "{name} {mode} {} {}", task["task"], document.id);
                                compared += 1;
                            }
                        }
                        _ => {
                            let list = tokens(requests.next().unwrap(), "token_list");
                            assert_eq!(asked.lead, bos.is_none());
                            let predicted: Vec<u32> = asked.requests.iter().flat_map(|r| whole(r).1).collect();
                            assert_eq!(predicted, list, "{name} {mode} {}", task["task"]);
                            let bos = tokenizer.bos().unwrap();
                            assert_eq!(*asked.requests[0].input, *[&[bos], &list[..list.len() - 1]].concat());
                            compared += 1;
                        }
                    }
                }
                assert!(requests.next().is_none());
            }
        }
        assert_eq!(compared, 4 * 169);
    }

    #[test]
    fn long_prompts_lose_their_beginning() {
        let Some(folder) = golden_data() else { return };
        let tokenizer = Tokenizer::open(format!("{GOLDEN}/model-tok-l3")).unwrap();
        let prompts = golden_prompts(folder.path(), "mmlu_abstract_algebra", 5);
        let asked = |length| {
            Encoder::new(&tokenizer, None, None, length, false).unwrap().document(&prompts.documents[0], taken())
        };
        let (long, short) = (asked(2048).unwrap(), asked(96).unwrap());
        assert_eq!((short.requests[0].input.len(), short.requests[0].from, long.truncated), (96, 95, 0));
        assert_eq!(*short.requests[0].input, long.requests[0].input[short.truncated..]);
        let choices = &golden_prompts(folder.path(), "hellaswag", 0).documents[0];
        let error = Encoder::new(&tokenizer, None, None, 4, false).unwrap().document(choices, taken()).unwrap_err();
        assert!(error.to_string().contains("the model reads at most 4"), "{error}");
    }

    #[test]
    fn version_0_4_0_and_the_paper() {
        let Some(folder) = golden_data() else { return };
        let tokenizer = Tokenizer::open(format!("{GOLDEN}/model-tok-l3")).unwrap();
        let question = &golden_prompts(folder.path(), "boolq", 0).documents[0];
        let text = &golden_prompts(folder.path(), "c4", 0).documents[0];
        let old = Encoder::new(&tokenizer, Some(Compat::V0_4_0), None, 64, false).unwrap();
        let new = Encoder::new(&tokenizer, None, None, 64, false).unwrap();
        let (a, b) = (old.document(question, taken()).unwrap(), new.document(question, taken()).unwrap());
        assert_eq!(
            (a.requests[0].input[0], *a.requests[0].input == b.requests[0].input[1..]),
            (b.requests[0].input[1], true)
        );
        let windows = old.document(text, taken()).unwrap();
        assert_eq!((windows.requests[0].input[0], windows.lead), (tokenizer.eos().unwrap(), false));
        let paper = Encoder::new(&tokenizer, None, None, 64, true).unwrap();
        let windows = paper.document(text, taken()).unwrap();
        assert_eq!(
            (windows.requests[0].input[0], windows.requests[0].from, windows.lead),
            (tokenizer.bos().unwrap(), 0, false)
        );
        let asked = paper.document(question, taken()).unwrap();
        let ids = |text| *tokenizer.encode(text, Special::None).unwrap().last().unwrap();
        let mut expected = vec![ids("Yes"), ids(" Yes")];
        expected.dedup();
        assert_eq!(asked.requests[1].targets, Targets::AnyOf(expected));
        assert_eq!(asked.requests[0].input, b.requests[0].input);
    }

    #[test]
    fn tokenizers_without_special_tokens() {
        let Some(folder) = golden_data() else { return };
        let bare = tempfile::tempdir().unwrap();
        let mut json: serde_json::Value =
            serde_json::from_slice(&std::fs::read(format!("{GOLDEN}/model-tok-l3/tokenizer.json")).unwrap()).unwrap();
        json["post_processor"] = serde_json::Value::Null;
        std::fs::write(bare.path().join("tokenizer.json"), json.to_string()).unwrap();
        let tokenizer = Tokenizer::open(bare.path()).unwrap();
        assert_eq!((tokenizer.bos(), tokenizer.eos()), (None, None));
        let encoder = Encoder::new(&tokenizer, None, None, 64, false).unwrap();
        encoder.document(&golden_prompts(folder.path(), "boolq", 0).documents[0], taken()).unwrap();
        let error = encoder.document(&golden_prompts(folder.path(), "c4", 0).documents[0], taken()).unwrap_err();
        assert!(error.to_string().contains("neither a beginning-of-sequence nor"), "{error}");
        assert_eq!(Encoder::new(&tokenizer, None, Some(true), 64, false).unwrap_err().exit_code(), 2);
    }

    #[test]
    fn windows_as_the_reference_rolls_them() {
        let window = |reads, predicts| Window { reads, predicts };
        let windows = |tokens, longest| windows(tokens, longest).collect::<Vec<_>>();
        assert_eq!(windows(3, 4), [window(0..3, 0..3)]);
        assert_eq!(windows(10, 4), [window(0..4, 0..4), window(4..8, 4..8), window(6..10, 8..10)]);
        assert_eq!(windows(0, 4), []);
    }

    #[test]
    fn answers_of_the_papers_scripts() {
        assert_eq!([paper_answer(" no"), paper_answer(" yes"), paper_answer(" A")], ["No", "Yes", "A"]);
    }
}
