//! What an unfinished evaluation has kept, and what is left of it to do.

use std::collections::BTreeSet;
use std::path::Path;

use safetensors::Dtype;

use super::generate::{Endings, generate};
use super::job::Job;
use super::journal::{Journal, RunId, of_report, to_report};
use super::passes::{Pass, PassTokens};
use super::request::Answer;
use super::score;
use crate::checkpoint::Workplace;
use crate::collective::{Collective, ProcessGroup};
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
pub(super) struct Kept<'a> {
    journal: Option<Journal>,
    /// To every request.
    pub(super) answers: Vec<Answer>,
    /// Passes that are to be run here.
    pub(super) left: Vec<usize>,
    /// Requests of each pass.
    asked: &'a [&'a [usize]],
    /// The processes that answer together, and, of process 0, the passes that it waits for.
    group: Option<&'a ProcessGroup>,
    elsewhere: BTreeSet<usize>,
}

impl<'a> Kept<'a> {
    /// Takes up the answers in the directory that `place` is for, to `requests` of which each pass answers those that
    /// it has in `asked`.
    pub(super) fn open(
        place: Option<&Workplace>,
        force: bool,
        run: &RunId,
        asked: &'a [&'a [usize]],
        requests: usize,
    ) -> Result<Self> {
        let sizes: Vec<usize> = asked.iter().map(|requests| requests.len()).collect();
        let journal = place.map(|place| Journal::open(place, run, &sizes, force)).transpose()?;
        let answers = vec![Answer::LogLikelihood { log_likelihood: 0.0, greedy: true }; requests];
        let mut kept = Self { journal, answers, left: Vec::new(), asked, group: None, elsewhere: BTreeSet::new() };
        for number in 0..asked.len() {
            match kept.journal.as_ref().and_then(|journal| journal.answers(number)).map(<[Answer]>::to_vec) {
                Some(known) => kept.fill(number, &known),
                None => kept.left.push(number),
            }
        }
        Ok(kept)
    }

    /// Takes what another process has kept in `dir`.
    ///
    /// # Errors
    /// Request: nothing there, or of another run.
    pub(super) fn merge(&mut self, dir: &Path, run: &RunId) -> Result<()> {
        let sizes: Vec<usize> = self.asked.iter().map(|requests| requests.len()).collect();
        for (number, found) in Journal::finished(dir, run, &sizes)? {
            self.fill(number, &found);
            self.left.retain(|left| *left != number);
        }
        Ok(())
    }

    /// Shares what is left out to the processes of `group`: what process 0 has to do, neighbours to different ones, as
    /// they cost about the same.
    ///
    /// # Errors
    /// As [`ProcessGroup::agree`].
    pub(super) fn share_out(&mut self, group: &'a ProcessGroup) -> Result<()> {
        let left = group.agree(&self.left)?;
        if left.iter().any(|number| *number >= self.asked.len()) {
            return Err(Error::work("process 0 has planned other passes"));
        }
        let (own, others): (Vec<_>, Vec<_>) =
            left.into_iter().enumerate().partition(|(place, _)| place % group.size() == group.rank());
        self.left = own.into_iter().map(|(_, number)| number).collect();
        if group.rank() == 0 {
            self.elsewhere = others.into_iter().map(|(_, number)| number).collect();
        }
        self.group = Some(group);
        Ok(())
    }

    /// Whether nothing is left, here or elsewhere.
    pub(super) fn is_complete(&self) -> bool {
        self.left.is_empty() && self.elsewhere.is_empty()
    }

    /// Waits until process 0 has all answers; then the processes part.
    ///
    /// # Errors
    /// Work: a process that is gone, the file system's. What another process met. Interrupted.
    pub(super) fn finish(&mut self, progress: &dyn Progress) -> Result<()> {
        let Some(group) = self.group else { return Ok(()) };
        if !self.elsewhere.is_empty() {
            progress.begin("answers of other processes", self.elsewhere.len() as u64, Unit::Items);
            while !self.elsewhere.is_empty() {
                let (from, report) = group.next_report()?;
                self.take_in(from, &report)?;
                progress.advance(1);
            }
            progress.end();
        }
        group.broadcast(Vec::new())?;
        group.leave();
        Ok(())
    }

    /// Keeps what process `from` has answered, as if it had been answered here.
    fn take_in(&mut self, from: usize, report: &[u8]) -> Result<()> {
        let known = of_report(report).filter(|(number, found)| {
            self.elsewhere.contains(number) && self.asked.get(*number).is_some_and(|asked| asked.len() == found.len())
        });
        let (number, found) =
            known.ok_or_else(|| Error::work(format!("process {from} answers what it was not asked")))?;
        self.elsewhere.remove(&number);
        self.fill(number, &found);
        self.journal.as_mut().map_or(Ok(()), |journal| journal.keep(number, &found))
    }

    fn fill(&mut self, number: usize, found: &[Answer]) {
        for (request, answer) in self.asked[number].iter().zip(found) {
            self.answers[*request] = answer.clone();
        }
    }

    /// Keeps the answers of a pass, and those that have come from elsewhere meanwhile.
    fn keep(&mut self, number: usize, found: &[Answer]) -> Result<()> {
        self.fill(number, found);
        if let Some(journal) = &mut self.journal {
            journal.keep(number, found)?;
        }
        match self.group {
            None => Ok(()),
            Some(group) if group.rank() == 0 => {
                while let Some((from, report)) = group.report_so_far()? {
                    self.take_in(from, &report)?;
                }
                Ok(())
            }
            Some(group) => group.report(to_report(number, found)?).and_then(|()| group.look()),
        }
    }

    /// Whether another process runs this pass.
    fn is_elsewhere(&self, number: usize) -> bool {
        self.elsewhere.contains(&number)
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
        let here = plan.iter().enumerate().filter(|(number, _)| !self.is_elsewhere(*number));
        let all: u64 = here.map(|(_, pass)| tokens(pass)).sum();
        let before = all - left.iter().map(|(_, pass)| tokens(pass)).sum::<u64>();
        score::score(
            model,
            &job.requests,
            &|request| job.name(request),
            &left,
            round,
            &Continued::new(progress, before),
            &mut |number, found| self.keep(number, found),
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
        let numbered = batches.iter().enumerate().map(|(index, batch)| (first + index, batch));
        let here = numbered.clone().filter(|(number, _)| !self.is_elsewhere(*number));
        let all: u64 = here.map(|(_, batch)| most(batch)).sum();
        let left: Vec<(usize, &Vec<usize>)> = numbered.filter(|(number, _)| self.left.contains(number)).collect();
        if left.is_empty() {
            return Ok(());
        }
        let total = left.iter().map(|(_, batch)| most(batch)).sum();
        let progress = &Continued::new(progress, all - total);
        progress.begin("generating", total, Unit::Tokens);
        for (number, batch) in left {
            let said = generate(model, endings, &requests(batch), &|index| job.name(batch[index]), progress)?;
            self.keep(number, &said.into_iter().map(Answer::Text).collect::<Vec<_>>())?;
        }
        progress.end();
        Ok(())
    }
}
