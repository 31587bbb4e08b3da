//! A program with the widest spread of opcodes that nvcc would emit, against the definitions in other words: i128,
//! f64, counting bits in loops.

use crate::common;
use common::{Numbers, module};
use ptx_emulator::{Arg, Memory, Options};

const INTERESTING: [u64; 14] = [
    0,
    1,
    2,
    7,
    31,
    32,
    63,
    0x7fff_ffff,
    0x8000_0000,
    0xffff_ffff,
    0x7fff_ffff_ffff_ffff,
    0x8000_0000_0000_0000,
    u64::MAX,
    0x0123_4567_89ab_cdef,
];

fn pairs() -> Vec<(u64, u64)> {
    let mut all = Vec::new();
    for a in INTERESTING {
        for b in INTERESTING {
            all.push((a, b));
        }
    }
    let mut numbers = Numbers(11);
    all.extend((0..316).map(|_| (numbers.bits(), numbers.bits())));
    all
}

fn bit_count(x: u64) -> u64 {
    (0..64).filter(|i| x >> i & 1 == 1).count() as u64
}

fn reversed(x: u64, bits: u32) -> u64 {
    (0..bits).filter(|i| x >> i & 1 == 1).map(|i| 1 << (bits - 1 - i)).sum()
}

fn zeros_above(x: u64, bits: u32) -> u64 {
    (0..bits).rev().take_while(|i| x >> i & 1 == 0).count() as u64
}

fn bytes(a: u32, b: u32, selector: u32) -> u64 {
    let all: Vec<u8> = a.to_le_bytes().into_iter().chain(b.to_le_bytes()).collect();
    (0..4).map(|i| (all[(selector >> (4 * i) & 7) as usize] as u64) << (8 * i)).sum()
}

