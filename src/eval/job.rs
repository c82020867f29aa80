//! Everything that is asked of the model in one evaluation, and what the answers amount to.

use std::collections::BTreeMap;
use std::ops::Range;

use rayon::prelude::*;
use sha2::{Digest, Sha256};

use super::encode::Encoder;
use super::metrics::{Answer, Figure, Metric, Outcome, figure, majority, pooled};
use super::passes::{Request, Targets};
use super::prompts::{Body, Document, Prompts, prompts};
use super::room::Room;
use super::samples;
use super::select::{Group, Leaf, Selection};
use super::settings::EvalSettings;
use super::source::Source;
use crate::progress::{Progress, Unit};
use crate::{Context, Error, Result, interrupt};

/// Outcomes of parts that were scored before, by their place.
pub type Known = BTreeMap<usize, Vec<Outcome>>;

/// Documents tokenised at a time, and bytes of their text, about.
const CHUNK: (usize, usize) = (256, 4 << 20);

/// One task's documents and the places of their requests.
#[derive(Debug)]
pub struct Part {
    /// The task.
    pub leaf: Leaf,
    /// Its documents.
    pub prompts: Prompts,
    /// For each document, its requests.
    asked: Vec<Range<usize>>,
    /// For each document, whether the first request is a special token in front of a text.
    leads: Vec<bool>,
}

/// All requests of all tasks.
#[derive(Debug)]
pub struct Job {
    /// The tasks.
    pub parts: Vec<Part>,
    /// Their groups.
    pub groups: Vec<Group>,
    /// The requests of all documents, in order.
    pub requests: Vec<Request>,
    /// Memory that all of it takes, about.
    pub bytes: u64,
}

impl Job {
    /// Reads the data and tokenises them.
    ///
    /// # Errors
    /// Data that are not there or malformed, a prompt that cannot be scored; each names its place.
    pub fn prepare(
        selection: Selection,
        source: &Source,
        encoder: &Encoder<'_>,
        settings: &EvalSettings,
        room: &Room,
        progress: &dyn Progress,
    ) -> Result<Self> {
        let mut job = Self { parts: Vec::new(), groups: selection.groups, requests: Vec::new(), bytes: 0 };
        for leaf in selection.leaves {
            interrupt::check()?;
            let prompts = prompts(&leaf, source, settings, room, progress)?;
            job.parts.push(Part { leaf, prompts, asked: Vec::new(), leads: Vec::new() });
        }
        progress.begin("tokenising", job.documents() as u64, Unit::Items);
        let mut truncated = 0;
        for part in &mut job.parts {
            interrupt::check()?;
            let documents = &part.prompts.documents;
            let place = |document: &Document| format!("{}, document {}", part.leaf.name, document.id);
            // a chunk at a time: what is too much is found before it is there
            let mut left = documents.as_slice();
            while !left.is_empty() {
                interrupt::check()?;
                let documents;
                (documents, left) = left.split_at(chunk(left));
                let taken = room.taken();
                let encode = |document: &Document| encoder.document(document, taken).context(|| place(document));
                let asked: Vec<_> = documents.par_iter().map(encode).collect();
                for asked in asked {
                    let asked = asked?;
                    truncated += usize::from(asked.truncated > 0);
                    let first = job.requests.len();
                    room.requests(&asked.requests)?;
                    job.requests.extend(asked.requests);
                    part.asked.push(first..job.requests.len());
                    part.leads.push(asked.lead);
                }
                progress.advance(documents.len() as u64);
            }
        }
        progress.end();
        job.bytes = room.bytes();
        if truncated > 0 {
            progress.warn(&format!(
                "{truncated} prompts are longer than the model's context and lose their beginning, as in the reference"
            ));
        }
        Ok(job)
    }

    /// The requests of each task.
    #[must_use]
    pub fn ranges(&self) -> Vec<Range<usize>> {
        let bounds = |part: &Part| match (part.asked.first(), part.asked.last()) {
            (Some(first), Some(last)) => first.start..last.end,
            _ => 0..0,
        };
        self.parts.iter().map(bounds).collect()
    }

    /// Documents of all tasks.
    #[must_use]
    pub fn documents(&self) -> usize {
        self.parts.iter().map(|part| part.prompts.documents.len()).sum()
    }

