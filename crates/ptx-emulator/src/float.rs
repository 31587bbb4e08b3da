//! Floating-point formats and their roundings, from integers alone: every conversion goes through an exact
//! (sign, integer, power of two) and is rounded once. No host rounding mode is involved.

/// How a value that lies between two neighbours of a format is rounded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rounding {
    /// To nearest, ties to even (`.rn`).
    Nearest,
    /// To nearest, ties away from zero (`.rna`).
    NearestAway,
    /// Toward zero (`.rz`).
    Zero,
    /// Toward minus infinity (`.rm`).
    Down,
    /// Toward plus infinity (`.rp`).
    Up,
}

/// A binary format of at most 64 bits with a sign bit, `exponent` and `mantissa` bits.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Format {
    exponent: u32,
    mantissa: u32,
    /// Largest finite magnitude, as bits.
    largest: u64,
    /// Has infinities (all formats but e4m3).
    infinite: bool,
    /// The NaN that PTX gives.
    nan: u64,
}

pub(crate) const F16: Format =
    Format { exponent: 5, mantissa: 10, largest: 0x7bff, infinite: true, nan: 0x7fff };
pub(crate) const BF16: Format =
    Format { exponent: 8, mantissa: 7, largest: 0x7f7f, infinite: true, nan: 0x7fff };
/// The 19 bits of tf32; in a register they are the upper bits of an f32.
pub(crate) const TF32: Format =
    Format { exponent: 8, mantissa: 10, largest: 0x3fbff, infinite: true, nan: 0x3ffff };
pub(crate) const F32: Format =
    Format { exponent: 8, mantissa: 23, largest: 0x7f7f_ffff, infinite: true, nan: 0x7fff_ffff };
pub(crate) const F64: Format = Format {
    exponent: 11,
    mantissa: 52,
    largest: 0x7fef_ffff_ffff_ffff,
    infinite: true,
    nan: 0x7fff_ffff_ffff_ffff,
};
pub(crate) const E4M3: Format =
    Format { exponent: 4, mantissa: 3, largest: 0x7e, infinite: false, nan: 0x7f };
pub(crate) const E5M2: Format =
    Format { exponent: 5, mantissa: 2, largest: 0x7b, infinite: true, nan: 0x7f };

/// A finite value, sign · magnitude · 2^power.
#[derive(Clone, Copy)]
struct Exact {
    negative: bool,
    magnitude: u64,
    power: i32,
}

impl Format {
    fn sign_bit(self) -> u64 {
        1 << (self.exponent + self.mantissa)
    }

    fn bias(self) -> i32 {
        (1 << (self.exponent - 1)) - 1
    }

    /// The value of `bits`, exactly: every format here fits in an f64.
    pub(crate) fn decode(self, bits: u64) -> f64 {
        let negative = bits & self.sign_bit() != 0;
        let magnitude = bits & (self.sign_bit() - 1);
        let fraction = magnitude & ((1 << self.mantissa) - 1);
        let exponent = (magnitude >> self.mantissa) as i32;
        let value = if magnitude > self.largest {
            if self.infinite && fraction == 0 { f64::INFINITY } else { f64::NAN }
        } else if exponent == 0 {
            scale(fraction, 1 - self.bias() - self.mantissa as i32)
        } else {
            scale(fraction | 1 << self.mantissa, exponent - self.bias() - self.mantissa as i32)
        };
        if negative { -value } else { value }
    }

    /// Rounds `x` to this format. `saturate` gives the largest finite value where it would overflow, also for
    /// infinities. A NaN gives the format's canonical NaN.
    pub(crate) fn encode(self, x: f64, rounding: Rounding, saturate: bool) -> u64 {
        if x.is_nan() {
            return self.nan;
        }
        let negative = x.is_sign_negative();
        if x.is_infinite() {
            let clamp = saturate || !self.infinite;
            let magnitude = if clamp { self.largest } else { self.largest + 1 };
            return magnitude | if negative { self.sign_bit() } else { 0 };
        }
        let bits = x.to_bits();
        let exponent = (bits >> 52 & 0x7ff) as i32;
        let fraction = bits & ((1 << 52) - 1);
        let exact = if exponent == 0 {
            Exact { negative, magnitude: fraction, power: -1074 }
        } else {
            Exact { negative, magnitude: fraction | 1 << 52, power: exponent - 1075 }
        };
        self.round(exact, rounding, saturate)
    }

