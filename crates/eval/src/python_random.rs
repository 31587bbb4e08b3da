//! Python's `random.Random(seed)` for whole-number seeds: the Mersenne Twister, `getrandbits`, `shuffle` and `sample`, so that
//! items and few-shot examples are those of published results. Floats and other distributions are not here.
//!
//! # Source
//! M. Matsumoto and T. Nishimura, "Mersenne Twister" (1998), MT19937 with seeding by an array; the algorithms that the
//! documentation and behaviour of CPython 3.11's `random` module fix.

/// Words of state.
const N: usize = 624;
/// Distance of the word that is mixed in.
const M: usize = 397;

/// A generator that yields what `random.Random(seed)` yields.
pub(crate) struct PythonRandom {
    state: [u32; N],
    next: usize,
}

impl PythonRandom {
    /// `random.Random(seed)`.
    pub(crate) fn new(seed: u64) -> Self {
        let words = [seed as u32, (seed >> 32) as u32];
        let key = if words[1] == 0 { &words[..1] } else { &words[..] };
        let mut s = by_number(19_650_218);
        let (mut i, mut j) = (1, 0);
        for _ in 0..N.max(key.len()) {
            let mixed = (s[i - 1] ^ (s[i - 1] >> 30)).wrapping_mul(1_664_525);
            s[i] = (s[i] ^ mixed).wrapping_add(key[j]).wrapping_add(j as u32);
            j = (j + 1) % key.len();
            i = following(i, &mut s);
        }
        for _ in 1..N {
            let mixed = (s[i - 1] ^ (s[i - 1] >> 30)).wrapping_mul(1_566_083_941);
            s[i] = (s[i] ^ mixed).wrapping_sub(i as u32);
            i = following(i, &mut s);
        }
        s[0] = 0x8000_0000;
        Self { state: s, next: N }
    }

    fn word(&mut self) -> u32 {
        if self.next == N {
            self.twist();
        }
        let mut y = self.state[self.next];
        self.next += 1;
        y ^= y >> 11;
        y ^= (y << 7) & 0x9D2C_5680;
        y ^= (y << 15) & 0xEFC6_0000;
        y ^ (y >> 18)
    }

    fn twist(&mut self) {
        for k in 0..N {
            let y = (self.state[k] & 0x8000_0000) | (self.state[(k + 1) % N] & 0x7FFF_FFFF);
            let odd = if y & 1 == 1 { 0x9908_B0DF } else { 0 };
            self.state[k] = self.state[(k + M) % N] ^ (y >> 1) ^ odd;
        }
        self.next = 0;
    }

    /// `getrandbits(bits)` for 1 to 64 bits.
    fn bits(&mut self, bits: u32) -> u64 {
        debug_assert!((1..=64).contains(&bits));
        if bits <= 32 {
            return u64::from(self.word() >> (32 - bits));
        }
        let low = u64::from(self.word());
        low | u64::from(self.word() >> (64 - bits)) << 32
    }

    /// A number in 0..n by drawing as many bits as `n` has until they fit. `n` must be at least 1.
    fn below(&mut self, n: usize) -> usize {
        debug_assert!(n > 0);
        let bits = usize::BITS - n.leading_zeros();
        loop {
            let drawn = self.bits(bits) as usize;
            if drawn < n {
                return drawn;
            }
        }
    }

    /// `shuffle(items)`.
    pub(crate) fn shuffle<T>(&mut self, items: &mut [T]) {
        for i in (1..items.len()).rev() {
            items.swap(i, self.below(i + 1));
        }
    }

    /// `sample(range(n), k)`; `k` must be at most `n`.
    pub(crate) fn sample(&mut self, n: usize, k: usize) -> Vec<usize> {
        debug_assert!(k <= n);
        if n <= pool_limit(k) {
            let mut pool: Vec<usize> = (0..n).collect();
            let draw = |i| {
                let j = self.below(n - i);
                let chosen = pool[j];
                pool[j] = pool[n - i - 1];
                chosen
            };
            return (0..k).map(draw).collect();
        }
        let mut chosen = Vec::with_capacity(k);
        while chosen.len() < k {
            let j = self.below(n);
            if !chosen.contains(&j) {
                chosen.push(j);
            }
        }
        chosen
    }
}

/// The state that a single number seeds.
fn by_number(seed: u32) -> [u32; N] {
    let mut s = [seed; N];
    for i in 1..N {
        let mixed = s[i - 1] ^ (s[i - 1] >> 30);
        s[i] = mixed.wrapping_mul(1_812_433_253).wrapping_add(i as u32);
    }
    s
}

