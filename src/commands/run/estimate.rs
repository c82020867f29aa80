//! What a run would do and take, before it starts.

use std::path::Path;

use candle_core::Device;
use serde_json::json;

use super::inputs::Keys;
use super::pipeline::dropped;
use super::recipe::{Recipe, Wanted, Which};
use super::state::{Stage, State};
use super::{RunReport, StageReport};
use crate::arch::ModelSpec;
use crate::checkpoint::Checkpoint;
use crate::commands::analyze::{self, AnalyzeSettings};
use crate::commands::eval::{self, EvalReport};
use crate::commands::open;
use crate::eval::settings::EvalSettings;
use crate::heal;
use crate::importance::Analysis;
use crate::model::memory::transient_bytes_per_token;
use crate::progress::Progress;
use crate::{Context, Result, ops};

/// What is left of the speed of products when norms, activations and attention have taken their part.
const EFFICIENCY: f64 = 0.8;
/// Bytes a second that a cut copies, on a slow disk.
const COPIED: f64 = 5e8;
/// Bytes of weights a second that are read from memory for one new token after the other, on a slow machine.
const READ: f64 = 5e9;
/// Tokens that are in work at once while a model is measured or scored.
const PASS_TOKENS: u64 = 1024;

/// The stages, what they take, and which are done.
///
/// # Errors
/// Request: a recipe that cannot be followed, a healing that does not fit.
pub(super) fn estimate(recipe: &Recipe, out: Option<&Path>, progress: &dyn Progress) -> Result<RunReport> {
    let checkpoint = open::checkpoint(Some(&recipe.model), progress)?;
    let spec = ModelSpec::from_config(&checkpoint.config)?;
    let wanted = recipe.wanted(spec.layers)?;
    let state = State::look(out.unwrap_or(Path::new("")))?;
    let keys = Keys::new(recipe, &checkpoint)?;
    let pace = EFFICIENCY * 2.0 * ops::multiply_adds(&Device::Cpu)?;
    let mut ahead = Ahead { recipe, checkpoint: &checkpoint, spec, state, keys, pace, stages: Vec::new() };
    let analysis = ahead.analysis(progress)?;
    let dense = match &recipe.eval {
        Some(settings) => {
            let settings =
                EvalSettings { model: Some(recipe.model.clone()), dry_run: true, out: None, ..settings.clone() };
            Some(eval::eval(&settings, progress).context(|| "dense/scores")?)
        }
        None => None,
    };
    ahead.scores("dense/scores", &json!(ahead.keys.model), dense.as_ref(), 0)?;
    ahead.speed("dense/speed", &json!(ahead.keys.model), &[])?;
    let mut seen: Vec<Vec<usize>> = Vec::new();
    for wanted in wanted {
        let known = match (&wanted.which, &analysis) {
            (Which::Similarity(_), None) => None,
            (which, analysis) => Some(dropped(which, ahead.spec.layers, analysis.as_ref())?),
        };
        if let Some(layers) = &known {
            if seen.contains(layers) {
                continue;
            }
            seen.push(layers.clone());
        }
        ahead.cut(&wanted, known, dense.as_ref(), progress)?;
    }
    Ok(RunReport { stages: ahead.stages, data: None, page: None })
}

/// A run that is looked at.
struct Ahead<'a> {
    recipe: &'a Recipe,
    checkpoint: &'a Checkpoint,
    spec: ModelSpec,
    state: State,
    keys: Keys<'a>,
    /// Floating point operations a second.
    pace: f64,
    stages: Vec<StageReport>,
}

