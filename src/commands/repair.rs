//! The repair of `prune cut`: its text, what it takes, the fit, and what came of it.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use serde_json::{Value, json};

use super::cut_settings::CutSettings;
use super::open;
use super::repair_report::{RepairReport, RepairResult, TextSize, result};
use super::repair_text::{said, sequences, text_hash};
use super::whole::{Whole, whole};
use crate::arch::ModelSpec;
use crate::checkpoint::{Checkpoint, Workplace, content_hash};
use crate::model::{Loss, Model, ModelOptions, Placement, Residency};
use crate::plan::{Plan, PlannedFor};
use crate::progress::Progress;
use crate::repair::{
    LayerTraining, Repair, RepairNeeds, RepairTask, Repaired, TextTokens, TrainedLayer, TrainingState, fit,
};
use crate::surgery::Cut;
use crate::{Context, Error, Result, ops};

/// One sequence of so many judges.
const JUDGES: usize = 4;

/// What is left of the speed of products when everything else has taken its part.
const EFFICIENCY: f64 = 0.6;

/// What repairs of several cuts by the same settings have in common.
#[derive(Debug, Default)]
pub(super) struct Shared {
    /// The text.
    pub(super) sequences: Option<Arc<Vec<Vec<u32>>>>,
    /// Floating point operations a second.
    speed: Option<f64>,
}

/// A repair that is ready to be done.
pub(super) struct Repairing {
    repair: &'static Repair,
    /// The whole model.
    whole: Arc<Checkpoint>,
    /// The same as the history calls it, where the model that is repaired was cut of it before.
    named: Option<PlannedFor>,
    /// What the cut has of it.
    plan: Plan,
    sequences: Arc<Vec<Vec<u32>>>,
    judging: Vec<bool>,
    /// Whether first tokens take part in the fit.
    first: bool,
    fitted_on: TextSize,
    judged_by: TextSize,
    needs: RepairNeeds,
    keeps: bool,
    rank: Option<usize>,
    training: Option<LayerTraining>,
    /// Where streams wait that are not kept in memory.
    spill: Option<PathBuf>,
    options: ModelOptions,
    memory_bytes: u64,
    /// The text, as the history tells it.
    text: Value,
}

