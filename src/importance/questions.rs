//! What a model makes of questions with choices: without some layers, and at each depth.

use std::ops::Range;

use candle_core::Tensor;

use super::metrics::{Evaluate, Metric, Subject};
use super::moments::{Moments, Scores};
use super::removals::Removals;
use super::shared::Shared;
use crate::arch::ModelSpec;
use crate::model::{Batch, EndOfStack, Loss, Model, Observer, Stacks};
use crate::progress::Progress;
use crate::{Error, Result};

/// Questions with choices. Each choice is a request; the log-likelihoods of all tell what is answered.
pub trait Questions {
    /// The passes that ask them, in which requests may share what they begin with.
    fn batches(&self) -> &[Batch];

    /// The requests that batch `batch` answers.
    fn answered(&self, batch: usize) -> &[usize];

    /// Log-likelihoods of those, in nats and in their order, from the stream `x` `[t, d]` that final norm and head see.
    ///
    /// # Errors
    /// A number that is not finite.
    fn read(&self, model: &Model, batch: usize, x: &Tensor) -> Result<Vec<f32>>;

    /// Of each question the requests that are its choices, and which of those is right.
    fn choices(&self) -> &[(Range<usize>, usize)];

    /// Of each question whether it is answered rightly, from the log-likelihoods of all requests.
    ///
    /// # Errors
    /// A question that cannot be judged.
    fn judge(&self, likelihoods: &[f32]) -> Result<Vec<bool>>;

    /// Of each question the batch, and the token in it, after which it is to be answered.
    ///
    /// # Errors
    /// Request: choices that stand after texts of their own.
    fn ends(&self) -> Result<Vec<(usize, usize)>>;
}

/// Requests of all questions.
fn requests(questions: &dyn Questions) -> usize {
    questions.choices().iter().map(|(choices, _)| choices.end).max().unwrap_or(0)
}

