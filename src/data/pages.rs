//! Pages of a parquet file, looked at before they are read: some bytes may say that they are gigabytes.

use std::fs::File;
use std::io::{BufRead, BufReader, Error, Read};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use bytes::Bytes;
use parquet::bloom_filter::Sbbf;
use parquet::column::page::{Page, PageMetadata, PageReader};
use parquet::errors::{ParquetError, Result};
use parquet::file::metadata::RowGroupMetaData;
use parquet::file::reader::{ChunkReader, Length, RowGroupReader};
use parquet::record::reader::RowIter;
use parquet::schema::types::Type;

use super::longest::Longest;
use crate::interrupt;

/// Bytes of the footer, where all row groups and columns are described.
pub(super) const FOOTER: u64 = 16 << 20;

/// Values of lists that are read for one row; flat columns have one a row.
const VALUES: u64 = 500_000;

/// What the row that is read may still take.
#[derive(Debug)]
pub(super) struct Left {
    /// Bytes of all pages that are read for one row, decompressed. Writers make pages of 1 MiB; some make none smaller
    /// than a row group.
    most: u64,
    /// Pages are read, no more the footer.
    are_known: AtomicBool,
    bytes: AtomicU64,
    values: AtomicU64,
}

impl Left {
    /// For a file whose texts are as long as `longest`.
    pub(super) fn new(longest: Longest) -> Self {
        let (are_known, bytes, values) = Default::default();
        Self { most: 4 * longest.bytes() as u64, are_known, bytes, values }
    }

    /// For the next row.
    pub(super) fn refill(&self) {
        self.are_known.store(true, Ordering::Relaxed);
        self.bytes.store(self.most, Ordering::Relaxed);
        self.values.store(VALUES, Ordering::Relaxed);
    }

    /// Takes as much from what is left, if there is as much.
    fn take(left: &AtomicU64, taken: u64) -> bool {
        left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(taken)).is_ok()
    }
}

/// A parquet file whose parts are bounded.
pub(super) struct Watched {
    pub(super) file: File,
    pub(super) left: Arc<Left>,
}

impl Length for Watched {
    fn len(&self) -> u64 {
        Length::len(&self.file)
    }
}

impl ChunkReader for Watched {
    type T = Header;

    fn get_read(&self, start: u64) -> Result<Header> {
        let left = self.left.are_known.load(Ordering::Relaxed).then(|| Arc::clone(&self.left));
        Ok(Header { reader: self.file.get_read(start)?, left })
    }

    fn get_bytes(&self, start: u64, length: usize) -> Result<Bytes> {
        let most = if self.left.are_known.load(Ordering::Relaxed) { self.left.most } else { FOOTER };
        if length as u64 > most {
            return Err(general(format!("{} MiB in one piece, expected at most {}", length >> 20, most >> 20)));
        }
        self.file.get_bytes(start, length)
    }
}

/// What is read of a file from one place on: the header of a page, or the last bytes of all, where it is said how long
/// the footer is.
pub(super) struct Header {
    reader: BufReader<File>,
    /// Looked at with the first byte: a reader that is asked for nothing may stand behind the header.
    left: Option<Arc<Left>>,
}

impl Read for Header {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        if let Some(left) = self.left.take() {
            interrupt::check().map_err(Error::other)?;
            let size = size(self.reader.fill_buf()?).ok_or_else(|| Error::other("an unusual page header"))?;
            if !Left::take(&left.bytes, size) {
                let (most, size) = (left.most >> 20, size >> 20);
                return Err(Error::other(format!(
                    "a row takes pages of more than {most} MiB, one of {size} MiB; write the file with smaller pages"
                )));
            }
        }
        self.reader.read(buffer)
    }
}

fn general(fault: impl Into<String>) -> ParquetError {
    ParquetError::General(fault.into())
}

/// Bytes of the page that `header` describes, decompressed. A header is a Thrift struct in the compact protocol, whose
/// first fields are the page's kind and its size, both `i32`.
fn size(header: &[u8]) -> Option<u64> {
    /// The type and the distance to the number of the field before.
    const NEXT_I32: u8 = 0x15;
    let mut bytes = header.iter();
    let mut next = || {
        if *bytes.next()? != NEXT_I32 {
            return None;
        }
        let mut value = 0_u64;
        for shift in (0..35).step_by(7) {
            let byte = *bytes.next()?;
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                // zigzag: no size is negative
                return (value & 1 == 0).then_some(value >> 1);
            }
        }
        None
    };
    next()?;
    next()
}

/// A row group whose lists are bounded.
pub(super) struct Group<'a> {
    pub(super) inner: Box<dyn RowGroupReader + 'a>,
    pub(super) left: Arc<Left>,
}

impl RowGroupReader for Group<'_> {
    fn metadata(&self) -> &RowGroupMetaData {
        self.inner.metadata()
    }

    fn num_columns(&self) -> usize {
        self.inner.num_columns()
    }

    fn get_column_page_reader(&self, column: usize) -> Result<Box<dyn PageReader>> {
        let inner = self.inner.get_column_page_reader(column)?;
        let has_lists = self.metadata().column(column).column_descr().max_rep_level() > 0;
        Ok(if has_lists { Box::new(Lists { inner, left: Arc::clone(&self.left) }) } else { inner })
    }

    fn get_column_bloom_filter(&self, column: usize) -> Option<&Sbbf> {
        self.inner.get_column_bloom_filter(column)
    }

    fn get_row_iter(&self, projection: Option<Type>) -> Result<RowIter<'_>> {
        self.inner.get_row_iter(projection)
    }
}

/// The pages of a column of lists.
struct Lists {
    inner: Box<dyn PageReader>,
    left: Arc<Left>,
}

impl Iterator for Lists {
    type Item = Result<Page>;

    fn next(&mut self) -> Option<Self::Item> {
        self.get_next_page().transpose()
    }
}

impl PageReader for Lists {
    fn get_next_page(&mut self) -> Result<Option<Page>> {
        let page = self.inner.get_next_page()?;
        match &page {
            Some(page) if page.is_data_page() && !Left::take(&self.left.values, page.num_values().into()) => {
                Err(general(format!("a row takes pages of more than {VALUES} values of lists")))
            }
            _ => Ok(page),
        }
    }

    fn peek_next_page(&mut self) -> Result<Option<PageMetadata>> {
        self.inner.peek_next_page()
    }

    fn skip_next_page(&mut self) -> Result<()> {
        self.inner.skip_next_page()
    }

    fn at_record_boundary(&mut self) -> Result<bool> {
        self.inner.at_record_boundary()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_size_stands_in_front() {
        // DICTIONARY_PAGE, 300 bytes, 20 bytes compressed, then another struct
        assert_eq!(size(&[0x15, 4, 0x15, 0xd8, 0x04, 0x15, 40, 0x4c, 0]), Some(300));
        assert_eq!(size(&[0x15, 0, 0x15, 0xfe, 0xff, 0xff, 0xff, 0x0f, 0x15, 2]), Some((1 << 31) - 1));
        for strange in [&[0x15, 0, 0x15, 1, 0x15, 2][..], &[0x15, 0, 0x25, 2], &[], &[0x15, 0, 0x15, 0xff]] {
            assert_eq!(size(strange), None);
        }
    }
}
