//! Comparisons and selections: setp, slct, testp.

use super::{Lanes, Modifiers, Refused, Row, one, three};
use crate::lanes::decimal::flush;
use crate::syntax::Ty;
use std::cmp::Ordering;

/// How two values compare; `None` if one is a NaN.
type Compared = Option<Ordering>;

fn compare<const TY: u8, const FTZ: bool>(a: u64, b: u64) -> Compared {
    match TY {
        0 => (a as u16).partial_cmp(&(b as u16)),
        1 => (a as i16).partial_cmp(&(b as i16)),
        2 => (a as u32).partial_cmp(&(b as u32)),
        3 => (a as i32).partial_cmp(&(b as i32)),
        4 => a.partial_cmp(&b),
        5 => (a as i64).partial_cmp(&(b as i64)),
        6 => flush::<FTZ>(a).partial_cmp(&flush::<FTZ>(b)),
        7 => f64::from_bits(a).partial_cmp(&f64::from_bits(b)),
        8 => crate::float::f16_to_f32(a as u16).partial_cmp(&crate::float::f16_to_f32(b as u16)),
        _ => crate::float::bf16_to_f32(a as u16).partial_cmp(&crate::float::bf16_to_f32(b as u16)),
    }
}

/// Bits of a test: less, equal, greater, unordered. Above them stands how a third source is combined.
const LESS: u32 = 1;
const EQUAL: u32 = 2;
const GREATER: u32 = 4;
const UNORDERED: u32 = 8;
const AND: u32 = 1 << 4;
const OR: u32 = 2 << 4;
const XOR: u32 = 3 << 4;

fn holds<const TY: u8, const FTZ: bool>(a: u64, b: u64, test: u32) -> u64 {
    let bit = match compare::<TY, FTZ>(a, b) {
        Some(Ordering::Less) => LESS,
        Some(Ordering::Equal) => EQUAL,
        Some(Ordering::Greater) => GREATER,
        None => UNORDERED,
    };
    u64::from(test & bit != 0)
}

fn plain<const TY: u8, const FTZ: bool>(d: &mut Row, a: &Row, b: &Row, test: u32) {
    (0..32).for_each(|i| d[i] = holds::<TY, FTZ>(a[i], b[i], test));
}

fn combined<const TY: u8, const FTZ: bool>(d: &mut Row, a: &Row, b: &Row, p: &Row, test: u32) {
    plain::<TY, FTZ>(d, a, b, test & 15);
    for i in 0..32 {
        let p = p[i] & 1;
        d[i] = match test & 0x30 {
            AND => d[i] & p,
            OR => d[i] | p,
            _ => d[i] ^ p,
        };
    }
}

fn form<const TY: u8, const FTZ: bool>(test: u32, combine: u32) -> Lanes {
    if combine == 0 {
        Lanes::TwoBy(plain::<TY, FTZ>, test)
    } else {
        Lanes::ThreeBy(combined::<TY, FTZ>, test | combine)
    }
}

const TESTS: [&str; 18] = [
    "eq", "ne", "lt", "le", "gt", "ge", "lo", "ls", "hi", "hs", "equ", "neu", "ltu", "leu", "gtu",
    "geu", "num", "nan",
];

pub(super) fn setp(m: &mut Modifiers<'_>) -> Result<Lanes, Refused> {
    let ty = m.ty()?;
    let ftz = m.take("ftz");
    let combine = match m.take_any(&["and", "or", "xor"]) {
        None => 0,
        Some("and") => AND,
        Some("or") => OR,
        Some(_) => XOR,
    };
    let test = match m.take_any(&TESTS).ok_or("no comparison")? {
        "eq" => EQUAL,
        // Of floats: ordered and not equal.
        "ne" => LESS | GREATER,
        "lt" | "lo" => LESS,
        "le" | "ls" => LESS | EQUAL,
        "gt" | "hi" => GREATER,
        "ge" | "hs" => GREATER | EQUAL,
        "equ" => EQUAL | UNORDERED,
        "neu" => LESS | GREATER | UNORDERED,
        "ltu" => LESS | UNORDERED,
        "leu" => LESS | EQUAL | UNORDERED,
        "gtu" => GREATER | UNORDERED,
        "geu" => GREATER | EQUAL | UNORDERED,
        "num" => LESS | EQUAL | GREATER,
        _ => UNORDERED,
    };
    Ok(match (ty, ftz) {
        (Ty::F32, true) => form::<6, true>(test, combine),
        (Ty::F32, false) => form::<6, false>(test, combine),
        (_, true) => return Err("`.ftz` of this type".into()),
        (Ty::U16 | Ty::B16, _) => form::<0, false>(test, combine),
        (Ty::S16, _) => form::<1, false>(test, combine),
        (Ty::U32 | Ty::B32, _) => form::<2, false>(test, combine),
        (Ty::S32, _) => form::<3, false>(test, combine),
        (Ty::U64 | Ty::B64, _) => form::<4, false>(test, combine),
        (Ty::S64, _) => form::<5, false>(test, combine),
        (Ty::F64, _) => form::<7, false>(test, combine),
        (Ty::F16, _) => form::<8, false>(test, combine),
        (Ty::BF16, _) => form::<9, false>(test, combine),
        (other, _) => return Err(format!("type {other:?}")),
    })
}

pub(super) fn slct(m: &mut Modifiers<'_>) -> Result<Lanes, Refused> {
    let selector = m.ty()?;
    m.ty()?;
    Ok(match (selector, m.take("ftz")) {
        (Ty::S32, _) => three!(|a, b, c| if c as u32 >> 31 == 0 { a } else { b }),
        (Ty::F32, false) => three!(|a, b, c| if flush::<false>(c) >= 0.0 { a } else { b }),
        (Ty::F32, true) => three!(|a, b, c| if flush::<true>(c) >= 0.0 { a } else { b }),
        (other, _) => return Err(format!("selector {other:?}")),
    })
}

pub(super) fn testp(m: &mut Modifiers<'_>) -> Result<Lanes, Refused> {
    let ty = m.ty()?;
    let test = m.take_any(&["finite", "infinite", "number", "notanumber", "normal", "subnormal"]);
    Ok(match (ty, test.ok_or("no test")?) {
        (Ty::F32, "finite") => one!(|a| f32::from_bits(a as u32).is_finite() as u64),
        (Ty::F32, "infinite") => one!(|a| f32::from_bits(a as u32).is_infinite() as u64),
        (Ty::F32, "number") => one!(|a| !f32::from_bits(a as u32).is_nan() as u64),
        (Ty::F32, "notanumber") => one!(|a| f32::from_bits(a as u32).is_nan() as u64),
        (Ty::F32, "normal") => one!(|a| f32::from_bits(a as u32).is_normal() as u64),
        (Ty::F32, _) => one!(|a| f32::from_bits(a as u32).is_subnormal() as u64),
        (Ty::F64, "finite") => one!(|a| f64::from_bits(a).is_finite() as u64),
        (Ty::F64, "infinite") => one!(|a| f64::from_bits(a).is_infinite() as u64),
        (Ty::F64, "number") => one!(|a| !f64::from_bits(a).is_nan() as u64),
        (Ty::F64, "notanumber") => one!(|a| f64::from_bits(a).is_nan() as u64),
        (Ty::F64, "normal") => one!(|a| f64::from_bits(a).is_normal() as u64),
        (Ty::F64, _) => one!(|a| f64::from_bits(a).is_subnormal() as u64),
        (other, _) => return Err(format!("type {other:?}")),
    })
}
