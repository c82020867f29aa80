//! Writing a GGUF file: version 3, little-endian.

use std::fs::File;
use std::io::{Seek, Write};
use std::path::Path;

use super::header::{ALIGNMENT, MAGIC, Pair};
use super::kinds::Kind;
use super::value::{ARRAY, BOOL, STRING};
use crate::checkpoint::mark::create_file;
use crate::checkpoint::writer::{allocate, flushing};
use crate::progress::{Progress, Unit};
use crate::{Context, Error, Result, interrupt};

/// A value as its bytes.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct MetaValue {
    kind: u32,
    bytes: Vec<u8>,
}

fn text(text: &str) -> Vec<u8> {
    [&(text.len() as u64).to_le_bytes()[..], text.as_bytes()].concat()
}

impl MetaValue {
    /// A value that another file has.
    pub(crate) fn raw(pair: &Pair, bytes: &[u8]) -> Self {
        Self { kind: pair.kind, bytes: bytes.to_vec() }
    }

    /// A whole number of the type of another value, or `UINT32`.
    pub(crate) fn whole(kind: u32, number: u64) -> Self {
        let bytes = number.to_le_bytes();
        let len = super::value::scalar_len(kind).unwrap_or(8).min(8) as usize;
        Self { kind, bytes: bytes[..len].to_vec() }
    }

    /// `UINT32`.
    pub(crate) fn u32(number: u32) -> Self {
        Self::whole(4, number.into())
    }

    /// `FLOAT32`.
    pub(crate) fn f32(number: f32) -> Self {
        Self { kind: 6, bytes: number.to_le_bytes().to_vec() }
    }

    /// `BOOL`.
    pub(crate) fn truth(truth: bool) -> Self {
        Self { kind: BOOL, bytes: vec![u8::from(truth)] }
    }

    /// `STRING`.
    pub(crate) fn text(value: &str) -> Self {
        Self { kind: STRING, bytes: text(value) }
    }

    /// An array of values of the type `kind`, each as its bytes.
    pub(crate) fn list<B: AsRef<[u8]>>(kind: u32, values: impl ExactSizeIterator<Item = B>) -> Self {
        let mut bytes = [&kind.to_le_bytes()[..], &(values.len() as u64).to_le_bytes()].concat();
        values.for_each(|value| bytes.extend_from_slice(value.as_ref()));
        Self { kind: ARRAY, bytes }
    }

    /// An array of texts.
    pub(crate) fn texts<'a>(values: impl ExactSizeIterator<Item = &'a str>) -> Self {
        Self::list(STRING, values.map(text))
    }
}

/// A tensor to be written.
#[derive(Clone, Debug)]
pub(crate) struct GgufTensor {
    /// Its name.
    pub(crate) name: String,
    /// Its shape, outermost first.
    pub(crate) shape: Vec<usize>,
    /// How its numbers are stored.
    pub(crate) kind: &'static Kind,
}

impl GgufTensor {
    /// Its bytes; `None` where its rows are no whole blocks.
    pub(crate) fn len(&self) -> Option<u64> {
        let row = *self.shape.last()? as u64;
        let count = self.shape.iter().try_fold(1_u64, |count, size| count.checked_mul(*size as u64))?;
        self.kind.len(row, count)
    }
}

/// A file to be written.
#[derive(Debug)]
pub(crate) struct GgufFile {
    /// Its name.
    pub(crate) name: String,
    /// Its tensors, in their order.
    pub(crate) tensors: Vec<GgufTensor>,
    header: Vec<u8>,
    alignment: u64,
    size: u64,
}

