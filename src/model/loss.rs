//! Next-token loss over whole sequences, of a model or of many stacks of its layers.

use candle_core::Tensor;

use super::trie::Trie;
use super::{Batch, ForwardContext, Model, Observer, Residency, memory, tokens_at_once};
use crate::ops::{self, FiniteWatch};
use crate::plan::ranges;
use crate::progress::{Progress, Unit};
use crate::{Context, Result, interrupt};

/// Negative log-likelihood of the predicted tokens.
#[derive(Clone, Copy, Debug, Default, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Loss {
    /// Sum over tokens, nats.
    pub sum: f64,
    /// Predicted tokens: all but the first of each sequence.
    pub tokens: usize,
}

impl Loss {
    /// Nats a token.
    #[must_use]
    pub fn mean(&self) -> f64 {
        self.sum / self.tokens as f64
    }

    /// Of all sequences together.
    #[must_use]
    pub fn total(losses: &[Self]) -> Self {
        losses.iter().fold(Self::default(), |all, own| Self { sum: all.sum + own.sum, tokens: all.tokens + own.tokens })
    }
}

/// Of each sequence of batch `index`, from the stream `x` `[t, d]` that leaves the last layer.
fn score(model: &Model, batches: &[Batch], index: usize, x: &Tensor) -> Result<Vec<Loss>> {
    let batch = &batches[index];
    let segments = batch.layout.segments();
    let rows: Vec<u32> = segments.iter().flat_map(|s| s.start..s.start + s.len - 1).map(|row| row as u32).collect();
    let mut scored = Vec::new();
    if !rows.is_empty() {
        let targets: Vec<&[u32]> = rows.iter().map(|row| &batch.ids[*row as usize + 1..*row as usize + 2]).collect();
        let x = x.index_select(&Tensor::from_slice(&rows, rows.len(), x.device())?, 0)?;
        let place = |row: usize| Batch::place(batches, index, rows[row] as usize);
        scored = model.score(&x, &targets, &place)?;
    }
    let mut scored = scored.iter().flatten();
    let losses = segments.iter().map(|segment| {
        let own = scored.by_ref().take(segment.len - 1).map(|scored| f64::from(scored.log_likelihood));
        Loss { sum: -own.sum::<f64>(), tokens: segment.len - 1 }
    });
    Ok(losses.collect())
}

struct Scorer<'a> {
    model: &'a Model,
    batches: &'a [Batch],
    /// Of each sequence, in order.
    losses: Vec<Loss>,
}

impl Observer for Scorer<'_> {
    fn residual(&mut self, batch: usize, place: usize, x: &Tensor) -> Result<()> {
        if place == self.model.layers() {
            self.losses.extend(score(self.model, self.batches, batch, x)?);
        }
        Ok(())
    }
}

/// Of each of `sequences`, `pass_tokens` tokens of them at a time.
pub(super) fn losses(
    model: &Model,
    sequences: &[Vec<u32>],
    pass_tokens: usize,
    what: &str,
    progress: &dyn Progress,
) -> Result<Vec<Loss>> {
    let batches = Batch::pack(sequences, pass_tokens)?;
    let mut scorer = Scorer { model, batches: &batches, losses: Vec::with_capacity(sequences.len()) };
    model.run(&batches, &mut scorer, what, progress)?;
    Ok(scorer.losses)
}

/// Of each of `sequences` under each of `stacks`: `[stack][sequence]`.
pub(super) fn losses_of_stacks(
    model: &Model,
    stacks: &[Vec<usize>],
    sequences: &[Vec<u32>],
    what: &str,
    progress: &dyn Progress,
) -> Result<Vec<Vec<Loss>>> {
    let tokens: usize = sequences.iter().map(Vec::len).sum();
    let batches = Batch::pack(sequences, tokens_of_a_batch(model))?;
    let groups = groups(model, stacks, &batches);
    let passes: usize = groups.iter().map(|group| Trie::new(group).layer_passes()).sum();
    progress.begin(what, (tokens * passes / model.layers().max(1)) as u64, Unit::Tokens);
    let mut work = Work { done: 0, shown: 0, layers: model.layers().max(1), progress };
    let mut losses = Vec::with_capacity(stacks.len());
    for group in groups {
        losses.extend(Search::new(model, group, &batches).run(&mut work)?);
    }
    progress.end();
    Ok(losses)
}

/// Tokens that go through a layer together: the same whatever memory there is, since sums hang on it.
fn tokens_of_a_batch(model: &Model) -> usize {
    if model.device.is_cuda() { tokens_at_once(&model.device) } else { 512 }
}

/// What goes through together: all of `stacks`, or fewer where the streams of a batch would not fit.
fn groups<'a>(model: &Model, stacks: &'a [Vec<usize>], batches: &[Batch]) -> Vec<&'a [Vec<usize>]> {
    let longest = batches.iter().map(Batch::tokens).max().unwrap_or(0);
    let room = model.budget.usable().saturating_sub(model.weight_bytes);
    let mut groups = Vec::new();
    let mut open = vec![stacks];
    while let Some(group) = open.pop() {
        let streams = (kept(model, &Trie::new(group)) * longest * model.spec.hidden_size * 4) as u64;
        let fits = streams + memory::transient_bytes(&model.spec, longest, longest) <= room;
        match group.len() {
            0 => {}
            1 => groups.push(group),
            _ if fits => groups.push(group),
            len => open.extend([&group[len / 2..], &group[..len / 2]]),
        }
    }
    groups
}

