//! Every score that is asked for: a pass for each kind, whatever the number of scores.

use std::collections::BTreeMap;
use std::ops::Range;

use candle_core::{Device, Tensor};

use super::draws::Draws;
use super::evidence::{Evidence, Measured};
use super::metrics::{Evaluate, METRICS, Metric, Needs, OfWeights, Sizes, Weight};
use super::moments::{Moments, Scores};
use super::observer::{ChannelWatch, Watch};
use super::probe::Probe;
use super::removals::Removals;
use super::shared::Shared;
use crate::arch::{LayerTensor, ModelSpec, Role};
use crate::checkpoint::Checkpoint;
use crate::model::{Batch, LayerGradients, Loss, Model, StackUnit, WantedGradients, parameter};
use crate::progress::{Progress, Unit};
use crate::{Context, Error, Result, interrupt};

/// `metrics` with those whose scores they are made of, in the order of the table.
#[must_use]
pub(crate) fn with_parts(metrics: &[&'static Metric]) -> Vec<&'static Metric> {
    let mut names: Vec<&str> = metrics.iter().map(|metric| metric.name).collect();
    for metric in metrics {
        if let Evaluate::Scores(parts, _) = metric.value {
            names.extend(parts.iter().map(|part| part.name));
        }
    }
    METRICS.iter().filter(|row| names.contains(&row.name)).collect()
}

/// The scores of those of `metrics` that need no text, in the order of the table: weights are read a layer at a time,
/// and no model is opened.
///
/// # Errors
/// A weight that cannot be read, or is not finite.
pub fn measure_weights(
    checkpoint: &Checkpoint,
    spec: &ModelSpec,
    metrics: &[&'static Metric],
    progress: &dyn Progress,
) -> Result<Vec<Scores>> {
    let mut shown = Shown::new(spec, metrics, Needs::Nothing);
    if shown.is_empty() {
        return Ok(Vec::new());
    }
    progress.begin("reading weights", spec.layers as u64, Unit::Items);
    for layer in 0..spec.layers {
        shown.see(checkpoint, spec, layer, &BTreeMap::new(), &BTreeMap::new())?;
        progress.advance(1);
    }
    progress.end();
    shown.finish()
}

/// The scores of `metrics` of `model` on `sequences`, in the order of the table.
///
/// # Errors
/// As [`Model::run`]; no sequence of two tokens where a loss is asked for.
pub fn measure(
    model: &Model,
    metrics: &[&'static Metric],
    sequences: &[Vec<u32>],
    progress: &dyn Progress,
) -> Result<Vec<Scores>> {
    match metrics.iter().any(|metric| matches!(metric.value, Evaluate::Coalitions(_))) {
        false => measure_with(model, metrics, sequences, Sources::default(), progress),
        true => {
            let (mut evidence, draws) = (Measured::new(model, sequences, progress)?, Draws::default());
            let sources = Sources { asked: Some((&mut evidence, &draws)), shared: None };
            measure_with(model, metrics, sequences, sources, progress)
        }
    }
}

/// Where numbers come from beside the model.
#[derive(Default)]
pub struct Sources<'a> {
    /// What metrics ask for themselves, with these draws.
    pub asked: Option<(&'a mut dyn Evidence, &'a Draws)>,
    /// Other processes, and which of the sequences that they have are measured.
    pub shared: Option<(Shared<'a>, Range<usize>)>,
}

/// [`measure`], from these sources.
///
/// # Errors
/// As [`measure`], and those of the evidence; what another process met.
pub fn measure_with(
    model: &Model,
    metrics: &[&'static Metric],
    sequences: &[Vec<u32>],
    Sources { asked, shared }: Sources<'_>,
    progress: &dyn Progress,
) -> Result<Vec<Scores>> {
    let metrics = with_parts(metrics);
    if let Some(metric) = metrics.iter().find(|metric| metric.mixture().is_some()) {
        let fault = format!("{} compares two models, and there is one: Mixtures runs both", metric.name);
        return Err(Error::request(fault));
    }
    let (spec, layers) = (model.spec(), model.layers());
    let mut scores = Vec::new();
    if metrics.iter().any(|metric| matches!(metric.value, Evaluate::Pair(_))) {
        let mut probe = Probe::new(layers, metrics.iter().copied());
        if let Some((shared, on)) = &shared {
            shared.pairs(&mut probe, &metrics, on.clone(), progress)?;
        } else {
            let batches = Batch::pack(sequences, model.pass_tokens(layers + 1))?;
            model.run(&batches, &mut Watch::new(&mut probe, &batches), "measuring", progress)?;
        }
        scores.extend(probe.finish()?);
    }
    let mut channels = Probe::of_channels(layers, metrics.iter().copied());
    if !channels.is_empty() {
        // a batch of its own each, so that little is turned at a time
        let batches = Batch::pack(sequences, 1)?;
        model.run(&batches, &mut ChannelWatch::new(&mut channels, &batches), "measuring channels", progress)?;
        scores.extend(channels.finish()?);
    }
    scores.extend(measure_weights(model.checkpoint(), spec, &metrics, progress)?);
    scores.extend(of_gradients(model, &metrics, sequences, progress)?);
    scores.extend(of_inputs(model, &metrics, sequences, progress)?);
    scores.extend(of_depths(model, &metrics, sequences, progress)?);
    // outputs are compared over all sequences at once
    let compares = |metric: &&&Metric| matches!(metric.value, Evaluate::Outputs(_)) || shared.is_none();
    let (compared, told): (Vec<&Metric>, Vec<&Metric>) = metrics.iter().partition(compares);
    let removals = Removals::new(layers, compared);
    if !removals.is_empty() {
        scores.extend(removals.measure(model, sequences, progress)?);
    }
    let removals = Removals::new(layers, told.iter().copied());
    if let (Some((shared, on)), false) = (&shared, removals.is_empty()) {
        scores.extend(removals.of_losses(shared.removals(&told, on.clone(), progress)?)?);
    }
    if let Some((evidence, draws)) = asked {
        for metric in &metrics {
            if let Evaluate::Coalitions(how) = metric.value {
                scores.push((how.scores)(metric, how.value, evidence, draws)?);
            }
        }
    }
    for metric in &metrics {
        let Evaluate::Scores(parts, make) = metric.value else { continue };
        let rows: Vec<&[f64]> = parts
            .iter()
            .filter_map(|part| scores.iter().find(|scores| scores.metric == part.name))
            .map(|scores| scores.mean[0].as_slice())
            .collect();
        scores.push(exact(metric, make(&rows)));
    }
    let place = |scores: &Scores| metrics.iter().position(|metric| metric.name == scores.metric);
    scores.sort_by_key(place);
    Ok(scores)
}

/// Bytes that [`measure`] keeps beside a model and a pass, for `tokens` tokens in all, `longest` of them in the longest
/// sequence.
#[must_use]
pub(crate) fn reserved_bytes(
    metrics: &[&'static Metric],
    spec: &ModelSpec,
    device: &Device,
    (tokens, longest): (usize, usize),
) -> u64 {
    let numbers = |l| spec.layer_tensors(l).iter().map(|tensor| tensor.shape.iter().product::<usize>() as u64).sum();
    let layer: u64 = (0..spec.layers).map(numbers).max().unwrap_or(0);
    let outputs: u64 = metrics
        .iter()
        .filter_map(
            |metric| if let Evaluate::Outputs(compare) = metric.value { Some(compare(spec.layers)) } else { None },
        )
        .map(|compare| compare.bytes(spec.hidden_size))
        .sum();
    let of = |metric: &&Metric| match metric.value {
        Evaluate::Coalitions(how) if matches!(how.value.value, Evaluate::Logits(_)) => 32 << 20,
        Evaluate::Weights(Needs::Gradients, _) | Evaluate::Gates(_) | Evaluate::GatePairs => {
            Model::gradient_bytes(spec, device, (tokens, longest)) + 8 * layer
        }
        Evaluate::Weights(..) => 4 * layer,
        Evaluate::Logits(_) => 32 << 20,
        _ => 0,
    };
    metrics.iter().map(of).max().unwrap_or(0).max(outputs)
}

/// Values without errors.
fn exact(metric: &Metric, values: Vec<f64>) -> Scores {
    Scores { metric: metric.name.to_owned(), mean: vec![values], stderr: None, difference_stderr: None }
}

/// Metrics that are shown the weights of each layer.
struct Shown(Vec<(&'static Metric, Box<dyn OfWeights>)>);

impl Shown {
    fn new(spec: &ModelSpec, metrics: &[&'static Metric], wanted: Needs) -> Self {
        let matrices = |l| spec.layer_tensors(l).into_iter().filter(|tensor| tensor.shape.len() > 1);
        let numbers = (0..spec.layers).flat_map(matrices).map(|tensor| tensor.shape.iter().product::<usize>() as u64);
        let sizes = Sizes { layers: spec.layers, matrices: numbers.sum() };
        let made = metrics.iter().filter_map(|metric| match metric.value {
            Evaluate::Weights(needs, make) if needs == wanted => Some((*metric, make(&sizes))),
            _ => None,
        });
        Self(made.collect())
    }

    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Shows the weights of `layer`, with their gradients and inputs where there are any.
    fn see(
        &mut self,
        checkpoint: &Checkpoint,
        spec: &ModelSpec,
        layer: usize,
        gradients: &BTreeMap<(Role, bool), Vec<f32>>,
        inputs: &BTreeMap<Role, Vec<f64>>,
    ) -> Result<()> {
        interrupt::check()?;
        let tensors: Vec<LayerTensor> = spec.layer_tensors(layer);
        let read = |tensor: &LayerTensor| numbers(&parameter(checkpoint, tensor)?).context(|| &tensor.name);
        let weights: Vec<Vec<f32>> = tensors.iter().map(read).collect::<Result<_>>()?;
        let shown = tensors.iter().zip(&weights).map(|(tensor, numbers)| {
            let is_bias = spec.layer_tensor(layer, tensor.role).bias.as_ref() == Some(&tensor.name);
            Weight {
                columns: tensor.shape.last().copied().filter(|_| tensor.shape.len() > 1),
                numbers,
                gradient: gradients.get(&(tensor.role, is_bias)).map_or(&[], Vec::as_slice),
                inputs: inputs.get(&tensor.role).map_or(&[], Vec::as_slice),
            }
        });
        let shown: Vec<Weight<'_>> = shown.collect();
        for (metric, made) in &mut self.0 {
            let Evaluate::Weights(needs, _) = metric.value else { continue };
            let lacks = |weight: &Weight<'_>| match needs {
                Needs::Nothing => false,
                Needs::Gradients => weight.gradient.len() != weight.numbers.len(),
                Needs::Inputs => weight.columns.is_some_and(|columns| weight.inputs.len() != columns),
            };
            if shown.iter().any(lacks) {
                return Err(Error::work(format!("{}: layer {layer} lacks what it needs", metric.name)));
            }
            made.see(layer, &shown)?;
        }
        Ok(())
    }

    fn finish(self) -> Result<Vec<Scores>> {
        let finished = self.0.into_iter().map(|(metric, made)| {
            let values = made.finish()?;
            match values.iter().position(|value| !value.is_finite()) {
                Some(layer) => Err(Error::work(format!("{} of layer {layer} is not finite", metric.name))),
                None => Ok(exact(metric, values)),
            }
        });
        finished.collect()
    }
}

fn numbers(tensor: &Tensor) -> Result<Vec<f32>> {
    Ok(tensor.flatten_all()?.to_vec1()?)
}

/// One pass forward and one back, for what asks for gradients of weights or of gates.
fn of_gradients(
    model: &Model,
    metrics: &[&'static Metric],
    sequences: &[Vec<u32>],
    progress: &dyn Progress,
) -> Result<Vec<Scores>> {
    let spec = model.spec();
    let mut shown = Shown::new(spec, metrics, Needs::Gradients);
    let gates =
        metrics.iter().filter_map(|m| if let Evaluate::Gates(value) = m.value { Some((*m, value)) } else { None });
    let gates: Vec<_> = gates.collect();
    let pairs: Vec<&Metric> =
        metrics.iter().copied().filter(|metric| matches!(metric.value, Evaluate::GatePairs)).collect();
    let wanted = WantedGradients { weights: !shown.is_empty(), gates: !gates.is_empty() || !pairs.is_empty() };
    if !wanted.weights && !wanted.gates {
        return Ok(Vec::new());
    }
    // `[layers][sub-layers][sequences]`
    let mut found: Vec<Vec<Vec<f64>>> = vec![Vec::new(); spec.layers];
    let mut see = |layer: LayerGradients| {
        if wanted.weights {
            let own = layer.weights.into_iter();
            let own = own.map(|(role, is_bias, gradient)| Ok(((role, is_bias), numbers(&gradient)?)));
            let own: BTreeMap<(Role, bool), Vec<f32>> = own.collect::<Result<_>>()?;
            shown.see(model.checkpoint(), spec, layer.place, &own, &BTreeMap::new())?;
        }
        found[layer.place] = layer.gates;
        Ok(())
    };
    model.gradients(sequences, wanted, "gradients", progress, &mut see)?;
    let mut scores = shown.finish()?;
    let counted: Vec<usize> = (0..sequences.len()).filter(|index| sequences[*index].len() > 1).collect();
    // the gradients of one sequence
    let of = |metric: &Metric, sequence: usize| -> Result<Vec<f64>> {
        let of = |layer: &Vec<Vec<f64>>| -> Vec<f64> { layer.iter().map(|gate| gate[sequence]).collect() };
        let values: Vec<f64> = match metric.subject.unit() {
            StackUnit::SubLayer => found.iter().flat_map(of).collect(),
            StackUnit::Layer => found.iter().map(|layer| of(layer).iter().sum()).collect(),
        };
        match values.len() == metric.subject.rows(spec.layers)[0] {
            true => Ok(values),
            false => Err(Error::work(format!("{}: layers that are not two sub-layers", metric.name))),
        }
    };
    for (metric, value) in gates {
        let mut moments = Moments::new(metric.subject.rows(spec.layers));
        for &sequence in &counted {
            let values: Vec<f64> = of(metric, sequence)?.into_iter().map(value).collect();
            moments.push(1.0, &values);
        }
        scores.push(moments.finish(metric.name));
    }
    for metric in pairs {
        let mut mean: Vec<Vec<f64>> = metric.subject.rows(spec.layers).into_iter().map(|len| vec![0.0; len]).collect();
        for &sequence in &counted {
            let values = of(metric, sequence)?;
            for (apart, row) in mean.iter_mut().enumerate() {
                let pairs = values.iter().zip(&values[apart..]);
                row.iter_mut().zip(pairs).for_each(|(sum, (a, b))| *sum += a * b / counted.len() as f64);
            }
        }
        scores.push(Scores { metric: metric.name.to_owned(), mean, stderr: None, difference_stderr: None });
    }
    Ok(scores)
}

/// One pass, for what asks for the inputs of the matrices.
fn of_inputs(
    model: &Model,
    metrics: &[&'static Metric],
    sequences: &[Vec<u32>],
    progress: &dyn Progress,
) -> Result<Vec<Scores>> {
    let spec = model.spec();
    let mut shown = Shown::new(spec, metrics, Needs::Inputs);
    if shown.is_empty() {
        return Ok(Vec::new());
    }
    let mut by_layer: Vec<BTreeMap<Role, Vec<f64>>> = vec![BTreeMap::new(); spec.layers];
    for ((layer, role), mut sums) in model.input_sums(sequences, "inputs of the matrices", progress)?.take() {
        sums.iter_mut().for_each(|sum| *sum /= sequences.len() as f64);
        by_layer[layer].insert(role, sums);
    }
    for (layer, inputs) in by_layer.iter().enumerate() {
        shown.see(model.checkpoint(), spec, layer, &BTreeMap::new(), inputs)?;
    }
    shown.finish()
}

/// One pass with the head at every depth.
fn of_depths(
    model: &Model,
    metrics: &[&'static Metric],
    sequences: &[Vec<u32>],
    progress: &dyn Progress,
) -> Result<Vec<Scores>> {
    let Some(metric) = metrics.iter().find(|metric| matches!(metric.value, Evaluate::Lens)) else {
        return Ok(Vec::new());
    };
    if sequences.iter().all(|sequence| sequence.len() < 2) {
        return Err(Error::work("no sample has two tokens: there is nothing to predict"));
    }
    let losses = model.losses_at_depths(sequences, "losses at every depth", progress)?;
    let mut moments = Moments::new(metric.subject.rows(model.layers()));
    for index in (0..sequences.len()).filter(|index| sequences[*index].len() > 1) {
        let values: Vec<f64> = losses.iter().map(|depth| Loss::mean(&depth[index])).collect();
        moments.push(losses[0][index].tokens as f64, &values);
    }
    Ok(vec![moments.finish(metric.name)])
}
