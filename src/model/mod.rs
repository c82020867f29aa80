//! The forward pass, layer by layer, for any architecture of the table and any size of model.
//!
//! One program serves analysis, evaluation and losses: for each layer, for each batch, `x = layer(x)`. The layer comes
//! from memory when the model fits and from disk when it does not; both give the same bytes, and a streamed pass reads
//! each weight once per wave of batches. Of a mixture of experts that does not fit by layers, each expert comes when
//! tokens are sent to it.

mod batch;
mod block;
mod cache;
mod chunks;
mod context;
mod follows;
mod generate;
mod gradients;
mod head;
mod led;
pub mod limits;
mod load_options;
mod loss;
pub mod memory;
mod module_inputs;
mod not_finite;
mod options;
mod parameter;
pub mod peak;
mod repetition;
mod stack;
mod stacks;
mod sublayers;
mod together;
mod training;
mod trie;

pub use batch::Batch;
pub use block::Block;
pub use cache::Cache;
pub use context::ForwardContext;
pub use generate::{Ended, Generated, SamplingParams};
pub use gradients::{LayerGradients, WantedGradients};
pub use head::{Head, HeadGradients, HeadLoss, Lesson, Lessons, Said};
pub use load_options::LoadOptions;
pub use loss::Loss;
pub use memory::{Budget, Placement};
pub use module_inputs::InputSums;
pub use options::ModelOptions;
pub use parameter::parameter;
pub use repetition::repeats_from;
pub use stack::Residency;
pub use stacks::{EndOfStack, StackUnit, Stacks};
pub use training::CheckpointingPolicy;
pub use trie::Trie;

pub(crate) use block::LinearMap;
pub(crate) use generate::Drawer;
pub(crate) use load_options::{Parameter, Part};
pub(crate) use loss::tokens_of_a_batch;
pub(crate) use sublayers::{Cost, Linear, TrainingCost, mean_flops};
pub(crate) use together::{Growing, Speaker, Together, Wanted, likeliest_of, penalized, shared};
pub(crate) use training::{Dropout, TrainContext};

use std::sync::{Arc, OnceLock};

use candle_core::{DType, Device, Tensor};

use crate::arch::ModelSpec;
use crate::checkpoint::Checkpoint;
use crate::ops::{self, FiniteWatch, Scored};
use crate::progress::{Progress, Unit};
use crate::weights::lora::{At, Table};
use crate::{Error, Result, interrupt};
use not_finite::named;
use stack::Stack;

/// Tokens that one pass works on at most, unless a single sequence is longer: enough rows to keep the matrix products
/// at their best, few enough that activations stay close.
const PASS_TOKENS: usize = 1024;

/// The same on a GPU, which takes more rows to be busy and forgets nothing in between.
const GPU_PASS_TOKENS: usize = 4096;

/// As many times more for a tree of sequences that share long beginnings: each pass runs the beginnings once, so the
/// more fit in, the better. Only attention sees all of it at once, the rest works on [`tokens_at_once`].
const TREE_CHUNKS: usize = 4;

/// Tokens that all but attention works on at a time.
#[must_use]
pub fn tokens_at_once(device: &Device) -> usize {
    if device.is_cuda() { GPU_PASS_TOKENS } else { PASS_TOKENS }
}

/// Sees the residual streams go by.
pub trait Observer {
    /// `x^(l)` of batch `batch`, `[t, d]`, on its way into the layer at place `place`; `place` = number of layers is
    /// what leaves the last one, before the final norm. Batches of one wave come in order at each place.
    ///
    /// # Errors
    /// Whatever the observer finds wrong; it ends the pass.
    fn residual(&mut self, batch: usize, place: usize, x: &Tensor) -> Result<()>;

    /// How many residual streams of a batch the observer keeps alive; they count against the memory budget.
    fn streams_kept(&self) -> usize {
        0
    }

    /// Names the text and the position of token `token` of batch `batch`, for a message; `None` counts the sequences of
    /// all batches.
    fn place(&self, _batch: usize, _token: usize) -> Option<String> {
        None
    }
}

/// A model ready to run.
#[derive(Debug)]
pub struct Model {
    checkpoint: Arc<Checkpoint>,
    spec: Arc<ModelSpec>,
    stack: Stack,
    head: Head,
    /// The embedding on a GPU, read when the first tokens come; without it rows are read one by one.
    embedding: Option<OnceLock<Tensor>>,
    /// What is done to the embedding's rows.
    table: Option<Table>,
    device: Device,
    budget: Budget,
    /// Weights in memory at once: all layers and the head, or two layers and the head.
    weight_bytes: u64,
}

impl Model {
    /// Opens the model of `checkpoint`.
    ///
    /// # Errors
    /// An architecture that is not known, tensors that do not fit it, a budget too small for one layer, of a mixture
    /// for one of its experts and the rest of a layer.
    pub fn open(checkpoint: Arc<Checkpoint>, options: &ModelOptions, progress: &dyn Progress) -> Result<Self> {
        let spec = ModelSpec::from_config(&checkpoint.config)?;
        Self::open_as(spec, checkpoint, options, progress)
    }

