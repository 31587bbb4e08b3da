//! Products of a few rows of x with a matrix in bf16 or int8. Weights are widened in registers and multiplied at once, which keeps the loop as fast as memory delivers them.
//!
//! Rows of the matrix and of x are padded with zeros to whole cache lines, and no loop has a remainder. Every dot product is summed in the same lanes, whatever the vectors and
//! however many rows are computed together. AVX-512, AVX2 and plain loops therefore give the same bits.

#[cfg(target_arch = "x86_64")]
use super::vectors;
use crate::Bf16;
use crate::cpu::gemm::Kernel;
use crate::cpu::matrix::MatMut;
use crate::cpu::simd::{LANES, Lanes};

/// Elements that rows are padded to a multiple of: a cache line of int8.
pub(super) const PAD: usize = 64;
/// Where weights are bf16, element `i` of x lies behind so many: of each [`LANES`] the even ones come first, then the odd ones. Two bf16 in 32 bits are a shift and a mask away
/// from two f32, the even one and the odd one; in the order of the file they would have to be moved apart first.
pub(super) fn apart(i: usize) -> usize {
    let lane = i % LANES;
    i - lane + lane / 2 + lane % 2 * (LANES / 2)
}

/// Elements of a row of x that share a scale, where x is whole numbers.
pub(super) const BLOCK: usize = 512;

/// What multiplies [`LANES`] elements at once.
pub(super) trait Step {
    /// An element of the matrix.
    type Weight;
    /// An element of x.
    type Left;
    /// Weights as they are multiplied.
    type Wide: Copy;
    /// Sums of a block of k.
    type Sum: Copy;
    /// Elements of a block: a multiple of [`PAD`].
    const BLOCK: usize;

    unsafe fn zero() -> Self::Sum;
    unsafe fn widen(from: *const Self::Weight) -> Self::Wide;
    unsafe fn add(sum: Self::Sum, w: Self::Wide, x: *const Self::Left) -> Self::Sum;
    /// Adds a block's sums, times its scale, to what there is.
    unsafe fn total(totals: &mut [f32; LANES], sum: Self::Sum, scale: f32);
    /// Asks for the cache line of what will be read soon.
    unsafe fn ask(for_: *const Self::Weight);
}

/// Rows of x, padded, and the scales of their blocks.
#[derive(Clone, Copy)]
pub(super) struct Left<'a, X> {
    pub(super) x: &'a [X],
    pub(super) scales: &'a [f32],
}

/// Some rows of a matrix, padded to `k`, and their scales, if they have any.
#[derive(Clone, Copy)]
pub(super) struct Right<'a, W> {
    pub(super) w: &'a [W],
    pub(super) scales: Option<&'a [f32]>,
    pub(super) k: usize,
}

/// y = x · wᵀ, or added to it; y has a column for each row of w.
pub(super) struct Job<'a, 'y, W, X> {
    pub(super) y: &'a mut MatMut<'y>,
    pub(super) x: Left<'a, X>,
    pub(super) w: Right<'a, W>,
    pub(super) accumulate: bool,
}

impl Job<'_, '_, Bf16, f32> {
    pub(super) fn run(self, kernel: Kernel) {
        match kernel {
            #[cfg(target_arch = "x86_64")]
            // SAFETY: the machine has the instructions (`Kernel::of`).
            Kernel::Avx512 => unsafe { vectors::bf16_512(self) },
            #[cfg(target_arch = "x86_64")]
            // SAFETY: as above.
            Kernel::Avx2 => unsafe { vectors::bf16_256(self) },
            // SAFETY: plain loops want no instructions.
            Kernel::Library => unsafe { columns::<Plain<Bf16>, 1, 1>(self) },
        }
    }
}

impl Job<'_, '_, i8, i16> {
    pub(super) fn run(self, kernel: Kernel) {
        match kernel {
            #[cfg(target_arch = "x86_64")]
            // SAFETY: the machine has the instructions (`Kernel::of`).
            Kernel::Avx512 => unsafe { vectors::int8_512(self) },
            #[cfg(target_arch = "x86_64")]
            // SAFETY: as above.
            Kernel::Avx2 => unsafe { vectors::int8_256(self) },
            // SAFETY: plain loops want no instructions.
            Kernel::Library => unsafe { columns::<Plain<i8>, 1, 1>(self) },
        }
    }
}

