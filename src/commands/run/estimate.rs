//! What a run would do and take, before it starts.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

use serde_json::json;

use super::check::Checked;
use super::drop::{Wanted, Which, cut_spec};
use super::inputs::Keys;
use super::recipe::Recipe;
use super::{RunReport, StageReport, stage::Stage, state::State};
use crate::arch::ModelSpec;
use crate::checkpoint::Checkpoint;
use crate::commands::analyze::{self, AnalyzeSettings};
use crate::commands::eval::EvalReport;
use crate::commands::repair::Shared;
use crate::commands::{open, taught::Taught};
use crate::heal;
use crate::importance::Analysis;
use crate::model::memory::transient_bytes_per_token;
use crate::model::{mean_flops, tokens_at_once};
use crate::plan::{DropSize, Dropped};
use crate::progress::{Progress, Silent};
use crate::{Context, Result, ops};

/// What is left of the speed of products when norms, activations and attention have taken their part.
const EFFICIENCY: f64 = 0.8;
/// Bytes a second that a cut copies, on a slow disk.
const COPIED: f64 = 5e8;

/// What computes a stage, as far as an estimate asks.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Machine {
    /// Floating point operations a second in products.
    pub(super) flops: f64,
    /// Bytes of weights a second that are read for one new token after the other.
    pub(super) reading: f64,
    /// Tokens that are in work at once while a model is measured or scored.
    pub(super) at_once: usize,
}

impl Machine {
    /// Measures the device that `--device` and `--dtype` name.
    ///
    /// # Errors
    /// Request: there is none such. The device's.
    pub(super) fn measure(device: Option<&str>, dtype: Option<&str>) -> Result<Self> {
        let device = open::device(device, dtype, &Silent)?;
        Ok(Self {
            flops: EFFICIENCY * 2.0 * ops::multiply_adds(&device)?,
            reading: ops::reading(&device)?,
            at_once: tokens_at_once(&device),
        })
    }
}

/// How a [`Machine`] is found for what a section says of device and type.
type Measure<'a> = &'a dyn Fn(Option<&str>, Option<&str>) -> Result<Machine>;

/// The machines of a recipe's sections, each measured once.
struct Machines {
    analyze: Option<Machine>,
    eval: Option<Machine>,
    bench: Option<Machine>,
}

impl Machines {
    fn of(recipe: &Recipe, measure: Measure<'_>) -> Result<Self> {
        let mut known = BTreeMap::new();
        let mut find = |device: &Option<String>, dtype: &Option<String>| -> Result<Machine> {
            match known.entry((device.clone(), dtype.clone())) {
                Entry::Occupied(found) => Ok(*found.get()),
                Entry::Vacant(missing) => Ok(*missing.insert(measure(device.as_deref(), dtype.as_deref())?)),
            }
        };
        Ok(Self {
            analyze: recipe.analyze.as_ref().map(|section| find(&section.device, &section.dtype)).transpose()?,
            eval: recipe.eval.as_ref().map(|section| find(&section.device, &section.dtype)).transpose()?,
            bench: recipe.bench.as_ref().map(|section| find(&section.device, &section.dtype)).transpose()?,
        })
    }
}

/// The stages, what they take, and which are done.
///
/// # Errors
/// Request: a recipe that cannot be followed, a healing that does not fit.
pub(super) fn estimate(
    recipe: &Recipe,
    out: Option<&Path>,
    measure: Measure<'_>,
    progress: &dyn Progress,
) -> Result<RunReport> {
    let checkpoint = open::computed(Some(&recipe.model), progress)?;
    let spec = ModelSpec::from_config(&checkpoint.config)?;
    let wanted = recipe.wanted(&checkpoint, spec.layers)?;
    let is_dense_alone = wanted.is_empty();
    let state = State::look(out)?;
    let keys = Keys::new(recipe, &checkpoint)?;
    let checked = Checked { recipe, checkpoint: &checkpoint, spec: &spec };
    let dense = checked.check(&wanted, &mut None, false, progress)?;
    let machines = Machines::of(recipe, measure)?;
    let mut ahead = Ahead {
        recipe,
        checkpoint: &checkpoint,
        spec,
        state,
        keys,
        machines,
        repairing: Shared::default(),
        stages: Vec::new(),
    };
    let analysis = ahead.analysis(progress)?;
    ahead.scores("dense/scores", &json!(ahead.keys.model), dense.as_ref(), DropSize::default())?;
    let mut seen: Vec<(Dropped, Option<&str>)> = Vec::new();
    let first = recipe.repairs().first().copied().flatten();
    for wanted in wanted {
        let known = match (&wanted.which, &analysis) {
            (which, None) if which.needs_scores() => None,
            (which, analysis) => Some(which.dropped(ahead.spec.layers, analysis.as_ref())?),
        };
        // as fast as one that is repaired otherwise
        let mut is_timed = wanted.repair == first;
        if let Some(dropped) = &known {
            let repair = wanted.repair.map(|repair| repair.name);
            if seen.iter().any(|(known, by)| known == dropped && *by == repair) {
                continue;
            }
            is_timed = seen.iter().all(|(known, _)| known != dropped);
            seen.push((dropped.clone(), repair));
        }
        let (before, is_open) = (ahead.stages.len(), known.is_none());
        ahead.cut(&wanted, known, (dense.as_ref(), is_timed), progress)?;
        if let (Which::Within(..), true) = (&wanted.which, is_open) {
            let most = ahead.most_layers()?;
            ahead.stages[before..].iter_mut().for_each(|stage| stage.layers_at_most = most);
        }
    }
    if is_dense_alone {
        ahead.speed("dense/speed", &json!(ahead.keys.model), &Dropped::default())?;
    }
    Ok(RunReport { stages: ahead.stages, ..RunReport::default() })
}

