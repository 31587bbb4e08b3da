//! Loops compiled for the vectors the machine has, and the functions inside them: exp, tanh, sigmoid, dot products.
//!
//! Loops stay plain Rust over slices. [`vectorised`] runs them in a function compiled for AVX-512, AVX2 or the baseline,
//! chosen at run time; everything they call is `inline(always)`. Sums go to a fixed number of lanes, whatever the vectors.

use std::f32::consts::LOG2_E;
use std::ffi::OsStr;
use std::sync::OnceLock;

/// The environment's variable that says which instructions to use; `avx2` leaves AVX-512 alone.
pub(super) const VECTORS: &str = "FARTHING_VECTORS";

/// The instructions that loops are compiled for: the widest vectors of this machine, or what the environment says.
pub(super) fn arch() -> pulp::Arch {
    static ARCH: OnceLock<pulp::Arch> = OnceLock::new();
    *ARCH.get_or_init(|| chosen().unwrap_or_default())
}

/// What [`arch`] is.
///
/// # Errors
/// The environment asks for what is not there; in words.
pub(super) fn chosen() -> Result<pulp::Arch, String> {
    named(std::env::var_os(VECTORS).unwrap_or_default().as_os_str())
}

/// The instructions of that name; nothing names the widest.
fn named(name: &OsStr) -> Result<pulp::Arch, String> {
    if name.is_empty() {
        return Ok(pulp::Arch::new());
    }
    #[cfg(target_arch = "x86_64")]
    if name == "avx2" {
        let v3 = pulp::x86::V3::try_new().map(pulp::Arch::V3);
        return v3.ok_or_else(|| format!("{VECTORS} is `avx2`, and this processor has no AVX2"));
    }
    Err(format!("{VECTORS} is `{}`, which names no instructions of this processor", name.display()))
}

/// Runs `f` compiled for the widest vectors of this machine. `f` must only call what is `inline(always)`.
#[inline(always)]
pub(super) fn vectorised<R>(f: impl FnOnce() -> R) -> R {
    arch().dispatch(f)
}

/// Lanes of a sum: two AVX-512 registers.
const LANES: usize = 32;

/// A sum under way, in lanes that elements take in turn.
pub(super) struct Lanes([f32; LANES]);

impl Lanes {
    pub(super) const ZERO: Self = Self([0.0; LANES]);

    /// Replaces each element by the first of what `f` makes of it, and adds the second.
    #[inline(always)]
    pub(super) fn add_each(&mut self, x: &mut [f32], f: impl Fn(f32) -> (f32, f32)) {
        let (groups, rest) = x.as_chunks_mut::<LANES>();
        for group in groups {
            for (x, lane) in group.iter_mut().zip(&mut self.0) {
                let (kept, added) = f(*x);
                *x = kept;
                *lane += added;
            }
        }
        for (lane, x) in self.0.iter_mut().zip(rest) {
            let (kept, added) = f(*x);
            *x = kept;
            *lane += added;
        }
    }

    #[inline(always)]
    pub(super) fn add_up(self) -> f32 {
        let Self(mut lanes) = self;
        let mut width = LANES / 2;
        while width > 0 {
            for i in 0..width {
                lanes[i] += lanes[i + width];
            }
            width /= 2;
        }
        lanes[0]
    }
}

/// Σ f(x).
#[inline(always)]
pub(super) fn sum_of(x: &[f32], f: impl Fn(f32) -> f32) -> f32 {
    let mut lanes = [0.0; LANES];
    let chunks = x.chunks_exact(LANES);
    let rest = chunks.remainder();
    for chunk in chunks {
        for i in 0..LANES {
            lanes[i] += f(chunk[i]);
        }
    }
    for (lane, &x) in lanes.iter_mut().zip(rest) {
        *lane += f(x);
    }
    Lanes(lanes).add_up()
}

