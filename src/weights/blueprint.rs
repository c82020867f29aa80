//! A checkpoint to be written, decided in full before a byte is: every tensor an expression over those of a source.

use std::collections::BTreeMap;
use std::io::Write;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use candle_core::{DType, Tensor};
use safetensors::Dtype;
use serde::Serialize;

use super::expr::Expr;
use super::four_bit::{self, PackedTensor};
use super::numbers::{Numbers, PIECE, rounded};
use crate::checkpoint::{ByteSize, Checkpoint, Index, ShardPlan, Slot, four_bit_owner, with_bytes, write_new};
use crate::ops::Nf4Weight;
use crate::progress::Progress;
use crate::{Context, Error, Result, interrupt};

/// How a tensor comes to be.
#[derive(Clone, Debug)]
pub(super) enum Made {
    /// Byte for byte this tensor of the source.
    Copied(String),
    /// Numbers, rounded to the type of the slot.
    Numbers(Expr),
    /// Numbers of this type, then their codes and scales, as [`four_bit::parts`]: several tensors, called after this.
    /// `true`: the scales are codes as well.
    FourBit(Expr, DType, bool),
}

/// The codes and scales of the weight that was quantised last: in each group of one dtype they stand side by side.
pub(super) type LastParts = Option<(String, Arc<Vec<PackedTensor>>)>;

/// Takes bytes of a tensor, and where they begin in it.
pub(super) type Take<'a> = &'a mut dyn FnMut(u64, &[u8]) -> Result<()>;

/// What writing takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Size {
    /// Bytes on disk.
    pub disk: u64,
    /// Bytes in memory, at most.
    pub memory: u64,
}

/// The tensors of a checkpoint to be written, as they are added.
#[derive(Debug)]
pub struct Draft {
    source: Arc<Checkpoint>,
    slots: Vec<Slot>,
    tensors: BTreeMap<String, Made>,
}

impl Draft {
    /// No tensors yet; expressions speak of those of `source`.
    #[must_use]
    pub fn new(source: &Arc<Checkpoint>) -> Self {
        Self { source: source.clone(), slots: Vec::new(), tensors: BTreeMap::new() }
    }

    /// Tensors so far, in the order in which they were added.
    #[must_use]
    pub fn slots(&self) -> &[Slot] {
        &self.slots
    }

    /// Whether there is a tensor called `name` by now.
    #[must_use]
    pub fn has(&self, name: &str) -> bool {
        self.tensors.contains_key(name)
    }

    /// The tensor `old` of the source under the name `name`, whatever its bytes mean.
    ///
    /// # Errors
    /// Work: no such tensor.
    pub fn copy(&mut self, name: &str, old: &str) -> Result<()> {
        let entry = self.source.entry(old)?;
        self.slots.push(Slot { name: name.to_owned(), dtype: entry.dtype, shape: entry.shape.clone() });
        self.tensors.insert(name.to_owned(), Made::Copied(old.to_owned()));
        Ok(())
    }

    /// The numbers of `expr`, stored as `dtype`. A tensor of the source, alone and in its own type, is copied.
    ///
    /// # Errors
    /// Work: a tensor that is not there, shapes that do not go together, a type that numbers are not stored in.
    pub fn add(&mut self, name: &str, dtype: Dtype, expr: Expr) -> Result<()> {
        if let Expr::Source(old) = &expr
            && self.source.four_bit_state(old).is_none()
            && self.source.entry(old)?.dtype == dtype
        {
            return self.copy(name, &old.clone());
        }
        let place = || format!("tensor {name}");
        float_type(dtype).context(place)?;
        let shape = expr.shape(&self.source).context(place)?;
        self.slots.push(Slot { name: name.to_owned(), dtype, shape });
        self.tensors.insert(name.to_owned(), Made::Numbers(expr));
        Ok(())
    }

    /// The matrix `expr`, which would be stored as `dtype`, in four bits; with `double` its scales too. It is computed
    /// here once: the text of its settings is as long as its numbers, which only quantising tells.
    ///
    /// # Errors
    /// As [`Draft::add`]; also a weight that cannot be read, or is not finite. Interrupted.
    pub fn add_four_bit(&mut self, name: &str, dtype: Dtype, expr: Expr, double: bool) -> Result<()> {
        interrupt::check()?;
        expr.shape(&self.source).context(|| format!("tensor {name}"))?;
        let dtype = float_type(dtype).context(|| format!("tensor {name}"))?;
        let parts = parts(&self.source, name, (&expr, dtype, double))?.into_iter();
        self.slots.extend(parts.map(|(name, dtype, shape, _)| Slot { name, dtype, shape }));
        self.tensors.insert(name.to_owned(), Made::FourBit(expr, dtype, double));
        Ok(())
    }

    /// All there is, with the text of its `config.json`, in files of `max_shard` bytes of tensors at most.
    ///
    /// # Errors
    /// Work: tensors that no file can hold, two of one name.
    pub fn finish(self, config: String, max_shard: ByteSize) -> Result<Blueprint> {
        let Self { source, slots, tensors } = self;
        Ok(Blueprint { source, config, tensors, shards: ShardPlan::new(slots, max_shard)?, max_shard })
    }
}

