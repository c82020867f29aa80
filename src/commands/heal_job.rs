//! A healing from its open inputs to its output: measured, trained, written, measured again.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use candle_core::{Device, Tensor};

use super::heal::HealResult;
use super::heal_figure;
use super::heal_group::Plan;
use super::heal_measure::{Gauge, Uncut};
use super::heal_record::{Record, pretty};
use super::heal_rows::Texts;
use super::heal_training::Training;
use super::made::Described;
use super::taught::Taught;
use crate::arch::ModelSpec;
use crate::card::Kind;
use crate::checkpoint::{ByteSize, Checkpoint, OutputDir, Workplace, content_hash, create_dir, write_new};
use crate::collective::ProcessGroup;
use crate::data::{PassedOver, TextMixture, Tokenizer, end_tokens};
use crate::eval::questions::TaskQuestions;
use crate::heal::{
    Best, EVENTS, Estimate, HealOutcome, HealRun, HealSettings, KnownLosses, Line, Losses, MeasuredLosses, Merge,
    MergeOnto, StreamPair, TextSamples, ValidationTasks, WorkDir,
};
use crate::model::{Budget, LoadOptions, Loss};
use crate::progress::Progress;
use crate::weights::lora::Adapters;
use crate::{Error, Result, files};

/// The models of a healing, and where they compute.
pub(super) struct Models<'a> {
    pub(super) checkpoint: &'a Arc<Checkpoint>,
    pub(super) spec: &'a ModelSpec,
    pub(super) uncut: Option<Uncut>,
    pub(super) device: Device,
    pub(super) budget: Budget,
}

/// A healing whose inputs are open.
pub(super) struct Job<'a> {
    pub(super) models: Models<'a>,
    pub(super) settings: &'a HealSettings,
    pub(super) plan: Estimate,
    /// Depths of the model that are held against the teacher's.
    pub(super) pairs: Vec<StreamPair>,
    pub(super) text: Texts,
    /// Questions that are asked at validations.
    pub(super) tasks: Option<TaskQuestions>,
    pub(super) place: Arc<Workplace>,
    pub(super) max_shard: ByteSize,
    pub(super) progress: &'a dyn Progress,
    pub(super) record: Record,
    /// Other processes that train with this one.
    pub(super) group: Option<&'a ProcessGroup>,
}

/// What training gave.
struct Trained {
    finished: HealOutcome,
    adapters: Option<Arc<Adapters>>,
    parameters: Vec<(String, Tensor)>,
}

/// Losses that were taken before training.
struct Before {
    uncut: Option<(String, Vec<Loss>)>,
    cut: Vec<Loss>,
}

