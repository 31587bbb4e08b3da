//! Conversions between all number types in every rounding, against tables of all values of a small format and a search among
//! neighbours. Nothing here shares code with the crate.

use crate::common;
use common::forms::*;

/// All non-negative finite values of a format in order, by its bit fields; the code is the index.
fn values(exponent: u32, mantissa: u32, codes: u32) -> Vec<f64> {
    let bias = (1 << (exponent - 1)) - 1;
    (0..codes)
        .map(|c| {
            let (e, f) = ((c >> mantissa) as i32, (c & ((1 << mantissa) - 1)) as f64);
            let unit = 2f64.powi(-(mantissa as i32));
            if e == 0 {
                f * unit * 2f64.powi(1 - bias)
            } else {
                (1.0 + f * unit) * 2f64.powi(e - bias)
            }
        })
        .collect()
}

/// Codes of the two neighbours of |x| in a format, and how |x| lies between: the exact one twice if it is there.
fn choose(table: &[f64], x: f64, mode: &str) -> u64 {
    let a = x.abs();
    let largest = table.len() - 1;
    let i = table.partition_point(|t| *t <= a) - 1;
    let up = match mode {
        "rz" => false,
        "rm" => x < 0.0,
        "rp" => x > 0.0,
        _ if i == largest => {
            // As if the exponent went on.
            let next = table[largest] + (table[largest] - table[largest - 1]);
            let (down, rise) = (a - table[i], next - a);
            rise < down || rise == down && (mode == "rna" || i % 2 == 1)
        }
        _ => {
            let (down, rise) = (a - table[i], table[i + 1] - a);
            rise < down || rise == down && (mode == "rna" || i % 2 == 1)
        }
    };
    (if up && table[i] != a { i + 1 } else { i }) as u64
}

/// Values that lie on, next to and halfway between those of a format.
fn around(table: &[f64]) -> Vec<f64> {
    let step = (table.len() / 400).max(1);
    let mut all = Vec::new();
    let near = |i: usize| i < 4 || i + 4 > table.len() || i % step == 0;
    for i in (0..table.len() - 1).filter(|i| near(*i)) {
        let (low, high) = (table[i], table[i + 1]);
        let half = low / 2.0 + high / 2.0;
        for v in [low, half, half.next_up(), half.next_down(), low + (high - low) * 0.25] {
            all.extend([v, -v]);
        }
    }
    let last = table[table.len() - 1];
    all.extend([last, -last, last * 1.001, last * 1.1, -last * 1.1, last * 2.0, 0.0, -0.0]);
    all
}

#[test]
fn conversions_to_small_floats_in_every_rounding() {
    let formats = [("f16", values(5, 10, 0x7c00)), ("bf16", values(8, 7, 0x7f80))];
    for (to, table) in &formats {
        let infinity = table.len() as u64;
        let sources = around(table);
        for mode in ["rn", "rz"] {
            let code = |x: f64, sign: bool| choose(table, x, mode) | if sign { 0x8000 } else { 0 };
            let rows: Vec<[u64; 4]> = sources
                .iter()
                .map(|x| (*x as f32).to_bits() as u64)
                .chain([0x7f80_0000, 0xff80_0000, 0x7fc0_0000, 1, 0x8000_0001])
                .map(|a| [a, 0x3f80_0000, 0, 0])
                .collect();
            let want = |a: u64| {
                let x = f32s(a);
                Some(match x {
                    _ if x.is_nan() => 0x7fff,
                    _ if x.is_infinite() => infinity | if x < 0.0 { 0x8000 } else { 0 },
                    x => code(x as f64, x.is_sign_negative()),
                })
            };
            check(&format!("cvt.{mode}.{to}.f32"), 'h', "r", &rows, |[a, ..]| want(a));
            let one = if *to == "f16" { 0x3c00 } else { 0x3f80 };
            check(&format!("cvt.{mode}.{to}x2.f32"), 'r', "rr", &rows, |[a, ..]| {
                want(a).map(|h| h << 16 | one)
            });
            check(&format!("cvt.{mode}.relu.{to}.f32"), 'h', "r", &rows, |[a, ..]| {
                // What becomes of -0 is not said.
                let open = a == 0x8000_0000;
                want(a).filter(|_| !open).map(|h| if f32s(a) < 0.0 { 0 } else { h })
            });
        }
        // f64 keeps the sources that f32 would round; f16 knows all four directions from it.
        if *to == "f16" {
            for mode in ["rn", "rz", "rm", "rp"] {
                let rows: Vec<[u64; 4]> = sources.iter().map(|x| [x.to_bits(), 0, 0, 0]).collect();
                check(&format!("cvt.{mode}.f16.f64"), 'h', "l", &rows, |[a, ..]| {
                    let x = f64::from_bits(a);
                    let sign = if x.is_sign_negative() { 0x8000 } else { 0 };
                    Some(choose(table, x, mode) | sign)
                });
            }
        }
        let all: Vec<[u64; 4]> = (0..0x1_0000).map(|h| [h, 0, 0, 0]).collect();
        check(&format!("cvt.f32.{to}"), 'r', "h", &all, |[h, ..]| {
            let x = match (h & 0x7fff) as usize {
                i if i < table.len() => table[i] as f32,
                i if i == table.len() => f32::INFINITY,
                _ => return Some(0x7fff_ffff),
            };
            Some((x.to_bits() | (h as u32 & 0x8000) << 16) as u64)
        });
    }
    // tf32: 10 bits of mantissa in the place of an f32's, ties away from zero.
    for (a, want) in [
        (0x3f80_0fffu64, 0x3f80_0000u64),
        (0x3f80_1000, 0x3f80_2000),
        (0xbf80_1000, 0xbf80_2000),
        (0x3fff_f000, 0x4000_0000),
        (0x7f80_0000, 0x7f80_0000),
        (0x8000_0000, 0x8000_0000),
    ] {
        check("cvt.rna.tf32.f32", 'r', "r", &[[a, 0, 0, 0]], |_| Some(want));
    }
    // fp8 pairs: NaN, infinities to the largest, the first source above.
    for (form, a, b, want) in [
        ("cvt.rn.satfinite.e4m3x2.f32", 0x7fc0_0000u64, 0x7f80_0000u64, 0x7f7eu64),
        ("cvt.rn.satfinite.e4m3x2.f32", 0xff80_0000, 0x3f80_0000, 0xfe38),
        ("cvt.rn.satfinite.e5m2x2.f32", 0x7fc0_0000, 0x7f80_0000, 0x7f7b),
        ("cvt.rn.satfinite.e5m2x2.f32", 0xbf80_0000, 0x3f90_0000, 0xbc3c),
        ("cvt.rn.satfinite.relu.e4m3x2.f32", 0xbf80_0000, 0x4000_0000, 0x0040),
    ] {
        check(form, 'h', "rr", &[[a, b, 0, 0]], |_| Some(want));
    }
}

