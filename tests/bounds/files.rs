//! Files that are small and say that they are large.

use std::fs::{self, File};
use std::io::Write;
use std::path::Path;
use std::sync::Arc;

use flate2::Compression;
use flate2::write::GzEncoder;
use parquet::basic::{Compression as Pages, ZstdLevel};
use parquet::data_type::{ByteArray, ByteArrayType};
use parquet::file::properties::WriterProperties;
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::parser::parse_message_type;
use serde_json::{Map, Value, json};

/// Bytes that the middle of a file unpacks to.
const MUCH: usize = 96 << 20;

fn member(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// A beginning, a middle again and again, and an end: gzip in several members.
pub(crate) fn gzip(path: &Path, [begin, middle, end]: &[&[u8]; 3]) {
    gzip_of(path, [begin, middle, end], MUCH);
}

/// [`gzip`] whose middle unpacks to `length` bytes, about.
pub(crate) fn gzip_of(path: &Path, [begin, middle, end]: [&[u8]; 3], length: usize) {
    let piece = middle.repeat((4 << 20) / middle.len());
    let packed = member(&piece).repeat(length / piece.len());
    fs::write(path, [member(begin), packed, member(end)].concat()).unwrap();
}

/// The same by the ending of the name, zstd or bzip2.
pub(crate) fn pack(path: &Path, begin: &[u8], middle: &[u8]) {
    let file = File::create(path).unwrap();
    let middle = middle.repeat((1 << 20) / middle.len());
    let write = |writer: &mut dyn Write| {
        writer.write_all(begin).unwrap();
        (0..64).for_each(|_| writer.write_all(&middle).unwrap());
        writer.write_all(begin).unwrap();
    };
    if path.extension().is_some_and(|ending| ending == "zst") {
        let mut encoder = zstd::stream::write::Encoder::new(file, 1).unwrap();
        write(&mut encoder);
        encoder.finish().unwrap();
    } else {
        let mut encoder = bzip2::write::BzEncoder::new(file, bzip2::Compression::fast());
        write(&mut encoder);
        encoder.finish().unwrap();
    }
}

/// A frame whose reader has to keep two to the `log` bytes: RFC 8878, 3.1.1, with one raw block.
pub(crate) fn zstd_of_window(path: &Path, row: &[u8], log: u8) {
    let mut frame = vec![0x28, 0xb5, 0x2f, 0xfd, 0, (log - 10) << 3];
    frame.extend(&(((row.len() as u32) << 3) | 1).to_le_bytes()[..3]);
    frame.extend(row);
    fs::write(path, frame).unwrap();
}

/// One stored chunk behind a dictionary of `bits`, by the formula of xz-file-format 1.2.1, 5.3.1: 28 is 64 MiB.
pub(crate) fn xz_of_dictionary(row: &[u8], bits: u8) -> Vec<u8> {
    let crc = |bytes: &[u8]| {
        let mut crc = flate2::Crc::new();
        crc.update(bytes);
        crc.sum().to_le_bytes()
    };
    let (row_len, flags) = (row.len() as u8, [0, 1]);
    assert!(row.len() < 128);
    let mut stream = [b"\xfd7zXZ\0".as_slice(), &flags, &crc(&flags)].concat();
    let start = stream.len();
    let header = [2, 0, 0x21, 1, bits, 0, 0, 0];
    stream.extend([header.as_slice(), &crc(&header), &[1, 0, row_len - 1], row, &[0]].concat());
    let unpadded = stream.len() - start + 4;
    stream.resize(stream.len().next_multiple_of(4), 0);
    stream.extend(crc(row));
    let mut index = vec![0, 1, unpadded as u8, row_len];
    assert!(unpadded < 128);
    index.resize(index.len().next_multiple_of(4), 0);
    let footer = [(index.len() as u32 / 4).to_le_bytes().as_slice(), &flags].concat();
    [stream, index.clone(), crc(&index).to_vec(), crc(&footer).to_vec(), footer, b"YZ".to_vec()].concat()
}

/// Texts in pages of their own, or through a dictionary.
pub(crate) fn parquet(path: &Path, texts: impl Iterator<Item = String>, has_dictionary: bool) {
    let properties = WriterProperties::builder()
        .set_compression(Pages::ZSTD(ZstdLevel::try_new(1).unwrap()))
        .set_dictionary_enabled(has_dictionary)
        .set_dictionary_page_size_limit(1 << 30)
        .set_statistics_enabled(parquet::file::properties::EnabledStatistics::None)
        .build();
    let schema = Arc::new(parse_message_type("message m { required binary text (utf8); }").unwrap());
    let mut writer = SerializedFileWriter::new(File::create(path).unwrap(), schema, Arc::new(properties)).unwrap();
    let mut group = writer.next_row_group().unwrap();
    let mut column = group.next_column().unwrap().unwrap();
    for text in texts {
        column.typed::<ByteArrayType>().write_batch(&[ByteArray::from(text.as_str())], None, None).unwrap();
    }
    column.close().unwrap();
    group.close().unwrap();
    writer.close().unwrap();
}

/// Adds empty tensors to a safetensors file.
pub(crate) fn more_tensors(path: &Path, count: usize) {
    let bytes = fs::read(path).unwrap();
    let length = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let mut header: Map<String, Value> = serde_json::from_slice(&bytes[8..8 + length]).unwrap();
    let (data, end) = (&bytes[8 + length..], bytes.len() - 8 - length);
    let empty = json!({"dtype": "F32", "shape": [0], "data_offsets": [end, end]});
    header.extend((0..count).map(|tensor| (format!("strange.{tensor}.weight"), empty.clone())));
    let header = serde_json::to_vec(&header).unwrap();
    fs::write(path, [(header.len() as u64).to_le_bytes().as_slice(), &header, data].concat()).unwrap();
}