impl Repairing {
    /// Reads the text, unless it is `shared` already, and looks whether it will do.
    ///
    /// # Errors
    /// Request: a model that is not computed or a plan that cannot be repaired so, too little text or memory. Work: a
    /// text that cannot be read.
    pub(super) fn prepare(
        repair: &'static Repair,
        settings: &CutSettings,
        cut: &Cut,
        shared: &mut Shared,
        progress: &dyn Progress,
    ) -> Result<Self> {
        let source = cut.blueprint().source().clone();
        let follows = whole(settings, &source, progress)?;
        if let Some(why) = cut.not_computed() {
            return Err(Error::request(format!("--repair {}: the model is not computed here: {why}", repair.name)));
        }
        let in_codes = || source.index.tensors.keys().find(|name| source.four_bit_state(name).is_some());
        if let (Some(_), Some(name)) = (&follows, in_codes()) {
            return Err(Error::request(format!("--whole: {name} is stored in four bits, so it cannot be fitted anew")));
        }
        let (whole, plan, named) = match follows {
            Some(Whole { checkpoint, plan, identity }) => (checkpoint, plan, Some(identity)),
            None => (source.clone(), cut.plan().clone(), None),
        };
        let (spec, of) = (ModelSpec::from_config(&whole.config)?, (&plan, named.is_some()));
        // what the plan does not allow is said before any text is read
        repair.needs(of, &spec, &whole, (TextTokens::default(), None))?;
        let device = open::device(settings.device.as_deref(), settings.dtype.as_deref(), progress)?;
        let budget = open::budget_beside_tokenizer(settings.memory.as_deref(), &device, &source)?;
        let sequences = sequences(settings, &source, shared, progress)?;
        let judging: Vec<bool> = (0..sequences.len()).map(|index| index % JUDGES == 0).collect();
        let size = |judges: bool| {
            let own = sequences.iter().zip(&judging).filter(|(_, own)| **own == judges).map(|(ids, _)| ids.len());
            own.fold(TextSize::default(), |sum, len| TextSize {
                sequences: sum.sequences + 1,
                tokens: sum.tokens + len,
            })
        };
        let (fitted_on, judged_by) = (size(false), size(true));
        let longest = sequences.iter().map(Vec::len).max().unwrap_or(0);
        let tokens = TextTokens { fitting: fitted_on.tokens, judging: judged_by.tokens, longest };
        let training = settings.training();
        let fitting = sequences.len() - judging.iter().filter(|judges| **judges).count();
        if let Some(batch) = settings.batch.filter(|batch| *batch > fitting) {
            return Err(Error::request(format!(
                "--batch {batch}: {fitting} sequences of the text are fitted on: give more text, or a smaller --batch"
            )));
        }
        let training = training.map(|own| LayerTraining { batch: own.batch.min(fitting), ..own });
        let needs = repair.needs(of, &spec, &whole, (tokens, training))?;
        let usable = fitted_on.tokens - if settings.leave_out_first { fitted_on.sequences } else { 0 };
        if usable < needs.tokens {
            return Err(Error::request(format!(
                "--repair {}: {usable} tokens to fit on, and the equations need {} at least: give more text, --samples or \
                 --seq-len (every {JUDGES}th sequence judges)",
                repair.name, needs.tokens
            )));
        }
        let predicted = sequences.iter().zip(&judging).any(|(ids, judges)| *judges && ids.len() > 1);
        if !predicted {
            return Err(Error::request("no judging sequence has two tokens: there is nothing to predict"));
        }
        // layers are read once, when their turn comes
        let residency = Some(Residency::Streamed);
        let reserved_bytes = needs.bytes;
        let options =
            ModelOptions { budget, device, residency, reserved_bytes, rows_on_host: true, ..ModelOptions::default() };
        let places: Vec<usize> = (0..spec.layers).collect();
        let fits = Placement::new(&whole, &spec, &places, &options).context(|| {
            let tokens = fitted_on.tokens + judged_by.tokens;
            format!("--repair {} of {tokens} tokens, which --samples and --seq-len make fewer", repair.name)
        })?;
        let memory_bytes = fits.pass_bytes(&spec, 0) + needs.bytes;
        let keeps = memory_bytes + needs.bytes_to_keep <= budget.usable();
        let memory_bytes = memory_bytes + if keeps { needs.bytes_to_keep } else { 0 };
        let (text, first) = (said(settings), !settings.leave_out_first);
        let beside = settings.out.as_deref().and_then(Path::parent).filter(|dir| dir.is_dir());
        let spill = beside.map(Path::to_owned);
        Ok(Self {
            repair,
            whole,
            named,
            plan,
            sequences,
            judging,
            first,
            fitted_on,
            judged_by,
            needs,
            keeps,
            rank: settings.rank,
            training,
            spill,
            options,
            memory_bytes,
            text,
        })
    }

    /// What is known before it is done; where it is `timed`, how long it may take as well.
    ///
    /// # Errors
    /// The device's.
    pub(super) fn report(&self, timed: Option<&mut Shared>) -> Result<RepairReport> {
        let speed = |shared: &mut Shared| match shared.speed {
            Some(speed) => Ok::<_, Error>(speed),
            None => {
                let speed = EFFICIENCY * 2.0 * ops::multiply_adds(&self.options.device)?;
                Ok(*shared.speed.insert(speed))
            }
        };
        Ok(RepairReport {
            name: self.repair.name,
            fitted_on: self.fitted_on,
            judged_by: self.judged_by,
            memory_bytes: self.memory_bytes,
            memory_cap: self.options.budget.bytes(),
            expected_seconds: timed.map(speed).transpose()?.map(|speed| self.needs.flops / speed),
            result: None,
        })
    }

