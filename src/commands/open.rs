//! Opening what several commands name alike: a model, a budget, a sample of text.

use std::sync::Arc;

use candle_core::{DType, Device};

use crate::arch::ModelSpec;
use crate::checkpoint::{ByteSize, Checkpoint, Hub, Quantized};
use crate::data::{Longest, Purpose, SourceOptions, TextSource, tokenizer_memory};
use crate::model::{Budget, Cache, LoadOptions, Model, ModelOptions, Residency};
use crate::plan::PlannedFor;
use crate::progress::{Progress, Silent};
use crate::{Context, Error, Result, ops};

/// How many tensors that an index is wrong about are named.
const DISPUTES: usize = 3;

/// The model a command was given.
pub(super) fn checkpoint(model: Option<&str>, progress: &dyn Progress) -> Result<Arc<Checkpoint>> {
    let model = model.ok_or_else(|| Error::request("which model? give a directory, a GGUF file or a hub id"))?;
    let checkpoint = Checkpoint::open(model, &Hub::from_env()?, progress)?;
    for (shown, dispute) in checkpoint.index.disputes.values().enumerate() {
        if shown == DISPUTES {
            progress.warn(&format!("and {} more tensors like it", checkpoint.index.disputes.len() - shown));
            break;
        }
        progress.warn(dispute);
    }
    if let Some((key, _)) = &checkpoint.leftover {
        let id = &checkpoint.source.id;
        progress.warn(&format!("{id}: {key} in config.json was left over, the weights are not quantised; not heeded"));
    }
    if let Some(why) = checkpoint.gguf.as_ref().and_then(|gguf| gguf.no_tokenizer.as_ref()) {
        progress.warn(&format!("{}: its tokenizer is not read: {why}", checkpoint.source.id));
    }
    Ok(Arc::new(checkpoint))
}

/// The same to compute with: weights that are quantised in a way that is known are decoded as they are read.
pub(super) fn computed(model: Option<&str>, progress: &dyn Progress) -> Result<Arc<Checkpoint>> {
    let stored = checkpoint(model, progress)?;
    match stored.unquantized()? {
        Some(decoded) => {
            if let Some(Quantized { method, .. }) = &decoded.quantized {
                progress.note(&format!("{}: weights in {method}, decoded as they are read", decoded.source.id));
            }
            Ok(Arc::new(decoded))
        }
        None => Ok(stored),
    }
}

/// What a plan, a history or a card calls the model, which has so many layers.
pub(super) fn identity(checkpoint: &Checkpoint, layers: usize) -> PlannedFor {
    PlannedFor {
        id: checkpoint.source.id.clone(),
        revision: checkpoint.source.revision.clone(),
        fingerprint: checkpoint.fingerprint(),
        layers,
    }
}

/// A model to compute with that lies here: a directory, or one of the hub that the cache has. The network is not asked.
pub(super) fn local_checkpoint(model: &str) -> Result<Checkpoint> {
    let offline = |name: &str| if name == "HF_HUB_OFFLINE" { Some("1".to_owned()) } else { std::env::var(name).ok() };
    let stored = Checkpoint::open(model, &Hub::from_vars(offline)?, &Silent)?;
    Ok(stored.unquantized()?.unwrap_or(stored))
}

/// `--memory`: a cap on main memory, or on the GPU's where the model computes there.
pub(super) fn budget(memory: Option<&str>, device: &Device) -> Result<Budget> {
    let cap = memory.map(|text| text.parse::<ByteSize>().context(|| "--memory")).transpose()?;
    Budget::on(device, cap.map(|size| size.0))
}

/// [`budget`] of a command that reads the tokenizer of `checkpoint`, which has to fit, and leaves the less to the rest.
pub(super) fn budget_beside_tokenizer(
    memory: Option<&str>,
    device: &Device,
    checkpoint: &Checkpoint,
) -> Result<Budget> {
    let budget = budget(memory, device)?;
    let held = tokenizer_memory(&checkpoint.source.dir, host(budget, device).bytes())?;
    Ok(if device.is_cpu() { budget.beside(held) } else { budget })
}

/// What a process may take where so many share the memory; a cap holds for each of them.
pub(super) fn own_share(budget: Budget, memory: Option<&str>, processes: usize) -> Budget {
    match (memory, processes) {
        (None, 2..) => Budget::new(Some(budget.bytes() / processes as u64)),
        _ => budget,
    }
}

/// What main memory a command may take: a cap on a GPU's memory is none on what is read here.
pub(super) fn host(budget: Budget, device: &Device) -> Budget {
    if device.is_cpu() { budget } else { Budget::new(None) }
}

/// `--device` and `--dtype`. Says what was chosen where a GPU is, or might have been.
pub(super) fn device(choice: Option<&str>, dtype: Option<&str>, progress: &dyn Progress) -> Result<Device> {
    let (device, why_not) = ops::device(choice.unwrap_or("auto")).context(|| "--device")?;
    let dtype = ops::settle_dtype(&device, dtype.unwrap_or("auto")).context(|| "--dtype")?;
    if device.is_cuda() {
        progress.note(&format!("computing on {}, products in {}", ops::device_name(&device)?, dtype.as_str()));
    } else if let Some(why_not) = why_not {
        progress.note(&format!("computing on the CPU: {why_not}"));
    } else if dtype == DType::BF16 {
        progress.note("computing on the CPU, products in bf16");
    }
    Ok(device)
}

/// The text a command was given: a file, a directory, a file of a hub data set. What is read of it at once fits into
/// `host`.
pub(super) fn text(
    data: &str,
    purpose: Purpose,
    options: &SourceOptions,
    host: Budget,
    progress: &dyn Progress,
) -> Result<TextSource> {
    let options = SourceOptions { longest: Longest::within(host.usable()), ..options.clone() };
    let source = TextSource::find(data, purpose, &options, &|id| Hub::from_env()?.dataset_file(id, progress))?;
    if let Some(note) = source.note() {
        progress.note(note);
    }
    Ok(source)
}

/// A model that is to say something, with room for the keys and values of `longest` tokens.
pub(super) fn speaker(
    checkpoint: &Arc<Checkpoint>,
    spec: &ModelSpec,
    load_options: LoadOptions,
    device: Device,
    budget: Budget,
    longest: usize,
    progress: &dyn Progress,
) -> Result<Model> {
    let reserved_bytes = Cache::bytes(spec, longest);
    let options = ModelOptions { device, budget, load_options, reserved_bytes, ..ModelOptions::default() };
    let model = Model::open(checkpoint.clone(), &options, progress)?;
    if model.residency() != Residency::Resident {
        let read = match model.residency().streams_experts() {
            true => "the experts it is sent to",
            false => "all its weights",
        };
        progress.warn(&format!(
            "{}: too large for the memory there is ({}): every new token reads {read} from disk",
            checkpoint.source.id,
            ByteSize(options.budget.bytes())
        ));
    }
    Ok(model)
}
