//! How well a model in training answers questions: what a loss does not tell.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::model::Model;
use crate::{Error, Result};

/// Which of two validations is the better one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BestBy {
    /// That of the lower loss.
    #[default]
    Loss,
    /// That with more right answers.
    Accuracy,
}

impl fmt::Display for BestBy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if *self == Self::Loss { "loss" } else { "accuracy" })
    }
}

impl FromStr for BestBy {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        match text {
            "loss" => Ok(Self::Loss),
            "accuracy" => Ok(Self::Accuracy),
            _ => Err(Error::request(format!("best_by is {text:?}, expected \"loss\" or \"accuracy\""))),
        }
    }
}

/// Share of right answers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Accuracies {
    /// To the questions of all tasks.
    pub accuracy: f64,
    /// To those of each.
    pub tasks: BTreeMap<String, f64>,
}

impl Accuracies {
    /// Of each task's questions whether they were answered rightly.
    #[must_use]
    pub fn of(tasks: &[(&str, &[bool])]) -> Self {
        let share = |right: usize, all: usize| right as f64 / all.max(1) as f64;
        let right = |answers: &[bool]| answers.iter().filter(|right| **right).count();
        let all = tasks.iter().map(|(_, answers)| answers.len()).sum();
        Self {
            accuracy: share(tasks.iter().map(|(_, answers)| right(answers)).sum(), all),
            tasks: tasks.iter().map(|(task, own)| ((*task).to_owned(), share(right(own), own.len()))).collect(),
        }
    }
}

/// Questions that a model is asked at each validation.
pub trait ValidationTasks {
    /// How many of them it answers rightly.
    ///
    /// # Errors
    /// The model's. Interrupted.
    fn accuracies(&self, model: &Model) -> Result<Accuracies>;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_question_counts_alike() {
        let found = Accuracies::of(&[("a", &[true, true, false]), ("b", &[false])]);
        assert!((found.accuracy - 0.5).abs() < 1e-15 && (found.tasks["a"] - 2.0 / 3.0).abs() < 1e-15);
        assert_eq!((found.tasks["b"], Accuracies::of(&[]).accuracy), (0.0, 0.0));
    }
}
