//! Each opcode form alone, over edge values, against its definition in other words: wide integers and Rust's own
//! comparisons for integers; bits worked out by hand for the rest. Conversions have a file of their own. Nothing here shares code
//! with the crate.

use crate::common;
use common::forms::*;

#[test]
fn integer_arithmetic_wraps_saturates_and_widens() {
    let rows = pairs();
    for t in INTS {
        let (n, r) = (t.name, letter(t.name));
        let two = [r, r].iter().collect::<String>();
        let three = format!("{two}{r}");
        type Two = fn(i128, i128) -> i128;
        let binary: [(&str, Two); 5] = [
            ("add", |a, b| a + b),
            ("sub", |a, b| a - b),
            ("mul.lo", |a, b| a.wrapping_mul(b)),
            ("min", |a, b| if a < b { a } else { b }),
            ("max", |a, b| if a > b { a } else { b }),
        ];
        for (op, f) in binary {
            check(&format!("{op}.{n}"), r, &two, &rows, |[a, b, ..]| {
                Some(f(t.value(a), t.value(b)) as u64)
            });
        }
        check(&format!("mul.hi.{n}"), r, &two, &rows, |[a, b, ..]| {
            let (a, b) = (t.value(a), t.value(b));
            // Two 64-bit unsigned values have a product that an i128 does not hold.
            Some(if t.signed {
                (a * b) >> t.bits
            } else {
                ((a as u128 * b as u128) >> t.bits) as i128
            } as u64)
        });
        check(&format!("mad.lo.{n}"), r, &three, &rows, |[a, b, c, _]| {
            Some(t.value(a).wrapping_mul(t.value(b)).wrapping_add(t.value(c)) as u64)
        });
        check(&format!("sad.{n}"), r, &three, &rows, |[a, b, c, _]| {
            let (a, b) = (t.value(a), t.value(b));
            Some(((if a < b { b - a } else { a - b }) + t.value(c)) as u64)
        });
        for (op, remainder) in [("div", false), ("rem", true)] {
            check(&format!("{op}.{n}"), r, &two, &rows, |[a, b, ..]| {
                let (a, b) = (t.value(a), t.value(b));
                // By zero, and the least by -1, are the machine's own business.
                (b != 0 && !(a == t.low() && b == -1))
                    .then(|| (if remainder { a % b } else { a / b }) as u64)
            });
        }
        if t.signed {
            let one = r.to_string();
            check(&format!("neg.{n}"), r, &one, &rows, |[a, ..]| Some(-t.value(a) as u64));
            check(&format!("abs.{n}"), r, &one, &rows, |[a, ..]| Some(t.value(a).abs() as u64));
        }
        if t.bits < 64 {
            let wide = if t.bits == 16 { 'r' } else { 'l' };
            check(&format!("mul.wide.{n}"), wide, &two, &rows, |[a, b, ..]| {
                Some((t.value(a) * t.value(b)) as u64)
            });
            check(
                &format!("mad.wide.{n}"),
                wide,
                &format!("{two}{wide}"),
                &rows,
                |[a, b, c, _]| Some((t.value(a) * t.value(b)).wrapping_add(c as i128) as u64),
            );
        }
    }
    let t = INTS[3];
    for (op, sign) in [("add", 1), ("sub", -1)] {
        check(&format!("{op}.sat.s32"), 'r', "rr", &rows, |[a, b, ..]| {
            Some((t.value(a) + sign * t.value(b)).clamp(t.low(), t.high()) as u64)
        });
    }
    let cut = |v: u64, signed: bool| {
        let v = v as i128 & 0xff_ffff;
        if signed && v >= 0x80_0000 { v - 0x100_0000 } else { v }
    };
    for (n, signed) in [("u32", false), ("s32", true)] {
        check(&format!("mul24.lo.{n}"), 'r', "rr", &rows, |[a, b, ..]| {
            Some((cut(a, signed) * cut(b, signed)) as u64)
        });
        check(&format!("mad24.lo.{n}"), 'r', "rrr", &rows, |[a, b, c, _]| {
            Some((cut(a, signed) * cut(b, signed) + c as u32 as i128) as u64)
        });
    }
}

