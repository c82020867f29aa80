//! SHA-256 of files, for the provenance of what is made from them.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::{Path, PathBuf};

use rayon::prelude::*;
use sha2::{Digest, Sha256};

use super::fingerprint::hex;
use super::index::Index;
use super::overlay::Held;
use crate::progress::{Progress, Unit};
use crate::{Error, Result, files, interrupt};

/// Bytes hashed at a time.
const CHUNK: usize = 1 << 20;

impl Index {
    /// SHA-256 of every shard by file name, in hexadecimal. Shards are hashed side by side, a megabyte at a time.
    ///
    /// # Errors
    /// Work: a file cannot be read. Interrupted.
    pub fn shard_hashes(&self, progress: &dyn Progress) -> Result<BTreeMap<String, String>> {
        progress.begin("hashing", self.files.iter().map(Held::file_len).sum(), Unit::Bytes);
        let interrupt = interrupt::current();
        let shards: Vec<&PathBuf> = self.stored().collect();
        let hashes = shards.into_par_iter().map(|path| {
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            Ok((name, interrupt.run(|| sha256(path, progress))?))
        });
        let hashes = hashes.collect::<Result<_>>()?;
        progress.end();
        Ok(hashes)
    }
}

/// SHA-256 of `bytes`, in hexadecimal.
pub(crate) fn bytes_hash(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

/// SHA-256 of the file at `path`, in hexadecimal; advances `progress` by the bytes read.
///
/// # Errors
/// Request: no such file. Work: it cannot be read. Interrupted.
pub fn sha256(path: &Path, progress: &dyn Progress) -> Result<String> {
    let at = |error: std::io::Error| Error::io(path, &error);
    let (mut file, mut sum, mut chunk) = (files::open(path)?.0, Sha256::new(), vec![0; CHUNK]);
    loop {
        interrupt::check()?;
        match file.read(&mut chunk).map_err(at)? {
            0 => return Ok(hex(&sum.finalize())),
            read => {
                sum.update(&chunk[..read]);
                progress.advance(read as u64);
            }
        }
    }
}
