//! What a healing takes, before anything is loaded: memory, disk, time.

use std::time::{Duration, Instant};

use candle_core::{DType, Device, Tensor};
use serde::Serialize;

use super::choices::{MergeOnto, Quant, Train, TrainedLayers};
use super::dora;
use super::merge::no_quantized_stacks;
use super::needs::{Needs, TeacherSize};
use super::settings::HealSettings;
use crate::arch::ModelSpec;
use crate::checkpoint::{ByteSize, Checkpoint};
use crate::model::{Budget, CheckpointingPolicy, Head, LoadOptions, mean_flops, memory};
use crate::weights::four_bit;
use crate::weights::lora::{Adapters, LoraSettings};
use crate::{Error, Result, ops};

/// What a healing takes.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Estimate {
    /// Bytes of weights in memory, frozen and trained.
    pub weights: u64,
    /// Numbers that are trained.
    pub trained: u64,
    /// Bytes of gradients and of the optimiser.
    #[serde(rename = "optimiser")]
    pub optimizer: u64,
    /// Bytes of activations. Gradients come as activations go: what they share counts as gradients.
    pub activations: u64,
    /// Of a pass, bytes of what entered the layers.
    pub inputs: u64,
    /// Whether the experts of a mixture are read from disk when tokens are sent to them.
    pub experts_on_disk: bool,
    /// What passes spend memory on.
    #[serde(flatten)]
    pub policy: CheckpointingPolicy,
    /// Bytes in memory, all together.
    pub memory: u64,
    /// Tokens of a step.
    pub tokens_per_step: u64,
    /// Floating point operations of a step.
    pub flops_per_step: f64,
    /// Seconds of all steps at the speed measured on this machine just now; validations not counted, nor texts that the
    /// model writes itself.
    pub seconds: f64,
    /// Bytes on disk, at most: the state while it runs, with it what is written at the end.
    pub disk: u64,
}

/// Estimates the healing of `checkpoint` by `settings` on a device, within a budget of its memory. What a
/// teacher takes is in memory as well. A run that goes on is held to the tokens at a time it began with. Experts of a
/// mixture that do not fit stay on disk until tokens are sent to them, which changes no number.
///
/// # Errors
/// Request: it does not fit; says what would.
pub fn estimate(
    checkpoint: &Checkpoint,
    spec: &ModelSpec,
    settings: &HealSettings,
    (device, budget): (&Device, Budget),
    teacher: TeacherSize,
    held: Option<CheckpointingPolicy>,
) -> Result<Estimate> {
    check_sizes(settings, spec, budget)?;
    let trained = trained(spec, settings)?;
    let plain = load_options(spec, settings);
    let beside = Head::bytes(checkpoint, spec, &plain, device)
        + teacher.bytes
        + if settings.train == Train::Lora { 4 * trained } else { 0 };
    let (walked, outputs) = (walked(spec, settings)?, dora::outputs(spec, settings)?);
    let host = if device.is_cuda() { memory::free() / 10 * 9 } else { 0 };
    let most = held.unwrap_or_else(|| CheckpointingPolicy::on(device, 0));
    let places: Vec<usize> = (0..spec.layers).collect();
    let fits = |experts_on_disk: bool| {
        let own = LoadOptions { experts_on_disk, ..plain.clone() };
        let frozen: u64 = places.iter().map(|layer| own.bytes(checkpoint, spec, (*layer, *layer), device)).sum();
        let weights = frozen + own.expert_bytes(checkpoint, spec, &places, device) + beside;
        let fixed = weights + 8 * trained + outputs.norms_bytes();
        let needs = Needs::new((checkpoint, spec), settings, device, (fixed, trained), (walked, &outputs, teacher));
        let policy = needs.policy(most, device.is_cuda(), held.is_some(), (budget.usable(), host));
        (weights, needs, policy)
    };
    let (mut weights, mut needs, mut policy) = fits(false);
    let experts_on_disk = policy.is_err() && spec.experts.is_some();
    if experts_on_disk {
        (weights, needs, policy) = fits(true);
    }
    let policy = policy.map_err(|least| match held {
        Some(held) => no_longer_fits(held, budget, least),
        None => too_large(settings, budget, least, needs.fixed + needs.gradients),
    })?;
    // gradients, two moments
    let optimizer = 12 * trained;
    check_window(settings, budget)?;
    let bytes = needs.bytes(policy);

    let tokens_per_step = (settings.batch as u64).saturating_mul(settings.seq_len() as u64);
    let recomputed = 1.0 - policy.saved_layers as f64 / walked.max(1) as f64;
    let source: u64 = checkpoint.tensors.values().map(|entry| entry.len).sum();
    let taught = teacher.bytes as f64 / source.max(1) as f64;
    let flops_per_step = tokens_per_step as f64
        * flops_per_token(spec, settings, trained, (walked, recomputed), taught)
        + tokens_per_step as f64 * outputs.more_flops(settings.dropout, recomputed);
    let merged = if settings.adapter_only { 0 } else { numbers_bytes(checkpoint)? };
    let four_bit = if settings.save_4bit { source / 2 } else { 0 };
    // parameters, the same and two moments in the state; the best ones beside them, and each file's successor
    let (training, writing) = (4 * trained * (2 * 3 + 2), 4 * trained * (3 + 1 + 1) + merged + four_bit);
    Ok(Estimate {
        weights,
        trained,
        optimizer,
        activations: bytes - weights - optimizer,
        inputs: walked as u64 * needs.input,
        experts_on_disk,
        policy,
        memory: bytes + memory::OVERHEAD,
        tokens_per_step,
        flops_per_step,
        seconds: settings.steps as f64 * flops_per_step * (1.0 + OTHERS / spec.hidden_size as f64)
            / flops_per_second(spec, device)?,
        disk: training.max(writing),
    })
}

