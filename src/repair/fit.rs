//! The walk that fits a repair: both streams through the stack, each output projection made otherwise where the repair
//! says so, before the stream goes on.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use candle_core::Tensor;

use super::change::{Change, Projection};
use super::check;
use super::course::Course;
use super::maps::MapFitter;
use super::refit::{Refit, RefitStep};
use super::seam::{SeamFit, SeamFitter};
use super::trained::{self, LayerTraining, TrainedLayer};
use super::training_state::TrainingState;
use super::units::{Unit, lacks_the_bottom, units};
use super::{How, Repair};
use crate::arch::SeamMap;
use crate::model::{Batch, Block, Linear, Loss, Model};
use crate::ops;
use crate::plan::Plan;
use crate::progress::{self, Progress};
use crate::weights::Expr;
use crate::{Error, Result, interrupt};

/// What to repair, and on which text.
#[derive(Clone, Copy, Debug)]
pub struct RepairTask<'a> {
    /// The model before the cut.
    pub whole: &'a Model,
    /// The model that the plan makes of it.
    pub cut: &'a Model,
    /// The plan.
    pub plan: &'a Plan,
    /// Whether the weights of the cut model have been changed since, such as by healing.
    pub changed: bool,
    /// The text.
    pub sequences: &'a [Vec<u32>],
    /// Which of the sequences judge; the others fit.
    pub judging: &'a [bool],
    /// Whether the first token of each sequence takes part in the fit.
    pub first: bool,
    /// Whether what enters a projection stays in memory while it is fitted. Without, it is computed once more; the
    /// numbers are the same. Recorded streams stay in memory, or wait in a file.
    pub keeps: bool,
    /// The rank of a map, where that is not as the repair has it.
    pub rank: Option<usize>,
    /// How layers are trained, where that is not as the repair has it.
    pub training: Option<LayerTraining>,
    /// The directory where that file is; `None` is the system's for temporary ones.
    pub spill: Option<&'a Path>,
    /// Where a training of layers is kept that it may go on from; `None` keeps nothing.
    pub state: Option<&'a TrainingState>,
}

/// What was found of a cut.
#[derive(Clone, Debug)]
pub enum Found {
    /// Of each output projection behind the first seam.
    Projections(Vec<RefitStep>),
    /// Of each seam.
    Seams(Vec<SeamFit>),
    /// Of each layer that was trained.
    Layers(Vec<TrainedLayer>),
}

/// A repaired cut.
#[derive(Debug)]
pub struct Repaired {
    pub(super) changes: Vec<(Projection, Change)>,
    /// What the repair found.
    pub found: Found,
    /// Losses of the judging sequences under the whole model.
    pub whole: Vec<Loss>,
    /// The same under the cut model with parts of the changes: how much of them, 0 for the cut alone, 1 for all.
    pub losses: Vec<(f64, Vec<Loss>)>,
    /// How much of the changes is taken.
    pub step: f64,
}

impl Repaired {
    /// How the tensors of the cut model that change are made, with `step` of the changes.
    #[must_use]
    pub fn changes(&self, step: f64) -> BTreeMap<String, Expr> {
        self.changes.iter().flat_map(|(projection, change)| change.at(projection, step)).collect()
    }

    /// The maps that stand behind layers of the cut model now, by their places: what each is, and its tensors in f32,
    /// as [`ModelSpec::seam_tensors`](crate::arch::ModelSpec::seam_tensors) has them.
    #[must_use]
    pub fn seam_maps(&self) -> BTreeMap<usize, (SeamMap, Vec<Tensor>)> {
        let maps = self.changes.iter().filter_map(|(_, change)| match change {
            Change::Behind(place, stored) => Some((*place, (stored.what, stored.factors.clone()))),
            _ => None,
        });
        maps.collect()
    }

    /// Losses with `step` of the changes, one of those that were tried.
    #[must_use]
    pub fn losses_at(&self, step: f64) -> &[Loss] {
        self.losses.iter().find(|(tried, _)| *tried == step).map_or(&[], |(_, losses)| losses)
    }
}

/// What a fit is shown of a sub-layer, for the tokens of a batch.
pub(super) struct Seen<'a> {
    /// The batch.
    pub(super) batch: &'a Batch,
    /// Whether it judges.
    pub(super) judges: bool,
    /// What enters the output projection, `[t, i]`.
    pub(super) input: &'a Tensor,
    /// The cut model's stream that enters the sub-layer, `[t, d]`.
    pub(super) stream: &'a Tensor,
    /// The update that comes out, `[t, d]`.
    pub(super) update: &'a Tensor,
    /// The whole model's stream that enters what comes next in the new stack, `[t, d]`.
    pub(super) target: &'a Tensor,
}

