//! Many stacks of a model's layers, or of its sub-layers, over some text in one pass.

use candle_core::Tensor;

use super::loss::{Loss, score, tokens_of_a_batch};
use super::trie::Trie;
use super::{Batch, Block, ForwardContext, Model, memory};
use crate::ops::{self, FiniteWatch};
use crate::plan::{SubLayer, ranges};
use crate::progress::{Progress, Unit};
use crate::{Context, Error, Result, interrupt};

/// What stacks are made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StackUnit {
    /// Whole layers, by their places.
    Layer,
    /// Sub-layers: 2l is the attention of layer l, 2l+1 its MLP.
    SubLayer,
}

impl StackUnit {
    /// How many a layer has.
    #[must_use]
    pub(crate) fn per_layer(self) -> usize {
        match self {
            Self::Layer => 1,
            Self::SubLayer => SubLayer::ALL.len(),
        }
    }

    /// The stream that leaves unit `unit`, which is of `block`.
    fn forward(self, unit: usize, block: &Block, x: &Tensor, pass: &ForwardContext) -> Result<Tensor> {
        match self {
            Self::Layer => block.forward(x, pass),
            Self::SubLayer => block.forward_sublayer(SubLayer::ALL[unit % self.per_layer()], x, pass),
        }
    }
}

/// Stacks to run: of what, which, and whether the stream that leaves the first comes with that of every other.
#[derive(Clone, Copy, Debug)]
pub struct Stacks<'a> {
    /// What the numbers mean.
    pub unit: StackUnit,
    /// Each from the embedding up.
    pub stacks: &'a [Vec<usize>],
    /// Whether all others are seen beside the first.
    pub beside_the_first: bool,
}

/// What leaves the last layer of some stacks that are the same up to their numbers.
#[derive(Clone, Copy)]
pub struct EndOfStack<'a> {
    model: &'a Model,
    batches: &'a [Batch],
    batch: usize,
    /// Numbers of the stacks.
    pub stacks: &'a [usize],
    /// The stream `[t, d]`, not yet normed.
    pub x: &'a Tensor,
    /// That of stack 0, where it was asked for.
    pub whole: Option<&'a Tensor>,
}

impl EndOfStack<'_> {
    /// Number of the batch.
    #[must_use]
    pub fn index(&self) -> usize {
        self.batch
    }

    /// The tokens.
    #[must_use]
    pub fn batch(&self) -> &Batch {
        &self.batches[self.batch]
    }

    /// The loss of each sequence of the batch.
    ///
    /// # Errors
    /// As [`Model::score`].
    pub fn losses(&self) -> Result<Vec<Loss>> {
        score(self.model, self.batches, self.batch, self.x)
    }
}

/// Takes what leaves each stack, batch by batch in order.
pub(super) type See<'a> = dyn FnMut(&EndOfStack<'_>) -> Result<()> + 'a;

impl Model {
    /// Batches of `sequences` as [`Model::run_stacks`] has them.
    ///
    /// # Errors
    /// An empty sequence.
    pub fn stack_batches(&self, sequences: &[Vec<u32>]) -> Result<Vec<Batch>> {
        Batch::pack(sequences, tokens_of_a_batch(&self.device))
    }

    /// Shows `see` what leaves each of `stacks`, batch by batch of `sequences`. What stacks begin with alike is
    /// computed once, and a streamed model is read once for all of them, unless memory asks for several rounds.
    ///
    /// # Errors
    /// As [`Model::run`]; a place that is not there; those of `see`.
    pub fn run_stacks(
        &self,
        stacks: Stacks<'_>,
        sequences: &[Vec<u32>],
        what: &str,
        progress: &dyn Progress,
        see: &mut dyn FnMut(&EndOfStack<'_>) -> Result<()>,
    ) -> Result<()> {
        self.run_stacks_on(stacks, &self.stack_batches(sequences)?, what, progress, see)
    }

    /// The loss of each of `sequences` under each of `stacks`, `[stack][sequence]`.
    ///
    /// # Errors
    /// As [`Model::run_stacks`].
    pub fn stack_losses(
        &self,
        stacks: Stacks<'_>,
        sequences: &[Vec<u32>],
        what: &str,
        progress: &dyn Progress,
    ) -> Result<Vec<Vec<Loss>>> {
        self.stack_losses_on(stacks, &self.stack_batches(sequences)?, what, progress)
    }

    /// [`Model::stack_losses`] of the sequences of `batches`.
    ///
    /// # Errors
    /// As [`Model::run_stacks`].
    pub fn stack_losses_on(
        &self,
        stacks: Stacks<'_>,
        batches: &[Batch],
        what: &str,
        progress: &dyn Progress,
    ) -> Result<Vec<Vec<Loss>>> {
        let mut losses = vec![Vec::new(); stacks.stacks.len()];
        let mut see = |end: &EndOfStack<'_>| {
            let found = end.losses()?;
            end.stacks.iter().for_each(|stack| losses[*stack].extend(&found));
            Ok(())
        };
        self.run_stacks_on(stacks, batches, what, progress, &mut see)?;
        Ok(losses)
    }

