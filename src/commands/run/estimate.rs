//! What a run would do and take, before it starts.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

use serde_json::json;

use super::analyses::{Analyses, Analyzed};
use super::check::Checked;
use super::drop::{Before, Wanted, Which, cut_spec};
use super::inputs::Keys;
use super::machine::{Machine, Machines, Measure};
use super::recipe::Recipe;
use super::rounds::{Base, Made};
use super::{RunReport, StageReport, stage::Stage, state::State};
use crate::arch::ModelSpec;
use crate::checkpoint::Checkpoint;
use crate::commands::analyze::{self, AnalyzeSettings};
use crate::commands::eval::EvalReport;
use crate::commands::repair::Shared;
use crate::commands::{open, taught::Taught};
use crate::heal;
use crate::importance::Analysis;
use crate::model::mean_flops;
use crate::model::memory::transient_bytes_per_token;
use crate::plan::{DropSize, Dropped};
use crate::progress::{Progress, Silent};
use crate::{Context, Result};

/// Bytes a second that a cut copies, on a slow disk.
const COPIED: f64 = 5e8;

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
        ends: BTreeMap::new(),
        stages: Vec::new(),
    };
    let asked = recipe.analyses(&wanted)?;
    let made = asked.iter().map(|asked| ahead.analysis(asked, None, progress)).collect::<Result<Vec<_>>>()?;
    let made = asked.iter().zip(made).filter_map(|(asked, made)| Some((asked.search, made?))).collect();
    let analyses = Analyses::new(made);
    ahead.scores("dense/scores", &json!(ahead.keys.model), dense.as_ref(), DropSize::default())?;
    let mut seen: Vec<(Dropped, Option<&str>, String)> = Vec::new();
    let first = recipe.repairs().first().copied().flatten();
    for wanted in wanted {
        if let Some(before) = &wanted.before {
            ahead.next(&wanted, before, dense.as_ref(), progress)?;
            continue;
        }
        let base = Base::dense(recipe, &ahead.keys, &wanted, ahead.spec.layers)?;
        let known = match (&wanted.which, analyses.of(&wanted.which)) {
            (which, None) if which.needs_scores() => None,
            (which, analysis) => Some(which.dropped(ahead.spec.layers, analysis)?),
        };
        // as fast as one that is repaired otherwise
        let mut is_timed = wanted.repair == first;
        if let Some(dropped) = &known {
            let repair = wanted.repair.map(|repair| repair.name);
            if let Some((.., same)) = seen.iter().find(|(known, by, _)| known == dropped && *by == repair) {
                let end = ahead.ends.get(same).cloned();
                ahead.ends.extend(end.map(|end| (wanted.name.clone(), end)));
                continue;
            }
            is_timed = seen.iter().all(|(known, ..)| known != dropped);
            seen.push((dropped.clone(), repair, wanted.name.clone()));
        }
        let (before, is_open) = (ahead.stages.len(), known.is_none());
        ahead.cut(&wanted, (Some(&base), known), (dense.as_ref(), is_timed), progress)?;
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
    /// What comes of the cuts that are known, and what of the dense model is gone by then.
    ends: BTreeMap<String, (Made, Dropped)>,
    stages: Vec<StageReport>,
}

