//! Where the experts of a layer are between two uses: in memory, or on disk until tokens are sent to them.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use candle_core::{Device, Tensor};
use rayon::prelude::*;

use super::super::gated_mlp::{Gate, GateUpProj, GatedMlp};
use crate::arch::{self, ModelSpec, Role, Stacked};
use crate::checkpoint::Checkpoint;
use crate::model::load_options::{Loader, StackedMatrices};
use crate::model::sublayers::Linear;
use crate::model::{LoadOptions, Part};
use crate::weights::lora::Adapter;
use crate::{Context, Error, Result, interrupt};

/// The experts of a layer.
#[derive(Debug)]
pub(super) enum Held {
    /// All of them.
    InMemory(Vec<GatedMlp>),
    /// What it takes to read one.
    OnDisk(Box<OnDisk>),
}

/// What it takes to read an expert.
#[derive(Debug)]
pub(super) struct OnDisk {
    rule: arch::Experts,
    checkpoint: Arc<Checkpoint>,
    spec: ModelSpec,
    layer: usize,
    place: usize,
    load_options: LoadOptions,
    device: Device,
    stacked: [StackedMatrices; 2],
    /// Whether adapters are trained, and what follows from them is to be brought up to date.
    follows: AtomicBool,
}

/// What all experts have in one tensor for gate and up and one for down, where that is trained.
type Trained = Vec<(Role, Part, Tensor)>;

impl Held {
    /// Those of the layer of `loader`.
    pub(super) fn load(loader: &Loader<'_>, rule: &arch::Experts) -> Result<(Self, Trained)> {
        let roles = [Role::ExpertsGateUp, Role::ExpertsDown];
        let stacked = match rule.stacked {
            Some(_) => [loader.stacked(roles[0])?, loader.stacked(roles[1])?],
            None => Default::default(),
        };
        let mut trained = Vec::new();
        for (role, StackedMatrices { all, biases }) in roles.into_iter().zip(&stacked) {
            trained.extend(all.clone().map(|all| (role, Part::Weight, all)));
            trained.extend(biases.clone().filter(|_| all.is_some()).map(|all| (role, Part::Bias, all)));
        }
        if loader.load_options.leaves_experts(loader.place) {
            let own = OnDisk {
                rule: *rule,
                checkpoint: loader.checkpoint.clone(),
                spec: loader.spec.clone(),
                layer: loader.layer,
                place: loader.place,
                load_options: loader.load_options.clone(),
                device: loader.device.clone(),
                stacked,
                follows: AtomicBool::new(false),
            };
            return Ok((Self::OnDisk(Box::new(own)), trained));
        }
        let all = 0..rule.count;
        let experts = match rule.stacked {
            Some(_) => all.into_par_iter().map(|number| expert(loader, rule, number, &stacked)).collect::<Result<_>>(),
            None => all.map(|number| expert(loader, rule, number, &stacked)).collect(),
        };
        Ok((Self::InMemory(experts?), trained))
    }

    /// Those that are in memory.
    pub(super) fn in_memory(&self) -> &[GatedMlp] {
        match self {
            Self::InMemory(all) => all,
            Self::OnDisk(_) => &[],
        }
    }

    /// Does `work` with each of the experts `numbers`, in their order; of those on disk the next one is read meanwhile.
    pub(super) fn each(
        &self,
        numbers: &[usize],
        mut work: impl FnMut(usize, &GatedMlp) -> Result<()> + Send,
    ) -> Result<()> {
        let own = match self {
            Self::InMemory(all) => return numbers.iter().try_for_each(|&number| work(number, &all[number])),
            Self::OnDisk(own) => own,
        };
        let mut next = numbers.first().map(|first| own.read(*first)).transpose()?;
        for (at, &number) in numbers.iter().enumerate() {
            interrupt::check()?;
            let Some(expert) = next.take() else { return Err(Error::work("an expert that was not read")) };
            // in the pool, not in a thread beside it: the pool may have one thread, which must not wait for its own
            // work
            let later = || numbers.get(at + 1).map(|later| own.read(*later)).transpose();
            let (done, read) = rayon::join(|| work(number, &expert), later);
            done?;
            next = read?;
        }
        Ok(())
    }