    /// [`Model::run_stacks`] over `batches`, in which sequences may share what they begin with.
    ///
    /// # Errors
    /// As [`Model::run_stacks`].
    pub fn run_stacks_on(
        &self,
        stacks: Stacks<'_>,
        batches: &[Batch],
        what: &str,
        progress: &dyn Progress,
        see: &mut dyn FnMut(&EndOfStack<'_>) -> Result<()>,
    ) -> Result<()> {
        let Stacks { unit, stacks, beside_the_first: whole } = stacks;
        if unit == StackUnit::SubLayer && self.spec.parallel {
            return Err(Error::request(format!(
                "attention and MLP of a {} model stand side by side: no stack has them one after the other",
                self.spec.model_type
            )));
        }
        let layers = stacks.iter().flatten().map(|own| own / unit.per_layer());
        if let Some(layer) = layers.into_iter().find(|layer| *layer >= self.layers()) {
            let last = self.layers().saturating_sub(1);
            return Err(Error::request(format!("layer {layer} is not there: the model has layers 0..={last}")));
        }
        let tokens: usize = batches.iter().map(Batch::tokens).sum();
        let groups = groups(self, (stacks, whole), batches);
        let passes: usize = groups.iter().map(|group| group.trie(stacks).layer_passes()).sum();
        let units = unit.per_layer() * self.layers().max(1);
        progress.begin(what, (tokens * passes / units) as u64, Unit::Tokens);
        let mut work = Work { done: 0, shown: 0, units, progress };
        for group in groups {
            let trie = group.trie(stacks);
            let search = Search { model: self, unit, trie, numbers: &group.numbers, whole, batches, see };
            search.run(&mut work)?;
        }
        progress.end();
        Ok(())
    }
}

/// Numbers of the stacks that go through together.
struct Group {
    numbers: Vec<usize>,
}

impl Group {
    fn trie(&self, stacks: &[Vec<usize>]) -> Trie {
        Trie::new(&self.numbers.iter().map(|number| stacks[*number].as_slice()).collect::<Vec<_>>())
    }
}

/// What goes through together: all of `stacks`, or fewer where the streams of a batch would not fit. With `whole` stack
/// 0 is in every group.
fn groups(model: &Model, (stacks, whole): (&[Vec<usize>], bool), batches: &[Batch]) -> Vec<Group> {
    let longest = batches.iter().map(Batch::tokens).max().unwrap_or(0);
    let room = model.budget.usable().saturating_sub(model.weight_bytes);
    let first = usize::from(whole && stacks.len() > 1);
    let mut groups = Vec::new();
    let mut open = vec![(first, stacks.len())];
    while let Some((start, end)) = open.pop() {
        let group = Group { numbers: (0..first).chain(start..end).collect() };
        let trie = group.trie(stacks);
        let waiting = if whole { 1 + trie.ends_below_the_first() } else { 0 };
        let streams = ((kept(model, &trie) + waiting) * longest * model.spec.hidden_size * 4) as u64;
        let fits = streams + memory::transient_bytes(&model.spec, longest, longest) <= room;
        let middle = start + (end - start) / 2;
        match end - start {
            0 => {}
            1 => groups.push(group),
            _ if fits => groups.push(group),
            _ => open.extend([(middle, end), (start, middle)]),
        }
    }
    groups
}

/// Streams of a batch that wait, at most.
fn kept(model: &Model, trie: &Trie) -> usize {
    match model.residency().holds_layers() {
        true => trie.streams(trie.one_by_one()),
        false => trie.streams(trie.layer_by_layer().into_iter().flat_map(|(.., nodes)| nodes)),
    }
}

struct Work<'a> {
    /// Tokens times units.
    done: usize,
    shown: usize,
    units: usize,
    progress: &'a dyn Progress,
}

/// Many stacks over some text.
struct Search<'a, 's> {
    model: &'a Model,
    unit: StackUnit,
    trie: Trie,
    /// Number of each stack of the trie.
    numbers: &'a [usize],
    /// Whether the stream of the first stack comes with all others.
    whole: bool,
    batches: &'a [Batch],
    see: &'a mut See<'s>,
}

/// A batch on its way.
struct State {
    index: usize,
    pass: ForwardContext,
    watch: FiniteWatch,
    /// Stream that leaves each node, with the nodes that still wait for it.
    streams: Vec<Option<(Tensor, usize)>>,
    /// What leaves the first stack, where it is asked for.
    whole: Option<Tensor>,
    /// What left other stacks before it, with the nodes.
    early: Vec<(usize, Tensor)>,
}

