//! Everything that is asked of the model in one evaluation, and what the answers amount to.

use std::collections::BTreeMap;
use std::ops::Range;

use rayon::prelude::*;
use sha2::{Digest, Sha256};

use super::chat::AppliedTemplate;
use super::code::{CodeRunner, pass_at_k};
use super::encode::Encoder;
use super::metrics::{NO_FILTER, Takes, TaskMetric, figure};
use super::outcome::{Measure, Outcome, mean};
use super::passes::{ScoredTargets, TokenRequest};
use super::prompts::{AskedDocument, Prompts, prompts};
use super::request::{Answer, Request, Written};
use super::room::Room;
use super::samples;
use super::scores::{EvalScores, GroupScore, TaskScore};
use super::select::{Group, Leaf, Selection};
use super::settings::EvalSettings;
use super::source::TaskSource;
use super::tasks::{OutputType, Task};
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
    /// For each document, its token requests.
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
    /// The token requests of all documents, in order.
    pub requests: Vec<TokenRequest>,
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
        source: &TaskSource,
        (encoder, chat): (&Encoder<'_>, Option<&AppliedTemplate>),
        settings: &EvalSettings,
        room: &Room,
        progress: &dyn Progress,
    ) -> Result<Self> {
        let mut job = Self { parts: Vec::new(), groups: selection.groups, requests: Vec::new(), bytes: 0 };
        for leaf in selection.leaves {
            interrupt::check()?;
            let prompts = prompts(&leaf, chat, source, settings, room, progress)?;
            job.parts.push(Part { leaf, prompts, asked: Vec::new(), leads: Vec::new() });
        }
        if chat.is_some_and(|chat| chat.is_systemless.get()) {
            progress.warn("the chat template refuses what the system says; it is left out, as in the reference");
        }
        progress.begin("tokenising", job.documents() as u64, Unit::Items);
        let mut truncated = 0;
        for part in &mut job.parts {
            interrupt::check()?;
            let documents = &part.prompts.documents;
            // a chunk at a time: what is too much is found before it is there
            let mut left = documents.as_slice();
            while !left.is_empty() {
                interrupt::check()?;
                let documents;
                (documents, left) = left.split_at(chunk(left));
                let taken = room.taken();
                let encode = |document: &AskedDocument| {
                    encoder.document(document, taken).context(|| place(&part.leaf, document))
                };
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
            Some(place(&part.leaf, &part.prompts.documents[index]))
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

    /// What came out for every document, in order.
    ///
    /// # Errors
    /// A document that its task cannot judge.
    pub(super) fn outcomes(&self, answers: &[Answer]) -> Result<Vec<Outcome>> {
        let parts = self.parts.iter().map(|part| part.outcomes(&self.requests, answers, None));
        Ok(parts.collect::<Result<Vec<_>>>()?.concat())
    }

    /// Of each document the requests that are its choices, and which of those is right.
    ///
    /// # Errors
    /// Work: one without choices.
    pub(super) fn choices(&self) -> Result<Vec<(Range<usize>, usize)>> {
        let of = |part: &Part| {
            let documents = part.prompts.documents.iter().zip(&part.asked);
            let choices = documents.map(|(document, asked)| {
                let gold = part.leaf.task.gold(&document.row).context(|| place(&part.leaf, document))?;
                let gold = gold.filter(|gold| *gold < asked.len());
                Ok((asked.clone(), gold.ok_or_else(|| Error::work(place(&part.leaf, document) + ": no choices"))?))
            });
            choices.collect::<Result<Vec<_>>>()
        };
        Ok(self.parts.iter().map(of).collect::<Result<Vec<_>>>()?.concat())
    }

    /// What the answers to all requests amount to. `vocabulary` is the number of tokens the model knows; `known` has
    /// the outcomes of parts that were scored before; `runner` runs programs, which have no figures without.
    ///
    /// # Errors
    /// A task without a token to predict, or a figure that no number can hold: a perplexity of hundreds of nats.
    pub fn scores(
        &self,
        answers: &[Answer],
        mut known: Known,
        vocabulary: usize,
        runner: Option<(&CodeRunner, &dyn Progress)>,
    ) -> Result<EvalScores> {
        let score = |(place, part): (usize, &Part)| {
            let outcomes = match known.remove(&place) {
                Some(outcomes) => outcomes,
                None => part.outcomes(&self.requests, answers, runner)?,
            };
            Ok(part.score(outcomes, vocabulary))
        };
        let tasks: Vec<TaskScore> = self.parts.iter().enumerate().map(score).collect::<Result<_>>()?;
        tasks.iter().try_for_each(TaskScore::check)?;
        let groups = self.groups.iter().map(|group| GroupScore::new(group, &tasks)).collect();
        Ok(EvalScores { tasks, groups })
    }
}

impl Part {
    fn outcomes(
        &self,
        requests: &[TokenRequest],
        answers: &[Answer],
        runner: Option<(&CodeRunner, &dyn Progress)>,
    ) -> Result<Vec<Outcome>> {
        let (task, documents) = (self.leaf.task, &self.prompts.documents);
        let said = documents.iter().zip(&self.asked).zip(&self.leads).map(|((document, asked), lead)| {
            answered(document, &requests[asked.clone()], &answers[asked.clone()], *lead)
        });
        let said: Vec<Vec<Answer>> = said.collect();
        let mut passed = vec![Vec::new(); documents.len()];
        if let Some((runner, progress)) = runner.filter(|_| task.about().is_code()) {
            let programs = |(document, said): (&AskedDocument, &Vec<Answer>)| {
                programs(task, document, said).context(|| place(&self.leaf, document))
            };
            let programs = documents.iter().zip(&said).map(programs).collect::<Result<Vec<_>>>()?;
            let mut ran = runner.passes(&programs.concat(), progress)?.into_iter();
            passed = programs.iter().map(|own| ran.by_ref().take(own.len()).collect()).collect();
        }
        let outcomes = documents.iter().zip(said).zip(passed).map(|((document, said), passed)| {
            judge(task, document, said, passed).context(|| place(&self.leaf, document))
        });
        outcomes.collect()
    }

    fn score(&self, outcomes: Vec<Outcome>, vocabulary: usize) -> TaskScore {
        // programs that were not run have no figures
        let is_scored = outcomes.iter().all(|outcome| !outcome.measures.is_empty());
        let measured = self.leaf.task.about().measured().enumerate().filter(|_| is_scored);
        let figures = measured.map(|(index, (filter, metric))| {
            let parts: Vec<(f64, f64)> = outcomes.iter().map(|outcome| outcome.measures[index].parts()).collect();
            figure(metric, filter.name, &parts, vocabulary)
        });
        let metrics = self.leaf.task.about().written();
        let is_known = outcomes.iter().all(|outcome| outcome.written.len() == metrics.len());
        let written = metrics.iter().enumerate().filter(|_| is_known).map(|(index, metric)| {
            let parts: Vec<(f64, f64)> = outcomes.iter().map(|outcome| outcome.written[index].parts()).collect();
            figure(*metric, NO_FILTER, &parts, vocabulary)
        });
        let figures = figures.chain(written);
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
        let documents = &self.prompts.documents;
        let has_choices = self.leaf.task.about().output == OutputType::MultipleChoice && !documents.is_empty();
        // where no single choice is right, guessing scores something else
        let chance = |document: &AskedDocument| {
            self.leaf.task.gold(&document.row).ok()?.map(|_| 1.0 / document.requests.len().max(1) as f64)
        };
        let sum = has_choices.then(|| documents.iter().map(chance).sum::<Option<f64>>())?;
        Some(sum? / documents.len() as f64)
    }
}

/// How many of `documents` are tokenised at a time.
fn chunk(documents: &[AskedDocument]) -> usize {
    let (most, bytes) = CHUNK;
    let mut sum = 0;
    let fitting = documents.iter().take(most).take_while(|document| {
        let fits = sum < bytes;
        sum += document.bytes();
        fits
    });
    fitting.count()
}

fn digest(requests: &[TokenRequest]) -> String {
    let mut digest = Sha256::new();
    let mut numbers = |numbers: &[u32]| {
        digest.update((numbers.len() as u64).to_le_bytes());
        numbers.iter().for_each(|number| digest.update(number.to_le_bytes()));
    };
    for TokenRequest { input, from, targets } in requests {
        numbers(input);
        match targets {
            ScoredTargets::Sequence(tokens) => numbers(&[&[*from as u32, 0], tokens.as_slice()].concat()),
            ScoredTargets::AnyOf(tokens) => numbers(&[&[*from as u32, 1], tokens.as_slice()].concat()),
            ScoredTargets::Until { until, most, draw } => {
                numbers(&[*from as u32, 2, *most as u32]);
                draw.iter().for_each(|draw| numbers(&format!("{draw:?}").bytes().map(u32::from).collect::<Vec<_>>()));
                until.iter().for_each(|text| numbers(&text.bytes().map(u32::from).collect::<Vec<_>>()));
            }
        }
    }
    format!("{:x}", digest.finalize())
}

/// Which document it is, for messages.
fn place(leaf: &Leaf, document: &AskedDocument) -> String {
    format!("{}, document {}", leaf.name, document.id)
}

/// The answers to a document's requests, of the answers to its token requests: a text's windows are one.
fn answered(document: &AskedDocument, requests: &[TokenRequest], answers: &[Answer], lead: bool) -> Vec<Answer> {
    if matches!(document.requests[..], [Request::LogLikelihoodRolling { .. }]) {
        vec![rolled(requests, answers, lead)]
    } else {
        answers.to_vec()
    }
}

/// The windows of a text; `lead` says that the first one is a special token in front.
fn rolled(requests: &[TokenRequest], answers: &[Answer], lead: bool) -> Answer {
    let skipped = usize::from(lead);
    let sum = |answers: &[Answer]| answers.iter().filter_map(Answer::log_likelihood).sum::<f64>();
    // the special token in front and the rest of its window are one f32 number in the reference
    let first = sum(&answers[..answers.len().min(1 + skipped)]) as f32;
    Answer::Rolling {
        log_likelihood: f64::from(first) + sum(answers.get(1 + skipped..).unwrap_or_default()),
        own: sum(answers.get(skipped..).unwrap_or_default()),
        tokens: requests.iter().skip(skipped).map(|request| request.targets.len()).sum(),
    }
}

/// The programs that a model's answers are, with what runs behind them.
fn programs(task: &dyn Task, document: &AskedDocument, answers: &[Answer]) -> Result<Vec<String>> {
    let tests = task.tests(&document.row)?;
    let all = task.about().filters.iter().map(|filter| task.filtered(filter, &document.row, answers));
    let program = |answer: &Answer| match answer {
        Answer::Text(said) => Ok(format!("{}\n{tests}", said.text)),
        _ => Err(Error::work("an answer that is no program")),
    };
    all.collect::<Result<Vec<_>>>()?.concat().iter().map(program).collect()
}

/// What `answers` to the requests of `document` amount to; of programs, of which each `passed` or did not.
pub(super) fn judge(
    task: &dyn Task,
    document: &AskedDocument,
    answers: Vec<Answer>,
    passed: Vec<bool>,
) -> Result<Outcome> {
    let mut measures = Vec::new();
    let written: Option<Vec<Written>> = answers.iter().map(Answer::written).collect();
    let written = written.unwrap_or_default();
    let measure = |metric: &TaskMetric| match metric.takes {
        Takes::Written(of) => mean(&written, of).map(|sum| Measure { sum, weight: 1.0, chosen: None }),
        _ => None,
    };
    let written: Vec<Measure> = task.about().written().iter().filter_map(measure).collect();
    if task.about().is_code() {
        let (all, right) = (passed.len(), passed.iter().filter(|passed| **passed).count());
        for metric in task.about().metrics.iter().filter(|_| all > 0) {
            let Takes::Passed(k) = metric.takes else { return Err(task.about().misplaced(metric)) };
            measures.push(Measure { sum: pass_at_k(all, right, k), weight: 1.0, chosen: None });
        }
        return Ok(Outcome { answers, measures, written, passed });
    }
    for filter in task.about().filters {
        measures.extend(task.judge(&document.row, &task.filtered(filter, &document.row, &answers)?)?);
    }
    if measures.len() != task.about().measured().count() {
        return Err(Error::work("the task measures something else than its metrics"));
    }
    Ok(Outcome { answers, measures, written, passed })
}