#[test]
fn integers() {
    let pairs = pairs();
    let n = pairs.len();
    let (a32, b32): (Vec<u32>, Vec<u32>) =
        pairs.iter().map(|(a, b)| ((a >> 16) as u32 ^ *a as u32, *b as u32)).unzip();
    let (a64, b64): (Vec<u64>, Vec<u64>) = pairs.iter().copied().unzip();
    let module = module("opcodes");
    let mut memory = Memory::new();
    let out = memory.alloc(n * 48 * 8);
    let args: [Arg; 6] = [
        out.into(),
        memory.upload(&a32).into(),
        memory.upload(&b32).into(),
        memory.upload(&a64).into(),
        memory.upload(&b64).into(),
        (n as i32).into(),
    ];
    let kernel = module.kernel("integers").unwrap();
    let grid = [n.div_ceil(64) as u32, 1, 1];
    kernel.launch(grid, [64, 1, 1], 0, &args, &mut memory, &Options::default()).unwrap();
    let got: Vec<u64> = memory.read(out, n * 48).unwrap();
    for i in 0..n {
        let (ua, ub, ux, uy) = (a32[i], b32[i], a64[i], b64[i]);
        let (a, b, x, y) = (ua as i32, ub as i32, ux as i64, uy as i64);
        let (wa, wb) = (a as i128, b as i128);
        let u32s = |v: i128| v as u32 as u64;
        let floor = |a: i128, b: i128| if b == 0 { 0 } else { a / b };
        let rest = |a: i128, b: i128| if b == 0 { 0 } else { a % b };
        let shift = (ub & 63).min(32);
        let joined = (ub as u128) << 32 | ua as u128;
        let dots = |sign: bool| -> u64 {
            let byte = |v: u32, i: usize| {
                let b = v.to_le_bytes()[i];
                if sign { b as i8 as i128 } else { b as i128 }
            };
            u32s(5 + (0..4).map(|i| byte(ua, i) * byte(ub, i)).sum::<i128>())
        };
        let halves = |i: u32| ((ua >> i & 0xffff) + (ub >> i & 0xffff)) & 0xffff;
        let wide24 = |v: i32| (v << 8 >> 8) as i128;
        let want: [u64; 48] = [
            u32s((wa * wb) >> 32),
            (ua as u128 * ub as u128 >> 32) as u64,
            ((x as i128 * y as i128) >> 64) as u64,
            (ux as u128 * uy as u128 >> 64) as u64,
            (wa * wb) as u64,
            ua as u64 * ub as u64,
            u32s(floor(wa, wb)),
            u32s(rest(wa, wb)),
            u32s(floor(ua as i128, ub as i128)),
            u32s(rest(ua as i128, ub as i128)),
            if y == -1 { 0 } else { floor(x as i128, y as i128) as u64 },
            floor(ux as i128, uy as i128) as u64,
            rest(ux as i128, uy as i128) as u64,
            bit_count(ua as u64),
            bit_count(ux),
            zeros_above(ua as u64, 32),
            zeros_above(ux, 64),
            reversed(ua as u64, 32),
            reversed(ux, 64),
            (0..32).find(|i| ua >> i & 1 == 1).map_or(0, |i| i + 1),
            bytes(ua, ub, 0x5140),
            bytes(ua, ub, ub & 0x7777),
            (joined << (ub & 31) >> 32) as u32 as u64,
            (joined >> (ub & 31)) as u32 as u64,
            (joined << shift >> 32) as u32 as u64,
            (joined >> shift) as u32 as u64,
            u32s((wa - wb).abs() + 7),
            u32s((ua as i128 - ub as i128).abs() + 7),
            dots(true),
            dots(false),
            u32s(if wa < wb { wa } else { wb }),
            if ua > ub { ua } else { ub } as u64,
            if x < y { ux } else { uy },
            if ux > uy { ux } else { uy },
            u32s(wa.abs()),
            (x as i128).abs() as u64,
            ((ua & ub) | (!ua & (ub ^ 0x5555_5555))) as u64,
            u32s((wa as f64 / 2f64.powi(b & 31)).floor() as i128),
            (ux as u128 / (1u128 << (uy & 63))) as u64,
            (x as i128).div_euclid(1i128 << (uy & 63)) as u64,
            (a as i16 as i128 * b as i16 as i128) as u16 as u64,
            u32s(a as i8 as i128),
            u32s(wide24(a) * wide24(b)),
            u32s((ua & 0xff_ffff) as i128 * (ub & 0xff_ffff) as i128),
            (halves(0) | halves(16) << 16) as u64,
            u32s((wa + wb).div_euclid(2)),
            (ua as u64 + ub as u64) / 2,
            (ua % 10) as u64,
        ];
        for (j, want) in want.iter().enumerate() {
            let got = got[i * 48 + j];
            assert_eq!(got, *want, "slot {j} of a {a:#x} b {b:#x} x {x:#x} y {y:#x}");
        }
    }
}

/// Exact: a moderate f32 as an integer multiple of 2^-64.
fn fixed(x: f32) -> i128 {
    let bits = x.to_bits();
    let (e, f) = ((bits >> 23 & 255) as i32, (bits & 0x7f_ffff) as i128);
    let (m, p) = if e == 0 { (f, -149) } else { (f | 1 << 23, e - 150) };
    if m == 0 {
        return 0;
    }
    assert!((-64..30).contains(&p), "{x} is not moderate");
    let v = m << (p + 64);
    if bits >> 31 == 1 { -v } else { v }
}

/// The f32 at or next to `exact` in one direction: 0 toward zero, 1 up, -1 down.
fn rounded(exact: i128, direction: i32) -> f32 {
    let mut c = exact as f32 / 2f32.powi(64);
    while fixed(c) > exact {
        c = c.next_down();
    }
    while fixed(c.next_up()) <= exact {
        c = c.next_up();
    }
    let up = direction > 0 || direction == 0 && exact < 0;
    if up && fixed(c) != exact { c.next_up() } else { c }
}