/// Refuses what is larger than anything in the model, or than what may be in memory, before anything is sized by it.
fn check_sizes(settings: &HealSettings, spec: &ModelSpec, budget: Budget) -> Result<()> {
    let of_experts = spec.experts.map_or(0, |experts| experts.size.max(experts.shared.unwrap_or(0)));
    let widths =
        [spec.hidden_size, spec.mlp_size, of_experts, spec.heads * spec.head_dim, LoraSettings::default().rank];
    let widest = widths.into_iter().max().unwrap_or(0);
    let mut ranks = settings.rank_pattern.iter().map(|(_, rank)| rank).chain([settings.rank.bounds().1]);
    if let Some(rank) = ranks.find(|rank| settings.train == Train::Lora && *rank > widest) {
        return Err(Error::request(format!("rank is {rank}: no layer of the model is wider than {widest}")));
    }
    settings.check_room()?;
    if settings.train == Train::Lora && settings.merge_onto == MergeOnto::Quantized {
        let modules = settings.lora(spec)?.modules(spec)?;
        if modules.iter().any(|(_, role, _)| role.is_stacked()) {
            return Err(no_quantized_stacks(spec));
        }
    }
    check_step(settings, budget)
}

/// Refuses text that takes more than may be in memory while it is read.
///
/// # Errors
/// Request: as said.
pub(crate) fn check_text(settings: &HealSettings, budget: Budget) -> Result<()> {
    check_step(settings, budget)?;
    check_window(settings, budget)
}

/// Refuses a step whose sequences, which are read together, take more than may be in memory.
fn check_step(settings: &HealSettings, budget: Budget) -> Result<()> {
    // ids, and the vector that holds them
    let (batch, seq_len) = (settings.batch, settings.seq_len());
    let step = (seq_len as u64).saturating_mul(4).saturating_add(32).saturating_mul(batch as u64);
    if step > budget.bytes() {
        let (step, cap) = (ByteSize(step), ByteSize(budget.bytes()));
        let fault = format!(
            "batch is {batch}: the tokens of so many sequences of {seq_len} take {step} of memory, allowed are {cap}"
        );
        return Err(Error::request(fault));
    }
    Ok(())
}