/// A checkpoint to be written: [`Blueprint::write`], or run unwritten: [`Blueprint::open`].
#[derive(Debug)]
pub struct Blueprint {
    pub(super) source: Arc<Checkpoint>,
    pub(super) config: String,
    /// By name; of a weight in four bits, by the weight's name.
    pub(super) tensors: BTreeMap<String, Made>,
    pub(super) shards: ShardPlan,
    max_shard: ByteSize,
}

impl Blueprint {
    /// What it is made from.
    #[must_use]
    pub fn source(&self) -> &Arc<Checkpoint> {
        &self.source
    }

    /// The text of `config.json`.
    #[must_use]
    pub fn config(&self) -> &str {
        &self.config
    }

    /// The weight files.
    #[must_use]
    pub fn shards(&self) -> &ShardPlan {
        &self.shards
    }

    /// The tensors that are copied: name, and name in the source; in the order of their names.
    pub fn copied(&self) -> impl Iterator<Item = (&str, &str)> {
        self.tensors.iter().filter_map(|(name, made)| match made {
            Made::Copied(old) => Some((name.as_str(), old.as_str())),
            Made::Numbers(_) | Made::FourBit(..) => None,
        })
    }

    /// The same but for the tensors `changed`, which are made as they say of this checkpoint's own tensors, by the
    /// names they have here, and stored in the types they have here.
    ///
    /// # Errors
    /// Work: a tensor that is not there or is stored in codes, shapes that do not go together.
    pub fn with(&self, changed: BTreeMap<String, Expr>) -> Result<Self> {
        let slots = self.shards.shards.iter().flat_map(|shard| &shard.slots);
        let slots: BTreeMap<&str, &Slot> = slots.map(|slot| (slot.name.as_str(), slot)).collect();
        let known = |name: &str| match self.tensors.get(name) {
            Some(Made::Copied(old)) => Ok(Expr::Source(old.clone())),
            Some(Made::Numbers(expr)) => Ok(expr.clone()),
            Some(Made::FourBit(..)) => Err(Error::work(format!("tensor {name} is in four bits"))),
            None => Err(Error::work(format!("no tensor is called {name}"))),
        };
        let changed = changed.into_iter().map(|(name, expr)| {
            let place = || format!("tensor {name}");
            let expr = expr.over(&known).context(place)?;
            let slot = slots.get(name.as_str()).ok_or_else(|| Error::work("is not there")).context(place)?;
            float_type(slot.dtype).context(place)?;
            let shape = expr.shape(&self.source).context(place)?;
            if shape != slot.shape {
                return Err(Error::work(format!("tensor {name}: {shape:?} in the place of {:?}", slot.shape)));
            }
            Ok((name, Made::Numbers(expr)))
        });
        let mut tensors: BTreeMap<String, Made> = changed.collect::<Result<_>>()?;
        for (name, made) in &self.tensors {
            tensors.entry(name.clone()).or_insert_with(|| made.clone());
        }
        let (source, config, shards) = (self.source.clone(), self.config.clone(), self.shards.clone());
        Ok(Self { source, config, tensors, shards, max_shard: self.max_shard })
    }

    /// The same with the tensors `added`, f32, behind its own, and another text of its `config.json`.
    ///
    /// # Errors
    /// Work: a tensor of that name is there, tensors that no file can hold.
    pub fn adding(&self, added: Vec<(String, Tensor)>, config: String) -> Result<Self> {
        let mut slots: Vec<Slot> = self.shards.shards.iter().flat_map(|shard| shard.slots.clone()).collect();
        let mut tensors = self.tensors.clone();
        for (name, tensor) in added {
            slots.push(Slot { name: name.clone(), dtype: Dtype::F32, shape: tensor.dims().to_vec() });
            tensors.insert(name, Made::Numbers(Expr::Tensor(tensor)));
        }
        let (source, max_shard) = (self.source.clone(), self.max_shard);
        Ok(Self { source, config, tensors, shards: ShardPlan::new(slots, max_shard)?, max_shard })
    }

    /// Disk and memory that writing takes.
    ///
    /// # Errors
    /// None that can be met.
    pub fn size(&self) -> Result<Size> {
        let numbers = |slot: &Slot| slot.shape.iter().product::<usize>();
        let largest = self.shards.shards.iter().flat_map(|shard| &shard.slots).map(numbers).max().unwrap_or(0);
        let mut whole = 0;
        for made in self.tensors.values() {
            whole = whole.max(match made {
                Made::Copied(_) => 0,
                Made::Numbers(expr) => expr.whole(&self.source, largest)?,
                Made::FourBit(expr, ..) => expr.whole(&self.source, largest)?.max(2 * largest),
            });
        }
        // and a piece, what is added to it, their sum and the sum rounded
        Ok(Size { disk: self.shards.disk_size(), memory: 4 * (whole + 4 * PIECE.min(largest)) as u64 })
    }

