//! Files that are none, or broken: one line each, with the file and what is wrong.

use std::fs;

use prune::checkpoint::Checkpoint;

use crate::fixture::gguf::{Gguf, list, plain, text};

fn fault(bytes: &[u8]) -> (u8, String) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.gguf");
    fs::write(&path, bytes).unwrap();
    let error = Checkpoint::open_dir(&path).unwrap_err();
    let message = error.to_string();
    assert!(message.contains("x.gguf") && !message.contains('\n') && message.len() < 400, "{message}");
    (error.exit_code(), message.split_once("x.gguf: ").unwrap().1.to_owned())
}

#[test]
fn what_is_wrong_is_said_in_a_line() {
    let good = || plain("gpt2", 2);
    let claim = |at: usize, count: u64| {
        let mut file = good();
        file.claims[at] = Some(count);
        file
    };
    let with = |change: fn(&mut Gguf)| {
        let mut file = good();
        change(&mut file);
        file
    };
    let pair = |kind: u32, bytes: Vec<u8>| {
        let mut file = good();
        file.pairs.push(("x".to_owned(), kind, bytes));
        file
    };
    let huge = (1_u64 << 63).to_le_bytes().to_vec();
    for (file, expected) in [
        (with(|file| file.magic = *b"GGML"), "not a GGUF file"),
        (with(|file| file.version = 1), "version 1 is not read"),
        (with(|file| file.version = 3_u32.swap_bytes()), "big-endian"),
        (claim(0, 1 << 40), "claims 1099511627776 tensors"),
        (claim(1, u64::MAX), "claims 18446744073709551615 pairs"),
        (claim(0, 5000), "the whole file has"),
        (claim(1, 300), "x.gguf"),
        (pair(8, huge.clone()), "x: it claims 9223372036854775808 bytes"),
        (pair(9, [&8_u32.to_le_bytes()[..], &huge].concat()), "an array of 9223372036854775808 values"),
        (pair(9, [&10_u32.to_le_bytes()[..], &huge].concat()), "an array of 9223372036854775808 values"),
        (pair(13, Vec::new()), "type 13 of a value is not known"),
        (pair(9, list(9, &[list(9, &[list(9, &[list(9, &[list(9, &[])])])])])), "more than 4 arrays"),
        (good().u32("general.file_type", 2), "the key general.file_type stands there twice"),
        (good().u32("general.alignment", 0), "general.alignment is 0"),
        (good().u32("general.alignment", 24), "general.alignment is 24"),
        (good().numbers("token_embd.weight", &[4]), "the tensor token_embd.weight stands there twice"),
        (good().tensor("a", &[32], 99, vec![0; 32]), "tensor a is stored as type 99, which is not known"),
        (good().tensor("a", &[33], 2, vec![0; 18]), "tensor a of [33] cannot be stored as Q4_0"),
        (good().tensor("a", &[0], 0, vec![]), "tensor a of [0] cannot be stored as F32"),
        (good().tensor("a", &[1 << 40, 1 << 40], 0, vec![]), "cannot be stored as F32"),
        (good().tensor("a", &[1 << 61], 0, vec![]), "cannot be stored as F32"),
        (good().tensor("a", &[2; 5], 0, vec![0; 128]), "tensor a has 5 dimensions"),
        (good().tensor("a", &[64], 0, vec![0; 8]), "beyond the file's"),
        (with(|file| file.tensors[1].offset = Some(0)), "lie in each other"),
        (with(|file| file.tensors[1].offset = Some(7)), "no multiple of 32"),
        (with(|file| file.tensors[1].offset = Some(u64::MAX - 31)), "beyond the file's"),
        (with(|file| file.pairs.retain(|(key, ..)| key != "general.architecture")), "general.architecture is missing"),
        (with(|file| file.pairs.retain(|(key, ..)| key != "gpt2.block_count")), "gpt2.block_count is missing"),
    ] {
        let bytes = file.bytes();
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.gguf");
        fs::write(&path, &bytes).unwrap();
        let message = Checkpoint::open_dir(&path).expect_err(expected).to_string();
        assert!(message.contains(expected) && message.contains("x.gguf") && !message.contains('\n'), "{message}");
    }
    assert_eq!(fault(b"GGUF").1, "not a GGUF file: 4 bytes are too few for a header");
    let odd = text("x").into_iter().map(|byte| if byte == b'x' { 0xff } else { byte }).collect();
    let mut file = good();
    file.pairs.push(("general.name".to_owned(), 8, odd));
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("x.gguf"), file.bytes()).unwrap();
    // a text that nothing asks for may be broken
    Checkpoint::open_dir(&dir.path().join("x.gguf")).unwrap();
}

#[test]
fn every_truncation_is_refused() {
    let bytes = plain("gpt2", 2).bytes();
    for len in (0..bytes.len() - 512).step_by(7) {
        fault(&bytes[..len]);
    }
}

#[test]
fn files_of_several_belong_together() {
    let dir = tempfile::tempdir().unwrap();
    let whole = plain("gpt2", 2);
    let part = |number: u16, tensors: std::ops::Range<usize>| {
        let mut file = if number == 0 { whole.clone() } else { Gguf::default() };
        file.pairs.push(("split.no".to_owned(), 2, number.to_le_bytes().to_vec()));
        file.pairs.push(("split.count".to_owned(), 2, 2_u16.to_le_bytes().to_vec()));
        file.tensors = whole.tensors[tensors].to_vec();
        file
    };
    let at = |number: u32| dir.path().join(format!("m-{number:05}-of-00002.gguf"));
    fs::write(at(1), part(0, 0..3).bytes()).unwrap();
    let message = |path: &std::path::Path| Checkpoint::open_dir(path).unwrap_err().to_string();
    assert!(message(&at(1)).contains("m-00002-of-00002.gguf is missing"));
    fs::write(at(2), part(1, 3..7).bytes()).unwrap();
    assert!(message(&at(2)).contains("name the first"));
    let both = Checkpoint::open_dir(&at(1)).unwrap();
    assert_eq!(both.tensors.len(), whole.tensors.len());
    // the directory that holds them says the same
    assert_eq!(Checkpoint::open_dir(dir.path()).unwrap().tensors, both.tensors);
    fs::write(at(2), part(5, 3..7).bytes()).unwrap();
    assert!(message(&at(1)).contains("split.no is 5, expected 1"));
    fs::write(at(2), part(1, 2..7).bytes()).unwrap();
    assert!(message(&at(1)).contains("is in another file too"));
    fs::write(at(2), part(1, 3..7).bytes()).unwrap();
    fs::write(dir.path().join("other.gguf"), whole.bytes()).unwrap();
    assert!(message(dir.path()).contains("holds 2 GGUF models"));
}