    /// As [`SubLayer::follow`](super::SubLayer::follow), where these are their `adapters`.
    pub(super) fn follow(&self, begin: bool, adapters: &[(Role, Adapter)]) -> Result<()> {
        let Self::OnDisk(own) = self else { return Ok(()) };
        if begin {
            let adapted = adapters.iter().filter(|(_, adapter)| adapter.magnitude.is_some());
            let mut numbers: Vec<usize> = adapted.filter_map(|(role, _)| role.expert()).map(usize::from).collect();
            numbers.dedup();
            self.each(&numbers, |_, expert| own.of_each(expert, Linear::begin_magnitudes))?;
        }
        own.follows.store(true, Ordering::Relaxed);
        Ok(())
    }
}

impl OnDisk {
    fn read(&self, number: usize) -> Result<GatedMlp> {
        let Self { checkpoint, spec, load_options, device, .. } = self;
        let loader = Loader { checkpoint, spec, layer: self.layer, place: self.place, load_options, device };
        let expert = expert(&loader, &self.rule, number, &self.stacked)?;
        if self.follows.load(Ordering::Relaxed) {
            self.of_each(&expert, Linear::refresh)?;
        }
        Ok(expert)
    }

    fn of_each(&self, expert: &GatedMlp, work: fn(&Linear) -> Result<()>) -> Result<()> {
        let name = |role| self.spec.layer_tensor(self.layer, role).name;
        expert.linears().into_iter().try_for_each(|(role, linear)| work(linear).context(|| name(role)))
    }
}

/// The adapters of all experts of the layer of `loader`, in the order of computation.
pub(super) fn adapters(loader: &Loader<'_>, rule: &arch::Experts) -> Vec<(Role, Adapter)> {
    let roles = match rule.stacked {
        Some(_) => vec![Role::ExpertsGateUp, Role::ExpertsDown],
        None => (0..rule.count as u16).flat_map(|expert| rule.matrices_of(expert)).collect(),
    };
    roles.into_iter().filter_map(|role| Some((role, loader.adapter(role)?.clone()))).collect()
}

/// What gate and up of an expert become.
pub(super) fn gate(spec: &ModelSpec, rule: &arch::Experts) -> Gate {
    rule.clamped.map_or(Gate::Times(spec.activation), Gate::Clamped)
}

/// Reads an expert, or takes it out of what all have in two tensors.
fn expert(
    loader: &Loader<'_>,
    rule: &arch::Experts,
    number: usize,
    [gate_ups, downs]: &[StackedMatrices; 2],
) -> Result<GatedMlp> {
    let (size, gate, expert) = (rule.size, gate(loader.spec, rule), number as u16);
    let Some(lie) = rule.stacked else {
        let own = |role| Ok::<_, Error>((role, loader.linear(role)?));
        let gate_up = GateUpProj::Split { gate: own(Role::ExpertGate(expert))?, up: own(Role::ExpertUp(expert))? };
        return Ok(GatedMlp { size, gate_up, gate, down: own(Role::ExpertDown(expert))?, down_bias: None });
    };
    let columns = lie == Stacked::Columns;
    let own = |role, all| loader.of_stacked((role, columns), number, all);
    let gate_up = (Role::ExpertGateUp(expert), own(Role::ExpertsGateUp, gate_ups)?);
    let gate_up = match lie {
        Stacked::Rows => GateUpProj::Fused(gate_up),
        Stacked::Columns => GateUpProj::InTurns(gate_up),
    };
    let down = own(Role::ExpertsDown, downs)?;
    // a token's update is weighed with what down adds
    let (down_bias, down) = (down.bias.clone(), Linear { bias: None, ..down });
    Ok(GatedMlp { size, gate_up, gate, down: (Role::ExpertDown(expert), down), down_bias })
}
