//! The log of a run, a JSON object a line, and the Trainer's summary of it.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::accuracy::{Accuracies, BestBy};
use super::rollouts::RolloutCounts;
use super::settings::HealSettings;
use super::state::{Best, LOG};
use crate::checkpoint::write_file;
use crate::{Error, Result, files};

/// A line of the log.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Line {
    /// After a step.
    Step {
        /// Steps done.
        step: usize,
        /// Loss, nats a token.
        loss: f64,
        /// The cross-entropy alone, where there is a teacher.
        #[serde(skip_serializing_if = "Option::is_none", default)]
        cross_entropy: Option<f64>,
        /// The mean squared difference of hidden states from the teacher's, where some are held against them.
        #[serde(skip_serializing_if = "Option::is_none", default)]
        hidden: Option<f64>,
        /// What the model wrote itself, where it did.
        #[serde(skip_serializing_if = "Option::is_none", default)]
        rollouts: Option<RolloutReport>,
        /// The learning rate used.
        lr: f64,
        /// Norm of the gradients before clipping.
        grad_norm: f64,
        /// Tokens trained on so far.
        tokens: u64,
        /// Passes over the text that are behind.
        epoch: u64,
        /// Of this step.
        tokens_per_second: f64,
        /// Resident memory of the process; on a GPU the most that tensors took there since the step before.
        memory_mib: u64,
    },
    /// After a validation.
    Validation {
        /// Steps done.
        step: usize,
        /// Loss on the validation text, nats a token.
        val_loss: f64,
        /// Right answers to questions, where some are asked.
        #[serde(flatten, skip_serializing_if = "Option::is_none")]
        accuracies: Option<Accuracies>,
    },
    /// A whole model, before or after training.
    Measured {
        /// `uncut`, `cut`, `unmerged` or `healed`.
        measured: String,
        /// Loss on the validation text, nats a token.
        loss: f64,
    },
}

/// What a model wrote itself in a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RolloutReport {
    /// Tokens of a text at most.
    pub most: usize,
    /// What the texts were like.
    #[serde(flatten)]
    pub counts: RolloutCounts,
}

impl Line {
    /// The text of a log.
    ///
    /// # Errors
    /// None that can be met.
    pub fn text(lines: &[Self]) -> Result<String> {
        lines.iter().map(to_json).collect()
    }

    pub(super) fn step(&self) -> usize {
        match self {
            Self::Step { step, .. } | Self::Validation { step, .. } => *step,
            Self::Measured { .. } => 0,
        }
    }
}

/// The log of an unfinished run.
#[derive(Debug)]
pub struct Journal {
    by: BestBy,
    path: PathBuf,
    file: File,
    lines: Vec<Line>,
}

impl Journal {
    /// Takes up the log in `dir`, without what was written after step `step`; `None` begins it anew. `by` says which
    /// validation is the best.
    ///
    /// # Errors
    /// Work: it cannot be read or written.
    pub fn open(dir: &Path, step: Option<usize>, by: BestBy) -> Result<Self> {
        let path = dir.join(LOG);
        let at = |error: std::io::Error| Error::io(&path, &error);
        let text = if path.exists() { files::read_text(&path, files::LOG)? } else { String::new() };
        // a line that was cut short by a kill is of a later step than the state
        let lines: Vec<Line> = text
            .lines()
            .filter_map(|line| serde_json::from_str::<Line>(line).ok())
            .filter(|line| step.is_some_and(|step| line.step() <= step))
            .collect();
        let mut kept = String::new();
        for line in &lines {
            kept.push_str(&to_json(line)?);
        }
        // whole or not at all: a kill in the middle must not take lines that the state counts on
        write_file(&path, true, kept.as_bytes())?;
        let file = OpenOptions::new().append(true).open(&path).map_err(at)?;
        Ok(Self { by, path, file, lines })
    }

    /// Adds a line.
    ///
    /// # Errors
    /// Work: the disk is full.
    pub fn add(&mut self, line: Line) -> Result<()> {
        let text = to_json(&line)?;
        self.file.write_all(text.as_bytes()).map_err(|error| Error::io(&self.path, &error))?;
        self.lines.push(line);
        Ok(())
    }

    /// Makes what was added durable.
    ///
    /// # Errors
    /// Work: the disk is full.
    pub fn sync(&self) -> Result<()> {
        self.file.sync_data().map_err(|error| Error::io(&self.path, &error))
    }

    /// The first of the best validations.
    #[must_use]
    pub fn best(&self) -> Option<Best> {
        let validations = self.lines.iter().filter_map(|line| match line {
            Line::Validation { step, val_loss, accuracies } => {
                let accuracy = accuracies.as_ref().map(|accuracies| accuracies.accuracy);
                Some(Best { step: *step, loss: *val_loss, accuracy })
            }
            Line::Step { .. } | Line::Measured { .. } => None,
        });
        validations.reduce(|best, next| if next.is_better(&best, self.by) { next } else { best })
    }

    /// Which validation is the best.
    #[must_use]
    pub(super) fn by(&self) -> BestBy {
        self.by
    }

    /// Validations after the best one.
    #[must_use]
    pub(super) fn since_best(&self) -> usize {
        let best = self.best().map_or(0, |best| best.step);
        self.lines.iter().filter(|line| matches!(line, Line::Validation { step, .. } if *step > best)).count()
    }

    /// Whether the last line is of step `step`; none is before the first.
    #[must_use]
    pub(crate) fn ends_at(&self, step: usize) -> bool {
        self.lines.last().map_or(0, Line::step) == step
    }

