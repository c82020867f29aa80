//! The loop of a run: steps, validations, saved states.

use std::time::Instant;

use super::accuracy::ValidationTasks;
use super::choices::Track;
use super::follow::Order;
use super::journal::{Journal, Line, RolloutReport};
use super::samples::Samples;
use super::settings::HealSettings;
use super::state::{Best, TrainerState, WorkDir};
use super::tensorboard::Events;
use super::trainer::Trainer;
use super::writing::{Written, write};
use crate::model::{CheckpointingPolicy, Loss, Model, memory};
use crate::progress::{Progress, Silent, Unit};
use crate::shown::from_here;
use crate::{Context, Error, Result, interrupt, ops};

/// What came of a run.
#[derive(Debug)]
pub struct HealOutcome {
    /// The log.
    pub journal: Journal,
    /// The best validation.
    pub best: Option<Best>,
    /// Validation loss before the first step.
    pub before: Option<f64>,
    /// Steps done: all, or those until validation got no better.
    pub steps: usize,
    /// Tokens trained on.
    pub tokens: u64,
    /// Steps that an earlier process had done.
    pub steps_before: usize,
}

/// A run ready to start or go on.
pub struct HealRun<'a> {
    /// The model in training.
    pub model: &'a Model,
    /// Its trainer.
    pub trainer: Trainer<'a>,
    /// Settings.
    pub settings: &'a HealSettings,
    /// Where its state is saved.
    pub dir: &'a WorkDir,
    /// Sequences to validate on.
    pub validation: &'a [Vec<u32>],
    /// Questions to ask at validations.
    pub tasks: Option<&'a dyn ValidationTasks>,
    /// Tokens that end a text which the model writes.
    pub ends: &'a [u32],
}

