//! One tile of a product: rows of dst held in vector registers while k runs.
//!
//! An element is one chain of fused multiply-adds in the order of k, whatever the vectors: so AVX2 and AVX-512 give equal bits, and so does any
//! way of cutting the result into tiles.

#![allow(clippy::wildcard_imports, reason = "36 instructions")]
#![allow(
    clippy::needless_range_loop,
    reason = "rows and columns of registers, all of whose indices are constants once unrolled"
)]

use std::arch::x86_64::*;

/// What is computed: dst = start + alpha · a·b for `rows` × `cols` elements, rows being the tile's own.
pub(super) struct Tile {
    pub(super) k: usize,
    /// First element of a, and the distance of rows (when a lies by rows) or of steps of k (when it lies by columns).
    pub(super) a: *const f32,
    pub(super) a_stride: usize,
    /// First row of b, and the distance of rows.
    pub(super) b: *const f32,
    pub(super) b_stride: usize,
    pub(super) dst: *mut f32,
    pub(super) dst_stride: usize,
    pub(super) cols: usize,
    pub(super) alpha: f32,
    /// What the product is added to: `factor` times a matrix, if it is not null. dst itself with 1 is the common case.
    pub(super) from: *const f32,
    pub(super) from_stride: usize,
    pub(super) factor: f32,
}

/// Rows of b that are fetched ahead.
const AHEAD: usize = 12;

/// A tile's function.
pub(super) type TileFn = unsafe fn(&Tile);

/// Vectors of f32. All methods want the instructions of their kind.
pub(super) trait Vector: Copy {
    const LANES: usize;
    type Mask: Copy;
    unsafe fn zero() -> Self;
    unsafe fn splat(x: f32) -> Self;
    /// The first `lanes` lanes, at least one.
    unsafe fn mask(lanes: usize) -> Self::Mask;
    unsafe fn load(from: *const f32) -> Self;
    /// Masked lanes, zero elsewhere; nothing else is read.
    unsafe fn load_masked(from: *const f32, mask: Self::Mask) -> Self;
    unsafe fn store(self, to: *mut f32);
    unsafe fn store_masked(self, to: *mut f32, mask: Self::Mask);
    unsafe fn mul(self, by: Self) -> Self;
    /// self · by + plus, rounded once.
    unsafe fn fma(self, by: Self, plus: Self) -> Self;
    /// Rows become columns. `rows` has LANES vectors.
    unsafe fn transpose(rows: &mut [Self]);
}

/// Computes a tile of R rows and at most C vectors of columns. `DOWN`: a lies by columns.
///
/// # Safety
/// The machine has V's instructions, and `of` describes matrices of these sizes, dst being unique.
#[inline(always)]
unsafe fn tile<V: Vector, const R: usize, const C: usize, const DOWN: bool>(of: &Tile) {
    // SAFETY: the caller's promise; every access is to one of R rows or k steps, and to columns below `cols`.
    unsafe {
        let last = V::mask(of.cols - (C - 1) * V::LANES);
        let mut sums = [[V::zero(); C]; R];
        let (mut a, mut b) = (of.a, of.b);
        // Rows of dst are asked for one at a time, while k runs: all at once, they would keep a and b waiting.
        let (mut ahead, mut left) = (of.dst, of.k);
        let part = of.k / (R + 1);
        while left > 0 {
            let steps = if left < 2 * part { left } else { part.max(1) };
            left -= steps;
            for c in 0..C {
                _mm_prefetch::<_MM_HINT_T0>(ahead.wrapping_add(c * V::LANES).cast_const().cast());
            }
            ahead = ahead.wrapping_add(of.dst_stride);
            for _ in 0..steps {
                let mut row = [V::zero(); C];
                for c in 0..C {
                    let next = b.wrapping_add(AHEAD * of.b_stride + c * V::LANES);
                    _mm_prefetch::<_MM_HINT_T0>(next.cast());
                }
                for c in 0..C - 1 {
                    row[c] = V::load(b.add(c * V::LANES));
                }
                row[C - 1] = V::load_masked(b.add((C - 1) * V::LANES), last);
                for r in 0..R {
                    let x = V::splat(if DOWN { *a.add(r) } else { *a.add(r * of.a_stride) });
                    for c in 0..C {
                        sums[r][c] = x.fma(row[c], sums[r][c]);
                    }
                }
                b = b.wrapping_add(of.b_stride);
                a = a.wrapping_add(if DOWN { of.a_stride } else { 1 });
            }
        }
        let (alpha, factor) = (V::splat(of.alpha), V::splat(of.factor));
        for r in 0..R {
            for c in 0..C {
                let sum = sums[r][c];
                let result = if of.from.is_null() {
                    alpha.mul(sum)
                } else {
                    let from = of.from.add(r * of.from_stride + c * V::LANES);
                    let from = if c < C - 1 { V::load(from) } else { V::load_masked(from, last) };
                    alpha.fma(sum, factor.mul(from))
                };
                let to = of.dst.add(r * of.dst_stride + c * V::LANES);
                if c < C - 1 { result.store(to) } else { result.store_masked(to, last) }
            }
        }
    }
}