#[test]
fn floats() {
    let mut numbers = Numbers(23);
    // Mantissas of all lengths, exponents from 2^-8 to 2^7.
    let mut value = || {
        let bits = numbers.bits();
        let m = (bits as u32 & 0x7f_ffff) >> (bits >> 32 & 15) << (bits >> 32 & 15);
        f32::from_bits(m | (119 + (bits >> 40 & 15) as u32) << 23 | (bits >> 63 << 31) as u32)
    };
    let n = 500;
    let [mut a, mut b, mut c] = [0; 3].map(|_| (0..n).map(|_| value()).collect::<Vec<f32>>());
    let special =
        [0.0, -0.0, f32::INFINITY, -f32::INFINITY, f32::NAN, f32::MIN_POSITIVE, 1e-45, f32::MAX];
    for x in special {
        for y in special {
            a.push(x);
            b.push(y);
        }
    }
    c.resize(a.len(), 1.5);
    let module = module("opcodes");
    let mut memory = Memory::new();
    let all = a.len();
    let (out, wide) = (memory.alloc(all * 160), memory.alloc(all * 64));
    let args: [Arg; 6] = [
        out.into(),
        wide.into(),
        memory.upload(&a).into(),
        memory.upload(&b).into(),
        memory.upload(&c).into(),
        (all as i32).into(),
    ];
    let kernel = module.kernel("floats").unwrap();
    kernel
        .launch(
            [all.div_ceil(96) as u32, 1, 1],
            [96, 1, 1],
            0,
            &args,
            &mut memory,
            &Options::default(),
        )
        .unwrap();
    // Not every slot is written when a value is compared away: all are, so this also shows that nothing is missing.
    let got: Vec<u32> = memory.read(out, all * 40).unwrap();
    let got_wide: Vec<f64> = memory.read(wide, all * 8).unwrap();
    for i in 0..all {
        let (a, b, c) = (a[i], b[i], c[i]);
        let g = |slot: usize| f32::from_bits(got[i * 40 + slot]);
        let same = |slot: usize, want: f32| {
            let x = g(slot);
            assert!(
                x.to_bits() == want.to_bits() || x.is_nan() && want.is_nan(),
                "slot {slot} of {a:e}, {b:e}, {c:e}: {x:e} where {want:e} was expected"
            );
        };
        same(0, a + b);
        same(4, a * b);
        same(8, a.mul_add(b, c));
        same(12, a / b);
        same(14, 1.0 / a);
        same(15, a.abs().sqrt());
        same(17, if a.is_nan() { 0.0 } else { a.clamp(0.0, 1.0) + 0.0 });
        same(20, a.floor());
        same(21, a.ceil());
        same(22, a.trunc());
        same(23, a.round_ties_even());
        same(24, f32::from_bits(a.to_bits() & 0x7fff_ffff | b.to_bits() & 0x8000_0000));
        same(
            36,
            if a.is_nan() {
                1.0
            } else if a.is_infinite() {
                2.0
            } else {
                0.0
            },
        );
        same(
            37,
            if a < b {
                1.0
            } else if a >= b {
                2.0
            } else {
                3.0
            },
        );
        same(38, (a as f64 * b as f64) as f32);
        let int = |slot: usize, want: i32| {
            assert_eq!(got[i * 40 + slot], want as u32, "slot {slot} of {a:e}");
        };
        int(25, a.round_ties_even() as i32);
        int(26, a as i32);
        int(27, a.floor() as i32);
        int(28, a.ceil() as i32);
        int(29, a as u32 as i32);
        let w = |slot: usize| got_wide[i * 8 + slot];
        let (x, y) = (a as f64, b as f64);
        for (slot, want) in [
            (0, x + y),
            (1, x * y),
            (2, x / y),
            (3, x.mul_add(y, c as f64)),
            (4, x.abs().sqrt()),
            (6, x.min(y)),
            (7, x.round_ties_even() as f32 as f64),
        ] {
            assert!(
                w(slot) == want || w(slot).is_nan() && want.is_nan(),
                "f64 slot {slot}: {a:e}, {b:e}"
            );
        }
        if i >= n {
            continue;
        }
        assert_eq!(w(5), (x * 1e10).trunc());
        // These values have no bits below 2^-31, so the product is exact.
        let product = (fixed(a) >> 32) * (fixed(b) >> 32);
        for (slot, exact) in [(1, fixed(a) + fixed(b)), (5, product), (9, product + fixed(c))] {
            same(slot, rounded(exact, 0));
            same(slot + 1, rounded(exact, 1));
            same(slot + 2, rounded(exact, -1));
        }
        same(39, rounded(product, 0));
        // The largest f32 whose product with b does not pass a; the smallest whose square is at least a.
        let q = g(13);
        let (low, high) = (q.abs() as f64, q.abs().next_up() as f64);
        assert!(low * y.abs() <= x.abs() && high * y.abs() > x.abs(), "{a:e} / {b:e} to {q:e}");
        let r = g(16);
        let (r0, r1) = (r.next_down() as f64, r as f64);
        assert!(r1 * r1 >= x.abs() && r0 * r0 < x.abs(), "root of {a:e} up to {r:e}");
        let integer = b.to_bits() as i32 as i128;
        same(30, rounded_integer(integer, 0));
        same(31, rounded_integer(b.to_bits() as i128, 1));
    }
}

