//! Comparisons and selections: setp, slct, testp.

use super::{Lanes, Modifiers, Refused, one, three};
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

/// Bits of a test: less, equal, greater, unordered.
const LESS: u8 = 1;
const EQUAL: u8 = 2;
const GREATER: u8 = 4;
const UNORDERED: u8 = 8;

fn holds<const TEST: u8>(c: Compared) -> bool {
    let bit = match c {
        Some(Ordering::Less) => LESS,
        Some(Ordering::Equal) => EQUAL,
        Some(Ordering::Greater) => GREATER,
        None => UNORDERED,
    };
    TEST & bit != 0
}

/// Two sources, or with COMBINE 1 to 3 (and, or, xor) a third predicate.
fn build<const TY: u8, const FTZ: bool, const TEST: u8>(combine: u8) -> Lanes {
    // A function item cannot use outer generics, hence the nested generic functions.
    fn plain<const TY: u8, const FTZ: bool, const TEST: u8>(
        d: &mut super::Row,
        a: &super::Row,
        b: &super::Row,
    ) {
        (0..32).for_each(|i| d[i] = holds::<TEST>(compare::<TY, FTZ>(a[i], b[i])) as u64);
    }
    fn combined<const TY: u8, const FTZ: bool, const TEST: u8, const HOW: u8>(
        d: &mut super::Row,
        a: &super::Row,
        b: &super::Row,
        p: &super::Row,
    ) {
        for i in 0..32 {
            let test = holds::<TEST>(compare::<TY, FTZ>(a[i], b[i])) as u64;
            d[i] = match HOW {
                1 => test & p[i],
                2 => test | p[i],
                _ => test ^ p[i],
            } & 1;
        }
    }
    match combine {
        0 => Lanes::Two(plain::<TY, FTZ, TEST>),
        1 => Lanes::Three(combined::<TY, FTZ, TEST, 1>),
        2 => Lanes::Three(combined::<TY, FTZ, TEST, 2>),
        _ => Lanes::Three(combined::<TY, FTZ, TEST, 3>),
    }
}

fn by_test<const TY: u8, const FTZ: bool>(test: u8, combine: u8) -> Lanes {
    match test {
        0b0001 => build::<TY, FTZ, 0b0001>(combine),
        0b0010 => build::<TY, FTZ, 0b0010>(combine),
        0b0011 => build::<TY, FTZ, 0b0011>(combine),
        0b0100 => build::<TY, FTZ, 0b0100>(combine),
        0b0101 => build::<TY, FTZ, 0b0101>(combine),
        0b0110 => build::<TY, FTZ, 0b0110>(combine),
        0b0111 => build::<TY, FTZ, 0b0111>(combine),
        0b1000 => build::<TY, FTZ, 0b1000>(combine),
        0b1001 => build::<TY, FTZ, 0b1001>(combine),
        0b1010 => build::<TY, FTZ, 0b1010>(combine),
        0b1011 => build::<TY, FTZ, 0b1011>(combine),
        0b1100 => build::<TY, FTZ, 0b1100>(combine),
        0b1101 => build::<TY, FTZ, 0b1101>(combine),
        _ => build::<TY, FTZ, 0b1110>(combine),
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
        Some("and") => 1,
        Some("or") => 2,
        Some(_) => 3,
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
        (Ty::F32, true) => by_test::<6, true>(test, combine),
        (Ty::F32, false) => by_test::<6, false>(test, combine),
        (_, true) => return Err("`.ftz` of this type".into()),
        (Ty::U16 | Ty::B16, _) => by_test::<0, false>(test, combine),
        (Ty::S16, _) => by_test::<1, false>(test, combine),
        (Ty::U32 | Ty::B32, _) => by_test::<2, false>(test, combine),
        (Ty::S32, _) => by_test::<3, false>(test, combine),
        (Ty::U64 | Ty::B64, _) => by_test::<4, false>(test, combine),
        (Ty::S64, _) => by_test::<5, false>(test, combine),
        (Ty::F64, _) => by_test::<7, false>(test, combine),
        (Ty::F16, _) => by_test::<8, false>(test, combine),
        (Ty::BF16, _) => by_test::<9, false>(test, combine),
        (other, _) => return Err(format!("type {other:?}")),
    })
}

pub(super) fn slct(m: &mut Modifiers<'_>) -> Result<Lanes, Refused> {
    let selector = m.ty()?;
    m.ty()?;
    Ok(match (selector, m.take("ftz")) {
        (Ty::S32, _) => three!(|a, b, c| if c as i32 >= 0 { a } else { b }),
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
