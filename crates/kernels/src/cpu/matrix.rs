//! Strided views of f32 matrices, so that a head of (B, T, H, D) or a transpose is multiplied where it lies.

use std::marker::PhantomData;
use std::ops::Range;

/// A shared matrix with strides.
#[derive(Clone, Copy)]
pub(super) struct Mat<'a> {
    pub(super) address: *const f32,
    pub(super) rows: usize,
    pub(super) cols: usize,
    pub(super) row_stride: usize,
    pub(super) col_stride: usize,
    borrow: PhantomData<&'a [f32]>,
}

// SAFETY: shared access to f32, as `&[f32]`.
unsafe impl Send for Mat<'_> {}
// SAFETY: as above.
unsafe impl Sync for Mat<'_> {}

impl<'a> Mat<'a> {
    /// All of `data`, row-major.
    pub(super) fn new(data: &'a [f32], rows: usize, cols: usize) -> Self {
        assert_eq!(data.len(), rows * cols, "a {rows} by {cols} matrix");
        Self {
            address: data.as_ptr(),
            rows,
            cols,
            row_stride: cols,
            col_stride: 1,
            borrow: PhantomData,
        }
    }

    /// The transpose, in place.
    pub(super) fn t(self) -> Self {
        Self {
            rows: self.cols,
            cols: self.rows,
            row_stride: self.col_stride,
            col_stride: self.row_stride,
            ..self
        }
    }

    /// A part.
    pub(super) fn part(self, rows: Range<usize>, cols: Range<usize>) -> Self {
        check(&rows, self.rows);
        check(&cols, self.cols);
        let first = rows.start * self.row_stride + cols.start * self.col_stride;
        let address = self.address.wrapping_add(first);
        Self { address, rows: rows.len(), cols: cols.len(), ..self }
    }

    /// One element.
    pub(super) fn at(self, row: usize, col: usize) -> f32 {
        assert!(row < self.rows && col < self.cols);
        // SAFETY: inside, and borrowed for 'a.
        unsafe { *self.address.add(row * self.row_stride + col * self.col_stride) }
    }

    /// Row `i` of a matrix whose rows are contiguous.
    pub(super) fn row(self, i: usize) -> &'a [f32] {
        assert!(i < self.rows && self.col_stride == 1);
        // SAFETY: `cols` contiguous elements of row `i`, borrowed for 'a.
        unsafe { std::slice::from_raw_parts(self.address.add(i * self.row_stride), self.cols) }
    }
}

/// A unique matrix with strides; its rows are contiguous.
pub(super) struct MatMut<'a> {
    pub(super) address: *mut f32,
    pub(super) rows: usize,
    pub(super) cols: usize,
    pub(super) row_stride: usize,
    borrow: PhantomData<&'a mut [f32]>,
}

impl<'a> MatMut<'a> {
    /// All of `data`, row-major.
    pub(super) fn new(data: &'a mut [f32], rows: usize, cols: usize) -> Self {
        assert_eq!(data.len(), rows * cols, "a {rows} by {cols} matrix");
        Self { address: data.as_mut_ptr(), rows, cols, row_stride: cols, borrow: PhantomData }
    }

    /// Row `i`.
    pub(super) fn row(&mut self, i: usize) -> &mut [f32] {
        assert!(i < self.rows);
        // SAFETY: `cols` contiguous elements of row `i`, which this view owns.
        unsafe { std::slice::from_raw_parts_mut(self.address.add(i * self.row_stride), self.cols) }
    }

    /// A part, for as long as the whole is not used.
    pub(super) fn part(&mut self, rows: Range<usize>, cols: Range<usize>) -> MatMut<'_> {
        // SAFETY: the part borrows `self`, so that nothing else is seen meanwhile.
        unsafe { part(self.address, self.row_stride, (self.rows, self.cols), &rows, &cols) }
    }

    /// For tasks that take disjoint parts.
    pub(super) fn share(self) -> Shared<'a> {
        Shared(self)
    }
}

/// A unique matrix of which tasks take disjoint parts.
pub(super) struct Shared<'a>(MatMut<'a>);

// SAFETY: nothing can be done with it but `part`, whose callers promise that parts in use are disjoint.
unsafe impl Send for Shared<'_> {}
// SAFETY: as above.
unsafe impl Sync for Shared<'_> {}

impl<'a> Shared<'a> {
    /// A part.
    ///
    /// # Safety
    /// No other part that overlaps it is alive.
    pub(super) unsafe fn part(&self, rows: Range<usize>, cols: Range<usize>) -> MatMut<'a> {
        let m = &self.0;
        // SAFETY: the caller's promise.
        unsafe { part(m.address, m.row_stride, (m.rows, m.cols), &rows, &cols) }
    }
}

impl Shared<'_> {
    /// Where an element is.
    pub(super) fn address(&self, row: usize, col: usize) -> *mut f32 {
        let m = &self.0;
        assert!(row < m.rows && col < m.cols);
        m.address.wrapping_add(row * m.row_stride + col)
    }
}

/// # Safety
/// `address` and `row_stride` describe a matrix of `size` that lives for 'a, and the part is unique meanwhile.
unsafe fn part<'a>(
    address: *mut f32,
    row_stride: usize,
    size: (usize, usize),
    rows: &Range<usize>,
    cols: &Range<usize>,
) -> MatMut<'a> {
    check(rows, size.0);
    check(cols, size.1);
    let address = address.wrapping_add(rows.start * row_stride + cols.start);
    MatMut { address, rows: rows.len(), cols: cols.len(), row_stride, borrow: PhantomData }
}

fn check(range: &Range<usize>, len: usize) {
    assert!(range.start <= range.end && range.end <= len, "{range:?} of {len}");
}
