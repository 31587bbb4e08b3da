//! Products of a few rows with the transpose of a matrix stored by rows. Each element is one dot product, and the matrix is read once, where it lies.

use std::ops::Range;

use super::super::dot::{Dots, dots};
use super::super::matrix::{Mat, MatMut};
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
        dots(Columns { dst: &mut dst, cols: cols.clone(), a, w, start, alpha });
        then.part(0..m, cols).apply(&mut dst);
    });
}

/// Some columns of the result.
struct Columns<'t, 'd, 'p> {
    dst: &'t mut MatMut<'d>,
    cols: Range<usize>,
    a: Mat<'p>,
    w: Mat<'p>,
    start: Start<'p>,
    alpha: f32,
}

impl Dots for Columns<'_, '_, '_> {
    #[inline(always)]
    fn run(self, dot: impl Fn(&[f32], &[f32]) -> f32) {
        let Self { dst, cols, a, w, start, alpha } = self;
        for c in cols.clone() {
            let w = w.row(c);
            for r in 0..dst.rows {
                let sum = alpha * dot(a.row(r), w);
                let to = &mut dst.row(r)[c - cols.start];
                *to = match start {
                    Start::Zero => sum,
                    Start::Old => *to + sum,
                    Start::Scaled(factor, of) => factor * of.row(r)[c] + sum,
                };
            }
        }
    }
}
