//! Matrix products: the `gemm-f32` crate on one tile of the result at a time.
//!
//! The result is cut into tiles of a size that depends on its shape alone and each tile is one single-threaded product, so
//! every element is the same sequence of operations whatever the number of threads.

use super::matrix::{Mat, MatMut};
use super::simd::vectorised;
use super::work::Workers;

/// dst = alpha·a·b, or dst += alpha·a·b when `accumulate`, on this thread.
pub(super) fn multiply(dst: &mut MatMut<'_>, accumulate: bool, alpha: f32, a: Mat<'_>, b: Mat<'_>) {
    let (m, n, k) = (a.rows, b.cols, a.cols);
    assert!(dst.rows == m && dst.cols == n && b.rows == k, "({m}, {k}) by ({}, {n})", b.rows);
    // The crate's kernels write columns: of a result whose rows are the longer step apart, the transpose is computed, dstᵀ = bᵀ·aᵀ.
    let by_columns = dst.row_stride <= 1;
    let (rows, cols) = if by_columns { (m, n) } else { (n, m) };
    let of_a = [a.col_stride as isize, a.row_stride as isize];
    let of_b = [b.col_stride as isize, b.row_stride as isize];
    let (left, [left_cols, left_rows], right, [right_cols, right_rows]) = if by_columns {
        (a.address, of_a, b.address, of_b)
    } else {
        (b.address, [of_b[1], of_b[0]], a.address, [of_a[1], of_a[0]])
    };
    let (dst_cols, dst_rows) =
        if by_columns { (1, dst.row_stride as isize) } else { (dst.row_stride as isize, 1) };
    // SAFETY: the views hold m·k, k·n and m·n elements at these strides, `dst` uniquely.
    unsafe {
        gemm_f32::gemm::f32::get_gemm_fn()(
            rows,
            cols,
            k,
            dst.address,
            dst_cols,
            dst_rows,
            accumulate,
            left,
            left_cols,
            left_rows,
            right,
            right_cols,
            right_rows,
            1.0,
            alpha,
            false,
            false,
            false,
            gemm_common::Parallelism::None,
        );
    }
}

/// Rows and columns of a tile of `count` m × n results.
///
/// Tall tiles, because a tile of x·wᵀ packs its part of w anew; but at least [`TILES`] of them, so that small results
/// still fill several threads.
fn tile(m: usize, n: usize, count: usize) -> (usize, usize) {
    let (mut rows, mut cols) = (512, 256);
    while count * m.div_ceil(rows) * n.div_ceil(cols) < TILES && (rows > 32 || cols > 64) {
        if cols == 64 || (rows > 32 && rows.min(m) >= cols.min(n)) {
            rows /= 2;
        } else {
            cols /= 2;
        }
    }
    (rows, cols)
}

/// Tiles that a result is cut into at least, unless they would be smaller than 32 × 64.
const TILES: usize = 8;

/// Multiplications of a product that is not worth waking another thread for.
const SMALL: usize = 1 << 17;

/// What a product is added to.
#[derive(Clone, Copy)]
pub(super) enum Start<'a> {
    /// Nothing.
    Zero,
    /// What the result's place holds.
    Old,
    /// A number times a matrix of the result's size.
    Scaled(f32, Mat<'a>),
}

/// start + alpha·a·b.
pub(super) struct Product<'a> {
    pub(super) start: Start<'a>,
    pub(super) alpha: f32,
    pub(super) a: Mat<'a>,
    pub(super) b: Mat<'a>,
}

impl Workers {
    /// dst = product, on all threads.
    pub(super) fn multiply(&self, dst: MatMut<'_>, start: Start<'_>, a: Mat<'_>, b: Mat<'_>) {
        self.multiply_all(1, dst, |_| Product { start, alpha: 1.0, a, b });
    }

    /// `count` results of one size, below each other in `dst`: the i-th = product(i), on all threads.
    pub(super) fn multiply_all<'a>(
        &self,
        count: usize,
        dst: MatMut<'_>,
        product: impl Fn(usize) -> Product<'a> + Sync + Send,
    ) {
        if count == 0 {
            return;
        }
        let (m, n) = (dst.rows / count, dst.cols);
        let k = product(0).a.cols;
        let small = count * m * n * k <= SMALL;
        let (tile_rows, tile_cols) = if small { (m.max(1), n.max(1)) } else { tile(m, n, count) };
        let (down, across) = (m.div_ceil(tile_rows), n.div_ceil(tile_cols));
        let dst = dst.share();
        self.tasks(count * down * across, |task| {
            let (i, row, col) = (task / (down * across), task / across % down, task % across);
            let rows = row * tile_rows..m.min((row + 1) * tile_rows);
            let cols = col * tile_cols..n.min((col + 1) * tile_cols);
            // SAFETY: each task has a tile of its own.
            let mut dst = unsafe { dst.part(i * m + rows.start..i * m + rows.end, cols.clone()) };
            let Product { start, alpha, a, b } = product(i);
            if let Start::Scaled(factor, of) = start {
                let of = of.part(rows.clone(), cols.clone());
                for r in 0..of.rows {
                    let (to, from) = (dst.row(r), of.row(r));
                    vectorised(
                        #[inline(always)]
                        || to.iter_mut().zip(from).for_each(|(to, from)| *to = factor * from),
                    );
                }
            }
            let accumulate = !matches!(start, Start::Zero);
            multiply(&mut dst, accumulate, alpha, a.part(rows, 0..a.cols), b.part(0..b.rows, cols));
        });
    }
}
