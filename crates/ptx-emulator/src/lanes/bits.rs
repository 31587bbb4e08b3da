//! Logic, shifts, bit fields, byte permutations and counts.

use super::{Lanes, Modifiers, Refused, Row, one, three, two};
use crate::lanes::integer::sign_extend;
use crate::syntax::Ty;

fn mask(bits: u32) -> u64 {
    if bits >= 64 { u64::MAX } else { (1 << bits) - 1 }
}

/// Bits `from` .. `from + count` of `a`, sign-extended if `ty` is signed.
fn extract(ty: Ty, a: u64, from: u64, count: u64) -> u64 {
    let bits = ty.bits();
    let (from, count) = (from as u8 as u32, count as u8 as u32);
    if count == 0 {
        return 0;
    }
    let a = a & mask(bits);
    if !ty.signed() {
        return if from >= bits { 0 } else { a >> from & mask(count) };
    }
    // Beyond the value every bit is its sign; the field's own top bit is repeated to the left.
    let value = sign_extend(a, bits) >> from.min(63);
    let top = (from + count - 1).min(bits - 1);
    let sign = a >> top & 1;
    let width = count.min(bits);
    let field = value as u64 & mask(width);
    let fill = if sign == 1 { !mask(width) } else { 0 };
    (field | fill) & mask(bits)
}

fn insert(bits: u32, a: u64, b: u64, from: u64, count: u64) -> u64 {
    let (from, count) = (from as u8 as u32, count as u8 as u32);
    if from >= bits || count == 0 {
        return b & mask(bits);
    }
    let field = (mask(count) << from) & mask(bits);
    (b & !field | (a << from) & field) & mask(bits)
}

fn permute(a: u64, b: u64, selector: [u32; 4]) -> u64 {
    let bytes = (a as u32 as u64) | b << 32;
    let mut out = 0;
    for (i, s) in selector.iter().enumerate() {
        let byte = (bytes >> (8 * (s & 7))) as u8;
        let byte = if s & 8 == 0 { byte } else { ((byte as i8) >> 7) as u8 };
        out |= (byte as u64) << (8 * i);
    }
    out
}

fn nibbles(c: u64) -> [u32; 4] {
    std::array::from_fn(|i| (c >> (4 * i)) as u32 & 15)
}

fn special(mode: u32, c: u64) -> [u32; 4] {
    let c = c as u32 & 3;
    match mode {
        0 => [c, c + 1, c + 2, c + 3],                   // f4e
        1 => [c, (c + 7) & 7, (c + 6) & 7, (c + 5) & 7], // b4e
        2 => [c; 4],                                     // rc8
        3 => [c, c.max(1), c.max(2), 3],                 // ecl
        4 => [0, c.min(1), c.min(2), c],                 // ecr
        _ => {
            // rc16: the selector's lowest bit says which half
            let half = 2 * (c & 1);
            [half, half + 1, half, half + 1]
        }
    }
}

/// The truth table applied bit by bit.
fn table(t: u8, a: u64, b: u64, c: u64) -> u64 {
    let (a, b, c) = (a as u32, b as u32, c as u32);
    let mut out = 0;
    for i in 0..8 {
        if t >> i & 1 == 1 {
            let x = if i & 4 != 0 { a } else { !a };
            let y = if i & 2 != 0 { b } else { !b };
            let z = if i & 1 != 0 { c } else { !c };
            out |= x & y & z;
        }
    }
    out as u64
}

/// `lop3`: the fourth source is the truth table, the same in each lane.
pub(crate) fn lop3() -> Lanes {
    fn go(d: &mut Row, [a, b, c, t]: [&Row; 4]) {
        let t = t[0] as u8;
        match t {
            0x96 => (0..32).for_each(|i| d[i] = (a[i] ^ b[i] ^ c[i]) as u32 as u64),
            0xca => (0..32).for_each(|i| d[i] = (a[i] & b[i] | !a[i] & c[i]) as u32 as u64),
            0x80 => (0..32).for_each(|i| d[i] = (a[i] & b[i] & c[i]) as u32 as u64),
            0xfe => (0..32).for_each(|i| d[i] = (a[i] | b[i] | c[i]) as u32 as u64),
            _ => (0..32).for_each(|i| d[i] = table(t, a[i], b[i], c[i])),
        }
    }
    Lanes::Four(go)
}

fn find_top(ty: Ty, a: u64, shift_amount: bool) -> u64 {
    let bits = ty.bits();
    let a = if ty.signed() && sign_extend(a, bits) < 0 { !a } else { a } & mask(bits);
    if a == 0 {
        return u32::MAX as u64;
    }
    let top = a.ilog2();
    (if shift_amount { bits - 1 - top } else { top }) as u64
}

macro_rules! width {
    ($ty:expr, $two:ident |$($x:ident),+| $t:ident $e:expr) => {
        match $ty.bits() {
            16 => { type $t = u16; $two!(|$($x),+| ($e) as u64) }
            32 => { type $t = u32; $two!(|$($x),+| ($e) as u64) }
            64 => { type $t = u64; $two!(|$($x),+| ($e) as u64) }
            n => return Err(format!("{n} bits")),
        }
    };
}

