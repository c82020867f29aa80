//! Proof that a written cut is what it should be.

use rayon::prelude::*;
use serde::Serialize;

use super::Cut;
use crate::checkpoint::{Checkpoint, parse_json};
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

impl Cut<'_> {
    /// Compares `written` with the source, every kept tensor byte for byte, and its config with the decided one.
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
        if let Some(name) = written.index.tensors.keys().find(|name| self.origin(name).is_none()) {
            return Err(differs(format!("tensor {name} should not be there")));
        }
        progress.begin("verifying", self.bytes().after, Unit::Bytes);
        let tensors: Vec<(&str, &str)> = self.tensors().collect();
        let source = &self.source().index;
        let interrupt = interrupt::current();
        let compare = |buffers: &mut [Vec<u8>; 2], (new, old): &(&str, &str)| {
            let (ours, theirs) = (written.index.entry(new)?, source.entry(old)?);
            if (ours.dtype, &ours.shape, ours.len) != (theirs.dtype, &theirs.shape, theirs.len) {
                let (ours, theirs) =
                    (format!("{} {:?}", ours.dtype, ours.shape), format!("{} {:?}", theirs.dtype, theirs.shape));
                return Err(differs(format!("tensor {new} is {ours}, {old} of the source is {theirs}")));
            }
            for offset in (0..ours.len).step_by(CHUNK as usize) {
                interrupt.check()?;
                let len = CHUNK.min(ours.len - offset) as usize;
                let [left, right] = buffers;
                left.resize(len, 0);
                right.resize(len, 0);
                written.index.read_range(ours, offset, left)?;
                source.read_range(theirs, offset, right)?;
                if left != right {
                    let at = left.iter().zip(right.iter()).position(|(a, b)| a != b).unwrap_or(0) as u64 + offset;
                    return Err(differs(format!("tensor {new} differs from {old} of the source at byte {at}")));
                }
                progress.advance(len as u64);
            }
            Ok(())
        };
        tensors.par_iter().try_for_each_init(<[Vec<u8>; 2]>::default, |buffers, pair| compare(buffers, pair))?;
        progress.end();
        Ok(Identical { tensors: tensors.len(), bytes: self.bytes().after })
    }
}