impl Job<'_> {
    /// Trains and writes; the result, and the steps that were done before. A state stays behind unless all is done.
    pub(super) fn run(
        &self,
        adapter: Option<Adapters>,
        teacher: Option<Taught>,
        known: &mut KnownLosses,
    ) -> Result<(HealResult, usize)> {
        let Self { place, settings, .. } = self;
        place.refuse_taken(settings.force)?;
        place.require_space(self.plan.disk.saturating_sub(WorkDir::size(place.target())))?;
        let dir = WorkDir::open(place.clone(), &self.record.deciding, settings.restart, settings.data_changed)?;
        match self.heal(&dir, adapter, teacher, known) {
            Ok(result) => {
                // all is done, whatever others have put there meanwhile
                dir.remove().or_else(|error| match error {
                    Error::Request(why) => {
                        self.progress.warn(&why);
                        Ok(())
                    }
                    other => Err(other),
                })?;
                Ok(result)
            }
            Err(error) => {
                dir.close();
                Err(error)
            }
        }
    }

    /// Models are in memory one after the other: those that are measured first, the one in training (with its teacher),
    /// those that are measured then.
    fn heal(
        &self,
        dir: &WorkDir,
        adapter: Option<Adapters>,
        teacher: Option<Taught>,
        known: &mut KnownLosses,
    ) -> Result<(HealResult, usize)> {
        if let Some(group) = self.group {
            group.agree(&Plan::Train { chunk_size: self.plan.policy.chunk_size })?;
        }
        let Models { checkpoint, device, budget, .. } = &self.models;
        let tokenizer = Tokenizer::open(&checkpoint.source.dir)?;
        let validation = self.text.validation.as_ref();
        let place = (device.clone(), *budget);
        let gauge = validation.map(|text| Gauge::new(text, &tokenizer, self.settings, place, self.progress));
        let gauge = gauge.transpose()?;
        let before = gauge.as_ref().map(|gauge| self.measure(gauge, dir, known)).transpose()?;
        let rows = gauge.as_ref().map_or(&[][..], |gauge| &gauge.rows);
        let trained = self.train(dir, &tokenizer, rows, adapter, teacher)?;
        let result = self.write(&trained, gauge.as_ref().zip(before))?;
        Ok((result, trained.finished.steps_before))
    }

    /// The uncut model, where it is known, and the cut one. What an earlier process found is not measured again.
    fn measure(&self, gauge: &Gauge<'_>, dir: &WorkDir, known: &mut KnownLosses) -> Result<Before> {
        let Models { checkpoint, uncut, .. } = &self.models;
        known.append(&mut dir.known()?);
        let mut reference = None;
        if let Some(Uncut { checkpoint, is_asked }) = uncut {
            let identity = content_hash(&checkpoint.content_files(), self.progress)?;
            match gauge.stored(checkpoint, &identity, "uncut", known) {
                Ok(losses) => reference = Some((checkpoint.source.id.clone(), losses)),
                Err(error) if *is_asked || matches!(error, Error::Interrupted) => return Err(error),
                Err(error) => self.progress.warn(&format!("{error}; healing goes on without the uncut model's loss")),
            }
            dir.save_known(known)?;
        }
        let cut = gauge.stored(checkpoint, self.record.model(), "cut", known)?;
        dir.save_known(known)?;
        let mean = |losses: &[Loss]| Loss::total(losses).mean();
        let uncut = reference.as_ref().map(|(_, losses)| format!("uncut {:.4}, ", mean(losses))).unwrap_or_default();
        self.progress.note(&format!("loss on {}: {uncut}cut {:.4} nats a token", gauge.text, mean(&cut)));
        Ok(Before { uncut: reference, cut })
    }

    fn train(
        &self,
        dir: &WorkDir,
        tokenizer: &Tokenizer,
        validation: &[Vec<u32>],
        adapter: Option<Adapters>,
        teacher: Option<Taught>,
    ) -> Result<Trained> {
        let (settings, progress) = (self.settings, self.progress);
        let Models { checkpoint, spec, device, budget, .. } = &self.models;
        let at = (device, *budget, self.plan.experts_on_disk);
        let training = Training::open((checkpoint, spec), settings, at, (adapter, teacher), progress)?;
        let (model, group) = (&training.model, self.group);
        let trainer = training.trainer(settings, self.plan.policy, self.pairs.clone(), group)?;
        let ends = end_tokens(&checkpoint.source.dir, tokenizer)?;
        let tasks = self.tasks.as_ref().map(|tasks| tasks as &dyn ValidationTasks);
        let mut run = HealRun { model, trainer, settings, dir, validation, tasks, ends: &ends };
        let place = run.restore()?;
        let position = place.as_ref().map(|place| place.position.clone());
        let shuffle = (settings.shuffle_window, settings.seed);
        let stream = TextMixture::new(&self.text.training, tokenizer, shuffle, position, settings.data_changed)?;
        let mut samples = TextSamples { stream, tokenizer };
        let finished = run.train(place, &mut samples, progress)?;
        if let Some(group) = group {
            group.leave();
        }
        samples.stream.passed_over().flat_map(PassedOver::notes).for_each(|note| progress.warn(&note));
        let parameters = run.trainer.parameters().to_vec();
        Ok(Trained { finished, adapters: training.adapters.clone(), parameters })
    }

    fn write(&self, trained: &Trained, measured: Option<(&Gauge<'_>, Before)>) -> Result<HealResult> {
        let Trained { finished, adapters, parameters } = trained;
        let (settings, progress, adapters) = (self.settings, self.progress, adapters.as_ref());
        let Models { checkpoint, spec, .. } = &self.models;
        let out = OutputDir::at(self.place.clone(), settings.force)?;
        let below = |name: &str| -> Result<PathBuf> {
            let path = out.path().join(name);
            create_dir(&path).map(|()| path)
        };
        if let Some(adapters) = adapters {
            adapters.write(&below("adapter")?, spec, &checkpoint.source.id)?;
        }
        let replaced = if adapters.is_some() { &[] } else { &parameters[..] };
        let double = !settings.plain_scales;
        let onto = (settings.merge_onto == MergeOnto::Quantized).then_some(double);
        let merged = Merge { adapters: adapters.map(|adapters| &**adapters), replaced, onto, four_bit: None };
        let base = Merge { replaced, four_bit: Some(double), ..Merge::default() };
        for (wanted, name, merge) in
            [(!settings.adapter_only, "merged", merged), (settings.save_4bit, "base-4bit", base)]
        {
            if wanted {
                let blueprint = merge.blueprint(checkpoint, spec, self.max_shard, progress)?;
                blueprint.write(&below(name)?, progress)?;
            }
        }
        let measured = measured.map(|(gauge, before)| self.measure_healed(gauge, before, adapters, out.path()));
        let result = result(finished, measured.transpose()?);
        let chat = self.text.chat();
        let made = Described::healed(checkpoint, spec.layers, (settings, chat), &result, progress)?;
        if adapters.is_some() {
            made.write(&out.path().join("adapter"), Kind::Adapter)?;
        }
        if !settings.adapter_only {
            made.write(&out.path().join("merged"), Kind::Model)?;
        }
        if settings.save_4bit {
            made.in_four_bits(adapters.is_none()).write(&out.path().join("base-4bit"), Kind::FourBit)?;
        }
        let lines =
            result.measured.iter().flat_map(MeasuredLosses::lines).chain(finished.journal.lines().iter().cloned());
        let lines: Vec<Line> = lines.collect();
        let figure = heal_figure::losses(&lines, &result);
        for (name, bytes) in [
            ("log.jsonl", Line::text(&lines)?.into_bytes()),
            ("trainer_state.json", pretty(&finished.journal.trainer_state(settings))?),
            self.record.file(checkpoint, &result)?,
            ("loss.svg", crate::report::Figure::svg(&figure)?.into_bytes()),
            ("loss.png", crate::report::Figure::png(&figure)?),
        ] {
            write_new(&out.path().join(name), bytes)?;
        }
        if settings.track.is_some() {
            // as it grew beside the state
            let grown = WorkDir::place(self.place.target()).join(EVENTS);
            write_new(&below("tensorboard")?.join(EVENTS), files::read(&grown, files::LOG)?)?;
        }
        out.commit().map(|()| result)
    }

    /// What is written below `out`, read back and measured: the merged model, or the adapter on the model.
    fn measure_healed(
        &self,
        gauge: &Gauge<'_>,
        before: Before,
        adapters: Option<&Arc<Adapters>>,
        out: &Path,
    ) -> Result<MeasuredLosses> {
        let (settings, checkpoint) = (self.settings, self.models.checkpoint);
        let onto = (settings.merge_onto == MergeOnto::Quantized).then_some(!settings.plain_scales);
        let unmerged = adapters.map(|adapters| {
            let load_options =
                LoadOptions { four_bit: onto, adapters: Some(adapters.clone()), ..LoadOptions::default() };
            gauge.losses(checkpoint, load_options, if settings.adapter_only { "healed" } else { "unmerged" })
        });
        let unmerged = unmerged.transpose()?;
        let Before { uncut, cut } = &before;
        let uncut = uncut.as_ref().map(|(name, losses)| (name.as_str(), &losses[..]));
        if let Some(healed) = unmerged.as_ref().filter(|_| settings.adapter_only) {
            return Ok(MeasuredLosses::new(gauge.text.clone(), Losses { uncut, cut, healed, unmerged: None }));
        }
        let merged = Arc::new(Checkpoint::open_dir(&out.join("merged"))?);
        let healed = gauge.losses(&merged, LoadOptions::default(), "healed")?;
        let losses = Losses { uncut, cut, healed: &healed, unmerged: unmerged.as_deref() };
        Ok(MeasuredLosses::new(gauge.text.clone(), losses))
    }
}

fn result(finished: &HealOutcome, measured: Option<MeasuredLosses>) -> HealResult {
    HealResult {
        steps: finished.steps,
        tokens: finished.tokens,
        loss_before: finished.before,
        best_step: finished.best.map(|Best { step, .. }| step),
        best_loss: finished.best.map(|Best { loss, .. }| loss),
        best_accuracy: finished.best.and_then(|best| best.accuracy),
        measured,
    }
}
