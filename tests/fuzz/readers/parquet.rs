//! Parquet: the footer, the headers of pages, the pages.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use parquet::basic::Compression;
use parquet::data_type::{BoolType, ByteArray, ByteArrayType, Int64Type};
use parquet::file::properties::{WriterProperties, WriterVersion};
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::parser::parse_message_type;
use rand::Rng as _;

use super::super::bytes;
use super::{Feed, rows};

const SCHEMA: &str = "message m {
    required binary text (utf8);
    optional binary raw;
    required group choices (list) { repeated group list { optional binary element (utf8); } }
    required boolean answer;
    optional int64 idx;
}";

/// Two row groups of two rows.
fn file(compression: Compression, version: WriterVersion, dictionary: bool) -> Vec<u8> {
    let properties = WriterProperties::builder().set_compression(compression).set_writer_version(version);
    let properties = properties.set_dictionary_enabled(dictionary).set_bloom_filter_enabled(dictionary).build();
    let schema = Arc::new(parse_message_type(SCHEMA).unwrap());
    let mut bytes = Vec::new();
    let mut writer = SerializedFileWriter::new(&mut bytes, schema, Arc::new(properties)).unwrap();
    for _ in 0..2 {
        let mut columns = writer.next_row_group().unwrap();
        let strings = |texts: &[&str]| texts.iter().map(|text| ByteArray::from(*text)).collect::<Vec<_>>();
        let mut column = columns.next_column().unwrap().unwrap();
        column.typed::<ByteArrayType>().write_batch(&strings(&["one two", "é"]), None, None).unwrap();
        column.close().unwrap();
        let mut column = columns.next_column().unwrap().unwrap();
        column.typed::<ByteArrayType>().write_batch(&strings(&["b"]), Some(&[1, 0]), None).unwrap();
        column.close().unwrap();
        let mut column = columns.next_column().unwrap().unwrap();
        let (levels, repeats) = (Some(&[2, 2, 0][..]), Some(&[0, 1, 0][..]));
        column.typed::<ByteArrayType>().write_batch(&strings(&["A", "B"]), levels, repeats).unwrap();
        column.close().unwrap();
        let mut column = columns.next_column().unwrap().unwrap();
        column.typed::<BoolType>().write_batch(&[true, false], None, None).unwrap();
        column.close().unwrap();
        let mut column = columns.next_column().unwrap().unwrap();
        column.typed::<Int64Type>().write_batch(&[-5], Some(&[0, 1]), None).unwrap();
        column.close().unwrap();
        columns.close().unwrap();
    }
    writer.close().unwrap();
    bytes
}

/// A parquet file.
pub(super) fn parquet(dir: &Path) -> Feed {
    let path = dir.join("a.parquet");
    let (one, two) = (WriterVersion::PARQUET_1_0, WriterVersion::PARQUET_2_0);
    let zstd = Compression::ZSTD(Default::default());
    let good = [
        file(Compression::UNCOMPRESSED, one, true),
        file(Compression::UNCOMPRESSED, two, false),
        file(Compression::SNAPPY, one, false),
        file(Compression::GZIP(Default::default()), two, true),
        file(zstd, one, true),
        file(Compression::LZ4_RAW, two, false),
        file(Compression::BROTLI(Default::default()), one, false),
    ];
    Box::new(move |case| {
        let mut bytes = good[case.rng.random_range(0..good.len())].clone();
        let end = bytes.len() - 8;
        let footer = u32::from_le_bytes(bytes[end..end + 4].try_into().unwrap()) as usize;
        match case.rng.random_range(0..5) {
            // the footer, its length put right
            0..3 => {
                let mut thrift = bytes[end - footer..end].to_vec();
                bytes::change(&mut case.rng, &mut thrift, &[]);
                bytes.truncate(end - footer);
                let length = (thrift.len() as u32).to_le_bytes();
                bytes.extend([&thrift[..], &length, b"PAR1"].concat());
            }
            // the pages, nothing moved
            3 => {
                for _ in 0..case.rng.random_range(1..4) {
                    let at = case.rng.random_range(4..end - footer);
                    bytes[at] = case.rng.random();
                }
            }
            _ => bytes::change(&mut case.rng, &mut bytes, &[]),
        }
        fs::write(&path, bytes).unwrap();
        rows::read(case, &path);
    })
}
