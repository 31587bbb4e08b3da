//! Random numbers as pure functions of (seed, name, number): they are the same in any order and on any number of threads. Not for cryptography.
//!
//! Ask a [`Stream`] for any of its numbers, or take them one after another from [`Draws`]. Both mix a counter with SplitMix64's finaliser (Steele, Lea and Flood, "Fast splittable pseudorandom
//! number generators", 2014). Checkpoints and data sets depend on these numbers, so they will never change.

use std::f64::consts::TAU;

/// 2⁶⁴ divided by the golden ratio, odd: multiples of it, taken by 64 bits, lie far from each other.
pub const PHI: u64 = 0x9e37_79b9_7f4a_7c15;

/// SplitMix64's finaliser: a bijection of 64 bits that mixes every bit into every other.
pub const fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// An endless list of random numbers that can be asked for in any order. Its two 64-bit keys come from BLAKE3 of seed and name; number `i` is
/// the finaliser over key₀ + i·φ, xored with key₁ and mixed once more.
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
        mix(mix(i.wrapping_mul(PHI).wrapping_add(self.keys[0])) ^ self.keys[1])
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

/// Random numbers one after another, from the first: number `i` (from 1) is the finaliser over key + i·φ.
#[derive(Debug, Clone)]
pub struct Draws {
    key: u64,
    counter: u64,
}

impl Draws {
    /// The draws number `index` of the purpose `what`.
    pub fn new(seed: u64, what: &str, index: u64) -> Self {
        let mut key = mix(seed ^ PHI);
        for byte in what.bytes() {
            key = mix(key.wrapping_add(PHI) ^ u64::from(byte));
        }
        Self { key: mix(key ^ mix(index.wrapping_add(PHI))), counter: 0 }
    }

    /// The next 64 bits.
    pub fn next_u64(&mut self) -> u64 {
        self.counter = self.counter.wrapping_add(PHI);
        mix(self.key.wrapping_add(self.counter))
    }

    /// Uniform in 0..n (n > 0), by the high half of a 128-bit product; the bias is below n / 2^64.
    pub fn below(&mut self, n: usize) -> usize {
        ((u128::from(self.next_u64()) * n as u128) >> 64) as usize
    }

    /// Uniform in [0, 1).
    pub fn unit(&mut self) -> f64 {
        (self.next_u64() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// True with the given probability.
    pub fn chance(&mut self, p: f64) -> bool {
        self.unit() < p
    }

    /// One of the items, each equally likely; `items` is not empty.
    pub fn pick<'a, T: ?Sized>(&mut self, items: &[&'a T]) -> &'a T {
        items[self.below(items.len())]
    }

    /// Standard normal, by Box and Muller.
    pub fn normal(&mut self) -> f64 {
        let u = 1.0 - self.unit();
        (-2.0 * u.ln()).sqrt() * (TAU * self.unit()).cos()
    }

    /// Puts the items in an order of which each is equally likely (Fisher–Yates).
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for i in (1..items.len()).rev() {
            items.swap(i, self.below(i + 1));
        }
    }
}

/// Knuth's congruential generator for MMIX: a state, each from the one before. Weaker than the others and here only because tables, benchmarks and
/// hostile inputs were made with it and are to stay what they are; new code takes [`Draws`].
#[derive(Debug, Clone)]
pub struct Congruential(pub u64);

impl Congruential {
    /// The next 64 bits, of which the upper ones are the better.
    pub fn next_u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005);
        self.0 = self.0.wrapping_add(1_442_695_040_888_963_407);
        self.0
    }

    /// Uniform in the open interval (0, 1).
    pub fn unit(&mut self) -> f64 {
        ((self.next_u64() >> 11) as f64 + 0.5) / (1u64 << 53) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// From the crate's first version; `mix` from SplitMix64's published first outputs for the seed 1234567.
    #[test]
    fn the_numbers_never_change() {
        let published = [6_457_827_717_110_365_317_u64, 3_203_168_211_198_807_973];
        for (i, expected) in (1..).zip(published) {
            assert_eq!(mix(1_234_567_u64.wrapping_add(PHI.wrapping_mul(i))), expected);
        }
        let stream = Stream::new(7, "moments");
        let bits = [0, 1, 1_000].map(|i| stream.bits(i));
        assert_eq!(
            bits,
            [17_803_256_432_244_280_356, 13_881_364_139_668_779_129, 2_398_688_798_066_840_582]
        );
        let mut draws = Draws::new(7, "moments", 3);
        assert_eq!(
            [(); 3].map(|()| draws.next_u64()),
            [9_473_929_380_349_246_985, 7_281_290_387_285_683_999, 1_810_159_186_455_081_269]
        );
    }

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
        let first = |seed, what, index| Draws::new(seed, what, index).next_u64();
        assert_ne!(first(1, "a", 0), first(2, "a", 0));
        assert_ne!(first(1, "a", 0), first(1, "b", 0));
        assert_ne!(first(1, "a", 0), first(1, "a", 1));
    }
}
