//! `map`: small elementwise programs, interpreted one chunk of elements at a time.
//!
//! Each node of an expression is a loop over a chunk small enough for the first-level cache. The tree is walked once per chunk, not once per element. Values are f32, whatever the types of
//! the tensors.

#![allow(clippy::cast_ptr_alignment, reason = "a view's address is aligned to its elements")]

use std::ops::{Add, Div, Mul, Neg, Sub};

use super::simd::{Math, vectorised, with_math};
use super::work::{BLOCK_ELEMENTS, Workers};
use super::{Cpu, DTYPES};
use crate::ops::Map;
use crate::{Bf16, Binary, DType, Expr, Mut, Ref, Result, Unary};

/// Elements of a chunk.
const CHUNK: usize = 512;

impl Cpu {
    pub(super) fn map(&self, op: Map<'_>) -> Result<()> {
        let n = op.check(&DTYPES)?;
        let Map { exprs, mut out, ins, scalars } = op;
        run(&self.workers, n, exprs, &mut out, ins, scalars);
        Ok(())
    }
}

/// See [`Map`](crate::ops::Map). Arguments were checked.
fn run(
    workers: &Workers,
    n: usize,
    exprs: &[Expr],
    out: &mut [Mut<'_>],
    ins: &[Ref<'_>],
    scalars: &[f64],
) {
    let depth = exprs.iter().map(depth).max().unwrap_or(0);
    let out = Outputs(out);
    workers.tasks(n.div_ceil(BLOCK_ELEMENTS), |task| {
        let end = n.min((task + 1) * BLOCK_ELEMENTS);
        workers.scratch((exprs.len() + depth) * CHUNK, |scratch: &mut [f32]| {
            let (results, stack) = scratch.split_at_mut(exprs.len() * CHUNK);
            for first in (task * BLOCK_ELEMENTS..end).step_by(CHUNK) {
                let len = CHUNK.min(end - first);
                let chunk = Chunk { out: &out, ins, scalars, first, len };
                for (expr, result) in exprs.iter().zip(results.chunks_exact_mut(CHUNK)) {
                    chunk.eval(expr, stack);
                    result[..len].copy_from_slice(&stack[..len]);
                }
                for (i, result) in results.chunks_exact(CHUNK).enumerate() {
                    // SAFETY: elements first..first + len are this task's alone.
                    unsafe { out.store(i, first, &result[..len]) };
                }
            }
        });
    });
}

/// Chunks of stack that an expression's value takes.
fn depth(expr: &Expr) -> usize {
    match expr {
        Expr::Unary(_, x) => depth(x),
        Expr::Binary(_, x, y) => depth(x).max(1 + depth(y)),
        Expr::Select(x, y, z) => depth(x).max(1 + depth(y)).max(2 + depth(z)),
        _ => 1,
    }
}

/// Outputs of which tasks read and write disjoint elements.
struct Outputs<'a, 'b>(&'a mut [Mut<'b>]);

// SAFETY: elements are touched through `load` and `store` only, whose callers promise that they are theirs alone.
unsafe impl Sync for Outputs<'_, '_> {}

impl Outputs<'_, '_> {
    /// # Safety
    /// No other thread writes these elements meanwhile.
    unsafe fn load(&self, i: usize, first: usize, to: &mut [f32]) {
        // SAFETY: the caller's promise; arguments were checked to have as many elements.
        unsafe { load(self.0[i].address(), self.0[i].dtype(), first, to) }
    }

    /// # Safety
    /// No other thread reads or writes these elements meanwhile.
    unsafe fn store(&self, i: usize, first: usize, from: &[f32]) {
        let (address, n) = (self.0[i].address(), from.len());
        // SAFETY: as above, and the caller alone touches them.
        unsafe {
            match self.0[i].dtype() {
                DType::F64 => {
                    let to = std::slice::from_raw_parts_mut(address.cast::<f64>().add(first), n);
                    to.iter_mut().zip(from).for_each(|(to, &x)| *to = f64::from(x));
                }
                DType::BF16 => {
                    let to = std::slice::from_raw_parts_mut(address.cast::<Bf16>().add(first), n);
                    to.iter_mut().zip(from).for_each(|(to, &x)| *to = Bf16::from_f32(x));
                }
                _ => std::slice::from_raw_parts_mut(address.cast::<f32>().add(first), n)
                    .copy_from_slice(from),
            }
        }
    }
}

/// # Safety
/// Floats of type `dtype` from `address` on, at least `first + to.len()`, that no one writes meanwhile.
unsafe fn load(address: *const u8, dtype: DType, first: usize, to: &mut [f32]) {
    let n = to.len();
    // SAFETY: the caller's promise.
    unsafe {
        match dtype {
            DType::F64 => {
                let from = std::slice::from_raw_parts(address.cast::<f64>().add(first), n);
                to.iter_mut().zip(from).for_each(|(to, &x)| *to = x as f32);
            }
            DType::BF16 => {
                let from = std::slice::from_raw_parts(address.cast::<Bf16>().add(first), n);
                to.iter_mut().zip(from).for_each(|(to, &x)| *to = x.to_f32());
            }
            _ => {
                to.copy_from_slice(std::slice::from_raw_parts(address.cast::<f32>().add(first), n));
            }
        }
    }
}

/// Elements first..first + len of everything.
struct Chunk<'a, 'b, 'c> {
    out: &'a Outputs<'b, 'c>,
    ins: &'a [Ref<'a>],
    scalars: &'a [f64],
    first: usize,
    len: usize,
}