/// Tiles of one kind of vectors: `[by columns or not][vectors - 1][rows - 1]`.
type Table<const ROWS: usize> = [[[TileFn; ROWS]; 2]; 2];

macro_rules! table {
    ($tile:ident: $($rows:literal)*) => {
        [
            [[$($tile::<$rows, 1, false>),*], [$($tile::<$rows, 2, false>),*]],
            [[$($tile::<$rows, 1, true>),*], [$($tile::<$rows, 2, true>),*]],
        ]
    };
}

#[derive(Clone, Copy)]
pub(super) struct Avx512(__m512);

/// # Safety
/// As [`tile`].
#[target_feature(enable = "avx512f,fma")]
unsafe fn tile512<const R: usize, const C: usize, const DOWN: bool>(of: &Tile) {
    // SAFETY: the caller's promise.
    unsafe { tile::<Avx512, R, C, DOWN>(of) }
}

/// 28 of 32 registers are sums, two hold b.
pub(super) static AVX512: Table<14> = table!(tile512: 1 2 3 4 5 6 7 8 9 10 11 12 13 14);

#[derive(Clone, Copy)]
pub(super) struct Avx2(__m256);

/// # Safety
/// As [`tile`].
#[target_feature(enable = "avx2,fma")]
unsafe fn tile256<const R: usize, const C: usize, const DOWN: bool>(of: &Tile) {
    // SAFETY: the caller's promise.
    unsafe { tile::<Avx2, R, C, DOWN>(of) }
}

/// 12 of 16 registers are sums, two hold b.
pub(super) static AVX2: Table<6> = table!(tile256: 1 2 3 4 5 6);

#[allow(
    clippy::undocumented_unsafe_blocks,
    reason = "a method is instructions of its kind, on registers or on memory that its caller vouches for"
)]
impl Vector for Avx512 {
    const LANES: usize = 16;
    type Mask = __mmask16;

    #[inline(always)]
    unsafe fn zero() -> Self {
        unsafe { Self(_mm512_setzero_ps()) }
    }

    #[inline(always)]
    unsafe fn splat(x: f32) -> Self {
        unsafe { Self(_mm512_set1_ps(x)) }
    }

    #[inline(always)]
    unsafe fn mask(lanes: usize) -> Self::Mask {
        u16::MAX >> (Self::LANES - lanes)
    }

    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        unsafe { Self(_mm512_loadu_ps(from)) }
    }

    #[inline(always)]
    unsafe fn load_masked(from: *const f32, mask: Self::Mask) -> Self {
        unsafe { Self(_mm512_maskz_loadu_ps(mask, from)) }
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        unsafe { _mm512_storeu_ps(to, self.0) }
    }

    #[inline(always)]
    unsafe fn store_masked(self, to: *mut f32, mask: Self::Mask) {
        unsafe { _mm512_mask_storeu_ps(to, mask, self.0) }
    }

    #[inline(always)]
    unsafe fn mul(self, by: Self) -> Self {
        unsafe { Self(_mm512_mul_ps(self.0, by.0)) }
    }

    #[inline(always)]
    unsafe fn fma(self, by: Self, plus: Self) -> Self {
        unsafe { Self(_mm512_fmadd_ps(self.0, by.0, plus.0)) }
    }

    #[inline(always)]
    unsafe fn transpose(rows: &mut [Self]) {
        unsafe {
            // Within lanes of 128 bits, pairs and then fours of rows; then the lanes themselves, by twos and by fours.
            let pair = |i: usize| {
                let (a, b) = (rows[2 * i].0, rows[2 * i + 1].0);
                (_mm512_unpacklo_ps(a, b), _mm512_unpackhi_ps(a, b))
            };
            let mut fours = [_mm512_setzero_ps(); 16];
            for i in 0..4 {
                let ((a_low, a_high), (b_low, b_high)) = (pair(2 * i), pair(2 * i + 1));
                let both = |a, b| (_mm512_castps_pd(a), _mm512_castps_pd(b));
                let (low_a, low_b) = both(a_low, b_low);
                let (high_a, high_b) = both(a_high, b_high);
                fours[4 * i] = _mm512_castpd_ps(_mm512_unpacklo_pd(low_a, low_b));
                fours[4 * i + 1] = _mm512_castpd_ps(_mm512_unpackhi_pd(low_a, low_b));
                fours[4 * i + 2] = _mm512_castpd_ps(_mm512_unpacklo_pd(high_a, high_b));
                fours[4 * i + 3] = _mm512_castpd_ps(_mm512_unpackhi_pd(high_a, high_b));
            }
            for j in 0..4 {
                let [a, b, c, d] = [fours[j], fours[4 + j], fours[8 + j], fours[12 + j]];
                let (ab_even, ab_odd) = (
                    _mm512_shuffle_f32x4::<0b10_00_10_00>(a, b),
                    _mm512_shuffle_f32x4::<0b11_01_11_01>(a, b),
                );
                let (cd_even, cd_odd) = (
                    _mm512_shuffle_f32x4::<0b10_00_10_00>(c, d),
                    _mm512_shuffle_f32x4::<0b11_01_11_01>(c, d),
                );
                rows[j].0 = _mm512_shuffle_f32x4::<0b10_00_10_00>(ab_even, cd_even);
                rows[8 + j].0 = _mm512_shuffle_f32x4::<0b11_01_11_01>(ab_even, cd_even);
                rows[4 + j].0 = _mm512_shuffle_f32x4::<0b10_00_10_00>(ab_odd, cd_odd);
                rows[12 + j].0 = _mm512_shuffle_f32x4::<0b11_01_11_01>(ab_odd, cd_odd);
            }
        }
    }
}