/// A run that is looked at.
struct Ahead<'a> {
    recipe: &'a Recipe,
    checkpoint: &'a Arc<Checkpoint>,
    spec: ModelSpec,
    state: State,
    keys: Keys<'a>,
    machines: Machines,
    repairing: Shared,
    stages: Vec<StageReport>,
}

impl Ahead<'_> {
    /// The analysis, where it is done.
    fn analysis(&mut self, progress: &dyn Progress) -> Result<Option<Analysis>> {
        let (Some(settings), Some(machine), Some(key)) =
            (&self.recipe.analyze, self.machines.analyze, self.keys.analysis()?)
        else {
            return Ok(None);
        };
        let path = "analysis/analysis.json";
        let is_done = self.state.is_done(&Stage { name: "analysis", key, needed: Some(path) });
        let settings =
            AnalyzeSettings { model: Some(self.recipe.model.clone()), dry_run: true, out: None, ..settings.clone() };
        let pass = analyze::analyze(&settings, progress).context(|| "analysis")?.pass;
        let streams = 4 * (self.spec.layers as u64 + 1) * self.spec.hidden_size as u64;
        let (memory, seconds) = match &pass {
            Some(pass) => (
                Some(pass.weight_bytes + self.pass_bytes(machine, streams)),
                Some(
                    self.seconds(machine, pass.tokens, DropSize::default()) * self.times(pass.layer_passes)
                        + pass.questions.as_ref().map_or(0.0, |asked| {
                            self.seconds(machine, asked.tokens, DropSize::default()) * self.times(asked.layer_passes)
                        }),
                ),
            ),
            None => (None, None),
        };
        self.stages.push(StageReport {
            name: "analysis".to_owned(),
            is_done,
            memory,
            seconds,
            ..StageReport::default()
        });
        if is_done { Analysis::read(&self.state.dir().join(path)).map(Some) } else { Ok(None) }
    }

    /// How many times all layers are computed, where so many layer passes are.
    fn times(&self, layer_passes: usize) -> f64 {
        (layer_passes as f64 / self.spec.layers as f64).max(1.0)
    }

    /// Layers that the analysis may choose.
    fn most_layers(&self) -> Result<Option<usize>> {
        let layers = self.spec.layers;
        let search = self.recipe.analyze.as_ref().map(AnalyzeSettings::search).transpose()?;
        Ok(search.map(|search| search.protect.allowed(layers).len().min(layers - 1)))
    }

    /// Scores of the model less so much.
    fn scores(
        &mut self,
        name: &str,
        identity: &serde_json::Value,
        dense: Option<&EvalReport>,
        dropped: DropSize,
    ) -> Result<()> {
        let (Some(dense), Some(machine), Some(key)) = (dense, self.machines.eval, self.keys.scores(identity)?) else {
            return Ok(());
        };
        self.stages.push(StageReport {
            name: name.to_owned(),
            is_done: self.state.is_done(&Stage { name, key, needed: Some(name) }),
            memory: Some(dense.passes.weight_bytes + 4 * self.pass_bytes(machine, 0)),
            disk: None,
            seconds: Some(self.seconds(machine, dense.passes.tokens_run, dropped)),
            ..StageReport::default()
        });
        Ok(())
    }

    /// Speed of the model without `dropped`.
    fn speed(&mut self, name: &str, identity: &serde_json::Value, dropped: &Dropped) -> Result<()> {
        let (Some(settings), Some(machine), Some(key)) =
            (&self.recipe.bench, self.machines.bench, self.keys.speed(identity)?)
        else {
            return Ok(());
        };
        let bytes = self.bytes_without(dropped);
        let prompt = settings.prompt_tokens.unwrap_or(512.min(self.spec.max_positions));
        let once = |dropped: &Dropped| {
            let spoken = settings.tokens as f64 * self.bytes_without(dropped) as f64 / machine.reading;
            self.seconds(machine, prompt, dropped.size()) + spoken
        };
        // a cut is measured in turns with the dense model
        let none = Dropped::default();
        let turn = if dropped.is_empty() { once(&none) } else { once(dropped) + once(&none) };
        self.stages.push(StageReport {
            name: name.to_owned(),
            is_done: self.state.is_done(&Stage { name, key, needed: None }),
            memory: Some(self.bytes_without(&none).max(bytes) + self.pass_bytes(machine, 0)),
            disk: None,
            seconds: Some(1.0 + (settings.repetitions + 1) as f64 * turn),
            ..StageReport::default()
        });
        Ok(())
    }

    /// A cut of what is `known` to go; where only an analysis can tell what, of as much, or of the least that may be.
    fn cut(
        &mut self,
        wanted: &Wanted,
        known: Option<Dropped>,
        (dense, is_timed): (Option<&EvalReport>, bool),
        progress: &dyn Progress,
    ) -> Result<()> {
        let dropped = known.clone().map_or_else(|| wanted.which.as_little(self.spec.layers), Ok)?;
        let name = |part: &str| format!("{}/{part}", wanted.name);
        let (model, healed) = (name("model"), name("healed"));
        let identity = self.keys.cut_model(&dropped, wanted.repair)?;
        let checked = Checked { recipe: self.recipe, checkpoint: self.checkpoint, spec: &self.spec };
        let repair = match wanted.repair {
            Some(_) => checked.cut(wanted, known.as_ref(), &mut self.repairing, &Silent)?.repair,
            None => None,
        };
        let bytes = self.bytes_without(&dropped);
        let is_done = |state: &State, name: &str, key: String| {
            known.is_some() && state.is_done(&Stage { name, key, needed: None })
        };
        self.stages.push(StageReport {
            is_done: is_done(&self.state, &model, self.keys.cut(wanted, &dropped)?),
            name: model,
            memory: repair.as_ref().map(|repair| repair.memory_bytes),
            disk: Some(bytes),
            seconds: Some(
                2.0 * bytes as f64 / COPIED + repair.and_then(|repair| repair.expected_seconds).unwrap_or(0.0),
            ),
            ..StageReport::default()
        });
        if self.recipe.heal.is_none() || self.recipe.drop.unhealed {
            self.scores(&name("scores"), &identity, dense, dropped.size())?;
        }
        if is_timed {
            self.speed(&name("speed"), &self.keys.cut_model(&dropped, None)?, &dropped)?;
        }
        let (Some(settings), Some(key)) = (&self.recipe.heal, self.keys.healing(&identity)?) else { return Ok(()) };
        let settings = &settings.settled(self.spec.max_positions).0;
        let device = open::device(Some(&settings.device), settings.dtype.as_deref(), progress)?;
        let budget = open::budget(settings.memory.as_deref(), &device)?;
        let spec = cut_spec(&self.spec, &dropped);
        let dense_bytes = self.bytes_without(&Dropped::default());
        let teacher = Taught::expected(settings, dense_bytes);
        let plan = heal::estimate(self.checkpoint, &spec, settings, (&device, budget), teacher, None)
            .context(|| healed.clone())?;
        self.stages.push(StageReport {
            is_done: is_done(&self.state, &healed, key.clone()),
            name: healed,
            memory: Some(plan.memory),
            disk: Some(if settings.adapter_only { plan.disk } else { plan.disk.saturating_sub(dense_bytes - bytes) }),
            seconds: Some(plan.seconds),
            ..StageReport::default()
        });
        self.scores(&name("healed-scores"), &json!(key), dense, dropped.size())
    }

    fn bytes_without(&self, dropped: &Dropped) -> u64 {
        let whole: u64 = self.checkpoint.tensors.values().map(|entry| entry.len).sum();
        let length = |name: &str| self.checkpoint.tensors.get(name).map_or(0, |entry| entry.len);
        let of = |spec: &ModelSpec, layer: usize| {
            spec.layer_tensors(layer).iter().map(|tensor| length(&tensor.name)).sum::<u64>()
        };
        // the layers stay where they are, so that they are read under their own numbers
        let parts = Dropped { layers: BTreeSet::new(), ..dropped.clone() };
        let left = cut_spec(&self.spec, &parts);
        let layers = dropped.layers.iter().map(|layer| of(&self.spec, *layer));
        let parts = parts.sublayers.keys().map(|layer| of(&self.spec, *layer) - of(&left, *layer));
        whole - layers.chain(parts).sum::<u64>()
    }

    /// Bytes of a pass beside the weights; `kept` of them a token are kept.
    fn pass_bytes(&self, machine: Machine, kept: u64) -> u64 {
        machine.at_once as u64 * (transient_bytes_per_token(&self.spec) + kept)
    }

    /// Seconds that a pass over `tokens` takes, the head's part left out: only what is scored meets it.
    fn seconds(&self, machine: Machine, tokens: usize, dropped: DropSize) -> f64 {
        let (products, _) = mean_flops(&self.spec);
        products * (self.spec.layers as f64 - dropped.layers()) * tokens as f64 / machine.flops
    }
}

