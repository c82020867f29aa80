//! Safetensors files, written as a stream: header first, then each tensor's bytes as they come, copied or computed.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{Seek, Write};
use std::path::Path;

use candle_core::{Device, Storage, Tensor};
use fs4::fs_std::FileExt;
use half::slice::HalfFloatSliceExt;
use safetensors::Dtype;
use safetensors::tensor::{Metadata, TensorInfo};
use serde_json::json;

use super::container::{INDEX, MAX_HEADER, PREFIX, SINGLE};
use super::flush::Flusher;
use super::mark::{claim, create_file, write_new};
use super::size::ByteSize;
use crate::progress::{Progress, Unit};
use crate::{Context, Error, Result, interrupt};

/// A tensor that is going to be written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Slot {
    /// Full name.
    pub name: String,
    /// Element type.
    pub dtype: Dtype,
    /// Shape, outermost first.
    pub shape: Vec<usize>,
}

impl Slot {
    /// Length in bytes; `None` when no memory could hold it, or for a fraction of a byte.
    pub(super) fn len(&self) -> Option<usize> {
        let bits = self.shape.iter().try_fold(self.dtype.bitsize(), |bits, &size| bits.checked_mul(size))?;
        bits.is_multiple_of(8).then_some(bits / 8)
    }
}

/// One safetensors file to be written.
#[derive(Clone, Debug)]
pub struct Shard {
    /// File name.
    pub file: String,
    /// Tensors in the order of the file: by dtype, the widest first, then by name, as the `safetensors` crate does it,
    /// so that the same tensors give the same bytes.
    pub slots: Vec<Slot>,
    /// Length and text of the header.
    header: Vec<u8>,
    /// Bytes of tensors.
    data: u64,
}

impl Shard {
    /// A file called `file` with these tensors; the metadata says `format: pt`, without which transformers refuses it.
    ///
    /// # Errors
    /// Work: a name that occurs twice, a header or a tensor beyond the format's bounds.
    pub fn new(file: impl Into<String>, mut slots: Vec<Slot>) -> Result<Self> {
        let file = file.into();
        let fault = |reason: String| Error::work(format!("{file}: {reason}"));
        slots.sort_by(|a, b| b.dtype.cmp(&a.dtype).then_with(|| a.name.cmp(&b.name)));
        let (mut infos, mut end) = (Vec::with_capacity(slots.len()), 0usize);
        for slot in &slots {
            let begin = end;
            end = slot
                .len()
                .and_then(|len| end.checked_add(len))
                .ok_or_else(|| fault(format!("tensor {} of shape {:?} is too large", slot.name, slot.shape)))?;
            let info = TensorInfo { dtype: slot.dtype, shape: slot.shape.clone(), data_offsets: (begin, end) };
            infos.push((slot.name.clone(), info));
        }
        let names: BTreeSet<&str> = slots.iter().map(|slot| slot.name.as_str()).collect();
        if names.len() != slots.len() || names.contains("__metadata__") {
            return Err(fault("two tensors of one name".into()));
        }
        let metadata = Metadata::new(Some([("format".to_owned(), "pt".to_owned())].into()), infos);
        let metadata = metadata.map_err(|error| fault(error.to_string()))?;
        let mut json = serde_json::to_vec(&metadata).map_err(|error| fault(error.to_string()))?;
        json.resize(json.len().next_multiple_of(PREFIX as usize), b' ');
        if json.len() as u64 > MAX_HEADER {
            return Err(fault(format!("{} tensors need a longer header than the format allows", slots.len())));
        }
        let header = [&(json.len() as u64).to_le_bytes()[..], &json].concat();
        Ok(Self { file, slots, header, data: end as u64 })
    }

    /// Bytes of the whole file.
    pub fn size(&self) -> u64 {
        self.header.len() as u64 + self.data
    }

