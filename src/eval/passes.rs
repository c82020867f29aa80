//! Requests to passes: sequences that begin alike share the tokens they have in common.
//!
//! Within a pass every distinct prefix is run once: the examples in front of all questions of a subject, a passage
//! that is asked about twice, the context of a question's choices. Sharing is on token ids, after whole strings were
//! tokenised, so it changes nothing but the time.

use std::ops::Range;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::request::Draw;
use crate::model::Batch;
use crate::ops::{Layout, Segment};
use crate::{Error, Result};

/// Tokens to score, or to say, at the end of a sequence.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TokenRequest {
    /// What the model reads, at least one token.
    pub input: Arc<[u32]>,
    /// Position in `input` whose next token is the first one scored.
    pub from: usize,
    /// What is scored there and at the positions that follow.
    pub targets: ScoredTargets,
}

/// What is scored.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ScoredTargets {
    /// A continuation: its tokens one after the other.
    Sequence(Vec<u32>),
    /// Tokens that would each stand for the same answer: the likeliest counts.
    AnyOf(Vec<u32>),
    /// Nothing: the model says what follows, before the first of some texts, in so many tokens at most.
    Until {
        /// The texts.
        until: &'static [&'static str],
        /// Tokens at most.
        most: usize,
        /// How tokens are drawn; nothing where they are the likeliest ones.
        draw: Option<Draw>,
    },
}

impl ScoredTargets {
    /// How many tokens are scored, or said at most.
    #[must_use]
    #[allow(clippy::len_without_is_empty, reason = "there is always one")]
    pub fn len(&self) -> usize {
        match self {
            Self::Sequence(tokens) | Self::AnyOf(tokens) => tokens.len(),
            Self::Until { most, .. } => *most,
        }
    }

    /// The tokens that are scored, and how many positions each is from the one before.
    fn scored(&self) -> (&[u32], usize) {
        match self {
            Self::Sequence(tokens) => (tokens, 1),
            Self::AnyOf(tokens) => (tokens, 0),
            Self::Until { .. } => (&[], 0),
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

/// Packs the requests that are scored into passes. Requests of different `groups` are kept apart in order, not in
/// passes; within one, sequences are sorted so that neighbours share the most.
///
/// # Errors
/// A request without tokens.
pub fn plan(requests: &[TokenRequest], groups: &[Range<usize>], budget: PassTokens) -> Result<Vec<Pass>> {
    let mut sequences: Vec<Sequence> = Vec::new();
    for group in groups {
        let is_scored = |index: &usize| !matches!(requests[*index].targets, ScoredTargets::Until { .. });
        let mut order: Vec<usize> = group.clone().filter(is_scored).collect();
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

/// Sequences that are still to be emitted: their first `depth` tokens are those of segment `parent` and its ancestors.
struct Branch {
    range: Range<usize>,
    depth: usize,
    parent: Option<usize>,
}

/// Builds one pass from sorted, distinct sequences.
struct Packer<'a> {
    requests: &'a [TokenRequest],
    sequences: &'a [Sequence],
    /// Tokens each sequence has in common with the one before it.
    shared: Vec<usize>,
    ids: Vec<u32>,
    layout: Layout,
    /// For each sequence, its last segment.
    ends: Vec<usize>,
}

impl<'a> Packer<'a> {
    fn pack(requests: &'a [TokenRequest], sequences: &'a [Sequence]) -> Result<Pass> {
        let mut shared = vec![0];
        shared.extend(sequences.windows(2).map(|pair| common(&pair[0].input, &pair[1].input)));
        let ends = vec![0; sequences.len()];
        let mut packer = Self { requests, sequences, shared, ids: Vec::new(), layout: Layout::default(), ends };
        packer.grow()?;
        packer.finish()
    }

    /// Emits all sequences, what several begin with before what follows. A text of which every prefix is asked about
    /// nests as deep as it is long, so what is still to do is kept here and not on the stack.
    fn grow(&mut self) -> Result<()> {
        let whole = Branch { range: 0..self.sequences.len(), depth: 0, parent: None };
        let mut waiting = vec![whole];
        while let Some(branch) = waiting.pop() {
            let first = waiting.len();
            self.branch(branch, &mut waiting)?;
            // the last one in is the next one out
            waiting[first..].reverse();
        }
        Ok(())
    }

    /// Emits what the sequences of a branch begin with; the branches that follow it are added to `waiting` in order.
    fn branch(&mut self, Branch { range, depth, parent }: Branch, waiting: &mut Vec<Branch>) -> Result<()> {
        let inner = &self.shared[range.start + 1..range.end];
        let Some(same) = inner.iter().copied().min() else {
            let end = self.sequences[range.start].input.len();
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
                    waiting.push(Branch { range: start..index, depth, parent });
                }
                start = index;
            }
        }
        Ok(())
    }

    fn segment(&mut self, range: Range<usize>, depths: Range<usize>, parent: Option<usize>) -> Result<usize> {
        self.ids.extend_from_slice(&self.sequences[range.start].input[depths.clone()]);
        let segment = self.layout.push(depths.len(), parent)?;
        self.ends[range].fill(segment);
        Ok(segment)
    }

    /// Collects the rows that are scored and who wants them.
    fn finish(self) -> Result<Pass> {
        let mut asked = Vec::new();
        let segments = self.layout.segments();
        for (sequence, end) in self.sequences.iter().zip(&self.ends) {
            let flat = |position: usize| {
                let mut path = std::iter::successors(Some(segments[*end]), |above| Some(segments[above.parent?]));
                let holds = |segment: &Segment| (segment.position..segment.position + segment.len).contains(&position);
                path.find(holds).map(|segment| (segment.start + position - segment.position) as u32)
            };
            for index in &sequence.requests {
                let request = &self.requests[*index];
                let (tokens, step) = request.targets.scored();
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
        let batch = Batch { ids: self.ids, layout: Arc::new(self.layout), given: Vec::new(), before: 0 };
        Ok(Pass { batch, rows, candidates, wants, requests: answered })
    }
}

#[cfg(test)]
mod tests;
