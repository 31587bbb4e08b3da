//! A block of a product on one thread: panels of columns, and in each, tiles of rows.

use std::ops::Range;

use super::super::matrix::{Mat, MatMut};
use super::Start;
#[cfg(target_arch = "x86_64")]
use super::{NEAR, STEPS, pack, tile};

/// What multiplies on a machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in super::super) enum Kernel {
    /// Tiles of 14 × 32.
    #[cfg(target_arch = "x86_64")]
    Avx512,
    /// Tiles of 6 × 16.
    #[cfg(target_arch = "x86_64")]
    Avx2,
    /// The `gemm` crate.
    Library,
}

/// The left operand of a block.
#[derive(Clone, Copy)]
pub(in super::super) enum Left<'a> {
    /// As it lies, by rows or by columns.
    Matrix(Mat<'a>),
    /// Packed by [`Kernel::pack_left`]; and what it was packed from.
    Strips(&'a [f32], Mat<'a>),
}

/// The right operand of a block: (k, columns), packed.
#[derive(Clone, Copy)]
pub(in super::super) struct Right<'a> {
    data: &'a [f32],
    k: usize,
    /// Elements from a panel to the next, and from a row of it to the next.
    panel: usize,
    width: usize,
}

impl<'a> Right<'a> {
    /// Rows `rows` of panels of `k` rows and `width` columns below each other, as [`Kernel::pack_all`] makes them.
    pub(in super::super) fn packed(
        data: &'a [f32],
        k: usize,
        width: usize,
        rows: Range<usize>,
    ) -> Self {
        assert!(rows.start <= rows.end && rows.end <= k);
        let data = &data[(rows.start * width).min(data.len())..];
        Self { data, k: rows.len(), panel: k * width, width }
    }
}

impl Kernel {
    /// The one for these instructions.
    pub(in super::super) fn of(arch: pulp::Arch) -> Self {
        match arch {
            #[cfg(target_arch = "x86_64")]
            pulp::Arch::V4(_) => Self::Avx512,
            #[cfg(target_arch = "x86_64")]
            pulp::Arch::V3(_) => Self::Avx2,
            _ => Self::Library,
        }
    }

    /// Columns of a panel.
    pub(in super::super) fn width(self) -> usize {
        match self {
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 => 32,
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => 16,
            Self::Library => 64,
        }
    }

    /// Elements of all panels of a (k, n) matrix.
    pub(in super::super) fn packed_len(self, k: usize, n: usize) -> usize {
        k * n.next_multiple_of(self.width())
    }

    /// Packs b to panels below each other.
    pub(in super::super) fn pack(self, to: &mut [f32], b: Mat<'_>) {
        assert!(b.row_stride == 1 || b.col_stride == 1);
        assert!(to.len() == self.packed_len(b.rows, b.cols));
        match self {
            #[cfg(target_arch = "x86_64")]
            // SAFETY: the machine has the instructions (`Kernel::of`), and the lengths are checked.
            Self::Avx512 => unsafe { pack::panels512(to, b) },
            #[cfg(target_arch = "x86_64")]
            // SAFETY: as above.
            Self::Avx2 => unsafe { pack::panels256(to, b) },
            Self::Library => {
                let width = self.width();
                for (i, to) in to.chunks_exact_mut(width).enumerate() {
                    let (panel, k) = (i / b.rows, i % b.rows);
                    to.fill(0.0);
                    for (to, c) in to.iter_mut().zip(panel * width..b.cols) {
                        *to = b.at(k, c);
                    }
                }
            }
        }
    }

    /// Whether there are strips.
    pub(super) fn packs_left(self) -> bool {
        self != Self::Library
    }

    /// Elements of the strips of an (m, k) matrix.
    pub(super) fn strips_len(self, m: usize, k: usize) -> usize {
        match self {
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 | Self::Avx2 => {
                m.div_ceil(self.rows()) * pack::strip_len(k, self.width() / 2)
            }
            Self::Library => {
                let _ = (m, k);
                0
            }
        }
    }

    /// Packs a, which lies by columns, to strips.
    pub(super) fn pack_left(self, to: &mut [f32], a: Mat<'_>) {
        match self {
            #[cfg(target_arch = "x86_64")]
            // SAFETY: the machine has the instructions; lengths are checked there.
            Self::Avx512 => unsafe { pack::strips512(to, a, self.rows()) },
            #[cfg(target_arch = "x86_64")]
            // SAFETY: as above.
            Self::Avx2 => unsafe { pack::strips256(to, a, self.rows()) },
            Self::Library => {}
        }
    }