    /// All lines.
    #[must_use]
    pub fn lines(&self) -> &[Line] {
        &self.lines
    }

    /// Whether there was a validation after `step` steps.
    #[must_use]
    pub(crate) fn has_validation(&self, step: usize) -> bool {
        self.lines.iter().any(|line| matches!(line, Line::Validation { step: own, .. } if *own == step))
    }

    /// `trainer_state.json` as the Hugging Face Trainer writes it.
    #[must_use]
    pub fn trainer_state(&self, settings: &HealSettings) -> Value {
        let best = self.best();
        let history: Vec<Value> = self
            .lines
            .iter()
            .filter_map(|line| match line {
                Line::Step { step, loss, lr, grad_norm, epoch, .. } => Some(json!({
                    "epoch": *epoch as f64, "grad_norm": grad_norm, "learning_rate": lr, "loss": loss, "step": step
                })),
                Line::Validation { step, val_loss, accuracies } => {
                    let mut entry = json!({"eval_loss": val_loss, "step": step});
                    if let Some(Accuracies { accuracy, tasks }) = accuracies {
                        entry["eval_accuracy"] = json!(accuracy);
                        tasks.iter().for_each(|(task, share)| entry[format!("eval_{task}_accuracy")] = json!(share));
                    }
                    Some(entry)
                }
                Line::Measured { .. } => None,
            })
            .collect();
        let epochs = self.lines.iter().rev().find_map(|line| match line {
            Line::Step { epoch, .. } => Some(*epoch),
            Line::Validation { .. } | Line::Measured { .. } => None,
        });
        json!({
            "best_global_step": best.map(|best| best.step),
            "best_metric": best.and_then(|best| best.metric(self.by)),
            "best_model_checkpoint": null,
            "epoch": epochs.unwrap_or(0) as f64,
            "eval_steps": settings.eval_every,
            "global_step": self.lines.iter().map(Line::step).max().unwrap_or(0),
            "is_hyper_param_search": false,
            "is_local_process_zero": true,
            "is_world_process_zero": true,
            "log_history": history,
            "logging_steps": 1,
            "max_steps": settings.steps,
            "num_input_tokens_seen": self.lines.iter().rev().find_map(|line| match line {
                Line::Step { tokens, .. } => Some(*tokens),
                Line::Validation { .. } | Line::Measured { .. } => None,
            }),
            "num_train_epochs": epochs.unwrap_or(0) + 1,
            "save_steps": settings.save_every,
            "train_batch_size": settings.batch,
        })
    }
}

fn to_json(line: &Line) -> Result<String> {
    let mut text = serde_json::to_string(line).map_err(|error| Error::work(error.to_string()))?;
    text.push('\n');
    Ok(text)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn step(step: usize) -> Line {
        Line::Step {
            step,
            loss: 1.5,
            cross_entropy: None,
            hidden: None,
            rollouts: None,
            lr: 1e-3,
            grad_norm: 0.25,
            tokens: 100,
            epoch: 0,
            tokens_per_second: 9.0,
            memory_mib: 7,
        }
    }

    fn validation(step: usize, val_loss: f64) -> Line {
        Line::Validation { step, val_loss, accuracies: None }
    }

    #[test]
    fn the_best_is_the_one_of_lowest_loss_or_most_right_answers() {
        let dir = tempfile::tempdir().unwrap();
        for (by, best, since) in [(BestBy::Loss, 3, 0), (BestBy::Accuracy, 1, 2)] {
            let mut journal = Journal::open(dir.path(), None, by).unwrap();
            for (step, val_loss, right) in [(0, 3.0, false), (1, 2.0, true), (2, 1.5, true), (3, 1.0, false)] {
                let accuracies = Some(Accuracies::of(&[("boolq", &[right, true])]));
                journal.add(Line::Validation { step, val_loss, accuracies }).unwrap();
            }
            let found = journal.best().unwrap();
            assert_eq!((found.step, journal.since_best()), (best, since));
            let lines = journal.lines().to_vec();
            assert_eq!(Journal::open(dir.path(), Some(3), by).unwrap().lines(), lines, "read as they were written");
            let state = journal.trainer_state(&HealSettings::default());
            assert_eq!(state["best_metric"].as_f64(), Some(1.0));
            assert_eq!(state["log_history"][0]["eval_boolq_accuracy"].as_f64(), Some(0.5));
        }
    }

    #[test]
    fn what_came_after_the_state_is_forgotten() {
        let dir = tempfile::tempdir().unwrap();
        let mut journal = Journal::open(dir.path(), None, BestBy::Loss).unwrap();
        for line in [step(1), validation(1, 2.0), step(2), step(3)] {
            journal.add(line).unwrap();
        }
        let path = dir.path().join(LOG);
        let text = fs::read_to_string(&path).unwrap();
        fs::write(&path, format!("{text}{{\"step\": 4, \"lo")).unwrap();
        let mut journal = Journal::open(dir.path(), Some(2), BestBy::Loss).unwrap();
        assert_eq!(journal.lines(), [step(1), validation(1, 2.0), step(2)]);
        journal.add(step(3)).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), text);

        assert!(journal.ends_at(3) && !journal.ends_at(2));
        journal.add(validation(3, 2.0)).unwrap();
        assert_eq!((journal.best(), journal.since_best()), (Some(Best { step: 1, loss: 2.0, accuracy: None }), 1));
        let state = journal.trainer_state(&HealSettings::default());
        assert_eq!((state["global_step"].as_u64(), state["best_metric"].as_f64()), (Some(3), Some(2.0)));
        assert_eq!(state["log_history"][1]["eval_loss"].as_f64(), Some(2.0));
    }
}
