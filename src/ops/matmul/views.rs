//! Strided views of f32 numbers, to read and to write.

use std::marker::PhantomData;
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
            let last = |count: usize, stride: usize| (count - 1).checked_mul(stride);
            let last = last(rows, row_stride).zip(last(columns, column_stride)).and_then(|(a, b)| a.checked_add(b));
            assert!(last.is_some_and(|last| last < data.len()));
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

/// A view of rows of f32 numbers, to write: its elements are its holder's alone for as long as `'a`. Of memory that is
/// not initialised it knows whether all of its elements have been written.
pub(crate) struct Target<'a> {
    pub(super) data: *mut f32,
    pub(super) rows: usize,
    pub(super) columns: usize,
    pub(super) row_stride: usize,
    /// Whether its elements are initialised.
    is_set: bool,
    memory: PhantomData<&'a mut [MaybeUninit<f32>]>,
}

// SAFETY: as the mutable borrow that it is made of.
unsafe impl Send for Target<'_> {}
// SAFETY: nothing is read or written through a shared one; what takes a part of it is unsafe.
unsafe impl Sync for Target<'_> {}

impl<'a> Target<'a> {
    /// Rows of consecutive numbers, `row_stride` apart.
    pub(crate) fn new(data: &'a mut [MaybeUninit<f32>], rows: usize, columns: usize, row_stride: usize) -> Self {
        if rows > 0 && columns > 0 {
            let last = (rows - 1).checked_mul(row_stride).and_then(|last| last.checked_add(columns));
            assert!(columns <= row_stride && last.is_some_and(|last| last <= data.len()));
        }
        let data = data.as_mut_ptr().cast();
        Self { data, rows, columns, row_stride, is_set: false, memory: PhantomData }
    }

    /// The same over numbers that are there already.
    pub(crate) fn over(data: &'a mut [f32], rows: usize, columns: usize, row_stride: usize) -> Self {
        // SAFETY: a number may stand where none need be, and through a target nothing else is ever written
        let data = unsafe { &mut *(std::ptr::from_mut(data) as *mut [MaybeUninit<f32>]) };
        Self { is_set: true, ..Self::new(data, rows, columns, row_stride) }
    }

    /// The part where `rows` and `columns` meet.
    pub(crate) fn inner(&mut self, rows: Range<usize>, columns: Range<usize>) -> Target<'_> {
        // SAFETY: while the part is held, the whole is borrowed for it
        unsafe { self.part(rows, columns) }
    }

    /// The part where `rows` and `columns` meet, for one of several tasks.
    ///
    /// # Safety
    /// Of the parts that are held at one time no two have an element in common, and the whole is not written meanwhile.
    pub(crate) unsafe fn part(&self, rows: Range<usize>, columns: Range<usize>) -> Target<'a> {
        assert!(rows.end <= self.rows && columns.end <= self.columns);
        let start = rows.start * self.row_stride + columns.start;
        Self { data: self.data.wrapping_add(start), rows: rows.len(), columns: columns.len(), ..*self }
    }

    /// Writes row `index`.
    pub(crate) fn write(&mut self, index: usize, values: &[f32]) {
        assert!(index < self.rows && values.len() == self.columns);
        let row = self.data.wrapping_add(index * self.row_stride);
        // SAFETY: the row is inside the memory by construction, and the holder's alone
        unsafe { row.copy_from_nonoverlapping(values.as_ptr(), values.len()) };
    }

    /// Says that all elements have been written.
    ///
    /// # Safety
    /// They have.
    pub(crate) unsafe fn set(&mut self) {
        self.is_set = true;
    }

    /// Whether all elements are known to be initialised.
    pub(crate) fn is_set(&self) -> bool {
        self.is_set
    }
}