impl Search<'_, '_> {
    fn run(mut self, work: &mut Work<'_>) -> Result<()> {
        let model = self.model;
        if let Some(blocks) = model.blocks() {
            let order = self.trie.one_by_one();
            for index in 0..self.batches.len() {
                let mut state = self.begin(index)?;
                for &node in &order {
                    let place = self.trie.place(node).unwrap_or_default() / self.unit.per_layer();
                    self.step(&mut state, node, &blocks[place], work)?;
                }
            }
            return Ok(());
        }
        let groups = self.trie.layer_by_layer();
        let walks = groups.last().map_or(0, |(walk, ..)| walk + 1);
        let waiting = if self.whole { 1 + self.trie.ends_below_the_first() } else { 0 };
        for wave in model.waves(self.batches, kept(model, &self.trie) + waiting) {
            let mut states = wave.map(|index| self.begin(index)).collect::<Result<Vec<_>>>()?;
            for walk in 0..walks {
                model.stack.walk(|place, block| {
                    let per_layer = self.unit.per_layer();
                    let here = groups.iter().filter(|(at, own, _)| (*at, *own / per_layer) == (walk, place));
                    for &node in here.flat_map(|(.., nodes)| nodes) {
                        for state in &mut states {
                            self.step(state, node, block, work)?;
                        }
                    }
                    Ok(())
                })?;
            }
        }
        Ok(())
    }

    /// The embedding of batch `index`.
    fn begin(&mut self, index: usize) -> Result<State> {
        let (model, batch) = (self.model, &self.batches[index]);
        let mut state = State {
            index,
            pass: ForwardContext::new(&model.spec, batch, &model.device)?,
            watch: FiniteWatch::new(self.trie.len(), &model.device)?,
            streams: vec![None; self.trie.len()],
            whole: None,
            early: Vec::new(),
        };
        self.arrive(&mut state, 0, model.embed(batch)?)?;
        Ok(state)
    }

    /// Computes `node` of a batch from the node below it.
    fn step(&mut self, state: &mut State, node: usize, block: &Block, work: &mut Work<'_>) -> Result<()> {
        interrupt::check()?;
        let below = &mut state.streams[self.trie.parent(node)];
        let Some((x, waiting)) = below.take() else { return Ok(()) };
        let y = self.unit.forward(self.trie.place(node).unwrap_or_default(), block, &x, &state.pass)?;
        if waiting > 1 {
            *below = Some((x, waiting - 1));
        }
        self.arrive(state, node, y)?;
        work.done += self.batches[state.index].tokens();
        work.progress.advance((work.done / work.units - work.shown) as u64);
        work.shown = work.done / work.units;
        Ok(())
    }

    /// Takes the stream that leaves `node`, and shows it where stacks end.
    fn arrive(&mut self, state: &mut State, node: usize, x: Tensor) -> Result<()> {
        let ending = self.trie.ending(node);
        let sound = state.watch.look(node, &x)?;
        if !sound || !ending.is_empty() {
            self.check(state, &x)?;
        }
        if self.whole && ending.contains(&0) {
            state.whole = Some(x.clone());
        }
        match ending.is_empty() {
            true => {}
            false if self.whole && state.whole.is_none() => state.early.push((node, x.clone())),
            false => {
                let early = std::mem::take(&mut state.early);
                for (node, x) in early.iter().map(|(node, x)| (*node, x)).chain([(node, &x)]) {
                    self.show(state, node, x)?;
                }
            }
        }
        state.streams[node] = Some((x, self.trie.children(node))).filter(|(_, waiting)| *waiting > 0);
        Ok(())
    }

    fn show(&mut self, state: &State, node: usize, x: &Tensor) -> Result<()> {
        let stacks: Vec<usize> = self.trie.ending(node).iter().map(|stack| self.numbers[*stack]).collect();
        let (batches, batch, whole) = (self.batches, state.index, state.whole.as_ref());
        let end = EndOfStack { model: self.model, batches, batch, stacks: &stacks, x, whole };
        (self.see)(&end).context(|| self.named(node))
    }

    /// Says where a stream is not finite.
    fn check(&self, state: &State, x: &Tensor) -> Result<()> {
        let Some(broken) = state.watch.first_broken()? else { return Ok(()) };
        let place = self.trie.place(broken).map_or(0, |own| own / self.unit.per_layer() + 1);
        let fault = Err(self.model.not_finite(place)?);
        let fault = match ops::first_not_finite(x)? {
            Some(row) => fault.context(|| Batch::place(self.batches, state.index, row)),
            None => fault,
        };
        fault.context(|| self.named(broken))
    }

    /// The stack that ends with `node`.
    fn named(&self, node: usize) -> String {
        let what = if self.unit == StackUnit::Layer { "layers" } else { "sub-layers" };
        match ranges(self.trie.below(node)) {
            below if below.is_empty() => format!("without any {}", what.trim_end_matches('s')),
            below => format!("with the {what} {below}"),
        }
    }
}
