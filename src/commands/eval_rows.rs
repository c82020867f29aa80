//! The lines of an evaluation's table.

use super::eval::FigureReport;
use crate::eval::degenerate::Degenerate;
use crate::eval::job::Scores;
use crate::eval::metrics::{Figure, Metric};

/// Groups from the top down with their members, then the tasks that are in none.
pub(super) fn figures(scores: &Scores) -> Vec<FigureReport> {
    let mut rows = Vec::new();
    let nested = |name: &str| scores.groups.iter().any(|score| score.group.children.iter().any(|child| child == name));
    let groups = scores.groups.iter().map(|score| score.group.name.as_str());
    let tasks = scores.tasks.iter().map(|task| task.name.as_str());
    for name in groups.chain(tasks).filter(|name| !nested(name)) {
        descend(scores, name, 0, &mut rows);
    }
    rows
}

fn descend(scores: &Scores, name: &str, depth: usize, rows: &mut Vec<FigureReport>) {
    type Majority<'a> = &'a dyn Fn(Metric) -> Option<f64>;
    let mut add = |alias: &str, shots, documents, chance: Option<f64>, majority: Majority<'_>, figures: &[Figure]| {
        rows.extend(figures.iter().map(|figure| {
            let share = majority(figure.metric);
            let answers = share.and_then(|share| Degenerate::of_answers(share, figure.value, documents));
            FigureReport {
                task: name.to_owned(),
                alias: alias.to_owned(),
                depth,
                shots,
                documents,
                metric: figure.metric.name().to_owned(),
                value: figure.value,
                stderr: figure.stderr,
                chance: chance.filter(|_| figure.metric.higher_is_better()),
                majority: share,
                degenerate: answers.or_else(|| Degenerate::of_loss(figures)),
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
