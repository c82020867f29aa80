//! Writing a checkpoint whose weights are those of another, with adapters added or parameters replaced: a tensor at a
//! time, some rows of it at a time.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::sync::Arc;

use candle_core::{DType, Device, Tensor};
use safetensors::Dtype;
use serde_json::{Map, Value};

use crate::arch::{EMBEDDING, HEAD, ModelSpec};
use crate::checkpoint::{
    ByteSize, Checkpoint, Entry, ShardPlan, Slot, four_bit_owner, to_python_json, write_new, write_tensor,
};
use crate::ops::{Nf4Weight, all_finite};
use crate::progress::{Progress, Unit};
use crate::weights::four_bit::{self, Part};
use crate::weights::lora::{Adapter, Adapters, At, Table};
use crate::weights::numbers::{Numbers, PIECE};
use crate::{Context, Error, Result, interrupt};

/// What happens to a tensor.
enum Change<'a> {
    /// The update is added in f32, and the sum rounded once, to the type on disk.
    Add(&'a Adapter),
    /// The same of the embedding or the head; or some of its rows are others.
    Table(&'a Table),
    /// The numbers of the adapter's file, rounded to the type of the model's.
    Stored,
    /// Other numbers, f32, rounded to the type on disk.
    Replace(&'a Tensor),
}

/// A checkpoint to be written.
pub struct Merge<'a> {
    checkpoint: &'a Checkpoint,
    /// Where numbers are read: the checkpoint, with the tensors that the adapter brings whole.
    read: Arc<Checkpoint>,
    /// Whether embedding and head, one tensor until now, become two.
    unties: bool,
    changes: BTreeMap<String, Change<'a>>,
    /// Linear layers of the blocks in four bits; the scales too if `Some(true)`.
    four_bit: Option<bool>,
    linear: BTreeSet<String>,
    /// Linear layers of the blocks are first quantised, the scales too if `Some(true)`, and decoded again.
    onto: Option<bool>,
    config: Map<String, Value>,
    plan: ShardPlan,
}

/// What writing takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
pub struct MergeSize {
    /// Bytes on disk.
    pub disk: u64,
    /// Bytes in memory, at most.
    pub memory: u64,
}

impl<'a> Merge<'a> {
    /// The model of `checkpoint` with `adapters` in its weights and `replaced` (by name) in the place of theirs. With
    /// `four_bit` the linear layers of the blocks are quantised, as bitsandbytes does; without, a source in four bits
    /// is written as numbers of the type it had before.
    ///
    /// # Errors
    /// Request: a replaced tensor that the model does not have. Work: tensors that no file can hold.
    pub fn new(
        checkpoint: &'a Arc<Checkpoint>,
        spec: &ModelSpec,
        adapters: Option<&'a Adapters>,
        replaced: &'a [(String, Tensor)],
        four_bit: Option<bool>,
        max_shard: ByteSize,
        progress: &dyn Progress,
    ) -> Result<Self> {
        let mut changes = BTreeMap::new();
        let trained_head = replaced.iter().any(|(name, _)| name == HEAD);
        let (mut read, mut unties) = (checkpoint.clone(), spec.tied && trained_head);
        if let Some(adapters) = adapters {
            let whole = adapters.whole.iter().flat_map(|whole| whole.names.keys());
            changes.extend(whole.map(|name| (name.clone(), Change::Stored)));
            changes.extend(adapters.tables.iter().map(|(name, table)| (name.clone(), Change::Table(table))));
            for ((layer, role), adapter) in &adapters.modules {
                changes.insert(spec.layer_tensor(*layer, *role).name, Change::Add(adapter));
            }
            read = adapters.over(checkpoint, spec)?;
            unties |= adapters.unties(spec, &checkpoint.index);
        }
        changes.extend(replaced.iter().map(|(name, tensor)| (name.clone(), Change::Replace(tensor))));
        let linear = (0..spec.layers).flat_map(|layer| spec.layer_tensors(layer));
        let linear = linear.filter(|tensor| tensor.role.is_linear() && tensor.shape.len() == 2);
        let mut merge = Self {
            checkpoint,
            read,
            unties,
            changes,
            four_bit,
            linear: linear.map(|tensor| tensor.name).collect(),
            onto: None,
            config: checkpoint.config.clone(),
            plan: ShardPlan::new(Vec::new(), max_shard)?,
        };
        merge.settle_config();
        if four_bit.is_some() {
            progress.begin("quantising", merge.linear.len() as u64, Unit::Items);
        }
        let slots = merge.slots(progress)?;
        let written = |name: &str| slots.iter().any(|slot| slot.name == name);
        // a tied model has one of the two, which stands for both
        let known = |name: &str| written(name) || spec.tied && [EMBEDDING, HEAD].contains(&name);
        if let Some(name) = merge.changes.keys().find(|name| !known(name)) {
            return Err(Error::request(format!("{name} is no tensor of {}", checkpoint.source.id)));
        }
        merge.plan = ShardPlan::new(slots, max_shard)?;
        Ok(merge)
    }

    /// Adds to the numbers that four bits leave of the blocks' linear layers, not to those of the checkpoint: to the
    /// weights that a QLoRA adapter was trained on. `double` quantises the scales as well.
    #[must_use]
    pub fn onto_quantized(mut self, double: bool) -> Self {
        self.onto = Some(double);
        self
    }

    /// Disk and memory that writing takes.
    #[must_use]
    pub fn size(&self) -> MergeSize {
        let largest = |slots: &[Slot]| slots.iter().map(|slot| slot.shape.iter().product::<usize>()).max().unwrap_or(0);
        let largest = self.plan.shards.iter().map(|shard| largest(&shard.slots)).max().unwrap_or(0);
        // four bits need the matrix whole; otherwise a piece, what is added to it, their sum and the sum rounded
        let whole = if self.four_bit.is_some() || self.onto.is_some() { 2 * largest } else { 0 };
        MergeSize { disk: self.plan.disk_size(), memory: 4 * (whole + 4 * PIECE.min(largest)) as u64 }
    }

    /// Writes weights, config and side files into `dir`.
    ///
    /// # Errors
    /// Work: a file that cannot be read or written, a weight that is not finite. Interrupted.
    pub fn write(&self, dir: &Path, progress: &dyn Progress) -> Result<()> {
        self.checkpoint.copy_side_files(dir, progress)?;
        // the parts of the last weight that was quantised: they stand side by side in each group of one dtype
        let mut last: (String, Vec<Part>) = Default::default();
        self.plan.write(dir, progress, |slot, file| {
            let owner = four_bit_owner(&slot.name).unwrap_or(&slot.name);
            if !self.becomes_four_bit(owner) {
                return self.write_numbers(slot, file);
            }
            if last.0 != owner {
                last = (owner.to_owned(), self.parts(owner)?);
            }
            let part = last.1.iter().find(|(name, ..)| *name == slot.name);
            let (.., bytes) = part.ok_or_else(|| Error::work(format!("no {} came of {owner}", slot.name)))?;
            file.write_all(bytes).map_err(|error| Error::work(error.to_string()))
        })?;
        let text = to_python_json(&self.config).map_err(|error| Error::work(error.to_string()))?;
        write_new(&dir.join("config.json"), text + "\n")
    }

    /// The tensors that a weight becomes in four bits.
    fn parts(&self, name: &str) -> Result<Vec<Part>> {
        let place = || format!("tensor {name}");
        let weight = Nf4Weight::quantise(&self.whole(name)?, self.four_bit.unwrap_or(false)).context(place)?;
        Ok(four_bit::parts(name, &weight))
    }

    fn becomes_four_bit(&self, name: &str) -> bool {
        self.four_bit.is_some() && self.linear.contains(name)
    }

    /// The config without or with a quantisation, and with a head of its own where a tied one was trained.
    fn settle_config(&mut self) {
        let quantisation = self.four_bit.map(|double| {
            let compute = self.checkpoint.dtype_name().unwrap_or("float32");
            four_bit::quantization_config(double, compute)
        });
        self.config = four_bit::with_quantization(&self.config, quantisation);
        if self.unties {
            self.config.insert("tie_word_embeddings".to_owned(), Value::Bool(false));
        }
    }

    /// All tensors of the new checkpoint, in the order of the old one's files.
    fn slots(&self, progress: &dyn Progress) -> Result<Vec<Slot>> {
        let mut entries: Vec<&Entry> = self.checkpoint.index.tensors.values().collect();
        entries.sort_by_key(|entry| (entry.shard, entry.begin));
        let mut slots = Vec::new();
        for entry in entries {
            let owner = four_bit_owner(&entry.name).unwrap_or(&entry.name);
            let was_four_bit = self.checkpoint.four_bit_state(owner).is_some();
            if was_four_bit && owner != entry.name {
                continue;
            }
            let shape =
                if was_four_bit { four_bit::original(&self.checkpoint.index, owner)?.0 } else { entry.shape.clone() };
            if self.becomes_four_bit(owner) {
                interrupt::check()?;
                // the text of the settings is as long as its numbers: only quantising tells
                let parts = self.parts(owner)?.into_iter();
                slots.extend(parts.map(|(name, dtype, shape, _)| Slot { name, dtype, shape }));
                progress.advance(1);
                continue;
            }
            let dtype = if was_four_bit { self.dtype_of(owner)? } else { entry.dtype };
            slots.push(Slot { name: owner.to_owned(), dtype, shape });
        }
        if self.unties {
            // a head of its own is no longer the embedding: both get a tensor of their own
            for name in [HEAD, EMBEDDING] {
                if let Some(other) = slots.iter().find(|slot| slot.name == HEAD || slot.name == EMBEDDING).cloned()
                    && !slots.iter().any(|slot| slot.name == name)
                {
                    slots.push(Slot { name: name.to_owned(), ..other });
                }
            }
        }
        Ok(slots)
    }

    /// Type that a tensor has or had before it was quantised.
    fn dtype_of(&self, name: &str) -> Result<Dtype> {
        if self.checkpoint.four_bit_state(name).is_none() {
            let own = self.checkpoint.tensors.get(name);
            return own.map_or_else(|| self.source(name).map(|entry| entry.dtype), |entry| Ok(entry.dtype));
        }
        Ok(match four_bit::original(&self.checkpoint.index, name)?.1 {
            DType::BF16 => Dtype::BF16,
            DType::F16 => Dtype::F16,
            _ => Dtype::F32,
        })
    }

    /// Where the numbers of `name` come from: its own tensor, or that of the other end of a tied model.
    fn source(&self, name: &str) -> Result<&Entry> {
        let other = if name == HEAD { EMBEDDING } else { HEAD };
        let tied = || self.read.tensors.get(other).filter(|_| [HEAD, EMBEDDING].contains(&name));
        match self.read.tensors.get(name).or_else(tied) {
            Some(entry) => Ok(entry),
            None => self.read.entry(name),
        }
    }

    /// A changed tensor, or one that was in four bits, as numbers; another one byte by byte.
    fn write_numbers(&self, slot: &Slot, file: &mut File) -> Result<()> {
        let entry = self.source(&slot.name)?;
        let was_four_bit = self.read.four_bit_state(&entry.name).is_some();
        if !self.changes.contains_key(&slot.name) && !was_four_bit && !self.is_rounded(&slot.name) {
            return self.read.copy_to(entry, file);
        }
        let dtype = match slot.dtype {
            Dtype::BF16 => DType::BF16,
            Dtype::F16 => DType::F16,
            _ => DType::F32,
        };
        if let Some(Change::Replace(tensor)) = self.changes.get(&slot.name) {
            return write_tensor(&rounded(&slot.name, tensor, dtype)?, file);
        }
        let source = self.numbers(entry, &slot.name, &slot.shape)?;
        source.pieces(|rows, piece| {
            let sum = self.changed(&slot.name, rows, piece)?;
            write_tensor(&rounded(&slot.name, &sum, dtype)?, file)
        })
    }

    /// Whether the numbers of `name` are those that four bits leave.
    fn is_rounded(&self, name: &str) -> bool {
        self.onto.is_some() && self.linear.contains(name)
    }

    /// The numbers that tensor `name` is made from, which `entry` holds.
    fn numbers<'b>(&'b self, entry: &'b Entry, name: &str, shape: &[usize]) -> Result<Numbers<'b>> {
        let numbers = Numbers::open(&self.read, entry, shape)?;
        match (numbers, self.onto) {
            (Numbers::Dense(..), Some(double)) if self.is_rounded(name) => {
                let weight = self.read.load(&entry.name, shape, &Device::Cpu)?;
                Ok(Numbers::FourBit(Nf4Weight::quantise(&weight, double).context(|| format!("tensor {name}"))?))
            }
            (numbers, _) => Ok(numbers),
        }
    }

    /// The rows from `first` on of tensor `name`, with what is added to them.
    fn changed(&self, name: &str, first: usize, rows: Tensor) -> Result<Tensor> {
        match self.changes.get(name) {
            Some(Change::Add(adapter)) => adapter.updated(&rows, At::From(first)),
            Some(Change::Table(table)) => table.updated(&rows, At::From(first)),
            Some(Change::Replace(tensor)) => Ok(tensor.narrow(0, first, rows.dim(0)?)?),
            Some(Change::Stored) | None => Ok(rows),
        }
    }

    /// A matrix whole, in the type it has or had, to be quantised.
    fn whole(&self, name: &str) -> Result<Tensor> {
        let entry = self.source(name)?;
        let dtype = match self.dtype_of(name)? {
            Dtype::BF16 => DType::BF16,
            Dtype::F16 => DType::F16,
            _ => DType::F32,
        };
        let shape = match self.checkpoint.four_bit_state(name) {
            Some(_) => four_bit::original(&self.checkpoint.index, name)?.0,
            None => entry.shape.clone(),
        };
        let mut rows = Vec::new();
        self.numbers(entry, name, &shape)?.pieces(|first, piece| {
            rows.push(rounded(name, &self.changed(name, first, piece)?, dtype)?);
            Ok(())
        })?;
        Ok(Tensor::cat(&rows, 0)?)
    }
}

/// `numbers` in the type on disk.
///
/// # Errors
/// Work: a number that is not finite, or too large for the type.
fn rounded(name: &str, numbers: &Tensor, dtype: DType) -> Result<Tensor> {
    let rounded = numbers.to_dtype(dtype)?;
    if all_finite(&rounded)? {
        return Ok(rounded);
    }
    let why = match all_finite(numbers)? {
        true => format!("numbers too large for {}", dtype.as_str()),
        false => "non-finite values".to_owned(),
    };
    Err(Error::work(format!(
        "tensor {name} would hold {why}, so no model is written; an adapter can be used without merging it (--adapter; \
         heal: --adapter-only)"
    )))
}
