//! The stages of a run, in order: each is a command with the settings of the recipe.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::check::Checked;
use super::drop::{Keep, Wanted, Which};
use super::inputs::Keys;
use super::recipe::Recipe;
use super::speeds::{Speeds, speed, together};
use super::state::{Stage, State};
use super::told::{Count, Told};
use crate::arch::ModelSpec;
use crate::checkpoint::{Checkpoint, Origin, Workplace, has_leftovers};
use crate::commands::analyze::{self, AnalyzeSettings};
use crate::commands::bench::{self, BenchSettings};
use crate::commands::cut::{self, CutSettings};
use crate::commands::eval;
use crate::commands::heal::{self, HealResult};
use crate::commands::merge::{self, MergeSettings};
use crate::commands::open;
use crate::commands::repair::Shared;
use crate::eval::evaluation::Tokenized;
use crate::eval::settings::EvalSettings;
use crate::eval::table::FigureReport;
use crate::heal::{HealSettings, KnownLosses, MergeOnto};
use crate::importance::Analysis;
use crate::plan::Dropped;
use crate::progress::Progress;
use crate::report::run::Speed;
use crate::{Error, Result};

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
    /// Those that were done just now.
    pub(super) made: Vec<String>,
}

/// One cut.
pub(super) struct CutDone {
    /// What the recipe asked for.
    pub(super) wanted: Wanted,
    /// The directory of its files; another one's where an earlier cut drops the same layers.
    pub(super) dir: String,
    /// What was dropped.
    pub(super) dropped: Dropped,
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

/// Does what is not done yet.
///
/// # Errors
/// Those of the stages.
pub(super) fn work(recipe: &Recipe, out: &Path, progress: &dyn Progress) -> Result<(Done, State)> {
    let checkpoint = open::computed(Some(&recipe.model), progress)?;
    let spec = ModelSpec::from_config(&checkpoint.config)?;
    let wanted = recipe.wanted(&checkpoint, spec.layers)?;
    let keys = Keys::new(recipe, &checkpoint)?;
    let mut tokenized = None;
    let scored = keys.is_scored(&State::look(Some(out))?)?;
    let checked = Checked { recipe, checkpoint: &checkpoint, spec: &spec };
    checked.check(&wanted, &mut tokenized, scored, progress)?;
    let state = State::open(out)?;
    let mut line = Line {
        recipe,
        state,
        keys,
        progress,
        count: Count::new(progress, stages(recipe, wanted.len(), wanted.len() / recipe.repairs().len())),
        tokenized,
        repairing: Shared::default(),
        measured: KnownLosses::new(),
        stages: Vec::new(),
        made: Vec::new(),
    };
    let analysis = line.analyze()?;
    checked.repairs(&wanted, analysis.as_ref(), progress)?;
    let of = |wanted: &Wanted| {
        let dropped = wanted.which.dropped(spec.layers, analysis.as_ref())?;
        Ok((dropped, wanted.repair.map(|repair| repair.name)))
    };
    let different: BTreeSet<(Dropped, Option<&str>)> = wanted.iter().map(of).collect::<Result<_>>()?;
    let unrepaired: BTreeSet<&Dropped> = different.iter().map(|(dropped, _)| dropped).collect();
    line.count.expect(stages(recipe, different.len(), unrepaired.len()));
    let dense =
        line.score("dense/scores", Scored { path: recipe.model.clone(), adapter: None }, &line.keys.model.clone())?;
    let mut cuts: Vec<CutDone> = Vec::new();
    for wanted in wanted {
        let dropped = wanted.which.dropped(spec.layers, analysis.as_ref())?;
        let alike = || cuts.iter().filter(|cut| cut.dropped == dropped);
        let timed = alike().map(|cut| cut.speed).next();
        let cut = match alike().find(|cut| cut.wanted.repair == wanted.repair) {
            Some(same) => same.again(wanted),
            None => line.cut(wanted, dropped, timed)?,
        };
        cuts.push(cut);
    }
    // each cut is measured in turns with the dense model
    let speed = match cuts.iter().filter_map(|cut| cut.speed).collect::<Vec<_>>() {
        beside if beside.is_empty() => {
            line.speed("dense/speed", &recipe.model, &line.keys.model.clone())?.map(|found| found.model)
        }
        beside => together(beside.iter().filter_map(|found| found.dense)),
    };
    let Line { state, stages, made, .. } = line;
    Ok((Done { checkpoint, layers: spec.layers, analysis, dense, speed, cuts, stages, made }, state))
}

/// Stages of a run with so many different cuts, and so many that are not the same but for their repair: one of those is
/// as fast as the other.
fn stages(recipe: &Recipe, cuts: usize, unrepaired: usize) -> usize {
    let has = usize::from;
    let (scores, heals) = (recipe.eval.is_some(), recipe.heal.is_some());
    let bare = scores && (!heals || recipe.drop.unhealed);
    let each = 1 + has(bare) + has(heals) + has(heals && scores);
    let timed = has(recipe.bench.is_some()) * unrepaired;
    has(recipe.analyze.as_ref().is_some_and(|analyze| !analyze.data.is_empty())) + has(scores) + cuts * each + timed
}

impl CutDone {
    /// The same layers by another method.
    fn again(&self, wanted: Wanted) -> Self {
        Self {
            wanted,
            dir: self.dir.clone(),
            dropped: self.dropped.clone(),
            size: self.size,
            scores: self.scores.clone(),
            speed: self.speed,
            healing: self.healing.clone(),
            healed: self.healed.clone(),
        }
    }
}

/// How `settings` merge an adapter.
fn merging(settings: &HealSettings) -> MergeSettings {
    let merge_onto = settings.merge_onto;
    let plain_scales = settings.plain_scales && merge_onto == MergeOnto::Quantized;
    MergeSettings { merge_onto, plain_scales, ..MergeSettings::default() }
}

/// A model to score.
struct Scored {
    path: String,
    adapter: Option<PathBuf>,
}

/// A run at work.
struct Line<'a> {
    recipe: &'a Recipe,
    state: State,
    keys: Keys<'a>,
    progress: &'a dyn Progress,
    count: Count<'a>,
    tokenized: Tokenized,
    /// The text of repairs.
    repairing: Shared,
    /// Losses of models as they lie on disk: the dense one is measured once.
    measured: KnownLosses,
    stages: Vec<String>,
    made: Vec<String>,
}

