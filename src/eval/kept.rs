//! What an unfinished evaluation has kept, and what is left of it to do.

use std::path::Path;

use safetensors::Dtype;

use super::generate::{Endings, generate};
use super::job::Job;
use super::journal::{Journal, RunId};
use super::passes::{Pass, PassTokens};
use super::request::Answer;
use super::score;
use crate::checkpoint::Workplace;
use crate::model::Model;
use crate::progress::{Continued, Progress, Unit};
use crate::{Error, Result};

/// Tokens of a pass: those that the unfinished evaluation is planned for, or, where they do not fit and `force` says
/// so, those of today.
///
/// # Errors
/// Request: they do not fit.
pub(super) fn planned(begun: PassTokens, now: PassTokens, fits: bool, force: bool) -> Result<PassTokens> {
    match (fits, force) {
        (true, _) => Ok(begun),
        (false, true) => Ok(now),
        (false, false) => Err(Error::request(format!(
            "the unfinished evaluation is planned for passes of {} tokens, which do not fit into the memory there is \
             now: allow more with --memory, or --force starts anew",
            begun.most
        ))),
    }
}

/// Answers so far, and where they are kept.
pub(super) struct Kept {
    journal: Option<Journal>,
    /// To every request.
    pub(super) answers: Vec<Answer>,
    /// Passes that are to be run.
    pub(super) left: Vec<usize>,
}

impl Kept {
    /// Takes up the answers in the directory that `place` is for, to `requests` of which each pass answers those that
    /// it has in `asked`.
    pub(super) fn open(
        place: Option<&Workplace>,
        force: bool,
        run: &RunId,
        asked: &[&[usize]],
        requests: usize,
    ) -> Result<Self> {
        let sizes: Vec<usize> = asked.iter().map(|requests| requests.len()).collect();
        let journal = place.map(|place| Journal::open(place, run, &sizes, force)).transpose()?;
        let answers = vec![Answer::LogLikelihood { log_likelihood: 0.0, greedy: true }; requests];
        let mut kept = Self { journal, answers, left: Vec::new() };
        for (number, requests) in asked.iter().enumerate() {
            match kept.journal.as_ref().and_then(|journal| journal.answers(number)).map(<[Answer]>::to_vec) {
                Some(known) => kept.fill(requests, &known),
                None => kept.left.push(number),
            }
        }
        Ok(kept)
    }

    /// Takes what another process has kept in `dir`.
    ///
    /// # Errors
    /// Request: nothing there, or of another run.
    pub(super) fn merge(&mut self, dir: &Path, run: &RunId, asked: &[&[usize]]) -> Result<()> {
        let sizes: Vec<usize> = asked.iter().map(|requests| requests.len()).collect();
        for (number, found) in Journal::finished(dir, run, &sizes)? {
            self.fill(asked[number], &found);
            self.left.retain(|left| *left != number);
        }
        Ok(())
    }

    fn fill(&mut self, requests: &[usize], found: &[Answer]) {
        for (request, answer) in requests.iter().zip(found) {
            self.answers[*request] = answer.clone();
        }
    }

    /// Keeps the answers of a pass.
    fn keep(&mut self, number: usize, requests: &[usize], found: &[Answer]) -> Result<()> {
        self.fill(requests, found);
        self.journal.as_mut().map_or(Ok(()), |journal| journal.keep(number, found))
    }

    /// Runs the scoring passes that are left, and keeps what comes of each.
    pub(super) fn score(
        &mut self,
        model: &Model,
        job: &Job,
        plan: &[Pass],
        round: Dtype,
        progress: &dyn Progress,
    ) -> Result<()> {
        let left: Vec<(usize, &Pass)> =
            self.left.iter().filter_map(|number| Some((*number, plan.get(*number)?))).collect();
        if left.is_empty() {
            return Ok(());
        }
        let tokens = |pass: &Pass| pass.batch.tokens() as u64;
        let all: u64 = plan.iter().map(tokens).sum();
        let before = all - left.iter().map(|(_, pass)| tokens(pass)).sum::<u64>();
        score::score(
            model,
            &job.requests,
            &|request| job.name(request),
            &left,
            round,
            &Continued::new(progress, before),
            &mut |number, found| self.keep(number, &plan[number].requests, found),
        )
    }

    /// Lets the model answer what is left of `batches`, which are numbered from `first` on.
    pub(super) fn generate(
        &mut self,
        model: &Model,
        job: &Job,
        endings: &Endings,
        (first, batches): (usize, &[Vec<usize>]),
        progress: &dyn Progress,
    ) -> Result<()> {
        let requests = |batch: &[usize]| batch.iter().map(|request| &job.requests[*request]).collect::<Vec<_>>();
        let most = |batch: &[usize]| requests(batch).iter().map(|request| request.targets.len() as u64).sum::<u64>();
        let all: u64 = batches.iter().map(|batch| most(batch)).sum();
        let numbered = batches.iter().enumerate().map(|(index, batch)| (first + index, batch));
        let left: Vec<(usize, &Vec<usize>)> = numbered.filter(|(number, _)| self.left.contains(number)).collect();
        if left.is_empty() {
            return Ok(());
        }
        let total = left.iter().map(|(_, batch)| most(batch)).sum();
        let progress = &Continued::new(progress, all - total);
        progress.begin("generating", total, Unit::Tokens);
        for (number, batch) in left {
            let said = generate(model, endings, &requests(batch), &|index| job.name(batch[index]), progress)?;
            self.keep(number, batch, &said.into_iter().map(Answer::Text).collect::<Vec<_>>())?;
        }
        progress.end();
        Ok(())
    }
}
