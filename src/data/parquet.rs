//! Parquet: one row group in memory at a time, of the wanted columns only.

use std::fmt::Display;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parquet::file::reader::{FileReader, RowGroupReader, SerializedFileReader};
use parquet::record::reader::{ReaderIter, TreeBuilder};
use parquet::record::{Field, Row as Record};
use parquet::schema::types::{ColumnPath, SchemaDescPtr, SchemaDescriptor, Type};
use serde_json::{Map, Number, Value};

use super::footer;
use super::guard::fenced;
use super::pages::{Group, Left, Watched};
use super::rows::{ReadOptions, Row, RowIter, RowPlace};
use super::value::MOST;
use crate::{Error, Result, files, interrupt};

/// Rows that are read at once.
const BATCH: usize = 256;

/// Bytes of a row, from which on rows are read one by one.
const WIDE: i64 = 1 << 10;

/// Columns that are read at most: each takes some kilobytes of memory.
const COLUMNS: usize = 10_000;

/// Opens a parquet file. Lists become JSON arrays, structs and maps objects; dates and times are the integers that the
/// file stores, decimals strings, byte arrays strings where they are UTF-8.
pub(super) fn open(path: &Path, options: &ReadOptions, bytes: Arc<AtomicU64>) -> Result<RowIter> {
    let (file, left) = (files::open(path)?.0, Arc::new(Left::new(options.longest)));
    let path: Arc<Path> = path.into();
    let watched = Watched { file, left: Arc::clone(&left) };
    let opened = fenced(|| -> parquet::errors::Result<_> {
        footer::check(&watched.file)?;
        let reader = SerializedFileReader::new(watched)?;
        let schema = projected(&reader, options)?;
        Ok((reader, schema))
    });
    let (reader, schema) = settled(opened, &path.display())?;
    Ok(Box::new(Groups { reader, left, schema, path, bytes, group: 0, records: None, number: 0 }))
}

/// The schema of the wanted columns.
fn projected(reader: &SerializedFileReader<Watched>, options: &ReadOptions) -> parquet::errors::Result<SchemaDescPtr> {
    let whole = reader.metadata().file_metadata().schema_descr_ptr();
    let wanted: Vec<_> = whole.root_schema().get_fields().iter().filter(|f| options.wants(f.name())).cloned().collect();
    let root = Type::group_type_builder(whole.root_schema().name()).with_fields(wanted).build()?;
    let schema = SchemaDescriptor::new(Arc::new(root));
    if schema.num_columns() > COLUMNS {
        let fault = format!("{} columns, expected at most {COLUMNS}", schema.num_columns());
        return Err(parquet::errors::ParquetError::General(fault));
    }
    Ok(Arc::new(schema))
}

/// The rows of all row groups, one group after the other.
struct Groups {
    reader: SerializedFileReader<Watched>,
    left: Arc<Left>,
    schema: SchemaDescPtr,
    path: Arc<Path>,
    bytes: Arc<AtomicU64>,
    group: usize,
    records: Option<ReaderIter>,
    number: u64,
}

impl Iterator for Groups {
    type Item = Result<Result<Row>>;

    fn next(&mut self) -> Option<Self::Item> {
        let path = Arc::clone(&self.path);
        let place = RowPlace { path: Arc::clone(&path), unit: "row", number: self.number + 1 };
        match fenced(|| self.next_record().transpose()) {
            Ok(None) => None,
            Ok(Some(Ok(record))) => {
                self.number += 1;
                Some(Ok(Ok(Row { fields: object(record), place })))
            }
            Ok(Some(Err(error))) => Some(settled(Ok(Err(error)), &place)),
            Err(panic) => Some(settled(Err(panic), &place)),
        }
    }
}

