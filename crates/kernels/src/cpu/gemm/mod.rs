//! Matrix products of f32: tiles in registers, b in panels, all threads.
//!
//! An element of the result is `start`, then for each block of k (fixed by k alone) one chain of fused multiply-adds in the order of k, added to what is
//! there. So its bits don't depend on how the result is cut, on the number of threads, or on whether the machine has AVX2 or AVX-512. Other machines
//! multiply with the `gemm` crate, whose bits are its own.

mod few;
#[cfg(target_arch = "x86_64")]
mod pack;
mod panels;
#[cfg(target_arch = "x86_64")]
mod tile;

pub(super) use panels::{Kernel, Left, Right};

use std::ops::Range;

use super::matrix::{Mat, MatMut, Shared};
use super::relu2::Then;
use super::work::Workers;

/// Most steps of k between two additions to the result.
const STEPS: usize = 512;
/// Elements that are packed at once, about: 4 MiB, near the second-level caches of two cores.
const PACKED: usize = 1 << 20;
/// Rows of the result that one task works through a panel with, at most. What it reads of a stays in the second-level cache.
const ROWS: usize = 224;
/// Elements of b that strips of a meet one after the other, and that a task packs where each packs its own: 768 KiB, of a second-level cache of 1 MiB or more.
const NEAR: usize = 3 << 16;
/// Most elements of a block of a that are read again for each of those: 1 MiB.
const WIDE: usize = 1 << 18;
/// Tasks that a product is cut into at least, unless they would be smaller than 56 × 64.
const TASKS: usize = 16;
/// Multiplications of a product that is not worth waking another thread for.
const SMALL: usize = 1 << 17;
/// Panels that one task packs.
const PANELS: usize = 8;
/// Elements to pack that are not worth it.
const SMALL_PACK: usize = 1 << 15;

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

impl Start<'_> {
    fn part(self, rows: Range<usize>, cols: Range<usize>) -> Self {
        match self {
            Self::Scaled(factor, of) => Self::Scaled(factor, of.part(rows, cols)),
            start => start,
        }
    }
}

/// then(start + alpha·a·b).
#[derive(Clone, Copy)]
pub(super) struct Product<'a> {
    pub(super) start: Start<'a>,
    pub(super) alpha: f32,
    pub(super) a: Mat<'a>,
    pub(super) b: Mat<'a>,
    pub(super) then: Then<'a>,
}

/// Whether a result is known to be symmetric, start included: then half of it is computed, and the other half copied.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Symmetry {
    Unknown,
    Known,
}

/// The number of blocks of k: of about the same length, at most [`STEPS`]. One, if there is nothing to sum.
fn k_blocks(k: usize) -> usize {
    k.div_ceil(STEPS).max(1)
}

/// One of them.
fn k_block(k: usize, block: usize) -> Range<usize> {
    let blocks = k_blocks(k);
    k * block / blocks..k * (block + 1) / blocks
}

/// How results of one size, below each other, are cut into tasks.
#[derive(Clone, Copy)]
struct Cut {
    m: usize,
    n: usize,
    /// Rows of a task.
    rows: usize,
    /// Columns of a task; whole panels but for the last.
    cols: usize,
}

impl Cut {
    fn new(m: usize, n: usize, count: usize, width: usize, strips: Strips) -> Self {
        let (mut rows, mut cols) = (ROWS, n.next_multiple_of(width));
        while rows > ROWS / 4 && count * m.div_ceil(rows) < TASKS {
            rows /= 2;
        }
        // Who packs his own rows has all columns, so that nobody packs them again.
        while strips != Strips::Own
            && cols > 64
            && count * m.div_ceil(rows) * n.div_ceil(cols) < TASKS
        {
            cols = (cols / 2).next_multiple_of(width);
        }
        // Even parts, so that no thread waits for another's larger one.
        let rows = m.div_ceil(m.div_ceil(rows).max(1)).max(1);
        Self { m, n, rows, cols }
    }

    /// Tasks below each other in one result.
    fn down(&self) -> usize {
        self.m.div_ceil(self.rows)
    }

    fn across(&self) -> usize {
        self.n.div_ceil(self.cols)
    }

    fn rows_of(&self, row: usize) -> Range<usize> {
        row * self.rows..self.m.min((row + 1) * self.rows)
    }

    fn cols_of(&self, col: usize) -> Range<usize> {
        col * self.cols..self.n.min((col + 1) * self.cols)
    }
}

