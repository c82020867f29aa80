//! What an analysis cannot do, before it begins.

use super::analyze_settings::AnalyzeSettings;
use crate::arch::ModelSpec;
use crate::checkpoint::ByteSize;
use crate::eval::questions::TaskQuestions;
use crate::importance::{self, Evaluate, Metric, Needs, Subject};
use crate::methods::Search;
use crate::model::{Batch, Budget, Placement};
use crate::{Error, Result};

/// Refuses questions of which the longest pass does not fit beside the weights: passes are the same whatever memory
/// there is.
pub(super) fn check_pass(
    questions: &TaskQuestions,
    (spec, fit): (&ModelSpec, &Placement),
    budget: Budget,
) -> Result<()> {
    let longest = questions.batches().iter().map(Batch::tokens).max().unwrap_or(0);
    // what enters a layer, what leaves it, and what waits for the next candidate
    let streams = (3 * longest * spec.hidden_size * 4) as u64;
    let needed = fit.pass_bytes(spec, longest) + streams;
    match needed <= budget.usable() {
        true => Ok(()),
        false => Err(Error::request(format!(
            "--tasks: {longest} tokens of questions go through together, which takes {} with the weights, and there are {}: \
             fewer examples, --few-shot, make them shorter, or give more with --memory",
            ByteSize(needed),
            ByteSize(budget.usable())
        ))),
    }
}

/// Refuses scores of every attention and MLP where the model lacks some.
pub(super) fn check_parts(settings: &AnalyzeSettings, search: &Search, spec: &ModelSpec) -> Result<()> {
    let mut measured = settings.measured()?;
    measured.push(importance::metric(&search.metric)?);
    let of_inputs = |metric: &&&Metric| matches!(metric.value, Evaluate::Weights(Needs::Inputs, _));
    if let Some(metric) = measured.iter().find(of_inputs)
        && spec.experts.is_some_and(|experts| experts.stacked.is_some())
    {
        return Err(Error::request(format!(
            "{} weighs each matrix by what enters it, and the experts of a {} lie in one tensor",
            metric.name, spec.model_type
        )));
    }
    let fine: Vec<&Metric> = measured.into_iter().filter(|metric| metric.subject == Subject::SubLayer).collect();
    if let Some(metric) = fine.iter().find(|metric| spec.parallel && metric.runs_sublayers()) {
        return Err(Error::request(format!(
            "{} runs attention and MLP one after the other, and in a {} model they stand side by side: follow scores of \
             layers, or gate-sublayers",
            metric.name, spec.model_type
        )));
    }
    match (spec.without.iter().position(|without| !without.is_empty()), fine.first()) {
        (Some(layer), Some(metric)) => Err(Error::request(format!(
            "{} looks at every attention and MLP, and layer {layer} of this model has no {}: follow scores of layers, \
             or analyze the model before parts were left out",
            metric.name, spec.without[layer]
        ))),
        _ => Ok(()),
    }
}