    /// Tokens that scoring one request after the other would run.
    #[must_use]
    pub fn tokens(&self) -> usize {
        self.requests.iter().map(|request| request.input.len()).sum()
    }

    /// The document that asks request `request`.
    #[must_use]
    pub fn name(&self, request: usize) -> String {
        let of = |part: &Part| {
            let index = part.asked.iter().position(|asked| asked.contains(&request))?;
            Some(format!("{}, document {}", part.leaf.name, part.prompts.documents[index].id))
        };
        self.parts.iter().find_map(of).unwrap_or_else(|| format!("request {request}"))
    }

    /// SHA-256 of every request.
    #[must_use]
    pub fn digest(&self) -> String {
        digest(&self.requests)
    }

    /// For each task, SHA-256 of its requests: the same where it asks the same.
    #[must_use]
    pub fn digests(&self) -> Vec<String> {
        self.ranges().into_iter().map(|range| digest(&self.requests[range])).collect()
    }

    /// For each task, the reference's hash of its documents, prompts and targets.
    #[must_use]
    pub fn hashes(&self, paper: bool) -> Vec<String> {
        self.parts.iter().map(|part| samples::hashes(part, paper).task).collect()
    }

    /// What the answers to all requests amount to. `vocabulary` is the number of tokens the model knows; `known` has
    /// the outcomes of parts that were scored before.
    ///
    /// # Errors
    /// A task without a token to predict, or a figure that no number can hold: a perplexity of hundreds of nats.
    pub fn scores(&self, answers: &[Answer], mut known: Known, vocabulary: usize) -> Result<Scores> {
        let score = |(place, part): (usize, &Part)| {
            let outcomes = known.remove(&place).unwrap_or_else(|| part.outcomes(&self.requests, answers));
            part.score(outcomes, vocabulary)
        };
        let tasks: Vec<TaskScore> = self.parts.iter().enumerate().map(score).collect();
        tasks.iter().try_for_each(TaskScore::check)?;
        let groups = self.groups.iter().map(|group| GroupScore::new(group, &tasks)).collect();
        Ok(Scores { tasks, groups })
    }
}

impl Part {
    fn outcomes(&self, requests: &[Request], answers: &[Answer]) -> Vec<Outcome> {
        let documents = self.prompts.documents.iter().zip(&self.asked).zip(&self.leads);
        let outcomes = documents.map(|((document, asked), lead)| {
            outcome(document, &requests[asked.clone()], &answers[asked.clone()], *lead)
        });
        outcomes.collect()
    }

    fn score(&self, outcomes: Vec<Outcome>, vocabulary: usize) -> TaskScore {
        let figures = self.leaf.task.metrics.iter().map(|metric| {
            let parts: Vec<(f64, f64)> = outcomes.iter().map(|outcome| outcome.parts(*metric)).collect();
            figure(*metric, &parts, vocabulary)
        });
        TaskScore {
            name: self.leaf.name.clone(),
            alias: self.leaf.alias().to_owned(),
            shots: self.prompts.shots,
            chance: self.chance(),
            figures: figures.collect(),
            outcomes,
        }
    }

    /// What guessing would score: the mean of one over the number of choices.
    fn chance(&self) -> Option<f64> {
        let of = |document: &Document| match &document.body {
            Body::Question { question, .. } => Some(1.0 / question.choices().max(1) as f64),
            Body::Text(_) => None,
        };
        let chances: Option<Vec<f64>> = self.prompts.documents.iter().map(of).collect();
        chances.filter(|chances| !chances.is_empty()).map(|all| all.iter().sum::<f64>() / all.len() as f64)
    }
}

/// How many of `documents` are tokenised at a time.
fn chunk(documents: &[Document]) -> usize {
    let (most, bytes) = CHUNK;
    let mut sum = 0;
    let fitting = documents.iter().take(most).take_while(|document| {
        let fits = sum < bytes;
        sum += document.body.bytes();
        fits
    });
    fitting.count()
}

