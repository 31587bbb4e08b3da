//! [`Step`]s in registers of AVX-512 and AVX2.

#![allow(clippy::wildcard_imports, reason = "27 instructions")]
#![allow(
    clippy::undocumented_unsafe_blocks,
    reason = "a method is instructions of its kind, on registers or on LANES elements that its caller vouches for"
)]

use std::arch::x86_64::*;

use super::rows::{BLOCK, Job, Plain, Step, apart, columns};
use crate::Bf16;
use crate::cpu::simd::LANES;

/// # Safety
/// The machine has AVX-512.
#[target_feature(enable = "avx512f,avx512bw,fma")]
pub(super) unsafe fn bf16_512(job: Job<'_, '_, Bf16, f32>) {
    // SAFETY: the caller's promise.
    unsafe { columns::<Bf16By512, 4, 2>(job) }
}

/// # Safety
/// The machine has AVX2.
#[target_feature(enable = "avx2,fma")]
pub(super) unsafe fn bf16_256(job: Job<'_, '_, Bf16, f32>) {
    // Eight sums in either case: with fewer, an addition would wait for the one before.
    // SAFETY: the caller's promise.
    unsafe {
        if job.y.rows == 1 {
            columns::<Bf16By256, 1, 2>(job);
        } else {
            columns::<Bf16By256, 2, 1>(job);
        }
    }
}

/// # Safety
/// The machine has AVX-512.
#[target_feature(enable = "avx512f,avx512bw,fma")]
pub(super) unsafe fn int8_512(job: Job<'_, '_, i8, i16>) {
    // SAFETY: the caller's promise.
    unsafe { columns::<Int8By512, 4, 2>(job) }
}

/// # Safety
/// The machine has AVX2.
#[target_feature(enable = "avx2,fma")]
pub(super) unsafe fn int8_256(job: Job<'_, '_, i8, i16>) {
    // SAFETY: the caller's promise.
    unsafe { columns::<Int8By256, 2, 2>(job) }
}

/// Of two bf16 in 32 bits the bits of the odd one, which are where an f32 has them.
const ODD: i32 = !0xffff;

struct Bf16By512;

impl Step for Bf16By512 {
    type Weight = Bf16;
    type Left = f32;
    type Wide = [__m512; 2];
    type Sum = [__m512; 2];
    const BLOCK: usize = <Plain<Bf16> as Step>::BLOCK;

    #[inline(always)]
    unsafe fn zero() -> Self::Sum {
        unsafe { [_mm512_setzero_ps(); 2] }
    }

    #[inline(always)]
    unsafe fn widen(from: *const Bf16) -> Self::Wide {
        unsafe {
            let pairs = _mm512_loadu_si512(from.cast());
            let odd = _mm512_and_si512(pairs, _mm512_set1_epi32(ODD));
            [_mm512_castsi512_ps(_mm512_slli_epi32::<16>(pairs)), _mm512_castsi512_ps(odd)]
        }
    }

    #[inline(always)]
    unsafe fn add(sum: Self::Sum, w: Self::Wide, x: *const f32) -> Self::Sum {
        let half =
            |i: usize| unsafe { _mm512_fmadd_ps(_mm512_loadu_ps(x.add(16 * i)), w[i], sum[i]) };
        [half(0), half(1)]
    }

    #[inline(always)]
    unsafe fn total(totals: &mut [f32; LANES], sum: Self::Sum, _: f32) {
        let mut sums = [0.0; LANES];
        for (to, sum) in sums.chunks_exact_mut(16).zip(sum) {
            unsafe { _mm512_storeu_ps(to.as_mut_ptr(), sum) }
        }
        *totals = std::array::from_fn(|i| sums[apart(i)]);
    }

    #[inline(always)]
    unsafe fn ask(for_: *const Bf16) {
        unsafe { _mm_prefetch::<_MM_HINT_T0>(for_.cast()) }
    }
}

struct Bf16By256;

impl Step for Bf16By256 {
    type Weight = Bf16;
    type Left = f32;
    type Wide = [__m256; 4];
    type Sum = [__m256; 4];
    const BLOCK: usize = <Plain<Bf16> as Step>::BLOCK;

    #[inline(always)]
    unsafe fn zero() -> Self::Sum {
        unsafe { [_mm256_setzero_ps(); 4] }
    }