/// Σ x·y.
#[inline(always)]
pub(super) fn dot(x: &[f32], y: &[f32]) -> f32 {
    let mut lanes = [0.0; LANES];
    let (xs, ys) = (x.chunks_exact(LANES), y.chunks_exact(LANES));
    let (x_rest, y_rest) = (xs.remainder(), ys.remainder());
    for (x, y) in xs.zip(ys) {
        for i in 0..LANES {
            lanes[i] += x[i] * y[i];
        }
    }
    for ((lane, &x), &y) in lanes.iter_mut().zip(x_rest).zip(y_rest) {
        *lane += x * y;
    }
    Lanes(lanes).add_up()
}

/// Σ f(x), in f64.
#[inline(always)]
pub(super) fn sum_f64(x: &[f32], f: impl Fn(f64) -> f64) -> f64 {
    let mut lanes = [0.0; LANES];
    let chunks = x.chunks_exact(LANES);
    let rest = chunks.remainder();
    for chunk in chunks {
        // In a loop of its own, or conversions are made one at a time.
        let mut wide = [0.0; LANES];
        for i in 0..LANES {
            wide[i] = f64::from(chunk[i]);
        }
        for i in 0..LANES {
            lanes[i] += f(wide[i]);
        }
    }
    for (lane, &x) in lanes.iter_mut().zip(rest) {
        *lane += f(f64::from(x));
    }
    lanes.iter().sum()
}

/// The largest value; −∞ of nothing. A NaN is passed over.
#[inline(always)]
pub(super) fn max(x: &[f32]) -> f32 {
    max_of(
        x,
        #[inline(always)]
        |x| x,
    )
}

#[inline(always)]
fn larger(x: f32, than: f32) -> f32 {
    if x > than { x } else { than }
}

/// The largest f(x), as [`max`].
#[inline(always)]
pub(super) fn max_of(x: &[f32], f: impl Fn(f32) -> f32) -> f32 {
    let mut lanes = [f32::NEG_INFINITY; LANES];
    let chunks = x.chunks_exact(LANES);
    let rest = chunks.remainder();
    for chunk in chunks {
        for i in 0..LANES {
            lanes[i] = larger(f(chunk[i]), lanes[i]);
        }
    }
    for (lane, &x) in lanes.iter_mut().zip(rest) {
        *lane = larger(f(x), *lane);
    }
    let mut width = LANES / 2;
    while width > 0 {
        for i in 0..width {
            lanes[i] = larger(lanes[i], lanes[i + width]);
        }
        width /= 2;
    }
    lanes[0]
}

/// Functions of one number, as the machine computes them best: with fused multiply-add where it has one.
#[derive(Clone, Copy)]
pub(super) struct Math {
    fused: bool,
}

/// As [`vectorised`], for loops that call functions of [`Math`].
#[inline(always)]
pub(super) fn with_math<R>(f: impl FnOnce(Math) -> R) -> R {
    // A constant in each of the compiled variants, so that nothing is decided inside a loop.
    match arch() {
        #[cfg(target_arch = "x86_64")]
        pulp::Arch::V4(arch) => arch.vectorize(
            #[inline(always)]
            || f(Math { fused: true }),
        ),
        #[cfg(target_arch = "x86_64")]
        pulp::Arch::V3(arch) => arch.vectorize(
            #[inline(always)]
            || f(Math { fused: true }),
        ),
        arch => arch.dispatch(
            #[inline(always)]
            || f(Math { fused: cfg!(target_arch = "aarch64") }),
        ),
    }
}

impl Math {
    /// a·b + c.
    #[inline(always)]
    pub(super) fn mul_add(self, a: f32, b: f32, c: f32) -> f32 {
        if self.fused { a.mul_add(b, c) } else { a * b + c }
    }