#[test]
fn conversions_between_f64_and_f32_in_every_rounding() {
    let mut sources: Vec<f64> = Vec::new();
    for x in F32.map(f32::from_bits).into_iter().filter(|x| x.is_finite()) {
        let (x, next) = (x as f64, x.next_up() as f64);
        let half = if next.is_finite() { x / 2.0 + next / 2.0 } else { x * 1.000_000_05 };
        sources.extend([x, half, half.next_up(), half.next_down()]);
    }
    sources.extend([1e300, -1e300, 1e-300, -1e-300, f64::MAX, f64::MIN_POSITIVE]);
    let rows: Vec<[u64; 4]> = sources.iter().map(|x| [x.to_bits(), 0, 0, 0]).collect();
    for mode in ["rn", "rz", "rm", "rp"] {
        check(&format!("cvt.{mode}.f32.f64"), 'r', "l", &rows, |[a, ..]| {
            let x = f64::from_bits(a);
            let near = x as f32; // to nearest, by the language
            // The largest f32 not above x and the smallest not below.
            let below = if near as f64 <= x { near } else { near.next_down() };
            let above = if near as f64 >= x { near } else { near.next_up() };
            let pick = match mode {
                "rn" => near,
                "rm" => below,
                "rp" => above,
                _ if x < 0.0 => above,
                _ => below,
            };
            // A zero keeps the sign of what it came from.
            Some((if pick == 0.0 { 0f32.copysign(x as f32) } else { pick }).to_bits() as u64)
        });
    }
    for (a, want) in [
        (0x7fc0_0000u64, 0u64),
        (0x4000_0000, 0x3f80_0000),
        (0xbf80_0000, 0),
        (0x3e80_0000, 0x3e80_0000),
    ] {
        check("cvt.sat.f32.f32", 'r', "r", &[[a, 0, 0, 0]], |_| Some(want));
    }
    let rows: Vec<[u64; 4]> = F32.iter().map(|a| [*a as u64, 0, 0, 0]).collect();
    type Whole = fn(f64) -> f64;
    let wholes: [(&str, Whole); 4] =
        [("rni", even), ("rzi", f64::trunc), ("rmi", f64::floor), ("rpi", f64::ceil)];
    for (how, f) in wholes {
        check(&format!("cvt.{how}.f32.f32"), 'r', "r", &rows, |[a, ..]| {
            let x = f32s(a);
            Some(if x.is_nan() {
                0x7fff_ffff
            } else {
                (f(x as f64) as f32).copysign(x).to_bits() as u64
            })
        });
    }
}

