//! Random numbers as a pure function of (seed, name, index): no state, so neither order nor threads can change them.
//!
//! A stream's two 64-bit keys come from BLAKE3 of seed and name. Number `i` is SplitMix64's finaliser (Steele, Lea and Flood,
//! 2014) over the Weyl sequence key₀ + i·φ, xored with key₁ and mixed once more. Not for cryptography.

use std::f64::consts::TAU;

/// An endless list of random numbers that can be asked for in any order.
#[derive(Clone, Copy, Debug)]
pub struct Stream {
    keys: [u64; 2],
}

impl Stream {
    /// The stream of this seed and name.
    pub fn new(seed: u64, name: &str) -> Self {
        let mut hasher = blake3::Hasher::new();
        hasher.update(&seed.to_le_bytes());
        hasher.update(name.as_bytes());
        let hash = hasher.finalize();
        let mut keys = [0u64; 2];
        for (key, bytes) in keys.iter_mut().zip(hash.as_bytes().chunks_exact(8)) {
            *key = bytes.iter().rev().fold(0, |k, &b| (k << 8) | u64::from(b));
        }
        Self { keys }
    }

    /// 64 random bits, number `i`.
    pub fn bits(&self, i: u64) -> u64 {
        let weyl = i.wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(self.keys[0]);
        mix(mix(weyl) ^ self.keys[1])
    }

    /// Uniform in the open interval (0, 1), number `i`: 52 bits and a half.
    pub fn uniform(&self, i: u64) -> f64 {
        ((self.bits(i) >> 12) as f64 + 0.5) * (1.0 / (1u64 << 52) as f64)
    }

    /// Standard normal, number `i`: Box–Muller over uniforms 2·⌊i/2⌋ and the one after it, cosine for even `i`, sine for odd.
    pub fn normal(&self, i: u64) -> f64 {
        let pair = i & !1;
        let radius = (-2.0 * self.uniform(pair).ln()).sqrt();
        let (sin, cos) = (TAU * self.uniform(pair + 1)).sin_cos();
        radius * if i == pair { cos } else { sin }
    }
}

/// SplitMix64's finaliser: a bijection of 64 bits.
fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uniform_and_normal_have_their_moments() {
        let stream = Stream::new(7, "moments");
        let n = 200_000u64;
        let mean = |f: &dyn Fn(u64) -> f64| (0..n).map(f).sum::<f64>() / n as f64;
        assert!((mean(&|i| stream.uniform(i)) - 0.5).abs() < 3e-3);
        assert!((mean(&|i| (stream.uniform(i) - 0.5).powi(2)) - 1.0 / 12.0).abs() < 1e-3);
        assert!(mean(&|i| stream.normal(i)).abs() < 8e-3);
        assert!((mean(&|i| stream.normal(i).powi(2)) - 1.0).abs() < 1e-2);
        assert!((mean(&|i| stream.normal(i).powi(4)) - 3.0).abs() < 8e-2);
        let neighbours = mean(&|i| stream.normal(i) * stream.normal(i + 1));
        assert!(neighbours.abs() < 8e-3, "neighbours correlate: {neighbours}");
    }

    #[test]
    fn streams_differ_by_seed_and_by_name() {
        let bits = |seed, name| Stream::new(seed, name).bits(0);
        assert_ne!(bits(1, "a"), bits(2, "a"));
        assert_ne!(bits(1, "a"), bits(1, "b"));
        assert_eq!(bits(1, "a"), bits(1, "a"));
    }
}
