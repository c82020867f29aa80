//! A run as it is compared: its figures, and for each document what they are made of.

use std::collections::BTreeMap;

use super::job::{Job, Part};
use super::metrics::{TaskFigure, TaskMetric};
use super::outcome::{Measure, Outcome};
use super::samples;
use super::scores::{EvalScores, TaskScore};

/// A figure of a task or group.
#[derive(Clone, Debug, PartialEq)]
pub struct SideFigure {
    /// `acc`.
    pub metric: String,
    /// Which answers it is of: `none` for all.
    pub filter: String,
    /// How much.
    pub value: f64,
    /// Standard error.
    pub stderr: Option<f64>,
    /// Whether more is better.
    pub higher_is_better: bool,
}

/// Of one document: hash of its prompt, and numerator and denominator of each figure.
pub type Parts = (String, Vec<Option<(f64, f64)>>);

/// A task or group of a run.
#[derive(Clone, Debug)]
pub struct SideTask {
    /// Name in results.
    pub name: String,
    /// What was measured.
    pub figures: Vec<SideFigure>,
    /// Documents, where they are known.
    pub documents: Option<BTreeMap<usize, Parts>>,
    /// How many documents the results speak of.
    pub count: usize,
    /// For each metric of questions, the share of them that got the commonest answer.
    pub majority: Vec<(TaskMetric, f64)>,
}

/// A run that is compared.
#[derive(Clone, Debug)]
pub struct Side {
    /// Tasks and groups.
    pub tasks: Vec<SideTask>,
    /// The tasks of each group, those of its groups included.
    pub groups: Vec<(String, Vec<String>)>,
}

impl Side {
    /// What a run that was just made has to say.
    #[must_use]
    pub fn of(job: &Job, scores: &EvalScores, paper: bool) -> Self {
        let task = |(part, score): (&Part, &TaskScore)| {
            let hashes = samples::hashes(part, paper).documents;
            let parts = |outcome: &Outcome| -> Vec<Option<(f64, f64)>> {
                outcome.measures.iter().chain(&outcome.written).map(Measure::parts).map(Some).collect()
            };
            let ids = part.prompts.documents.iter().map(|document| document.id);
            let documents = ids.zip(&score.outcomes).zip(hashes);
            let documents =
                documents.map(|((id, outcome), hashes)| (id, (hashes[1].clone(), parts(outcome)))).collect();
            SideTask {
                name: score.name.clone(),
                figures: score.figures.iter().map(measured).collect(),
                documents: Some(documents),
                count: score.outcomes.len(),
                majority: score.majorities(),
            }
        };
        let mut tasks: Vec<SideTask> = job.parts.iter().zip(&scores.tasks).map(task).collect();
        let leaf = |leaf: &usize| scores.tasks[*leaf].name.clone();
        let groups = scores.groups.iter().map(|score| &score.group);
        let groups = groups.map(|group| (group.name.clone(), group.leaves.iter().map(leaf).collect())).collect();
        tasks.extend(scores.groups.iter().map(|score| SideTask {
            name: score.group.name.clone(),
            figures: score.figures.iter().map(measured).collect(),
            documents: None,
            count: score.size,
            majority: score.majority.map(|share| (TaskMetric::ACC, share)).into_iter().collect(),
        }));
        Self { tasks, groups }
    }
}

fn measured(figure: &TaskFigure) -> SideFigure {
    SideFigure {
        metric: figure.metric.name.to_owned(),
        filter: figure.filter.to_owned(),
        value: figure.value,
        stderr: figure.stderr,
        higher_is_better: figure.metric.higher_is_better,
    }
}
