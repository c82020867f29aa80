//! What a training of single layers that stopped goes on from: a directory beside the output, and in it the layers that
//! are trained, the one that is being trained with its optimiser, and what is to be told of them, in one file that is
//! replaced whole.

use std::io::Write;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use candle_core::{Device, Tensor};
use safetensors::Dtype;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::checkpoint::{Doing, Index, Resumable, Slot, Workplace, replace_tensors, write_tensor};
use crate::files::{self, Bound};
use crate::ops::{Moments, Optimizer};
use crate::{Context, Error, Result, ops};

const TRAINING: Doing = Doing {
    command: "cut",
    ending: "repairing",
    work: "training",
    entries: &["settings.json", STATE, "state.safetensors.new"],
};
const STATE: &str = "state.safetensors";
/// The tensor that holds how far each layer is, as JSON.
const PLACE: &str = "place.json";
/// Steps between two states.
pub(super) const EVERY: usize = 50;

/// How far a layer is: the error of every step that it has done.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct LayerPlace {
    losses: Vec<f64>,
}

/// A tensor and its name.
type Named = (String, Tensor);

/// The state of a training, kept beside its output.
#[derive(Debug)]
pub struct TrainingState {
    work: Resumable,
    /// Of each layer that is done, how far it came and its tensors.
    done: Mutex<Vec<(LayerPlace, Vec<Named>)>>,
}

impl TrainingState {
    /// Opens or makes the directory of the training whose output `place` is for. `deciding` is all that decides the
    /// result; `restart` forgets what is there.
    ///
    /// # Errors
    /// Request: something else is there, or a training that began with other settings (names them). Work: it cannot be
    /// made.
    pub fn open(place: Arc<Workplace>, deciding: &Map<String, Value>, restart: bool) -> Result<Self> {
        Ok(Self { work: Resumable::open(place, &TRAINING, deciding, restart)?, done: Mutex::default() })
    }

    /// Removes it: the output stands, or there is nothing to go on from.
    ///
    /// # Errors
    /// Request: somebody else's files are in it; they stay. Work: it cannot be removed.
    pub fn remove(&self) -> Result<()> {
        self.work.remove()
    }

    fn done(&self) -> MutexGuard<'_, Vec<(LayerPlace, Vec<Named>)>> {
        self.done.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts the `parameters` of the trained layer `index`, and the optimiser, where they were; the errors of the steps
    /// that are done.
    ///
    /// # Errors
    /// Work: a state that is broken or of other parameters.
    pub(super) fn restore(&self, index: usize, parameters: &[Named], optimizer: &mut Optimizer) -> Result<Vec<f64>> {
        let path = self.work.file(STATE);
        if !path.exists() {
            return Ok(Vec::new());
        }
        let mut restored = || {
            let file = Index::open_file(&path)?;
            let entry = file.entry(PLACE)?;
            let places: Vec<LayerPlace> = match entry.len > Bound::RECORD.bytes {
                true => return Err(Error::work(format!("{PLACE} is larger than the place of a training"))),
                false => files::parse(&file.read(entry)?, Bound::RECORD).context(|| PLACE)?,
            };
            let Some(place) = places.get(index) else { return Ok(Vec::new()) };
            for (name, tensor) in parameters {
                let values = file.load_f32(&format!("{index}.value.{name}"), tensor.dims(), &Device::Cpu)?;
                ops::numbers(&values, |new| ops::edit(tensor, |values| values.copy_from_slice(new)))??;
                if index + 1 < places.len() {
                    continue;
                }
                let read = |which: &str| {
                    let name = format!("{index}.{which}.{name}");
                    file.load_f32(&name, &[tensor.elem_count()], tensor.device())
                };
                let moments = Moments { first: read("first")?, second: read("second")? };
                optimizer.moments.insert(name.clone(), moments);
            }
            optimizer.steps = place.losses.len();
            Ok(place.losses.clone())
        };
        restored().context(|| format!("{}; --restart begins anew", path.display()))
    }

    /// Keeps how far a layer is, behind those that are done. The old state stands until the new one is whole.
    ///
    /// # Errors
    /// Work: the disk is full, or a parameter cannot be read.
    pub(super) fn save(&self, losses: &[f64], parameters: &[Named], optimizer: &Optimizer) -> Result<()> {
        let done = self.done();
        let index = done.len();
        let own = LayerPlace { losses: losses.to_vec() };
        let places: Vec<&LayerPlace> = done.iter().map(|(place, _)| place).chain([&own]).collect();
        let places = serde_json::to_vec(&places).map_err(|error| Error::work(error.to_string()))?;
        let mut tensors: Vec<(String, &Tensor)> = Vec::new();
        for (layer, (_, values)) in done.iter().enumerate() {
            tensors.extend(values.iter().map(|(name, value)| (format!("{layer}.value.{name}"), value)));
        }
        for (name, value) in parameters {
            let moments = optimizer.moments.get(name).ok_or_else(|| Error::work(format!("no moments of {name}")))?;
            tensors.push((format!("{index}.value.{name}"), value));
            tensors.push((format!("{index}.first.{name}"), &moments.first));
            tensors.push((format!("{index}.second.{name}"), &moments.second));
        }
        let slot = |name: &str, dtype, shape: &[usize]| Slot { name: name.to_owned(), dtype, shape: shape.to_vec() };
        let mut slots = vec![slot(PLACE, Dtype::U8, &[places.len()])];
        slots.extend(tensors.iter().map(|(name, tensor)| slot(name, Dtype::F32, tensor.dims())));
        let path = self.work.file(STATE);
        let dir = path.parent().unwrap_or(Path::new("."));
        replace_tensors(dir, STATE, slots, |name, file| match name == PLACE {
            true => file.write_all(&places).map_err(|error| Error::work(error.to_string())),
            false => match tensors.iter().find(|(own, _)| own == name) {
                Some((_, tensor)) => write_tensor(tensor, file),
                None => Err(Error::work(format!("no tensor {name}"))),
            },
        })
    }

    /// Counts a layer among those that are done.
    ///
    /// # Errors
    /// A parameter that cannot be read.
    pub(super) fn finished(&self, losses: &[f64], parameters: &[Named]) -> Result<()> {
        let values = parameters.iter().map(|(name, value)| Ok((name.clone(), value.copy()?)));
        self.done().push((LayerPlace { losses: losses.to_vec() }, values.collect::<Result<_>>()?));
        Ok(())
    }
}

impl Drop for TrainingState {
    /// What has a step is gone on from; nothing else stays.
    fn drop(&mut self) {
        if !self.work.file(STATE).exists() {
            drop(self.work.remove());
        }
    }
}