/// Who packs a, if it is packed.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Strips {
    /// Nobody: it lies by rows, or is read seldom.
    None,
    /// All threads, before they multiply.
    Shared,
    /// Each task its own rows, which no other task reads.
    Own,
}

/// What of some products is packed and multiplied at once.
#[derive(Clone, Copy)]
struct Portion {
    /// Products.
    count: usize,
    cols: usize,
    /// Blocks of k.
    blocks: usize,
    strips: Strips,
}

impl Portion {
    /// The largest that keeps what is packed together below [`PACKED`] elements, or about that.
    fn new(kernel: Kernel, count: usize, [m, n, k]: [usize; 3], pack_left: bool) -> Self {
        let (blocks, width) = (k_blocks(k), kernel.width());
        let steps = k.div_ceil(blocks).max(1);
        let half = PACKED / 2 / steps;
        let strips = match pack_left {
            false => Strips::None,
            true if m <= half.max(ROWS) => Strips::Shared,
            true => Strips::Own,
        };
        let cols = n.min((half / width).max(1) * width);
        let left = if strips == Strips::Shared { kernel.strips_len(m, steps) } else { 0 };
        let fit = PACKED / (kernel.packed_len(steps, cols) + left).max(1);
        let count = if cols == n && fit >= blocks { (fit / blocks).min(count) } else { 1 };
        Self { count, cols, blocks: fit.clamp(1, blocks), strips }
    }
}

/// A portion of some products: the columns that `product` gives, and some blocks of k.
struct Part<'p, P> {
    kernel: Kernel,
    blocks: Range<usize>,
    strips: Strips,
    /// Rows minus columns of the first element, where what is below the diagonal is left out.
    below: Option<isize>,
    product: &'p P,
}

impl Workers {
    /// dst = product, on all threads.
    pub(super) fn multiply(&self, dst: MatMut<'_>, start: Start<'_>, a: Mat<'_>, b: Mat<'_>) {
        self.multiply_then(dst, start, a, b, Then::Keep);
    }

    /// dst = then(start + a·b), on all threads.
    pub(super) fn multiply_then(
        &self,
        dst: MatMut<'_>,
        start: Start<'_>,
        a: Mat<'_>,
        b: Mat<'_>,
        then: Then<'_>,
    ) {
        let product = Product { start, alpha: 1.0, a, b, then };
        // A stack of matrices has to give what they give one by one, and so is never multiplied like this.
        if dst.rows <= few::ROWS && dst.cols > 0 && b.row_stride == 1 && a.col_stride == 1 {
            return few::multiply(self, dst, product);
        }
        self.multiply_all(1, dst, Symmetry::Unknown, |_| product);
    }

