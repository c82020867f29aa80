//! What a GGUF file says before its tensors' bytes: metadata and tensor infos, read without trust.
//!
//! Layout: `GGUF`, version, number of tensors, number of metadata pairs, the pairs, the infos, padding to the
//! alignment, bytes of the tensors. Values stay as they are in the file, so that memory is that of the header and a
//! copy of the file says the same to the byte.

use std::collections::HashSet;
use std::fs::File;
use std::ops::Range;

use super::kinds::{Kind, kind};
use super::value::{ARRAY, STRING, Value, scalar_len};
use crate::checkpoint::positioned::read_exact_at;

/// Longest header. A vocabulary of 256,000 tokens and its merges take some 15 MB.
pub(super) const LONGEST: u64 = 256 << 20;
/// Pairs and tensors of one file at most, bytes of a key and of a tensor's name.
const MOST_PAIRS: u64 = 1 << 16;
const MOST_TENSORS: u64 = 1 << 18;
const LONGEST_KEY: u64 = 1 << 16;
const LONGEST_NAME: u64 = 1 << 10;
/// Dimensions of a tensor at most, as ggml has it.
const DIMENSIONS: u32 = 4;
/// Arrays in arrays at most; no model has any.
const DEPTH: usize = 4;
/// Bytes read at a time.
const PIECE: u64 = 1 << 20;

/// Where tensors begin unless `general.alignment` says otherwise.
pub(crate) const ALIGNMENT: u64 = 32;
/// The first four bytes.
pub(super) const MAGIC: [u8; 4] = *b"GGUF";

/// One pair of the metadata.
#[derive(Clone, Debug)]
pub(crate) struct Pair {
    /// Its key.
    pub(crate) key: String,
    /// Number of its type.
    pub(crate) kind: u32,
    /// Its value in the header.
    range: Range<usize>,
}

/// One tensor.
#[derive(Clone, Debug)]
pub(crate) struct TensorInfo {
    /// Its name.
    pub(crate) name: String,
    /// Its shape, outermost first: the file has it the other way.
    pub(crate) shape: Vec<usize>,
    /// How its numbers are stored.
    pub(crate) kind: &'static Kind,
    /// First byte, counted from the start of the file.
    pub(crate) begin: u64,
    /// Bytes.
    pub(crate) len: u64,
}

/// All that stands before the bytes of the tensors.
#[derive(Debug)]
pub(crate) struct Header {
    bytes: Vec<u8>,
    /// The metadata, in the file's order.
    pub(crate) pairs: Vec<Pair>,
    /// The tensors, in the order of their bytes.
    pub(crate) tensors: Vec<TensorInfo>,
    /// What tensors begin at a multiple of.
    pub(crate) alignment: u64,
    /// Where the bytes of the tensors begin.
    pub(crate) begin: u64,
}

impl Header {
    /// The value of `pair` as it is in the file.
    pub(crate) fn raw(&self, pair: &Pair) -> &[u8] {
        self.bytes.get(pair.range.clone()).unwrap_or_default()
    }