#[test]
fn logic_and_shifts_also_beyond_the_width() {
    let rows = pairs();
    for (n, bits) in [("b16", 16u32), ("b32", 32), ("b64", 64)] {
        let r = letter(n);
        let two = [r, r].iter().collect::<String>();
        check(&format!("and.{n}"), r, &two, &rows, |[a, b, ..]| Some(a & b));
        check(&format!("or.{n}"), r, &two, &rows, |[a, b, ..]| Some(a | b));
        check(&format!("xor.{n}"), r, &two, &rows, |[a, b, ..]| Some(a ^ b));
        check(&format!("not.{n}"), r, &r.to_string(), &rows, |[a, ..]| Some(!a));
        check(&format!("cnot.{n}"), r, &r.to_string(), &rows, |[a, ..]| {
            Some(u64::from(a & (u64::MAX >> (64 - bits)) == 0))
        });
    }
    let amounts = [0u64, 1, 15, 16, 17, 31, 32, 33, 63, 64, 65, 255, 256, 0x8000_0000, 0xffff_ffff];
    let mut rows = Vec::new();
    for a in EDGES {
        rows.extend(amounts.map(|s| [a, s, 0, 0]));
    }
    for t in INTS {
        let (r, bits) = (letter(t.name), t.bits);
        let sources = format!("{r}r");
        let by = |s: u64| (s as u32).min(bits);
        check(&format!("shl.b{bits}"), r, &sources, &rows, |[a, s, ..]| {
            Some(((a as u128) << by(s)) as u64)
        });
        check(&format!("shr.{}", t.name), r, &sources, &rows, |[a, s, ..]| {
            Some((t.value(a) >> by(s)) as u64)
        });
    }
    let mut rows = Vec::new();
    for a in EDGES {
        for c in amounts {
            rows.push([a, a.rotate_left(9), c, 0]);
        }
    }
    for wrap in [true, false] {
        let mode = if wrap { "wrap" } else { "clamp" };
        let by = |c: u64| if wrap { c as u32 % 32 } else { (c as u32).min(32) };
        let joined = |a: u64, b: u64| (b as u32 as u128) << 32 | a as u32 as u128;
        check(&format!("shf.l.{mode}.b32"), 'r', "rrr", &rows, |[a, b, c, _]| {
            Some((joined(a, b) << by(c) >> 32) as u64)
        });
        check(&format!("shf.r.{mode}.b32"), 'r', "rrr", &rows, |[a, b, c, _]| {
            Some((joined(a, b) >> by(c)) as u64)
        });
    }
    // Every function of three bits.
    let rows =
        [[0xffff_0000, 0xff00_ff00, 0xf0f0_f0f0, 0], [0x1234_5678, 0x9abc_def0, 0x0f1e_2d3c, 0]];
    for table in 0..256u32 {
        let got = run_text(&program("lop3.b32", 'r', "rrr", &format!(", {table}")), &rows);
        for (row, got) in rows.iter().zip(got) {
            let bit = |v: u64, i: u32| v as u32 >> i & 1;
            let want: u32 = (0..32)
                .map(|i| {
                    let index = bit(row[0], i) * 4 + bit(row[1], i) * 2 + bit(row[2], i);
                    (table >> index & 1) << i
                })
                .sum();
            assert_eq!(got, want as u64, "lop3 {table:#x}");
        }
    }
}