    /// `count` results of one size, below each other in `dst`: the i-th = product(i), on all threads.
    pub(super) fn multiply_all<'a>(
        &self,
        count: usize,
        mut dst: MatMut<'_>,
        symmetry: Symmetry,
        product: impl Fn(usize) -> Product<'a> + Sync + Send,
    ) {
        if count == 0 || dst.rows == 0 || dst.cols == 0 {
            return;
        }
        let (m, n) = (dst.rows / count, dst.cols);
        let Product { a, b, .. } = product(0);
        let k = a.cols;
        assert!(a.rows == m && b.cols == n && b.rows == k, "({m}, {k}) by ({}, {n})", b.rows);
        let kernel = self.kernel();
        let near = m * k.div_ceil(k_blocks(k)) <= WIDE && n * k > PACKED;
        let enough = n.div_ceil(kernel.width()) >= 4 * self.threads();
        if count == 1 && symmetry == Symmetry::Unknown && a.col_stride == 1 && near && enough {
            return self.wide(dst, product(0));
        }
        // By columns, a is read better once it is packed; unless that is seldom.
        let pack_left = kernel.packs_left() && a.col_stride != 1 && n > 2 * kernel.width();
        let portion = Portion::new(kernel, count, [m, n, k], pack_left);
        let blocks = k_blocks(k);
        for first in (0..count).step_by(portion.count) {
            let count = portion.count.min(count - first);
            for col in (0..n).step_by(portion.cols) {
                let cols = col..n.min(col + portion.cols);
                for block in (0..blocks).step_by(portion.blocks) {
                    let part = |i: usize| {
                        let Product { start, alpha, a, b, then } = product(first + i);
                        let start = match block {
                            0 => start.part(0..m, cols.clone()),
                            _ => Start::Old,
                        };
                        let last = block + portion.blocks >= blocks;
                        let then = if last { then.part(0..m, cols.clone()) } else { Then::Keep };
                        Product { start, alpha, a, b: b.part(0..k, cols.clone()), then }
                    };
                    let part = Part {
                        kernel,
                        blocks: block..blocks.min(block + portion.blocks),
                        strips: portion.strips,
                        // Rows minus columns of the first element.
                        below: (symmetry == Symmetry::Known).then_some(-(col as isize)),
                        product: &part,
                    };
                    self.part(count, dst.part(first * m..(first + count) * m, cols.clone()), &part);
                }
            }
        }
        if symmetry == Symmetry::Known {
            self.mirror(count, dst);
        }
    }

    /// A result of few rows by a large b: each task packs columns of its own, and multiplies all rows by them while they are in the caches of its core. Packed by all, half of
    /// them would have to come from another core, to be used a few times.
    fn wide(&self, dst: MatMut<'_>, product: Product<'_>) {
        let Product { start, alpha, a, b, then } = product;
        let (m, n, k, kernel) = (dst.rows, dst.cols, a.cols, self.kernel());
        let (width, steps) = (kernel.width(), k.div_ceil(k_blocks(k)));
        let panels = n.div_ceil(width);
        let most = (NEAR / steps / width).max(1);
        let tasks = panels.div_ceil(most).max(TASKS.min(panels / 8));
        let each = panels.div_ceil(tasks.next_multiple_of(self.threads())) * width;
        let dst = dst.share();
        self.tasks(n.div_ceil(each), |task| {
            let cols = task * each..n.min((task + 1) * each);
            // SAFETY: each task has columns of its own.
            let mut dst = unsafe { dst.part(0..m, cols.clone()) };
            let mut start = start.part(0..m, cols.clone());
            self.scratch(kernel.packed_len(steps, cols.len()), |packed: &mut [f32]| {
                for block in 0..k_blocks(k) {
                    let k = k_block(k, block);
                    let packed = &mut packed[..kernel.packed_len(k.len(), cols.len())];
                    kernel.pack(packed, b.part(k.clone(), cols.clone()));
                    let right = Right::packed(packed, k.len(), width, 0..k.len());
                    let left = Left::Matrix(a.part(0..m, k));
                    kernel.block(&mut dst, start, alpha, left, right, None);
                    start = Start::Old;
                }
            });
            then.part(0..m, cols).apply(&mut dst);
        });
    }

    /// Packs and multiplies a portion.
    fn part<'a>(
        &self,
        count: usize,
        dst: MatMut<'_>,
        of: &Part<'_, impl Fn(usize) -> Product<'a> + Sync + Send>,
    ) {
        let Part { kernel, strips, .. } = *of;
        let (m, n, k, width) = (dst.rows / count, dst.cols, (of.product)(0).a.cols, kernel.width());
        let cut = Cut::new(m, n, count, width, strips);
        let (panels, down, across) = (n.div_ceil(width), cut.down(), cut.across());
        let blocks: usize = of.blocks.len();
        let steps = k.div_ceil(k_blocks(k));
        // Places of a block of k of one product: its panels, then its strips.
        let of_panels = panels * steps * width;
        let shared = strips == Strips::Shared;
        let of_strips = if shared { kernel.strips_len(cut.rows, steps) } else { 0 };
        let place = of_panels + down * of_strips;
        let right_packs = panels.div_ceil(PANELS);
        let packs = right_packs + if shared { down } else { 0 };
        let few = count * m * n * k <= SMALL;
        self.scratch(count * blocks * place, |packed: &mut [f32]| {
            let all = MatMut::new(&mut *packed, 1, count * blocks * place).share();
            let worth = count * blocks * place > SMALL_PACK;
            self.tasks_if(worth, count * blocks * packs, |task| {
                let (i, block, pack) = (task / packs / blocks, task / packs % blocks, task % packs);
                let Product { a, b, .. } = (of.product)(i);
                let k = k_block(k, of.blocks.start + block);
                let first = (i * blocks + block) * place;
                // SAFETY: each task has a place of its own.
                let place = |from: usize, len: usize| unsafe {
                    all.part(0..1, first + from..first + from + len)
                };
                if let Some(row) = pack.checked_sub(right_packs) {
                    let mut to = place(of_panels + row * of_strips, of_strips);
                    kernel.pack_left(to.row(0), a.part(cut.rows_of(row), k));
                } else {
                    let first = pack * PANELS * width;
                    let b = b.part(k, first..n.min(first + PANELS * width));
                    let mut to = place(first * b.rows, kernel.packed_len(b.rows, b.cols));
                    kernel.pack(to.row(0), b);
                }
            });
            let packed = &*packed;
            let dst = dst.share();
            self.tasks_if(!few, count * down * across, |task| {
                let (i, row, col) = (task / across / down, task / across % down, task % across);
                let (rows, cols) = (cut.rows_of(row), cut.cols_of(col));
                // SAFETY: each task has a part of the result of its own.
                let mut dst =
                    unsafe { dst.part(i * m + rows.start..i * m + rows.end, cols.clone()) };
                let Product { start, alpha, a, then, .. } = (of.product)(i);
                let mut start = start.part(rows.clone(), cols.clone());
                let below = of.below.map(|below| below + rows.start as isize - cols.start as isize);
                for block in 0..blocks {
                    let k = k_block(k, of.blocks.start + block);
                    let packed = &packed[(i * blocks + block) * place..][..place];
                    let (right, lefts) = packed.split_at(of_panels);
                    let right = &right[cols.start * k.len()..];
                    let right = Right::packed(right, k.len(), width, 0..k.len());
                    let a = a.part(rows.clone(), k);
                    match strips {
                        Strips::None => {
                            kernel.block(&mut dst, start, alpha, Left::Matrix(a), right, below);
                        }
                        Strips::Shared => {
                            let left = Left::Strips(&lefts[row * of_strips..], a);
                            kernel.block(&mut dst, start, alpha, left, right, below);
                        }
                        Strips::Own => {
                            self.scratch(kernel.strips_len(a.rows, a.cols), |own: &mut [f32]| {
                                kernel.pack_left(own, a);
                                let left = Left::Strips(own, a);
                                kernel.block(&mut dst, start, alpha, left, right, below);
                            });
                        }
                    }
                    start = Start::Old;
                }
                // Now, while it is in a cache of this core.
                then.part(rows, cols).apply(&mut dst);
            });
        });
    }

    /// Copies what is above the diagonal of square matrices, below each other, to below it.
    fn mirror(&self, count: usize, dst: MatMut<'_>) {
        /// Rows of a task.
        const SIDE: usize = 64;
        let (kernel, n) = (self.kernel(), dst.cols);
        assert!(dst.rows == count * n && dst.row_stride == n);
        let bands = n.div_ceil(SIDE);
        let dst: Shared<'_> = dst.share();
        self.tasks_if(count * n * n > SMALL_PACK, count * bands, |task| {
            let (i, band) = (task / bands, task % bands);
            let rows = band * SIDE..n.min((band + 1) * SIDE);
            // SAFETY: tasks write below the diagonal, each its rows, and read above it.
            unsafe { kernel.mirror(dst.address(i * n, 0), n, rows) }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The kernels of this machine, and the crate's.
    fn kernels() -> Vec<Kernel> {
        let mut kernels = vec![Kernel::Library];
        #[cfg(target_arch = "x86_64")]
        {
            if pulp::x86::V3::try_new().is_some() {
                kernels.push(Kernel::Avx2);
            }
            if pulp::x86::V4::try_new().is_some() {
                kernels.push(Kernel::Avx512);
            }
        }
        kernels
    }

    fn random(len: usize, seed: u64) -> Vec<f32> {
        let mut draws = farthing_base::random::Draws::new(seed, "gemm", 0);
        (0..len).map(|_| draws.unit() as f32 - 0.5).collect()
    }

    /// Which way an operand lies.
    #[derive(Clone, Copy, Debug)]
    enum Lies {
        ByRows,
        ByColumns,
    }

    fn view(data: &[f32], rows: usize, cols: usize, lies: Lies) -> Mat<'_> {
        match lies {
            Lies::ByRows => Mat::new(data, rows, cols),
            Lies::ByColumns => Mat::new(data, cols, rows).t(),
        }
    }

    /// (m, n, k): single rows and columns, one more and one less than a tile's, several blocks of k, several portions of b and of k, tasks that pack their own part of a or
    /// of b, rows that lie a multiple of 16 KiB apart.
    const SIZES: [[usize; 3]; 17] = [
        [1, 1, 1],
        [1, 100, 70],
        [12, 33, 65],
        [13, 31, 17],
        [14, 32, 16],
        [15, 33, 15],
        [29, 65, 0],
        [57, 16, 513],
        [6, 17, 1025],
        [225, 97, 1030],
        [300, 70, 2100],
        [20, 3000, 520],
        [2300, 80, 516],
        [1100, 1050, 530],
        [30, 100, 4096],
        [40, 600, 4096],
        [2100, 40, 4096],
    ];

    #[test]
    fn products_are_those_of_the_definition_whatever_the_kernel() {
        for [m, n, k] in SIZES {
            let (a, b) = (random(m * k, 1), random(k * n, 2));
            let (old, other) = (random(m * n, 3), random(m * n, 4));
            for lies in [
                [Lies::ByRows, Lies::ByRows],
                [Lies::ByRows, Lies::ByColumns],
                [Lies::ByColumns, Lies::ByRows],
                [Lies::ByColumns, Lies::ByColumns],
            ] {
                let (a, b) = (view(&a, m, k, lies[0]), view(&b, k, n, lies[1]));
                for which in 0..3 {
                    let what = format!("({m}, {n}, {k}), {lies:?}, start {which}");
                    let start = match which {
                        0 => Start::Zero,
                        1 => Start::Old,
                        _ => Start::Scaled(0.3, Mat::new(&other, m, n)),
                    };
                    let mut results = Vec::new();
                    for kernel in kernels() {
                        let workers = Workers::new(2).unwrap().with_kernel(kernel);
                        let mut dst = old.clone();
                        workers.multiply_all(
                            1,
                            MatMut::new(&mut dst, m, n),
                            Symmetry::Unknown,
                            |_| Product { start, alpha: 0.7, a, b, then: Then::Keep },
                        );
                        results.push(dst);
                    }
                    for (r, c) in places(m, n) {
                        let sum: f64 =
                            (0..k).map(|k| f64::from(a.at(r, k)) * f64::from(b.at(k, c))).sum();
                        let from = match which {
                            0 => 0.0,
                            1 => f64::from(old[r * n + c]),
                            _ => 0.3 * f64::from(other[r * n + c]),
                        };
                        let exact = from + 0.7 * sum;
                        for result in &results {
                            let got = f64::from(result[r * n + c]);
                            let near = 1e-5 * (1.0 + (k as f64).sqrt());
                            assert!((got - exact).abs() < near, "{what}: {got} for {exact}");
                        }
                    }
                    // The crate's bits are its own.
                    assert!(results[1..].windows(2).all(|two| two[0] == two[1]), "{what}");
                }
            }
        }
    }

    /// All places of a small result, some of a large one.
    fn places(m: usize, n: usize) -> impl Iterator<Item = (usize, usize)> {
        let step = (m * n / 4000).max(1);
        (0..m * n).step_by(step).chain([m * n - 1]).map(move |i| (i / n, i % n))
    }

    #[test]
    fn stacks_are_their_products_one_by_one_and_symmetric_ones_are_so_to_the_bit() {
        for (count, n, k) in [(1, 1, 3), (3, 13, 20), (2, 33, 40), (5, 70, 600), (2, 260, 100)] {
            let x = random(count * n * k, 5);
            let nth = |i: usize| Mat::new(&x[i * n * k..(i + 1) * n * k], n, k);
            let mut results = Vec::new();
            for kernel in kernels() {
                let workers = Workers::new(2).unwrap().with_kernel(kernel);
                let then = Then::Keep;
                let product =
                    |i| Product { start: Start::Zero, alpha: 1.0, a: nth(i), b: nth(i).t(), then };
                let mut whole = vec![f32::NAN; count * n * n];
                let dst = MatMut::new(&mut whole, count * n, n);
                workers.multiply_all(count, dst, Symmetry::Unknown, product);
                let mut half = vec![f32::NAN; count * n * n];
                let dst = MatMut::new(&mut half, count * n, n);
                workers.multiply_all(count, dst, Symmetry::Known, product);
                if kernel != Kernel::Library {
                    assert!(half == whole, "{kernel:?}, {count} of {n} by {k}");
                }
                for i in 0..count {
                    let mut one = vec![f32::NAN; n * n];
                    let dst = MatMut::new(&mut one, n, n);
                    workers.multiply_all(1, dst, Symmetry::Unknown, |_| product(i));
                    assert!(one == whole[i * n * n..(i + 1) * n * n], "{kernel:?}, {i} of {count}");
                    let at = |r: usize, c: usize| half[(i * n + r) * n + c];
                    let same = (0..n).all(|r| (0..r).all(|c| at(r, c) == at(c, r)));
                    assert!(same, "{kernel:?}, {count} of {n} by {k}");
                }
                results.push(half);
            }
            assert!(results[1..].windows(2).all(|two| two[0] == two[1]));
        }
    }
}
