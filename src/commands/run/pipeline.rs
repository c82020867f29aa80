//! The stages of a run, in order: each is a command with the settings of the recipe.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::analyses::{Analyses, Analyzed};
use super::check::Checked;
use super::cuts::{Scored, merged};
use super::drop::Wanted;
use super::inputs::Keys;
use super::recipe::Recipe;
use super::rounds::{Base, Made};
use super::sequence::Plan;
use super::speeds::{Speeds, speed, together};
use super::stage::{Stage, Step};
use super::state::State;
use super::told::{Count, Told};
use super::worker::Worker;
use crate::Result;
use crate::arch::ModelSpec;
use crate::checkpoint::Checkpoint;
use crate::commands::analyze::{self, AnalyzeSettings};
use crate::commands::bench::{self, BenchSettings};
use crate::commands::eval;
use crate::commands::heal::HealResult;
use crate::commands::open;
use crate::commands::repair::Shared;
use crate::eval::evaluation::Tokenized;
use crate::eval::settings::EvalSettings;
use crate::eval::table::FigureReport;
use crate::heal::KnownLosses;
use crate::importance::Analysis;
use crate::plan::Dropped;
use crate::progress::Progress;
use crate::report::run::Speed;

/// What came of the stages.
pub(super) struct Done {
    /// The dense model.
    pub(super) checkpoint: Arc<Checkpoint>,
    /// Its layers.
    pub(super) layers: usize,
    /// The analysis, where there is one.
    pub(super) analysis: Option<Analysis>,
    /// The dense model's scores.
    pub(super) dense: Option<Vec<FigureReport>>,
    /// The dense model's speed.
    pub(super) speed: Option<Speed>,
    /// The cuts, in the recipe's order.
    pub(super) cuts: Vec<CutDone>,
    /// Names of all stages, in order.
    pub(super) stages: Vec<String>,
}

/// One cut.
pub(super) struct CutDone {
    /// What the recipe asked for.
    pub(super) wanted: Wanted,
    /// The directory of its files; another one's where an earlier cut drops the same layers.
    pub(super) dir: String,
    /// What was dropped.
    pub(super) dropped: Dropped,
    /// What comes of it last, healed where it is.
    pub(super) made: Made,
    /// Its size.
    pub(super) size: Size,
    /// Scores before healing.
    pub(super) scores: Option<Vec<FigureReport>>,
    /// How fast it is, and the dense model in turns with it; healing does not change that.
    pub(super) speed: Option<Speeds>,
    /// What came of the healing.
    pub(super) healing: Option<HealResult>,
    /// Scores after it.
    pub(super) healed: Option<Vec<FigureReport>>,
}

/// Size of a model.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Size {
    pub(super) parameters: u64,
    pub(super) bytes: u64,
}

/// What came of working at a run.
pub(super) enum Ended {
    /// All stages are done.
    Whole(Box<Done>),
    /// Nothing is free to be done; other processes hold these stages.
    Left(Vec<String>),
}

/// Does what is not done yet. Where other processes work there too, each stage is done by one of them; what one holds
/// is waited for where `waits`, and until it is known which cuts there are.
///
/// # Errors
/// Those of the stages. Work: a stage that failed in another process, once nothing else is left to do.
pub(super) fn work(
    recipe: &Recipe,
    out: &Path,
    (worker, waits): (&Worker, bool),
    progress: &dyn Progress,
) -> Result<(Ended, State)> {
    let checkpoint = open::computed(Some(&recipe.model), progress)?;
    let spec = ModelSpec::from_config(&checkpoint.config)?;
    let wanted = recipe.wanted(&checkpoint, spec.layers)?;
    let keys = Keys::new(recipe, &checkpoint)?;
    let mut tokenized = None;
    let scored = keys.is_scored(&State::look(Some(out))?)?;
    let checked = Checked { recipe, checkpoint: &checkpoint, spec: &spec };
    checked.check(&wanted, &mut tokenized, scored, progress)?;
    let mut state = State::open(out, worker)?;
    let names = Plan::before(recipe, &wanted).names(recipe, &recipe.analyses(&wanted)?);
    state.plan(&names)?;
    let count = Count::new(progress, names.len());
    let mut line = Line {
        recipe,
        state,
        keys,
        progress,
        count,
        tokenized,
        repairing: Shared::default(),
        measured: KnownLosses::new(),
        stages: Vec::new(),
    };
    let mut plan = None;
    let first = worker.first(wanted.len());
    let mut told = BTreeSet::new();
    loop {
        line.state.look_again()?;
        let made = line.state.made().len();
        if let Step::Is((analysis, dense, cuts, speed)) = line.look(&wanted, &checked, &mut plan, first)? {
            let Line { state, stages, .. } = line;
            let layers = spec.layers;
            let done = Done { checkpoint, layers, analysis, dense, speed, cuts, stages };
            return Ok((Ended::Whole(Box::new(done)), state));
        }
        if line.state.made().len() > made {
            continue;
        }
        let held: Vec<String> = line.state.waits().keys().cloned().collect();
        if let (true, Some(failed)) = (held.is_empty(), line.state.failed()) {
            return Err(failed);
        }
        // before the analysis is done, nobody knows what will be left; and from a cut more goes on than one can do
        let is_forking = held.iter().any(|name| name.ends_with("/model"));
        if !waits && plan.is_some() && !held.is_empty() && !is_forking {
            return Ok((Ended::Left(held), line.state));
        }
        for (name, holder) in line.state.waits() {
            if told.insert((name.clone(), holder.pid)) {
                progress.note(&format!("waiting for {name}: {holder} is at it"));
            }
        }
        line.state.wait()?;
    }
}

