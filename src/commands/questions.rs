//! Questions of tasks for what scores layers by them.

use std::ops::Range;
use std::path::PathBuf;

use candle_core::Tensor;

use crate::arch::ModelSpec;
use crate::checkpoint::{Checkpoint, Hub};
use crate::eval::questions::TaskQuestions;
use crate::eval::settings::EvalSettings;
use crate::eval::source::TaskSource;
use crate::importance::Questions;
use crate::model::{Batch, Budget, Model};
use crate::progress::Progress;
use crate::{Error, Result};

/// Which questions, as `prune eval` is told of them.
pub(super) struct Asks<'a> {
    pub(super) tasks: &'a [String],
    pub(super) include_path: &'a Option<PathBuf>,
    pub(super) data_dir: &'a Option<PathBuf>,
    pub(super) few_shot: Option<usize>,
    pub(super) limit: Option<f64>,
}

impl Asks<'_> {
    /// Refuses what goes with questions where there are none.
    ///
    /// # Errors
    /// Request: names the flag.
    pub(super) fn check(&self) -> Result<()> {
        let given = [
            ("--include-path", self.include_path.is_some()),
            ("--data-dir", self.data_dir.is_some()),
            ("--few-shot", self.few_shot.is_some()),
            ("--limit", self.limit.is_some()),
        ];
        match given.into_iter().find(|(_, given)| *given && self.tasks.is_empty()) {
            Some((flag, _)) => Err(Error::request(format!("{flag} goes with --tasks: nothing else asks questions"))),
            None => self.settings().check(),
        }
    }

    /// Reads them, where there are any.
    ///
    /// # Errors
    /// As [`TaskQuestions::open`].
    pub(super) fn read(
        &self,
        checkpoint: &Checkpoint,
        spec: &ModelSpec,
        host: Budget,
        progress: &dyn Progress,
    ) -> Result<Option<TaskQuestions>> {
        if self.tasks.is_empty() {
            return Ok(None);
        }
        let source = match self.data_dir {
            Some(path) => TaskSource::open(path)?,
            None => TaskSource::hub(Hub::from_env()?),
        };
        TaskQuestions::open(&self.settings(), &source, (checkpoint, spec, host), progress).map(Some)
    }

    fn settings(&self) -> EvalSettings {
        EvalSettings {
            tasks: self.tasks.to_vec(),
            include_path: self.include_path.clone(),
            data_dir: self.data_dir.clone(),
            few_shot: self.few_shot,
            limit: self.limit,
            ..EvalSettings::default()
        }
    }
}

impl Questions for TaskQuestions {
    fn batches(&self) -> &[Batch] {
        self.batches()
    }

    fn answered(&self, batch: usize) -> &[usize] {
        self.answered(batch)
    }

    fn read(&self, model: &Model, batch: usize, x: &Tensor) -> Result<Vec<f32>> {
        self.read(model, batch, x)
    }

    fn choices(&self) -> &[(Range<usize>, usize)] {
        self.choices()
    }

    fn judge(&self, likelihoods: &[f32]) -> Result<Vec<bool>> {
        self.judge(likelihoods)
    }

    fn ends(&self) -> Result<Vec<(usize, usize)>> {
        self.ends()
    }
}
