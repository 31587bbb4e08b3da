//! Sums of host arrays in the order of ranks.

use farthing_kernels::{Bf16, DType};

use crate::{Error, Result};

/// `sum` = the sum of `parts`, elements of `dtype`, all of one length; first to last.
///
/// # Errors
/// [`Error::Argument`] for elements that are no floats.
pub(crate) fn in_order(
    during: &'static str,
    dtype: DType,
    sum: &mut [u8],
    parts: &[&[u8]],
) -> Result<()> {
    match dtype {
        DType::F32 => floats(sum, parts, f32::from_le_bytes, f32::to_le_bytes),
        DType::F64 => floats(sum, parts, f64::from_le_bytes, f64::to_le_bytes),
        DType::BF16 => {
            // One element at a time: rounded once, after the last.
            for (i, sum) in sum.chunks_exact_mut(2).enumerate() {
                let value = |part: &&[u8]| f32::from_le_bytes([0, 0, part[2 * i], part[2 * i + 1]]);
                let total: f32 = parts.iter().map(value).fold(0.0, |a, b| a + b);
                sum.copy_from_slice(bytemuck::bytes_of(&Bf16::from_f64(f64::from(total))));
            }
        }
        other => {
            return Err(Error::Argument { during, what: format!("elements of {other:?}") });
        }
    }
    Ok(())
}

/// A pass for each part, over pieces that stay in the nearest cache.
fn floats<const N: usize, T: Copy + std::ops::Add<Output = T>>(
    sum: &mut [u8],
    parts: &[&[u8]],
    read: impl Fn([u8; N]) -> T,
    write: impl Fn(T) -> [u8; N],
) {
    const PIECE: usize = 1 << 13;
    let Some((first, rest)) = parts.split_first() else { return };
    for (start, sum) in (0..).step_by(PIECE).zip(sum.chunks_mut(PIECE)) {
        let end = start + sum.len();
        sum.copy_from_slice(&first[start..end]);
        for part in rest {
            let (sums, _) = sum.as_chunks_mut::<N>();
            let (more, _) = part[start..end].as_chunks::<N>();
            for (sum, more) in sums.iter_mut().zip(more) {
                *sum = write(read(*sum) + read(*more));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_are_taken_from_the_first_rank_to_the_last() {
        let parts: [&[f32]; 3] = [&[1e8, 1.0], &[-1e8, 2.0], &[1.0, 3.0]];
        let bytes = parts.map(bytemuck::cast_slice);
        let mut sum = [0_f32; 2];
        in_order("", DType::F32, bytemuck::cast_slice_mut(&mut sum), &bytes).unwrap();
        assert_eq!(sum, [1.0, 6.0]);
        let wide: Vec<f64> = (0..5_000).map(f64::from).collect();
        let mut sum = vec![0.0_f64; 5_000];
        let part = bytemuck::cast_slice(&wide);
        in_order("", DType::F64, bytemuck::cast_slice_mut(&mut sum), &[part, part]).unwrap();
        assert!(sum.iter().zip(&wide).all(|(sum, x)| *sum == 2.0 * x));
        let round = |x: f64| Bf16::from_f64(x);
        let parts = [[round(256.0)], [round(1.0)], [round(1.0)]];
        let bytes: Vec<&[u8]> = parts.iter().map(|p| bytemuck::cast_slice(p)).collect();
        let mut sum = [round(0.0)];
        in_order("", DType::BF16, bytemuck::cast_slice_mut(&mut sum), &bytes).unwrap();
        assert_eq!(sum[0].to_f32(), 258.0, "rounded after each, the ones would be lost");
        let refused = in_order("all_reduce", DType::I32, &mut [], &[]).unwrap_err().to_string();
        assert_eq!(refused, "all_reduce: elements of I32");
    }
}
