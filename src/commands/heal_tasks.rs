//! Questions that `prune heal` asks at its validations.

use candle_core::Tensor;

use super::questions::Asks;
use crate::arch::ModelSpec;
use crate::checkpoint::Checkpoint;
use crate::eval::questions::TaskQuestions;
use crate::heal::{Accuracies, HealSettings, ValidationTasks};
use crate::model::{Budget, Model, Observer};
use crate::progress::{Progress, Silent};
use crate::{Context, Result};

/// Reads those that `settings` name, where they do.
///
/// # Errors
/// As [`TaskQuestions::open`].
pub(super) fn open(
    settings: &HealSettings,
    (checkpoint, spec, host): (&Checkpoint, &ModelSpec, Budget),
    progress: &dyn Progress,
) -> Result<Option<TaskQuestions>> {
    let HealSettings { eval_tasks, eval_include_path, eval_data_dir, eval_few_shot, eval_limit, .. } = settings;
    let asks = Asks {
        tasks: eval_tasks,
        include_path: eval_include_path,
        data_dir: eval_data_dir,
        few_shot: *eval_few_shot,
        limit: *eval_limit,
    };
    asks.read(checkpoint, spec, host, progress).context(|| "--eval-tasks")
}

impl ValidationTasks for TaskQuestions {
    fn accuracies(&self, model: &Model) -> Result<Accuracies> {
        let mut reader = Reader { questions: self, model, likelihoods: vec![f32::NAN; self.requests()] };
        model.run(self.batches(), &mut reader, "validation", &Silent)?;
        let right = self.judge(&reader.likelihoods)?;
        let mut rest = right.as_slice();
        let own = |(task, count)| {
            let (own, behind) = rest.split_at(count);
            rest = behind;
            (task, own)
        };
        Ok(Accuracies::of(&self.counts().into_iter().map(own).collect::<Vec<_>>()))
    }
}

/// Keeps the log-likelihoods of all requests.
struct Reader<'a> {
    questions: &'a TaskQuestions,
    model: &'a Model,
    likelihoods: Vec<f32>,
}

impl Observer for Reader<'_> {
    fn residual(&mut self, batch: usize, place: usize, x: &Tensor) -> Result<()> {
        if place == self.model.layers() {
            let read = self.questions.read(self.model, batch, x)?;
            let answered = self.questions.answered(batch);
            answered.iter().zip(read).for_each(|(request, likelihood)| self.likelihoods[*request] = likelihood);
        }
        Ok(())
    }
}
