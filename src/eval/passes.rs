//! Requests to passes: sequences that begin alike share the tokens they have in common.
//!
//! Within a pass every distinct prefix is run once: the examples in front of all questions of a subject, a passage
//! that is asked about twice, the context of a question's choices. Sharing is on token ids, after whole strings were
//! tokenised, so it changes nothing but the time.

use std::ops::Range;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::model::Batch;
use crate::ops::Layout;
use crate::{Error, Result};

/// Tokens to score at the end of a sequence.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Request {
    /// What the model reads, at least one token.
    pub input: Arc<[u32]>,
    /// Position in `input` whose next token is the first one scored.
    pub from: usize,
    /// What is scored there and at the positions that follow.
    pub targets: Targets,
}

/// What is scored.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Targets {
    /// A continuation: its tokens one after the other.
    Sequence(Vec<u32>),
    /// Tokens that would each stand for the same answer: the likeliest counts.
    AnyOf(Vec<u32>),
}

impl Targets {
    /// How many tokens are scored.
    #[must_use]
    #[allow(clippy::len_without_is_empty, reason = "there is always one")]
    pub fn len(&self) -> usize {
        match self {
            Self::Sequence(tokens) | Self::AnyOf(tokens) => tokens.len(),
        }
    }
}

/// Where one token's score goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Want {
    /// The request.
    pub request: usize,
    /// Which of the pass's rows.
    pub row: usize,
    /// Which of the row's candidates.
    pub candidate: usize,
}

/// One pass and what is to be read from it.
#[derive(Clone, Debug)]
pub struct Pass {
    /// Tokens and their tree.
    pub batch: Batch,
    /// Flat positions that meet the vocabulary head.
    pub rows: Vec<u32>,
    /// Tokens to score at each of them.
    pub candidates: Vec<Vec<u32>>,
    /// Scores in the order of requests and their tokens.
    pub wants: Vec<Want>,
    /// Requests this pass answers.
    pub requests: Vec<usize>,
}

impl Pass {
    /// The first request that reads flat token `token`, and the token's position in its input.
    #[must_use]
    pub fn place(&self, token: usize) -> Option<(usize, usize)> {
        let segments = self.batch.layout.segments();
        let holds = |index: usize, token: usize| {
            (segments[index].start..segments[index].start + segments[index].len).contains(&token)
        };
        let reads = |flat: usize| {
            let own = (0..segments.len()).find(|index| holds(*index, flat))?;
            let path = self.batch.layout.prefix(own).into_iter().flatten().chain(segments[own].start..=flat);
            path.enumerate().find(|(_, read)| *read == token).map(|(position, _)| position)
        };
        self.wants.iter().find_map(|want| Some((want.request, reads(self.rows[want.row] as usize)?)))
    }
}

/// A shared run shorter than this is run again for each sequence: a segment of a few tokens costs more than it saves.
const LEAST_SHARED: usize = 8;

/// Tokens a pass may have, unless one sequence alone is longer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PassTokens {
    /// Usually.
    pub usual: usize,
    /// Where sequences share a beginning so long that they would otherwise fill passes with it again and again.
    pub most: usize,
}

impl PassTokens {
    /// For a pass whose first sequences have `shared` tokens in common: at least three quarters are to be news.
    fn for_shared(self, shared: usize) -> usize {
        self.usual.max((4 * shared).min(self.most))
    }
}

/// Packs requests into passes. Requests of different `groups` are kept apart in order, not in passes; within one,
/// sequences are sorted so that neighbours share the most.
///
/// # Errors
/// A request without tokens.
pub fn plan(requests: &[Request], groups: &[Range<usize>], budget: PassTokens) -> Result<Vec<Pass>> {
    let mut sequences: Vec<Sequence> = Vec::new();
    for group in groups {
        let mut order: Vec<usize> = group.clone().collect();
        order.sort_by(|a, b| requests[*a].input.cmp(&requests[*b].input).then(a.cmp(b)));
        let first = sequences.len();
        for index in order {
            let input = &requests[index].input;
            if input.is_empty() {
                return Err(Error::work("a request without a token to start from"));
            }
            match sequences[first..].last_mut() {
                Some(last) if last.input == *input => last.requests.push(index),
                _ => sequences.push(Sequence { input: input.clone(), requests: vec![index] }),
            }
        }
    }
    let shared = |index: usize| match index {
        0 => 0,
        _ => common(&sequences[index - 1].input, &sequences[index].input),
    };
    let shared: Vec<usize> = (0..sequences.len()).map(shared).collect();
    let mut passes = Vec::new();
    let (mut start, mut tokens, mut limit) = (0, 0, 0);
    for index in 0..=sequences.len() {
        let new = sequences.get(index).map(|sequence| sequence.input.len() - shared[index]);
        if index > start && new.is_none_or(|new| tokens + new > limit) {
            passes.push(Packer::pack(requests, &sequences[start..index])?);
            start = index;
        }
        if index == start && index < sequences.len() {
            tokens = sequences[index].input.len();
            limit = budget.for_shared(shared.get(index + 1).copied().unwrap_or(0));
        } else {
            tokens += new.unwrap_or(0);
        }
    }
    Ok(passes)
}