/// A repair at work.
pub(super) trait Fitter {
    /// Parts of the changes whose losses are wanted besides all of them; 0 among them.
    fn steps(&self) -> &'static [f64];

    /// What becomes of a projection whatever enters it.
    fn before(&self, _projection: &Projection) -> Option<Change> {
        None
    }

    /// Whether something is fitted at this sub-layer.
    fn looks(&self, unit: &Unit) -> bool;

    /// A sub-layer whose projection is from `n` to `d` numbers comes, which both streams are about to enter.
    fn begin(&mut self, sizes: (usize, usize), course: &Course<'_>) -> Result<()>;

    /// Some tokens of it.
    fn see(&mut self, seen: &Seen<'_>) -> Result<()>;

    /// What becomes of its projection; `None` where it stays.
    fn solve(&mut self, unit: &Unit, projection: &Projection, cut: &Model) -> Result<Option<Change>>;

    /// What there is to tell in the end.
    fn found(self: Box<Self>) -> Found;
}

/// Fits `repair`.
///
/// # Errors
/// Request: a plan or a text that the repair cannot work with. Work: weights that cannot be read, a stream that is not
/// finite, equations without a solution. Interrupted.
pub fn fit(repair: &Repair, task: &RepairTask<'_>, progress: &dyn Progress) -> Result<Repaired> {
    if let How::Trained(_, training) = repair.how {
        return trained::fit(repair, task.training.unwrap_or(training), task, progress);
    }
    let RepairTask { whole, cut, plan, changed, sequences, judging, first, keeps, rank, .. } = *task;
    check::check(repair, (plan, changed), whole.spec(), whole.checkpoint())?;
    let units = units(plan, whole.spec(), changed)?;
    let mut course = Course::begin((whole, cut), changed, sequences, judging)?;
    let mut fitter: Box<dyn Fitter> = match repair.how {
        How::Projections => Box::new(Refit::new(first)),
        How::Seams(estimate) | How::BiasAtSeams(estimate) => Box::new(SeamFitter::new(estimate, first)),
        How::Maps(own) => Box::new(MapFitter::new(own.with(rank, whole.spec().hidden_size), first, whole)?),
        How::Merged(_) | How::Trained(..) => {
            return Err(Error::request(format!("{} is fitted at no seam", repair.name)));
        }
    };
    let mut walk = Walk { cut, keeps, trials: Trials::new(fitter.steps()), block: None, changes: Vec::new() };
    progress.begin(&format!("fitting {}", repair.name), units.len() as u64, progress::Unit::Items);
    course.climb(units.first().map_or(0, |unit| unit.own))?;
    course.is_one = !changed && !lacks_the_bottom(&units, whole.spec());
    for unit in &units {
        walk.step(fitter.as_mut(), &mut course, unit)?;
        progress.advance(1);
    }
    progress.end();
    let of = |streams: &[Tensor]| -> Result<Vec<Loss>> {
        let found = streams.iter().enumerate().take(course.judging);
        let found = found.map(|(index, x)| cut.losses_of_stream(&course.batches, index, x));
        Ok(found.collect::<Result<Vec<_>>>()?.concat())
    };
    progress.begin("judging", (walk.trials.steps.len() + 2) as u64, progress::Unit::Items);
    let told = |streams: &[Tensor]| {
        interrupt::check()?;
        let losses = of(streams);
        progress.advance(1);
        losses
    };
    let all = told(&course.cut)?;
    let mut losses = Vec::new();
    for (at, step) in walk.trials.steps.iter().enumerate() {
        let streams = walk.trials.streams.get(at);
        losses.push((*step, streams.map_or_else(|| Ok(all.clone()), |streams| told(streams))?));
    }
    losses.push((1.0, all));
    let whole = told(&course.whole)?;
    progress.end();
    let step = match repair.how {
        How::Projections => best_step(&losses),
        How::Seams(_) | How::BiasAtSeams(_) | How::Maps(_) | How::Merged(_) | How::Trained(..) => 1.0,
    };
    Ok(Repaired { changes: walk.changes, found: fitter.found(), whole, losses, step })
}

/// The step of least loss; the smaller one of two that are equal.
fn best_step(losses: &[(f64, Vec<Loss>)]) -> f64 {
    let mean = |losses: &[Loss]| Loss::total(losses).mean();
    let best = losses.iter().min_by(|(_, a), (_, b)| mean(a).total_cmp(&mean(b)));
    best.map_or(1.0, |(step, _)| *step)
}

/// The cut model on its way.
struct Walk<'a> {
    cut: &'a Model,
    keeps: bool,
    trials: Trials,
    /// The block that was used last.
    block: Option<(usize, Arc<Block>)>,
    changes: Vec<(Projection, Change)>,
}

impl Walk<'_> {
    /// Leads all streams through `unit`, and makes its projection otherwise where `fitter` says so.
    fn step(&mut self, fitter: &mut dyn Fitter, course: &mut Course<'_>, unit: &Unit) -> Result<()> {
        let block = match self.block.take() {
            Some((place, block)) if place == unit.place => block,
            _ => self.cut.block(unit.place)?,
        };
        self.block = Some((unit.place, block.clone()));
        if course.is_one && !unit.is_seam && unit.is_copy {
            return course.climb_as_one(unit, &block);
        }
        course.is_one = false;
        course.climb(unit.next)?;
        let (role, plain) = block.output(unit.sublayer)?;
        let projection = Projection::new(self.cut, unit.place, role);
        let mut change = fitter.before(&projection);
        let remade = |change: &Option<Change>| match change {
            Some(change) => change.linear(plain, &projection, 1.0, self.cut),
            None => Ok(plain.clone()),
        };
        let mut linear = remade(&change)?;
        let mut inputs: Vec<Option<Tensor>> = vec![None; course.batches.len()];
        if fitter.looks(unit) {
            let (d, n) = plain.weight.shape()?;
            fitter.begin((n, d), course)?;
            for (index, kept) in inputs.iter_mut().enumerate() {
                interrupt::check()?;
                let (stream, context) = (&course.cut[index], &course.contexts[index]);
                let input = block.before_output(unit.sublayer, stream, context)?;
                let (update, target) = (linear.forward(&input)?, &course.whole[index]);
                let (batch, judges) = (&course.batches[index], index < course.judging);
                let seen = Seen { batch, judges, input: &input, stream, update: &update, target };
                fitter.see(&seen)?;
                *kept = self.keeps.then_some(input);
            }
            interrupt::check()?;
            if let Some(found) = fitter.solve(unit, &projection, self.cut)? {
                change = Some(found);
                linear = remade(&change)?;
            }
        }
        self.trials.step((course, unit, &block), (plain, &projection, change.as_ref()), self.cut)?;
        for (index, kept) in inputs.iter_mut().enumerate() {
            interrupt::check()?;
            let (stream, context) = (&course.cut[index], &course.contexts[index]);
            let input = match kept.take() {
                Some(input) => input,
                None => block.before_output(unit.sublayer, stream, context)?,
            };
            let x = ops::add(stream, &linear.forward(&input)?)?;
            let x = match &change {
                Some(change) => change.behind(x, 1.0)?,
                None => x,
            };
            course.take(unit, index, x)?;
        }
        self.changes.extend(change.map(|change| (projection, change)));
        Ok(())
    }
}