impl Groups {
    fn next_record(&mut self) -> parquet::errors::Result<Option<Record>> {
        self.left.refill();
        loop {
            if let Some(record) = self.records.as_mut().and_then(Iterator::next) {
                return record.map(Some);
            }
            if self.group > 0 {
                let read = self.reader.metadata().row_group(self.group - 1).compressed_size();
                self.bytes.fetch_add(u64::try_from(read).unwrap_or(0), Ordering::Relaxed);
            }
            if self.group == self.reader.metadata().num_row_groups() {
                self.records = None;
                return Ok(None);
            }
            let group = self.reader.get_row_group(self.group)?;
            self.group += 1;
            if self.schema.num_columns() == 0 {
                // a tree without leaves asserts; such rows are empty objects, which is all that a caller can be told
                return Ok(Some(Record::new(Vec::new())));
            }
            let group = Group { inner: group, left: Arc::clone(&self.left) };
            let batch = if self.is_wide(&group) { 1 } else { BATCH };
            let records = TreeBuilder::new().with_batch_size(batch).as_iter(Arc::clone(&self.schema), &group)?;
            self.records = Some(records);
        }
    }
}

impl Groups {
    /// Whether the rows of a group are so long that some of them are too much to hold at once. What the file says
    /// wrongly here is found where its pages are counted.
    fn is_wide(&self, group: &Group<'_>) -> bool {
        let wanted = |path: &ColumnPath| self.schema.columns().iter().any(|column| column.path() == path);
        let columns = group.metadata().columns().iter().filter(|column| wanted(column.column_path()));
        let bytes: i64 = columns.map(|column| column.uncompressed_size()).fold(0, i64::saturating_add);
        bytes / group.metadata().num_rows().max(1) > WIDE
    }
}

/// The outcome of fenced work, its faults put behind `place` in one short line.
fn settled<T>(outcome: Result<parquet::errors::Result<T>, String>, place: &dyn Display) -> Result<T> {
    let fault = match outcome {
        Ok(Ok(value)) => return Ok(value),
        Ok(Err(error)) => error.to_string(),
        Err(panic) => panic,
    };
    interrupt::check()?;
    let fault = ["Parquet error: ", "External: "]
        .iter()
        .fold(fault.as_str(), |fault, front| fault.strip_prefix(front).unwrap_or(fault));
    if fault.starts_with("Error reading BYTE_ARRAY as String") {
        // the crate's message goes on with every byte of the string
        return Err(Error::work(format!("{place}: a string column holds bytes that are not UTF-8")));
    }
    let fault: String = fault.lines().next().unwrap_or_default().chars().take(200).collect();
    Err(Error::work(format!("{place}: broken or unusual parquet: {fault}")))
}

fn object(record: Record) -> Map<String, Value> {
    record.into_columns().into_iter().map(|(name, field)| (name, value(field))).collect()
}

