//! `Bf16`: a 16-bit float as host memory holds it. Conversion only; arithmetic happens in wider types.

use crate::{DType, Element};

/// The upper half of an f32: 8 bits of exponent, 7 of fraction.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(transparent)]
pub struct Bf16(u16);

impl Bf16 {
    /// Rounds to nearest, ties to even; NaN stays NaN.
    pub fn from_f32(x: f32) -> Self {
        let bits = x.to_bits();
        if x.is_nan() {
            return Self(((bits >> 16) | 0x40) as u16);
        }
        Self(((bits + 0x7fff + ((bits >> 16) & 1)) >> 16) as u16)
    }

    /// Rounds once, to nearest, ties to even; NaN stays NaN.
    pub fn from_f64(x: f64) -> Self {
        let nearest = x as f32;
        if nearest.is_nan() || f64::from(nearest) == x {
            return Self::from_f32(nearest);
        }
        // To odd on the way: what f32 cannot hold must not look like a tie afterwards.
        let toward_zero = nearest.to_bits() - u32::from(f64::from(nearest).abs() > x.abs());
        Self::from_f32(f32::from_bits(toward_zero | 1))
    }

    /// Exactly this value.
    pub fn to_f32(self) -> f32 {
        f32::from_bits(u32::from(self.0) << 16)
    }
}

impl Element for Bf16 {
    const DTYPE: DType = DType::BF16;
}

#[cfg(test)]
mod tests {
    use super::Bf16;

    #[test]
    fn rounds_to_nearest_ties_to_even() {
        let round = |x: f32| Bf16::from_f32(x).to_f32();
        assert_eq!(round(1.0 + 1.0 / 256.0), 1.0, "a tie goes to the even neighbour below");
        assert_eq!(round(1.0 + 3.0 / 256.0), 1.0 + 4.0 / 256.0, "and above");
        assert_eq!(round(-1.0 - 1.1 / 256.0), -1.0 - 2.0 / 256.0);
        assert_eq!(round(f32::INFINITY), f32::INFINITY);
        assert_eq!(round(f32::MAX), f32::INFINITY);
        assert!(round(f32::NAN).is_nan());
    }

    #[test]
    fn f64_rounds_once() {
        // Just above a tie, by less than f32 can tell: two roundings would end at 1.
        let x = 1.0 + 1.0 / 256.0 + 1e-12;
        assert_eq!(Bf16::from_f64(x).to_f32(), 1.0 + 2.0 / 256.0);
        assert_eq!(Bf16::from_f64(-x).to_f32(), -1.0 - 2.0 / 256.0);
        assert_eq!(Bf16::from_f64(1.0 + 1.0 / 256.0 - 1e-12).to_f32(), 1.0);
        assert_eq!(Bf16::from_f64(1e300).to_f32(), f32::INFINITY);
        assert_eq!(Bf16::from_f64(1e-300).to_f32(), 0.0);
        assert!(Bf16::from_f64(f64::NAN).to_f32().is_nan());
    }
}