    /// Opens the model `spec` in the tensors of `checkpoint`, of which the config need not say it: a stack of layers
    /// of two models.
    ///
    /// # Errors
    /// As [`Model::open`].
    pub fn open_as(
        spec: ModelSpec,
        checkpoint: Arc<Checkpoint>,
        options: &ModelOptions,
        progress: &dyn Progress,
    ) -> Result<Self> {
        let spec = Arc::new(spec);
        spec.check(&checkpoint.index)?;
        if let Some(what) = spec.without_gpu_kernel().filter(|_| options.device.is_cuda()) {
            return Err(Error::request(format!(
                "a {} model {what}, for which there is no GPU kernel yet: run it on the CPU (--device cpu)",
                spec.model_type
            )));
        }
        let checkpoint = match &options.load_options.adapters {
            Some(adapters) => adapters.over(&checkpoint, &spec)?,
            None => checkpoint,
        };
        let places = options.places.clone().unwrap_or_else(|| (0..spec.layers).collect());
        if let Some(place) = places.iter().find(|place| **place >= spec.layers) {
            return Err(Error::request(format!(
                "layer {place} is not there: the model has layers 0..={}",
                spec.layers - 1
            )));
        }
        let fit = Placement::new(&checkpoint, &spec, &places, options)?;
        let head = Head::open(checkpoint.clone(), spec.clone(), &options.device, &options.load_options)?;
        let table = options.load_options.table(spec.embedding).cloned();
        let experts_on_disk = fit.residency.streams_experts();
        let load_options = LoadOptions { experts_on_disk, ..options.load_options.clone() };
        let stack = Stack::open(
            checkpoint.clone(),
            spec.clone(),
            places,
            load_options,
            fit.residency,
            &options.device,
            progress,
        )?;
        let weight_bytes = fit.weight_bytes;
        let (device, budget) = (options.device.clone(), options.budget);
        let embedding = options.holds_embedding().then(OnceLock::new);
        Ok(Self { checkpoint, spec, stack, head, embedding, table, device, budget, weight_bytes })
    }

    /// What the model is.
    #[must_use]
    pub fn spec(&self) -> &ModelSpec {
        &self.spec
    }

    /// Layers of the stack.
    #[must_use]
    pub fn layers(&self) -> usize {
        self.stack.len()
    }

    /// Where the layers are between two uses.
    #[must_use]
    pub fn residency(&self) -> Residency {
        self.stack.residency()
    }

    /// The blocks from the embedding up, when they stay in memory.
    #[must_use]
    pub fn blocks(&self) -> Option<&[Arc<Block>]> {
        self.stack.blocks()
    }

    /// Final norm and vocabulary head.
    #[must_use]
    pub fn head(&self) -> &Head {
        &self.head
    }

    /// Where it computes.
    #[must_use]
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// The checkpoint it was opened from.
    #[must_use]
    pub fn checkpoint(&self) -> &Arc<Checkpoint> {
        &self.checkpoint
    }

    /// Bytes of weights in memory at once.
    #[must_use]
    pub fn weight_bytes(&self) -> u64 {
        self.weight_bytes
    }

    /// Tokens a batch should have at most, unless one sequence alone is longer, when `streams_kept` residual streams
    /// of it are kept.
    #[must_use]
    pub fn pass_tokens(&self, streams_kept: usize) -> usize {
        let at_once = tokens_at_once(&self.device);
        memory::pass_tokens(&self.spec, self.budget, self.weight_bytes, streams_kept, (at_once, at_once))
    }

    /// Residual streams `[t, d]` that enter layer 0: the embeddings of the batch's tokens.
    ///
    /// # Errors
    /// A token id outside the vocabulary.
    pub fn embed(&self, batch: &Batch) -> Result<Tensor> {
        if let Some(id) = batch.ids.iter().find(|id| **id as usize >= self.spec.vocab_size) {
            return Err(Error::request(format!(
                "token id {id} is outside the model's vocabulary of {}: does the tokenizer belong to this model?",
                self.spec.vocab_size
            )));
        }
        let shape = [self.spec.vocab_size, self.spec.hidden_size];
        let name = self.spec.embedding_tensor(&self.checkpoint.index);
        let Some(embedding) = &self.embedding else {
            let rows = self.checkpoint.gather_rows(name, &shape, &batch.ids)?;
            let rows =
                self.table.as_ref().map_or(Ok(rows.clone()), |table| table.updated(&rows, At::Ids(&batch.ids)))?;
            return self.scaled(rows.to_device(&self.device)?);
        };
        let rows = match embedding.get() {
            Some(rows) => rows,
            None => {
                let stored = self.checkpoint.load(name, &shape, &Device::Cpu)?;
                let rows = match &self.table {
                    Some(table) => table.updated(&stored.to_dtype(DType::F32)?, At::From(0))?,
                    None => stored,
                };
                let rows = ops::as_stored_on(&rows, &self.device)?;
                embedding.get_or_init(|| rows)
            }
        };
        self.scaled(ops::gather(rows, &batch.ids)?)
    }

