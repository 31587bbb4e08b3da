//! How work is cut and who does it: a thread pool, scratch memory, and functions that cut slices into blocks of rows.
//!
//! The rows of a block depend on the shape alone; threads take whole blocks. A sum over blocks is written to one place per block, and the places are added in the order of the blocks.

use std::sync::{Mutex, PoisonError};

use bytemuck::{Pod, Zeroable};
use rayon::prelude::*;

use super::gemm::Kernel;
use super::simd;

/// Elements of a block of an elementwise operation: 64 KiB of f32, several blocks in a core's cache.
pub(super) const BLOCK_ELEMENTS: usize = 16_384;

/// A thread pool of this device's own, and its scratch memory.
pub(super) struct Workers {
    pool: Option<rayon::ThreadPool>,
    kernel: Kernel,
    scratch: Mutex<Vec<Vec<Line>>>,
}

/// One cache line.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C, align(64))]
pub(super) struct Line([u8; 64]);

impl Line {
    pub(super) const ZERO: Self = Self([0; 64]);
}

impl Workers {
    pub(super) fn new(threads: usize) -> Result<Self, rayon::ThreadPoolBuildError> {
        let threads = match threads {
            0 => std::thread::available_parallelism().map_or(1, usize::from),
            n => n,
        };
        let pool = match threads {
            1 => None,
            n => Some(
                rayon::ThreadPoolBuilder::new()
                    .num_threads(n)
                    .thread_name(|i| format!("cpu-{i}"))
                    .build()?,
            ),
        };
        let kernel = Kernel::of(simd::arch());
        Ok(Self { pool, kernel, scratch: Mutex::new(Vec::new()) })
    }

    /// The same with another kernel, which the machine must have.
    #[cfg(test)]
    pub(super) fn with_kernel(self, kernel: Kernel) -> Self {
        Self { kernel, ..self }
    }

    pub(super) fn threads(&self) -> usize {
        self.pool.as_ref().map_or(1, rayon::ThreadPool::current_num_threads)
    }

    /// What multiplies.
    pub(super) fn kernel(&self) -> Kernel {
        self.kernel
    }

    /// As [`Workers::tasks`], or on this thread alone, when other threads are not worth waking.
    pub(super) fn tasks_if(&self, worth: bool, tasks: usize, f: impl Fn(usize) + Sync + Send) {
        if worth { self.tasks(tasks, f) } else { (0..tasks).for_each(f) }
    }

    /// Runs `f(0)`, `f(1)`, … `f(tasks - 1)`, in any order.
    pub(super) fn tasks(&self, tasks: usize, f: impl Fn(usize) + Sync + Send) {
        match &self.pool {
            Some(pool) if tasks > 1 => {
                pool.install(|| (0..tasks).into_par_iter().with_max_len(1).for_each(f));
            }
            _ => (0..tasks).for_each(f),
        }
    }

    /// Cuts `rows` rows of `what` into blocks of `block` rows (the last may be shorter) and runs `f(first row, block)` on each.
    pub(super) fn blocks<C: Cut>(
        &self,
        rows: usize,
        block: usize,
        what: C,
        f: impl Fn(usize, C) + Sync,
    ) {
        if rows == 0 {
            return;
        }
        let block = block.max(1);
        match &self.pool {
            Some(pool) if rows > block => pool.install(|| halve(0, rows, block, what, &f)),
            _ => one_by_one(rows, block, what, &f),
        }
    }

    /// Lends `len` values of scratch, whatever they hold. Buffers are kept, so that in a steady state none is allocated.
    pub(super) fn scratch<T: Pod, R>(&self, len: usize, f: impl FnOnce(&mut [T]) -> R) -> R {
        let mut lines = self.free_scratch().pop().unwrap_or_default();
        let need = (len * size_of::<T>()).div_ceil(size_of::<Line>());
        if lines.len() < need {
            lines.resize(need, Line::ZERO);
        }
        let result = f(&mut bytemuck::cast_slice_mut(&mut lines[..need])[..len]);
        self.free_scratch().push(lines);
        result
    }