impl Chunk<'_, '_, '_> {
    /// Leaves the value in the first chunk of `stack`.
    fn eval(&self, expr: &Expr, stack: &mut [f32]) {
        let n = self.len;
        match expr {
            // SAFETY: arguments were checked to be floats of as many elements; nobody writes inputs.
            Expr::Input(i) => unsafe {
                load(self.ins[*i].address(), self.ins[*i].dtype(), self.first, &mut stack[..n]);
            },
            // SAFETY: these elements are this task's alone, and it writes them after all expressions.
            Expr::Old(i) => unsafe { self.out.load(*i, self.first, &mut stack[..n]) },
            Expr::Scalar(i) => stack[..n].fill(self.scalars[*i] as f32),
            Expr::Const(value) => stack[..n].fill(*value as f32),
            Expr::Unary(f, x) => {
                self.eval(x, stack);
                unary(*f, &mut stack[..n]);
            }
            Expr::Binary(f, x, y) => {
                self.eval(x, stack);
                let (x, rest) = stack.split_at_mut(CHUNK);
                self.eval(y, rest);
                binary(*f, &mut x[..n], &rest[..n]);
            }
            Expr::Select(x, y, z) => {
                self.eval(x, stack);
                let (x, rest) = stack.split_at_mut(CHUNK);
                self.eval(y, rest);
                let (y, rest) = rest.split_at_mut(CHUNK);
                self.eval(z, rest);
                for ((x, y), z) in x[..n].iter_mut().zip(&y[..n]).zip(&rest[..n]) {
                    *x = if *x >= 0.0 { *y } else { *z };
                }
            }
        }
    }
}

fn unary(f: Unary, x: &mut [f32]) {
    match f {
        Unary::Neg => each(x, f32::neg),
        Unary::Abs => each(x, f32::abs),
        Unary::Sign => each(x, sign),
        Unary::Sqrt => each(x, f32::sqrt),
        Unary::Exp => each_math(x, Math::exp),
        Unary::Ln => each(x, f32::ln),
        Unary::Tanh => each_math(x, Math::tanh),
    }
}

fn binary(f: Binary, x: &mut [f32], y: &[f32]) {
    match f {
        Binary::Add => pairs(x, y, f32::add),
        Binary::Sub => pairs(x, y, f32::sub),
        Binary::Mul => pairs(x, y, f32::mul),
        Binary::Div => pairs(x, y, f32::div),
        Binary::Min => pairs(x, y, f32::min),
        Binary::Max => pairs(x, y, f32::max),
    }
}

/// −1, 0 or 1; 0 for NaN.
#[inline(always)]
fn sign(x: f32) -> f32 {
    f32::from(x > 0.0) - f32::from(x < 0.0)
}

fn each(x: &mut [f32], f: impl Fn(f32) -> f32) {
    vectorised(
        #[inline(always)]
        || {
            for x in x {
                *x = f(*x);
            }
        },
    );
}

fn each_math(x: &mut [f32], f: impl Fn(Math, f32) -> f32) {
    with_math(
        #[inline(always)]
        |math| {
            for x in x {
                *x = f(math, *x);
            }
        },
    );
}

fn pairs(x: &mut [f32], y: &[f32], f: impl Fn(f32, f32) -> f32) {
    vectorised(
        #[inline(always)]
        || {
            for (x, &y) in x.iter_mut().zip(y) {
                *x = f(*x, y);
            }
        },
    );
}
