//! Operands copied into the order in which tiles read them.
//!
//! b goes to panels of as many columns as a tile has, a (where it lies by columns) to strips of as many rows: in both a step of k is a row, and nothing
//! else lies between two steps.

use std::ops::Range;

use super::super::matrix::Mat;
use super::tile::{Avx2, Avx512, Vector};

/// Copies b to panels (k, width) below each other; missing columns are 0.
///
/// # Safety
/// The machine has V's instructions, `width` is a multiple of its lanes and b lies by rows or by columns.
#[inline(always)]
unsafe fn panels_of<V: Vector>(to: &mut [f32], width: usize, b: Mat<'_>) {
    assert!(to.len() == b.rows * b.cols.next_multiple_of(width));
    let to = to.as_mut_ptr();
    for first in (0..b.rows).step_by(TOGETHER) {
        let rows = first..b.rows.min(first + TOGETHER);
        for col in (0..b.cols).step_by(width) {
            // SAFETY: rows of a panel, of which `to` has all, and of b what is inside it.
            unsafe {
                let to = to.add(b.rows * col + first * width);
                panel::<V>(to, width, b.part(rows.clone(), col..b.cols.min(col + width)));
            }
        }
    }
}

/// # Safety
/// As [`panels_of`]; `to` has the rows of b, of `width`, and b no more columns than that.
#[inline(always)]
unsafe fn panel<V: Vector>(to: *mut f32, width: usize, b: Mat<'_>) {
    // SAFETY: the caller's promise.
    unsafe {
        if b.col_stride == 1 {
            for k in 0..b.rows {
                let (to, from) = (to.add(k * width), b.address.add(k * b.row_stride));
                for c in (0..width).step_by(V::LANES) {
                    let x = match b.cols.saturating_sub(c) {
                        0 => V::zero(),
                        n if n < V::LANES => V::load_masked(from.add(c), V::mask(n)),
                        _ => V::load(from.add(c)),
                    };
                    x.store(to.add(c));
                }
            }
            return;
        }
        for c in (0..width).step_by(V::LANES) {
            for k in (0..b.rows).step_by(V::LANES) {
                let steps = (b.rows - k).min(V::LANES);
                let mask = V::mask(steps);
                let mut block = [V::zero(); 16];
                for (i, x) in block[..V::LANES].iter_mut().enumerate() {
                    if c + i < b.cols {
                        let from = b.address.add((c + i) * b.col_stride + k);
                        *x = V::load_masked(from, mask);
                    }
                }
                V::transpose(&mut block[..V::LANES]);
                for (i, x) in block[..steps].iter().enumerate() {
                    x.store(to.add((k + i) * width + c));
                }
            }
        }
    }
}

/// Steps of k that are copied to one panel before the next: what is read stays in the first-level cache meanwhile, and few pages are written at once.
const TOGETHER: usize = 64;
/// The same of strips. Few, since what two strips share of a line has to stay, and lines of all steps may belong to one set of a cache.
const OF_STRIPS: usize = 8;

/// Elements from a strip of `k` steps to the next: one vector more than it has, so that equal steps of strips don't meet in one set of a cache.
pub(super) fn strip_len(k: usize, lanes: usize) -> usize {
    (k + 1) * lanes
}

/// Copies a, which lies by columns, to strips of rows, each (k, LANES). `strips` are the rows of each.
///
/// # Safety
/// As [`panels_of`]; no strip has more rows than V has lanes.
#[inline(always)]
unsafe fn strips_of<V: Vector>(
    to: &mut [f32],
    a: Mat<'_>,
    strips: &(impl Iterator<Item = Range<usize>> + Clone),
) {
    assert!(a.row_stride == 1 && to.len() >= strips.clone().count() * strip_len(a.cols, V::LANES));
    let (to, len) = (to.as_mut_ptr(), strip_len(a.cols, V::LANES));
    for first in (0..a.cols).step_by(OF_STRIPS) {
        for (i, rows) in strips.clone().enumerate() {
            // SAFETY: rows of a, and the strip's place in `to`.
            unsafe {
                let mask = V::mask(rows.len());
                for k in first..a.cols.min(first + OF_STRIPS) {
                    let from = a.address.add(k * a.col_stride + rows.start);
                    V::load_masked(from, mask).store(to.add(i * len + k * V::LANES));
                }
            }
        }
    }
}