#[test]
fn bit_fields_counts_and_permutations() {
    let places = [0u64, 1, 5, 15, 16, 31, 32, 33, 63, 64, 200, 255, 256];
    let mut rows = Vec::new();
    for a in EDGES {
        for from in places {
            for count in places {
                rows.push([a, from, count, 0]);
            }
        }
    }
    for t in &INTS[2..] {
        let r = letter(t.name);
        // The manual's own loop: bit by bit, the sign of the field (or of the value, beyond it) above.
        check(&format!("bfe.{}", t.name), r, &format!("{r}rr"), &rows, |[a, from, count, _]| {
            let (from, count, most) = (from & 255, count & 255, t.bits as u64 - 1);
            let bit = |i: u64| a >> i & 1;
            let sign = if !t.signed || count == 0 { 0 } else { bit((from + count - 1).min(most)) };
            Some(
                (0..=most)
                    .map(|i| if i < count && from + i <= most { bit(from + i) } else { sign } << i)
                    .sum(),
            )
        });
    }
    for (n, bits) in [("b32", 32u64), ("b64", 64)] {
        let r = letter(n);
        let rows: Vec<[u64; 4]> =
            rows.iter().map(|[a, f, c, _]| [*a, !a.rotate_left(7), *f, *c]).collect();
        check(&format!("bfi.{n}"), r, &format!("{r}{r}rr"), &rows, |[a, b, from, count]| {
            let (from, count) = (from & 255, count & 255);
            let inside = |i: u64| i >= from && i < from + count;
            Some(
                (0..bits)
                    .map(|i| (if inside(i) { a >> (i - from) & 1 } else { b >> i & 1 }) << i)
                    .sum(),
            )
        });
        let ones = |a: u64| (0..bits).filter(|i| a >> i & 1 == 1).collect::<Vec<u64>>();
        let one = r.to_string();
        check(&format!("popc.{n}"), 'r', &one, &rows, |[a, ..]| Some(ones(a).len() as u64));
        check(&format!("clz.{n}"), 'r', &one, &rows, |[a, ..]| {
            Some(ones(a).last().map_or(bits, |top| bits - 1 - top))
        });
        check(&format!("brev.{n}"), r, &one, &rows, |[a, ..]| {
            Some(ones(a).iter().map(|i| 1 << (bits - 1 - i)).sum())
        });
    }
    for t in &INTS[2..] {
        let one = letter(t.name).to_string();
        for shift in [false, true] {
            let form = if shift {
                format!("bfind.shiftamt.{}", t.name)
            } else {
                format!("bfind.{}", t.name)
            };
            check(&form, 'r', &one, &rows, |[a, ..]| {
                let v = t.value(a);
                let v = if v < 0 { !v } else { v };
                let top = (0..t.bits as u64).rev().find(|i| v >> i & 1 == 1);
                Some(top.map_or(0xffff_ffff, |i| if shift { t.bits as u64 - 1 - i } else { i }))
            });
        }
    }
    let rows = pairs();
    let bytes = |a: u64, b: u64| {
        let mut all = (a as u32).to_le_bytes().to_vec();
        all.extend((b as u32).to_le_bytes());
        all
    };
    check("prmt.b32", 'r', "rrr", &rows, |[a, b, c, _]| {
        let all = bytes(a, b);
        Some(
            (0..4)
                .map(|i| {
                    let s = c >> (4 * i) & 15;
                    let v = all[(s & 7) as usize];
                    (if s & 8 == 0 { v as u64 } else { u64::from(v >= 0x80) * 0xff }) << (8 * i)
                })
                .sum(),
        )
    });
    // The manual's table of modes, a row for each selector: bytes from the highest to the lowest.
    let modes: [(&str, [[usize; 4]; 4]); 6] = [
        ("f4e", [[3, 2, 1, 0], [4, 3, 2, 1], [5, 4, 3, 2], [6, 5, 4, 3]]),
        ("b4e", [[5, 6, 7, 0], [6, 7, 0, 1], [7, 0, 1, 2], [0, 1, 2, 3]]),
        ("rc8", [[0, 0, 0, 0], [1, 1, 1, 1], [2, 2, 2, 2], [3, 3, 3, 3]]),
        ("ecl", [[3, 2, 1, 0], [3, 2, 1, 1], [3, 2, 2, 2], [3, 3, 3, 3]]),
        ("ecr", [[0, 0, 0, 0], [1, 1, 1, 0], [2, 2, 1, 0], [3, 2, 1, 0]]),
        ("rc16", [[1, 0, 1, 0], [3, 2, 3, 2], [1, 0, 1, 0], [3, 2, 3, 2]]),
    ];
    for (mode, table) in modes {
        let rows: Vec<[u64; 4]> = (0..4).map(|c| [0x1312_1110, 0x1716_1514, c, 0]).collect();
        check(&format!("prmt.b32.{mode}"), 'r', "rrr", &rows, |[a, b, c, _]| {
            let all = bytes(a, b);
            Some(table[c as usize].iter().fold(0, |v, i| v << 8 | all[*i] as u64))
        });
    }
    for (at, a_signed) in [("u32", false), ("s32", true)] {
        for (bt, b_signed) in [("u32", false), ("s32", true)] {
            let byte = |v: u64, i: usize, s: bool| {
                let b = v.to_le_bytes()[i];
                if s { b as i8 as i128 } else { b as i128 }
            };
            let half = |v: u64, i: u32| {
                let h = (v >> (16 * i)) as u16;
                if a_signed { h as i16 as i128 } else { h as i128 }
            };
            check(&format!("dp4a.{at}.{bt}"), 'r', "rrr", &rows, |[a, b, c, _]| {
                let dot: i128 = (0..4).map(|i| byte(a, i, a_signed) * byte(b, i, b_signed)).sum();
                Some((c as i128 + dot) as u64)
            });
            for (part, from) in [("lo", 0), ("hi", 2)] {
                check(&format!("dp2a.{part}.{at}.{bt}"), 'r', "rrr", &rows, |[a, b, c, _]| {
                    let dot: i128 =
                        (0..2).map(|i| half(a, i) * byte(b, from + i as usize, b_signed)).sum();
                    Some((c as i128 + dot) as u64)
                });
            }
        }
    }
}

