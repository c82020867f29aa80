//! Steps of training: gradients of some sequences, clipped, into the optimiser.

use candle_core::Tensor;

use super::collective::{Alone, Collective, Sums, share};
use super::pass::{Gradients, PassLoss, PassSettings, parameters, pass};
use super::schedule::Schedule;
use super::settings::HealSettings;
use crate::model::{Batch, CheckpointingPolicy, Dropout, Lesson, Lessons, Model, Observer, Said};
use crate::ops::{self, Divergence, FiniteWatch, Optimizer, clip};
use crate::progress::Silent;
use crate::{Context, Error, Result};

/// What a step did.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct StepReport {
    /// The loss: mean over the targets of all sequences of the step.
    pub loss: f64,
    /// The cross-entropy alone, the same unless there is a teacher.
    pub cross_entropy: f64,
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

/// A model in training.
pub struct Trainer<'a> {
    model: &'a Model,
    tutor: Option<Tutoring<'a>>,
    /// Weight of the teacher, what softens both, and which divergence.
    lesson: (f64, f64, Divergence),
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

    /// Trains together with other processes, all of which make the same steps.
    #[must_use]
    pub fn together(self, collective: &'a dyn Collective) -> Self {
        Self { collective, ..self }
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
        let step = self.optimizer.steps;
        // inside the pool, where every op is: not a thread that wakes the pool and sleeps for each of them
        let computed = rayon::scope(|_| self.parts(rows));
        let (parts, targets) = computed.context(|| format!("step {}", step + 1))?;
        // outside it: a thread that waits for other processes takes up no work meanwhile
        let Sums { loss: sums, mut gradients } = self.collective.sum(parts).context(|| format!("step {}", step + 1))?;
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
            cross_entropy: sums.cross_entropy / targets as f64,
            norm,
            rate,
            tokens: rows.iter().map(Vec::len).sum(),
        })
    }

    /// Gradients of the mean loss over the targets of `rows`; the sums of the loss, and the number of targets.
    ///
    /// # Errors
    /// As [`Trainer::step`].
    pub fn gradients(&self, rows: &[Vec<u32>]) -> Result<(PassLoss, Gradients, usize)> {
        let (parts, targets) = self.parts(rows)?;
        let Sums { loss, gradients } = self.collective.sum(parts)?;
        Ok((loss, gradients, targets))
    }

    /// What this process's micro-batches of `rows` give, for [`Collective::sum`]; the targets of all rows.
    fn parts(&self, rows: &[Vec<u32>]) -> Result<(Vec<Sums>, usize)> {
        self.model.refresh()?;
        let batches = Batch::pack(rows, self.pass_tokens)?;
        let targets: usize = batches.iter().map(|batch| batch.targets().iter().flatten().count()).sum();
        if targets == 0 {
            return Err(Error::work("no sequence of this step has a second token"));
        }
        let own = share(batches.len(), self.collective.rank(), self.collective.size());
        let streams = match self.tutor {
            Some(Tutoring::Model(teacher)) => Some(Last::of(teacher, &batches[own.clone()])?),
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
                (Some(Tutoring::Model(teacher)), Some(streams), _) => Some(Said::Now(teacher.head(), &streams[place])),
                (_, _, Some(known)) => Some(Said::Before(known)),
                _ => None,
            };
            let (weight, temperature, divergence) = self.lesson;
            let lesson = said.map(|said| Lesson { said, weight, temperature, divergence });
            let settings = PassSettings {
                factor: 1.0 / targets as f64,
                dropout: (self.dropout > 0.0).then_some(Dropout { rate: self.dropout, seed: self.seed, micro_batch }),
                policy: self.policy,
                lesson,
            };
            // one sum is enough where nobody adds before
            if place > 0 && self.collective.size() > 1 {
                parts.push(Sums::default());
            }
            let Some(sums) = parts.last_mut() else { continue };
            let pass = pass(self.model, &batches[index], &settings, &mut sums.gradients)?;
            sums.loss.loss += pass.loss;
            sums.loss.cross_entropy += pass.cross_entropy;
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

/// Keeps what leaves the last layer of each batch.
struct Last(Vec<Option<Tensor>>, usize);

impl Last {
    fn of(model: &Model, batches: &[Batch]) -> Result<Vec<Tensor>> {
        let mut last = Self(vec![None; batches.len()], model.layers());
        model.run(batches, &mut last, "teacher", &Silent)?;
        last.0.into_iter().map(|x| x.ok_or_else(|| Error::work("the teacher gave nothing"))).collect()
    }
}

impl Observer for Last {
    fn residual(&mut self, batch: usize, place: usize, x: &Tensor) -> Result<()> {
        if place == self.1 {
            self.0[batch] = Some(x.clone());
        }
        Ok(())
    }

    fn streams_kept(&self) -> usize {
        1
    }
}
