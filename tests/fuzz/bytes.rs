//! Changes of bytes, whatever they mean.

use rand::Rng as _;

use super::case::Rng;

/// What texts are broken with.
pub(super) const WORDS: &[&str] = &[
    "\"",
    "'",
    "{",
    "}",
    "[",
    "]",
    ",",
    ":",
    "\\",
    "\n",
    "\r\n",
    "\r",
    "\t",
    " ",
    "\0",
    "\u{1b}[31m",
    "\u{202e}",
    "\u{feff}",
    "é",
    "😀",
    "0",
    "-1",
    "-0",
    "1e9",
    "1e999",
    "1e-400",
    "0.1",
    "18446744073709551615",
    "18446744073709551616",
    "-9223372036854775808",
    "99999999999999999999",
    "null",
    "true",
    "NaN",
    "-Infinity",
    "Infinity",
    "../",
    "/etc/passwd",
    "~",
    "\\u0000",
    "\\ud800",
    "\\u202e",
    "\"\"",
    "{}",
    "[]",
    "[[",
    "#",
    "=",
    "\"\"\"",
    "//",
    "%",
    "$",
    "@",
    "*",
    "+",
    ".",
    "\"a\":",
];

/// Numbers at the edges.
const EDGES: &[u64] = &[
    0,
    1,
    2,
    7,
    8,
    127,
    128,
    255,
    256,
    65535,
    65536,
    0x7fff_ffff,
    0x8000_0000,
    0xffff_ffff,
    0x1_0000_0000,
    0x7fff_ffff_ffff_ffff,
    0x8000_0000_0000_0000,
    u64::MAX,
];

/// Some changes; `words` are put in among others.
pub(super) fn change(rng: &mut Rng, bytes: &mut Vec<u8>, words: &[&str]) {
    for _ in 0..1 << rng.random_range(0..3) {
        one(rng, bytes, words);
    }
}

fn one(rng: &mut Rng, bytes: &mut Vec<u8>, words: &[&str]) {
    let at = rng.random_range(0..=bytes.len());
    let end = (at + rng.random_range(1..24)).min(bytes.len());
    let word = |rng: &mut Rng| match rng.random_range(0..40) {
        0 => "[".repeat(5000),
        1 => "a".repeat(3000),
        2 => "\n".repeat(2000),
        3..20 if !words.is_empty() => words[rng.random_range(0..words.len())].to_owned(),
        _ => WORDS[rng.random_range(0..WORDS.len())].to_owned(),
    };
    match rng.random_range(0..10) {
        0 if at < end => bytes[at] = rng.random(),
        1 if at < end => bytes[at] ^= 1 << rng.random_range(0..8),
        2 => drop(bytes.drain(at..end)),
        3 => {
            let piece = bytes[at..end].repeat(rng.random_range(1..20));
            drop(bytes.splice(at..at, piece));
        }
        4 | 5 => drop(bytes.splice(at..at, word(rng).into_bytes())),
        6 => drop(bytes.splice(at..end, word(rng).into_bytes())),
        7 => bytes.truncate(at),
        8 => {
            let number = EDGES[rng.random_range(0..EDGES.len())].to_le_bytes();
            let number = &number[..1 << rng.random_range(0..4)];
            let end = (at + number.len()).min(bytes.len());
            bytes[at..end].copy_from_slice(&number[..end - at]);
        }
        _ => {
            let from = rng.random_range(0..=bytes.len() - (end - at));
            bytes.copy_within(at..end, from);
        }
    }
}