/// The scores of those of `metrics` that look at questions, of `model` on `questions`; shared out where other processes
/// have both.
///
/// # Errors
/// As [`Model::run`]; questions that a metric cannot look at.
pub fn measure_questions(
    model: &Model,
    metrics: &[&'static Metric],
    (questions, shared): (&dyn Questions, Option<&Shared<'_>>),
    progress: &dyn Progress,
) -> Result<Vec<Scores>> {
    let mut scores = at_depths(model, metrics, questions, progress)?;
    let removals = Removals::of_questions(model.layers(), metrics.iter().copied());
    if !removals.is_empty() {
        scores.extend(match shared {
            Some(shared) => removals.ask_shared(shared, progress)?,
            None => removals.ask(model, questions, progress)?,
        });
    }
    Ok(scores)
}

/// For each of `stacks` and each question 1 where it is answered wrongly: `[stack][question]`.
pub(super) fn wrong(
    model: &Model,
    stacks: Stacks<'_>,
    questions: &dyn Questions,
    progress: &dyn Progress,
) -> Result<Vec<Vec<Loss>>> {
    let mut found = vec![vec![f32::NAN; requests(questions)]; stacks.stacks.len()];
    let mut see = |end: &EndOfStack<'_>| {
        let read = questions.read(model, end.index(), end.x)?;
        for &stack in end.stacks {
            for (&request, &likelihood) in questions.answered(end.index()).iter().zip(&read) {
                found[stack][request] = likelihood;
            }
        }
        Ok(())
    };
    model.run_stacks_on(stacks, questions.batches(), "asking questions", progress, &mut see)?;
    let judged = found.iter().map(|likelihoods| {
        let right = questions.judge(likelihoods)?;
        Ok(right.into_iter().map(|right| Loss { sum: f64::from(u8::from(!right)), tokens: 1 }).collect())
    });
    judged.collect()
}

/// Those of `metrics` that look at the streams of questions at each depth, from one pass.
fn at_depths(
    model: &Model,
    metrics: &[&'static Metric],
    questions: &dyn Questions,
    progress: &dyn Progress,
) -> Result<Vec<Scores>> {
    let of_choices: Vec<_> = metrics
        .iter()
        .filter_map(|metric| if let Evaluate::Choices(value) = metric.value { Some((*metric, value)) } else { None })
        .collect();
    let probes: Vec<_> = metrics
        .iter()
        .filter_map(|metric| if let Evaluate::Probe(right) = metric.value { Some((*metric, right)) } else { None })
        .collect();
    if of_choices.is_empty() && probes.is_empty() {
        return Ok(Vec::new());
    }
    let depths = model.layers() + 1;
    let mut reader = Reader {
        model,
        questions,
        ends: if probes.is_empty() { Vec::new() } else { questions.ends()? },
        likelihoods: if of_choices.is_empty() { Vec::new() } else { vec![vec![f32::NAN; requests(questions)]; depths] },
        streams: Vec::new(),
    };
    let numbers = reader.ends.len() * model.spec().hidden_size;
    reader.streams = if probes.is_empty() { Vec::new() } else { vec![vec![0.0; numbers]; depths] };
    model.run(questions.batches(), &mut reader, "asking questions", progress)?;
    let Reader { likelihoods, streams, .. } = reader;
    let mut scores = Vec::new();
    for (metric, value) in of_choices {
        let mut moments = Moments::new(Subject::Depth.rows(model.layers()));
        for (choices, gold) in questions.choices() {
            let values: Vec<f64> = likelihoods.iter().map(|own| value(&own[choices.clone()], *gold)).collect();
            moments.push(1.0, &values);
        }
        scores.push(moments.finish(metric.name));
    }
    let golds: Vec<usize> = questions.choices().iter().map(|(_, gold)| *gold).collect();
    for (metric, right) in probes {
        let right: Vec<Vec<bool>> = streams.iter().map(|streams| right(streams, &golds)).collect::<Result<_>>()?;
        let mut moments = Moments::new(Subject::Depth.rows(model.layers()));
        for question in 0..golds.len() {
            let values: Vec<f64> = right.iter().map(|right| f64::from(u8::from(right[question]))).collect();
            moments.push(1.0, &values);
        }
        scores.push(moments.finish(metric.name));
    }
    Ok(scores)
}

/// Bytes that [`measure_questions`] keeps for questions with so many requests, of a model like `spec`.
#[must_use]
pub(crate) fn question_bytes(
    metrics: &[&'static Metric],
    (questions, requests): (usize, usize),
    spec: &ModelSpec,
) -> u64 {
    let (depths, d) = (spec.layers + 1, spec.hidden_size);
    let of = |metric: &&'static Metric| match metric.value {
        Evaluate::Accuracy => {
            let stacks = 1 + metric.subject.rows(spec.layers).iter().sum::<usize>();
            stacks * (requests * 4 + questions * 16)
        }
        Evaluate::Choices(_) => depths * requests * 4,
        // the streams, and what a probe makes of those of one depth
        Evaluate::Probe(_) => depths * questions * d * 4 + questions * d * 16 + 16 * questions.min(d).pow(2),
        _ => 0,
    };
    metrics.iter().map(of).sum::<usize>() as u64
}

/// Reads the streams of questions at every depth.
struct Reader<'a> {
    model: &'a Model,
    questions: &'a dyn Questions,
    /// Where each question ends, if streams are asked for.
    ends: Vec<(usize, usize)>,
    /// `[depth][request]`, if those are asked for.
    likelihoods: Vec<Vec<f32>>,
    /// `[depth][question, d]`.
    streams: Vec<Vec<f32>>,
}

impl Observer for Reader<'_> {
    fn residual(&mut self, batch: usize, place: usize, x: &Tensor) -> Result<()> {
        if let Some(own) = self.likelihoods.get_mut(place) {
            let read = self.questions.read(self.model, batch, x)?;
            for (&request, likelihood) in self.questions.answered(batch).iter().zip(read) {
                own[request] = likelihood;
            }
        }
        if let Some(own) = self.streams.get_mut(place) {
            let here = self.ends.iter().enumerate().filter(|(_, (at, _))| *at == batch);
            let here: Vec<(usize, u32)> = here.map(|(question, (_, token))| (question, *token as u32)).collect();
            if here.is_empty() {
                return Ok(());
            }
            let rows: Vec<u32> = here.iter().map(|(_, token)| *token).collect();
            let rows = x.index_select(&Tensor::from_slice(&rows, rows.len(), x.device())?, 0)?;
            let d = rows.dim(1)?;
            let rows: Vec<f32> = rows.flatten_all()?.to_vec1()?;
            for ((question, _), row) in here.iter().zip(rows.chunks(d)) {
                own[question * d..(question + 1) * d].copy_from_slice(row);
            }
        }
        Ok(())
    }
}

/// Refuses metrics that look at questions where there are none, and questions that none looks at.
///
/// # Errors
/// Request: as said.
pub(crate) fn check_questions(metrics: &[&'static Metric], are_there: bool) -> Result<()> {
    let asks = metrics.iter().find(|metric| metric.value.asks_questions());
    match asks {
        Some(metric) if !are_there => Err(Error::request(format!(
            "{} looks at questions: --tasks names them, such as --tasks boolq",
            metric.name
        ))),
        None if are_there => Err(Error::request(
            "--tasks: no score that is measured looks at questions; name one with --metric or --metrics, such as \
             layer-accuracy",
        )),
        _ => Ok(()),
    }
}
