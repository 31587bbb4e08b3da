//! Tests of a device at the sizes of a real training step, beyond what the bodies of [`conformance`](super) reach: results must repeat bit for bit, and addresses must work beyond 32 bits.
//!
//! Computing all of it in f64 would take minutes. So the device computes everything and we compare some of it: rows at every kind of edge, in every head. Operands are written
//! once and repeated by the device; rows that are compared hold numbers derived from their own position, which exposes an index that wraps around. All numbers are exact in BF16, so
//! both sides see what was written.
//!
//! [`LARGE`] is meant for GPUs (a patient CPU can run some of it). [`TOY`] is the same code at sizes that suit the emulator.

mod attention;
mod beyond;
mod repeated;

use std::ops::Range;

use farthing_base::random::{PHI, mix};

use super::case::Check;
use super::{Body, Mismatch, Outcome};
use crate::{Bf16, DType, Device, Error, Mut, Ref, Result, Shape, Tensor};

/// What is large.
struct Scale {
    attention: attention::Sizes,
    repeated: repeated::Sizes,
    beyond: beyond::Sizes,
}

const REAL: Scale =
    Scale { attention: attention::REAL, repeated: repeated::REAL, beyond: beyond::REAL };
const SMALL: Scale =
    Scale { attention: attention::SMALL, repeated: repeated::SMALL, beyond: beyond::SMALL };

macro_rules! bodies {
    ($($name:ident: $body:path,)*) => {
        /// Bodies at real sizes, each with its name. Where a device has not the memory, [`Mismatch::NotRun`] says so.
        pub const LARGE: &[(&str, Body)] =
            &[$((stringify!($name), |dev| roomy($body(dev, &REAL)))),*];

        /// The bodies of [`LARGE`] at sizes for the emulator, by which their own code is tested.
        pub const TOY: &[(&str, Body)] =
            &[$((stringify!($name), |dev| roomy($body(dev, &SMALL)))),*];
    };
}

bodies! {
    attention_long: attention::forward,
    attention_backward_long: attention::backward,
    logits_wide: beyond::logits_wide,
    attention_repeated: repeated::attention,
    reductions_repeated: repeated::reductions,
    elementwise_beyond_32_bits: beyond::elementwise,
    norms_beyond_32_bits: beyond::norms,
    embedding_beyond_32_bits: beyond::embedding,
    logits_beyond_32_bits: beyond::logits,
    sums_beyond_32_bits: beyond::sums,
}

/// A device that lacks the memory is not one that computes what is wrong.
fn roomy(outcome: Outcome) -> Outcome {
    match outcome {
        Err(Mismatch::Refused { op, case, source })
            if matches!(*source, Error::OutOfMemory { .. }) =>
        {
            Err(Mismatch::NotRun { op, case, why: source.to_string() })
        }
        other => other,
    }
}

/// About normal: the number at a place of operand `salt`. The same on every machine, and exact in BF16.
fn number(salt: u64, place: u64) -> f32 {
    let z = mix((place ^ salt << 56).wrapping_add(1).wrapping_mul(PHI));
    // The sum of four uniform numbers in 0..2¹⁶ has a mean of 2¹⁷ and a variance of 2³²/3.
    let sum: u64 = (0..4).map(|i| z >> (16 * i) & 0xffff).sum();
    let normal = (sum as f64 - 131_070.0) / (65_536.0 / 3f64.sqrt());
    Bf16::from_f64(normal).to_f32()
}

/// The numbers at places of an operand.
fn numbers(salt: u64, places: Range<usize>) -> Vec<f32> {
    places.map(|place| number(salt, place as u64)).collect()
}

/// Writes numbers that are exact in BF16, in the view's own type.
fn write(dev: &dyn Device, dst: Mut<'_>, numbers: &[f32]) -> Result<()> {
    match dst.dtype() {
        DType::F32 => dev.write(dst, bytemuck::cast_slice(numbers)),
        DType::BF16 => {
            let narrow: Vec<Bf16> = numbers.iter().map(|&x| Bf16::from_f32(x)).collect();
            dev.write(dst, bytemuck::cast_slice(&narrow))
        }
        _ => {
            let wide: Vec<f64> = numbers.iter().copied().map(f64::from).collect();
            dev.write_f64(dst, &wide)
        }
    }
}

/// A tensor of [`numbers`].
fn drawn(dev: &dyn Device, dtype: DType, shape: impl Into<Shape>, salt: u64) -> Result<Tensor> {
    let shape = shape.into();
    let mut tensor = dev.alloc(dtype, shape)?;
    write(dev, tensor.view_mut(), &numbers(salt, 0..shape.elements()))?;
    Ok(tensor)
}

/// A tensor that has to be overwritten.
fn poisoned(dev: &dyn Device, dtype: DType, shape: impl Into<Shape>) -> Result<Tensor> {
    let mut tensor = dev.alloc(dtype, shape.into())?;
    dev.fill(tensor.view_mut(), f64::NAN)?;
    Ok(tensor)
}

/// Ids, targets or positions.
fn indices(dev: &dyn Device, values: &[i32]) -> Result<Tensor> {
    let mut tensor = dev.alloc(DType::I32, [values.len()].into())?;
    dev.write_i32(tensor.view_mut(), values)?;
    Ok(tensor)
}

/// A view's bytes.
fn bytes(dev: &dyn Device, view: Ref<'_>) -> Result<Vec<u8>> {
    let mut bytes = vec![0; view.shape().elements() * view.dtype().bytes()];
    dev.read(&mut bytes, view)?;
    Ok(bytes)
}

/// Runs what may be refused by the device.
fn asked<T>(check: &Check<'_>, f: impl FnOnce() -> Result<T>) -> Result<T, Mismatch> {
    f().map_err(|source| check.refused(source))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_about_normal_exact_in_bf16_and_of_their_place() {
        let x = numbers(1, 0..100_000);
        assert!(x.iter().all(|&x| Bf16::from_f32(x).to_f32() == x));
        let mean = x.iter().copied().map(f64::from).sum::<f64>() / 1e5;
        let variance = x.iter().map(|&x| f64::from(x).powi(2)).sum::<f64>() / 1e5;
        assert!(mean.abs() < 0.01 && (variance - 1.0).abs() < 0.02, "{mean} {variance}");
        // Rows that a wrapped 32-bit index confuses, and operands.
        for other in [numbers(1, 1 << 31..(1 << 31) + 1000), numbers(2, 0..1000)] {
            let equal = x[..1000].iter().zip(&other).filter(|(x, y)| x == y).count();
            assert!(equal < 50, "{equal}");
        }
    }
}
