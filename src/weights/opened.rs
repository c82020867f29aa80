//! A checkpoint that is not written: its computed tensors are computed when they are read.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use super::blueprint::{Blueprint, LastParts, Made};
use crate::checkpoint::{Checkpoint, Computed, Slot, parse_json};
use crate::{Error, Result};

impl Blueprint {
    /// The checkpoint that [`Blueprint::write`] would write, every tensor byte for byte: what is copied is read where
    /// it is, what is computed is computed whenever it is read. A model runs it; its side files are the source's, and
    /// no file says what it is.
    ///
    /// # Errors
    /// Work: a config that is none; the system has no more room for open files.
    pub fn open(self: &Arc<Self>) -> Result<Checkpoint> {
        let config =
            parse_json(self.config().as_bytes()).map_err(|error| Error::work(format!("config.json: {error}")))?;
        let last = Arc::new(Mutex::new(Last::default()));
        let slots = self.shards().shards.iter().flat_map(|shard| &shard.slots);
        let computed = slots.filter(|slot| !matches!(self.tensors.get(&slot.name), Some(Made::Copied(_))));
        let computed = computed.map(|slot| {
            let tensor = Unwritten { blueprint: self.clone(), slot: slot.clone(), last: last.clone() };
            (slot.clone(), Arc::new(tensor) as Arc<dyn Computed>)
        });
        let index = self.source().index.with_computed(self.copied(), computed)?;
        Ok(Checkpoint {
            source: self.source().source.clone(),
            config,
            leftover: None,
            index,
            gguf: None,
            quantized: None,
        })
    }
}

/// What was computed last.
#[derive(Default)]
struct Last {
    parts: LastParts,
    /// A piece of numbers of which only some were asked for: the next reader asks for those beside them.
    piece: Option<Arc<Piece>>,
}

/// Bytes of a tensor from `begin` on.
struct Piece {
    name: String,
    begin: u64,
    bytes: Vec<u8>,
}

/// A computed tensor.
struct Unwritten {
    blueprint: Arc<Blueprint>,
    slot: Slot,
    last: Arc<Mutex<Last>>,
}

impl fmt::Debug for Unwritten {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Unwritten({})", self.slot.name)
    }
}

impl Computed for Unwritten {
    fn read_at(&self, offset: u64, bytes: &mut [u8]) -> Result<()> {
        let end = offset + bytes.len() as u64;
        // the lock is not held while anything is computed: whoever computes may take up another reader's work meanwhile
        let (mut parts, piece) = {
            let last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
            (last.parts.clone(), last.piece.clone())
        };
        if let Some(piece) = piece.filter(|piece| piece.name == self.slot.name) {
            let begin = offset.checked_sub(piece.begin).and_then(|begin| usize::try_from(begin).ok());
            if let Some(found) = begin.and_then(|begin| piece.bytes.get(begin..)?.get(..bytes.len())) {
                bytes.copy_from_slice(found);
                return Ok(());
            }
        }
        let mut piece = None;
        self.blueprint.compute(&self.slot, offset..end, &mut parts, &mut |at, computed| {
            let after = at + computed.len() as u64;
            let (from, to) = (at.max(offset), after.min(end));
            if from < to {
                let found = &computed[(from - at) as usize..(to - at) as usize];
                bytes[(from - offset) as usize..(to - offset) as usize].copy_from_slice(found);
            }
            if from > at || to < after {
                piece = Some(Arc::new(Piece { name: self.slot.name.clone(), begin: at, bytes: computed.to_vec() }));
            }
            Ok(())
        })?;
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        last.parts = parts;
        if piece.is_some() {
            last.piece = piece;
        }
        Ok(())
    }
}
