//! Proof that a written checkpoint is what it should be.

use rayon::prelude::*;
use serde::Serialize;

use super::blueprint::{Blueprint, Made};
use crate::checkpoint::{Checkpoint, Entry, Index, Slot, parse_json};
use crate::progress::{Progress, Unit};
use crate::{Error, Result, interrupt};

/// Bytes compared at a time, by each thread.
const CHUNK: u64 = 1 << 20;

/// What was compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Identical {
    /// Tensors whose dtype, shape and bytes are the source's.
    pub tensors: usize,
    /// Their bytes.
    pub bytes: u64,
}

impl Blueprint {
    /// Compares `written` with what was decided: every copied tensor with the source's, byte for byte, every computed
    /// one with what is computed once more, and the config.
    ///
    /// # Errors
    /// Work: the first difference, or a file that cannot be read. Interrupted.
    pub fn verify(&self, written: &Checkpoint, progress: &dyn Progress) -> Result<Identical> {
        let differs =
            |what: String| Error::work(format!("{}: verification failed: {what}", written.source.dir.display()));
        let config = parse_json(self.config().as_bytes()).map_err(|error| Error::work(error.to_string()))?;
        if written.config != config {
            return Err(differs("config.json is not the one that was decided".into()));
        }
        let slots = || self.shards().shards.iter().flat_map(|shard| &shard.slots);
        let names: std::collections::BTreeSet<&str> = slots().map(|slot| slot.name.as_str()).collect();
        if let Some(name) = written.index.tensors.keys().find(|name| !names.contains(name.as_str())) {
            return Err(differs(format!("tensor {name} should not be there")));
        }
        progress.begin("verifying", self.shards().total_size(), Unit::Bytes);
        let copied: Vec<(&str, &Entry)> =
            self.copied().map(|(name, old)| Ok((name, self.source().entry(old)?))).collect::<Result<_>>()?;
        let interrupt = interrupt::current();
        let compare = |buffers: &mut [Vec<u8>; 2], (name, theirs): &(&str, &Entry)| {
            let ours = written.index.entry(name)?;
            let old = &theirs.name;
            if (ours.dtype, &ours.shape, ours.len) != (theirs.dtype, &theirs.shape, theirs.len) {
                let (ours, theirs) =
                    (format!("{} {:?}", ours.dtype, ours.shape), format!("{} {:?}", theirs.dtype, theirs.shape));
                return Err(differs(format!("tensor {name} is {ours}, {old} of the source is {theirs}")));
            }
            for offset in (0..ours.len).step_by(CHUNK as usize) {
                interrupt.check()?;
                let [left, right] = buffers;
                right.resize(CHUNK.min(ours.len - offset) as usize, 0);
                self.source().read_range(theirs, offset, right)?;
                if let Some(at) = difference(&written.index, ours, offset, right, left)? {
                    return Err(differs(format!("tensor {name} differs from {old} of the source at byte {at}")));
                }
                progress.advance(right.len() as u64);
            }
            Ok(())
        };
        copied.par_iter().try_for_each_init(<[Vec<u8>; 2]>::default, |buffers, pair| compare(buffers, pair))?;
        let (mut last, mut buffer) = (None, Vec::new());
        for slot in slots().filter(|slot| !matches!(self.tensors.get(&slot.name), Some(Made::Copied(_)))) {
            let Slot { name, dtype, shape } = slot;
            let ours = written.index.entry(name)?;
            if (ours.dtype, &ours.shape) != (*dtype, shape) {
                let (ours, decided) = (format!("{} {:?}", ours.dtype, ours.shape), format!("{dtype} {shape:?}"));
                return Err(differs(format!("tensor {name} is {ours}, {decided} was decided")));
            }
            self.compute(slot, 0..u64::MAX, &mut last, &mut |begin, bytes| {
                interrupt::check()?;
                if let Some(at) = difference(&written.index, ours, begin, bytes, &mut buffer)? {
                    return Err(differs(format!("tensor {name} differs from what is computed at byte {at}")));
                }
                progress.advance(bytes.len() as u64);
                Ok(())
            })?;
        }
        progress.end();
        let bytes = copied.iter().map(|(_, entry)| entry.len).sum();
        Ok(Identical { tensors: copied.len(), bytes })
    }
}

/// The first byte of the tensor `entry` that is not what `bytes`, which begin at its byte `offset`, say it is.
fn difference(index: &Index, entry: &Entry, offset: u64, bytes: &[u8], buffer: &mut Vec<u8>) -> Result<Option<u64>> {
    buffer.resize(bytes.len(), 0);
    index.read_range(entry, offset, buffer)?;
    if buffer.as_slice() == bytes {
        return Ok(None);
    }
    Ok(buffer.iter().zip(bytes).position(|(a, b)| a != b).map(|at| at as u64 + offset))
}
