//! A repair as people read it.

use std::fmt;

use super::repair_report::RepairReport;
use crate::checkpoint::ByteSize;
use crate::plan::SubLayer;
use crate::repair::{RefitStep, TrainedLayer};

impl fmt::Display for RepairReport {
    /// Some lines of a page.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, fitted_on, judged_by, .. } = self;
        writeln!(
            f,
            "repair       {name}, fitted on {} sequences ({} tokens), judged by {} others ({} tokens)",
            fitted_on.sequences, fitted_on.tokens, judged_by.sequences, judged_by.tokens
        )?;
        let (memory, cap) = (ByteSize(self.memory_bytes), ByteSize(self.memory_cap));
        let seconds = self.result.as_ref().map(|result| result.seconds).or(self.expected_seconds);
        let about = if self.result.is_some() { "" } else { "about " };
        let time = seconds.map(|seconds| format!(", {about}{seconds:.0} s")).unwrap_or_default();
        writeln!(f, "takes        {memory} of memory (cap {cap}){time}")?;
        let Some(result) = &self.result else { return Ok(()) };
        let error = result.change_stderr.map(|error| format!(" ± {error:.4}")).unwrap_or_default();
        writeln!(
            f,
            "loss         {:.4} uncut, {:.4} cut, {:.4} repaired ({:+.4}{error}), nats a token of the judging text",
            result.whole, result.cut, result.repaired, result.change
        )?;
        if !result.projections.is_empty() {
            let steps: Vec<String> = result.steps.iter().map(|(step, loss)| format!("{step}: {loss:.4}")).collect();
            writeln!(f, "step         {} of the fit; losses by step {}", result.step, steps.join(", "))?;
            writeln!(f, "ridges       {}", ridges(&result.projections))?;
            let clipped = result.projections.iter().map(|step| step.clipped).max().unwrap_or(0);
            if clipped > 0 {
                writeln!(
                    f,
                    "clipped      up to {clipped} tokens with massive activations, so that they do not rule the fit"
                )?;
            }
        }
        for seam in &result.seams {
            let part = if seam.sublayer == SubLayer::Mlp { "MLP" } else { "attention" };
            let scale = if seam.scale == 1.0 { String::new() } else { format!(", later updates / {:.4}", seam.scale) };
            writeln!(
                f,
                "seam         behind the {part} of layer {}: {:.1} % of the gap explained, {:.1} % in other text{scale}",
                seam.layer,
                100.0 * seam.explained,
                100.0 * seam.explained_other
            )?;
        }
        for TrainedLayer { layer, first, last, lr, batch, before, after, before_other, after_other, losses } in
            &result.layers
        {
            let steps = losses.len();
            writeln!(
                f,
                "layer        {layer} stands for {first}..={last}: {steps} steps of {batch} sequences, lr {lr:e}; squared \
                 error {before:.4} -> {after:.4}, in other text {before_other:.4} -> {after_other:.4}"
            )?;
        }
        Ok(())
    }
}

/// How many projections took which ridge.
fn ridges(steps: &[RefitStep]) -> String {
    let mut counted: Vec<(f64, usize)> = Vec::new();
    for ridge in steps.iter().filter_map(|step| step.ridge) {
        match counted.iter_mut().find(|(known, _)| *known == ridge) {
            Some((_, count)) => *count += 1,
            None => counted.push((ridge, 1)),
        }
    }
    counted.sort_by(|a, b| a.0.total_cmp(&b.0));
    let mut parts: Vec<String> = counted.iter().map(|(ridge, count)| format!("{ridge} in {count}")).collect();
    let same = steps.iter().filter(|step| step.ridge.is_none()).count();
    if same > 0 {
        parts.push(format!("{same} left as they were"));
    }
    format!("{} of {} output projections", parts.join(", "), steps.len())
}
