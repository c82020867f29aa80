//! What a run that stopped goes on from: a directory beside the output, and in it the parameters, the optimiser and the
//! place in the text, in one file that is replaced whole.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use candle_core::{Device, Tensor};
use safetensors::Dtype;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::accuracy::BestBy;
use super::measure::KnownLosses;
use super::rollouts::RolloutLength;
use super::settled::is_default;
use super::tensorboard::EVENTS;
use crate::checkpoint::{
    Index, Slot, Workplace, adopt, differences, read_json, refuse_other_work, replace_tensors, unfinished, write_file,
    write_tensor,
};
use crate::data::Position;
use crate::files::{self, Bound};
use crate::model::CheckpointingPolicy;
use crate::ops::{Moments, Optimizer};
use crate::plan::MOST_LAYERS;
use crate::shown::from_here;
use crate::{Context, Error, Result, ops};

const SETTINGS: &str = "settings.json";
const STATE: &str = "state.safetensors";
const BEST: &str = "best.safetensors";
/// Settings that tell one text from another of the same name.
const DATA: [&str; 3] = ["data_bytes", "data_sha256", "eval_data_sha256"];
const KNOWN: &str = "measured.json";
/// More steps, and tokens, than anybody trains: what sums stay far below.
const FURTHEST: usize = 1 << 53;
/// All that is ever in the directory.
const ENTRIES: &[&str] = &[SETTINGS, STATE, "state.safetensors.new", BEST, "best.safetensors.new", KNOWN, LOG, EVENTS];
/// The log's file.
pub(super) const LOG: &str = "log.jsonl";
/// The tensor that holds [`TrainerState`] as JSON.
const PLACE: &str = "place.json";

/// How far a run is.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct TrainerState {
    /// Steps done.
    pub step: usize,
    /// Tokens trained on.
    pub tokens: u64,
    /// The next sequence.
    pub position: Position,
    /// What passes spend memory on: more or fewer tokens at a time are other last bits, whatever memory is free when
    /// the run goes on.
    #[serde(default, rename = "spending")]
    pub policy: Option<CheckpointingPolicy>,
    /// Tokens of a pass of validation, for the same reason.
    #[serde(default)]
    pub validation_tokens: Option<usize>,
    /// How long the texts are that the model writes itself.
    #[serde(default, skip_serializing_if = "is_default")]
    pub rollouts: RolloutLength,
}

impl TrainerState {
    /// Refuses a place where no run can be: the file may be anyone's.
    fn check(&self) -> Result<()> {
        let wrong = |what: &str| Err(Error::work(format!("no run has {what}; --restart begins anew")));
        if self.step > FURTHEST || self.tokens > FURTHEST as u64 {
            return wrong("done so much");
        }
        match self.policy {
            Some(policy) if policy.saved_layers > MOST_LAYERS => wrong("so many layers"),
            Some(policy) if policy.chunk_size == 0 => wrong("0 tokens at a time"),
            _ if self.validation_tokens == Some(0) => wrong("0 tokens at a time"),
            _ if !self.rollouts.is_sound() => wrong("such texts of its own"),
            _ => Ok(()),
        }
    }
}

/// A validation.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Best {
    /// Steps done then.
    pub step: usize,
    /// Loss, nats a token.
    pub loss: f64,
    /// Share of right answers, where questions were asked.
    pub accuracy: Option<f64>,
}

impl Best {
    /// What it is judged by.
    #[must_use]
    pub fn metric(&self, by: BestBy) -> Option<f64> {
        if by == BestBy::Loss { Some(self.loss) } else { self.accuracy }
    }

    /// Whether it is better than `other`.
    pub(super) fn is_better(&self, other: &Self, by: BestBy) -> bool {
        match by {
            BestBy::Loss => self.loss < other.loss,
            BestBy::Accuracy => self.accuracy > other.accuracy,
        }
    }
}

/// The directory of an unfinished run, `OUT.healing`. Who holds the output's [`Workplace`] works in it.
#[derive(Debug)]
pub struct WorkDir {
    path: PathBuf,
    place: Arc<Workplace>,
}

impl WorkDir {
    /// Where the unfinished run of an output lies.
    #[must_use]
    pub fn place(out: &Path) -> PathBuf {
        unfinished(out, "healing")
    }

    /// Refuses a directory of that name that is no unfinished run.
    ///
    /// # Errors
    /// Request: as said.
    pub fn check(place: &Workplace) -> Result<()> {
        refuse_other_work(&Self::place(place.target()), "heal", "healing")
    }

