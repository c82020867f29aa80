//! The footer of a parquet file, looked at before the parquet crate reads it: that sets memory aside for as many
//! children as a column says it has, up to 16 GiB.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};

use parquet::errors::{ParquetError, Result};

use super::pages::FOOTER;

/// Structs in one another; a schema is a flat list.
const DEPTH: usize = 32;

/// Types of the compact protocol.
const LIST: u8 = 9;
const STRUCT: u8 = 12;
const I32: u8 = 5;

/// Refuses a schema that says of a column that it has more children than the footer has bytes. What cannot be read here
/// is left to the crate to refuse.
///
/// # Errors
/// The file's, and the column's.
pub(super) fn check(mut file: &File) -> Result<()> {
    let mut end = [0; 8];
    let length = file.seek(SeekFrom::End(0))?;
    let Some(start) = length.checked_sub(8) else { return Ok(()) };
    file.seek(SeekFrom::Start(start))?;
    file.read_exact(&mut end)?;
    let size = u64::from(u32::from_le_bytes([end[0], end[1], end[2], end[3]]));
    let Some(first) = start.checked_sub(size).filter(|_| size <= FOOTER) else { return Ok(()) };
    let mut footer = Vec::new();
    file.seek(SeekFrom::Start(first))?;
    file.take(size).read_to_end(&mut footer)?;
    match most_children(&footer) {
        Some(children) if children > size => Err(ParquetError::General(format!(
            "a column of {children} children is described in a footer of {size} bytes"
        ))),
        _ => Ok(()),
    }
}

/// The most children that an element of the schema says it has.
fn most_children(footer: &[u8]) -> Option<u64> {
    let (mut walk, mut most) = (Walk(footer), 0);
    walk.fields(&mut |walk, id, kind| {
        if (id, kind) != (2, LIST) {
            return walk.skip(kind, DEPTH);
        }
        let (count, element) = walk.list()?;
        (0..count)
            .try_for_each(|_| {
                walk.fields(&mut |walk, id, kind| {
                    if (id, kind) == (5, I32) {
                        most = most.max(u64::try_from(walk.signed()?).unwrap_or(0));
                        return Some(());
                    }
                    walk.skip(kind, DEPTH)
                })
            })
            .filter(|()| element == STRUCT)
    });
    Some(most).filter(|most| *most > 0)
}

/// Thrift's compact protocol, as far as to step over what is not wanted.
struct Walk<'a>(&'a [u8]);

type See<'f> = dyn FnMut(&mut Walk<'_>, i64, u8) -> Option<()> + 'f;

impl Walk<'_> {
    fn byte(&mut self) -> Option<u8> {
        let (first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(*first)
    }

    fn number(&mut self) -> Option<u64> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Some(value);
            }
        }
        None
    }

    fn signed(&mut self) -> Option<i64> {
        let value = self.number()?;
        Some((value >> 1) as i64 ^ -((value & 1) as i64))
    }

    /// How many elements a list has, and their type.
    fn list(&mut self) -> Option<(u64, u8)> {
        let head = self.byte()?;
        let count = if head >> 4 == 15 { self.number()? } else { u64::from(head >> 4) };
        Some((count, head & 15))
    }

    /// Every field of a struct, which `see` reads or skips: its number and type.
    fn fields(&mut self, see: &mut See<'_>) -> Option<()> {
        let mut id = 0;
        loop {
            let head = self.byte()?;
            if head == 0 {
                return Some(());
            }
            id = if head >> 4 == 0 { self.signed()? } else { id + i64::from(head >> 4) };
            see(self, id, head & 15)?;
        }
    }

    fn skip(&mut self, kind: u8, depth: usize) -> Option<()> {
        let depth = depth.checked_sub(1)?;
        match kind {
            // a boolean is in the type
            1 | 2 => Some(()),
            3 => self.byte().map(drop),
            4..=6 => self.number().map(drop),
            7 => self.over(8),
            8 => {
                let length = self.number()?;
                self.over(length)
            }
            LIST | 10 => {
                let (count, element) = self.list()?;
                (0..count).try_for_each(|_| self.element(element, depth))
            }
            11 => {
                let count = self.number()?;
                let kinds = if count == 0 { 0 } else { self.byte()? };
                (0..count).try_for_each(|_| {
                    self.element(kinds >> 4, depth)?;
                    self.element(kinds & 15, depth)
                })
            }
            STRUCT => self.fields(&mut |walk, _, kind| walk.skip(kind, depth)),
            13 => self.over(16),
            _ => None,
        }
    }

    /// In a list a boolean is a byte.
    fn element(&mut self, kind: u8, depth: usize) -> Option<()> {
        if matches!(kind, 1 | 2) { self.over(1) } else { self.skip(kind, depth) }
    }

    fn over(&mut self, length: u64) -> Option<()> {
        self.0 = self.0.get(usize::try_from(length).ok()?..)?;
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A version, then a schema of two elements: a root called `a` with so many children, and one without.
    fn footer(children: &[u8]) -> Vec<u8> {
        let root = [&[0x48, 1, b'a', 0x15][..], children, &[0]].concat();
        // version 1; field 2 is a list of two structs
        [&[0x15, 2, 0x19, 0x2c][..], &root, &[0x15, 2, 0x38, 1, b'b', 0, 0]].concat()
    }

    #[test]
    fn children_are_counted() {
        assert_eq!(most_children(&footer(&[2])), Some(1));
        assert_eq!(most_children(&footer(&[0xfe, 0xff, 0xff, 0xff, 0x0f])), Some(i32::MAX as u64));
        for cut in 0..footer(&[2]).len() {
            most_children(&footer(&[2])[..cut]);
        }
        assert_eq!(most_children(&[]), None);
    }

    #[test]
    fn a_schema_larger_than_its_footer_is_refused() {
        let written = |children: &[u8]| {
            let (footer, mut file) = (footer(children), tempfile::tempfile().unwrap());
            let bytes = [&b"PAR1"[..], &footer, &(footer.len() as u32).to_le_bytes(), b"PAR1"].concat();
            std::io::Write::write_all(&mut file, &bytes).unwrap();
            check(&file)
        };
        written(&[2]).unwrap();
        let told = written(&[0xfe, 0xff, 0xff, 0xff, 0x0f]).unwrap_err().to_string();
        assert!(told.contains("2147483647 children"), "{told}");
    }
}
