//! Products of a few rows with the transpose of a matrix that lies by rows: dot products, so that the matrix is read once, as it lies.

use super::super::matrix::MatMut;
use super::super::simd::{self, vectorised};
use super::super::work::Workers;
use super::{Product, Start};

/// Most rows for which it is faster than packing.
pub(super) const ROWS: usize = 12;
/// Elements of the matrix in a task.
const TASK: usize = 1 << 14;

/// dst = product.
pub(super) fn multiply(workers: &Workers, dst: MatMut<'_>, product: Product<'_>) {
    let Product { start, alpha, a, b, then } = product;
    let (m, n, k, w) = (dst.rows, dst.cols, a.cols, b.t());
    let cols = (TASK / k.max(1)).clamp(1, n);
    let dst = dst.share();
    workers.tasks(n.div_ceil(cols), |task| {
        let cols = task * cols..n.min((task + 1) * cols);
        // SAFETY: each task has columns of its own.
        let mut dst = unsafe { dst.part(0..m, cols.clone()) };
        vectorised(
            #[inline(always)]
            || {
                for c in cols.clone() {
                    let w = w.row(c);
                    for r in 0..m {
                        let sum = alpha * simd::dot(a.row(r), w);
                        let to = &mut dst.row(r)[c - cols.start];
                        *to = match start {
                            Start::Zero => sum,
                            Start::Old => *to + sum,
                            Start::Scaled(factor, of) => factor * of.row(r)[c] + sum,
                        };
                    }
                }
            },
        );
        then.part(0..m, cols).apply(&mut dst);
    });
}