/// Refuses a window of sequences to shuffle that takes more than a quarter of the budget: it waits beside everything
/// else.
fn check_window(settings: &HealSettings, budget: Budget) -> Result<()> {
    let seq_len = settings.seq_len();
    let sequences = (settings.shuffle_window as u64).saturating_mul(settings.data.len().max(1) as u64);
    let window = (seq_len as u64).saturating_mul(4).saturating_add(32).saturating_mul(sequences);
    if window > budget.bytes() / 4 {
        let (window, cap) = (ByteSize(window), ByteSize(budget.bytes()));
        return Err(Error::request(format!(
            "shuffle_window is {}: so many sequences of {seq_len} take up to {window} of memory, a quarter of the \
             {cap} that are allowed can be theirs; give a smaller --shuffle-window",
            settings.shuffle_window
        )));
    }
    Ok(())
}

/// How the model is read for `settings`, adapters apart.
#[must_use]
pub fn load_options(spec: &ModelSpec, settings: &HealSettings) -> LoadOptions {
    LoadOptions {
        four_bit: (settings.quant == Quant::Nf4).then_some(!settings.plain_scales),
        unfrozen: settings.whole_layers(spec.layers),
        unfrozen_head: settings.train.trains_head(),
        ..LoadOptions::default()
    }
}

/// Numbers that are trained.
///
/// # Errors
/// Request: layers that the model has not.
pub fn trained(spec: &ModelSpec, settings: &HealSettings) -> Result<u64> {
    match settings.train {
        Train::Lora => Ok(Adapters::count(spec, &settings.lora(spec)?)?),
        Train::Last(layers) if layers > spec.layers => {
            Err(Error::request(format!("train = \"{}\": the model has {} layers", settings.train, spec.layers)))
        }
        Train::Last(_) | Train::Layers => {
            let whole = settings.whole_layers(spec.layers);
            if let Some(TrainedLayers::Named(named)) = &settings.layers_to_transform {
                named.check(spec.layers)?;
            }
            let tensors = whole.into_iter().flat_map(|layer| spec.layer_tensors(layer));
            let tensors = tensors.filter(|tensor| !tensor.role.is_frozen());
            let numbers: usize = tensors.map(|tensor| tensor.shape.iter().product::<usize>()).sum();
            let head = if settings.train.trains_head() { (spec.vocab_size + 1) * spec.hidden_size } else { 0 };
            Ok((numbers + head) as u64)
        }
    }
}

/// The lowest layer that is trained; all of them where none is.
///
/// # Errors
/// Request: a target that the model does not have.
pub fn lowest_trained(spec: &ModelSpec, settings: &HealSettings) -> Result<usize> {
    Ok(spec.layers - walked(spec, settings)?)
}

/// Layers from the lowest trained one up: what is below keeps nothing and is not walked back through.
fn walked(spec: &ModelSpec, settings: &HealSettings) -> Result<usize> {
    match settings.train {
        Train::Lora => {
            let lowest = settings.lora(spec)?.modules(spec)?.into_iter().map(|(layer, ..)| layer).min();
            Ok(spec.layers - lowest.unwrap_or(spec.layers))
        }
        Train::Last(_) | Train::Layers => {
            let lowest = settings.whole_layers(spec.layers).first().copied();
            Ok(spec.layers - lowest.unwrap_or(spec.layers).min(spec.layers))
        }
    }
}

/// Floating point operations of a token, products alone: two for each weight that it meets. `walked` are the layers
/// walked back through, `recomputed` the share of them whose forward pass is done twice, `taught` the size of a teacher
/// against the model's.
fn flops_per_token(
    spec: &ModelSpec,
    settings: &HealSettings,
    trained: u64,
    (walked, recomputed): (usize, f64),
    taught: f64,
) -> f64 {
    let (products, mixing) = mean_flops(spec);
    let mixing = mixing * settings.seq_len() as f64;
    let forward = products + mixing;
    let head = (2 * spec.vocab_size * spec.hidden_size) as f64;
    let (layers, walked) = (spec.layers as f64, walked as f64);
    let teacher = taught * (layers * forward + head);
    // scores and sums of values are two products, their gradients five
    let back = products + 2.5 * mixing;
    teacher
        + match settings.train {
            // input gradients of frozen weights; an adapter's numbers are met on the way up, for their own gradient and
            // for that of what they were given
            Train::Lora => {
                layers * forward + walked * (forward * recomputed + back) + 6.0 * trained as f64 + 2.0 * head
            }
            Train::Last(_) | Train::Layers => {
                let whole = settings.whole_layers(spec.layers).len() as f64;
                let head = if settings.train.trains_head() { 3.0 * head } else { 2.0 * head };
                layers * forward + walked * (forward * recomputed + back) + whole * products + head
            }
        }
}

