//! Matrix products: the `gemm` crate on one tile of the result at a time.
//!
//! The result is cut into tiles of a size that depends on its shape alone and each tile is one single-threaded product, so
//! every element is the same sequence of operations whatever the number of threads.

use super::matrix::{Mat, MatMut};
use super::work::Workers;

/// dst = alpha·a·b, or dst += alpha·a·b when `accumulate`, on this thread.
pub(super) fn multiply(dst: MatMut<'_>, accumulate: bool, alpha: f32, a: Mat<'_>, b: Mat<'_>) {
    let (m, n, k) = (a.rows, b.cols, a.cols);
    assert!(dst.rows == m && dst.cols == n && b.rows == k, "({m}, {k}) by ({}, {n})", b.rows);
    // SAFETY: the views hold m·k, k·n and m·n elements at these strides, `dst` uniquely.
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            dst.address,
            1,
            dst.row_stride as isize,
            accumulate,
            a.address,
            a.col_stride as isize,
            a.row_stride as isize,
            b.address,
            b.col_stride as isize,
            b.row_stride as isize,
            1.0,
            alpha,
            false,
            false,
            false,
            gemm::Parallelism::None,
        );
    }
}

/// Rows and columns of a tile of an m × n result.
fn tile(m: usize, n: usize) -> (usize, usize) {
    const TILES: usize = 16;
    let (mut rows, mut cols) = (256, 256);
    while m.div_ceil(rows) * n.div_ceil(cols) < TILES && rows.max(cols) > 64 {
        if rows.min(m) >= cols.min(n) {
            rows /= 2;
        } else {
            cols /= 2;
        }
    }
    (rows, cols)
}

impl Workers {
    /// dst = alpha·a·b, or dst += alpha·a·b when `accumulate`, on all threads.
    pub(super) fn multiply(
        &self,
        dst: MatMut<'_>,
        accumulate: bool,
        alpha: f32,
        a: Mat<'_>,
        b: Mat<'_>,
    ) {
        let (m, n) = (dst.rows, dst.cols);
        let (tile_rows, tile_cols) = tile(m, n);
        let across = n.div_ceil(tile_cols);
        let dst = dst.share();
        self.tasks(m.div_ceil(tile_rows) * across, |task| {
            let (row, col) = (task / across * tile_rows, task % across * tile_cols);
            let (rows, cols) = (row..m.min(row + tile_rows), col..n.min(col + tile_cols));
            // SAFETY: each task has a tile of its own.
            let dst = unsafe { dst.part(rows.clone(), cols.clone()) };
            multiply(dst, accumulate, alpha, a.part(rows, 0..a.cols), b.part(0..b.rows, cols));
        });
    }
}
