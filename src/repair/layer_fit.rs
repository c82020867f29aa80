//! The training of one layer on recorded streams.

use std::collections::BTreeMap;
use std::ops::Range;

use candle_core::{DType, Device, Tensor};

use super::change::{Change, Projection};
use super::fit::RepairTask;
use super::recorded::Recorded;
use super::trained::{LayerTraining, Replaced, TrainedLayer};
use super::training_state::EVERY;
use crate::arch::Role;
use crate::model::{
    Batch, Block, CheckpointingPolicy, ForwardContext, LoadOptions, Model, Part, TrainContext, tokens_at_once,
};
use crate::ops::{self, AdamW, Optimizer};
use crate::progress::{Progress, Unit};
use crate::weights::{Expr, stored};
use crate::{Error, Result, interrupt};

/// A layer to train.
pub(super) struct LayerFit<'a> {
    pub(super) task: &'a RepairTask<'a>,
    pub(super) replaced: Replaced,
    pub(super) training: LayerTraining,
    /// What enters and leaves the layers to be learned: streams twice `index` and the next, of the sequences that fit,
    /// then of those that judge.
    pub(super) streams: &'a Recorded,
    pub(super) index: usize,
    pub(super) sequences: (&'a [&'a [u32]], &'a [&'a [u32]]),
}

/// A trained layer.
pub(super) struct Trained {
    /// The block, in the very numbers that are written.
    pub(super) block: Block,
    /// Its tensors, as they are written.
    pub(super) changes: Vec<(Projection, Change)>,
    pub(super) told: TrainedLayer,
}

/// A sequence and where its rows are.
type Placed<'a> = (&'a [u32], Range<usize>);

/// Gradients of a layer's tensors.
type Sums = BTreeMap<(Role, Part), Tensor>;