/// To the nearest integer, ties to even, without the library's function for it.
fn even(x: f64) -> f64 {
    let low = x.floor();
    let d = x - low;
    if d > 0.5 || d == 0.5 && low % 2.0 != 0.0 { low + 1.0 } else { low }
}

#[test]
fn conversions_between_floats_and_integers() {
    let mut floats: Vec<f64> = F32.iter().map(|b| f32::from_bits(*b) as f64).collect();
    for t in INTS {
        for bound in [t.low() as f64, t.high() as f64] {
            floats.extend([bound, bound - 1.0, bound + 1.0, bound + 0.5, bound - 0.5, bound * 2.0]);
        }
    }
    floats
        .extend([0.5, 1.5, 2.5, -0.5, -1.5, -2.5, 126.5, 127.5, 128.5, -128.5, 255.5, 1e30, -1e30]);
    type Whole = fn(f64) -> f64;
    let wholes: [(&str, Whole); 4] =
        [("rni", even), ("rzi", f64::trunc), ("rmi", f64::floor), ("rpi", f64::ceil)];
    let small =
        [Int { name: "u8", bits: 8, signed: false }, Int { name: "s8", bits: 8, signed: true }];
    for t in INTS.into_iter().chain(small) {
        for (how, f) in wholes {
            for from in ["f32", "f64"] {
                let rows: Vec<[u64; 4]> = floats
                    .iter()
                    .map(|x| if from == "f32" { (*x as f32).to_bits() as u64 } else { x.to_bits() })
                    .map(|a| [a, 0, 0, 0])
                    .collect();
                let d = if t.bits == 8 { 'r' } else { letter(t.name) };
                let s = letter(from).to_string();
                check(&format!("cvt.{how}.{}.{from}", t.name), d, &s, &rows, |[a, ..]| {
                    let x = if from == "f32" { f32s(a) as f64 } else { f64::from_bits(a) };
                    if x.is_nan() {
                        // Zero, but for 64 bits on either side: then only the top bit.
                        let wide = from == "f64" || t.bits == 64;
                        return (t.bits >= 32).then(|| if wide { 1 << (t.bits - 1) } else { 0 });
                    }
                    // 2^100 is beyond every integer type and within i128.
                    let whole = f(x).clamp(-2f64.powi(100), 2f64.powi(100)) as i128;
                    Some(whole.clamp(t.low(), t.high()) as u64)
                });
            }
        }
        for mode in ["rn", "rz", "rm", "rp"] {
            let rows: Vec<[u64; 4]> = EDGES
                .iter()
                .flat_map(|a| [*a, a << 3 | 1, a >> 7, a ^ 0x100_0001])
                .map(|a| [a, 0, 0, 0])
                .collect();
            let s = if t.bits == 8 { 'r' } else { letter(t.name) }.to_string();
            check(&format!("cvt.{mode}.f32.{}", t.name), 'r', &s, &rows, |[a, ..]| {
                let v = t.value(a);
                let near = v as f32;
                let below = if near as i128 <= v { near } else { near.next_down() };
                let above = if near as i128 >= v { near } else { near.next_up() };
                Some(
                    match mode {
                        "rn" => near,
                        "rm" => below,
                        "rp" => above,
                        _ if v < 0 => above,
                        _ => below,
                    }
                    .to_bits() as u64,
                )
            });
            check(&format!("cvt.{mode}.f64.{}", t.name), 'l', &s, &rows, |[a, ..]| {
                let v = t.value(a);
                let near = v as f64;
                let below = if near as i128 <= v { near } else { near.next_down() };
                let above = if near as i128 >= v { near } else { near.next_up() };
                Some(
                    match mode {
                        "rn" => near,
                        "rm" => below,
                        "rp" => above,
                        _ if v < 0 => above,
                        _ => below,
                    }
                    .to_bits(),
                )
            });
        }
    }
    let rows: Vec<[u64; 4]> = EDGES.iter().map(|a| [*a, 0, 0, 0]).collect();
    for from in INTS.into_iter().chain(small) {
        for to in INTS.into_iter().chain(small) {
            let place = |t: Int| if t.bits == 8 { 'r' } else { letter(t.name) };
            let s = place(from).to_string();
            let form = format!("cvt.{}.{}", to.name, from.name);
            check(&form, place(to), &s, &rows, |[a, ..]| {
                // Cut to the destination, then its sign fills the register.
                Some(to.value(from.value(a) as u64) as u64)
            });
            if from.bits > to.bits || from.signed != to.signed {
                let form = format!("cvt.sat.{}.{}", to.name, from.name);
                check(&form, place(to), &s, &rows, |[a, ..]| {
                    Some(from.value(a).clamp(to.low(), to.high()) as u64)
                });
            }
        }
    }
}