pub(super) fn form(name: &str, m: &mut Modifiers<'_>) -> Result<Lanes, Refused> {
    if name == "prmt" {
        m.ty()?;
        return Ok(match m.take_any(&["f4e", "b4e", "rc8", "ecl", "ecr", "rc16"]) {
            None => three!(|a, b, c| permute(a, b, nibbles(c))),
            Some("f4e") => three!(|a, b, c| permute(a, b, special(0, c))),
            Some("b4e") => three!(|a, b, c| permute(a, b, special(1, c))),
            Some("rc8") => three!(|a, b, c| permute(a, b, special(2, c))),
            Some("ecl") => three!(|a, b, c| permute(a, b, special(3, c))),
            Some("ecr") => three!(|a, b, c| permute(a, b, special(4, c))),
            Some(_) => three!(|a, b, c| permute(a, b, special(5, c))),
        });
    }
    if name == "shf" {
        m.ty()?;
        let wrap = m.take("wrap");
        if !wrap && !m.take("clamp") {
            return Err("neither .wrap nor .clamp".into());
        }
        return Ok(match (m.take_any(&["l", "r"]), wrap) {
            (Some("l"), true) => {
                three!(|a, b, c| (b << 32 | a as u32 as u64) << (c & 31) >> 32)
            }
            (Some("l"), false) => {
                three!(|a, b, c| (b << 32 | a as u32 as u64) << (c as u32).min(32) >> 32)
            }
            (Some(_), true) => {
                three!(|a, b, c| ((b << 32 | a as u32 as u64) >> (c & 31)) as u32 as u64)
            }
            (Some(_), false) => {
                three!(|a, b, c| ((b << 32 | a as u32 as u64) >> (c as u32).min(32)) as u32 as u64)
            }
            (None, _) => return Err("neither .l nor .r".into()),
        });
    }
    let shift_amount = name == "bfind" && m.take("shiftamt");
    let ty = m.ty()?;
    if ty == Ty::Pred {
        return Ok(match name {
            "and" => two!(|a, b| a & b & 1),
            "or" => two!(|a, b| (a | b) & 1),
            "xor" => two!(|a, b| (a ^ b) & 1),
            "not" => one!(|a| !a & 1),
            _ => return Err("predicates".into()),
        });
    }
    if !ty.integer() {
        return Err(format!("type {ty:?}"));
    }
    Ok(match name {
        "and" => width!(ty, two | a, b | T(a & b) as T),
        "or" => width!(ty, two | a, b | T(a | b) as T),
        "xor" => width!(ty, two | a, b | T(a ^ b) as T),
        "not" => width!(ty, one |a| T !a as T),
        "cnot" => width!(ty, one |a| T u8::from(a as T == 0)),
        // A shift by the width or more gives 0, or the sign; the amount is 32 bits.
        "shl" => width!(ty, two | a, b | T(a as T).checked_shl(b as u32).unwrap_or(0)),
        "shr" => match ty {
            Ty::S16 => two!(|a, b| ((a as i16) >> (b as u32).min(15)) as u16 as u64),
            Ty::S32 => two!(|a, b| ((a as i32) >> (b as u32).min(31)) as u32 as u64),
            Ty::S64 => two!(|a, b| ((a as i64) >> (b as u32).min(63)) as u64),
            _ => width!(ty, two | a, b | T(a as T).checked_shr(b as u32).unwrap_or(0)),
        },
        "bfe" => match ty {
            Ty::U32 => three!(|a, b, c| extract(Ty::U32, a, b, c)),
            Ty::S32 => three!(|a, b, c| extract(Ty::S32, a, b, c)),
            Ty::U64 => three!(|a, b, c| extract(Ty::U64, a, b, c)),
            Ty::S64 => three!(|a, b, c| extract(Ty::S64, a, b, c)),
            _ => return Err(format!("type {ty:?}")),
        },
        "bfi" => {
            fn narrow(d: &mut Row, [a, b, c, e]: [&Row; 4]) {
                (0..32).for_each(|i| d[i] = insert(32, a[i], b[i], c[i], e[i]));
            }
            fn wide(d: &mut Row, [a, b, c, e]: [&Row; 4]) {
                (0..32).for_each(|i| d[i] = insert(64, a[i], b[i], c[i], e[i]));
            }
            Lanes::Four(if ty.bits() == 64 { wide } else { narrow })
        }
        "popc" => width!(ty, one | a | T(a as T).count_ones()),
        "clz" => width!(ty, one | a | T(a as T).leading_zeros()),
        "brev" => width!(ty, one | a | T(a as T).reverse_bits()),
        _ => match (ty, shift_amount) {
            (Ty::U32, false) => one!(|a| find_top(Ty::U32, a, false)),
            (Ty::U32, true) => one!(|a| find_top(Ty::U32, a, true)),
            (Ty::S32, false) => one!(|a| find_top(Ty::S32, a, false)),
            (Ty::S32, true) => one!(|a| find_top(Ty::S32, a, true)),
            (Ty::U64, false) => one!(|a| find_top(Ty::U64, a, false)),
            (Ty::U64, true) => one!(|a| find_top(Ty::U64, a, true)),
            (Ty::S64, false) => one!(|a| find_top(Ty::S64, a, false)),
            (Ty::S64, true) => one!(|a| find_top(Ty::S64, a, true)),
            _ => return Err(format!("type {ty:?}")),
        },
    })
}