#[cfg(test)]
mod tests {
    use super::super::compute::Compute;
    use super::*;
    use crate::demo;

    fn stages(recipe: &Recipe, machine: Machine) -> Vec<StageReport> {
        estimate(recipe, None, &|_, _| Ok(machine), &Silent).unwrap().stages
    }

    /// A machine that does a thousand times as much takes a thousandth of the time, and as much memory as its passes.
    #[test]
    fn estimates_are_those_of_what_computes() {
        let dir = tempfile::tempdir().unwrap();
        demo::extract(dir.path()).unwrap();
        let set =
            ["drop.layers=[2]", "drop.strategies=[\"deepest\"]", "analyze.samples=8", "eval.limit=4", "bench.tokens=8"];
        let set: Vec<String> = set.map(str::to_owned).into();
        let recipe = Recipe::read(&dir.path().join("recipe.toml"), &set, &Compute::default()).unwrap();
        let cpu = Machine { flops: 1e9, reading: 1e9, at_once: 1024 };
        let gpu = Machine { flops: 1e12, reading: 1e12, at_once: 4096 };
        let (slow, fast) = (stages(&recipe, cpu), stages(&recipe, gpu));
        let of = |stages: &[StageReport], name: &str| stages.iter().find(|stage| stage.name == name).unwrap().clone();
        for name in ["analysis", "dense/scores", "deepest-2/scores"] {
            let (slow, fast) = (of(&slow, name), of(&fast, name));
            let ratio = slow.seconds.unwrap() / fast.seconds.unwrap();
            assert!((ratio - 1000.0).abs() < 1e-6, "{name}: {ratio}");
            let weights = slow.memory.unwrap() - (fast.memory.unwrap() - slow.memory.unwrap()) / 3;
            assert!(weights > 4 << 20 && weights < 16 << 20, "{name}: {weights}");
        }
        // a second of loading is the same everywhere
        let speed = |stages: &[StageReport]| of(stages, "deepest-2/speed").seconds.unwrap() - 1.0;
        assert!((speed(&slow) / speed(&fast) - 1000.0).abs() < 1e-3);
        // what is not computed takes as long
        assert_eq!(of(&slow, "deepest-2/model"), of(&fast, "deepest-2/model"));
    }