    fn free_scratch(&self) -> std::sync::MutexGuard<'_, Vec<Vec<Line>>> {
        self.scratch.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn halve<C: Cut>(first: usize, rows: usize, block: usize, what: C, f: &(impl Fn(usize, C) + Sync)) {
    if rows <= block {
        return f(first, what);
    }
    let head_rows = rows.div_ceil(block) / 2 * block;
    let (head, tail) = what.cut(head_rows);
    rayon::join(
        || halve(first, head_rows, block, head, f),
        || halve(first + head_rows, rows - head_rows, block, tail, f),
    );
}

fn one_by_one<C: Cut>(rows: usize, block: usize, what: C, f: &impl Fn(usize, C)) {
    let (mut first, mut rest) = (0, what);
    while rows - first > block {
        let (head, tail) = rest.cut(block);
        f(first, head);
        first += block;
        rest = tail;
    }
    f(first, rest);
}

/// Rows per block of an elementwise operation on rows of `width` elements.
pub(super) fn block_rows(width: usize) -> usize {
    (BLOCK_ELEMENTS / width.max(1)).max(1)
}

/// Something whose first rows can be cut off.
pub(super) trait Cut: Sized + Send {
    /// The first `rows` rows, and the rest. `rows` is a multiple of the block's.
    fn cut(self, rows: usize) -> (Self, Self);
}

/// Rows of `width` elements each.
pub(super) struct Rows<'a, T> {
    pub(super) data: &'a mut [T],
    width: usize,
}

pub(super) fn rows<T>(data: &mut [T], width: usize) -> Rows<'_, T> {
    Rows { data, width }
}

impl<T: Send> Cut for Rows<'_, T> {
    fn cut(self, rows: usize) -> (Self, Self) {
        let (head, tail) = self.data.split_at_mut(rows * self.width);
        (Rows { data: head, width: self.width }, Rows { data: tail, width: self.width })
    }
}

/// One place of `width` values for each block of `block` rows: a block's part of a sum.
pub(super) struct Partials<'a> {
    pub(super) data: &'a mut [f64],
    width: usize,
    block: usize,
}

impl<'a> Partials<'a> {
    /// The number of values for `rows` rows.
    pub(super) fn len(rows: usize, block: usize, width: usize) -> usize {
        rows.div_ceil(block) * width
    }

    pub(super) fn new(data: &'a mut [f64], width: usize, block: usize) -> Self {
        Self { data, width, block }
    }
}

impl Cut for Partials<'_> {
    fn cut(self, rows: usize) -> (Self, Self) {
        let Self { data, width, block } = self;
        let (head, tail) = data.split_at_mut(rows / block * width);
        (Self { data: head, width, block }, Self { data: tail, width, block })
    }
}

/// Adds the blocks' parts, in block order, to `total`.
pub(super) fn add_partials(total: &mut [f32], partials: &[f64]) {
    let width = total.len();
    for (i, total) in total.iter_mut().enumerate() {
        let sum: f64 = partials[i..].iter().step_by(width).sum();
        *total = (f64::from(*total) + sum) as f32;
    }
}

impl<A: Cut, B: Cut> Cut for (A, B) {
    fn cut(self, rows: usize) -> (Self, Self) {
        let ((a, a2), (b, b2)) = (self.0.cut(rows), self.1.cut(rows));
        ((a, b), (a2, b2))
    }
}

impl<A: Cut, B: Cut, C: Cut> Cut for (A, B, C) {
    fn cut(self, rows: usize) -> (Self, Self) {
        let ((a, a2), (b, b2), (c, c2)) = (self.0.cut(rows), self.1.cut(rows), self.2.cut(rows));
        ((a, b, c), (a2, b2, c2))
    }
}