    /// Opens or makes the directory of the run whose output `place` is for. `deciding` are the settings that decide the
    /// result; they must be those of the state that is there, but for what tells one text from another where
    /// `data_changed` says that it is another one. `restart` forgets the state.
    ///
    /// # Errors
    /// Request: something else is there, or a run that began with other settings (names them). Work: it cannot be made.
    pub fn open(
        place: Arc<Workplace>,
        deciding: &Map<String, Value>,
        restart: bool,
        data_changed: bool,
    ) -> Result<Self> {
        Self::check(&place)?;
        let path = Self::place(place.target());
        if path.exists() {
            adopt(&path, &[])?;
        } else {
            place.make_dir(&path, ENTRIES)?;
        }
        let (settings, state) = (path.join(SETTINGS), path.join(STATE));
        if restart {
            remove(&state)?;
        }
        if state.exists() {
            let mut before: Map<String, Value> = read_json(&settings)?;
            if data_changed {
                let now = deciding.iter().filter(|(name, _)| DATA.contains(&name.as_str()));
                before.retain(|name, _| !DATA.contains(&name.as_str()));
                before.extend(now.map(|(name, value)| (name.clone(), value.clone())));
            }
            compare(&path, &before, deciding)?;
            if data_changed {
                write_settings(&settings, deciding)?;
            }
        } else {
            // there is nothing to go on from, whatever settings it was begun with
            for name in [BEST, LOG, EVENTS] {
                remove(&path.join(name))?;
            }
            write_settings(&settings, deciding)?;
        }
        Ok(Self { path, place })
    }

    /// After a run that failed: the directory goes unless it holds a state to go on from.
    pub fn close(self) {
        if !self.path.join(STATE).exists() {
            // what stays behind is begun anew by the next run
            drop(self.place.discard(&self.path));
        }
    }

    /// Its path.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Saves how far the run is; the old state stands until the new one is whole and durable.
    ///
    /// # Errors
    /// Work: the disk is full, or a parameter cannot be read.
    pub fn save(&self, place: &TrainerState, parameters: &[(String, Tensor)], optimizer: &Optimizer) -> Result<()> {
        let place = serde_json::to_vec(place).map_err(|error| Error::work(error.to_string()))?;
        let mut slots = vec![Slot { name: PLACE.to_owned(), dtype: Dtype::U8, shape: vec![place.len()] }];
        for (name, tensor) in parameters {
            slots.push(slot(format!("value.{name}"), tensor.dims()));
            if optimizer.moments.contains_key(name) {
                slots.push(slot(format!("first.{name}"), &[tensor.elem_count()]));
                slots.push(slot(format!("second.{name}"), &[tensor.elem_count()]));
            }
        }
        let moments =
            |name: &str| optimizer.moments.get(name).ok_or_else(|| Error::work(format!("no moments of {name}")));
        replace_tensors(&self.path, STATE, slots, |name, file| {
            if name == PLACE {
                return write_bytes(file, &place);
            }
            match name.split_once('.') {
                Some(("first", name)) => write_tensor(&moments(name)?.first, file),
                Some(("second", name)) => write_tensor(&moments(name)?.second, file),
                Some((_, name)) => write_tensor(find(parameters, name)?, file),
                None => Err(Error::work(format!("no parameter {name}"))),
            }
        })
    }

    /// Takes up the run: how far it is, with the parameters and the optimiser put where they were; `None` at the start.
    ///
    /// # Errors
    /// Work: a state that is broken or of other parameters.
    pub fn restore(&self, parameters: &[(String, Tensor)], optimizer: &mut Optimizer) -> Result<Option<TrainerState>> {
        let path = self.path.join(STATE);
        if !path.exists() {
            return Ok(None);
        }
        let index = Index::open_file(&path)?;
        let place = read_place(&index).context(|| path.display())?;
        for (name, tensor) in parameters {
            put(&index, &format!("value.{name}"), tensor)?;
            let read =
                |which: &str| index.load_f32(&format!("{which}.{name}"), &[tensor.elem_count()], tensor.device());
            optimizer.moments.insert(name.clone(), Moments { first: read("first")?, second: read("second")? });
        }
        optimizer.steps = place.step;
        Ok(Some(place))
    }

    /// How far the unfinished run of `out` came; nothing is taken up.
    ///
    /// # Errors
    /// Work: a state that is broken.
    pub fn peek(out: &Path) -> Result<Option<TrainerState>> {
        let path = Self::place(out).join(STATE);
        if !path.exists() {
            return Ok(None);
        }
        read_place(&Index::open_file(&path)?).context(|| path.display()).map(Some)
    }

