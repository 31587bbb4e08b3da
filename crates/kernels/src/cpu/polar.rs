//! Polar Express: orthogonalisation of stacks of matrices by a sequence of odd polynomials.
//!
//! Each of a step's three products is one round over the tiles of all matrices of a group, so that many small matrices
//! and one large one both fill all threads. A group is as many matrices as keep scratch small.

use super::gemm::{Product, Start, Symmetry};
use super::matrix::{Mat, MatMut};
use super::relu2::Then;
use super::slab::scale_matrices;
use super::work::{BLOCK_ELEMENTS, Workers, rows};
use crate::ops::StackDims;

/// Elements of the matrices worked on at once, when there is more than one.
const GROUP_ELEMENTS: usize = 1 << 22;

/// Matrices worked on at once.
fn group(dims: StackDims) -> usize {
    (GROUP_ELEMENTS / (dims.r * dims.s).max(1)).clamp(1, dims.k.max(1))
}

/// Elements of scratch: per matrix of a group, two squares of the smaller side and a copy.
pub(super) fn scratch(dims: StackDims) -> usize {
    let small = dims.r.min(dims.s);
    group(dims) * (2 * small * small + dims.r * dims.s)
}

/// See [`PolarExpress`](crate::ops::PolarExpress).
pub(super) fn express(
    workers: &Workers,
    dims: StackDims,
    x: &mut [f32],
    scratch: &mut [f32],
    safety: f64,
    steps: &[[f64; 3]],
) {
    let StackDims { r, s, .. } = dims;
    if x.is_empty() {
        return;
    }
    scale_matrices(workers, dims, x, |norm| 1.0 / (norm * safety + 1e-6));
    let small = r.min(s);
    for x in x.chunks_mut(group(dims) * r * s) {
        let k = x.len() / (r * s);
        let (gram, rest) = scratch.split_at_mut(k * small * small);
        let (poly, rest) = rest.split_at_mut(k * small * small);
        let (mut now, mut next) = (x, &mut rest[..k * r * s]);
        for step in steps {
            iterate(workers, r, s, now, gram, poly, next, step.map(|c| c as f32));
            (now, next) = (next, now);
        }
        if steps.len() % 2 == 1 {
            workers.blocks(now.len(), BLOCK_ELEMENTS, rows(next, 1), |first, x| {
                x.data.copy_from_slice(&now[first..first + x.data.len()]);
            });
        }
    }
}

/// One step for each (R, S) matrix of x: A = x·xᵀ, B = b·A + c·A·A, next = a·x + B·x; or the same from the right.
fn iterate(
    workers: &Workers,
    r: usize,
    s: usize,
    x: &[f32],
    gram: &mut [f32],
    poly: &mut [f32],
    next: &mut [f32],
    [a, b, c]: [f32; 3],
) {
    let (k, small, wide) = (x.len() / (r * s), r.min(s), r <= s);
    workers.multiply_all(k, MatMut::new(gram, k * small, small), Symmetry::Known, |i| {
        let x = nth(x, i, r, s);
        let (a, b) = if wide { (x, x.t()) } else { (x.t(), x) };
        Product { start: Start::Zero, alpha: 1.0, a, b, then: Then::Keep }
    });
    let gram = &*gram;
    workers.multiply_all(k, MatMut::new(poly, k * small, small), Symmetry::Known, |i| {
        let gram = nth(gram, i, small, small);
        Product { start: Start::Scaled(b, gram), alpha: c, a: gram, b: gram, then: Then::Keep }
    });
    let poly = &*poly;
    workers.multiply_all(k, MatMut::new(next, k * r, s), Symmetry::Unknown, |i| {
        let (x, poly) = (nth(x, i, r, s), nth(poly, i, small, small));
        let (left, right) = if wide { (poly, x) } else { (x, poly) };
        Product { start: Start::Scaled(a, x), alpha: 1.0, a: left, b: right, then: Then::Keep }
    });
}

/// The i-th of a stack of rows × cols matrices.
fn nth(stack: &[f32], i: usize, rows: usize, cols: usize) -> Mat<'_> {
    Mat::new(&stack[i * rows * cols..(i + 1) * rows * cols], rows, cols)
}
