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

/// `--memory`.
pub(super) fn budget(memory: Option<&str>) -> Result<Budget> {
    let cap = memory.map(|text| text.parse::<ByteSize>().context(|| "--memory")).transpose()?;
    Ok(Budget::new(cap.map(|size| size.0)))
}

/// `--device`.
pub(super) fn device(choice: Option<&str>) -> Result<Device> {
    ops::device(choice.unwrap_or("auto")).context(|| "--device")
}

/// The text a command was given: a file, a directory, a file of a hub data set.
pub(super) fn text(data: &str, purpose: Purpose, options: &SourceOptions, progress: &dyn Progress) -> Result<Source> {
    Source::find(data, purpose, options, &|id| Hub::from_env()?.dataset_file(id, progress))
}