/// What is not a product grows with the width, products with its square: norms, activations, gradients and the rest
/// take as long as so many more columns would. Measured on models 128, 256 and 768 wide.
const OTHERS: f64 = 100.0;
/// Length of the measurement.
const PROBE: Duration = Duration::from_millis(60);

/// Floating point operations a second in a product as wide as the layers are, or 1024 where they are wider; on a GPU
/// that deserves it, one large enough to fill it.
fn flops_per_second(spec: &ModelSpec, device: &Device) -> Result<f64> {
    let rate = |tokens, most| product_rate(device, tokens, spec.hidden_size.min(most), spec.mlp_size.clamp(1, most));
    let small = rate(256, 1024)?;
    if device.is_cuda() && small > 1e12 { rate(2048, 4096) } else { Ok(small) }
}

/// Floating point operations a second of x·Wᵀ, `[tokens, i]` and `[o, i]`: the best of the runs that fit into
/// [`PROBE`], which is what the machine does when nothing else runs.
fn product_rate(device: &Device, tokens: usize, i: usize, o: usize) -> Result<f64> {
    let x = Tensor::ones((tokens, i), DType::F32, device)?;
    let weight = ops::on_device(&Tensor::ones((o, i), DType::F32, &Device::Cpu)?, device)?;
    let mut best = Duration::MAX;
    let started = Instant::now();
    while best == Duration::MAX || started.elapsed() < PROBE {
        let started = Instant::now();
        // inside the pool, as the steps are
        rayon::scope(|_| ops::linear(&x, &weight))?;
        // a GPU is done when it says so
        device.synchronize()?;
        best = best.min(started.elapsed());
    }
    Ok((2 * tokens * i * o) as f64 / best.as_secs_f64().max(1e-9))
}

/// Bytes of all tensors as numbers, those in four bits in the type they had.
fn numbers_bytes(checkpoint: &Checkpoint) -> Result<u64> {
    let mut bytes = 0_u64;
    for (name, entry) in &checkpoint.tensors {
        let own: u64 = match checkpoint.four_bit_state(name) {
            Some(_) => {
                let (shape, dtype) = four_bit::original(checkpoint, name)?;
                // whatever a file says its shape was
                shape.iter().fold(dtype.size_in_bytes() as u64, |bytes, size| bytes.saturating_mul(*size as u64))
            }
            None => entry.len,
        };
        bytes = own.saturating_add(bytes);
    }
    Ok(bytes)
}

fn no_longer_fits(held: CheckpointingPolicy, budget: Budget, least: u64) -> Error {
    let (least, cap) = (ByteSize(least + memory::OVERHEAD), ByteSize(budget.bytes()));
    Error::request(format!(
        "the unfinished run works on {} tokens at a time, which takes at least {least} of memory; allowed are {cap}: \
         free some, allow more with --memory, or --restart to begin anew",
        held.chunk_size
    ))
}

fn too_large(settings: &HealSettings, budget: Budget, least: u64, fixed: u64) -> Error {
    let mut hints = Vec::new();
    if settings.quant == Quant::None {
        hints.push("quant = \"nf4\" takes a quarter to an eighth of the weights' memory".to_owned());
    }
    if fixed < budget.usable() {
        hints.push("a shorter seq_len and fewer pass_tokens take less for activations".to_owned());
    } else {
        hints.push(format!("weights and optimiser alone take {}", ByteSize(fixed)));
    }
    if settings.train != Train::Lora {
        hints.push("train = \"lora\" needs no optimiser for whole layers".to_owned());
    }
    let (least, cap) = (ByteSize(least + memory::OVERHEAD), ByteSize(budget.bytes()));
    Error::request(format!("this healing takes at least {least} of memory, allowed are {cap}: {}", hints.join("; ")))
}
