//! Streams of a text that are recorded once and read again, in memory or in a file that has no name: it is gone with
//! the process, however that ends.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};

use candle_core::{Device, Tensor};

use crate::{Error, Result, ops};

/// Some streams of the same rows, `[rows, d]` f32 each.
#[derive(Debug)]
pub(super) struct Recorded {
    rows: usize,
    d: usize,
    store: Store,
}

#[derive(Debug)]
enum Store {
    Memory(Vec<f32>),
    File(File, PathBuf),
}

impl Recorded {
    /// Nothing yet of so many streams, rows and channels; where they are not kept in memory, in a file in `dir`, or
    /// where the system has its temporary ones.
    ///
    /// # Errors
    /// Work: the file cannot be made.
    pub(super) fn new((streams, rows, d): (usize, usize, usize), keeps: bool, dir: Option<&Path>) -> Result<Self> {
        let store = match keeps {
            true => Store::Memory(vec![0.0; streams * rows * d]),
            false => {
                let dir = dir.map_or_else(std::env::temp_dir, Path::to_owned);
                let file = tempfile::tempfile_in(&dir).map_err(|error| Error::io(&dir, &error))?;
                Store::File(file, dir)
            }
        };
        Ok(Self { rows, d, store })
    }

    /// Puts `x` `[t, d]` at the rows of stream `stream` from `row` on.
    ///
    /// # Errors
    /// Work: the disk is full.
    pub(super) fn put(&mut self, stream: usize, row: usize, x: &Tensor) -> Result<()> {
        let at = (stream * self.rows + row) * self.d;
        let store = &mut self.store;
        ops::numbers(&x.contiguous()?, |numbers| match store {
            Store::Memory(all) => {
                all[at..at + numbers.len()].copy_from_slice(numbers);
                Ok(())
            }
            Store::File(file, dir) => {
                let done = file.seek(SeekFrom::Start(4 * at as u64));
                done.and_then(|_| file.write_all(bytemuck::cast_slice(numbers))).map_err(|error| Error::io(dir, &error))
            }
        })?
    }

    /// The rows of stream `stream`, on `device`.
    ///
    /// # Errors
    /// Work: the file cannot be read.
    pub(super) fn rows(&self, stream: usize, rows: &Range<usize>, device: &Device) -> Result<Tensor> {
        let (at, len) = ((stream * self.rows + rows.start) * self.d, rows.len() * self.d);
        let numbers = match &self.store {
            Store::Memory(all) => all[at..at + len].to_vec(),
            Store::File(file, dir) => {
                let (mut file, mut numbers) = (file, vec![0.0_f32; len]);
                let done = file.seek(SeekFrom::Start(4 * at as u64));
                let read = done.and_then(|_| file.read_exact(bytemuck::cast_slice_mut(&mut numbers)));
                read.map_err(|error| Error::io(dir, &error))?;
                numbers
            }
        };
        Ok(Tensor::from_vec(numbers, (rows.len(), self.d), device)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn in_memory_and_in_a_file() {
        let dir = tempfile::tempdir().unwrap();
        for keeps in [true, false] {
            let mut streams = Recorded::new((2, 5, 3), keeps, Some(dir.path())).unwrap();
            let x = |first: f32, t: usize| {
                let numbers: Vec<f32> = (0..t * 3).map(|at| first + at as f32).collect();
                Tensor::from_vec(numbers, (t, 3), &Device::Cpu).unwrap()
            };
            for (stream, row, first, t) in [(1, 2, 100.0, 3), (0, 0, 0.0, 5), (1, 0, -7.0, 2)] {
                streams.put(stream, row, &x(first, t)).unwrap();
            }
            let read = |stream, rows: Range<usize>| -> Vec<Vec<f32>> {
                streams.rows(stream, &rows, &Device::Cpu).unwrap().to_vec2().unwrap()
            };
            assert_eq!(read(1, 1..3), [[-4.0, -3.0, -2.0], [100.0, 101.0, 102.0]]);
            assert_eq!(read(0, 4..5), [[12.0, 13.0, 14.0]]);
            assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0, "the file has no name");
        }
        let nowhere = Recorded::new((1, 1, 1), false, Some(&dir.path().join("nowhere")));
        assert!(nowhere.unwrap_err().to_string().contains("nowhere"));
    }
}
