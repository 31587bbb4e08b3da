//! Dot products in whole registers, with the same bits as their definition, [`simd::dot`]: the same lanes, and products rounded before they are added. Compilers turn the definition's lanes
//! into single numbers, which is eight times slower, and decoding consists of little else.

use pulp::{Simd, WithSimd};

use super::simd::{self, LANES, Lanes, arch};

/// What is done with a dot product.
pub(super) trait Dots {
    /// Does it.
    fn run(self, dot: impl Fn(&[f32], &[f32]) -> f32);
}

/// Runs `work` compiled for the widest vectors of this machine, with dot products in them.
pub(super) fn dots(work: impl Dots) {
    arch().dispatch(Work(work));
}

struct Work<W>(W);

impl<W: Dots> WithSimd for Work<W> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        self.0.run(
            #[inline(always)]
            |x, y| dot(simd, x, y),
        );
    }
}

/// Registers of the narrowest vectors that are worth it.
const MOST: usize = 8;

#[allow(clippy::needless_range_loop, reason = "over registers, which compilers then keep")]
#[inline(always)]
fn dot<S: Simd>(simd: S, x: &[f32], y: &[f32]) -> f32 {
    let registers = LANES / S::F32_LANES;
    if registers > MOST || registers * S::F32_LANES != LANES {
        return simd::dot(x, y);
    }
    let whole = x.len().min(y.len()) / LANES * LANES;
    let ((x, x_rest), (y, y_rest)) = (x.split_at(whole), y.split_at(whole));
    let (xs, ys) = (S::as_simd_f32s(x).0, S::as_simd_f32s(y).0);
    let mut sums = [simd.splat_f32s(0.0); MOST];
    for (x, y) in xs.chunks_exact(registers).zip(ys.chunks_exact(registers)) {
        for i in 0..registers {
            sums[i] = simd.add_f32s(sums[i], simd.mul_f32s(x[i], y[i]));
        }
    }
    let mut lanes = [0.0; LANES];
    lanes.copy_from_slice(bytemuck::cast_slice(&sums[..registers]));
    for ((lane, &x), &y) in lanes.iter_mut().zip(x_rest).zip(y_rest) {
        *lane += x * y;
    }
    Lanes(lanes).add_up()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::simd::vectorised;

    /// Writes a dot product of two slices.
    struct One<'a>(&'a [f32], &'a [f32], &'a mut f32);

    impl Dots for One<'_> {
        #[inline(always)]
        fn run(self, dot: impl Fn(&[f32], &[f32]) -> f32) {
            *self.2 = dot(self.0, self.1);
        }
    }

    #[test]
    fn bits_are_those_of_the_definition() {
        let mut draws = farthing_base::random::Draws::new(1, "dot", 0);
        for n in [0, 1, 31, 32, 33, 64, 100, 1_000, 4_097] {
            let (x, y): (Vec<f32>, Vec<f32>) =
                (0..n).map(|_| (draws.unit() as f32 - 0.5, draws.unit() as f32 * 1e3)).unzip();
            let defined = vectorised(
                #[inline(always)]
                || simd::dot(&x, &y),
            );
            let mut found = f32::NAN;
            dots(One(&x, &y, &mut found));
            assert_eq!(found.to_bits(), defined.to_bits(), "{n}: {found} and {defined}");
        }
    }
}