impl Ahead<'_> {
    /// The analysis that is asked for, where it is done: of what is `left` of the dense model, which is not known where
    /// a cut before it is not, or of all of it.
    fn analysis(
        &mut self,
        asked: &Analyzed,
        left: Option<(Option<&Made>, usize)>,
        progress: &dyn Progress,
    ) -> Result<Option<Analysis>> {
        let Some(machine) = self.machines.analyze else { return Ok(None) };
        let name = &asked.name;
        let identity = left.map_or(Some(&self.keys.model), |(made, _)| made.map(|made| &made.identity));
        let key = identity.map(|identity| self.keys.analysis(identity, &asked.settings)).transpose()?;
        let is_done = key.is_some_and(|key| self.state.is_done(&Stage { name, key, needed: Some(&asked.file()) }));
        let gone = DropSize::of_layers(left.map_or(0, |(_, gone)| gone));
        let settings = AnalyzeSettings {
            model: Some(self.recipe.model.clone()),
            dry_run: true,
            out: None,
            ..asked.settings.clone()
        };
        let pass = analyze::analyze_alone(&settings, progress).context(|| name.clone())?.pass;
        let streams = 4 * (self.spec.layers as u64 + 1) * self.spec.hidden_size as u64;
        let (memory, seconds) = match &pass {
            Some(pass) => (
                Some(pass.weight_bytes + self.pass_bytes(machine, streams)),
                Some(
                    self.seconds(machine, pass.tokens, gone) * self.times(pass.layer_passes)
                        + pass.questions.as_ref().map_or(0.0, |asked| {
                            self.seconds(machine, asked.tokens, gone) * self.times(asked.layer_passes)
                        }),
                ),
            ),
            None => (None, None),
        };
        self.stages.push(StageReport { name: name.clone(), is_done, memory, seconds, ..StageReport::default() });
        if is_done { Analysis::read(&self.state.dir().join(asked.file())).map(Some) } else { Ok(None) }
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

    /// A cut that goes on from what the one `before` it left.
    fn next(
        &mut self,
        wanted: &Wanted,
        before: &Before,
        dense: Option<&EvalReport>,
        progress: &dyn Progress,
    ) -> Result<()> {
        let (end, gone) = (self.ends.get(&before.name).cloned(), before.layers);
        let asked = self.recipe.analysis_after(wanted, gone)?;
        let made = end.as_ref().map(|(made, _)| made);
        let analysis = asked.as_ref().map(|asked| self.analysis(asked, Some((made, gone)), progress)).transpose()?;
        let Some((made, dropped)) = end else { return self.cut(wanted, (None, None), (dense, true), progress) };
        let layers = self.spec.layers;
        let known = match analysis {
            // nothing has to be measured
            None => Some(wanted.which.less(gone).dropped(layers - gone, None)?),
            Some(None) => None,
            Some(Some(found)) => Some(wanted.which.less(gone).dropped(layers - gone, Some(&found))?),
        };
        let base = Base { made, dropped, analysis: None, layers };
        self.cut(wanted, (Some(&base), known), (dense, true), progress)
    }

    /// A cut of what is `known` to go of a model; where only an analysis can tell what, of as much, or of the least
    /// that may be.
    fn cut(
        &mut self,
        wanted: &Wanted,
        (base, known): (Option<&Base>, Option<Dropped>),
        (dense, is_timed): (Option<&EvalReport>, bool),
        progress: &dyn Progress,
    ) -> Result<()> {
        let little = wanted.which.as_little(self.spec.layers)?;
        // of the dense model, and of the one that is cut
        let (dropped, own) = match (base, &known) {
            (Some(base), Some(known)) => (base.and(known), known.clone()),
            _ => (little.clone(), little),
        };
        let model = base.map_or_else(|| self.keys.model.clone(), |base| base.made.identity.clone());
        let name = |part: &str| format!("{}/{part}", wanted.name);
        let (written, healed) = (name("model"), name("healed"));
        let identity = self.keys.cut_model(&model, &own, wanted.repair)?;
        let checked = Checked { recipe: self.recipe, checkpoint: self.checkpoint, spec: &self.spec };
        let repair = match wanted.repair {
            // of a model that is not there yet, what the dense one says of as much
            Some(_) => {
                let known = known.as_ref().filter(|_| wanted.before.is_none());
                checked.cut(wanted, known, &mut self.repairing, &Silent)?.repair
            }
            None => None,
        };
        let bytes = self.bytes_without(&dropped);
        let is_done = |state: &State, name: &str, key: String| {
            known.is_some() && state.is_done(&Stage { name, key, needed: None })
        };
        self.stages.push(StageReport {
            is_done: is_done(&self.state, &written, self.keys.cut(&model, wanted, &own)?),
            name: written,
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
            self.speed(&name("speed"), &self.keys.cut_model(&model, &own, None)?, &dropped)?;
        }
        let healing = self.recipe.heal.as_ref().zip(self.keys.healing(&identity)?);
        if known.is_some() {
            let identity = healing.as_ref().map_or_else(|| identity.clone(), |(_, key)| json!(key));
            let made = Made { path: String::new(), identity };
            self.ends.insert(wanted.name.clone(), (made, dropped.clone()));
        }
        let Some((settings, key)) = healing else { return Ok(()) };
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
mod tests;