impl<'a> Line<'a> {
    /// Puts the stage on the list; what its work is told to.
    fn begin(&mut self, stage: &Stage<'_>) -> Told<'a> {
        self.stages.push(stage.name.to_owned());
        if !self.state.is_done(stage) {
            self.made.push(stage.name.to_owned());
        }
        self.count.next(stage.name, self.state.worked(stage).unwrap_or(0.0))
    }

    fn analyze(&mut self) -> Result<Option<Analysis>> {
        let Some(settings) = &self.recipe.analyze else { return Ok(None) };
        let Some(key) = self.keys.analysis()? else { return Ok(None) };
        let stage = Stage { name: "analysis", key, needed: Some("analysis") };
        let told = self.begin(&stage);
        let settings = AnalyzeSettings { model: Some(self.recipe.model.clone()), force: true, ..settings.clone() };
        let _samples: usize = self.state.run(&stage, &told, |out, progress| {
            let report = analyze::analyze(&AnalyzeSettings { out: Some(out.to_owned()), ..settings }, progress)?;
            Ok(report.analysis.map_or(0, |analysis| analysis.data.samples))
        })?;
        Analysis::read(&self.state.dir().join("analysis/analysis.json")).map(Some)
    }

    /// Scores `model`, which is what `identity` says.
    fn score(&mut self, name: &str, model: Scored, identity: &Value) -> Result<Option<Vec<FigureReport>>> {
        let (Some(settings), Some(key)) = (&self.recipe.eval, self.keys.scores(identity)?) else { return Ok(None) };
        let stage = Stage { name, key, needed: Some(name) };
        let told = self.begin(&stage);
        let settings =
            EvalSettings { model: Some(model.path), adapter: model.adapter, force: true, ..settings.clone() };
        let tokenized = &mut self.tokenized;
        let figures = self.state.run(&stage, &told, |out, progress| {
            let settings = EvalSettings { out: Some(out.to_owned()), ..settings };
            eval::eval_sharing(&settings, tokenized, progress).map(|report| report.figures)
        });
        figures.map(Some)
    }

    /// Measures the model at `path`, which is what `identity` says, in turns with the dense one.
    fn speed(&mut self, name: &str, path: &str, identity: &Value) -> Result<Option<Speeds>> {
        let (Some(settings), Some(key)) = (&self.recipe.bench, self.keys.speed(identity)?) else { return Ok(None) };
        let stage = Stage { name, key, needed: None };
        let told = self.begin(&stage);
        let dense = Some(self.recipe.model.clone()).filter(|dense| dense != path);
        let settings = BenchSettings { model: Some(path.to_owned()), against: dense, ..settings.clone() };
        let speed = self.state.run(&stage, &told, |_, progress| {
            let found = bench::measure(&settings, false, progress)?;
            Ok(Speeds { model: speed(&found.model), dense: found.against.as_ref().map(speed) })
        });
        speed.map(Some)
    }

    /// The cut and all that is made of it; `timed`: the speed of one that was repaired otherwise.
    fn cut(&mut self, wanted: Wanted, dropped: Dropped, timed: Option<Option<Speeds>>) -> Result<CutDone> {
        let dir = wanted.name.clone();
        let place = |part: &str| format!("{dir}/{part}");
        let [model, scores, speed, healed, healed_scores] =
            ["model", "scores", "speed", "healed", "healed-scores"].map(place);
        let identity = self.keys.cut_model(&dropped, wanted.repair)?;
        let shape = self.keys.cut_model(&dropped, None)?;
        let healing = self.recipe.heal.clone().zip(self.keys.healing(&identity)?);

        // what is missing decides whether the cut has to be there
        let is_scored = healing.is_none() || self.recipe.drop.unhealed;
        let mut missing = is_scored && self.unscored(&scores, &identity)?;
        if let (Some(key), None) = (self.keys.speed(&shape)?, timed) {
            missing |= !self.state.is_done(&Stage { name: &speed, key, needed: None });
        }
        if let Some((_, key)) = &healing {
            missing |= !self.state.is_done(&Stage { name: &healed, key: key.clone(), needed: Some(&healed) });
            missing |= self.unscored(&healed_scores, &json!(key))?;
        }
        let size = self.write_cut(&wanted, &dropped, &model, missing)?;

        let cut = Scored { path: self.path(&model), adapter: None };
        let scores = if is_scored { self.score(&scores, cut, &identity)? } else { None };
        let speed = timed.map_or_else(|| self.speed(&speed, &self.path(&model), &shape), Ok)?;
        let mut done = CutDone { wanted, dir: dir.clone(), dropped, size, scores, speed, healing: None, healed: None };
        if let Some((settings, key)) = healing {
            let identity = json!(key);
            let stage = Stage { name: &healed, key, needed: Some(&healed) };
            let told = self.begin(&stage);
            let reference = settings.eval_data.is_some().then(|| self.recipe.model.clone());
            let reference = settings.reference.clone().or(reference);
            let settings = HealSettings { model: Some(self.path(&model)), reference, ..settings };
            let measured = &mut self.measured;
            done.healing = Some(self.state.run(&stage, &told, |out, progress| {
                let settings = HealSettings { out: Some(out.to_owned()), ..settings };
                let report = heal::heal_sharing(&settings, measured, progress)?;
                report.result.ok_or_else(|| Error::work("the healing has no result"))
            })?);
            let whole = if self.unscored(&healed_scores, &identity)? {
                self.merged(&model, &healed)?
            } else {
                Scored { path: self.path(&model), adapter: None }
            };
            done.healed = self.score(&healed_scores, whole, &identity)?;
        }
        if self.recipe.drop.keep == Keep::Adapters {
            self.tidy(&model, &healed)?;
        }
        Ok(done)
    }

    /// The healed model: merged, or where the recipe wants adapters alone, the cut with its adapter.
    fn merged(&self, model: &str, healed: &str) -> Result<Scored> {
        let (adapter, merged) = (self.state.dir().join(healed).join("adapter"), format!("{healed}/merged"));
        let path = self.state.dir().join(&merged);
        if self.recipe.heal.as_ref().is_some_and(|heal| heal.adapter_only) {
            return Ok(Scored { path: self.path(model), adapter: Some(adapter) });
        }
        if path.exists() && has_leftovers(&path) {
            // killed when the model had its place: opening the place clears what is beside it
            drop(Workplace::open(&path, &Origin::program("run"))?);
        }
        if !path.exists() {
            // an earlier run has tidied it away
            let settings = MergeSettings {
                model: Some(self.path(model)),
                adapter: Some(adapter),
                out: Some(path),
                max_shard_size: self.recipe.cut.max_shard_size.clone(),
                ..self.recipe.heal.as_ref().map_or_else(MergeSettings::default, merging)
            };
            merge::merge(&settings, self.progress)?;
        }
        Ok(Scored { path: self.path(&merged), adapter: None })
    }

    /// Removes the models that can be made again from the adapter.
    fn tidy(&self, model: &str, healed: &str) -> Result<()> {
        let has_adapter = self.state.dir().join(healed).join("adapter").exists();
        let models = [(model.to_owned(), true), (format!("{healed}/merged"), has_adapter)];
        for (model, can_go) in models {
            let path = self.state.dir().join(model);
            if can_go && (path.exists() || has_leftovers(&path)) {
                Workplace::open(&path, &Origin::program("run"))?.discard(&path)?;
            }
        }
        Ok(())
    }

    fn path(&self, part: &str) -> String {
        self.state.dir().join(part).display().to_string()
    }

    /// Whether scores are still to be made.
    fn unscored(&self, name: &str, identity: &Value) -> Result<bool> {
        let Some(key) = self.keys.scores(identity)? else { return Ok(false) };
        Ok(!self.state.is_done(&Stage { name, key, needed: Some(name) }))
    }

    fn write_cut(&mut self, wanted: &Wanted, dropped: &Dropped, name: &str, needed: bool) -> Result<Size> {
        let stage = Stage { name, key: self.keys.cut(wanted, dropped)?, needed: needed.then_some(name) };
        let told = self.begin(&stage);
        let settings = self.recipe.cut_by(wanted.repair);
        let mut settings = CutSettings { model: Some(self.recipe.model.clone()), force: true, ..settings };
        match &wanted.which {
            Which::Method(method, n) => {
                let analysis = self.state.dir().join("analysis/analysis.json");
                settings.plan = method.needs_scores().then_some(analysis);
                settings.method = Some(method);
                settings.layers = Some(*n);
            }
            // the method is the one that the analysis follows
            Which::Within(_, most) => {
                settings.plan = Some(self.state.dir().join("analysis/analysis.json"));
                settings.max_loss = Some(*most);
            }
            Which::Given(text) => settings.drop = Some(text.clone()),
        }
        if dropped.are_layers() {
            // a recipe says it for the cuts that need it
            settings.format = None;
        }
        let shared = &mut self.repairing;
        self.state.run(&stage, &told, |out, progress| {
            let settings = CutSettings { out: Some(out.to_owned()), ..settings };
            let report = cut::cut_sharing(&settings, shared, progress)?;
            Ok(Size { parameters: report.parameters.after, bytes: report.bytes.after })
        })
    }
}