impl Ahead<'_> {
    /// The analysis, where it is done.
    fn analysis(&mut self, progress: &dyn Progress) -> Result<Option<Analysis>> {
        let (Some(settings), Some(key)) = (&self.recipe.analyze, self.keys.analysis()?) else { return Ok(None) };
        let path = "analysis/analysis.json";
        let is_done = self.state.is_done(&Stage { name: "analysis", key, needed: Some(path) });
        let settings =
            AnalyzeSettings { model: Some(self.recipe.model.clone()), dry_run: true, out: None, ..settings.clone() };
        let pass = analyze::analyze(&settings, progress).context(|| "analysis")?.pass;
        let streams = 4 * (self.spec.layers as u64 + 1) * self.spec.hidden_size as u64;
        let (memory, seconds) = match &pass {
            Some(pass) => (Some(pass.weight_bytes + self.pass_bytes(streams)), Some(self.seconds(pass.tokens, 0))),
            None => (None, None),
        };
        self.stages.push(StageReport { name: "analysis".to_owned(), is_done, memory, disk: None, seconds });
        if is_done { Analysis::read(&self.state.dir().join(path)).map(Some) } else { Ok(None) }
    }

    /// Scores of the model less `dropped` layers.
    fn scores(
        &mut self,
        name: &str,
        identity: &serde_json::Value,
        dense: Option<&EvalReport>,
        dropped: usize,
    ) -> Result<()> {
        let (Some(dense), Some(key)) = (dense, self.keys.scores(identity)?) else { return Ok(()) };
        self.stages.push(StageReport {
            name: name.to_owned(),
            is_done: self.state.is_done(&Stage { name, key, needed: Some(name) }),
            memory: Some(dense.passes.weight_bytes + 4 * self.pass_bytes(0)),
            disk: None,
            seconds: Some(self.seconds(dense.passes.tokens_run, dropped)),
        });
        Ok(())
    }

    /// Speed of the model without `dropped`.
    fn speed(&mut self, name: &str, identity: &serde_json::Value, dropped: &[usize]) -> Result<()> {
        let (Some(settings), Some(key)) = (&self.recipe.bench, self.keys.speed(identity)?) else { return Ok(()) };
        let bytes = self.bytes_without(dropped);
        let prompt = settings.prompt_tokens.unwrap_or(512.min(self.spec.max_positions));
        let once = self.seconds(prompt, dropped.len()) + settings.tokens as f64 * bytes as f64 / READ;
        self.stages.push(StageReport {
            name: name.to_owned(),
            is_done: self.state.is_done(&Stage { name, key, needed: None }),
            memory: Some(bytes + self.pass_bytes(0)),
            disk: None,
            seconds: Some(1.0 + (settings.repetitions + 1) as f64 * once),
        });
        Ok(())
    }

    /// A cut of `known` layers; where only an analysis can tell which, of as many.
    fn cut(
        &mut self,
        wanted: &Wanted,
        known: Option<Vec<usize>>,
        dense: Option<&EvalReport>,
        progress: &dyn Progress,
    ) -> Result<()> {
        let layers = match (&known, &wanted.which) {
            (Some(layers), _) => layers.clone(),
            (None, Which::Similarity(n) | Which::Deepest(n)) => (0..*n).collect(),
            (None, Which::Given(_)) => Vec::new(),
        };
        let name = |part: &str| format!("{}/{part}", wanted.name);
        let (model, healed) = (name("model"), name("healed"));
        let identity = self.keys.cut_model(&layers);
        let bytes = self.bytes_without(&layers);
        let is_done = |state: &State, name: &str, key: String| {
            known.is_some() && state.is_done(&Stage { name, key, needed: None })
        };
        self.stages.push(StageReport {
            is_done: is_done(&self.state, &model, self.keys.cut(wanted, &layers)),
            name: model,
            memory: None,
            disk: Some(bytes),
            seconds: Some(2.0 * bytes as f64 / COPIED),
        });
        if self.recipe.heal.is_none() || self.recipe.drop.unhealed {
            self.scores(&name("scores"), &identity, dense, layers.len())?;
        }
        self.speed(&name("speed"), &identity, &layers)?;
        let (Some(settings), Some(key)) = (&self.recipe.heal, self.keys.healing(&identity)?) else { return Ok(()) };
        let settings = &settings.settled(self.spec.max_positions).0;
        let device = open::device(Some(&settings.device), settings.dtype.as_deref(), progress)?;
        let budget = open::budget(settings.memory.as_deref(), &device)?;
        let mut spec = self.spec.clone();
        spec.layers -= layers.len();
        let teacher = settings.teacher.as_ref().map_or(0, |_| self.bytes_without(&[]));
        let plan = heal::estimate(self.checkpoint, &spec, settings, (&device, budget), teacher, None)
            .context(|| healed.clone())?;
        let whole = self.bytes_without(&[]);
        self.stages.push(StageReport {
            is_done: is_done(&self.state, &healed, key.clone()),
            name: healed,
            memory: Some(plan.memory),
            disk: Some(if settings.adapter_only { plan.disk } else { plan.disk.saturating_sub(whole - bytes) }),
            seconds: Some(plan.seconds),
        });
        self.scores(&name("healed-scores"), &json!(key), dense, layers.len())
    }

    fn bytes_without(&self, dropped: &[usize]) -> u64 {
        let whole: u64 = self.checkpoint.tensors.values().map(|entry| entry.len).sum();
        let length = |name: &str| self.checkpoint.tensors.get(name).map_or(0, |entry| entry.len);
        let layer =
            |layer: &usize| self.spec.layer_tensors(*layer).iter().map(|tensor| length(&tensor.name)).sum::<u64>();
        whole - dropped.iter().map(layer).sum::<u64>()
    }

    /// Bytes of a pass beside the weights; `kept` of them a token are kept.
    fn pass_bytes(&self, kept: u64) -> u64 {
        PASS_TOKENS * (transient_bytes_per_token(&self.spec) + kept)
    }

    /// Seconds that a pass over `tokens` takes, the head's part left out: only what is scored meets it.
    fn seconds(&self, tokens: usize, dropped: usize) -> f64 {
        let tensors = self.spec.layer_tensors(0);
        let matrices = tensors.iter().filter(|tensor| tensor.shape.len() == 2);
        let numbers: usize = matrices.map(|tensor| tensor.shape.iter().product::<usize>()).sum();
        2.0 * numbers as f64 * (self.spec.layers - dropped) as f64 * tokens as f64 / self.pace
    }
}