    #[inline(always)]
    unsafe fn widen(from: *const Bf16) -> Self::Wide {
        let half = |i: usize| unsafe {
            let pairs = _mm256_loadu_si256(from.add(16 * i).cast());
            let odd = _mm256_and_si256(pairs, _mm256_set1_epi32(ODD));
            [_mm256_castsi256_ps(_mm256_slli_epi32::<16>(pairs)), _mm256_castsi256_ps(odd)]
        };
        let ([a, c], [b, d]) = (half(0), half(1));
        [a, b, c, d]
    }

    #[inline(always)]
    unsafe fn add(sum: Self::Sum, w: Self::Wide, x: *const f32) -> Self::Sum {
        let quarter =
            |i: usize| unsafe { _mm256_fmadd_ps(_mm256_loadu_ps(x.add(8 * i)), w[i], sum[i]) };
        [quarter(0), quarter(1), quarter(2), quarter(3)]
    }

    #[inline(always)]
    unsafe fn total(totals: &mut [f32; LANES], sum: Self::Sum, _: f32) {
        let mut sums = [0.0; LANES];
        for (to, sum) in sums.chunks_exact_mut(8).zip(sum) {
            unsafe { _mm256_storeu_ps(to.as_mut_ptr(), sum) }
        }
        *totals = std::array::from_fn(|i| sums[apart(i)]);
    }

    #[inline(always)]
    unsafe fn ask(for_: *const Bf16) {
        unsafe { _mm_prefetch::<_MM_HINT_T0>(for_.cast()) }
    }
}

struct Int8By512;

impl Step for Int8By512 {
    type Weight = i8;
    type Left = i16;
    type Wide = __m512i;
    type Sum = __m512i;
    const BLOCK: usize = BLOCK;

    #[inline(always)]
    unsafe fn zero() -> Self::Sum {
        unsafe { _mm512_setzero_si512() }
    }

    #[inline(always)]
    unsafe fn widen(from: *const i8) -> Self::Wide {
        unsafe { _mm512_cvtepi8_epi16(_mm256_loadu_si256(from.cast())) }
    }

    #[inline(always)]
    unsafe fn add(sum: Self::Sum, w: Self::Wide, x: *const i16) -> Self::Sum {
        unsafe { _mm512_add_epi32(sum, _mm512_madd_epi16(_mm512_loadu_si512(x.cast()), w)) }
    }

    #[inline(always)]
    unsafe fn total(totals: &mut [f32; LANES], sum: Self::Sum, scale: f32) {
        unsafe {
            let (to, sum) = (totals.as_mut_ptr(), _mm512_cvtepi32_ps(sum));
            let scaled = _mm512_mul_ps(_mm512_set1_ps(scale), sum);
            _mm512_storeu_ps(to, _mm512_add_ps(_mm512_loadu_ps(to), scaled));
        }
    }

    #[inline(always)]
    unsafe fn ask(for_: *const i8) {
        unsafe { _mm_prefetch::<_MM_HINT_T0>(for_) }
    }
}

struct Int8By256;

impl Step for Int8By256 {
    type Weight = i8;
    type Left = i16;
    type Wide = [__m256i; 2];
    type Sum = [__m256i; 2];
    const BLOCK: usize = BLOCK;

    #[inline(always)]
    unsafe fn zero() -> Self::Sum {
        unsafe { [_mm256_setzero_si256(); 2] }
    }

    #[inline(always)]
    unsafe fn widen(from: *const i8) -> Self::Wide {
        let half =
            |i: usize| unsafe { _mm256_cvtepi8_epi16(_mm_loadu_si128(from.add(16 * i).cast())) };
        [half(0), half(1)]
    }

    #[inline(always)]
    unsafe fn add(sum: Self::Sum, w: Self::Wide, x: *const i16) -> Self::Sum {
        let half = |i: usize| unsafe {
            let x = _mm256_loadu_si256(x.add(16 * i).cast());
            _mm256_add_epi32(sum[i], _mm256_madd_epi16(x, w[i]))
        };
        [half(0), half(1)]
    }

    #[inline(always)]
    unsafe fn total(totals: &mut [f32; LANES], sum: Self::Sum, scale: f32) {
        for (to, sum) in totals.chunks_exact_mut(8).zip(sum) {
            unsafe {
                let (to, sum) = (to.as_mut_ptr(), _mm256_cvtepi32_ps(sum));
                let scaled = _mm256_mul_ps(_mm256_set1_ps(scale), sum);
                _mm256_storeu_ps(to, _mm256_add_ps(_mm256_loadu_ps(to), scaled));
            }
        }
    }

    #[inline(always)]
    unsafe fn ask(for_: *const i8) {
        unsafe { _mm_prefetch::<_MM_HINT_T0>(for_) }
    }
}
