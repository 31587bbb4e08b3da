//! Weights, tokens and sketches that are pure functions of a label, equal to the last bit here and in `tools/golden/exact.py`.
//! Integers, and f64 operations that IEEE 754 rounds exactly, nothing else: no platform's `ln` or `cos` can differ.

use farthing_base::random::{PHI, mix};

/// Elements up to which a tensor is kept whole.
pub(crate) const WHOLE: usize = 512;
/// Sums in the sketch of a larger one.
pub(crate) const BUCKETS: usize = 512;

/// A label's endless list of numbers.
#[derive(Clone, Copy)]
pub(crate) struct Numbers {
    key: u64,
}

impl Numbers {
    /// FNV-1a of the label's bytes, mixed, is the key.
    pub(crate) fn new(label: &str) -> Self {
        let hash = label.bytes().fold(0xcbf2_9ce4_8422_2325, |hash: u64, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        });
        Self { key: mix(hash) }
    }

    /// Number `i`.
    pub(crate) fn bits(self, i: usize) -> u64 {
        mix(self.key.wrapping_add((i as u64 + 1).wrapping_mul(PHI)))
    }

    /// In the open interval (0, 1).
    pub(crate) fn uniform(self, i: usize) -> f64 {
        ((self.bits(i) >> 12) as f64 + 0.5) / (1u64 << 52) as f64
    }

    /// Near enough normal: the sum of a number's four 16-bit quarters, to mean 0 and deviation 1.
    pub(crate) fn normal(self, i: usize) -> f64 {
        let bits = self.bits(i);
        let sum: u64 = (0..4).map(|quarter| bits >> (16 * quarter) & 0xffff).sum();
        (sum as i64 - 131_070) as f64 / ((4_294_967_296.0f64 - 1.0) / 3.0).sqrt()
    }
}

/// Inputs and targets (rows, tokens): each token is 3 times the one before it plus one of 11 numbers. With `ignore`, about one
/// target in 17 is −1.
pub(crate) fn batch(
    label: &str,
    rows: usize,
    tokens: usize,
    vocab: usize,
    ignore: bool,
) -> (Vec<i32>, Vec<i32>) {
    let noise = Numbers::new(label);
    let ignored = Numbers::new(&format!("{label}/ignore"));
    let (mut inputs, mut targets) = (vec![], vec![]);
    for row in 0..rows {
        let first = row * (tokens + 1);
        let mut id = noise.bits(first) % vocab as u64;
        for t in 0..tokens {
            inputs.push(id as i32);
            id = (3 * id + noise.bits(first + t + 1) % 11) % vocab as u64;
            let skip = ignore && ignored.bits(row * tokens + t).is_multiple_of(17);
            targets.push(if skip { -1 } else { id as i32 });
        }
    }
    (inputs, targets)
}

/// The tensor whole where it is small, else its count sketch: element i added with a random sign to one of [`BUCKETS`] sums.
///
/// The map is linear and the mean of ‖S(x)‖² is ‖x‖², with a relative deviation of √(2 / 512) = 6.3% whatever x is, so the
/// distance of two sketches is that of the tensors within a few percent.
pub(crate) fn sketch(name: &str, values: &[f64]) -> Vec<f64> {
    if values.len() <= WHOLE {
        return values.to_vec();
    }
    let numbers = Numbers::new(&format!("sketch/{name}"));
    let mut sums = vec![0.0; BUCKETS];
    for (i, &x) in values.iter().enumerate() {
        let bits = numbers.bits(i);
        let sum = &mut sums[bits as usize % BUCKETS];
        *sum += if bits >> 63 == 0 { x } else { -x };
    }
    sums
}

/// ‖x‖.
pub(crate) fn norm(x: &[f64]) -> f64 {
    x.iter().map(|x| x * x).sum::<f64>().sqrt()
}