/// A distinct input and who asks about it.
struct Sequence {
    input: Arc<[u32]>,
    requests: Vec<usize>,
}

fn common(a: &[u32], b: &[u32]) -> usize {
    a.iter().zip(b).take_while(|(a, b)| a == b).count()
}

/// Builds one pass from sorted, distinct sequences.
struct Packer<'a> {
    requests: &'a [Request],
    sequences: &'a [Sequence],
    /// Tokens each sequence has in common with the one before it.
    shared: Vec<usize>,
    ids: Vec<u32>,
    layout: Layout,
    /// For each sequence: depth in the sequence, first flat token, number of tokens, of every segment on its path.
    paths: Vec<Vec<(usize, usize, usize)>>,
}

impl<'a> Packer<'a> {
    fn pack(requests: &'a [Request], sequences: &'a [Sequence]) -> Result<Pass> {
        let mut shared = vec![0];
        shared.extend(sequences.windows(2).map(|pair| common(&pair[0].input, &pair[1].input)));
        let paths = vec![Vec::new(); sequences.len()];
        let mut packer = Self { requests, sequences, shared, ids: Vec::new(), layout: Layout::default(), paths };
        packer.grow(0..sequences.len(), 0, None)?;
        packer.finish()
    }

    /// Emits the sequences of `range`, whose first `depth` tokens are those of `parent` and of its ancestors.
    fn grow(&mut self, range: Range<usize>, depth: usize, parent: Option<usize>) -> Result<()> {
        let first = &self.sequences[range.start].input;
        let inner = &self.shared[range.start + 1..range.end];
        let Some(same) = inner.iter().copied().min() else {
            let end = first.len();
            self.segment(range, depth..end, parent)?;
            return Ok(());
        };
        let (depth, parent) = if same >= depth + LEAST_SHARED {
            let segment = self.segment(range.clone(), depth..same, parent)?;
            (same, Some(segment))
        } else {
            (depth, parent)
        };
        let mut start = range.start;
        for index in range.start + 1..=range.end {
            if index == range.end || self.shared[index] <= same {
                // a sequence that ends where the shared run does needs nothing more
                if self.sequences[start].input.len() > depth {
                    self.grow(start..index, depth, parent)?;
                }
                start = index;
            }
        }
        Ok(())
    }

    fn segment(&mut self, range: Range<usize>, depths: Range<usize>, parent: Option<usize>) -> Result<usize> {
        let start = self.ids.len();
        self.ids.extend_from_slice(&self.sequences[range.start].input[depths.clone()]);
        for path in &mut self.paths[range] {
            path.push((depths.start, start, depths.len()));
        }
        self.layout.push(depths.len(), parent)
    }

    /// Collects the rows that are scored and who wants them.
    fn finish(self) -> Result<Pass> {
        let mut asked = Vec::new();
        for (sequence, path) in self.sequences.iter().zip(&self.paths) {
            let flat = |position: usize| {
                let segment = path.iter().find(|(depth, _, len)| (*depth..depth + len).contains(&position));
                segment.map(|(depth, start, _)| (start + position - depth) as u32)
            };
            for index in &sequence.requests {
                let request = &self.requests[*index];
                let (tokens, step) = match &request.targets {
                    Targets::Sequence(tokens) => (tokens, 1),
                    Targets::AnyOf(tokens) => (tokens, 0),
                };
                for (place, token) in tokens.iter().enumerate() {
                    let row = flat(request.from + place * step)
                        .ok_or_else(|| Error::work("a request scores a position beyond its sequence"))?;
                    asked.push((*index, row, *token));
                }
            }
        }
        let mut rows: Vec<u32> = asked.iter().map(|(_, row, _)| *row).collect();
        rows.sort_unstable();
        rows.dedup();
        let mut candidates: Vec<Vec<u32>> = vec![Vec::new(); rows.len()];
        let mut wants = Vec::with_capacity(asked.len());
        for (request, flat, token) in asked {
            let row = rows.partition_point(|row| *row < flat);
            let known = candidates[row].iter().position(|candidate| *candidate == token);
            let candidate = known.unwrap_or(candidates[row].len());
            if known.is_none() {
                candidates[row].push(token);
            }
            wants.push(Want { request, row, candidate });
        }
        let mut answered: Vec<usize> = self.sequences.iter().flat_map(|sequence| sequence.requests.clone()).collect();
        answered.sort_unstable();
        let batch = Batch { ids: self.ids, layout: Arc::new(self.layout) };
        Ok(Pass { batch, rows, candidates, wants, requests: answered })
    }
}

#[cfg(test)]
#[allow(clippy::single_range_in_vec_init, reason = "groups of requests are ranges, and one group is a list too")]
mod tests {
    use super::*;