/// The job, R rows of x and C of the matrix at a time.
///
/// # Safety
/// The machine has the instructions of S.
#[inline(always)]
pub(super) unsafe fn columns<S: Step, const R: usize, const C: usize>(
    job: Job<'_, '_, S::Weight, S::Left>,
) {
    let Job { y, x, w, accumulate } = job;
    let (k, blocks) = (w.k, w.k.div_ceil(S::BLOCK));
    assert!(k.is_multiple_of(PAD) && w.w.len() == y.cols * k && x.x.len() == y.rows * k);
    assert!(x.scales.len() == y.rows * blocks && w.scales.is_none_or(|s| s.len() == y.cols));
    let mut put = |r: usize, c: usize, sum: f32| {
        let sum = w.scales.map_or(sum, |scales| scales[c] * sum);
        let to = &mut y.row(r)[c];
        *to = if accumulate { *to + sum } else { sum };
    };
    let (rows, cols) = (x.x.len() / k, w.w.len() / k);
    let mut c = 0;
    while c < cols {
        let (mut r, many) = (0, c + C <= cols);
        let at = &w.w[c * k..];
        while r < rows {
            let x = &Left { x: &x.x[r * k..], scales: &x.scales[r * blocks..] };
            // SAFETY: the caller's promise; there are R or 1 rows of x here, C or 1 of the matrix.
            unsafe {
                match (r + R <= rows, many) {
                    (true, true) => dots::<S, R, C>(x, at, k, |i, j, sum| put(r + i, c + j, sum)),
                    (false, true) => dots::<S, 1, C>(x, at, k, |i, j, sum| put(r + i, c + j, sum)),
                    (true, false) => dots::<S, R, 1>(x, at, k, |i, j, sum| put(r + i, c + j, sum)),
                    (false, false) => dots::<S, 1, 1>(x, at, k, |i, j, sum| put(r + i, c + j, sum)),
                }
            }
            r += if r + R <= rows { R } else { 1 };
        }
        c += if many { C } else { 1 };
    }
}

/// The dot products of the first R rows of x with the first C of the matrix.
///
/// # Safety
/// There are so many of `k` elements, a multiple of [`PAD`], and scales; the machine has the instructions of S.
#[allow(clippy::needless_range_loop, reason = "over registers, which compilers then keep")]
#[inline(always)]
unsafe fn dots<S: Step, const R: usize, const C: usize>(
    x: &Left<'_, S::Left>,
    w: &[S::Weight],
    k: usize,
    mut put: impl FnMut(usize, usize, f32),
) {
    /// Bytes that a row is asked for ahead of its being read.
    const AHEAD: usize = 8_192;
    let blocks = k.div_ceil(S::BLOCK);
    let mut totals = [[[0.0; LANES]; C]; R];
    for block in 0..blocks {
        // SAFETY: the caller's promise; what is only asked for may lie outside.
        unsafe {
            let mut sums = [[S::zero(); C]; R];
            let from = block * S::BLOCK;
            for at in (from..k.min(from + S::BLOCK)).step_by(LANES) {
                for c in 0..C {
                    let from = w.as_ptr().add(c * k + at);
                    S::ask(from.wrapping_byte_add(AHEAD));
                    let wide = S::widen(from);
                    for r in 0..R {
                        sums[r][c] = S::add(sums[r][c], wide, x.x.as_ptr().add(r * k + at));
                    }
                }
            }
            for r in 0..R {
                for c in 0..C {
                    S::total(&mut totals[r][c], sums[r][c], x.scales[r * blocks + block]);
                }
            }
        }
    }
    for r in 0..R {
        for c in 0..C {
            put(r, c, Lanes(totals[r][c]).add_up());
        }
    }
}

/// Plain loops: the definition.
pub(super) struct Plain<W>(std::marker::PhantomData<W>);

#[allow(clippy::undocumented_unsafe_blocks, reason = "pointers are to LANES elements")]
impl Step for Plain<Bf16> {
    type Weight = Bf16;
    type Left = f32;
    type Wide = [f32; LANES];
    type Sum = [f32; LANES];
    const BLOCK: usize = usize::MAX / PAD * PAD;

    unsafe fn zero() -> Self::Sum {
        [0.0; LANES]
    }

    unsafe fn widen(from: *const Bf16) -> Self::Wide {
        let mut wide = [0.0; LANES];
        for i in 0..LANES {
            wide[apart(i)] = unsafe { (*from.add(i)).to_f32() };
        }
        wide
    }

    unsafe fn add(sum: Self::Sum, w: Self::Wide, x: *const f32) -> Self::Sum {
        std::array::from_fn(|i| unsafe { (*x.add(i)).mul_add(w[i], sum[i]) })
    }

    unsafe fn total(totals: &mut [f32; LANES], sum: Self::Sum, _: f32) {
        *totals = std::array::from_fn(|i| sum[apart(i)]);
    }

    unsafe fn ask(_: *const Bf16) {}
}

/// Whole numbers are multiplied exactly, and those of two neighbours added before they go to a lane.
#[allow(clippy::undocumented_unsafe_blocks, reason = "pointers are to LANES elements")]
impl Step for Plain<i8> {
    type Weight = i8;
    type Left = i16;
    type Wide = [i32; LANES];
    type Sum = [i32; LANES / 2];
    const BLOCK: usize = BLOCK;

    unsafe fn zero() -> Self::Sum {
        [0; LANES / 2]
    }

    unsafe fn widen(from: *const i8) -> Self::Wide {
        std::array::from_fn(|i| unsafe { i32::from(*from.add(i)) })
    }

    unsafe fn add(sum: Self::Sum, w: Self::Wide, x: *const i16) -> Self::Sum {
        let product = |i: usize| unsafe { i32::from(*x.add(i)) * w[i] };
        std::array::from_fn(|i| sum[i] + product(2 * i) + product(2 * i + 1))
    }

    unsafe fn total(totals: &mut [f32; LANES], sum: Self::Sum, scale: f32) {
        for (total, sum) in totals.iter_mut().zip(sum) {
            *total += scale * sum as f32;
        }
    }

    unsafe fn ask(_: *const i8) {}
}