    /// Writes side files, weights and config into `dir`, about a tensor of the computed ones in memory at a time.
    ///
    /// # Errors
    /// Work: a file that cannot be read or written, a weight that is not finite. Interrupted.
    pub fn write(&self, dir: &Path, progress: &dyn Progress) -> Result<()> {
        self.source.copy_side_files(dir, progress)?;
        let mut last = None;
        self.shards.write(dir, progress, |slot, file| match self.tensors.get(&slot.name) {
            Some(Made::Copied(old)) => self.source.copy_to(self.source.entry(old)?, file),
            _ => self.compute(slot, 0..u64::MAX, &mut last, &mut |_, bytes| {
                file.write_all(bytes).map_err(|error| Error::work(error.to_string()))
            }),
        })?;
        write_new(&dir.join("config.json"), self.config.as_str())
    }

    /// Gives `take` the pieces of the computed tensor `slot` that have one of its `bytes`, and where each begins.
    ///
    /// # Errors
    /// Work: a file that cannot be read, a number that is not finite. Whatever `take` finds wrong.
    pub(super) fn compute(&self, slot: &Slot, bytes: Range<u64>, last: &mut LastParts, take: Take<'_>) -> Result<()> {
        if let Some(Made::Numbers(expr)) = self.tensors.get(&slot.name) {
            return self.numbers(slot, expr, bytes, take);
        }
        let owner = four_bit_owner(&slot.name).unwrap_or(&slot.name);
        let Some(Made::FourBit(expr, dtype, double)) = self.tensors.get(owner) else {
            return Err(Error::work(format!("nothing says how tensor {} is made", slot.name)));
        };
        if last.as_ref().is_none_or(|(name, _)| name != owner) {
            let parts = parts(&self.source, owner, (expr, *dtype, *double))?;
            *last = Some((owner.to_owned(), Arc::new(parts)));
        }
        let part = last.iter().flat_map(|(_, parts)| parts.iter()).find(|(name, ..)| *name == slot.name);
        let (.., bytes) = part.ok_or_else(|| Error::work(format!("no {} came of {owner}", slot.name)))?;
        take(0, bytes)
    }

    fn numbers(&self, slot: &Slot, expr: &Expr, bytes: Range<u64>, take: Take<'_>) -> Result<()> {
        let dtype = float_type(slot.dtype)?;
        let row = (slot.shape.iter().skip(1).product::<usize>() * dtype.size_in_bytes()).max(1) as u64;
        let row_of = |byte: u64| usize::try_from(byte / row).unwrap_or(usize::MAX);
        let rows = row_of(bytes.start)..row_of(bytes.end.saturating_sub(1)).saturating_add(1);
        let numbers = Numbers::of(expr, &self.source).context(|| format!("tensor {}", slot.name))?;
        numbers.pieces_over(rows, |first, piece| {
            with_bytes(&settled(&slot.name, expr, &piece, dtype)?, |bytes| take(first as u64 * row, bytes))
        })
    }
}

/// The numbers that tensor `name` would be written with as `expr` says of tensors of `source`, in the type `dtype`.
///
/// # Errors
/// Work: a file that cannot be read, a number that is not finite, a type that numbers are not stored in.
pub(crate) fn stored(source: &Index, name: &str, expr: &Expr, dtype: Dtype) -> Result<Tensor> {
    all_settled(source, name, expr, float_type(dtype).context(|| format!("tensor {name}"))?)
}

fn all_settled(source: &Index, name: &str, expr: &Expr, dtype: DType) -> Result<Tensor> {
    let mut pieces = Vec::new();
    Numbers::of(expr, source).context(|| format!("tensor {name}"))?.pieces(|_, piece| {
        pieces.push(settled(name, expr, &piece, dtype)?);
        Ok(())
    })?;
    Ok(Tensor::cat(&pieces, 0)?)
}

/// The tensors that a weight becomes in four bits.
fn parts(source: &Checkpoint, name: &str, (expr, dtype, double): (&Expr, DType, bool)) -> Result<Vec<PackedTensor>> {
    let weight = Nf4Weight::quantize(&all_settled(source, name, expr, dtype)?, double);
    Ok(four_bit::parts(name, &weight.context(|| format!("tensor {name}"))?))
}

/// `numbers` of tensor `name` in the type on disk.
fn settled(name: &str, expr: &Expr, numbers: &Tensor, dtype: DType) -> Result<Tensor> {
    rounded(numbers, dtype).map_err(|error| {
        let unmerged = "; an adapter can be used without merging it (--adapter; heal: --adapter-only)";
        let hint = if expr.is_adapted() { unmerged } else { "" };
        error.reworded(|what| format!("tensor {name} would hold {what}, so no model is written{hint}"))
    })
}

/// The type in which numbers are stored.
fn float_type(dtype: Dtype) -> Result<DType> {
    Ok(match dtype {
        Dtype::F32 => DType::F32,
        Dtype::F16 => DType::F16,
        Dtype::BF16 => DType::BF16,
        other => {
            return Err(Error::work(format!("is to be computed and stored as {other}, expected F32, F16 or BF16")));
        }
    })
}