    /// Bytes that lie there.
    #[must_use]
    pub fn size(out: &Path) -> u64 {
        let entries = fs::read_dir(Self::place(out)).into_iter().flatten().flatten();
        entries.filter_map(|entry| entry.metadata().ok()).map(|metadata| metadata.len()).sum()
    }

    /// Losses that were measured before the first step.
    ///
    /// # Errors
    /// Work: the file is broken.
    pub fn known(&self) -> Result<KnownLosses> {
        let path = self.path.join(KNOWN);
        if !path.exists() {
            return Ok(KnownLosses::new());
        }
        files::json(&path, Bound::RECORD)
    }

    /// Keeps them.
    ///
    /// # Errors
    /// Work: the disk is full.
    pub fn save_known(&self, known: &KnownLosses) -> Result<()> {
        let text = serde_json::to_vec(known).map_err(|error| Error::work(error.to_string()))?;
        write_file(&self.path.join(KNOWN), true, &text)
    }

    /// Keeps the parameters as the best so far.
    ///
    /// # Errors
    /// As [`WorkDir::save`].
    pub fn save_best(&self, parameters: &[(String, Tensor)]) -> Result<()> {
        let slots = parameters.iter().map(|(name, tensor)| slot(name.clone(), tensor.dims())).collect();
        replace_tensors(&self.path, BEST, slots, |name, file| write_tensor(find(parameters, name)?, file))
    }

    /// Puts the best parameters in place.
    ///
    /// # Errors
    /// Work: the file is broken or of other parameters.
    pub fn restore_best(&self, parameters: &[(String, Tensor)]) -> Result<()> {
        let index = Index::open_file(&self.path.join(BEST))?;
        parameters.iter().try_for_each(|(name, tensor)| put(&index, name, tensor))
    }

    /// Removes the directory: the run is over.
    ///
    /// # Errors
    /// Request: somebody else's files are in it; it stays. Work: it cannot be removed.
    pub fn remove(self) -> Result<()> {
        self.place.discard(&self.path)
    }
}

fn read_place(index: &Index) -> Result<TrainerState> {
    let entry = index.entry(PLACE)?;
    if entry.len > Bound::RECORD.bytes {
        return Err(Error::work(format!("{PLACE} has {} bytes, more than the place of a run takes", entry.len)));
    }
    let place: TrainerState = files::parse(&index.read(entry)?, Bound::RECORD).context(|| PLACE)?;
    place.check().context(|| PLACE)?;
    Ok(place)
}

fn slot(name: String, shape: &[usize]) -> Slot {
    Slot { name, dtype: Dtype::F32, shape: shape.to_vec() }
}

fn find<'a>(parameters: &'a [(String, Tensor)], name: &str) -> Result<&'a Tensor> {
    let found = parameters.iter().find(|(own, _)| own == name);
    found.map(|(_, tensor)| tensor).ok_or_else(|| Error::work(format!("no parameter {name}")))
}

fn put(index: &Index, name: &str, tensor: &Tensor) -> Result<()> {
    let values = index.load_f32(name, tensor.dims(), &Device::Cpu)?;
    ops::numbers(&values, |new| ops::edit(tensor, |values| values.copy_from_slice(new)))?
}

fn write_bytes(file: &mut File, bytes: &[u8]) -> Result<()> {
    file.write_all(bytes).map_err(|error| Error::work(error.to_string()))
}

fn remove(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(Error::io(path, &error)),
        _ => Ok(()),
    }
}

fn write_settings(path: &Path, deciding: &Map<String, Value>) -> Result<()> {
    let text = serde_json::to_vec_pretty(deciding).map_err(|error| Error::work(error.to_string()))?;
    write_file(path, true, &text)
}

fn compare(path: &Path, before: &Map<String, Value>, now: &Map<String, Value>) -> Result<()> {
    let list = differences(before, now);
    if list.is_empty() {
        return Ok(());
    }
    let of_data = |fault: &String| DATA.iter().any(|name| fault.split(' ').next() == Some(*name));
    let way_on = if list.iter().all(of_data) { ", or --data-changed to go on with the text as it is now" } else { "" };
    Err(Error::request(format!(
        "{}: the unfinished run there began with other settings: {}; use those, or --restart to begin anew{way_on}",
        from_here(path),
        list.join("; ")
    )))
}
