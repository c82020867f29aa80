//! The choices of `prune methods --repair`, each of them repaired: what the loss is then, which decides.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::Serialize;

use super::cut_settings::CutSettings;
use super::methods_settings::MethodsSettings;
use super::open;
use super::ranking::{LeftOut, RankedMethod, RankingReport, SAMPLES};
use super::repair::{Repairing, Shared};
use super::repair_report::TextSize;
use crate::checkpoint::{ByteSize, Checkpoint};
use crate::importance::rises;
use crate::model::Loss;
use crate::plan::{Dropped, Plan};
use crate::progress::Progress;
use crate::repair::Repair;
use crate::surgery::{Cut, CutOptions, format};
use crate::{Context, Error, Result, interrupt};

/// The repair that every choice gets.
#[derive(Clone, Debug, Serialize)]
pub struct RankedBy {
    /// Its name.
    pub name: &'static str,
    /// The text it is fitted on.
    pub fitted_on: TextSize,
    /// The text that judges it.
    pub judged_by: TextSize,
    /// Seconds that one choice may take on this machine, told in a dry run.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expected_seconds: Option<f64>,
}

/// A choice, repaired. Losses are those of the text that judges, in nats a token.
#[derive(Clone, Debug, Serialize)]
pub struct RankedRepair {
    /// Loss of the choice as it is.
    pub cut: f64,
    /// Loss of the repaired one.
    pub repaired: f64,
    /// The part of the fitted changes that was taken.
    pub step: f64,
    /// Loss less that of the best method's choice, both repaired.
    pub difference: f64,
    /// Standard error of that, sequence by sequence.
    pub difference_stderr: Option<f64>,
    /// Seconds it took; none in the file.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seconds: Option<f64>,
}

/// Refuses a repair that is fitted on no text.
///
/// # Errors
/// Request: as said.
pub(super) fn check(repair: &Repair) -> Result<()> {
    match repair.needs_text() {
        true => Ok(()),
        false => Err(Error::request(format!(
            "--repair {}: it is fitted on no text, so none judges it; prune run compares it with [repair] methods",
            repair.name
        ))),
    }
}

/// Choices under one repair.
pub(super) struct Repairs<'a> {
    repair: &'static Repair,
    settings: CutSettings,
    checkpoint: &'a Arc<Checkpoint>,
    layers: usize,
    shared: Shared,
}

impl<'a> Repairs<'a> {
    pub(super) fn new(
        repair: &'static Repair,
        settings: &MethodsSettings,
        checkpoint: &'a Arc<Checkpoint>,
        layers: usize,
    ) -> Self {
        let MethodsSettings { packing, separator, attention, text_split, on_bad_row, seq_len, seed, .. } = *settings;
        let settings = CutSettings {
            data: settings.data.clone(),
            text_field: settings.text_field.clone(),
            text_split,
            on_bad_row,
            samples: Some(settings.samples.unwrap_or(SAMPLES)),
            seq_len,
            packing,
            separator,
            attention,
            seed,
            device: settings.device.clone(),
            dtype: settings.dtype.clone(),
            memory: settings.memory.clone(),
            ..CutSettings::default()
        };
        Self { repair, settings, checkpoint, layers, shared: Shared::default() }
    }

    /// The cut that drops `gone`, and what repairs it.
    fn prepare(&mut self, gone: &Dropped, progress: &dyn Progress) -> Result<(Cut, Repairing)> {
        let planned_for = open::identity(self.checkpoint, self.layers);
        let plan = Plan::drop_named(planned_for.clone(), gone)?;
        // one of those that keep what is missing out of the work
        let format = if gone.are_layers() { None } else { Some(format("per-layer")?) };
        let max_shard_size: ByteSize = self.settings.max_shard_size.parse()?;
        let options = CutOptions { max_shard_size, allow_unsliced: &[], format };
        let cut = Cut::new(self.checkpoint, &planned_for, plan, &options)?;
        let repairing = Repairing::prepare(self.repair, &self.settings, &cut, &mut self.shared, progress)?;
        Ok((cut, repairing))
    }

    /// What is known before any work, told of the cut without `gone`; where it is `timed`, how long it may take too.
    ///
    /// # Errors
    /// As [`Repairing::prepare`].
    pub(super) fn ahead(&mut self, gone: &Dropped, timed: bool, progress: &dyn Progress) -> Result<RankedBy> {
        let (_, repairing) = self.prepare(gone, progress)?;
        let report = repairing.report(timed.then_some(&mut self.shared))?;
        Ok(RankedBy {
            name: report.name,
            fitted_on: report.fitted_on,
            judged_by: report.judged_by,
            expected_seconds: report.expected_seconds,
        })
    }

    /// Repairs each different choice of `report`, tells what came of it, and sorts.
    ///
    /// # Errors
    /// Those of the fit. Interrupted. A choice that cannot be repaired is told among what was left out.
    pub(super) fn rank(mut self, report: &mut RankingReport, progress: &dyn Progress) -> Result<()> {
        let mut found: BTreeMap<String, (RankedRepair, Vec<Loss>)> = BTreeMap::new();
        for row in &report.methods {
            let Some(choice) = row.choice.as_ref().filter(|choice| choice.same_as.is_none()) else { continue };
            interrupt::check()?;
            let (cut, repairing) = match self.prepare(&choice.dropped, progress) {
                Ok(both) => both,
                Err(Error::Request(why)) => {
                    report.left_out.push(LeftOut { name: row.name, why: format!("not repaired: {why}") });
                    continue;
                }
                Err(other) => return Err(other),
            };
            progress.note(&format!("{}: {}", row.name, choice.dropped));
            let told = repairing.report(None)?;
            let (result, losses) = repairing.judged(&cut, progress).context(|| row.name)?;
            let of = RankedRepair {
                cut: result.cut,
                repaired: result.repaired,
                step: result.step,
                difference: 0.0,
                difference_stderr: None,
                seconds: Some(result.seconds),
            };
            report.repair = Some(RankedBy {
                name: told.name,
                fitted_on: told.fitted_on,
                judged_by: told.judged_by,
                expected_seconds: None,
            });
            found.insert(choice.dropped.to_string(), (of, losses));
        }
        let best = found.iter().min_by(|(_, (a, _)), (_, (b, _))| a.repaired.total_cmp(&b.repaired));
        let Some((best, (_, least))) = best.map(|(name, own)| (name.clone(), own.clone())) else { return Ok(()) };
        for (name, (own, losses)) in found.iter_mut().filter(|(name, _)| **name != best) {
            let apart = rises(&least, &[&*losses], vec![1], name);
            (own.difference, own.difference_stderr) = (apart.mean[0][0], apart.error(1, 0));
        }
        for choice in report.methods.iter_mut().filter_map(|row| row.choice.as_mut()) {
            choice.repaired = found.get(&choice.dropped.to_string()).map(|(own, _)| own.clone());
        }
        let loss = |row: &RankedMethod| {
            let repaired = row.choice.as_ref().and_then(|choice| choice.repaired.as_ref());
            repaired.map_or(f64::INFINITY, |own| own.repaired)
        };
        // stable: choices that are the same stay in their order
        report.methods.sort_by(|a, b| loss(a).total_cmp(&loss(b)));
        Ok(())
    }
}
