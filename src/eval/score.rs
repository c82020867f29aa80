//! Runs passes through a model and reads the answers.

use candle_core::Tensor;
use half::{bf16, f16};
use safetensors::Dtype;

use super::passes::{Pass, ScoredTargets, TokenRequest};
use super::request::Answer;
use crate::model::{Batch, Model, Observer};
use crate::ops::Scored;
use crate::progress::Progress;
use crate::{Error, Result};

/// Answers every request of `passes`. `keep` gets the number of each pass and the answers of its requests, in the order
/// of [`Pass::requests`]; `name` says which document a request belongs to. `round` is the type that log-probabilities
/// are rounded to, f32 for none.
///
/// # Errors
/// The model's, the document and the position in it named; a log-likelihood too large for `round`; what `keep` says.
pub fn score(
    model: &Model,
    requests: &[TokenRequest],
    name: &dyn Fn(usize) -> String,
    passes: &[(usize, &Pass)],
    round: Dtype,
    progress: &dyn Progress,
    keep: &mut dyn FnMut(usize, &[Answer]) -> Result<()>,
) -> Result<()> {
    let batches: Vec<Batch> = passes.iter().map(|(_, pass)| pass.batch.clone()).collect();
    let mut reader = Reader { model, requests, name, passes, round, keep };
    model.run(&batches, &mut reader, "scoring", progress)
}

struct Reader<'a> {
    model: &'a Model,
    requests: &'a [TokenRequest],
    name: &'a dyn Fn(usize) -> String,
    passes: &'a [(usize, &'a Pass)],
    round: Dtype,
    keep: &'a mut dyn FnMut(usize, &[Answer]) -> Result<()>,
}

impl Observer for Reader<'_> {
    fn residual(&mut self, batch: usize, place: usize, x: &Tensor) -> Result<()> {
        if place < self.model.layers() {
            return Ok(());
        }
        let (number, pass) = self.passes[batch];
        let answers = read(self.model, (self.requests, self.name), pass, x, self.round)?;
        (self.keep)(number, &answers)
    }

    fn place(&self, batch: usize, token: usize) -> Option<String> {
        Some(named(self.name, self.passes[batch].1, token))
    }
}

/// The answers to the requests of `pass`, in their order, from the stream `x` `[t, d]` that final norm and head see.
///
/// # Errors
/// As [`score`].
pub(super) fn read(
    model: &Model,
    (requests, name): (&[TokenRequest], &dyn Fn(usize) -> String),
    pass: &Pass,
    x: &Tensor,
    round: Dtype,
) -> Result<Vec<Answer>> {
    let x = x.index_select(&Tensor::from_slice(&pass.rows, pass.rows.len(), x.device())?, 0)?;
    let candidates: Vec<&[u32]> = pass.candidates.iter().map(Vec::as_slice).collect();
    let place = |row: usize| named(name, pass, pass.rows[row] as usize);
    let scored = model.score(&x, &candidates, &place)?;
    let answers = answers(requests, pass, &scored, round);
    if let Some(broken) = answers.iter().position(|answer| !answer.log_likelihood().is_some_and(f64::is_finite)) {
        return Err(Error::work(format!(
            "{}: the log-likelihood is too large a number for {round}, to which --compat rounds it as the reference does",
            name(pass.requests[broken]),
        )));
    }
    Ok(answers)
}

/// The document and the position of a token of `pass`.
fn named(name: &dyn Fn(usize) -> String, pass: &Pass, token: usize) -> String {
    match pass.place(token) {
        Some((request, position)) => format!("{}, token {position} (from 0)", name(request)),
        None => format!("token {token} of a pass"),
    }
}

/// The answers of a pass's requests from the scores of its rows.
fn answers(requests: &[TokenRequest], pass: &Pass, scored: &[Vec<Scored>], round: Dtype) -> Vec<Answer> {
    let mut found: Vec<Option<(f64, bool)>> = vec![None; pass.requests.len()];
    for want in &pass.wants {
        let Scored { log_likelihood, greedy } = scored[want.row][want.candidate];
        let log_likelihood = f64::from(rounded(log_likelihood, round));
        let place = pass.requests.partition_point(|request| *request < want.request);
        let any = matches!(requests[want.request].targets, ScoredTargets::AnyOf(_));
        found[place] = Some(match found[place] {
            None => (log_likelihood, greedy),
            Some((best, was)) if any => (log_likelihood.max(best), greedy || was),
            Some((sum, all)) => (sum + log_likelihood, all && greedy),
        });
    }
    let answer = |(sum, greedy)| Answer::LogLikelihood { log_likelihood: rounded(sum as f32, round), greedy };
    found.into_iter().map(|found| answer(found.unwrap_or((0.0, true)))).collect()
}

fn rounded(x: f32, to: Dtype) -> f32 {
    match to {
        Dtype::BF16 => bf16::from_f32(x).to_f32(),
        Dtype::F16 => f16::from_f32(x).to_f32(),
        _ => x,
    }
}