impl HealRun<'_> {
    /// How far an earlier run came, the parameters and the optimiser put where they were; `None` if there was none.
    ///
    /// # Errors
    /// Work: its state is broken.
    pub fn restore(&mut self) -> Result<Option<TrainerState>> {
        let parameters = self.trainer.parameters().to_vec();
        let place = self.dir.restore(&parameters, self.trainer.optimizer_mut())?;
        match place.as_ref().map_or(0, |place| place.step) {
            step if step > self.settings.steps => Err(Error::work(format!(
                "{}: its state is of step {step}, and the run has {}; --restart begins anew",
                self.dir.path().display(),
                self.settings.steps
            ))),
            _ => Ok(place),
        }
    }

    /// Trains from `place`, or from the start, to the last step; the best or the last parameters are in place
    /// afterwards.
    ///
    /// # Errors
    /// Work: a value that is not finite, a text that cannot be read, a full disk; says which state is saved.
    /// Interrupted, the state saved.
    pub fn train(
        &mut self,
        place: Option<TrainerState>,
        samples: &mut dyn Samples,
        progress: &dyn Progress,
    ) -> Result<HealOutcome> {
        let journal = {
            let step = place.as_ref().map(|place| place.step);
            Journal::open(self.dir.path(), step, self.settings.best_by)?
        };
        let saved = place.as_ref().map(|place| place.step);
        if let Some(step) = saved.filter(|step| !journal.ends_at(*step)) {
            let dir = self.dir.path().display();
            return Err(Error::work(format!(
                "{dir}: the log does not reach step {step} of the state; --restart begins anew"
            )));
        }
        let (steps, most) = (self.settings.steps, CheckpointingPolicy::on(self.model.device(), 0).chunk_size);
        if let Some(place) = place.as_ref().filter(|place| {
            place.step > steps || place.validation_tokens.is_some_and(|tokens| !(1..=most).contains(&tokens))
        }) {
            let dir = self.dir.path().display();
            let (step, tokens) = (place.step, place.validation_tokens.unwrap_or(most));
            return Err(Error::work(format!(
                "{dir}: the state is of step {step} of {steps}, validated {tokens} tokens at a time, which no healing \
                 is; --restart begins anew"
            )));
        }
        let events = self.settings.track.map(|Track::Tensorboard| Events::open(self.dir.path(), journal.lines()));
        let mut at = At { journal, events: events.transpose()?, place: place.unwrap_or_default(), saved };
        at.place.policy.get_or_insert(self.trainer.policy());
        at.place.validation_tokens.get_or_insert(self.model.pass_tokens(0));
        let shared = self.trainer.share_state();
        if let Err(error) = shared.and_then(|()| self.steps(&mut at, samples, progress)) {
            progress.end();
            return Err(self.stop(&mut at, error, progress));
        }
        let best = at.journal.best();
        if let Some(best) = best.filter(|best| !self.settings.keep_last && best.step < at.place.step) {
            if best.step == 0 {
                progress.warn("no validation was better than the one before the first step; its parameters are kept");
            }
            self.dir.restore_best(self.trainer.parameters())?;
        }
        let before = at.journal.lines().iter().find_map(|line| match line {
            Line::Validation { step: 0, val_loss, .. } => Some(*val_loss),
            _ => None,
        });
        let TrainerState { step: steps, tokens, .. } = at.place;
        Ok(HealOutcome { journal: at.journal, best, before, steps, tokens, steps_before: saved.unwrap_or(0) })
    }

    /// Saves what can be saved of a run that ends with `error`, and says where it is.
    fn stop(&self, at: &mut At, error: Error, progress: &dyn Progress) -> Error {
        let (step, dir) = (at.place.step, from_here(self.dir.path()));
        // unless the step that failed had begun to change the parameters, they are those after the last one
        let is_whole = step > 0 && self.trainer.steps() == step && at.journal.ends_at(step);
        let unsaved = if is_whole && at.saved != Some(step) { self.save(at).err() } else { None };
        let state = at.saved.map(|step| format!("the state after step {step} is in {dir}"));
        match (error, unsaved, state) {
            (Error::Interrupted, None, state) => {
                if let Some(state) = state {
                    progress.note(&state);
                }
                Error::Interrupted
            }
            (error, Some(unsaved), state) => {
                let (error, unsaved) = (error.to_string(), unsaved.to_string());
                let why = if error == unsaved { String::new() } else { format!(": {unsaved}") };
                let state = state.map(|state| format!("; {state}")).unwrap_or_default();
                Error::work(format!("{error}; the state after step {step} cannot be saved{why}{state}"))
            }
            (Error::Work(message), None, Some(state)) => Error::work(format!("{message}; {state}")),
            (other, None, _) => other,
        }
    }

    fn steps(&mut self, at: &mut At, samples: &mut dyn Samples, progress: &dyn Progress) -> Result<()> {
        let steps = self.settings.steps;
        let before = at.place.step;
        progress.begin("healing", steps as u64, Unit::Items);
        progress.skip(before as u64);
        loop {
            let step = at.place.step;
            let due = step == 0 || step == steps || step.checked_rem(self.settings.eval_every) == Some(0);
            // a run that was stopped in a validation has saved the step and not its validation
            if due && !at.journal.has_validation(step) {
                progress.detail("validation");
                self.validate(at)?;
            }
            let stalled = self.settings.patience.is_some_and(|most| at.journal.since_best() >= most);
            let is_last = step == steps || stalled;
            let due = step.is_multiple_of(self.settings.save_every) || is_last;
            if step > 0 && due && at.saved != Some(step) {
                self.save(at)?;
            }
            if is_last {
                progress.end();
                if let Some(best) = at.journal.best().filter(|_| step < steps) {
                    progress.note(&format!("stopped after step {step}: validation was best after step {}", best.step));
                }
                // all there is to save is saved
                if let Err(error) = self.trainer.order(|| Order::Over) {
                    progress.warn(&error.to_string());
                }
                return Ok(());
            }
            interrupt::check()?;
            let said = self.step(at, samples)?;
            progress.detail(&said);
            progress.advance(1);
        }
    }

    fn save(&self, at: &mut At) -> Result<()> {
        at.journal.sync()?;
        self.dir.save(&at.place, self.trainer.parameters(), self.trainer.optimizer())?;
        at.saved = Some(at.place.step);
        Ok(())
    }

    /// Does a step; what there is to say of it.
    fn step(&mut self, at: &mut At, samples: &mut dyn Samples) -> Result<String> {
        let started = Instant::now();
        let mut rows = samples.take(self.settings.batch)?;
        let written = self.written(at, &mut rows)?;
        let done = at.place.step;
        self.trainer.order(|| Order::Step { done, rows: rows.clone(), written: written.rows.clone() })?;
        let report = self.trainer.step_with(&rows, &written.rows)?;
        let seconds = started.elapsed().as_secs_f64();
        let place = &mut at.place;
        (place.step, place.tokens) = (place.step + 1, place.tokens + report.tokens as u64);
        place.position = samples.position();
        let most = place.rollouts.tokens(self.settings.rollout_tokens);
        place.rollouts.after(written.counts, self.settings.rollout_tokens);
        let line = Line::Step {
            step: place.step,
            loss: report.loss,
            cross_entropy: report.cross_entropy.filter(|_| self.settings.teacher.is_some()),
            hidden: report.hidden,
            rollouts: (written.counts.texts > 0).then_some(RolloutReport { most, counts: written.counts }),
            lr: report.rate,
            grad_norm: report.norm,
            tokens: place.tokens,
            epoch: place.position.passes(),
            tokens_per_second: (report.tokens as f64 / seconds * 10.0).round() / 10.0,
            memory_mib: ops::device_peak(self.model.device())?.unwrap_or_else(memory::resident) >> 20,
        };
        at.add(line)?;
        let speed = report.tokens as f64 / seconds;
        let mut said = format!("loss {:.4}  lr {:.2e}  {speed:.0} tokens/s", report.loss, report.rate);
        if written.counts.texts > 0 {
            let repeated = 100.0 * written.counts.repeated_share();
            said += &format!("  {repeated:.0} % of its texts repeat themselves, {most} tokens at most");
        }
        Ok(said)
    }

    /// Takes those of a step's sequences that the model is to write itself out of `rows`, and writes them.
    fn written(&self, at: &At, rows: &mut Vec<Vec<u32>>) -> Result<Written> {
        let count = self.settings.rollouts(at.place.step, rows.len());
        if count == 0 {
            return Ok(Written::default());
        }
        let tokens = at.place.rollouts.tokens(self.settings.rollout_tokens);
        let begun: Vec<Vec<u32>> = rows.drain(..count).collect();
        let sources = (self.settings, self.ends);
        let step = at.place.step;
        // inside the pool, as the steps are
        interrupt::in_pool(|| write(self.model, &begun, sources, (step, tokens)))
            .context(|| format!("step {}", step + 1))
    }

    fn validate(&self, at: &mut At) -> Result<()> {
        if self.validation.is_empty() {
            return Ok(());
        }
        let step = at.place.step;
        let tokens = at.place.validation_tokens.unwrap_or_else(|| self.model.pass_tokens(0));
        self.model.refresh().context(|| format!("validation at step {step}"))?;
        let losses = self.model.losses(self.validation, tokens, "validation", &Silent);
        let loss = Loss::total(&losses.context(|| format!("validation at step {step}"))?);
        let accuracies = self.tasks.map(|tasks| tasks.accuracies(self.model)).transpose();
        let accuracies = accuracies.context(|| format!("validation at step {step}"))?;
        let accuracy = accuracies.as_ref().map(|accuracies| accuracies.accuracy);
        let now = Best { step, loss: loss.mean(), accuracy };
        // before the line that says so: a line without its parameters would pass for a validation that is done
        if at.journal.best().is_none_or(|best| now.is_better(&best, at.journal.by())) {
            self.dir.save_best(self.trainer.parameters())?;
        }
        at.add(Line::Validation { step, val_loss: now.loss, accuracies })
    }
}

/// Where a run is.
struct At {
    journal: Journal,
    events: Option<Events>,
    place: TrainerState,
    /// Step of the saved state.
    saved: Option<usize>,
}

impl At {
    /// Adds a line to the log, and to what goes with it.
    fn add(&mut self, line: Line) -> Result<()> {
        self.events.as_mut().map_or(Ok(()), |events| events.add(&line))?;
        self.journal.add(line)
    }
}