/// Between neighbouring f32 of an integer below 2^32.
fn rounded_integer(v: i128, direction: i32) -> f32 {
    let mut c = v as f32;
    while c as i128 > v {
        c = c.next_down();
    }
    while c.next_up() as i128 <= v && c.next_up().fract() == 0.0 {
        c = c.next_up();
    }
    let up = direction > 0 || direction == 0 && v < 0;
    if up && c as i128 != v { c.next_up() } else { c }
}

/// All finite values of a small format, by its bit fields, with the code of each.
fn values(exponent: u32, mantissa: u32, codes: u32) -> Vec<(f64, u32)> {
    let bias = (1 << (exponent - 1)) - 1;
    (0..codes)
        .map(|c| {
            let (e, f) = ((c >> mantissa) as i32, (c & ((1 << mantissa) - 1)) as f64);
            let unit = 2f64.powi(-(mantissa as i32));
            let v = if e == 0 {
                f * unit * 2f64.powi(1 - bias)
            } else {
                (1.0 + f * unit) * 2f64.powi(e - bias)
            };
            (v, c)
        })
        .collect()
}

/// Nearest, ties to the even code, clamped to the largest.
fn nearest(table: &[(f64, u32)], x: f64, sign: u32) -> u32 {
    let a = x.abs();
    let i = table.partition_point(|t| t.0 < a);
    let code = if i == table.len() {
        table[i - 1].1
    } else if i == 0 {
        table[0].1
    } else {
        let (low, high) = (table[i - 1], table[i]);
        let (down, up) = (a - low.0, high.0 - a);
        if down < up || down == up && low.1 % 2 == 0 { low.1 } else { high.1 }
    };
    if x.is_sign_negative() { code | sign } else { code }
}

#[test]
fn fp8_both_ways_for_every_code_and_the_ties_between() {
    let (e4, e5) = (values(4, 3, 0x7f), values(5, 2, 0x7c));
    let mut x: Vec<f32> = Vec::new();
    for table in [&e4, &e5] {
        for w in table.windows(2) {
            for v in [w[0].0, (w[0].0 + w[1].0) / 2.0, w[0].0 * 0.4 + w[1].0 * 0.6] {
                x.extend([v as f32, -v as f32]);
            }
        }
    }
    x.extend([448.0, 464.0, 465.0, 1e9, -1e9, f32::INFINITY, 57344.0, 61440.0, -70000.0, 1e-30]);
    if x.len() % 2 == 1 {
        x.push(0.0);
    }
    let n = x.len() / 2;
    let module = module("opcodes");
    let mut memory = Memory::new();
    let (out, back) = (memory.alloc(4 * n), memory.alloc(16 * n));
    let args: [Arg; 4] = [out.into(), back.into(), memory.upload(&x).into(), (n as i32).into()];
    let kernel = module.kernel("fp8").unwrap();
    kernel
        .launch(
            [n.div_ceil(64) as u32, 1, 1],
            [64, 1, 1],
            0,
            &args,
            &mut memory,
            &Options::default(),
        )
        .unwrap();
    let got: Vec<u16> = memory.read(out, 2 * n).unwrap();
    let back: Vec<f32> = memory.read(back, 4 * n).unwrap();
    for (i, x) in x.iter().enumerate() {
        let code = |format: usize| got[i / 2 * 2 + format] >> (8 * (i % 2)) & 0xff;
        let want4 = nearest(&e4, *x as f64, 0x80);
        let want5 = nearest(&e5, *x as f64, 0x80);
        assert_eq!(code(0) as u32, want4, "e4m3 of {x:e}");
        assert_eq!(code(1) as u32, want5, "e5m2 of {x:e}");
        let value = |t: &[(f64, u32)], c: u32| t[(c & 0x7f) as usize].0.copysign(*x as f64) as f32;
        assert_eq!(back[i / 2 * 4 + i % 2], value(&e4, want4));
        assert_eq!(back[i / 2 * 4 + 2 + i % 2], value(&e5, want5));
    }
}

