//! Strided views of f32 numbers, to read and to write.

use std::mem::MaybeUninit;
use std::ops::Range;

/// A view of f32 numbers with any strides, to read.
#[derive(Clone, Copy)]
pub(crate) struct Matrix<'a> {
    pub(super) data: &'a [f32],
    pub(crate) rows: usize,
    pub(crate) columns: usize,
    pub(super) row_stride: usize,
    pub(super) column_stride: usize,
}

impl<'a> Matrix<'a> {
    /// Element (r, c) is `data[r * row_stride + c * column_stride]`; all of them must be inside.
    pub(crate) fn new(data: &'a [f32], rows: usize, columns: usize, row_stride: usize, column_stride: usize) -> Self {
        if rows > 0 && columns > 0 {
            assert!((rows - 1) * row_stride + (columns - 1) * column_stride < data.len());
        }
        Self { data, rows, columns, row_stride, column_stride }
    }

    /// Rows as columns.
    pub(crate) fn transposed(self) -> Self {
        Self {
            data: self.data,
            rows: self.columns,
            columns: self.rows,
            row_stride: self.column_stride,
            column_stride: self.row_stride,
        }
    }

    /// The part where `rows` and `columns` meet.
    pub(crate) fn part(self, rows: Range<usize>, columns: Range<usize>) -> Self {
        assert!(rows.end <= self.rows && columns.end <= self.columns);
        let start = (rows.start * self.row_stride + columns.start * self.column_stride).min(self.data.len());
        Self { data: &self.data[start..], rows: rows.len(), columns: columns.len(), ..self }
    }

    /// The numbers and the distance of the rows, if a row's numbers are consecutive.
    pub(crate) fn row_data(self) -> (&'a [f32], usize) {
        assert_eq!(self.column_stride, 1);
        (self.data, self.row_stride)
    }

    /// Writes the numbers row by row.
    pub(super) fn write_to(self, out: &mut [f32]) {
        for (row, out) in out.chunks_exact_mut(self.columns.max(1)).enumerate().take(self.rows) {
            for (column, out) in out.iter_mut().enumerate() {
                *out = self.data[row * self.row_stride + column * self.column_stride];
            }
        }
    }

    /// Row `index`, if its numbers are consecutive.
    #[inline(always)]
    pub(super) fn row(self, index: usize) -> &'a [f32] {
        debug_assert_eq!(self.column_stride, 1);
        &self.data[index * self.row_stride..][..self.columns]
    }
}

/// A view of rows of f32 numbers, to write: several threads may hold one and write different elements.
#[derive(Clone, Copy)]
pub(crate) struct Target {
    pub(super) data: *mut f32,
    pub(super) rows: usize,
    pub(super) columns: usize,
    pub(super) row_stride: usize,
}

// SAFETY: a `Target` is an address; what writes through it is unsafe and demands that nobody else touches the elements
// meanwhile.
unsafe impl Send for Target {}
// SAFETY: as above.
unsafe impl Sync for Target {}

impl Target {
    /// Rows of consecutive numbers, `row_stride` apart.
    pub(crate) fn new(data: &mut [MaybeUninit<f32>], rows: usize, columns: usize, row_stride: usize) -> Self {
        if rows > 0 && columns > 0 {
            assert!(columns <= row_stride && (rows - 1) * row_stride + columns <= data.len());
        }
        Self { data: data.as_mut_ptr().cast(), rows, columns, row_stride }
    }

    /// The same over numbers that are there already.
    pub(crate) fn over(data: &mut [f32], rows: usize, columns: usize, row_stride: usize) -> Self {
        if rows > 0 && columns > 0 {
            assert!(columns <= row_stride && (rows - 1) * row_stride + columns <= data.len());
        }
        Self { data: data.as_mut_ptr(), rows, columns, row_stride }
    }

    /// The part where `rows` and `columns` meet.
    pub(crate) fn part(self, rows: Range<usize>, columns: Range<usize>) -> Self {
        assert!(rows.end <= self.rows && columns.end <= self.columns);
        let start = rows.start * self.row_stride + columns.start;
        Self { data: self.data.wrapping_add(start), rows: rows.len(), columns: columns.len(), ..self }
    }

    /// Writes row `index`.
    ///
    /// # Safety
    /// The memory lives, and nobody else reads or writes this row meanwhile.
    pub(crate) unsafe fn write(self, index: usize, values: &[f32]) {
        assert!(index < self.rows && values.len() == self.columns);
        let row = self.data.wrapping_add(index * self.row_stride);
        // SAFETY: the row is inside the memory by construction, and the caller's alone.
        unsafe { row.copy_from_nonoverlapping(values.as_ptr(), values.len()) };
    }
}
