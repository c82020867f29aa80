//! Opening what several commands name alike: a model, a budget, a sample of text.

use std::sync::Arc;

use candle_core::Device;

use crate::checkpoint::{ByteSize, Checkpoint, Hub};
use crate::data::{Purpose, Source, SourceOptions};
use crate::model::Budget;
use crate::progress::Progress;
use crate::{Context, Error, Result, ops};

/// The model a command was given.
pub(super) fn checkpoint(model: Option<&str>, progress: &dyn Progress) -> Result<Arc<Checkpoint>> {
    let model = model.ok_or_else(|| Error::request("which model? give a directory or a hub id"))?;
    Checkpoint::open(model, &Hub::from_env()?, progress).map(Arc::new)
}

/// `--memory`: a cap on main memory, or on the GPU's where the model computes there.
pub(super) fn budget(memory: Option<&str>, device: &Device) -> Result<Budget> {
    let cap = memory.map(|text| text.parse::<ByteSize>().context(|| "--memory")).transpose()?;
    Budget::on(device, cap.map(|size| size.0))
}

/// `--device` and `--dtype`. Says what was chosen where a GPU is, or might have been.
pub(super) fn device(choice: Option<&str>, dtype: Option<&str>, progress: &dyn Progress) -> Result<Device> {
    let (device, why_not) = ops::device(choice.unwrap_or("auto")).context(|| "--device")?;
    let dtype = ops::settle_dtype(&device, dtype.unwrap_or("auto")).context(|| "--dtype")?;
    if device.is_cuda() {
        progress.note(&format!("computing on {}, products in {}", ops::device_name(&device)?, dtype.as_str()));
    } else if let Some(why_not) = why_not {
        progress.note(&format!("computing on the CPU: {why_not}"));
    }
    Ok(device)
}

/// The text a command was given: a file, a directory, a file of a hub data set.
pub(super) fn text(data: &str, purpose: Purpose, options: &SourceOptions, progress: &dyn Progress) -> Result<Source> {
    Source::find(data, purpose, options, &|id| Hub::from_env()?.dataset_file(id, progress))
}