    #[test]
    fn each_section_is_measured_where_it_computes() {
        let dir = tempfile::tempdir().unwrap();
        demo::extract(dir.path()).unwrap();
        let set: Vec<String> = ["bench.device=cpu".to_owned(), "eval.dtype=f32".to_owned()].into();
        let recipe = Recipe::read(&dir.path().join("recipe.toml"), &set, &Compute::default()).unwrap();
        let asked = std::cell::RefCell::new(Vec::new());
        let machines = Machines::of(&recipe, &|device, dtype| {
            asked.borrow_mut().push((device.map(str::to_owned), dtype.map(str::to_owned)));
            Ok(Machine { flops: asked.borrow().len() as f64, reading: 1.0, at_once: 1 })
        });
        let flops = machines.map(|found| [found.analyze, found.eval, found.bench].map(|m| m.unwrap().flops)).unwrap();
        assert_eq!(flops, [1.0, 2.0, 3.0]);
        assert_eq!(asked.into_inner()[1..], [(None, Some("f32".to_owned())), (Some("cpu".to_owned()), None)]);
    }

    #[test]
    fn this_machine() {
        let machine = Machine::measure(Some("cpu"), None).unwrap();
        assert!(machine.flops > 1e6 && machine.reading > 1e6 && machine.at_once == 1024);
        assert!(Machine::measure(Some("gpu"), None).is_err());
    }
}