    /// e^r of x = n·ln 2 + r, |r| ≤ ln 2 / 2, by its Taylor polynomial of degree 7 (remainder below 5.3e-9); and n.
    #[inline(always)]
    fn exp_parts(self, x: f32) -> (f32, i32) {
        // 1.5·2²³: adding it rounds to an integer, which then stands in the low bits.
        const ROUND: f32 = 12_582_912.0;
        // 355/512, short enough that n times it is exact, and ln 2 less that.
        const LN2_HIGH: f32 = 0.693_359_4;
        const LN2_LOW: f32 = -2.121_944_4e-4;
        let rounded = self.mul_add(x, LOG2_E, ROUND);
        let n = rounded - ROUND;
        let r = self.mul_add(n, -LN2_LOW, self.mul_add(n, -LN2_HIGH, x));
        let mut p = 1.0 / 5040.0;
        for c in [1.0 / 720.0, 1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0, 0.5, 1.0, 1.0] {
            p = self.mul_add(p, r, c);
        }
        (p, (rounded.to_bits() as i32).wrapping_sub(ROUND.to_bits() as i32))
    }

    /// eˣ, within 2 ulp where the result is a normal number; 0 below −104, ∞ above 88.73, NaN for NaN.
    #[inline(always)]
    pub(super) fn exp(self, x: f32) -> f32 {
        let x = if x < -104.0 { -104.0 } else { x };
        let x = if x > 89.0 { 89.0 } else { x };
        let (p, n) = self.exp_parts(x);
        // Two factors, so that both ends of the range are right.
        let half = n >> 1;
        p * power_of_two(half) * power_of_two(n.wrapping_sub(half))
    }

    /// eˣ for x ≤ 0, within 2 ulp above −87 and less than 2e-38 below; NaN for NaN.
    #[inline(always)]
    pub(super) fn exp_negative(self, x: f32) -> f32 {
        let x = if x < -87.0 { -87.0 } else { x };
        let (p, n) = self.exp_parts(x);
        p * power_of_two(n)
    }

    /// 1/(1 + e⁻ˣ), within 3 ulp above x = −87.
    #[inline(always)]
    pub(super) fn sigmoid(self, x: f32) -> f32 {
        1.0 / (1.0 + self.exp(-x))
    }

    /// tanh x, within 4 ulp.
    ///
    /// |x| < 1: [`Math::tanh_near`]; else (1 − e^−2|x|)/(1 + e^−2|x|).
    #[inline(always)]
    pub(super) fn tanh(self, x: f32) -> f32 {
        let a = x.abs();
        let e = self.exp_negative(-2.0 * a);
        let far = ((1.0 - e) / (1.0 + e)).copysign(x);
        if a >= Self::TANH_NEAR { far } else { self.tanh_near(x) }
    }

    /// Where [`Math::tanh_near`] ends.
    pub(super) const TANH_NEAR: f32 = 1.0;

    /// tanh x for |x| < 1, within 1.5 ulp; NaN for NaN.
    ///
    /// x + x³·P(x²) with P of degree 6, whose largest error relative to tanh is the least there is, 4.6e-9 (Remez's algorithm, in 40 digits).
    #[inline(always)]
    pub(super) fn tanh_near(self, x: f32) -> f32 {
        let s = x * x;
        let mut p = -3.584_512_6e-4;
        for c in
            [2.301_362e-3, -7.946_103e-3, 2.148_665_5e-2, -5.387_98e-2, 0.133_323_45, -0.333_332_96]
        {
            p = self.mul_add(p, s, c);
        }
        self.mul_add(x * s, p, x)
    }
}