    /// Writes rows `rows` below the diagonal of an (n, n) matrix from what is above it.
    ///
    /// # Safety
    /// The matrix is `at`; nobody else writes to it above the diagonal, or reads or writes these rows below it.
    pub(super) unsafe fn mirror(self, at: *mut f32, n: usize, rows: Range<usize>) {
        match self {
            #[cfg(target_arch = "x86_64")]
            // SAFETY: the machine has the instructions, and the caller's promise.
            Self::Avx512 => unsafe { pack::mirror512(at, n, rows) },
            #[cfg(target_arch = "x86_64")]
            // SAFETY: as above.
            Self::Avx2 => unsafe { pack::mirror256(at, n, rows) },
            Self::Library => {
                for (r, c) in rows.flat_map(|r| (0..r).map(move |c| (r, c))) {
                    // SAFETY: the caller's promise; rows and columns below n.
                    unsafe { *at.add(r * n + c) = *at.add(c * n + r) }
                }
            }
        }
    }

    /// Most rows of a tile.
    #[cfg(target_arch = "x86_64")]
    fn rows(self) -> usize {
        match self {
            Self::Avx512 => 14,
            Self::Avx2 => 6,
            Self::Library => usize::MAX,
        }
    }

    /// dst = start + alpha·left·right, on this thread. With `below`, tiles that lie below a diagonal are left out: those whose last column is less than their first
    /// row, the first element's row less its column being `below`.
    pub(in super::super) fn block(
        self,
        dst: &mut MatMut<'_>,
        start: Start<'_>,
        alpha: f32,
        left: Left<'_>,
        right: Right<'_>,
        below: Option<isize>,
    ) {
        let (Left::Matrix(a) | Left::Strips(_, a)) = left;
        let (m, n) = (dst.rows, dst.cols);
        if m == 0 || n == 0 {
            return;
        }
        assert!(a.rows == m && a.cols == right.k && (a.col_stride == 1 || a.row_stride == 1));
        let panels = n.div_ceil(self.width());
        assert!(right.data.len() >= (panels - 1) * right.panel + right.k * right.width);
        if let Start::Scaled(_, of) = start {
            assert!(of.rows == m && of.cols == n && of.col_stride == 1);
        }
        match self {
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 => self.tiles(&tile::AVX512, dst, start, alpha, left, right, below),
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => self.tiles(&tile::AVX2, dst, start, alpha, left, right, below),
            Self::Library => library(dst, start, alpha, a, right),
        }
    }

    #[cfg(target_arch = "x86_64")]
    fn tiles<const ROWS: usize>(
        self,
        table: &[[[tile::TileFn; ROWS]; 2]; 2],
        dst: &mut MatMut<'_>,
        start: Start<'_>,
        alpha: f32,
        left: Left<'_>,
        right: Right<'_>,
        below: Option<isize>,
    ) {
        let (m, n, width) = (dst.rows, dst.cols, self.width());
        let lanes = width / 2;
        let (from, from_stride, factor) = match start {
            Start::Zero => (std::ptr::null(), 0, 0.0),
            Start::Old => (dst.address.cast_const(), dst.row_stride, 1.0),
            Start::Scaled(factor, of) => (of.address, of.row_stride, factor),
        };
        // Rows of a that lie a multiple of 16 KiB apart would all be in the same sets of a cache, and drive each other out: such strips are copied, which takes 1/100 of the time.
        let apart = match left {
            Left::Matrix(a) => {
                a.col_stride == 1
                    && a.row_stride.is_multiple_of(FAR)
                    && a.cols <= STEPS
                    && n >= COPIED
            }
            Left::Strips(..) => false,
        };
        let mut apart = apart.then(Apart::new);
        // A strip of a stays in the first-level cache while it meets some panels, and those in the second.
        let near = (NEAR / (right.k.max(1) * width)).max(1) * width;
        for from_col in (0..n).step_by(near) {
            let until = n.min(from_col + near);
            let tiles = (until - from_col).div_ceil(width);
            let mut strips = pack::even(m, ROWS).enumerate().peekable();
            while let Some((strip, rows)) = strips.next() {
                let next = strips.peek().map(|(_, rows)| rows.clone());
                let (down, a, a_stride) = match (left, &mut apart) {
                    (Left::Strips(strips, a), _) => {
                        let strip = strip * pack::strip_len(a.cols, lanes);
                        (1, strips[strip..].as_ptr(), lanes)
                    }
                    (Left::Matrix(a), Some(apart)) => {
                        (0, apart.copy(a, rows.clone()), Apart::STRIDE)
                    }
                    (Left::Matrix(a), None) => {
                        let down = a.col_stride != 1;
                        let stride = if down { a.col_stride } else { a.row_stride };
                        let first = a.address.wrapping_add(rows.start * a.row_stride);
                        (usize::from(down), first, stride)
                    }
                };
                for (i, first) in (from_col..until).step_by(width).enumerate() {
                    if let (Left::Matrix(a), Some(next), None) = (left, &next, &apart) {
                        fetch(a, next.clone(), i, tiles);
                    }
                    let cols = width.min(n - first);
                    if below
                        .is_some_and(|below| (first + cols) as isize <= rows.start as isize + below)
                    {
                        continue;
                    }
                    let from = if from.is_null() {
                        from
                    } else {
                        from.wrapping_add(rows.start * from_stride + first)
                    };
                    let of = tile::Tile {
                        k: right.k,
                        a,
                        a_stride,
                        b: right.data[first / width * right.panel..].as_ptr(),
                        b_stride: right.width,
                        dst: dst.address.wrapping_add(rows.start * dst.row_stride + first),
                        dst_stride: dst.row_stride,
                        cols,
                        alpha,
                        from,
                        from_stride,
                        factor,
                    };
                    let tile = table[down][usize::from(cols > lanes)][rows.len() - 1];
                    // SAFETY: the machine has the instructions, and the views hold what the tile reaches, `dst` uniquely.
                    unsafe { tile(&of) }
                }
            }
        }
    }
}