/// What all looks come to: analysis, scores of the dense model, cuts, speed of the dense model.
type Found = (Option<Analysis>, Option<Vec<FigureReport>>, Vec<CutDone>, Option<Speed>);

impl CutDone {
    /// The same layers by another method.
    fn again(&self, wanted: Wanted) -> Self {
        Self {
            wanted,
            dir: self.dir.clone(),
            dropped: self.dropped.clone(),
            made: self.made.clone(),
            size: self.size,
            scores: self.scores.clone(),
            speed: self.speed,
            healing: self.healing.clone(),
            healed: self.healed.clone(),
        }
    }
}

/// A run at work.
pub(super) struct Line<'a> {
    pub(super) recipe: &'a Recipe,
    pub(super) state: State,
    pub(super) keys: Keys<'a>,
    progress: &'a dyn Progress,
    count: Count<'a>,
    tokenized: Tokenized,
    /// The text of repairs.
    pub(super) repairing: Shared,
    /// Losses of models as they lie on disk: the dense one is measured once.
    pub(super) measured: KnownLosses,
    stages: Vec<String>,
}

impl<'a> Line<'a> {
    /// Does what is free to be done, the cuts from the `first` on; what there is when nothing is missing.
    fn look(
        &mut self,
        wanted: &[Wanted],
        checked: &Checked<'_>,
        plan: &mut Option<Plan>,
        first: usize,
    ) -> Result<Step<Found>> {
        let layers = checked.spec.layers;
        let asked = self.recipe.analyses(wanted)?;
        let analyses = self.analyze(&asked)?;
        // which cuts there are is known only now, and whether they can be repaired
        if let (Step::Is(analyses), None) = (&analyses, &plan) {
            checked.repairs(wanted, analyses, self.progress)?;
            let found = Plan::new(self.recipe, wanted, layers, analyses)?;
            let names = found.names(self.recipe, &asked);
            self.count.expect(names.len());
            self.state.plan(&names)?;
            *plan = Some(found);
        }
        let dense = Scored::at(self.recipe.model.clone());
        let dense = self.score("dense/scores", dense, &self.keys.model.clone())?;
        let (Step::Is(analyses), Some(plan)) = (analyses, plan) else { return Ok(Step::Waits) };
        let mut cuts: BTreeMap<usize, CutDone> = BTreeMap::new();
        let order = (first..wanted.len()).chain(0..first);
        let mut own: Vec<usize> = order.filter(|place| plan.same[*place] == *place).collect();
        // what others go on from comes before them
        own.sort_by_key(|place| wanted[*place].round);
        for place in &own {
            let cut = &wanted[*place];
            let base = match &cut.before {
                None => Step::Is((Base::dense(self.recipe, &self.keys, cut, layers)?, plan.dropped[*place].clone())),
                Some(before) => {
                    let place = wanted.iter().position(|other| other.name == before.name);
                    // one that drops the same may stand for it
                    match place.and_then(|place| cuts.get(&plan.same[place])) {
                        Some(done) => self.after(done, cut, layers)?,
                        None => Step::Waits,
                    }
                }
            };
            let Step::Is((base, dropped)) = base else { continue };
            let is_timed = plan.timed[*place] == *place;
            if let Step::Is(done) = self.cut(cut.clone(), (&base, dropped), is_timed)? {
                cuts.insert(*place, done);
            }
        }
        // each cut is measured in turns with the dense model
        let speed = match self.recipe.bench.is_some() && wanted.is_empty() {
            true => self.speed("dense/speed", &self.recipe.model, &self.keys.model.clone())?,
            false => Step::Is(None),
        };
        let (Step::Is(dense), Step::Is(speed), true) = (dense, speed, cuts.len() == own.len()) else {
            return Ok(Step::Waits);
        };
        let speeds: BTreeMap<usize, Option<Speeds>> = cuts.iter().map(|(place, cut)| (*place, cut.speed)).collect();
        let again = wanted.iter().enumerate().filter_map(|(place, wanted)| {
            let cut = cuts.get(&plan.same[place])?;
            Some(CutDone { speed: speeds.get(&plan.timed[place]).copied().flatten(), ..cut.again(wanted.clone()) })
        });
        let cuts: Vec<CutDone> = again.collect();
        let speed = match cuts.iter().filter_map(|cut| cut.speed).collect::<Vec<_>>() {
            beside if beside.is_empty() => speed.map(|found| found.model),
            beside => together(beside.iter().filter_map(|found| found.dense)),
        };
        // in the recipe's order, wherever this process began
        let names = plan.names(self.recipe, &asked);
        self.stages.sort_by_key(|name| names.iter().position(|own| own == name));
        Ok(Step::Is((analyses.own().cloned(), dense, cuts, speed)))
    }