fn digest(requests: &[Request]) -> String {
    let mut digest = Sha256::new();
    let mut numbers = |numbers: &[u32]| {
        digest.update((numbers.len() as u64).to_le_bytes());
        numbers.iter().for_each(|number| digest.update(number.to_le_bytes()));
    };
    for Request { input, from, targets } in requests {
        numbers(input);
        match targets {
            Targets::Sequence(tokens) => numbers(&[&[*from as u32, 0], tokens.as_slice()].concat()),
            Targets::AnyOf(tokens) => numbers(&[&[*from as u32, 1], tokens.as_slice()].concat()),
        }
    }
    format!("{:x}", digest.finalize())
}

fn outcome(document: &Document, requests: &[Request], answers: &[Answer], lead: bool) -> Outcome {
    match &document.body {
        Body::Question { question, .. } => Outcome::choice(question, answers.to_vec()),
        Body::Text(text) => {
            let skipped = usize::from(lead);
            let sum = |answers: &[Answer]| answers.iter().map(|answer| f64::from(answer.log_likelihood)).sum::<f64>();
            // the special token in front and the rest of its window are one f32 number in the reference
            let first = sum(&answers[..answers.len().min(1 + skipped)]) as f32;
            let all = f64::from(first) + sum(answers.get(1 + skipped..).unwrap_or_default());
            let own = sum(answers.get(skipped..).unwrap_or_default());
            let tokens = requests.iter().skip(skipped).map(|request| match &request.targets {
                Targets::Sequence(tokens) => tokens.len(),
                Targets::AnyOf(_) => 1,
            });
            Outcome::text(text, all, own, tokens.sum())
        }
    }
}

/// A task's figures.
#[derive(Clone, Debug)]
pub struct TaskScore {
    /// Name in results.
    pub name: String,
    /// Name in tables.
    pub alias: String,
    /// Examples in front of every question.
    pub shots: usize,
    /// Accuracy of guessing; absent for texts.
    pub chance: Option<f64>,
    /// What was measured.
    pub figures: Vec<Figure>,
    /// Document by document.
    pub outcomes: Vec<Outcome>,
}

impl TaskScore {
    /// Share of the questions that got the commonest answer, as `metric` judges them; absent for texts.
    #[must_use]
    pub fn majority(&self, metric: Metric) -> Option<f64> {
        majority(self.outcomes.iter().filter_map(|outcome| outcome.chosen(metric)))
    }

    /// Log-likelihoods are finite when they come here; what they amount to has to be as well.
    fn check(&self) -> Result<()> {
        let nothing = |outcome: &Outcome| matches!(outcome, Outcome::Text { tokens: 0, .. });
        if self.outcomes.iter().all(nothing) {
            return Err(Error::work(format!("{}: no document has a token to predict", self.name)));
        }
        let Some(figure) = self.figures.iter().find(|figure| !figure.value.is_finite()) else { return Ok(()) };
        let loss = self.figure(Metric::Loss).map(|loss| format!(", at a loss of {:.1} nats a token", loss.value));
        Err(Error::work(format!(
            "{}: {} is larger than a number can be{}: the model is broken",
            self.name,
            figure.metric.name(),
            loss.unwrap_or_default()
        )))
    }

    /// The figure of a metric.
    #[must_use]
    pub fn figure(&self, metric: Metric) -> Option<&Figure> {
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
    pub figures: Vec<Figure>,
    /// Share of the questions of all its tasks that got the commonest answer.
    pub majority: Option<f64>,
}

impl GroupScore {
    fn new(group: &Group, tasks: &[TaskScore]) -> Self {
        let members: Vec<&TaskScore> = group.leaves.iter().filter_map(|leaf| tasks.get(*leaf)).collect();
        let accuracy = members.iter().filter_map(|task| {
            let figure = task.figure(Metric::Acc)?;
            Some((figure.value, figure.stderr, task.outcomes.len()))
        });
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
            figures: vec![pooled(Metric::Acc, &accuracy.collect::<Vec<_>>())],
            majority: majority(
                members.iter().flat_map(|task| &task.outcomes).filter_map(|outcome| outcome.chosen(Metric::Acc)),
            ),
        }
    }
}

/// Figures of all tasks and groups.
#[derive(Clone, Debug)]
pub struct Scores {
    /// In the order they were asked for.
    pub tasks: Vec<TaskScore>,
    /// Children before their parents.
    pub groups: Vec<GroupScore>,
}