    /// The value of the key `key`.
    pub(crate) fn get(&self, key: &str) -> Option<Value<'_>> {
        let pair = self.pairs.iter().find(|pair| pair.key == key)?;
        Value::new(pair.kind, self.raw(pair))
    }

    /// Reads the header of `file`, of `len` bytes.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(super) fn read(file: &File, len: u64) -> Result<Self, String> {
        let mut read = Reading { file, len, bytes: Vec::new(), at: 0 };
        if len < 24 {
            return Err(format!("not a GGUF file: {len} bytes are too few for a header"));
        }
        if read.bytes_of(4)? != MAGIC {
            return Err("not a GGUF file: it does not begin with GGUF".into());
        }
        let version = read.u32()?;
        match version {
            2 | 3 => {}
            // the bytes of 1, 2 and 3 the other way round
            0x0100_0000 | 0x0200_0000 | 0x0300_0000 => {
                return Err("a big-endian GGUF file, which is not read; convert it with gguf-convert-endian".into());
            }
            _ => return Err(format!("GGUF version {version} is not read, expected 2 or 3")),
        }
        let (tensors, pairs) = (read.u64()?, read.u64()?);
        read.fits(pairs, MOST_PAIRS, 13, "pairs of metadata")?;
        read.fits(tensors, MOST_TENSORS, 24, "tensors")?;
        let pairs = (0..pairs).map(|_| read.pair()).collect::<Result<Vec<_>, _>>()?;
        let mut keys = HashSet::new();
        if let Some(twice) = pairs.iter().find(|pair| !keys.insert(pair.key.as_str())) {
            return Err(format!("the key {} stands there twice", twice.key));
        }
        let infos = (0..tensors).map(|_| read.info()).collect::<Result<Vec<_>, _>>()?;
        let Reading { mut bytes, at, .. } = read;
        bytes.truncate(at);
        let mut header = Self { bytes, pairs, tensors: infos, alignment: ALIGNMENT, begin: 0 };
        header.alignment = match header.get("general.alignment") {
            None => ALIGNMENT,
            Some(value) => match value.unsigned() {
                Some(alignment) if alignment.is_power_of_two() && alignment <= PIECE => alignment,
                _ => return Err(format!("general.alignment is {value}, expected a power of two, at most {PIECE}")),
            },
        };
        header.begin = (at as u64).next_multiple_of(header.alignment);
        header.place(len)?;
        Ok(header)
    }

    /// Counts the tensors' places from the start of the file and holds them to its length.
    fn place(&mut self, len: u64) -> Result<(), String> {
        let Self { tensors, alignment, begin, .. } = self;
        for TensorInfo { name, begin: offset, len: size, .. } in tensors.iter_mut() {
            if !offset.is_multiple_of(*alignment) {
                return Err(format!("tensor {name} begins at {offset}, which is no multiple of {alignment}"));
            }
            let end = begin.checked_add(*offset).and_then(|at| at.checked_add(*size));
            match end {
                Some(end) if end <= len => *offset += *begin,
                _ => {
                    return Err(format!("tensor {name} takes {size} bytes from {offset}, beyond the file's {len}"));
                }
            }
        }
        tensors.sort_by(|one, other| one.begin.cmp(&other.begin).then_with(|| one.name.cmp(&other.name)));
        for (one, other) in tensors.iter().zip(tensors.iter().skip(1)) {
            if one.begin + one.len > other.begin {
                return Err(format!("the tensors {} and {} lie in each other", one.name, other.name));
            }
        }
        let mut names = HashSet::new();
        match tensors.iter().find(|tensor| !names.insert(tensor.name.as_str())) {
            Some(twice) => Err(format!("the tensor {} stands there twice", twice.name)),
            None => Ok(()),
        }
    }
}

/// A header as it is read.
struct Reading<'a> {
    file: &'a File,
    len: u64,
    /// What was read so far, from the start of the file.
    bytes: Vec<u8>,
    at: usize,
}

