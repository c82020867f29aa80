//! Compressed files: whole ones of broken texts, broken ones, and some that say more than they are.

use std::fs;
use std::io::Write;
use std::path::Path;

use rand::Rng as _;

use super::super::bytes;
use super::super::case::Rng;
use super::{Feed, rows};

const ENDINGS: [&str; 4] = ["gz", "zst", "bz2", "xz"];

/// Such a text as the `xz` tool packs it.
const XZ: &[u8] =
    b"\xfd7zXZ\x00\x00\x01i\x22\xde6\x02\x00!\x01\x08\x00\x00\x00\xd8\x0f#\x13\xe0\x01\xc4\x00s]\x00=\x88\
    \x8a\x86\x94\x88\x13\xe0\xf3\x87$\xba{;\x96\xde\x8a\x8cl\x1a=\x81\x81\xae!T\xddl\xd89\xf2o\xe6\x96\
    \xc4\xef7\x90\xd7\xb3\xc3`\x972\xaaa\xd7\xf2>\xac\xccm\xe7\x1d\x8b|\xd7\xe2T\xd3\xe3\x09\xb9GRX\x13\
    \xd5\xd8\x9e\xd92~\xbf\x0e^\xb5\xbeV\xa9\xa5\xe0\xbe\xa6R\x07\xaf<\xa6\xdd?n\xacPc\xbe\x91h\xafn\x91\
    \xc7\xd0\xaa\x9ei\x5c\x85UVCk\xa0w\xa0\x00\x00#\x90<\xa4\x00\x01\x8b\x01\xc5\x03\x00\x00\x1b\xb9\x97\
    \xc9>0\x0d\x8b\x02\x00\x00\x00\x00\x01YZ";

fn packed(ending: &str, text: &[u8]) -> Vec<u8> {
    match ending {
        "gz" => {
            let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
            encoder.write_all(text).unwrap();
            encoder.finish().unwrap()
        }
        "zst" => zstd::stream::encode_all(text, 1).unwrap(),
        "bz2" => {
            let mut encoder = bzip2::write::BzEncoder::new(Vec::new(), bzip2::Compression::fast());
            encoder.write_all(text).unwrap();
            encoder.finish().unwrap()
        }
        // whatever the text: its encoder is no part of the program
        _ => XZ.to_vec(),
    }
}

/// A text that packs well.
fn text(rng: &mut Rng) -> Vec<u8> {
    let line = |at: usize| format!("{{\"text\": \"w{} {}\", \"answer\": {at}}}\n", at * at, "ab ".repeat(at % 7));
    let mut text = (0..rng.random_range(1..60)).map(line).collect::<String>().into_bytes();
    match rng.random_range(0..60) {
        // a small file of one long line, or of many empty ones
        0 => text.extend("a".repeat(3 << 20).bytes()),
        1 => text.extend("\n".repeat(3 << 20).bytes()),
        2..20 => bytes::change(rng, &mut text, &[]),
        _ => {}
    }
    text
}

/// gzip, zstd, bzip2, xz, by whatever name.
pub(super) fn packed_files(dir: &Path) -> Feed {
    let dir = dir.to_owned();
    Box::new(move |case| {
        let ending = case.pick(&ENDINGS);
        let text = text(&mut case.rng);
        let mut bytes = packed(ending, &text);
        if case.rng.random_ratio(1, 4) {
            let second = packed(case.pick(&ENDINGS), &text[..text.len() / 2]);
            bytes.extend(second);
        }
        if case.rng.random_ratio(4, 5) {
            // most of what a decoder believes stands at the beginning and at the end
            match case.rng.random_range(0..3) {
                0 => {
                    let mut head = bytes.drain(..bytes.len().min(24)).collect::<Vec<u8>>();
                    bytes::change(&mut case.rng, &mut head, &[]);
                    bytes.splice(0..0, head);
                }
                1 => {
                    let mut tail = bytes.split_off(bytes.len().saturating_sub(24));
                    bytes::change(&mut case.rng, &mut tail, &[]);
                    bytes.extend(tail);
                }
                _ => bytes::change(&mut case.rng, &mut bytes, &[]),
            }
        }
        let named = if case.is_one_in(8) { case.pick(&["gz", "zst", "bz2", "xz"]) } else { ending };
        let format = case.pick(&["jsonl", "jsonl", "json", "csv", "txt"]);
        let path = dir.join(format!("a.{format}.{named}"));
        fs::write(&path, bytes).unwrap();
        rows::read(case, &path);
        fs::remove_file(&path).unwrap();
    })
}
