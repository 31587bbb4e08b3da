//! Operations on slabs that need norms of rows, columns or whole matrices: equilibration, renormalisation, NorMuon.

use super::simd::{sum_f64, vectorised};
use super::work::{Workers, block_rows, rows};
use crate::ops::StackDims;

/// See [`EquilibrateRows`](crate::ops::EquilibrateRows).
pub(super) fn equilibrate_rows(workers: &Workers, dims: StackDims, x: &mut [f32]) {
    let StackDims { k, r, s } = dims;
    workers.scratch(k * r, |factors: &mut [f64]| {
        row_squares(workers, dims, x, factors);
        for factors in factors.chunks_exact_mut(r.max(1)) {
            let target = (factors.iter().sum::<f64>() / r as f64).sqrt();
            for factor in factors {
                *factor = target / factor.sqrt().max(1e-6);
            }
        }
        scale_rows(workers, s, x, |row| factors[row] as f32);
    });
}

/// See [`Renormalize`](crate::ops::Renormalize).
pub(super) fn renormalize(workers: &Workers, dims: StackDims, x: &mut [f32]) {
    let StackDims { r, s, .. } = dims;
    scale_matrices(workers, dims, x, |norm| (r.min(s) as f64).sqrt() / norm.max(1e-6));
}

/// Multiplies each matrix by a function of its Frobenius norm.
pub(super) fn scale_matrices(
    workers: &Workers,
    dims: StackDims,
    x: &mut [f32],
    factor: impl Fn(f64) -> f64,
) {
    let StackDims { k, r, s } = dims;
    workers.scratch(k * r, |squares: &mut [f64]| {
        row_squares(workers, dims, x, squares);
        // Each matrix's first place takes its factor.
        for squares in squares.chunks_exact_mut(r.max(1)) {
            squares[0] = factor(squares.iter().sum::<f64>().sqrt());
        }
        scale_rows(workers, s, x, |row| squares[row / r * r] as f32);
    });
}

/// See [`VarianceReduce`](crate::ops::VarianceReduce).
pub(super) fn variance_reduce(
    workers: &Workers,
    dims: StackDims,
    x: &mut [f32],
    moment: &mut [f32],
    beta2: f64,
) {
    let StackDims { k, r, s } = dims;
    let by_row = r >= s;
    let (len, n) = if by_row { (r, s) } else { (s, r) };
    if x.is_empty() {
        return;
    }
    workers.scratch(k * len, |means: &mut [f64]| {
        if by_row {
            row_squares(workers, dims, x, means);
        } else {
            column_squares(workers, dims, x, means);
        }
        for (means, moment) in means.chunks_exact_mut(len).zip(moment.chunks_exact_mut(len)) {
            factors(means, moment, n as f64, beta2);
        }
        if by_row {
            scale_rows(workers, s, x, |row| means[row] as f32);
        } else {
            workers.blocks(k * r, block_rows(s), rows(x, s), |first, x| {
                for (row, x) in (first..).zip(x.data.chunks_exact_mut(s)) {
                    let factors = &means[row / r * s..(row / r + 1) * s];
                    vectorised(
                        #[inline(always)]
                        || x.iter_mut().zip(factors).for_each(|(x, &f)| *x *= f as f32),
                    );
                }
            });
        }
    });
}

/// Turns sums of squares over `n` elements into the factors that one matrix's rows or columns take, and advances the moment.
fn factors(squares: &mut [f64], moment: &mut [f32], n: f64, beta2: f64) {
    let (mut before, mut after) = (0.0, 0.0);
    for (square, moment) in squares.iter_mut().zip(moment) {
        let mean = *square / n;
        let advanced = f64::from(*moment) + (1.0 - beta2) * (mean - f64::from(*moment));
        *moment = advanced as f32;
        let weight = advanced.max(1e-10).powf(-0.5);
        before += mean;
        after += mean * weight * weight;
        *square = weight;
    }
    let scale = (n * before).sqrt() / (n * after).sqrt().max(1e-10);
    for factor in squares {
        *factor *= scale;
    }
}

/// Σ x² of each row.
fn row_squares(workers: &Workers, dims: StackDims, x: &[f32], sums: &mut [f64]) {
    let StackDims { k, r, s } = dims;
    workers.blocks(k * r, block_rows(s), rows(sums, 1), |first, sums| {
        for (row, sum) in (first..).zip(sums.data) {
            let x = &x[row * s..(row + 1) * s];
            *sum = vectorised(
                #[inline(always)]
                || {
                    sum_f64(
                        x,
                        #[inline(always)]
                        |x| x * x,
                    )
                },
            );
        }
    });
}

/// Σ x² of each column of each matrix.
fn column_squares(workers: &Workers, dims: StackDims, x: &[f32], sums: &mut [f64]) {
    let StackDims { k, r, s } = dims;
    let block = 64;
    let across = s.div_ceil(block);
    // Pieces of `block` columns, and a last piece of each matrix with what is left.
    workers.blocks(k, 1, rows(sums, s), |matrix, sums| {
        let x = &x[matrix * r * s..(matrix + 1) * r * s];
        for piece in 0..across {
            let columns = piece * block..s.min((piece + 1) * block);
            let sums = &mut sums.data[columns.clone()];
            vectorised(
                #[inline(always)]
                || {
                    sums.fill(0.0);
                    for x in x.chunks_exact(s) {
                        for (sum, &x) in sums.iter_mut().zip(&x[columns.clone()]) {
                            *sum += f64::from(x) * f64::from(x);
                        }
                    }
                },
            );
        }
    });
}

/// Multiplies each of all matrices' rows by a factor.
fn scale_rows(workers: &Workers, s: usize, x: &mut [f32], factor: impl Fn(usize) -> f32 + Sync) {
    if x.is_empty() {
        return;
    }
    workers.blocks(x.len() / s, block_rows(s), rows(x, s), |first, x| {
        for (row, x) in (first..).zip(x.data.chunks_exact_mut(s)) {
            let factor = factor(row);
            vectorised(
                #[inline(always)]
                || {
                    for x in x {
                        *x *= factor;
                    }
                },
            );
        }
    });
}
