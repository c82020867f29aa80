//! Figures of tasks and groups.

use super::metrics::{TaskFigure, TaskMetric, pooled};
use super::outcome::{Outcome, majority};
use super::select::{Aggregate, Group};
use crate::{Error, Result};

/// A task's figures.
#[derive(Clone, Debug)]
pub struct TaskScore {
    /// Name in results.
    pub name: String,
    /// Name in tables.
    pub alias: String,
    /// Examples in front of every question.
    pub shots: usize,
    /// Accuracy of guessing; absent where there are no choices.
    pub chance: Option<f64>,
    /// What was measured.
    pub figures: Vec<TaskFigure>,
    /// Document by document.
    pub outcomes: Vec<Outcome>,
}

impl TaskScore {
    /// The choices that `metric` takes.
    fn chosen(&self, metric: TaskMetric) -> impl Iterator<Item = usize> {
        let place = self.figures.iter().position(|figure| figure.metric == metric);
        self.outcomes.iter().filter_map(move |outcome| outcome.measures.get(place?)?.chosen)
    }

    /// Share of the questions that got the commonest answer, as `metric` judges them; absent where there are no
    /// choices.
    #[must_use]
    pub fn majority(&self, metric: TaskMetric) -> Option<f64> {
        majority(self.chosen(metric))
    }

    /// The same for each metric that has choices.
    pub(super) fn majorities(&self) -> Vec<(TaskMetric, f64)> {
        let metrics = self.figures.iter().map(|figure| figure.metric);
        metrics.filter_map(|metric| Some((metric, self.majority(metric)?))).collect()
    }

    /// Log-likelihoods are finite when they come here; what they amount to has to be as well.
    pub(super) fn check(&self) -> Result<()> {
        if self.outcomes.iter().all(Outcome::is_nothing) {
            return Err(Error::work(format!("{}: no document has a token to predict", self.name)));
        }
        let Some(figure) = self.figures.iter().find(|figure| !figure.value.is_finite()) else { return Ok(()) };
        let loss = self.figure(TaskMetric::LOSS).map(|loss| format!(", at a loss of {:.1} nats a token", loss.value));
        Err(Error::work(format!(
            "{}: {} is larger than a number can be{}: the model is broken",
            self.name,
            figure.metric.name,
            loss.unwrap_or_default()
        )))
    }

    /// The figure of a metric.
    #[must_use]
    pub fn figure(&self, metric: TaskMetric) -> Option<&TaskFigure> {
        self.figures.iter().find(|figure| figure.metric == metric)
    }
}

/// A group's figures.
#[derive(Clone, Debug)]
pub struct GroupScore {
    /// The group.
    pub group: Group,
    /// Questions of all its tasks.
    pub size: usize,
    /// Examples, where all its tasks show as many.
    pub shots: Option<usize>,
    /// Accuracy of guessing; absent where a task has texts.
    pub chance: Option<f64>,
    /// What was measured.
    pub figures: Vec<TaskFigure>,
    /// For each figure, questions of the tasks that it is of.
    pub counts: Vec<usize>,
    /// Share of the questions of all its tasks that got the commonest answer.
    pub majority: Option<f64>,
}

impl GroupScore {
    pub(super) fn new(group: &Group, tasks: &[TaskScore]) -> Self {
        let members: Vec<&TaskScore> = group.leaves.iter().filter_map(|leaf| tasks.get(*leaf)).collect();
        let (figures, counts) = group.aggregates.iter().flat_map(|it| averages(it, &members)).unzip();
        let has_accuracy = group.aggregates.iter().any(|aggregate| aggregate.metric == TaskMetric::ACC.name);
        let shots =
            members.first().map(|first| first.shots).filter(|shots| members.iter().all(|task| task.shots == *shots));
        let size: usize = members.iter().map(|task| task.outcomes.len()).sum();
        let weighted: Option<Vec<f64>> =
            members.iter().map(|task| Some(task.chance? * task.outcomes.len() as f64)).collect();
        Self {
            group: group.clone(),
            size,
            shots,
            chance: weighted.filter(|_| size > 0).map(|all| all.iter().sum::<f64>() / size as f64),
            figures,
            counts,
            majority: has_accuracy
                .then(|| majority(members.iter().flat_map(|task| task.chosen(TaskMetric::ACC))))
                .flatten(),
        }
    }
}

/// What `members` have of a metric, averaged, one a filter; and how many questions that are.
fn averages(aggregate: &Aggregate, members: &[&TaskScore]) -> Vec<(TaskFigure, usize)> {
    let all = || members.iter().flat_map(|task| task.figures.iter().map(|figure| (figure, task.outcomes.len())));
    let is_it = |figure: &TaskFigure| figure.metric.name == aggregate.metric;
    let mut filters: Vec<&'static str> = Vec::new();
    for (figure, _) in all().filter(|(figure, _)| is_it(figure)) {
        let is_asked = aggregate.filters.as_ref().is_none_or(|asked| asked.iter().any(|name| name == figure.filter));
        if is_asked && !filters.contains(&figure.filter) {
            filters.push(figure.filter);
        }
    }
    match &aggregate.filters {
        Some(asked) => filters.sort_by_key(|filter| asked.iter().position(|name| name == filter)),
        None => filters.sort_unstable(),
    }
    let average = |filter: &&'static str| {
        let of = all().filter(|(figure, _)| is_it(figure) && figure.filter == *filter);
        let metric = of.clone().next().map(|(figure, _)| figure.metric)?;
        let values: Vec<_> = of.map(|(figure, size)| (figure.value, figure.stderr, size)).collect();
        let size = values.iter().map(|(_, _, size)| size).sum();
        Some((pooled((metric, filter), &values, aggregate.weight_by_size), size))
    };
    filters.iter().filter_map(average).collect()
}

/// Figures of all tasks and groups.
#[derive(Clone, Debug)]
pub struct EvalScores {
    /// In the order they were asked for.
    pub tasks: Vec<TaskScore>,
    /// Children before their parents.
    pub groups: Vec<GroupScore>,
}