/// 2ⁿ for −127 < n < 128.
#[inline(always)]
fn power_of_two(n: i32) -> f32 {
    f32::from_bits((n.wrapping_add(127) as u32) << 23)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// |got − exact| in units of `exact`'s last place.
    fn ulps(got: f32, exact: f64) -> f64 {
        let near = exact as f32;
        let ulp = f64::from(f32::from_bits(near.abs().to_bits() + 1)) - f64::from(near.abs());
        (f64::from(got) - exact).abs() / ulp
    }

    const BOTH: [Math; 2] = [Math { fused: false }, Math { fused: true }];

    /// The largest error, fused or not.
    fn worst(from: f32, to: f32, f: fn(Math, f32) -> f32, exact: fn(f64) -> f64) -> f64 {
        let steps = 200_000;
        (0..=steps)
            .map(|i| from + (to - from) * (i as f32 / steps as f32))
            .flat_map(|x| BOTH.map(|math| ulps(f(math, x), exact(f64::from(x)))))
            .fold(0.0, f64::max)
    }

    #[test]
    fn instructions_have_names() {
        named(OsStr::new("")).unwrap();
        let error = named(OsStr::new("avx3")).unwrap_err();
        assert!(error.contains("FARTHING_VECTORS is `avx3`"), "{error}");
        #[cfg(target_arch = "x86_64")]
        if let Ok(arch) = named(OsStr::new("avx2")) {
            assert!(matches!(arch, pulp::Arch::V3(_)), "{arch:?}");
        }
    }

    #[test]
    fn exp_is_within_2_ulp() {
        let near = worst(-1.0, 1.0, Math::exp, f64::exp);
        let wide = worst(-87.0, 88.7, Math::exp, f64::exp);
        let negative = worst(-87.0, 0.0, Math::exp_negative, f64::exp);
        assert!(near < 2.0 && wide < 2.0 && negative < 2.0, "{near} {wide} {negative}");
        for math in BOTH {
            assert_eq!((math.exp(0.0), math.exp_negative(0.0)), (1.0, 1.0));
            assert_eq!(math.exp(f32::NEG_INFINITY), 0.0);
            assert!(math.exp_negative(f32::NEG_INFINITY) < 2e-38);
            assert_eq!(math.exp(f32::INFINITY), f32::INFINITY);
            assert!(math.exp(f32::NAN).is_nan() && math.exp_negative(f32::NAN).is_nan());
            let tiny = f64::from(math.exp(-100.0)) / (-100f64).exp();
            assert!((tiny - 1.0).abs() < 0.05, "a subnormal result is rounded, not 0: {tiny}");
        }
    }

    #[test]
    fn tanh_is_within_4_ulp() {
        let polynomial = worst(-0.999_999, 0.999_999, Math::tanh_near, f64::tanh);
        assert!(polynomial < 1.5, "{polynomial}");
        let near = worst(-1.2, 1.2, Math::tanh, f64::tanh);
        let far = worst(1.0, 12.0, Math::tanh, f64::tanh);
        assert!(near < 4.0 && far < 4.0, "{near} {far}");
        for math in BOTH {
            assert_eq!((math.tanh(100.0), math.tanh(-100.0), math.tanh(0.0)), (1.0, -1.0, 0.0));
            assert!(math.tanh(f32::NAN).is_nan());
        }
    }

    #[test]
    fn sigmoid_is_within_3_ulp() {
        let worst = worst(-87.0, 30.0, Math::sigmoid, |x| 1.0 / (1.0 + (-x).exp()));
        assert!(worst < 3.0, "{worst}");
    }

    #[test]
    fn sums_take_every_element() {
        for n in [0, 1, 31, 32, 33, 100] {
            let x: Vec<f32> = (1..=n).map(|i| i as f32).collect();
            let total = (n * (n + 1) / 2) as f32;
            assert_eq!(vectorised(|| sum_of(&x, |x| x)), total);
            assert_eq!(vectorised(|| dot(&x, &vec![2.0; n as usize])), 2.0 * total);
            let mut halves = x.clone();
            let twice = vectorised(|| {
                let mut lanes = Lanes::ZERO;
                lanes.add_each(&mut halves, |x| (x / 2.0, 2.0 * x));
                lanes.add_up()
            });
            assert!(
                twice == 2.0 * total && halves.iter().zip(&x).all(|(half, x)| 2.0 * half == *x)
            );
            assert_eq!(
                vectorised(|| max_of(&x, |x| -x)),
                if n == 0 { f32::NEG_INFINITY } else { -1.0 }
            );
            assert_eq!(vectorised(|| max(&x)), if n == 0 { f32::NEG_INFINITY } else { n as f32 });
        }
    }
}