/// f16 or bf16 as a table of all non-negative finite values.
fn half_value(table: &[(f64, u32)], h: u32) -> f64 {
    let m = (h & 0x7fff) as usize;
    let v = match table.get(m) {
        Some(t) => t.0,
        None if m == table.len() => f64::INFINITY,
        None => f64::NAN,
    };
    if h & 0x8000 != 0 { -v } else { v }
}

#[test]
fn halves() {
    let (f16, bf16) = (values(5, 10, 0x7c00), values(8, 7, 0x7f80));
    let mut numbers = Numbers(31);
    let n = 2000;
    let [a, b, c] = [0; 3].map(|_| {
        (0..n)
            .map(|i| {
                let bits = numbers.bits() as u32;
                // Exponents near one another most of the time, anything at times.
                if i % 4 == 0 { bits } else { bits & 0x8fff_8fff | 0x3000_3000 }
            })
            .collect::<Vec<u32>>()
    });
    let module = module("opcodes");
    let mut memory = Memory::new();
    let out = memory.alloc(n * 64);
    let args: [Arg; 5] = [
        out.into(),
        memory.upload(&a).into(),
        memory.upload(&b).into(),
        memory.upload(&c).into(),
        (n as i32).into(),
    ];
    let kernel = module.kernel("halves").unwrap();
    let options = Options { uninitialised: false, ..Options::default() };
    kernel.launch([n as u32 / 50, 1, 1], [50, 1, 1], 0, &args, &mut memory, &options).unwrap();
    let got: Vec<u32> = (0..n)
        .flat_map(|i| memory.read::<u32>(out.offset(i as i64 * 64), 14 + 2).unwrap_or_default())
        .collect();
    assert_eq!(got.len(), n * 16);
    for i in 0..n {
        for (slot, table) in
            [(0, &f16), (1, &f16), (2, &f16), (3, &f16), (8, &bf16), (9, &bf16), (10, &bf16)]
        {
            for part in [0, 16] {
                let pick = |v: &[u32]| half_value(table, v[i] >> part & 0xffff);
                let (x, y, z) = (pick(&a), pick(&b), pick(&c));
                let exact = match slot {
                    0 | 9 => x + y,
                    1 => x - y,
                    2 | 10 => x * y,
                    _ => x * y + z,
                };
                // Where f64 itself rounds, it is not a reference.
                let wide = x.abs().max(y.abs()).max(z.abs());
                let small = x.abs().min(y.abs()).min(z.abs());
                if !exact.is_finite()
                    || wide > 1e4
                    || small < 1e-4
                    || exact.abs() > table.last().unwrap().0
                {
                    continue;
                }
                let want = nearest(table, exact, 0x8000);
                let g = got[i * 16 + slot] >> part & 0xffff;
                assert!(
                    g == want || exact == 0.0 && g & 0x7fff == 0,
                    "slot {slot}: {x:e}, {y:e}, {z:e}: {g:#x}, not {want:#x}"
                );
            }
        }
        assert_eq!(got[i * 16 + 6], a[i] ^ 0x8000_8000);
        assert_eq!(got[i * 16 + 7], a[i] & 0x7fff_7fff);
    }
}