#[test]
fn comparisons_of_every_type_and_kind() {
    let rows = pairs();
    for t in INTS {
        let two = format!("{0}{0}", letter(t.name));
        type Test = fn(i128, i128) -> bool;
        let mut tests: Vec<(&str, Test)> = vec![
            ("eq", |a, b| a == b),
            ("ne", |a, b| a != b),
            ("lt", |a, b| a < b),
            ("le", |a, b| a <= b),
            ("gt", |a, b| a > b),
            ("ge", |a, b| a >= b),
        ];
        if !t.signed {
            tests.extend::<[(&str, Test); 4]>([
                ("lo", |a, b| a < b),
                ("ls", |a, b| a <= b),
                ("hi", |a, b| a > b),
                ("hs", |a, b| a >= b),
            ]);
        }
        for (op, f) in tests {
            check(&format!("setp.{op}.{}", t.name), 'p', &two, &rows, |[a, b, ..]| {
                Some(u64::from(f(t.value(a), t.value(b))))
            });
        }
    }
    let mut rows = Vec::new();
    for a in F32 {
        rows.extend(F32.map(|b| [a as u64, b as u64, u64::from(a & 1 == 1), 0]));
    }
    let flushed = |x: f32| if x.abs() < f32::MIN_POSITIVE { 0.0 } else { x };
    type Test = fn(f32, f32) -> bool;
    let tests: [(&str, Test); 14] = [
        ("eq", |a, b| a == b),
        ("ne", |a, b| a < b || a > b),
        ("lt", |a, b| a < b),
        ("le", |a, b| a <= b),
        ("gt", |a, b| a > b),
        ("ge", |a, b| a >= b),
        ("equ", |a, b| !(a < b || a > b)),
        ("neu", |a, b| a != b),
        ("ltu", |a, b| !(a >= b)),
        ("leu", |a, b| !(a > b)),
        ("gtu", |a, b| !(a <= b)),
        ("geu", |a, b| !(a < b)),
        ("num", |a, b| !a.is_nan() && !b.is_nan()),
        ("nan", |a, b| a.is_nan() || b.is_nan()),
    ];
    for (op, f) in tests {
        check(&format!("setp.{op}.f32"), 'p', "rr", &rows, |[a, b, ..]| {
            Some(u64::from(f(f32s(a), f32s(b))))
        });
        check(&format!("setp.{op}.ftz.f32"), 'p', "rr", &rows, |[a, b, ..]| {
            Some(u64::from(f(flushed(f32s(a)), flushed(f32s(b)))))
        });
        let wide: Vec<[u64; 4]> = rows
            .iter()
            .map(|[a, b, ..]| [(f32s(*a) as f64).to_bits(), (f32s(*b) as f64).to_bits(), 0, 0])
            .collect();
        check(&format!("setp.{op}.f64"), 'p', "ll", &wide, |[a, b, ..]| {
            // Exact images of the f32 values, compared as those.
            Some(u64::from(f(f64::from_bits(a) as f32, f64::from_bits(b) as f32)))
        });
        for (combine, g) in [
            ("and", (|x, y| x && y) as fn(bool, bool) -> bool),
            ("or", |x, y| x || y),
            ("xor", |x, y| x != y),
        ] {
            check(&format!("setp.{op}.{combine}.f32"), 'p', "rrp", &rows, |[a, b, p, _]| {
                Some(u64::from(g(f(f32s(a), f32s(b)), p != 0)))
            });
        }
    }
    check("selp.b32", 'r', "rrp", &rows, |[a, b, p, _]| Some(if p != 0 { a } else { b }));
    check("slct.b32.s32", 'r', "rrr", &pairs(), |[a, b, c, _]| {
        Some(if c as u32 as i32 >= 0 { a } else { b })
    });
    let selected: Vec<[u64; 4]> = F32.iter().map(|c| [1, 2, *c as u64, 0]).collect();
    check("slct.b32.f32", 'r', "rrr", &selected, |[.., c, _]| {
        Some(if f32s(c) >= 0.0 { 1 } else { 2 })
    });
    check("slct.ftz.b32.f32", 'r', "rrr", &selected, |[.., c, _]| {
        Some(if flushed(f32s(c)) >= 0.0 { 1 } else { 2 })
    });
    type Kind = fn(f32) -> bool;
    let kinds: [(&str, Kind); 6] = [
        ("finite", |x| x - x == 0.0),
        ("infinite", |x| x.abs() == f32::INFINITY),
        ("number", |x| x == x),
        ("notanumber", |x| x != x),
        ("normal", |x| x.abs() >= f32::MIN_POSITIVE && x.abs() < f32::INFINITY),
        ("subnormal", |x| x != 0.0 && x.abs() < f32::MIN_POSITIVE),
    ];
    for (kind, f) in kinds {
        check(&format!("testp.{kind}.f32"), 'p', "r", &rows, |[a, ..]| Some(u64::from(f(f32s(a)))));
    }
}