/// Elements between rows whose caches take them for neighbours: 16 KiB.
#[cfg(target_arch = "x86_64")]
const FAR: usize = 4096;
/// Columns from which on a copy of rows pays.
#[cfg(target_arch = "x86_64")]
const COPIED: usize = 96;

/// Rows of a, copied to where their elements of one column are in different sets of the first-level cache.
#[cfg(target_arch = "x86_64")]
struct Apart([f32; Self::ROWS * Self::STRIDE]);

#[cfg(target_arch = "x86_64")]
impl Apart {
    /// The most that a tile has.
    const ROWS: usize = 14;
    const STRIDE: usize = STEPS + 16;

    #[allow(
        clippy::large_stack_arrays,
        reason = "30 KB of a stack of 2 MiB or more; a step allocates nothing"
    )]
    fn new() -> Self {
        Self([0.0; Self::ROWS * Self::STRIDE])
    }

    /// The copy's first element.
    fn copy(&mut self, a: Mat<'_>, rows: Range<usize>) -> *const f32 {
        for (to, row) in self.0.chunks_exact_mut(Self::STRIDE).zip(rows) {
            to[..a.cols].copy_from_slice(a.row(row));
        }
        self.0.as_ptr()
    }
}

/// Asks for the `part`-th of `parts` of some rows of a matrix, so that they come while other rows are multiplied: a row is too short for the processor to see it coming.
#[cfg(target_arch = "x86_64")]
fn fetch(a: Mat<'_>, rows: Range<usize>, part: usize, parts: usize) {
    /// Elements of a cache line.
    const LINE: usize = 16;
    if a.col_stride != 1 {
        return;
    }
    let lines = a.cols.div_ceil(LINE);
    for line in lines * part / parts..lines * (part + 1) / parts {
        for row in rows.clone() {
            let at = a.address.wrapping_add(row * a.row_stride + line * LINE);
            // SAFETY: a hint, whatever the address.
            unsafe {
                std::arch::x86_64::_mm_prefetch::<{ std::arch::x86_64::_MM_HINT_T0 }>(at.cast());
            };
        }
    }
}

/// The same, computed by the `gemm` crate, a panel at a time.
fn library(dst: &mut MatMut<'_>, start: Start<'_>, alpha: f32, a: Mat<'_>, right: Right<'_>) {
    let (m, n, k) = (dst.rows, dst.cols, right.k);
    if let Start::Scaled(factor, of) = start {
        for r in 0..m {
            dst.row(r).iter_mut().zip(of.row(r)).for_each(|(to, from)| *to = factor * from);
        }
    }
    for (panel, first) in (0..n).step_by(right.width).enumerate() {
        let cols = right.width.min(n - first);
        // The crate's kernels write columns, so the transpose is computed: dstᵀ = bᵀ·aᵀ.
        // SAFETY: the views hold n·k, k·m and n·m elements at these strides, `dst` uniquely.
        unsafe {
            gemm_f32::gemm::f32::get_gemm_fn()(
                cols,
                m,
                k,
                dst.address.add(first),
                dst.row_stride as isize,
                1,
                !matches!(start, Start::Zero),
                right.data[panel * right.panel..].as_ptr(),
                right.width as isize,
                1,
                a.address,
                a.row_stride as isize,
                a.col_stride as isize,
                1.0,
                alpha,
                false,
                false,
                false,
                gemm_common::Parallelism::None,
            );
        }
    }
}
