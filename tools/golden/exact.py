"""Weights, tokens and sketches that are pure functions of a label, equal to the last bit here and in Rust.

`crates/model/tests/golden/exact.rs` is the same in Rust; the committed results are worth nothing if the two differ, and
`check()` prints values that the Rust side asserts. Only integer operations, and f64 operations that IEEE 754 rounds exactly
(+ − × ÷ √), are used: no platform's `ln` or `cos` can differ.
"""

import math

import numpy as np

PHI = 0x9E3779B97F4A7C15
MASK = (1 << 64) - 1
# The standard deviation of a sum of four independent uniforms on 0..=65535.
SUM_STD = math.sqrt((2.0**32 - 1.0) / 3.0)
# Elements up to which a tensor is kept whole, and the buckets of a sketch of a larger one.
WHOLE, BUCKETS = 512, 512


def mix_int(z):
    """SplitMix64's finaliser on one number."""
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
    return z ^ (z >> 31)


def key(label):
    """FNV-1a of the label's bytes, mixed."""
    h = 0xCBF29CE484222325
    for byte in label.encode():
        h = ((h ^ byte) * 0x100000001B3) & MASK
    return mix_int(h)


def bits(label, n):
    """Numbers 0..n of the label's stream, as uint64."""
    with np.errstate(over="ignore"):
        z = np.uint64(key(label)) + np.arange(1, n + 1, dtype=np.uint64) * np.uint64(PHI)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return z ^ (z >> np.uint64(31))


def uniform(label, n):
    """In the open interval (0, 1), f64."""
    return ((bits(label, n) >> np.uint64(12)).astype(np.float64) + 0.5) * 2.0**-52


def normal(label, n):
    """Near enough normal (mean 0, deviation 1, |z| < 3.5): the sum of the four 16-bit quarters of a number, f64."""
    b = bits(label, n)
    quarters = sum(((b >> np.uint64(16 * i)) & np.uint64(0xFFFF)).astype(np.int64) for i in range(4))
    return (quarters - 131_070).astype(np.float64) / SUM_STD


def rows(label, count, tokens, vocab):
    """`count` rows of tokens + 1 ids, each 3 times the one before it plus one of 11 numbers: a language with something to learn."""
    out = np.zeros((count, tokens + 1), dtype=np.int64)
    noise = bits(label, count * (tokens + 1)).reshape(count, tokens + 1)
    for r in range(count):
        out[r, 0] = int(noise[r, 0]) % vocab
        for t in range(1, tokens + 1):
            out[r, t] = (3 * int(out[r, t - 1]) + int(noise[r, t]) % 11) % vocab
    return out


def batch(label, count, tokens, vocab, ignore=False):
    """Inputs and targets (count, tokens); with `ignore`, about one target in 17 is −1."""
    both = rows(label, count, tokens, vocab)
    inputs, targets = both[:, :-1].copy(), both[:, 1:].copy()
    if ignore:
        hit = bits(label + "/ignore", count * tokens).reshape(count, tokens) % np.uint64(17) == 0
        targets[hit] = -1
    return inputs, targets


def sketch(name, values):
    """The tensor whole where it is small, else its count sketch, in f64.

    Element i is added with a random sign to one of BUCKETS sums. The map S is linear and E‖S(x)‖² = ‖x‖², with a relative
    standard deviation of √(2 / BUCKETS) = 6.3% whatever x is, provided that x does not depend on the signs; so the
    distance of two sketches is that of the tensors within a few percent (Charikar, Chen and Farach-Colton 2002; Weinberger et al. 2009).
    """
    x = np.asarray(values, dtype=np.float64).reshape(-1)
    if x.size <= WHOLE:
        return x
    b = bits("sketch/" + name, x.size)
    signed = np.where(b >> np.uint64(63) == 0, x, -x)
    return np.bincount((b % np.uint64(BUCKETS)).astype(np.int64), weights=signed, minlength=BUCKETS)


def norm(values):
    x = np.asarray(values, dtype=np.float64).reshape(-1)
    return float(np.sqrt(np.sum(x * x)))


def distance(a, b):
    """‖a − b‖ / ‖b‖, and 0 where both are 0."""
    a, b = (np.asarray(x, dtype=np.float64).reshape(-1) for x in (a, b))
    off = norm(a - b)
    return off / norm(b) if off else 0.0


def check():
    """What `exact.rs` asserts."""
    print("bits", [f"{int(b):#018x}" for b in bits("a/b", 3)])
    print("uniform", [float(x) for x in uniform("a/b", 3)])
    print("normal", [float(x) for x in normal("a/b", 3)])
    inputs, targets = batch("a/b", 1, 8, 250, ignore=True)
    print("batch", inputs.tolist(), targets.tolist())
    s = sketch("a/b", normal("x", 3000))
    print("sketch", [float(x) for x in s[:3]], norm(s), norm(normal("x", 3000)))


if __name__ == "__main__":
    check()
