//! Headers and indexes mutated thousands of times: each is opened or refused, none panics, and what opens can be read
//! to its last byte.

use std::fs;
use std::path::Path;

use proptest::prelude::*;
use prune::checkpoint::Checkpoint;
use tempfile::{TempDir, tempdir};

use crate::fixture::Llama;

const INDEX: &str = "model.safetensors.index.json";

/// One change of a file: bytes overwritten, cut out, doubled, or put in.
#[derive(Clone, Debug)]
enum Change {
    Overwrite(u16, u8),
    Remove(u16, u8),
    Repeat(u16, u8),
    Insert(u16, &'static str),
    Truncate(u16),
}

fn change() -> impl Strategy<Value = Change> {
    let piece = prop::sample::select(vec![
        "\"",
        "{",
        "}",
        "[",
        "]",
        ",",
        ":",
        "0",
        "-1",
        "99999999999999999999",
        "null",
        "../",
        "\\u0000",
        "\"F64\"",
        "1e9",
        "\"__metadata__\":{},",
        "18446744073709551615",
        "\"BOOL\"",
        "\"F4\"",
    ]);
    prop_oneof![
        (any::<u16>(), any::<u8>()).prop_map(|(at, byte)| Change::Overwrite(at, byte)),
        (any::<u16>(), any::<u8>()).prop_map(|(at, len)| Change::Remove(at, len)),
        (any::<u16>(), any::<u8>()).prop_map(|(at, len)| Change::Repeat(at, len)),
        (any::<u16>(), piece).prop_map(|(at, piece)| Change::Insert(at, piece)),
        any::<u16>().prop_map(Change::Truncate),
    ]
}

fn apply(change: &Change, bytes: &mut Vec<u8>) {
    let (len, at) = match change {
        Change::Overwrite(at, _) | Change::Remove(at, _) | Change::Repeat(at, _) => (bytes.len(), *at),
        Change::Insert(at, _) | Change::Truncate(at) => (bytes.len() + 1, *at),
    };
    if len == 0 {
        return;
    }
    let at = at as usize % len;
    let end = |count: u8| (at + count as usize % 16).min(bytes.len());
    match *change {
        Change::Overwrite(_, byte) => bytes[at] = byte,
        Change::Remove(_, count) => drop(bytes.drain(at..end(count))),
        Change::Repeat(_, count) => {
            let piece = bytes[at..end(count)].to_vec();
            drop(bytes.splice(at..at, piece));
        }
        Change::Insert(_, piece) => drop(bytes.splice(at..at, piece.bytes())),
        Change::Truncate(_) => bytes.truncate(at),
    }
}

fn small(shards: usize) -> TempDir {
    let dir = tempdir().unwrap();
    Llama { layers: 1, vocab: 4, shards, ..Llama::default() }.write(dir.path());
    dir
}

/// Refused in one line, or readable throughout.
fn opens_or_says_why(dir: &Path) {
    match Checkpoint::open_dir(dir) {
        Ok(checkpoint) => {
            for entry in checkpoint.tensors.values() {
                assert_eq!(checkpoint.read(entry).unwrap().len() as u64, entry.len);
                // a shape that fits its bytes may still be of a dtype that is not computed with
                drop(checkpoint.load_f32(&entry.name, &entry.shape, &candle_core::Device::Cpu));
            }
            assert_eq!(checkpoint.fingerprint().len(), 64);
        }
        Err(error) => assert!(!error.to_string().contains('\n'), "{error}"),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn header(changes in prop::collection::vec(change(), 1..4), fix_length in any::<bool>()) {
        thread_local!(static DIR: (TempDir, Vec<u8>) = {
            let dir = small(1);
            let bytes = fs::read(dir.path().join("model.safetensors")).unwrap();
            (dir, bytes)
        });
        DIR.with(|(dir, good)| {
            let header_len = u64::from_le_bytes(good[..8].try_into().unwrap()) as usize;
            let mut header = good[..8 + header_len].to_vec();
            for change in &changes {
                apply(change, &mut header);
            }
            if fix_length && header.len() >= 8 {
                let len = (header.len() - 8) as u64;
                header[..8].copy_from_slice(&len.to_le_bytes());
            }
            header.extend_from_slice(&good[8 + header_len..]);
            fs::write(dir.path().join("model.safetensors"), header).unwrap();
            opens_or_says_why(dir.path());
        });
    }

    #[test]
    fn index(changes in prop::collection::vec(change(), 1..4)) {
        thread_local!(static DIR: (TempDir, Vec<u8>) = {
            let dir = small(2);
            let bytes = fs::read(dir.path().join(INDEX)).unwrap();
            (dir, bytes)
        });
        DIR.with(|(dir, good)| {
            let mut index = good.clone();
            for change in &changes {
                apply(change, &mut index);
            }
            fs::write(dir.path().join(INDEX), index).unwrap();
            opens_or_says_why(dir.path());
        });
    }
}
