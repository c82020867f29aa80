//! What an unfinished evaluation has kept, and what is left of it to do.

use safetensors::Dtype;

use super::job::Job;
use super::journal::{Journal, Run};
use super::passes::{Pass, PassTokens};
use super::request::Answer;
use super::score;
use crate::checkpoint::Workplace;
use crate::model::Model;
use crate::progress::{Continued, Progress};
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
    /// Takes up the answers in the directory that `place` is for, to `requests` of the passes of `plan`.
    pub(super) fn open(
        place: Option<&Workplace>,
        force: bool,
        run: &Run,
        plan: &[Pass],
        requests: usize,
    ) -> Result<Self> {
        let sizes: Vec<usize> = plan.iter().map(|pass| pass.requests.len()).collect();
        let journal = place.map(|place| Journal::open(place, run, &sizes, force)).transpose()?;
        let answers = vec![Answer::LogLikelihood { log_likelihood: 0.0, greedy: true }; requests];
        let mut kept = Self { journal, answers, left: Vec::new() };
        for (number, pass) in plan.iter().enumerate() {
            match kept.journal.as_ref().and_then(|journal| journal.answers(number)).map(<[Answer]>::to_vec) {
                Some(known) => kept.fill(pass, &known),
                None => kept.left.push(number),
            }
        }
        Ok(kept)
    }

    fn fill(&mut self, pass: &Pass, found: &[Answer]) {
        for (request, answer) in pass.requests.iter().zip(found) {
            self.answers[*request] = answer.clone();
        }
    }

    /// Runs the passes that are left, and keeps what comes of each.
    pub(super) fn score(
        &mut self,
        model: &Model,
        job: &Job,
        plan: &[Pass],
        round: Dtype,
        progress: &dyn Progress,
    ) -> Result<()> {
        let left: Vec<(usize, &Pass)> = self.left.iter().map(|number| (*number, &plan[*number])).collect();
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
            &mut |number, found| {
                self.fill(&plan[number], found);
                self.journal.as_mut().map_or(Ok(()), |journal| journal.keep(number, found))
            },
        )
    }
}