    /// Begins the file in `dir`: its header and room for its tensors, which are written in place, in any order.
    ///
    /// # Errors
    /// Work: the disk is full; the file system's.
    pub(crate) fn begin(&self, dir: &Path) -> Result<()> {
        let path = dir.join(&self.file);
        let at = |error: std::io::Error| Error::io(&path, &error);
        claim(&path)?;
        let mut file = File::create(&path).map_err(at)?;
        allocate(&file, self.size()).map_err(at)?;
        file.write_all(&self.header).and_then(|()| file.set_len(self.size())).map_err(at)
    }

    /// Writes the file into `dir`: `write` is called for each slot in order and must write exactly its bytes.
    /// Advances `progress` by the bytes of each tensor.
    ///
    /// # Errors
    /// Work: the disk is full, or `write` fails or writes another number of bytes. An interruption is `write`'s to look
    /// for: a state that is saved because of one must be written.
    pub fn write(
        &self,
        dir: &Path,
        progress: &dyn Progress,
        mut write: impl FnMut(&Slot, &mut File) -> Result<()>,
    ) -> Result<()> {
        flushing(dir, |flusher| self.write_with(flusher, dir, progress, &mut write))
    }

    fn write_with(
        &self,
        flusher: &mut Flusher,
        dir: &Path,
        progress: &dyn Progress,
        write: &mut impl FnMut(&Slot, &mut File) -> Result<()>,
    ) -> Result<()> {
        let path = dir.join(&self.file);
        let at = |error: std::io::Error| Error::work(format!("{}: {error}", path.display()));
        let mut file = create_file(&path)?;
        allocate(&file, self.size()).map_err(at)?;
        file.write_all(&self.header).map_err(at)?;
        let mut end = self.header.len() as u64;
        for slot in &self.slots {
            // the directory it is made in is hidden, and says nothing to anybody
            write(slot, &mut file).context(|| path.file_name().unwrap_or_default().display().to_string())?;
            let len = slot.len().unwrap_or_default() as u64;
            end += len;
            let written = file.stream_position().map_err(at)?;
            if written != end {
                let name = &slot.name;
                let reason = format!("tensor {name} ended at byte {written}, its place in the file at {end}");
                return Err(Error::work(format!("{}: {reason}", path.display())));
            }
            flusher.grown(&file, len).map_err(at)?;
            progress.advance(len);
        }
        Ok(())
    }
}

/// The files of a checkpoint to be written: `model.safetensors`, or shards and their index.
#[derive(Clone, Debug)]
pub struct ShardPlan {
    /// At least one.
    pub shards: Vec<Shard>,
}

impl ShardPlan {
    /// Deals `slots` out in order, a new file whenever the next tensor would make one longer than `max_shard` bytes of
    /// tensors; a longer tensor has a file of its own. The names and the rule are those of transformers.
    ///
    /// # Errors
    /// As [`Shard::new`]; also a name that occurs twice.
    pub fn new(slots: Vec<Slot>, max_shard: ByteSize) -> Result<Self> {
        let names: BTreeSet<&str> = slots.iter().map(|slot| slot.name.as_str()).collect();
        if names.len() != slots.len() {
            return Err(Error::work("two tensors of one name in the new checkpoint"));
        }
        let (mut files, mut open, mut size) = (Vec::new(), Vec::new(), 0u64);
        for slot in slots {
            let len = slot.len().unwrap_or(usize::MAX) as u64;
            if len > max_shard.0 {
                files.push(vec![slot]);
                continue;
            }
            if size + len > max_shard.0 {
                files.push(std::mem::take(&mut open));
                size = 0;
            }
            size += len;
            open.push(slot);
        }
        if !open.is_empty() || files.is_empty() {
            files.push(open);
        }
        let count = files.len();
        let name = |place: usize| match count {
            1 => SINGLE.to_owned(),
            _ => format!("model-{:05}-of-{count:05}.safetensors", place + 1),
        };
        let shards = files.into_iter().enumerate().map(|(place, slots)| Shard::new(name(place), slots));
        Ok(Self { shards: shards.collect::<Result<_>>()? })
    }

    /// Bytes of all tensors: what the index calls `total_size`.
    pub fn total_size(&self) -> u64 {
        self.shards.iter().map(|shard| shard.data).sum()
    }