#[test]
fn control_flow_votes_shuffles_and_atomics() {
    let n = 300usize;
    let x: Vec<i32> = (0..n as i32).map(|i| i * 7 % 64).collect();
    let module = module("opcodes");
    let mut memory = Memory::new();
    let (out, histogram) = (memory.alloc(n * 64), memory.upload(&vec![0i32; 16 + n]));
    let counters = memory.upload(&[u32::MAX, 0, 0, 0, 0, 0]);
    let sums = memory.upload(&[0f32]);
    let args: [Arg; 6] = [
        out.into(),
        histogram.into(),
        counters.into(),
        sums.into(),
        memory.upload(&x).into(),
        (n as i32).into(),
    ];
    let total = module.variable("total", &mut memory).unwrap();
    let kernel = module.kernel("control").unwrap();
    kernel.launch([3, 1, 1], [128, 1, 1], 0, &args, &mut memory, &Options::default()).unwrap();
    let table = [3, -1, 4, 1, -5, 9, 2, 6];
    let value = |i: usize| if i < n { x[i] } else { 0 };
    for i in 0..n {
        let v = x[i];
        let o: Vec<i32> = memory.read(out.offset(i as i64 * 64), 14).unwrap();
        let mut result = 0;
        for k in 0..v & 15 {
            if v >> k & 1 == 1 {
                result += k * table[(k & 7) as usize];
            } else if k % 3 == 0 {
                continue;
            }
            if result > 40 {
                break;
            }
        }
        let lane = (i % 32) as i32;
        result = match v & 7 {
            0 => result + 11,
            1 => result ^ 0x55,
            2 => result - lane,
            3 => -result,
            4 => result * 3,
            5 => result >> 1,
            6 => result % 7,
            _ => result | 0x100,
        };
        let mut stack: Vec<i32> = (0..16).map(|k| v + k).collect();
        for k in 0..16 {
            stack[((v + k) & 15) as usize] += stack[k as usize] >> 1;
        }
        assert_eq!(o[0], result + stack[(v & 15) as usize], "value {v}");
        let warp = i / 32 * 32;
        let lanes: Vec<i32> = (warp..warp + 32).map(value).collect();
        let mask = |f: &dyn Fn(i32) -> bool| -> i32 {
            lanes.iter().enumerate().map(|(l, v)| i32::from(f(*v)) << l).fold(0, |a, b| a | b)
        };
        assert_eq!(o[1], mask(&|w| w & 1 != 0));
        assert_eq!(o[2], 2 * i32::from(lanes.contains(&3)) + 1);
        assert_eq!(o[3], mask(&|w| w & 3 == v & 3));
        assert_eq!(o[4], *lanes.iter().min().unwrap());
        assert_eq!(o[5], lanes.iter().fold(0, |a, b| a | b));
        let l = i % 32;
        assert_eq!(o[6], if l >= 3 { lanes[l - 3] } else { v });
        assert_eq!(o[7], if l % 16 + 5 < 16 { lanes[l + 5] } else { v });
        assert_eq!(o[8], lanes[(v & 31) as usize]);
        assert_eq!(o[9], lanes[l ^ 9]);
        let block = i / 128 * 128;
        let t = i % 128;
        assert_eq!(o[10], value(block + (t * 7 & 31)) + (t as i32 & 3));
        assert_eq!(o[11], (block..block + 128).filter(|j| value(*j) & 2 != 0).count() as i32);
        assert_eq!(o[12], 2 + i32::from((block..block + 128).any(|j| value(j) == 5)));
        assert_eq!(o[13], 0);
    }
    let h: Vec<i32> = memory.read(histogram, 16 + n).unwrap();
    for (bin, count) in h[..16].iter().enumerate() {
        assert_eq!(*count, x.iter().filter(|v| **v & 15 == bin as i32).count() as i32);
    }
    assert_eq!(h[16..], x);
    let c: Vec<u32> = memory.read(counters, 6).unwrap();
    let n = n as u32;
    assert_eq!(c[0], 0);
    assert_eq!(c[1], 63);
    assert_eq!(c[2], n % 100);
    assert_eq!(c[3], (100 - n % 100) % 100);
    assert_eq!(c[4], x.iter().fold(0, |a, b| a ^ *b as u32));
    assert_eq!(c[5], 2 * n);
    assert_eq!(memory.read::<f32>(sums, 1).unwrap(), [n as f32]);
    assert_eq!(memory.read::<u64>(total, 1).unwrap(), [x.iter().map(|v| *v as u64).sum::<u64>()]);
}