/// Bits worked out by hand: form, sources, result.
#[test]
fn float_arithmetic_at_its_edges() {
    const NAN: u64 = 0x7fff_ffff;
    const INF: u64 = 0x7f80_0000;
    const MAX: u64 = 0x7f7f_ffff;
    const ONE: u64 = 0x3f80_0000;
    const NEG: u64 = 0x8000_0000;
    const TINY: u64 = 1;
    let table: &[(&str, &[u64], u64)] = &[
        ("add.rn.f32", &[INF, NEG | INF], NAN),
        ("add.rn.f32", &[MAX, MAX], INF),
        ("add.rz.f32", &[MAX, MAX], MAX),
        ("add.rm.f32", &[MAX, MAX], MAX),
        ("add.rp.f32", &[MAX, MAX], INF),
        ("add.rm.f32", &[NEG | MAX, NEG | MAX], NEG | INF),
        ("add.rp.f32", &[NEG | MAX, NEG | MAX], NEG | MAX),
        ("add.rn.f32", &[TINY, TINY], 2),
        ("add.ftz.f32", &[TINY, TINY], 0),
        ("add.ftz.f32", &[NEG | TINY, NEG], NEG),
        ("add.ftz.f32", &[0x0080_0001, 0x8080_0000], 0),
        ("add.rn.f32", &[0x0080_0001, 0x8080_0000], TINY),
        ("add.rn.f32", &[0, NEG], 0),
        ("add.rm.f32", &[0, NEG], NEG),
        ("add.rn.f32", &[ONE, NEG | ONE], 0),
        ("add.rm.f32", &[ONE, NEG | ONE], NEG),
        ("add.rn.f32", &[ONE, 0x3380_0000], ONE), // 1 + 2^-24: tie to even
        ("add.rn.f32", &[ONE, 0x3380_0001], 0x3f80_0001),
        ("add.rn.f32", &[0x3f80_0001, 0x3380_0000], 0x3f80_0002),
        ("add.rp.f32", &[ONE, TINY], 0x3f80_0001),
        ("add.rz.f32", &[ONE, NEG | TINY], 0x3f7f_ffff),
        ("add.rm.f32", &[ONE, TINY], ONE),
        ("add.sat.f32", &[ONE, ONE], ONE),
        ("add.sat.f32", &[INF, NEG | INF], 0),
        ("add.sat.f32", &[NEG | ONE, 0], 0),
        ("sub.rn.f32", &[INF, INF], NAN),
        ("sub.rn.f32", &[ONE, 0x3300_0000], ONE), // 1 - 2^-25: tie to even
        ("sub.rz.f32", &[ONE, 0x3300_0000], 0x3f7f_ffff),
        ("mul.rn.f32", &[0, INF], NAN),
        ("mul.rn.f32", &[NEG, ONE], NEG),
        ("mul.rz.f32", &[MAX, 0x4000_0000], MAX),
        ("mul.rn.f32", &[TINY, 0x3f00_0000], 0), // 2^-150: tie to even
        ("mul.rp.f32", &[TINY, 0x3f00_0000], TINY),
        ("mul.rn.f32", &[3, 0x3f00_0000], 2),
        ("mul.ftz.f32", &[0x0080_0000, 0x3f00_0000], 0),
        ("mul.rm.f32", &[NEG | TINY, TINY], NEG | TINY),
        ("mul.sat.f32", &[0x7fc0_0000, ONE], 0),
        ("fma.rn.f32", &[INF, 0, ONE], NAN),
        // (1 + 2^-23)^2 - (1 + 2^-22) = 2^-46, lost if the product is rounded.
        ("fma.rn.f32", &[0x3f80_0001, 0x3f80_0001, 0xbf80_0002], 0x2880_0000),
        ("fma.rz.f32", &[MAX, MAX, 0], MAX),
        ("fma.rp.f32", &[ONE, ONE, TINY], 0x3f80_0001),
        ("fma.rn.ftz.f32", &[TINY, ONE, 0], 0),
        ("fma.rn.sat.f32", &[ONE, ONE, ONE], ONE),
        ("div.rn.f32", &[ONE, 0], INF),
        ("div.rn.f32", &[ONE, NEG], NEG | INF),
        ("div.rn.f32", &[0, 0], NAN),
        ("div.rn.f32", &[INF, INF], NAN),
        ("div.rn.f32", &[ONE, 0x4040_0000], 0x3eaa_aaab),
        ("div.rz.f32", &[ONE, 0x4040_0000], 0x3eaa_aaaa),
        ("div.rm.f32", &[NEG | ONE, 0x4040_0000], 0xbeaa_aaab),
        ("div.rp.f32", &[NEG | ONE, 0x4040_0000], 0xbeaa_aaaa),
        ("rcp.rn.f32", &[0x7f00_0000], 0x0040_0000), // 2^-127
        ("rcp.rn.ftz.f32", &[0x7f00_0000], 0),
        ("rcp.rn.f32", &[NEG], NEG | INF),
        ("rcp.rn.f32", &[NEG | INF], NEG),
        ("sqrt.rn.f32", &[NEG | ONE], NAN),
        ("sqrt.rn.f32", &[NEG], NEG),
        ("sqrt.rn.f32", &[0x4000_0000], 0x3fb5_04f3),
        ("sqrt.rp.f32", &[0x4000_0000], 0x3fb5_04f4),
        ("sqrt.rm.f32", &[0x4000_0000], 0x3fb5_04f3),
        ("sqrt.rp.f32", &[0x4080_0000], 0x4000_0000),
        ("rsqrt.approx.f32", &[0x4080_0000], 0x3f00_0000),
        ("rsqrt.approx.f32", &[0], INF),
        ("rsqrt.approx.f32", &[NEG], NEG | INF),
        ("rsqrt.approx.f32", &[INF], 0),
        ("rsqrt.approx.f32", &[NEG | ONE], NAN),
        ("ex2.approx.f32", &[0], ONE),
        ("ex2.approx.f32", &[NEG | INF], 0),
        ("ex2.approx.f32", &[0x4300_0000], INF), // 128
        ("ex2.approx.f32", &[0x4120_0000], 0x4480_0000), // 10 to 1024
        ("ex2.approx.ftz.f32", &[0xc2fe_0000], 0), // 2^-127
        ("lg2.approx.f32", &[0], NEG | INF),
        ("lg2.approx.f32", &[0x4100_0000], 0x4040_0000),
        ("lg2.approx.f32", &[NEG | ONE], NAN),
        ("sin.approx.f32", &[NEG], NEG),
        ("sin.approx.f32", &[INF], NAN),
        ("cos.approx.f32", &[0], ONE),
        ("tanh.approx.f32", &[INF], ONE),
        ("tanh.approx.f32", &[NEG | INF], NEG | ONE),
        ("min.f32", &[0x7fc0_0000, ONE], ONE),
        ("min.f32", &[ONE, 0x7fc0_0000], ONE),
        ("min.f32", &[0x7fc0_0000, 0xffc0_0001], NAN),
        ("min.NaN.f32", &[0x7fc0_0000, ONE], NAN),
        ("min.f32", &[0, NEG], NEG),
        ("max.f32", &[NEG, 0], 0),
        ("max.NaN.f32", &[ONE, 0x7fc0_0000], NAN),
        ("max.ftz.f32", &[TINY, NEG | ONE], 0),
        ("max.f32", &[TINY, NEG | ONE], TINY),
        ("copysign.f32", &[NEG | ONE, 0x4000_0000], 0xc000_0000),
        ("abs.f32", &[NEG | INF], INF),
        ("neg.f32", &[0], NEG),
        ("neg.ftz.f32", &[TINY], NEG),
    ];
    for (form, sources, want) in table {
        let mut row = [0; 4];
        row[..sources.len()].copy_from_slice(sources);
        check(form, 'r', &"r".repeat(sources.len()), &[row], |_| Some(*want));
    }
    let b = f64::to_bits;
    let wide: &[(&str, &[u64], u64)] = &[
        ("add.rn.f64", &[b(f64::MAX), b(f64::MAX)], 0x7ff0_0000_0000_0000),
        ("add.rn.f64", &[1, 1], 2),
        ("mul.rn.f64", &[1, 0x3fe0_0000_0000_0000], 0),
        (
            "fma.rn.f64",
            &[0x3ff0_0000_0000_0001, 0x3ff0_0000_0000_0001, 0xbff0_0000_0000_0002],
            0x3970_0000_0000_0000,
        ),
        ("div.rn.f64", &[b(1.0), b(3.0)], 0x3fd5_5555_5555_5555),
        ("sqrt.rn.f64", &[b(2.0)], 0x3ff6_a09e_667f_3bcd),
        ("rcp.rn.f64", &[1 << 63], 0xfff0_0000_0000_0000),
        ("min.f64", &[0x7ff8_0000_0000_0000, b(1.0)], b(1.0)),
        ("max.f64", &[1 << 63, 0], 0),
        ("neg.f64", &[0], 1 << 63),
        ("abs.f64", &[b(-2.0)], b(2.0)),
        ("copysign.f64", &[b(-1.0), b(3.0)], b(-3.0)),
    ];
    for (form, sources, want) in wide {
        let mut row = [0; 4];
        row[..sources.len()].copy_from_slice(sources);
        check(form, 'l', &"l".repeat(sources.len()), &[row], |_| Some(*want));
    }
    let halves: &[(&str, &[u64], u64)] = &[
        ("add.f16", &[0x7bff, 0x7bff], 0x7c00),
        ("add.f16", &[1, 1], 2),
        ("add.f16", &[0x3c00, 0x1000], 0x3c00), // 1 + 2^-11: tie to even
        ("add.f16", &[0x3c01, 0x1000], 0x3c02),
        ("add.f16", &[0x7c00, 0xfc00], 0x7fff),
        ("sub.f16", &[0x3c00, 0x3c00], 0),
        ("mul.f16", &[1, 0x3800], 0), // 2^-25: tie to even
        ("mul.f16", &[3, 0x3800], 2),
        ("fma.rn.f16", &[0x3c01, 0x3c01, 0xbc02], 0x0010), // 2^-20
        ("fma.rn.relu.f16", &[0xbc00, 0x3c00, 0], 0),
        ("min.f16", &[0x7e00, 0x3c00], 0x3c00),
        ("min.NaN.f16", &[0x7e00, 0x3c00], 0x7fff),
        ("max.f16", &[0x8000, 0], 0),
        ("neg.f16", &[0], 0x8000),
        ("abs.f16", &[0xfc00], 0x7c00),
        ("tanh.approx.f16", &[0x7c00], 0x3c00),
        ("ex2.approx.f16", &[0x4000], 0x4400),
        ("fma.rn.bf16", &[0x3f80, 0x3f80, 0x3b80], 0x3f80), // 1 + 2^-8: tie to even
        ("fma.rn.bf16", &[0x3f81, 0x3f80, 0x3b80], 0x3f82),
        ("fma.rn.bf16", &[0x7f7f, 0x4000, 0], 0x7f80),
        ("fma.rn.bf16", &[0x7f80, 0, 0x3f80], 0x7fff),
        ("fma.rn.relu.bf16", &[0xbf80, 0x3f80, 0], 0),
        ("add.rn.bf16", &[1, 1], 2),
        ("mul.rn.bf16", &[0x3f81, 0x3f81], 0x3f82),
        ("min.bf16", &[0x7fc0, 0xbf80], 0xbf80),
        ("max.NaN.bf16", &[0x7fc0, 0xbf80], 0x7fff),
        ("neg.bf16", &[0x3f80], 0xbf80),
    ];
    for (form, sources, want) in halves {
        let mut row = [0; 4];
        row[..sources.len()].copy_from_slice(sources);
        check(form, 'h', &"h".repeat(sources.len()), &[row], |_| Some(*want));
        // The same in the upper of two, with ones below.
        if form.ends_with("16") && !form.starts_with("ex2") && !form.starts_with("tanh") {
            let one: u64 = if form.ends_with("bf16") { 0x3f80 } else { 0x3c00 };
            let pair = row.map(|v| v << 16 | one);
            let got = run(&format!("{form}x2"), 'r', &"r".repeat(sources.len()), &[pair]);
            assert_eq!(got[0] >> 16, *want, "{form}x2");
        }
    }
}