/// Streams of a batch that wait, at most.
fn kept(model: &Model, trie: &Trie) -> usize {
    match model.residency() {
        Residency::Resident => trie.streams(trie.one_by_one()),
        Residency::Streamed => trie.streams(trie.layer_by_layer().into_iter().flat_map(|(.., nodes)| nodes)),
    }
}

struct Work<'a> {
    /// Tokens times layers.
    done: usize,
    shown: usize,
    layers: usize,
    progress: &'a dyn Progress,
}

/// Many stacks over some text.
struct Search<'a> {
    model: &'a Model,
    trie: Trie,
    batches: &'a [Batch],
    /// `[stack][sequence]`.
    losses: Vec<Vec<Loss>>,
}

/// A batch on its way.
struct State {
    index: usize,
    pass: ForwardContext,
    watch: FiniteWatch,
    /// Stream that leaves each node, with the nodes that still wait for it.
    streams: Vec<Option<(Tensor, usize)>>,
}

impl<'a> Search<'a> {
    fn new(model: &'a Model, stacks: &[Vec<usize>], batches: &'a [Batch]) -> Self {
        Self { model, trie: Trie::new(stacks), batches, losses: vec![Vec::new(); stacks.len()] }
    }

    fn run(mut self, work: &mut Work<'_>) -> Result<Vec<Vec<Loss>>> {
        let model = self.model;
        if let Some(blocks) = model.blocks() {
            let order = self.trie.one_by_one();
            for index in 0..self.batches.len() {
                let mut state = self.begin(index)?;
                for &node in &order {
                    let place = self.trie.place(node).unwrap_or_default();
                    self.step(&mut state, node, |x, pass| blocks[place].forward(x, pass), work)?;
                }
            }
            return Ok(self.losses);
        }
        let groups = self.trie.layer_by_layer();
        let walks = groups.last().map_or(0, |(walk, ..)| walk + 1);
        for wave in model.waves(self.batches, kept(model, &self.trie)) {
            let mut states = wave.map(|index| self.begin(index)).collect::<Result<Vec<_>>>()?;
            for walk in 0..walks {
                model.stack.walk(|place, block| {
                    let here = groups.iter().filter(|(at, layer, _)| (*at, *layer) == (walk, place));
                    for &node in here.flat_map(|(.., nodes)| nodes) {
                        for state in &mut states {
                            self.step(state, node, |x, pass| block.forward(x, pass), work)?;
                        }
                    }
                    Ok(())
                })?;
            }
        }
        Ok(self.losses)
    }

    /// The embedding of batch `index`.
    fn begin(&mut self, index: usize) -> Result<State> {
        let (model, batch) = (self.model, &self.batches[index]);
        let mut state = State {
            index,
            pass: ForwardContext::new(&model.spec, batch, &model.device)?,
            watch: FiniteWatch::new(self.trie.len(), &model.device)?,
            streams: vec![None; self.trie.len()],
        };
        self.arrive(&mut state, 0, model.embed(batch)?)?;
        Ok(state)
    }

    /// Computes `node` of a batch from the node below it.
    fn step(
        &mut self,
        state: &mut State,
        node: usize,
        forward: impl FnOnce(&Tensor, &ForwardContext) -> Result<Tensor>,
        work: &mut Work<'_>,
    ) -> Result<()> {
        interrupt::check()?;
        let below = &mut state.streams[self.trie.parent(node)];
        let Some((x, waiting)) = below.take() else { return Ok(()) };
        let y = forward(&x, &state.pass)?;
        if waiting > 1 {
            *below = Some((x, waiting - 1));
        }
        self.arrive(state, node, y)?;
        work.done += self.batches[state.index].tokens();
        work.progress.advance((work.done / work.layers - work.shown) as u64);
        work.shown = work.done / work.layers;
        Ok(())
    }

    /// Takes the stream that leaves `node`; scores it where stacks end.
    fn arrive(&mut self, state: &mut State, node: usize, x: Tensor) -> Result<()> {
        let ending = self.trie.ending(node);
        let sound = state.watch.look(node, &x)?;
        if !sound || !ending.is_empty() {
            self.check(state, &x)?;
        }
        if !ending.is_empty() {
            let found = score(self.model, self.batches, state.index, &x)
                .context(|| format!("with the layers {}", ranges(self.trie.below(node))))?;
            for stack in ending {
                self.losses[*stack].extend(&found);
            }
        }
        state.streams[node] = Some((x, self.trie.children(node))).filter(|(_, waiting)| *waiting > 0);
        Ok(())
    }

    /// Says where a stream is not finite.
    fn check(&self, state: &State, x: &Tensor) -> Result<()> {
        let Some(broken) = state.watch.first_broken()? else { return Ok(()) };
        let place = self.trie.place(broken).map_or(0, |place| place + 1);
        let fault = Err(self.model.not_finite(place)?);
        let fault = match ops::first_not_finite(x)? {
            Some(row) => fault.context(|| Batch::place(self.batches, state.index, row)),
            None => fault,
        };
        fault.context(|| format!("with the layers {}", ranges(self.trie.below(broken))))
    }
}