impl LayerFit<'_> {
    /// Trains it; `name` is the repair's.
    ///
    /// # Errors
    /// Work: weights that cannot be read, an error or a weight that is not finite. Interrupted.
    pub(super) fn run(&self, name: &str, progress: &dyn Progress) -> Result<Trained> {
        let Self { task, replaced, training, sequences: (fits, judges), .. } = self;
        let (whole, spec) = (task.whole, task.whole.spec());
        let load_options = LoadOptions { unfrozen: [replaced.layer].into(), ..LoadOptions::default() };
        let at = (replaced.layer, replaced.layer);
        let block = Block::load(whole.checkpoint(), spec, at, &load_options, whole.device())?;
        let fits = placed(fits, 0);
        let judges = placed(judges, fits.last().map_or(0, |(_, rows)| rows.end));
        let LayerTraining { lr, steps, .. } = *training;
        let batch = training.batch.min(fits.len());
        let [before, before_other] = [self.error(&block, &fits)?, self.error(&block, &judges)?];

        let parameters = block.parameters();
        let named = parameters.iter().map(|(role, part, values)| (self.tensor(*role, *part), values.clone()));
        let named: Vec<(String, Tensor)> = named.collect();
        let mut optimizer = Optimizer::new(AdamW { beta1: 0.9, beta2: 0.999, eps: 1e-8, weight_decay: 0.0 });
        let mut losses = match task.state {
            Some(state) => state.restore(self.index, &named, &mut optimizer)?,
            None => Vec::new(),
        };
        let keep = |losses: &[f64], optimizer: &Optimizer| match task.state {
            Some(state) if !losses.is_empty() => state.save(losses, &named, optimizer),
            _ => Ok(()),
        };
        progress.begin(&format!("{name}: training layer {}", replaced.layer), steps as u64, Unit::Items);
        let begun = losses.len();
        progress.advance(begun as u64);
        for step in losses.len()..steps {
            if let Err(stopped) = interrupt::check() {
                keep(&losses, &optimizer)?;
                return Err(stopped);
            }
            let own = (0..batch).map(|index| fits[(step * batch + index) % fits.len()].clone());
            let own: Vec<Placed<'_>> = own.collect();
            // inside the pool, where every op is
            let (loss, mut gradients) = interrupt::in_pool(|| self.gradients(&block, &own))?;
            if !loss.is_finite() {
                return Err(Error::work(format!(
                    "{name}: step {} of layer {}: the error is not finite; train at a smaller --lr than {lr:e}",
                    step + 1,
                    replaced.layer
                )));
            }
            optimizer.begin_step();
            for ((role, part, values), (name, _)) in parameters.iter().zip(&named) {
                let Some(gradient) = gradients.remove(&(*role, *part)) else {
                    return Err(Error::work(format!("the gradients do not reach {name}")));
                };
                optimizer.update(name, values, &gradient, lr, 1.0)?;
            }
            losses.push(loss);
            if losses.len().is_multiple_of(EVERY) && losses.len() < steps {
                keep(&losses, &optimizer)?;
            }
            progress.detail(&format!("squared error {loss:.4e}"));
            progress.advance(1);
        }
        progress.end();
        if losses.len() > begun {
            keep(&losses, &optimizer)?;
        }
        if let Some(state) = task.state {
            state.finished(&losses, &named)?;
        }
        let changes = parameters.iter().map(|(role, part, values)| self.settle(*role, *part, values));
        let changes = changes.collect::<Result<_>>()?;
        let [after, after_other] = [self.error(&block, &fits)?, self.error(&block, &judges)?];
        let (layer, first, last) = (replaced.layer, replaced.first, replaced.end - 1);
        let told = TrainedLayer { layer, first, last, lr, batch, before, after, before_other, after_other, losses };
        Ok(Trained { block, changes, told })
    }

    /// What a tensor of the layer is called in the new checkpoint.
    fn tensor(&self, role: Role, part: Part) -> String {
        let tensor = self.task.cut.spec().layer_tensor(self.replaced.place, role);
        match (part, tensor.bias) {
            (Part::Bias, Some(bias)) => bias,
            _ => tensor.name,
        }
    }

    /// Rounds `values` where they lie to the type in which they are stored; how the tensor is made.
    fn settle(&self, role: Role, part: Part, values: &Tensor) -> Result<(Projection, Change)> {
        let (weight, index) = (self.tensor(role, part), &self.task.cut.checkpoint().index);
        let expr = Expr::Tensor(values.to_device(&Device::Cpu)?);
        let written = stored(index, &weight, &expr, index.entry(&weight)?.dtype)?.to_dtype(DType::F32)?;
        // numbers of their own: where nothing is rounded, these may be `values` themselves, which cannot be read and
        // written at once
        let numbers: Vec<f32> = written.flatten_all()?.to_vec1()?;
        ops::edit(values, |values| values.copy_from_slice(&numbers))?;
        let written = Tensor::from_vec(numbers, written.shape(), &Device::Cpu)?;
        let change = Change::Made { weight: Some(Expr::Tensor(written)), bias: None };
        Ok((Projection { weight, bias: None }, change))
    }

    /// The stream that enters and that is to leave, of the rows of `sequences`.
    fn ends(&self, sequences: &[Placed<'_>], model: &Model) -> Result<[Tensor; 2]> {
        let read = |stream| -> Result<Tensor> {
            let parts = sequences.iter().map(|(_, rows)| self.streams.rows(stream, rows, model.device()));
            Ok(Tensor::cat(&parts.collect::<Result<Vec<_>>>()?, 0)?)
        };
        Ok([read(2 * self.index)?, read(2 * self.index + 1)?])
    }

    /// `sequences` some at a time: as many as passes have tokens.
    fn passes<'b>(&self, sequences: &'b [Placed<'b>]) -> Result<Vec<(Batch, &'b [Placed<'b>])>> {
        let ids: Vec<&[u32]> = sequences.iter().map(|(ids, _)| *ids).collect();
        let batches = Batch::pack(&ids, tokens_at_once(self.task.whole.device()))?;
        let mut rest = sequences;
        let passes = batches.into_iter().map(|batch| {
            let (own, others) = rest.split_at(batch.layout.segments().len());
            rest = others;
            (batch, own)
        });
        Ok(passes.collect())
    }

    /// What `y` is off the wanted stream by, `[t, d]`; nothing at first tokens where they take no part.
    fn difference(&self, y: &Tensor, wanted: &Tensor, batch: &Batch) -> Result<Tensor> {
        let off = (y - wanted)?;
        if self.task.first {
            return Ok(off);
        }
        let mut counts = vec![1.0_f32; batch.tokens()];
        batch.layout.segments().iter().for_each(|segment| counts[segment.start] = 0.0);
        Ok(off.broadcast_mul(&Tensor::from_vec(counts, (batch.tokens(), 1), y.device())?)?)
    }

    /// Numbers of the stream of `sequences` that count.
    fn counted(&self, sequences: &[Placed<'_>]) -> f64 {
        let skipped = usize::from(!self.task.first);
        let tokens: usize = sequences.iter().map(|(ids, _)| ids.len() - skipped).sum();
        (tokens * self.task.whole.spec().hidden_size).max(1) as f64
    }

    /// The mean squared error over tokens and channels.
    fn error(&self, block: &Block, sequences: &[Placed<'_>]) -> Result<f64> {
        let model = self.task.whole;
        let mut sum = 0.0;
        for (batch, own) in self.passes(sequences)? {
            interrupt::check()?;
            let [x, wanted] = self.ends(own, model)?;
            let y = block.forward(&x, &ForwardContext::new(model.spec(), &batch, model.device())?)?;
            sum += squares(&self.difference(&y, &wanted, &batch)?)?;
        }
        Ok(sum / self.counted(sequences))
    }

    /// The mean squared error of `sequences`, and its gradients.
    fn gradients(&self, block: &Block, sequences: &[Placed<'_>]) -> Result<(f64, Sums)> {
        let model = self.task.whole;
        let (mut sum, mut sums, counted) = (0.0, Sums::new(), self.counted(sequences));
        for (batch, own) in self.passes(sequences)? {
            let [x, wanted] = self.ends(own, model)?;
            let forward = ForwardContext::new(model.spec(), &batch, model.device())?;
            let policy = CheckpointingPolicy::on(model.device(), 1);
            let training = TrainContext {
                forward: &forward,
                place: self.replaced.layer,
                dropout: None,
                policy,
                inputs: None,
                rows: None,
            };
            let (y, saved) = block.forward_saving(&x, &training, true)?;
            let off = self.difference(&y, &wanted, &batch)?;
            sum += squares(&off)?;
            let (_, gradients) = block.backward(saved, &training, (off * (2.0 / counted))?, false)?;
            for (role, part, gradient) in gradients {
                let sum = match sums.remove(&(role, part)) {
                    Some(sum) => (sum + gradient)?,
                    None => gradient,
                };
                sums.insert((role, part), sum);
            }
        }
        Ok((sum / counted, sums))
    }
}

/// Where the rows of `sequences` are, one after the other from row `first` on.
fn placed<'a>(sequences: &[&'a [u32]], first: usize) -> Vec<Placed<'a>> {
    let mut next = first;
    let placed = sequences.iter().map(|ids| {
        let rows = next..next + ids.len();
        next = rows.end;
        (*ids, rows)
    });
    placed.collect()
}

/// The sum of the squares of all numbers.
fn squares(x: &Tensor) -> Result<f64> {
    Ok(ops::square_sums(&[&x.contiguous()?])?.into_iter().sum())
}