impl Reading<'_> {
    fn left(&self) -> u64 {
        self.len - self.at as u64
    }

    /// `count` things of at least `least` bytes each.
    fn fits(&self, count: u64, most: u64, least: u64, what: &str) -> Result<(), String> {
        if count > most {
            return Err(format!("the header claims {count} {what}, more than the {most} that any model has"));
        }
        match count.checked_mul(least).is_some_and(|bytes| bytes <= self.left()) {
            true => Ok(()),
            false => Err(format!("the header claims {count} {what}, the whole file has {} bytes", self.len)),
        }
    }

    /// The next `count` bytes, as their place.
    fn take(&mut self, count: u64) -> Result<Range<usize>, String> {
        if count > self.left() {
            return Err(format!("it claims {count} bytes at byte {}, the whole file has {}", self.at, self.len));
        }
        let end = self.at as u64 + count;
        if end > LONGEST {
            return Err(format!("the header is longer than the {LONGEST} bytes that any model has"));
        }
        let have = self.bytes.len() as u64;
        if end > have {
            let until = end.max(have + PIECE).min(self.len);
            self.bytes.resize(until as usize, 0);
            let new = self.bytes.get_mut(have as usize..).unwrap_or_default();
            read_exact_at(self.file, new, have).map_err(|error| error.to_string())?;
        }
        let range = self.at..end as usize;
        self.at = end as usize;
        Ok(range)
    }

    fn bytes_of(&mut self, count: u64) -> Result<&[u8], String> {
        let range = self.take(count)?;
        Ok(self.bytes.get(range).unwrap_or_default())
    }

    fn u32(&mut self) -> Result<u32, String> {
        Ok(self.bytes_of(4)?.try_into().map_or(0, u32::from_le_bytes))
    }

    fn u64(&mut self) -> Result<u64, String> {
        Ok(self.bytes_of(8)?.try_into().map_or(0, u64::from_le_bytes))
    }

    /// A text of at most `most` bytes.
    fn text(&mut self, most: u64, what: &str) -> Result<String, String> {
        let len = self.u64()?;
        if len > most {
            return Err(format!("{what} of {len} bytes at byte {}, expected at most {most}", self.at));
        }
        let at = self.at;
        let text = std::str::from_utf8(self.bytes_of(len)?);
        text.map(str::to_owned).map_err(|_| format!("{what} at byte {at} is not UTF-8"))
    }

    fn pair(&mut self) -> Result<Pair, String> {
        let key = self.text(LONGEST_KEY, "a key")?;
        let kind = self.u32()?;
        let begin = self.at;
        self.skip(kind, 0).map_err(|fault| format!("{key}: {fault}"))?;
        Ok(Pair { key, kind, range: begin..self.at })
    }

    /// Goes past a value of the type `kind`.
    fn skip(&mut self, kind: u32, depth: usize) -> Result<(), String> {
        if let Some(len) = scalar_len(kind) {
            return self.take(len).map(drop);
        }
        match kind {
            STRING => {
                let len = self.u64()?;
                self.take(len).map(drop)
            }
            ARRAY => {
                let (of, count) = (self.u32()?, self.u64()?);
                if let Some(len) = scalar_len(of) {
                    let all = count.checked_mul(len).ok_or_else(|| format!("an array of {count} values"))?;
                    return self.take(all).map(drop);
                }
                if depth == DEPTH {
                    return Err(format!("arrays lie in more than {DEPTH} arrays"));
                }
                if count.checked_mul(8).is_none_or(|bytes| bytes > self.left()) {
                    return Err(format!("an array of {count} values, the whole file has {} bytes", self.len));
                }
                (0..count).try_for_each(|_| self.skip(of, depth + 1))
            }
            _ => Err(format!("type {kind} of a value is not known")),
        }
    }

    fn info(&mut self) -> Result<TensorInfo, String> {
        let name = self.text(LONGEST_NAME, "a tensor's name")?;
        let dimensions = self.u32()?;
        if !(1..=DIMENSIONS).contains(&dimensions) {
            return Err(format!("tensor {name} has {dimensions} dimensions, expected 1 to {DIMENSIONS}"));
        }
        let sizes = (0..dimensions).map(|_| self.u64()).collect::<Result<Vec<_>, _>>()?;
        let (id, offset) = (self.u32()?, self.u64()?);
        let kind = kind(id).ok_or_else(|| format!("tensor {name} is stored as type {id}, which is not known"))?;
        let row = sizes.first().copied().unwrap_or(0);
        let count = sizes.iter().try_fold(1_u64, |count, size| count.checked_mul(*size));
        let Some(len) = count.filter(|count| *count > 0).and_then(|count| kind.len(row, count)) else {
            return Err(format!("tensor {name} of {sizes:?} cannot be stored as {}", kind.name));
        };
        let shape = sizes.iter().rev().map(|size| usize::try_from(*size));
        let shape = shape.collect::<Result<Vec<_>, _>>().map_err(|_| format!("tensor {name} is too large"))?;
        Ok(TensorInfo { name, shape, kind, begin: offset, len })
    }
}