    /// Puts the stage on the list; what its work is told to.
    pub(super) fn begin(&mut self, stage: &Stage<'_>) -> Told<'a> {
        if !self.stages.iter().any(|known| known == stage.name) {
            self.stages.push(stage.name.to_owned());
        }
        self.count.next(stage.name, self.state.worked(stage).unwrap_or(0.0))
    }

    fn analyze(&mut self, asked: &[Analyzed]) -> Result<Step<Analyses>> {
        let (path, identity) = (&self.recipe.model, self.keys.model.clone());
        let mut made = Vec::new();
        for analysis in asked {
            if let Step::Is(found) = self.analysis(analysis, path, &identity)? {
                made.push((analysis.search, found));
            }
        }
        Ok(if made.len() == asked.len() { Step::Is(Analyses::new(made)) } else { Step::Waits })
    }

    /// The analysis `asked` for, of the model at `path`, which is what `identity` says.
    pub(super) fn analysis(&mut self, asked: &Analyzed, path: &str, identity: &Value) -> Result<Step<Analysis>> {
        let name = &asked.name;
        let stage = Stage { name, key: self.keys.analysis(identity, &asked.settings)?, needed: Some(name) };
        let told = self.begin(&stage);
        let settings = AnalyzeSettings { model: Some(path.to_owned()), force: true, ..asked.settings.clone() };
        let samples: Step<usize> = self.state.run(&stage, &told, |job, progress| {
            let report = analyze::analyze_alone(&AnalyzeSettings { out: Some(job.out.clone()), ..settings }, progress)?;
            Ok(report.analysis.map_or(0, |analysis| analysis.data.samples))
        })?;
        let Step::Is(_) = samples else { return Ok(Step::Waits) };
        Analysis::read(&self.state.dir().join(asked.file())).map(Step::Is)
    }

    /// Scores `model`, which is what `identity` says.
    pub(super) fn score(
        &mut self,
        name: &str,
        model: Scored,
        identity: &Value,
    ) -> Result<Step<Option<Vec<FigureReport>>>> {
        let (Some(settings), Some(key)) = (&self.recipe.eval, self.keys.scores(identity)?) else {
            return Ok(Step::Is(None));
        };
        let stage = Stage { name, key, needed: Some(name) };
        let told = self.begin(&stage);
        let settings =
            EvalSettings { model: Some(model.path), adapter: model.adapter, force: true, ..settings.clone() };
        let (tokenized, recipe) = (&mut self.tokenized, self.recipe);
        let figures = self.state.run(&stage, &told, |job, progress| {
            if let Some((cut, healed)) = model.merged {
                merged(recipe, (&cut, &healed), job, progress)?;
            }
            let settings = EvalSettings { out: Some(job.out.clone()), ..settings };
            eval::eval_sharing(&settings, tokenized, progress).map(|report| report.figures)
        });
        figures.map(|figures| figures.map(Some))
    }

    /// Measures the model at `path`, which is what `identity` says, in turns with the dense one.
    pub(super) fn speed(&mut self, name: &str, path: &str, identity: &Value) -> Result<Step<Option<Speeds>>> {
        let (Some(settings), Some(key)) = (&self.recipe.bench, self.keys.speed(identity)?) else {
            return Ok(Step::Is(None));
        };
        let stage = Stage { name, key, needed: None };
        let told = self.begin(&stage);
        let dense = Some(self.recipe.model.clone()).filter(|dense| dense != path);
        let settings = BenchSettings { model: Some(path.to_owned()), against: dense, ..settings.clone() };
        let speed = self.state.run(&stage, &told, |_, progress| {
            let found = bench::measure(&settings, false, progress)?;
            Ok(Speeds { model: speed(&found.model), dense: found.against.as_ref().map(speed) })
        });
        speed.map(|speed| speed.map(Some))
    }
}