/// The index after `i`; where it wraps, the first word takes the last one's value.
fn following(i: usize, s: &mut [u32; N]) -> usize {
    if i + 1 < N {
        return i + 1;
    }
    s[0] = s[N - 1];
    1
}

/// Up to this many candidates, `sample` draws from a list; above, it rejects what was drawn before. It models the memory of
/// a Python set: 21, and for k > 5 the smallest power of 4 not below 3k on top.
fn pool_limit(k: usize) -> usize {
    if k <= 5 {
        return 21;
    }
    let mut table = 1usize;
    while table < 3 * k {
        table *= 4;
    }
    21 + table
}

#[cfg(test)]
mod tests {
    use super::*;

    // Golden values: CPython 3.11.7. Each comment is the expression that printed the value beside it, after `import random`
    // and `R = random.Random`, run with `python3 -c`.

    #[test]
    fn words_are_python_s() {
        // r = R(1337); [r.getrandbits(32) for _ in range(8)]
        let mut r = PythonRandom::new(1337);
        let words: Vec<u64> = (0..8).map(|_| r.bits(32)).collect();
        assert_eq!(
            words,
            [
                2_653_228_291,
                3_975_144_315,
                2_290_358_181,
                3_048_911_309,
                1_571_306_751,
                2_452_336_048,
                2_515_937_522,
                3_143_464_376
            ]
        );
        // r = R(2**32+5); [r.getrandbits(32) for _ in range(4)]
        let mut r = PythonRandom::new((1 << 32) + 5);
        let words: Vec<u64> = (0..4).map(|_| r.bits(32)).collect();
        assert_eq!(words, [675_479_763, 2_085_189_291, 1_213_270_837, 3_822_202_474]);
    }

    #[test]
    fn bits_of_any_width_are_python_s() {
        // r = R(0); [r.getrandbits(k) for k in (1, 5, 31, 32, 33, 53, 64)]
        let mut r = PythonRandom::new(0);
        let bits = [1, 5, 31, 32, 33, 53, 64].map(|k| r.bits(k));
        assert_eq!(
            bits,
            [
                1,
                12,
                1_627_694_678,
                3_823_568_514,
                1_806_341_205,
                8_696_133_065_399_866,
                8_963_783_824_838_420_066
            ]
        );
    }

    #[test]
    fn shuffles_are_python_s() {
        // x = list(range(20)); R(1337).shuffle(x); x
        let mut x: Vec<usize> = (0..20).collect();
        PythonRandom::new(1337).shuffle(&mut x);
        assert_eq!(x, [13, 1, 2, 9, 7, 8, 0, 18, 3, 14, 4, 16, 12, 15, 6, 10, 5, 11, 17, 19]);
        // x = list(range(1000)); R(1337).shuffle(x); x[:8], x[-4:], sum(i*v for i,v in enumerate(x))
        let mut x: Vec<usize> = (0..1000).collect();
        PythonRandom::new(1337).shuffle(&mut x);
        assert_eq!(x[..8], [239, 310, 101, 624, 1, 628, 612, 482]);
        assert_eq!(x[996..], [726, 546, 947, 632]);
        assert_eq!(x.iter().enumerate().map(|(i, v)| i * v).sum::<usize>(), 252_753_016);
    }

    #[test]
    fn samples_are_python_s_on_both_sides_of_the_pool_limit() {
        // R(seed).sample(range(n), k) for each line (n, k, seed)
        let golden: [(usize, usize, u64, &[usize]); 10] = [
            (10, 3, 1234, &[7, 1, 0]),
            (21, 5, 1235, &[13, 17, 18, 15, 12]),
            (22, 5, 1236, &[17, 15, 21, 8, 16]),
            (84, 10, 1250, &[18, 50, 80, 20, 35, 41, 38, 33, 60, 3]),
            (85, 10, 1252, &[38, 76, 60, 6, 44, 9, 56, 37, 39, 23]),
            (86, 10, 1251, &[74, 1, 40, 47, 30, 53, 58, 42, 17, 48]),
            (500, 10, 1240, &[331, 236, 182, 298, 265, 269, 23, 204, 210, 138]),
            (20_321, 10, 1234, &[14441, 3828, 245, 2970, 19078, 1144, 2750, 3225, 11620, 7759]),
            (5, 5, 1, &[1, 0, 4, 3, 2]),
            (3, 0, 9, &[]),
        ];
        for (n, k, seed, expected) in golden {
            assert_eq!(PythonRandom::new(seed).sample(n, k), expected, "sample({n}, {k}), {seed}");
        }
    }
}