#[allow(clippy::undocumented_unsafe_blocks, reason = "as above")]
impl Vector for Avx2 {
    const LANES: usize = 8;
    type Mask = __m256i;

    #[inline(always)]
    unsafe fn zero() -> Self {
        unsafe { Self(_mm256_setzero_ps()) }
    }

    #[inline(always)]
    unsafe fn splat(x: f32) -> Self {
        unsafe { Self(_mm256_set1_ps(x)) }
    }

    #[inline(always)]
    unsafe fn mask(lanes: usize) -> Self::Mask {
        unsafe {
            let index = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
            _mm256_cmpgt_epi32(_mm256_set1_epi32(lanes as i32), index)
        }
    }

    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        unsafe { Self(_mm256_loadu_ps(from)) }
    }

    #[inline(always)]
    unsafe fn load_masked(from: *const f32, mask: Self::Mask) -> Self {
        unsafe { Self(_mm256_maskload_ps(from, mask)) }
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        unsafe { _mm256_storeu_ps(to, self.0) }
    }

    #[inline(always)]
    unsafe fn store_masked(self, to: *mut f32, mask: Self::Mask) {
        unsafe { _mm256_maskstore_ps(to, mask, self.0) }
    }

    #[inline(always)]
    unsafe fn mul(self, by: Self) -> Self {
        unsafe { Self(_mm256_mul_ps(self.0, by.0)) }
    }

    #[inline(always)]
    unsafe fn fma(self, by: Self, plus: Self) -> Self {
        unsafe { Self(_mm256_fmadd_ps(self.0, by.0, plus.0)) }
    }

    #[inline(always)]
    unsafe fn transpose(rows: &mut [Self]) {
        unsafe {
            let pair = |i: usize| {
                let (a, b) = (rows[2 * i].0, rows[2 * i + 1].0);
                (_mm256_unpacklo_ps(a, b), _mm256_unpackhi_ps(a, b))
            };
            let mut fours = [_mm256_setzero_ps(); 8];
            for i in 0..2 {
                let ((a_low, a_high), (b_low, b_high)) = (pair(2 * i), pair(2 * i + 1));
                fours[4 * i] = _mm256_shuffle_ps::<0b01_00_01_00>(a_low, b_low);
                fours[4 * i + 1] = _mm256_shuffle_ps::<0b11_10_11_10>(a_low, b_low);
                fours[4 * i + 2] = _mm256_shuffle_ps::<0b01_00_01_00>(a_high, b_high);
                fours[4 * i + 3] = _mm256_shuffle_ps::<0b11_10_11_10>(a_high, b_high);
            }
            for j in 0..4 {
                let (a, b) = (fours[j], fours[4 + j]);
                rows[j].0 = _mm256_permute2f128_ps::<0x20>(a, b);
                rows[4 + j].0 = _mm256_permute2f128_ps::<0x31>(a, b);
            }
        }
    }
}
