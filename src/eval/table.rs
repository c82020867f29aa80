//! The lines of an evaluation's table.

use super::scores::EvalScores;
use serde::{Deserialize, Serialize};

use super::degenerate::Degenerate;
use super::metrics::{Takes, TaskFigure, TaskMetric};

/// One figure of a task or group.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FigureReport {
    /// Name in results.
    pub task: String,
    /// Name in tables.
    pub alias: String,
    /// How deep the task is in its groups.
    pub depth: usize,
    /// Examples in front of each question; absent where a group's tasks differ.
    pub shots: Option<usize>,
    /// Documents.
    pub documents: usize,
    /// What was measured, and of which part of the answers where it is not all of them.
    pub metric: String,
    /// How much.
    pub value: f64,
    /// Standard error.
    pub stderr: Option<f64>,
    /// What guessing would score; absent where there are no choices.
    pub chance: Option<f64>,
    /// Share of the questions that got the commonest answer; absent for losses.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub majority: Option<f64>,
    /// Why the figure says nothing good of the model.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub degenerate: Option<Degenerate>,
}

/// Groups from the top down with their members, then the tasks that are in none.
#[must_use]
pub fn figures(scores: &EvalScores) -> Vec<FigureReport> {
    let mut rows = Vec::new();
    let nested = |name: &str| scores.groups.iter().any(|score| score.group.children.iter().any(|child| child == name));
    let groups = scores.groups.iter().map(|score| score.group.name.as_str());
    let tasks = scores.tasks.iter().map(|task| task.name.as_str());
    for name in groups.chain(tasks).filter(|name| !nested(name)) {
        descend(scores, name, 0, &mut rows);
    }
    rows
}

fn descend(scores: &EvalScores, name: &str, depth: usize, rows: &mut Vec<FigureReport>) {
    type Majority<'a> = &'a dyn Fn(TaskMetric) -> Option<f64>;
    let mut add =
        |alias: &str, shots, documents, chance: Option<f64>, majority: Majority<'_>, figures: &[TaskFigure]| {
            rows.extend(figures.iter().map(|figure| {
                let share = majority(figure.metric);
                let answers = share.and_then(|share| Degenerate::of_answers(share, figure.value, documents));
                FigureReport {
                    task: name.to_owned(),
                    alias: alias.to_owned(),
                    depth,
                    shots,
                    documents,
                    metric: figure.name(),
                    value: figure.value,
                    stderr: figure.stderr,
                    chance: chance.filter(|_| matches!(figure.metric.takes, Takes::Choice(_))),
                    majority: share,
                    degenerate: answers
                        .or_else(|| Degenerate::of_written(figure.metric, figure.value, documents))
                        .or_else(|| Degenerate::of_loss(figures)),
                }
            }));
        };
    if let Some(score) = scores.groups.iter().find(|score| score.group.name == name) {
        add(&score.group.alias, score.shots, score.size, score.chance, &|_| score.majority, &score.figures);
        for child in &score.group.children {
            descend(scores, child, depth + 1, rows);
        }
    } else if let Some(task) = scores.tasks.iter().find(|task| task.name == name) {
        let majority = |metric| task.majority(metric);
        add(&task.alias, Some(task.shots), task.outcomes.len(), task.chance, &majority, &task.figures);
    }
}
