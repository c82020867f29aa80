//! Steps of training: gradients of some sequences, clipped, into the optimiser.

use candle_core::Tensor;

use super::hidden::{Held, StreamPair, TeacherStreams};
use super::pass::{PassSettings, parameters, pass};
use super::schedule::Schedule;
use super::settings::HealSettings;
use crate::collective::{Alone, Collective, Gradients, PassLoss, Sums, share};
use crate::model::{Batch, CheckpointingPolicy, Dropout, Lesson, Lessons, Model, Said};
use crate::ops::{self, Divergence, FiniteWatch, Optimizer, clip};
use crate::{Context, Error, Result, interrupt};

/// What a step did.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct StepReport {
    /// The loss: mean over the targets of all sequences of the step.
    pub loss: f64,
    /// The cross-entropy alone, the same unless there is a teacher; absent where the model wrote all sequences itself.
    pub cross_entropy: Option<f64>,
    /// The mean squared difference of hidden states from the teacher's, where some are held against them.
    pub hidden: Option<f64>,
    /// Norm of all gradients before clipping.
    pub norm: f64,
    /// The learning rate used.
    pub rate: f64,
    /// Tokens of the sequences.
    pub tokens: usize,
}

/// Whom a model learns from.
#[derive(Clone, Copy)]
enum Tutoring<'a> {
    Model(&'a Model),
    Lessons(&'a dyn Lessons),
}

/// Tokens that are predicted in a step.
#[derive(Clone, Copy)]
struct Targets {
    all: usize,
    /// Of them, those of sequences that the model did not write itself.
    of_text: usize,
}

/// A model in training.
pub struct Trainer<'a> {
    model: &'a Model,
    tutor: Option<Tutoring<'a>>,
    /// Weight of the teacher, what softens both, and which divergence.
    lesson: (f64, f64, Divergence),
    /// Streams that are held against the teacher's, and their weight.
    pairs: Vec<StreamPair>,
    hidden_weight: f64,
    parameters: Vec<(String, Tensor)>,
    optimizer: Optimizer,
    rates: Schedule,
    clip: Option<f64>,
    dropout: f64,
    seed: u64,
    pass_tokens: usize,
    policy: CheckpointingPolicy,
    collective: &'a dyn Collective,
}

impl<'a> Trainer<'a> {
    /// Prepares training of what `model` has to train.
    ///
    /// # Errors
    /// Request: nothing to train, or a teacher with another vocabulary.
    pub fn new(
        model: &'a Model,
        teacher: Option<&'a Model>,
        settings: &HealSettings,
        policy: CheckpointingPolicy,
    ) -> Result<Self> {
        let parameters = parameters(model)?;
        if parameters.is_empty() {
            return Err(Error::request("nothing to train: no adapter and no whole layer"));
        }
        if let Some(teacher) = teacher.filter(|teacher| teacher.spec().vocab_size != model.spec().vocab_size) {
            let (theirs, ours) = (teacher.spec().vocab_size, model.spec().vocab_size);
            return Err(Error::request(format!("teacher: its vocabulary has {theirs} tokens, the model's {ours}")));
        }
        Ok(Self {
            model,
            tutor: teacher.map(Tutoring::Model),
            lesson: (settings.teacher_weight, settings.temperature, settings.divergence()),
            pairs: Vec::new(),
            hidden_weight: settings.hidden_weight(),
            parameters,
            optimizer: Optimizer::new(settings.adam()),
            rates: settings.rates(),
            clip: (settings.clip > 0.0).then_some(settings.clip),
            dropout: settings.dropout,
            seed: settings.seed,
            pass_tokens: settings.pass_tokens,
            policy,
            collective: &Alone,
        })
    }

    /// Learns from what a teacher said before.
    #[must_use]
    pub fn taught_by(self, lessons: &'a dyn Lessons) -> Self {
        Self { tutor: Some(Tutoring::Lessons(lessons)), ..self }
    }

    /// Holds streams of the model against those of the teacher, which is a model and as wide.
    #[must_use]
    pub fn held_to(self, pairs: Vec<StreamPair>) -> Self {
        Self { pairs, ..self }
    }

    /// Trains together with other processes, all of which make the same steps.
    #[must_use]
    pub fn together(self, collective: &'a dyn Collective) -> Self {
        Self { collective, ..self }
    }