    /// Rounds the integer sign · magnitude to this format.
    pub(crate) fn encode_integer(self, negative: bool, magnitude: u64, rounding: Rounding) -> u64 {
        self.round(Exact { negative, magnitude, power: 0 }, rounding, false)
    }

    fn round(self, value: Exact, rounding: Rounding, saturate: bool) -> u64 {
        let Exact { negative, magnitude, power } = value;
        let sign = if negative { self.sign_bit() } else { 0 };
        if magnitude == 0 {
            return sign;
        }
        let top = power + 63 - magnitude.leading_zeros() as i32;
        let smallest = 1 - self.bias();
        let mut quantum = top.max(smallest) - self.mantissa as i32;
        let shift = quantum - power;
        let (mut kept, rest, half) = match shift {
            ..=0 => (magnitude << -shift, 0, 1),
            1..=63 => (magnitude >> shift, magnitude & ((1 << shift) - 1), 1 << (shift - 1)),
            64 => (0, magnitude, 1 << 63),
            _ => (0, 1, 2), // some amount below one half
        };
        let up = match rounding {
            Rounding::Nearest => rest > half || rest == half && kept & 1 == 1,
            Rounding::NearestAway => rest >= half,
            Rounding::Zero => false,
            Rounding::Down => negative && rest != 0,
            Rounding::Up => !negative && rest != 0,
        };
        kept += u64::from(up);
        if kept >> (self.mantissa + 1) != 0 {
            kept >>= 1;
            quantum += 1;
        }
        let bits = if kept >> self.mantissa == 0 {
            kept
        } else {
            let exponent = quantum + self.mantissa as i32 + self.bias();
            let exponent = (exponent as u64).min(1 << self.exponent);
            (exponent << self.mantissa) | kept & ((1 << self.mantissa) - 1)
        };
        if bits <= self.largest {
            return sign | bits;
        }
        let inward = match rounding {
            Rounding::Nearest | Rounding::NearestAway => false,
            Rounding::Zero => true,
            Rounding::Down => !negative,
            Rounding::Up => negative,
        };
        sign | if saturate || inward {
            self.largest
        } else if self.infinite {
            self.largest + 1
        } else {
            self.nan
        }
    }
}

/// magnitude · 2^power, exact wherever the product is an f64.
fn scale(magnitude: u64, power: i32) -> f64 {
    // Two factors, because 2^-1074 is the smallest f64 and a single one may underflow on the way.
    let half = power / 2;
    magnitude as f64 * 2f64.powi(half) * 2f64.powi(power - half)
}

/// a + b to f64 with the lost part folded into the last bit (round to odd): rounding the result again to
/// a format of at most 50 bits, in any mode, equals rounding the exact sum once.
pub(crate) fn sum_to_odd(a: f64, b: f64) -> f64 {
    let sum = a + b;
    if !sum.is_finite() {
        return sum;
    }
    let b_part = sum - a;
    let error = (a - (sum - b_part)) + (b - b_part);
    if error == 0.0 || sum.to_bits() & 1 == 1 {
        return sum;
    }
    let outward = (error > 0.0) == (sum > 0.0);
    f64::from_bits(if outward { sum.to_bits() + 1 } else { sum.to_bits() - 1 })
}

/// a · b + c for f32, f16 or bf16 factors: the product is exact in f64, the sum is rounded to odd.
pub(crate) fn fma_to_odd(a: f64, b: f64, c: f64) -> f64 {
    sum_to_odd(a * b, c)
}

pub(crate) fn bf16_to_f32(bits: u16) -> f32 {
    f32::from_bits((bits as u32) << 16)
}

/// The hot conversion of every bf16 kernel; the same as `BF16.encode` to nearest.
pub(crate) fn f32_to_bf16(x: f32) -> u16 {
    let bits = x.to_bits();
    if x.is_nan() {
        return 0x7fff;
    }
    (bits.wrapping_add(0x7fff + (bits >> 16 & 1)) >> 16) as u16
}

pub(crate) fn f16_to_f32(bits: u16) -> f32 {
    let (sign, exponent, fraction) =
        ((bits as u32 & 0x8000) << 16, bits >> 10 & 31, bits as u32 & 0x3ff);
    match exponent {
        0 => {
            let value = fraction as f32 * (1.0 / 16_777_216.0);
            f32::from_bits(value.to_bits() | sign)
        }
        31 => f32::from_bits(sign | 0x7f80_0000 | fraction << 13),
        e => f32::from_bits(sign | (e as u32 + 112) << 23 | fraction << 13),
    }
}
