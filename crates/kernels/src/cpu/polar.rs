//! Polar Express: orthogonalisation of stacks of matrices by a sequence of odd polynomials.
//!
//! Where matrices are longer than they are wide, only the first steps are taken on them: the others on their Gram matrices, which are smaller, and all of them are applied at once
//! (the Gram form of the iteration; see `DIRECT` for what that costs in accuracy).
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

/// Steps on the matrices themselves, before the rest is worked out from their Gram matrix. That squares what is small in them, and the first steps make it larger: begun at
/// once, results would be off by up to 4e-3 where singular values differ by 1e5, in f32; after two steps by 2e-4, where steps on the matrices alone are off by 4e-5.
const DIRECT: usize = 2;

/// Of `steps` steps, those on the matrices themselves: all, unless they are longer than they are wide, and the rest is worth it.
fn direct(dims: StackDims, steps: usize) -> usize {
    if dims.r == dims.s || steps < DIRECT + 2 { steps } else { DIRECT }
}

/// Elements of scratch: per matrix of a group, four squares of the smaller side and a copy.
pub(super) fn scratch(dims: StackDims) -> usize {
    let small = dims.r.min(dims.s);
    group(dims) * (4 * small * small + dims.r * dims.s)
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
    let (direct, rest) = steps.split_at(direct(dims, steps.len()));
    for x in x.chunks_mut(group(dims) * r * s) {
        let stack = Stack { workers, k: x.len() / (r * s), r, s };
        let (squares, copy) = scratch.split_at_mut(4 * stack.k * small * small);
        let mut squares: Vec<_> = squares.chunks_exact_mut(stack.k * small * small).collect();
        let (mut now, mut next) = (x, &mut copy[..stack.k * r * s]);
        for &step in direct {
            stack.step(now, &mut squares, next, step);
            (now, next) = (next, now);
        }
        if !rest.is_empty() {
            stack.rest(now, &mut squares, next, rest);
            (now, next) = (next, now);
        }
        if (direct.len() + usize::from(!rest.is_empty())) % 2 == 1 {
            workers.blocks(now.len(), BLOCK_ELEMENTS, rows(next, 1), |first, x| {
                x.data.copy_from_slice(&now[first..first + x.data.len()]);
            });
        }
    }
}

/// (R, S) matrices below each other; the squares of the smaller side that belong to them are symmetric.
struct Stack<'a> {
    workers: &'a Workers,
    k: usize,
    r: usize,
    s: usize,
}

impl Stack<'_> {
    fn small(&self) -> usize {
        self.r.min(self.s)
    }

    fn wide(&self) -> bool {
        self.r <= self.s
    }

    /// next = a·x + (b·A + c·A·A)·x with A = x·xᵀ; or the same from the right.
    fn step(&self, x: &[f32], squares: &mut [&mut [f32]], next: &mut [f32], [a, b, c]: [f64; 3]) {
        let [gram, poly, ..] = squares else { unreachable!("scratch has four squares") };
        self.gram(x, gram);
        self.square(poly, Some((b, gram)), c, gram, gram);
        self.apply(Some(a), poly, x, next);
    }

    /// All of `steps`: A is what it becomes in each, since x is multiplied by polynomials of A alone, and they by each other; x by their product at the end.
    ///
    /// B = a + b·A + c·A·A, product = product·B, A = B·A·B.
    fn rest(&self, x: &[f32], squares: &mut [&mut [f32]], next: &mut [f32], steps: &[[f64; 3]]) {
        let [gram, poly, product, free] = squares else { unreachable!("scratch has four squares") };
        self.gram(x, gram);
        for (i, &[a, b, c]) in steps.iter().enumerate() {
            self.square(poly, Some((b, gram)), c, gram, gram);
            self.add_to_diagonal(poly, a as f32);
            if i + 1 < steps.len() {
                self.square(free, None, 1.0, gram, poly);
                self.square(gram, None, 1.0, free, poly);
            }
            if i == 0 {
                std::mem::swap(product, poly);
            } else {
                self.square(free, None, 1.0, product, poly);
                std::mem::swap(product, free);
            }
        }
        self.apply(None, product, x, next);
    }

    /// gram = x·xᵀ, or xᵀ·x.
    fn gram(&self, x: &[f32], gram: &mut [f32]) {
        let dst = MatMut::new(gram, self.k * self.small(), self.small());
        self.workers.multiply_all(self.k, dst, Symmetry::Known, |i| {
            let x = nth(x, i, self.r, self.s);
            let (a, b) = if self.wide() { (x, x.t()) } else { (x.t(), x) };
            Product { start: Start::Zero, alpha: 1.0, a, b, then: Then::Keep }
        });
    }

    /// to = factor·from + scale·a·b, which is symmetric.
    fn square(
        &self,
        to: &mut [f32],
        from: Option<(f64, &[f32])>,
        scale: f64,
        a: &[f32],
        b: &[f32],
    ) {
        let small = self.small();
        let dst = MatMut::new(to, self.k * small, small);
        self.workers.multiply_all(self.k, dst, Symmetry::Known, |i| {
            let of = |stack| nth(stack, i, small, small);
            let start = from.map_or(Start::Zero, |(by, from)| Start::Scaled(by as f32, of(from)));
            Product { start, alpha: scale as f32, a: of(a), b: of(b), then: Then::Keep }
        });
    }

    fn add_to_diagonal(&self, to: &mut [f32], value: f32) {
        let small = self.small();
        for matrix in to.chunks_exact_mut(small * small) {
            matrix.iter_mut().step_by(small + 1).for_each(|x| *x += value);
        }
    }

    /// next = factor·x + poly·x, or x·poly.
    fn apply(&self, factor: Option<f64>, poly: &[f32], x: &[f32], next: &mut [f32]) {
        let dst = MatMut::new(next, self.k * self.r, self.s);
        self.workers.multiply_all(self.k, dst, Symmetry::Unknown, |i| {
            let (x, poly) = (nth(x, i, self.r, self.s), nth(poly, i, self.small(), self.small()));
            let (a, b) = if self.wide() { (poly, x) } else { (x, poly) };
            let start = factor.map_or(Start::Zero, |factor| Start::Scaled(factor as f32, x));
            Product { start, alpha: 1.0, a, b, then: Then::Keep }
        });
    }
}

/// The i-th of a stack of rows × cols matrices.
fn nth(stack: &[f32], i: usize, rows: usize, cols: usize) -> Mat<'_> {
    Mat::new(&stack[i * rows * cols..(i + 1) * rows * cols], rows, cols)
}
