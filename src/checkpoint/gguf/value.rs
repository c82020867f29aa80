//! A value of the metadata, decoded where it is asked for.

use std::fmt;

/// Type of a text.
pub(super) const STRING: u32 = 8;
/// Type of an array.
pub(super) const ARRAY: u32 = 9;
/// Type of a truth.
pub(super) const BOOL: u32 = 7;

/// Bytes of a value of a type of one size: `UINT8` to `FLOAT32`, `BOOL`, `UINT64`, `INT64`, `FLOAT64`.
pub(super) fn scalar_len(kind: u32) -> Option<u64> {
    Some(match kind {
        0 | 1 | 7 => 1,
        2 | 3 => 2,
        4..=6 => 4,
        10..=12 => 8,
        _ => return None,
    })
}

/// A value.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Value<'a> {
    /// A whole number, of whatever width.
    Whole(i128),
    /// A number, f32 widened.
    Float(f64),
    /// A truth.
    Bool(bool),
    /// A text; broken characters are the reader's to refuse.
    Text(&'a [u8]),
    /// An array.
    List(List<'a>),
}

/// An array as it is in the file.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct List<'a> {
    kind: u32,
    count: usize,
    bytes: &'a [u8],
}

/// The first of `bytes` and the rest.
fn first<const N: usize>(bytes: &[u8]) -> Option<([u8; N], &[u8])> {
    let (first, rest) = bytes.split_first_chunk::<N>()?;
    Some((*first, rest))
}

impl<'a> Value<'a> {
    /// The value of the type `kind` in `bytes`, which the header's reader went past.
    pub(super) fn new(kind: u32, bytes: &'a [u8]) -> Option<Self> {
        if kind == STRING {
            return Some(Self::Text(bytes.get(8..)?));
        }
        if kind == ARRAY {
            let (of, rest) = first::<4>(bytes)?;
            let (count, rest) = first::<8>(rest)?;
            let count = usize::try_from(u64::from_le_bytes(count)).ok()?;
            return Some(Self::List(List { kind: u32::from_le_bytes(of), count, bytes: rest }));
        }
        Some(match kind {
            0 => Self::Whole(u8::from_le_bytes(first(bytes)?.0).into()),
            1 => Self::Whole(i8::from_le_bytes(first(bytes)?.0).into()),
            2 => Self::Whole(u16::from_le_bytes(first(bytes)?.0).into()),
            3 => Self::Whole(i16::from_le_bytes(first(bytes)?.0).into()),
            4 => Self::Whole(u32::from_le_bytes(first(bytes)?.0).into()),
            5 => Self::Whole(i32::from_le_bytes(first(bytes)?.0).into()),
            6 => Self::Float(f32::from_le_bytes(first(bytes)?.0).into()),
            BOOL => Self::Bool(*bytes.first()? != 0),
            10 => Self::Whole(u64::from_le_bytes(first(bytes)?.0).into()),
            11 => Self::Whole(i64::from_le_bytes(first(bytes)?.0).into()),
            12 => Self::Float(f64::from_le_bytes(first(bytes)?.0)),
            _ => return None,
        })
    }

    /// A whole number that is not negative.
    pub(crate) fn unsigned(self) -> Option<u64> {
        match self {
            Self::Whole(number) => u64::try_from(number).ok(),
            _ => None,
        }
    }

    /// Any number.
    pub(crate) fn number(self) -> Option<f64> {
        match self {
            Self::Whole(number) => Some(number as f64),
            Self::Float(number) => Some(number),
            _ => None,
        }
    }

    /// A truth.
    pub(crate) fn truth(self) -> Option<bool> {
        match self {
            Self::Bool(truth) => Some(truth),
            _ => None,
        }
    }

    /// A text in UTF-8.
    pub(crate) fn text(self) -> Option<&'a str> {
        match self {
            Self::Text(bytes) => std::str::from_utf8(bytes).ok(),
            _ => None,
        }
    }

    /// An array.
    pub(crate) fn list(self) -> Option<List<'a>> {
        match self {
            Self::List(list) => Some(list),
            _ => None,
        }
    }
}

impl<'a> List<'a> {
    /// How many values there are.
    pub(crate) fn len(&self) -> usize {
        self.count
    }

    /// Type of the values.
    pub(crate) fn kind(&self) -> u32 {
        self.kind
    }

    /// The values one after the other.
    pub(crate) fn values(self) -> impl Iterator<Item = Value<'a>> {
        self.pieces().filter_map(move |bytes| Value::new(self.kind, bytes))
    }

    /// The bytes of each value.
    pub(crate) fn pieces(self) -> impl Iterator<Item = &'a [u8]> {
        let mut bytes = self.bytes;
        (0..self.count).map_while(move |_| {
            let (piece, rest) = bytes.split_at_checked(length(self.kind, bytes)?)?;
            bytes = rest;
            Some(piece)
        })
    }
}

/// Bytes of the value of the type `kind` at the front of `bytes`.
fn length(kind: u32, bytes: &[u8]) -> Option<usize> {
    if let Some(len) = scalar_len(kind) {
        return usize::try_from(len).ok();
    }
    match kind {
        STRING => usize::try_from(u64::from_le_bytes(first(bytes)?.0)).ok()?.checked_add(8),
        ARRAY => {
            let (of, rest) = first::<4>(bytes)?;
            let (count, mut rest) = first::<8>(rest)?;
            let mut all = 12_usize;
            for _ in 0..u64::from_le_bytes(count) {
                let len = length(u32::from_le_bytes(of), rest)?;
                rest = rest.get(len..)?;
                all += len;
            }
            Some(all)
        }
        _ => None,
    }
}

impl fmt::Display for Value<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Whole(number) => write!(f, "{number}"),
            Self::Float(number) => write!(f, "{number}"),
            Self::Bool(truth) => write!(f, "{truth}"),
            Self::Text(bytes) => {
                let text = String::from_utf8_lossy(bytes);
                let short: String = text.chars().take(40).collect();
                write!(f, "{short:?}")
            }
            Self::List(list) => write!(f, "an array of {} values", list.count),
        }
    }
}