    /// Whom it trains with.
    pub(super) fn collective(&self) -> &'a dyn Collective {
        self.collective
    }

    /// Steps done.
    #[must_use]
    pub fn steps(&self) -> usize {
        self.optimizer.steps
    }

    /// What its passes spend memory on.
    #[must_use]
    pub fn policy(&self) -> CheckpointingPolicy {
        self.policy
    }

    /// The trained parameters by name.
    #[must_use]
    pub fn parameters(&self) -> &[(String, Tensor)] {
        &self.parameters
    }

    /// The optimiser, to be saved.
    #[must_use]
    pub fn optimizer(&self) -> &Optimizer {
        &self.optimizer
    }

    /// The optimiser, to be restored.
    pub(crate) fn optimizer_mut(&mut self) -> &mut Optimizer {
        &mut self.optimizer
    }

    /// One optimiser step on `rows`. If a gradient fails, nothing has changed.
    ///
    /// # Errors
    /// Work: a loss, gradient or new parameter that is not finite (named with its layer or parameter), a parameter that
    /// the gradients do not reach. Interrupted.
    pub fn step(&mut self, rows: &[Vec<u32>]) -> Result<StepReport> {
        self.step_with(rows, &[])
    }

    /// The same on `rows`, and on `written` that the model wrote itself: of those the divergence from the teacher alone
    /// is learned.
    ///
    /// # Errors
    /// As [`Trainer::step`].
    pub fn step_with(&mut self, rows: &[Vec<u32>], written: &[Vec<u32>]) -> Result<StepReport> {
        let step = self.optimizer.steps;
        // not on a thread that wakes the pool and sleeps for each op
        let computed = interrupt::in_pool(|| self.parts(rows, written));
        let (parts, Targets { all: targets, of_text }) = computed.context(|| format!("step {}", step + 1))?;
        // outside it: a thread that waits for other processes takes up no work meanwhile
        let Sums { loss: sums, mut gradients } = self.sum(parts).context(|| format!("step {}", step + 1))?;
        let norm = self.norm(&gradients).context(|| format!("step {}", step + 1))?;
        let (rate, clip) = (self.rates.rate(step), clip(norm, self.clip));
        self.optimizer.begin_step();
        let mut watch = FiniteWatch::new(self.parameters.len(), self.model.device())?;
        for (index, (name, parameter)) in self.parameters.iter().enumerate() {
            if let Some(gradient) = gradients.remove(name) {
                self.optimizer.update(name, parameter, &gradient, rate, clip)?;
                watch.look(index, parameter)?;
            }
        }
        if let Some(broken) = watch.first_broken()? {
            let (step, name) = (step + 1, &self.parameters[broken].0);
            return Err(Error::work(format!("step {step}: the optimiser makes {name} infinite at lr {rate:e}")));
        }
        Ok(StepReport {
            loss: sums.loss / targets as f64,
            cross_entropy: (of_text > 0).then(|| sums.cross_entropy / of_text as f64),
            hidden: (!self.pairs.is_empty()).then(|| sums.hidden / targets as f64),
            norm,
            rate,
            tokens: rows.iter().chain(written).map(Vec::len).sum(),
        })
    }

    /// Gradients of the mean loss over the targets of `rows`; the sums of the loss, and the number of targets.
    ///
    /// # Errors
    /// As [`Trainer::step`].
    pub fn gradients(&self, rows: &[Vec<u32>]) -> Result<(PassLoss, Gradients, usize)> {
        self.gradients_with(rows, &[])
    }

    /// The same of `rows`, and of `written` that the model wrote itself.
    ///
    /// # Errors
    /// As [`Trainer::step`].
    pub fn gradients_with(&self, rows: &[Vec<u32>], written: &[Vec<u32>]) -> Result<(PassLoss, Gradients, usize)> {
        let (parts, targets) = self.parts(rows, written)?;
        let Sums { loss, gradients } = self.sum(parts)?;
        Ok((loss, gradients, targets.all))
    }

    /// The sum over all processes, where the parameters are.
    fn sum(&self, parts: Vec<Sums>) -> Result<Sums> {
        let Sums { loss, gradients } = self.collective.sum(parts)?;
        let here = |(name, gradient): (String, Tensor)| Ok((name, gradient.to_device(self.model.device())?));
        Ok(Sums { loss, gradients: gradients.into_iter().map(here).collect::<Result<_>>()? })
    }

    /// What this process's micro-batches of `rows` and `written` give, for [`Collective::sum`]; the targets of all.
    fn parts(&self, rows: &[Vec<u32>], written: &[Vec<u32>]) -> Result<(Vec<Sums>, Targets)> {
        self.model.refresh()?;
        let mut batches = Batch::pack(rows, self.pass_tokens)?;
        let of_text = batches.len();
        batches.extend(Batch::pack(written, self.pass_tokens)?);
        let count = |batches: &[Batch]| batches.iter().map(|batch| batch.targets().iter().flatten().count()).sum();
        let targets = Targets { all: count(&batches), of_text: count(&batches[..of_text]) };
        let tokens = batches.iter().map(Batch::tokens).sum();
        if targets.all == 0 {
            return Err(Error::work("no sequence of this step has a second token"));
        }
        let own = share(batches.len(), self.collective.rank(), self.collective.size());
        let streams = match self.tutor {
            Some(Tutoring::Model(teacher)) if !own.is_empty() => {
                Some(TeacherStreams::of(teacher, &batches[own.clone()], &self.pairs)?)
            }
            _ => None,
        };
        let sequences = |batch: &Batch| batch.layout.segments().len();
        let mut first: usize = batches[..own.start].iter().map(sequences).sum();
        let mut parts = vec![Sums::default()];
        for (place, index) in own.enumerate() {
            let micro_batch = (self.optimizer.steps as u64) << 16 | index as u64;
            let end = first + sequences(&batches[index]);
            let known = match self.tutor {
                Some(Tutoring::Lessons(lessons)) => Some(lessons.of(&rows[first..end])?),
                _ => None,
            };
            first = end;
            let said = match (self.tutor, &streams, &known) {
                (Some(Tutoring::Model(teacher)), Some(streams), _) => {
                    let last = streams[place].get(&teacher.layers());
                    let last = last.ok_or_else(|| Error::work("the teacher gave nothing"))?;
                    Some(Said::Now(teacher.head(), last))
                }
                (_, _, Some(known)) => Some(Said::Before(known)),
                _ => None,
            };
            let (weight, temperature, divergence) = self.lesson;
            let is_text = index < of_text;
            let weight = if is_text { weight } else { 1.0 };
            let lesson = said.map(|said| Lesson { said, weight, temperature, divergence });
            let streams = streams.as_ref().filter(|_| !self.pairs.is_empty());
            let held = streams.map(|streams| Held {
                pairs: &self.pairs,
                streams: &streams[place],
                tokens,
                weight: self.hidden_weight,
            });
            let settings = PassSettings {
                factor: 1.0 / targets.all as f64,
                dropout: (self.dropout > 0.0).then_some(Dropout { rate: self.dropout, seed: self.seed, micro_batch }),
                policy: self.policy,
                lesson,
                held,
            };
            // one sum is enough where nobody adds before
            if place > 0 && self.collective.rank() > 0 {
                parts.push(Sums::default());
            }
            let Some(sums) = parts.last_mut() else { continue };
            let pass = pass(self.model, &batches[index], &settings, &mut sums.gradients)?;
            sums.loss.loss += pass.loss;
            sums.loss.cross_entropy += if is_text { pass.cross_entropy } else { 0.0 };
            sums.loss.hidden += pass.hidden;
        }
        Ok((parts, targets))
    }

    /// Norm of all gradients together.
    fn norm(&self, gradients: &Gradients) -> Result<f64> {
        let gradient = |(name, _): &(String, Tensor)| {
            gradients.get(name).ok_or_else(|| Error::work(format!("the gradients do not reach {name}")))
        };
        let squares = ops::square_sums(&self.parameters.iter().map(gradient).collect::<Result<Vec<_>>>()?)?;
        if let Some(broken) = squares.iter().position(|square| !square.is_finite()) {
            return Err(Error::work(format!("the gradient of {} is not finite", self.parameters[broken].0)));
        }
        Ok(squares.iter().sum::<f64>().sqrt())
    }
}