    /// Bytes of all files, for [`OutputDir::require_space`](super::OutputDir::require_space).
    pub fn disk_size(&self) -> u64 {
        self.shards.iter().map(Shard::size).sum()
    }

    /// Writes every shard, and the index when there are several, into `dir`. `write` is called for each slot, shard by
    /// shard, and must write exactly its bytes.
    ///
    /// # Errors
    /// As [`Shard::write`]. Interrupted.
    pub fn write(
        &self,
        dir: &Path,
        progress: &dyn Progress,
        mut write: impl FnMut(&Slot, &mut File) -> Result<()>,
    ) -> Result<()> {
        progress.begin("writing", self.total_size(), Unit::Bytes);
        let mut write = |slot: &Slot, file: &mut File| interrupt::check().and_then(|()| write(slot, file));
        flushing(dir, |flusher| {
            self.shards.iter().try_for_each(|shard| shard.write_with(flusher, dir, progress, &mut write))
        })?;
        if self.shards.len() > 1 {
            let listed =
                |shard: &Shard| shard.slots.iter().map(|slot| (slot.name.clone(), shard.file.clone())).collect();
            let weight_map: BTreeMap<String, String> = self.shards.iter().flat_map::<Vec<_>, _>(listed).collect();
            let index = json!({"metadata": {"total_size": self.total_size()}, "weight_map": weight_map});
            let path = dir.join(INDEX);
            write_new(&path, format!("{index:#}\n"))?;
        }
        progress.end();
        Ok(())
    }
}

/// Claims the room of the whole file before its first byte: a full disk is known at once, and the flush beside the
/// copying need not look for places, which takes as long as the copying.
pub(super) fn allocate(file: &File, bytes: u64) -> std::io::Result<()> {
    use std::io::ErrorKind::{FileTooLarge, QuotaExceeded, StorageFull};
    match FileExt::allocate(file, bytes) {
        Err(error) if matches!(error.kind(), FileTooLarge | QuotaExceeded | StorageFull) => Err(error),
        // a file system that cannot claim finds room as it goes
        _ => Ok(()),
    }
}

/// Runs `work` with a flusher, and waits for that before the result counts.
pub(super) fn flushing(dir: &Path, work: impl FnOnce(&mut Flusher) -> Result<()>) -> Result<()> {
    let at = |error: std::io::Error| Error::io(dir, &error);
    let mut flusher = Flusher::start().map_err(at)?;
    let done = work(&mut flusher);
    let flushed = flusher.finish().map_err(at);
    done.and(flushed)
}

/// Writes the values of a computed tensor as they are, F32, F16 or BF16, row-major.
///
/// # Errors
/// Work: another dtype, or a failing write.
pub fn write_tensor(tensor: &Tensor, out: &mut impl Write) -> Result<()> {
    with_bytes(tensor, |bytes| out.write_all(bytes).map_err(|error| Error::work(error.to_string())))
}

/// Gives `take` the values of a tensor as they are, F32, F16 or BF16, row-major.
///
/// # Errors
/// Work: another dtype. Whatever `take` finds wrong.
pub(crate) fn with_bytes<T>(tensor: &Tensor, take: impl FnOnce(&[u8]) -> Result<T>) -> Result<T> {
    let tensor = tensor.to_device(&Device::Cpu)?.contiguous()?;
    let (storage, layout) = tensor.storage_and_layout();
    let values = layout.start_offset()..layout.start_offset() + layout.shape().elem_count();
    let Storage::Cpu(storage) = &*storage else {
        return Err(Error::work("a tensor did not reach main memory"));
    };
    take(match storage {
        candle_core::CpuStorage::F32(all) => bytemuck::cast_slice(&all[values]),
        candle_core::CpuStorage::F16(all) => bytemuck::cast_slice(all[values].reinterpret_cast()),
        candle_core::CpuStorage::BF16(all) => bytemuck::cast_slice(all[values].reinterpret_cast()),
        _ => return Err(Error::work(format!("no weights are written as {:?}", tensor.dtype()))),
    })
}