/// Writes rows `rows` below the diagonal of an (n, n) matrix from what is above it.
///
/// # Safety
/// The machine has V's instructions. The matrix is `at`; nobody else writes to it above the diagonal, or reads or writes these rows below it.
#[inline(always)]
unsafe fn mirror_of<V: Vector>(at: *mut f32, n: usize, rows: Range<usize>) {
    // SAFETY: rows and columns below n.
    unsafe {
        for row in rows.clone().step_by(V::LANES) {
            let height = (rows.end - row).min(V::LANES);
            // Blocks that lie below the diagonal as a whole, then what is left of the last.
            for col in (0..row).step_by(V::LANES) {
                let width = (row - col).min(V::LANES);
                let (of_rows, of_cols) = (V::mask(height), V::mask(width));
                let mut block = [V::zero(); 16];
                for (i, x) in block[..width].iter_mut().enumerate() {
                    *x = V::load_masked(at.add((col + i) * n + row), of_rows);
                }
                V::transpose(&mut block[..V::LANES]);
                for (i, x) in block[..height].iter().enumerate() {
                    x.store_masked(at.add((row + i) * n + col), of_cols);
                }
            }
            for r in row..row + height {
                for c in row..r {
                    *at.add(r * n + c) = *at.add(c * n + r);
                }
            }
        }
    }
}

/// # Safety
/// As [`mirror_of`].
#[target_feature(enable = "avx512f,fma")]
pub(super) unsafe fn mirror512(at: *mut f32, n: usize, rows: Range<usize>) {
    // SAFETY: the caller's promise.
    unsafe { mirror_of::<Avx512>(at, n, rows) }
}

/// # Safety
/// As [`mirror_of`].
#[target_feature(enable = "avx2,fma")]
pub(super) unsafe fn mirror256(at: *mut f32, n: usize, rows: Range<usize>) {
    // SAFETY: the caller's promise.
    unsafe { mirror_of::<Avx2>(at, n, rows) }
}

/// # Safety
/// As [`panels_of`].
#[target_feature(enable = "avx512f,fma")]
pub(super) unsafe fn panels512(to: &mut [f32], b: Mat<'_>) {
    // SAFETY: the caller's promise.
    unsafe { panels_of::<Avx512>(to, 2 * Avx512::LANES, b) }
}

/// # Safety
/// As [`panels_of`].
#[target_feature(enable = "avx2,fma")]
pub(super) unsafe fn panels256(to: &mut [f32], b: Mat<'_>) {
    // SAFETY: the caller's promise.
    unsafe { panels_of::<Avx2>(to, 2 * Avx2::LANES, b) }
}

/// # Safety
/// As [`strips_of`].
#[target_feature(enable = "avx512f,fma")]
pub(super) unsafe fn strips512(to: &mut [f32], a: Mat<'_>, most: usize) {
    // SAFETY: the caller's promise.
    unsafe { strips_of::<Avx512>(to, a, &even(a.rows, most)) }
}

/// # Safety
/// As [`strips_of`].
#[target_feature(enable = "avx2,fma")]
pub(super) unsafe fn strips256(to: &mut [f32], a: Mat<'_>, most: usize) {
    // SAFETY: the caller's promise.
    unsafe { strips_of::<Avx2>(to, a, &even(a.rows, most)) }
}

/// 0..n in as few parts of at most `most` as there can be, of about the same length.
pub(super) fn even(n: usize, most: usize) -> impl Iterator<Item = Range<usize>> + Clone {
    let parts = n.div_ceil(most);
    (0..parts).map(move |i| n * i / parts..n * (i + 1) / parts)
}
