//! The scores of a run in the model cards of what it wrote, so that they go where the models go.

use std::path::Path;

use super::stage::Job;
use super::view::{figure, title};
use crate::Result;
use crate::card;
use crate::card::results::{CardResult, with_results};
use crate::checkpoint::{Checkpoint, Origin, Workplace, has_leftovers};
use crate::commands::{made, open};
use crate::eval::tasks;
use crate::files::{self, Bound};
use crate::report::run::{RunData, Score, ScoreColumn, Variant};

/// Puts the figures of every model that is there in its card and in its adapter's.
///
/// # Errors
/// Work: a card that cannot be written.
pub(super) fn score(data: &RunData, dense: &Checkpoint, dir: &Path, job: &Job<'_>) -> Result<()> {
    let uncut = open::identity(dense, data.dense.layers);
    for variant in &data.variants {
        let rows = rows(data, variant);
        let parts: &[&str] = if variant.is_healed { &["healed/merged", "healed/adapter"] } else { &["model"] };
        for part in parts {
            let path = dir.join(&variant.dir).join(part).join(card::FILE);
            // one that was taken away, or that cannot be read, has its reasons
            let Ok(text) = files::read_text(&path, Bound::CONFIG.bytes) else { continue };
            let scored = made::with_scores(&text, &uncut, &rows);
            let scored = with_results(&scored, &card::called(&uncut), &results(data, variant));
            // of an earlier version that was killed here
            if has_leftovers(&path) {
                drop(Workplace::open_file(&path, &Origin::program("run"))?);
            }
            if !rows.is_empty() && scored != text {
                job.write(&path, scored.as_bytes())?;
            }
        }
    }
    Ok(())
}

/// What was measured, for the hub.
fn results(data: &RunData, variant: &Variant) -> Vec<CardResult> {
    let measures = data.measures.iter().zip(&variant.scores).filter(|(measure, _)| measure.depth == 0);
    let result = |(measure, score): (&ScoreColumn, &Option<Score>)| {
        let known = tasks::named(&measure.task).map(|task| task.about().dataset);
        Some(CardResult {
            name: measure.title.clone(),
            dataset: known.filter(|id| !id.is_empty()).unwrap_or(&measure.title).to_owned(),
            metric: measure.metric.clone(),
            value: score.as_ref()?.value,
        })
    };
    measures.filter_map(result).collect()
}

/// What was measured, the uncut model's figure and the variant's.
fn rows(data: &RunData, variant: &Variant) -> Vec<Vec<String>> {
    let measures = data.measures.iter().enumerate().filter(|(_, measure)| measure.depth == 0);
    let rows = measures.filter_map(|(place, measure)| {
        let of = |variant: &Variant| variant.scores.get(place).copied().flatten();
        let now = of(variant)?;
        let before = of(&data.dense).map_or_else(String::new, |score| figure(&score));
        Some(vec![title(measure), before, figure(&now)])
    });
    rows.collect()
}