    fn fit(
        &self,
        cut: &Cut,
        state: Option<&TrainingState>,
        progress: &dyn Progress,
    ) -> Result<(Repaired, RepairResult)> {
        let started = Instant::now();
        let whole = Model::open(self.whole.clone(), &self.options, progress)?;
        let pruned = Model::open(Arc::new(cut.blueprint().open()?), &self.options, progress)?;
        let task = RepairTask {
            whole: &whole,
            cut: &pruned,
            plan: &self.plan,
            changed: self.named.is_some(),
            sequences: &self.sequences,
            judging: &self.judging,
            first: self.first,
            keeps: self.keeps,
            rank: self.rank,
            training: self.training,
            spill: self.spill.as_deref(),
            state,
        };
        let repaired = fit(self.repair, &task, progress)?;
        let result = result(&repaired, started.elapsed().as_secs_f64());
        Ok((repaired, result))
    }

    /// What comes of it, and the losses of the judging sequences then; nothing is made of it.
    ///
    /// # Errors
    /// As [`fit`].
    pub(super) fn judged(&self, cut: &Cut, progress: &dyn Progress) -> Result<(RepairResult, Vec<Loss>)> {
        let (repaired, result) = self.fit(cut, None, progress)?;
        let losses = repaired.losses_at(repaired.step).to_vec();
        Ok((result, losses))
    }

    /// Where a training of layers is kept that `place` is for; `None` where the repair trains none.
    ///
    /// # Errors
    /// As [`TrainingState::open`].
    pub(super) fn state(
        &self,
        cut: &Cut,
        (place, settings): (&Arc<Workplace>, &CutSettings),
        progress: &dyn Progress,
    ) -> Result<Option<TrainingState>> {
        let Some(LayerTraining { lr, steps, batch }) = self.training else { return Ok(None) };
        let deciding = json!({
            "version": env!("CARGO_PKG_VERSION"),
            "model_sha256": content_hash(&self.whole.content_files(), progress)?,
            "keeps": cut.kept(),
            "repair": self.repair.name,
            "text_sha256": text_hash(&self.sequences),
            "lr": lr,
            "steps": steps,
            "batch": batch,
            "leave_out_first": !self.first,
            "dtype": settings.dtype,
            "on_gpu": self.options.device.is_cuda(),
        });
        let deciding = deciding.as_object().cloned().unwrap_or_default();
        TrainingState::open(place.clone(), &deciding, settings.restart).map(Some)
    }

    /// Does it.
    ///
    /// # Errors
    /// As [`fit`].
    pub(super) fn repair(
        self,
        cut: Cut,
        state: Option<&TrainingState>,
        progress: &dyn Progress,
    ) -> Result<(Cut, RepairReport)> {
        let mut report = self.report(None)?;
        let (repaired, result) = self.fit(&cut, state, progress)?;
        let (changes, maps) = (repaired.changes(repaired.step), repaired.seam_maps());
        let Self { repair, text, named, .. } = self;
        let name = repair.name;
        if repaired.step == 0.0 {
            progress.warn(&format!(
                "{name}: no part of the fit lowers the loss of the judging text: the cut stays as it is"
            ));
        } else if result.repaired > result.cut {
            progress.warn(&format!(
                "{name} raises the loss of the judging text from {:.4} to {:.4}: the cut is better without",
                result.cut, result.repaired
            ));
        }
        let mut record = json!({
            "name": name,
            "about": repair.about,
            "reference": repair.reference,
            "text": text,
            "fitted_on": report.fitted_on,
            "judged_by": report.judged_by,
            "loss": { "whole": result.whole, "cut": result.cut, "repaired": result.repaired },
            "step": result.step,
            "projections": result.projections,
            "seams": result.seams,
        });
        if let Some(named) = named {
            record["whole"] = json!(named);
        }
        if !maps.is_empty() {
            record["seam_maps"] = json!(maps.keys().collect::<Vec<_>>());
        }
        if !result.layers.is_empty() {
            record["layers"] = json!(result.layers.iter().map(told).collect::<Vec<_>>());
        }
        report.result = Some(result);
        Ok((cut.repaired(changes, record)?.mapped(maps)?, report))
    }
}

/// A trained layer as the history tells it: the error of every step is for the report.
fn told(layer: &TrainedLayer) -> Value {
    let mut told = json!(layer);
    told["steps"] = json!(layer.losses.len());
    if let Some(told) = told.as_object_mut() {
        told.shift_remove("losses");
    }
    told
}
