//! What files are, told by their bytes: the identity of what a run reads.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use rayon::prelude::*;
use sha2::{Digest, Sha256};

use super::fingerprint::hex;
use super::positioned::read_exact_at;
use crate::progress::{Progress, Unit};
use crate::{Error, Result, interrupt};

/// Bytes hashed by one thread at a time.
const PIECE: u64 = 4 << 20;

/// Bytes of all files together that are read whole.
const WHOLE: u64 = 8 << 30;

/// Of more than that, a piece in so many is read, beside the first and the last of each file.
const ONE_IN: u64 = 64;

/// One number for the content of `files` in their order, in hexadecimal: SHA-256 over the SHA-256 of each file's
/// pieces, computed on all threads. Names and places do not count: a copy is the same. Of more than 8 GiB a sample is
/// read, and the time of the last change counts too, so that a change between the samples is not missed.
///
/// # Errors
/// Request: a file that is not there. Work: one that cannot be read. Interrupted.
pub(crate) fn content_hash(files: &[PathBuf], progress: &dyn Progress) -> Result<String> {
    let lengths = files.iter().map(|path| {
        let metadata = std::fs::metadata(path).map_err(|error| Error::io(path, &error))?;
        let changed = metadata.modified().ok().and_then(|time| time.duration_since(UNIX_EPOCH).ok());
        Ok((metadata.len(), changed.map_or(0, |time| time.as_nanos())))
    });
    let lengths = lengths.collect::<Result<Vec<_>>>()?;
    let is_whole = lengths.iter().map(|(length, _)| length).sum::<u64>() <= WHOLE;
    sum(files, &lengths, is_whole, progress)
}

fn sum(files: &[PathBuf], lengths: &[(u64, u128)], is_whole: bool, progress: &dyn Progress) -> Result<String> {
    let read = |length: u64| {
        let pieces = length.div_ceil(PIECE);
        (0..pieces).filter(move |piece| is_whole || piece.is_multiple_of(ONE_IN) || piece + 1 == pieces)
    };
    let total =
        lengths.iter().flat_map(|(length, _)| read(*length).map(move |piece| (length - piece * PIECE).min(PIECE)));
    progress.begin("hashing", total.sum(), Unit::Bytes);
    let mut hash = Sha256::new();
    for (path, (length, changed)) in files.iter().zip(lengths) {
        hash.update(length.to_le_bytes());
        if !is_whole {
            hash.update(changed.to_le_bytes());
        }
        let file = File::open(path).map_err(|error| Error::io(path, &error))?;
        let pieces: Vec<u64> = read(*length).collect();
        let interrupt = interrupt::current();
        let sums = pieces.par_iter().map(|piece| {
            interrupt.check()?;
            let begin = piece * PIECE;
            let sum = piece_sum(&file, path, begin, (length - begin).min(PIECE))?;
            progress.advance((length - begin).min(PIECE));
            Ok(sum)
        });
        sums.collect::<Result<Vec<_>>>()?.iter().for_each(|sum| hash.update(sum));
    }
    progress.end();
    Ok(hex(&hash.finalize()))
}

fn piece_sum(file: &File, path: &Path, begin: u64, length: u64) -> Result<[u8; 32]> {
    let mut bytes = vec![0; length as usize];
    read_exact_at(file, &mut bytes, begin).map_err(|error| Error::io(path, &error))?;
    Ok(Sha256::digest(&bytes).into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::progress::Silent;

    #[test]
    fn a_byte_counts_and_a_name_does_not() {
        let dir = tempfile::tempdir().unwrap();
        let mut bytes = vec![7_u8; 3 * PIECE as usize + 11];
        let write = |name: &str, bytes: &[u8]| {
            let path = dir.path().join(name);
            std::fs::write(&path, bytes).unwrap();
            path
        };
        let hash = |paths: &[PathBuf]| content_hash(paths, &Silent).unwrap();
        let (one, copy, short) = (write("a", &bytes), write("b", &bytes), write("c", b"x"));
        assert_eq!(hash(std::slice::from_ref(&one)), hash(&[copy]));
        assert_ne!(hash(&[one.clone(), short.clone()]), hash(&[short, one.clone()]));
        let before = hash(std::slice::from_ref(&one));
        for at in [0, PIECE as usize, bytes.len() - 1] {
            bytes[at] ^= 1;
            assert_ne!(hash(&[write("a", &bytes)]), before, "byte {at}");
            bytes[at] ^= 1;
        }
        assert_eq!(hash(&[write("a", &bytes)]), before);
        assert!(content_hash(&[dir.path().join("none")], &Silent).unwrap_err().to_string().contains("none"));
    }

    #[test]
    fn of_much_a_sample_and_the_time_count() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        std::fs::write(&path, vec![3_u8; 2 * PIECE as usize + 5]).unwrap();
        let length = 2 * PIECE + 5;
        let sum = |changed| sum(std::slice::from_ref(&path), &[(length, changed)], false, &Silent).unwrap();
        assert_ne!(sum(1), sum(2));
        let before = sum(1);
        std::fs::write(&path, [vec![3_u8; 2 * PIECE as usize + 4], vec![4]].concat()).unwrap();
        assert_ne!(sum(1), before, "the last piece is read");
    }
}