impl GgufFile {
    /// A file called `name` of these pairs and tensors; `alignment` is what the pairs say, or the default.
    ///
    /// # Errors
    /// Work: a tensor whose rows are no whole blocks.
    pub(crate) fn new(
        name: &str,
        pairs: &[(String, MetaValue)],
        tensors: Vec<GgufTensor>,
        alignment: Option<u64>,
    ) -> Result<Self> {
        let alignment = alignment.unwrap_or(ALIGNMENT);
        let mut header = [&MAGIC[..], &3_u32.to_le_bytes()].concat();
        header.extend_from_slice(&(tensors.len() as u64).to_le_bytes());
        header.extend_from_slice(&(pairs.len() as u64).to_le_bytes());
        for (key, MetaValue { kind, bytes }) in pairs {
            header.extend_from_slice(&text(key));
            header.extend_from_slice(&kind.to_le_bytes());
            header.extend_from_slice(bytes);
        }
        let mut data = 0_u64;
        for tensor in &tensors {
            let GgufTensor { name, shape, kind } = tensor;
            let len = tensor.len().ok_or_else(|| {
                Error::work(format!("tensor {name} of shape {shape:?} cannot be stored as {}", kind.name))
            })?;
            header.extend_from_slice(&text(name));
            header.extend_from_slice(&(shape.len() as u32).to_le_bytes());
            shape.iter().rev().for_each(|size| header.extend_from_slice(&(*size as u64).to_le_bytes()));
            header.extend_from_slice(&kind.id.to_le_bytes());
            header.extend_from_slice(&data.to_le_bytes());
            data = (data + len).next_multiple_of(alignment);
        }
        header.resize(header.len().next_multiple_of(alignment as usize), 0);
        let size = header.len() as u64 + data;
        Ok(Self { name: name.to_owned(), tensors, header, alignment, size })
    }

    /// Bytes of the whole file.
    pub(crate) fn size(&self) -> u64 {
        self.size
    }

    /// All before the tensors' bytes.
    pub(crate) fn header(&self) -> &[u8] {
        &self.header
    }

    /// Where each tensor begins in the file.
    pub(crate) fn places(&self) -> Vec<u64> {
        let mut end = self.header.len() as u64;
        let place = |tensor: &GgufTensor| {
            let begin = end;
            end = (end + tensor.len().unwrap_or(0)).next_multiple_of(self.alignment);
            begin
        };
        self.tensors.iter().map(place).collect()
    }

    /// Bytes of the tensors.
    pub(crate) fn data(&self) -> u64 {
        self.tensors.iter().filter_map(GgufTensor::len).sum()
    }

    /// Writes the file into `dir`: `write` is called for each tensor in order and must write exactly its bytes.
    ///
    /// # Errors
    /// Work: the disk is full, or `write` fails or writes another number of bytes. Interrupted.
    pub(crate) fn write(
        &self,
        dir: &Path,
        progress: &dyn Progress,
        mut write: impl FnMut(&GgufTensor, &mut File) -> Result<()>,
    ) -> Result<()> {
        let path = dir.join(&self.name);
        let at = |error: std::io::Error| Error::work(format!("{}: {error}", path.display()));
        progress.begin("writing", self.data(), Unit::Bytes);
        flushing(dir, |flusher| {
            let mut file = create_file(&path)?;
            allocate(&file, self.size).map_err(at)?;
            file.write_all(&self.header).map_err(at)?;
            let mut end = self.header.len() as u64;
            for tensor in &self.tensors {
                interrupt::check()?;
                write(tensor, &mut file).context(|| self.name.clone())?;
                let len = tensor.len().unwrap_or_default();
                end += len;
                let written = file.stream_position().map_err(at)?;
                if written != end {
                    let name = &tensor.name;
                    let reason = format!("tensor {name} ended at byte {written}, its place in the file at {end}");
                    return Err(Error::work(format!("{}: {reason}", path.display())));
                }
                let padding = end.next_multiple_of(self.alignment) - end;
                file.write_all(&vec![0; padding as usize]).map_err(at)?;
                end += padding;
                flusher.grown(&file, len).map_err(at)?;
                progress.advance(len);
            }
            Ok(())
        })?;
        progress.end();
        Ok(())
    }
}