fn value(field: Field) -> Value {
    let float = |number: f64| Number::from_f64(number).map_or(Value::Null, Value::Number);
    match field {
        Field::Null => Value::Null,
        Field::Bool(v) => v.into(),
        Field::Byte(v) => v.into(),
        Field::Short(v) => v.into(),
        Field::Int(v) | Field::Date(v) | Field::TimeMillis(v) => v.into(),
        Field::Long(v) | Field::TimeMicros(v) | Field::TimestampMillis(v) | Field::TimestampMicros(v) => v.into(),
        Field::UByte(v) => v.into(),
        Field::UShort(v) => v.into(),
        Field::UInt(v) => v.into(),
        Field::ULong(v) => v.into(),
        Field::Float16(v) => float(v.into()),
        Field::Float(v) => float(v.into()),
        Field::Double(v) => float(v),
        Field::Decimal(_) => field.to_string().into(),
        Field::Str(v) => v.into(),
        Field::Bytes(v) => match std::str::from_utf8(v.data()) {
            Ok(text) => text.into(),
            // each byte becomes a value; so many are no text, and one field is not worth the memory
            Err(_) => v.data()[..v.len().min(MOST)].into(),
        },
        Field::Group(record) => object(record).into(),
        Field::ListInternal(list) => list.elements().iter().cloned().map(value).collect(),
        Field::MapInternal(map) => {
            let entries = map.entries().iter().cloned().map(|(key, entry)| match value(key) {
                Value::String(key) => (key, value(entry)),
                key => (key.to_string(), value(entry)),
            });
            Value::Object(entries.collect())
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use parquet::basic::{Compression, ZstdLevel};
    use parquet::data_type::{BoolType, ByteArray, ByteArrayType, Int64Type};
    use parquet::file::properties::WriterProperties;
    use parquet::file::writer::SerializedFileWriter;
    use parquet::schema::parser::parse_message_type;

    use super::super::rows::{rows, rows_with};
    use super::*;

    const SCHEMA: &str = "message m {
        required binary question (utf8);
        optional binary raw;
        required group choices (list) { repeated group list { optional binary element (utf8); } }
        required boolean answer;
        optional int64 idx;
    }";

    /// Two row groups of two rows.
    pub(super) fn write(path: &Path, compression: Compression) {
        let properties = WriterProperties::builder().set_compression(compression).build();
        let schema = Arc::new(parse_message_type(SCHEMA).unwrap());
        let mut writer = SerializedFileWriter::new(File::create(path).unwrap(), schema, Arc::new(properties)).unwrap();
        for group in 0..2 {
            let mut columns = writer.next_row_group().unwrap();
            let strings = |texts: &[&str]| texts.iter().map(|t| ByteArray::from(*t)).collect::<Vec<_>>();
            let name = format!("q{group}");
            let mut column = columns.next_column().unwrap().unwrap();
            column.typed::<ByteArrayType>().write_batch(&strings(&[&name, "é"]), None, None).unwrap();
            column.close().unwrap();
            let mut column = columns.next_column().unwrap().unwrap();
            column.typed::<ByteArrayType>().write_batch(&strings(&["b"]), Some(&[1, 0]), None).unwrap();
            column.close().unwrap();
            let mut column = columns.next_column().unwrap().unwrap();
            column
                .typed::<ByteArrayType>()
                .write_batch(&strings(&["A", "B"]), Some(&[2, 2, 0]), Some(&[0, 1, 0]))
                .unwrap();
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
    }

    fn shown(rows: super::super::Rows) -> Vec<String> {
        rows.map(|row| row.map(|row| format!("{} {}", row.place.number, Value::Object(row.fields))).unwrap()).collect()
    }

    #[test]
    fn rows_of_several_groups_in_every_compression() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("x.parquet");
        let zstd = Compression::ZSTD(ZstdLevel::default());
        let gzip = Compression::GZIP(Default::default());
        let lz4 = [Compression::LZ4, Compression::LZ4_RAW];
        for compression in [Compression::UNCOMPRESSED, Compression::SNAPPY, zstd, gzip].into_iter().chain(lz4) {
            write(&path, compression);
            let expected = [
                r#"1 {"question":"q0","raw":"b","choices":["A","B"],"answer":true,"idx":null}"#,
                r#"2 {"question":"é","raw":null,"choices":[],"answer":false,"idx":-5}"#,
                r#"3 {"question":"q1","raw":"b","choices":["A","B"],"answer":true,"idx":null}"#,
                r#"4 {"question":"é","raw":null,"choices":[],"answer":false,"idx":-5}"#,
            ];
            assert_eq!(shown(rows(&path).unwrap()), expected);
            let options = ReadOptions { only: Some(["idx".to_owned()].into()), ..ReadOptions::default() };
            assert_eq!(shown(rows_with(&path, &options).unwrap())[1], r#"2 {"idx":-5}"#);
            let options = ReadOptions { only: Some(["text".to_owned()].into()), ..ReadOptions::default() };
            assert_eq!(shown(rows_with(&path, &options).unwrap()), ["1 {}", "2 {}"]);
        }
    }

    #[test]
    fn broken_files_are_errors_in_one_short_line() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("x.parquet");
        write(&path, Compression::SNAPPY);
        let whole = std::fs::read(&path).unwrap();
        for broken in [&whole[..whole.len() / 2], &whole[..10], b"", b"PAR1", b"{\"text\": 1}"] {
            std::fs::write(&path, broken).unwrap();
            let message = rows(&path).err().unwrap().to_string();
            assert!(message.contains("x.parquet: broken") && message.lines().count() == 1, "{message}");
        }
    }
}