    /// Embeddings times what the model multiplies them with.
    fn scaled(&self, rows: Tensor) -> Result<Tensor> {
        let times = self.spec.multipliers.embedding;
        if times == 1.0 { Ok(rows) } else { Ok((rows * times)?) }
    }

    /// Runs every batch through the stack; `observer` sees the residual streams.
    ///
    /// # Errors
    /// A weight that cannot be read, a non-finite residual stream (named with its layer), the observer's own.
    pub fn run(
        &self,
        batches: &[Batch],
        observer: &mut dyn Observer,
        what: &str,
        progress: &dyn Progress,
    ) -> Result<()> {
        let layers = self.layers();
        let total: usize = batches.iter().map(Batch::tokens).sum();
        progress.begin(what, total as u64, Unit::Tokens);
        let (mut work, mut shown) = (0, 0);
        for wave in self.waves(batches, observer.streams_kept()) {
            let mut states = Vec::with_capacity(wave.len());
            for index in wave.clone() {
                let x = self.embed(&batches[index])?;
                let mut watch = FiniteWatch::new(layers + 1, &self.device)?;
                self.look(&mut watch, 0, &x, &|token| named(observer, batches, index, token))?;
                observer.residual(index, 0, &x)?;
                states.push((x, ForwardContext::new(&self.spec, &batches[index], &self.device)?, watch));
            }
            self.stack.walk(|place, block| {
                for (index, (x, pass, watch)) in wave.clone().zip(&mut states) {
                    interrupt::check()?;
                    *x = block.forward(x, pass)?;
                    self.look(watch, place + 1, x, &|token| named(observer, batches, index, token))?;
                    observer.residual(index, place + 1, x)?;
                    work += batches[index].tokens();
                    progress.advance((work / layers.max(1) - shown) as u64);
                    shown = work / layers.max(1);
                }
                Ok(())
            })?;
        }
        progress.end();
        Ok(())
    }

    /// Log-probabilities of candidate next tokens after each row of `x` `[n, d]`, the residual stream that leaves the
    /// last layer (not yet normed). All are finite: `place` names the text and position of a row where one is not.
    ///
    /// # Errors
    /// The head cannot be read; a log-probability that is not finite, with its place and the tensor to blame, or
    /// whether it is the final norm or the head that gives it.
    pub fn score(
        &self,
        x: &Tensor,
        candidates: &[&[u32]],
        place: &dyn Fn(usize) -> String,
    ) -> Result<Vec<Vec<Scored>>> {
        self.head.score(x, candidates, place)
    }

    /// Logits `[n, v]`, all finite, after each row of `x` `[n, d]`, the residual stream that leaves the last layer (not
    /// yet normed).
    ///
    /// # Errors
    /// The head cannot be read, or a logit is not finite; the tensor to blame is named as in [`Model::score`].
    pub fn logits(&self, x: &Tensor) -> Result<Tensor> {
        self.head.logits(x)
    }

    /// Negative log-likelihood in nats of every token but the first of each sequence, by sequence; `pass_tokens` go
    /// through together, unless one sequence is longer.
    ///
    /// # Errors
    /// As [`Model::run`].
    pub fn losses(
        &self,
        sequences: &[Vec<u32>],
        pass_tokens: usize,
        what: &str,
        progress: &dyn Progress,
    ) -> Result<Vec<Loss>> {
        loss::losses(self, sequences, pass_tokens, what, progress)
    }

    /// The same of all sequences together, as many tokens at a time as suit the model.
    ///
    /// # Errors
    /// As [`Model::run`].
    pub fn loss(&self, sequences: &[Vec<u32>], what: &str, progress: &dyn Progress) -> Result<Loss> {
        Ok(Loss::total(&self.losses(sequences, self.pass_tokens(0), what, progress)?))
    }

    /// Batches that go through the stack together: one when the layers are resident, as many as the budget holds when
    /// each wave reads the model from disk.
    fn waves(&self, batches: &[Batch], streams_kept: usize) -> Vec<std::ops::Range<usize>> {
        let stream = (self.spec.hidden_size * 4 * (streams_kept + 1)) as u64 + (self.spec.rope.rotary_dim * 4) as u64;
        let longest = batches.iter().map(Batch::tokens).max().unwrap_or(0);
        let transient = memory::transient_bytes(&self.spec, longest, tokens_at_once(&self.device));
        let room = match self.residency() {
            residency if residency.holds_layers() => 0,
            _ => self.budget.usable().saturating_sub(self.weight_bytes + transient),
        };
        let mut waves = Vec::new();
        let (mut start, mut taken) = (0, 0);
        for (index, batch) in batches.iter().enumerate() {
            let bytes = batch.tokens() as u64 * stream;
            if index > start && taken + bytes > room {
                waves.push(start..index);
                (start, taken) = (index, 0);
            }
            taken += bytes;
        }
        if start < batches.len() {
            waves.push(start..batches.len());
        }
        waves
    }
}