/// The judging text under parts of the changes.
struct Trials {
    steps: &'static [f64],
    /// Of each step its streams, once something has changed: `[step][batch]`, each `[t, d]`.
    streams: Vec<Vec<Tensor>>,
}

impl Trials {
    fn new(steps: &'static [f64]) -> Self {
        Self { steps, streams: Vec::new() }
    }

    /// Leads the streams through a sub-layer, whose projection is `plain` and will be changed so.
    fn step(
        &mut self,
        (course, unit, block): (&Course<'_>, &Unit, &Block),
        (plain, projection, change): (&Linear, &Projection, Option<&Change>),
        cut: &Model,
    ) -> Result<()> {
        if self.streams.is_empty() {
            if change.is_none() {
                return Ok(());
            }
            self.streams = vec![course.cut[..course.judging].to_vec(); self.steps.len()];
        }
        for (step, streams) in self.steps.iter().zip(&mut self.streams) {
            let linear = change.map_or_else(|| Ok(plain.clone()), |own| own.linear(plain, projection, *step, cut))?;
            for (x, context) in streams.iter_mut().zip(&course.contexts) {
                interrupt::check()?;
                let input = block.before_output(unit.sublayer, x, context)?;
                *x = ops::add(x, &linear.forward(&input)?)?;
                if let Some(change) = change {
                    *x = change.behind(x.clone(), *step)?;
                }
            }
        }
        Ok(())
    }
}