    fn request(input: &[u32], from: usize, targets: &[u32]) -> Request {
        Request { input: Arc::from(input), from, targets: Targets::Sequence(targets.to_vec()) }
    }

    fn fixed(tokens: usize) -> PassTokens {
        PassTokens { usual: tokens, most: tokens }
    }

    /// Reads every request's input and targets back out of the passes.
    fn check(requests: &[Request], passes: &[Pass]) {
        let mut found = vec![Vec::new(); requests.len()];
        for pass in passes {
            let segments = pass.batch.layout.segments();
            assert_eq!(pass.batch.layout.tokens(), pass.batch.ids.len());
            for want in &pass.wants {
                let flat = pass.rows[want.row] as usize;
                let index = segments.iter().position(|s| (s.start..s.start + s.len).contains(&flat)).unwrap();
                let prefix = pass.batch.layout.prefix(index).into_iter().flatten().chain(segments[index].start..=flat);
                let seen: Vec<u32> = prefix.map(|token| pass.batch.ids[token]).collect();
                found[want.request].push((seen, pass.candidates[want.row][want.candidate]));
            }
        }
        for (request, found) in requests.iter().zip(found) {
            let (tokens, step) = match &request.targets {
                Targets::Sequence(tokens) => (tokens, 1),
                Targets::AnyOf(tokens) => (tokens, 0),
            };
            let expected: Vec<_> = tokens
                .iter()
                .enumerate()
                .map(|(place, token)| (request.input[..=request.from + place * step].to_vec(), *token))
                .collect();
            assert_eq!(found, expected);
        }
    }

    fn tokens(passes: &[Pass]) -> usize {
        passes.iter().map(|pass| pass.batch.tokens()).sum()
    }

    #[test]
    fn one_token_choices_are_one_sequence() {
        let context: Vec<u32> = (0..20).collect();
        let requests: Vec<Request> = (50..54).map(|answer| request(&context, 19, &[answer])).collect();
        let passes = plan(&requests, &[0..4], fixed(1000)).unwrap();
        check(&requests, &passes);
        assert_eq!((passes.len(), tokens(&passes), passes[0].rows.len()), (1, 20, 1));
        assert_eq!(passes[0].candidates, [[50, 51, 52, 53]]);
    }

    #[test]
    fn shared_examples_are_run_once_a_pass() {
        let shots: Vec<u32> = (0..100).collect();
        let mut requests = Vec::new();
        for question in 0..10u32 {
            let mut input = shots.clone();
            input.extend((0..10).map(|token| 200 + question * 10 + token));
            for answer in [7, 8] {
                requests.push(request(&input, 109, &[answer]));
            }
        }
        let whole = plan(&requests, &[0..20], fixed(1000)).unwrap();
        check(&requests, &whole);
        assert_eq!(tokens(&whole), 200);
        let cut = plan(&requests, &[0..20], fixed(150)).unwrap();
        check(&requests, &cut);
        assert_eq!((cut.len(), tokens(&cut)), (2, 300));
        let single = plan(&requests, &[0..20], fixed(1)).unwrap();
        check(&requests, &single);
        assert_eq!(single.len(), 10);
        // what is shared is long, so a pass may be longer than usual: one question in it would be a waste
        let long = plan(&requests, &[0..20], PassTokens { usual: 110, most: 160 }).unwrap();
        check(&requests, &long);
        assert_eq!((long.len(), tokens(&long)), (2, 300));
    }

    #[test]
    fn trees_of_any_shape() {
        // a fixed pseudo-random walk: many sequences that share prefixes of every length, some of them whole
        let mut state = 7u32;
        let mut next = |below: u32| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 8) % below
        };
        let mut requests: Vec<Request> = Vec::new();
        for _ in 0..200 {
            let mut input = match requests.len() {
                0 => Vec::new(),
                n => {
                    let from = &requests[next(n as u32) as usize].input;
                    from[..next(from.len() as u32 + 1) as usize].to_vec()
                }
            };
            for _ in 0..=next(25) {
                input.push(next(3));
            }
            let from = next(input.len() as u32) as usize;
            let many = input.len() - from;
            let targets: Vec<u32> = (0..many).map(|_| next(50)).collect();
            if next(4) == 0 {
                requests.push(Request { input: input.into(), from, targets: Targets::AnyOf(targets) });
            } else {
                requests.push(request(&input, from, &targets));
            }
        }
        let sum: usize = requests.iter().map(|request| request.input.len()).sum();
        for budget in [1, 40, 300, 100_000] {
            let passes = plan(&requests, &[0..90, 90..200], fixed(budget)).unwrap();
            check(&requests, &passes);
            let answered: usize = passes.iter().map(|pass| pass.requests.len()).sum();
            assert_eq!(answered, requests.len());
            assert!(tokens(&passes) <= sum);
        }
    }

    #[test]
    fn empty_requests_are_refused() {
        assert!(plan(&[request(&[], 0, &[1])], &[0..1], fixed(10)).is_err());
        assert!(plan(&[request(&[1], 3, &[1])], &[0..1], fixed(10)).is_err());
    }
}
