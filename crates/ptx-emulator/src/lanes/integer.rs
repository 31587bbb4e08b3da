//! Integer arithmetic: add, sub, mul, mad, div, rem, min, max, abs, neg, sad, dot products of bytes.

use super::{Lanes, Modifiers, Refused, one, three, two};
use crate::syntax::Ty;

/// The same wrapping formula at 16, 32 and 64 bits; `T` is the unsigned type.
macro_rules! unsigned {
    ($ty:expr, $two:ident |$($x:ident),+| $e:expr) => {
        match $ty.bits() {
            16 => { type T = u16; $two!(|$($x),+| { $(let $x = $x as T;)+ ($e) as u64 }) }
            32 => { type T = u32; $two!(|$($x),+| { $(let $x = $x as T;)+ ($e) as u64 }) }
            64 => { type T = u64; $two!(|$($x),+| { $(let $x = $x as T;)+ ($e) as u64 }) }
            n => return Err(format!("{n} bits")),
        }
    };
}
/// Likewise for signed types; `U` is the unsigned type of the same width.
macro_rules! signed {
    ($ty:expr, $two:ident |$($x:ident),+| $e:expr) => {
        match $ty.bits() {
            16 => { type T = i16; $two!(|$($x),+| { $(let $x = $x as T;)+ ($e) as u16 as u64 }) }
            32 => { type T = i32; $two!(|$($x),+| { $(let $x = $x as T;)+ ($e) as u32 as u64 }) }
            64 => { type T = i64; $two!(|$($x),+| { $(let $x = $x as T;)+ ($e) as u64 }) }
            n => return Err(format!("{n} bits")),
        }
    };
}

fn high(ty: Ty, a: u64, b: u64) -> u64 {
    if ty.signed() {
        let (a, b) = (sign_extend(a, ty.bits()) as i128, sign_extend(b, ty.bits()) as i128);
        ((a * b) >> ty.bits()) as u64 & mask(ty.bits())
    } else {
        let (a, b) = ((a & mask(ty.bits())) as u128, (b & mask(ty.bits())) as u128);
        ((a * b) >> ty.bits()) as u64
    }
}

fn mask(bits: u32) -> u64 {
    if bits >= 64 { u64::MAX } else { (1 << bits) - 1 }
}

pub(super) fn sign_extend(v: u64, bits: u32) -> i64 {
    let unused = 64 - bits.min(64);
    ((v << unused) as i64) >> unused
}

macro_rules! by_type {
    ($ty:expr, $two:ident |$($x:ident),+| $f:ident) => {
        match $ty {
            Ty::U16 => $two!(|$($x),+| $f(Ty::U16, $($x),+)),
            Ty::S16 => $two!(|$($x),+| $f(Ty::S16, $($x),+)),
            Ty::U32 => $two!(|$($x),+| $f(Ty::U32, $($x),+)),
            Ty::S32 => $two!(|$($x),+| $f(Ty::S32, $($x),+)),
            Ty::U64 => $two!(|$($x),+| $f(Ty::U64, $($x),+)),
            Ty::S64 => $two!(|$($x),+| $f(Ty::S64, $($x),+)),
            other => return Err(format!("type {other:?}")),
        }
    };
}

fn high_add(ty: Ty, a: u64, b: u64, c: u64) -> u64 {
    high(ty, a, b).wrapping_add(c) & mask(ty.bits())
}

pub(super) fn arithmetic(name: &str, ty: Ty, m: &mut Modifiers<'_>) -> Result<Lanes, Refused> {
    if !ty.integer() {
        return Err(format!("type {ty:?}"));
    }
    Ok(match name {
        "add" if m.take("sat") => match ty {
            Ty::S32 => two!(|a, b| (a as i32).saturating_add(b as i32) as u32 as u64),
            _ => return Err("saturation of this type".into()),
        },
        "sub" if m.take("sat") => match ty {
            Ty::S32 => two!(|a, b| (a as i32).saturating_sub(b as i32) as u32 as u64),
            _ => return Err("saturation of this type".into()),
        },
        "add" => unsigned!(ty, two | a, b | a.wrapping_add(b)),
        "sub" => unsigned!(ty, two | a, b | a.wrapping_sub(b)),
        "mul" if m.take("hi") => by_type!(ty, two | a, b | high),
        "mad" if m.take("hi") => by_type!(ty, three | a, b, c | high_add),
        "mul" if m.take("wide") => match ty {
            Ty::U16 => two!(|a, b| (a as u16 as u32 * b as u16 as u32) as u64),
            Ty::S16 => two!(|a, b| (a as i16 as i32 * b as i16 as i32) as u32 as u64),
            Ty::U32 => two!(|a, b| a as u32 as u64 * b as u32 as u64),
            Ty::S32 => two!(|a, b| (a as i32 as i64 * b as i32 as i64) as u64),
            _ => return Err("wide product of this type".into()),
        },
        "mad" if m.take("wide") => match ty {
            Ty::U16 => three!(|a, b, c| {
                (a as u16 as u32 * b as u16 as u32).wrapping_add(c as u32) as u64
            }),
            Ty::S16 => three!(|a, b, c| {
                (a as i16 as i32 * b as i16 as i32).wrapping_add(c as i32) as u32 as u64
            }),
            Ty::U32 => three!(|a, b, c| (a as u32 as u64 * b as u32 as u64).wrapping_add(c)),
            Ty::S32 => three!(|a, b, c| {
                (a as i32 as i64 * b as i32 as i64).wrapping_add(c as i64) as u64
            }),
            _ => return Err("wide product of this type".into()),
        },
        "mul" if m.take("lo") => unsigned!(ty, two | a, b | a.wrapping_mul(b)),
        "mad" if m.take("lo") => unsigned!(ty, three | a, b, c | a.wrapping_mul(b).wrapping_add(c)),
        // Division by zero is all ones on the hardware; the remainder is then the dividend.
        "div" if ty.signed() => {
            signed!(ty, two | a, b | if b == 0 { -1 as T } else { a.wrapping_div(b) })
        }
        "div" => unsigned!(ty, two | a, b | a.checked_div(b).unwrap_or(T::MAX)),
        "abs" if ty.signed() => signed!(ty, one | a | a.wrapping_abs()),
        "neg" if ty.signed() => signed!(ty, one | a | a.wrapping_neg()),
        "min" if ty.signed() => signed!(ty, two | a, b | a.min(b)),
        "max" if ty.signed() => signed!(ty, two | a, b | a.max(b)),
        "min" => unsigned!(ty, two | a, b | a.min(b)),
        "max" => unsigned!(ty, two | a, b | a.max(b)),
        _ => return Err(format!("type {ty:?}")),
    })
}

fn dot4(a: u64, b: u64, c: u64, a_signed: bool, b_signed: bool) -> u64 {
    let byte = |v: u64, i: u32, signed| {
        let v = (v >> (8 * i)) as u8;
        if signed { v as i8 as i64 } else { v as i64 }
    };
    let sum: i64 = (0..4).map(|i| byte(a, i, a_signed) * byte(b, i, b_signed)).sum();
    (c as u32).wrapping_add(sum as u32) as u64
}

fn dot2(a: u64, b: u64, c: u64, a_signed: bool, b_signed: bool, high: bool) -> u64 {
    let half = |i: u32| {
        let v = (a >> (16 * i)) as u16;
        if a_signed { v as i16 as i64 } else { v as i64 }
    };
    let byte = |i: u32| {
        let v = (b >> (8 * (i + if high { 2 } else { 0 }))) as u8;
        if b_signed { v as i8 as i64 } else { v as i64 }
    };
    let sum: i64 = (0..2).map(|i| half(i) * byte(i)).sum();
    (c as u32).wrapping_add(sum as u32) as u64
}

pub(super) fn form(name: &str, m: &mut Modifiers<'_>) -> Result<Lanes, Refused> {
    let high = name == "dp2a" && {
        let high = m.take("hi");
        if !high && !m.take("lo") {
            return Err("neither .lo nor .hi".into());
        }
        high
    };
    let ty = m.ty()?;
    Ok(match name {
        "rem" if ty.signed() => {
            signed!(ty, two | a, b | if b == 0 { a } else { a.wrapping_rem(b) })
        }
        "rem" => unsigned!(ty, two | a, b | if b == 0 { a } else { a % b }),
        "sad" if ty.signed() => {
            signed!(ty, three | a, b, c | (c as T).wrapping_add(a.abs_diff(b) as T))
        }
        "sad" => unsigned!(ty, three | a, b, c | c.wrapping_add(a.abs_diff(b))),
        "mul24" if m.take("lo") => {
            if ty.signed() {
                two!(|a, b| (sign_extend(a, 24) * sign_extend(b, 24)) as u32 as u64)
            } else {
                two!(|a, b| ((a & 0xff_ffff) * (b & 0xff_ffff)) as u32 as u64)
            }
        }
        "mad24" if m.take("lo") => {
            if ty.signed() {
                three!(|a, b, c| {
                    (sign_extend(a, 24) * sign_extend(b, 24)).wrapping_add(c as i64) as u32 as u64
                })
            } else {
                three!(|a, b, c| {
                    ((a & 0xff_ffff) * (b & 0xff_ffff)).wrapping_add(c) as u32 as u64
                })
            }
        }
        "dp4a" | "dp2a" => {
            // The last type is b's, the one before it a's.
            let a_signed = m.ty()?.signed();
            match (name, high, a_signed, ty.signed()) {
                ("dp4a", _, false, false) => three!(|a, b, c| dot4(a, b, c, false, false)),
                ("dp4a", _, false, true) => three!(|a, b, c| dot4(a, b, c, false, true)),
                ("dp4a", _, true, false) => three!(|a, b, c| dot4(a, b, c, true, false)),
                ("dp4a", _, true, true) => three!(|a, b, c| dot4(a, b, c, true, true)),
                (_, false, false, false) => three!(|a, b, c| dot2(a, b, c, false, false, false)),
                (_, false, false, true) => three!(|a, b, c| dot2(a, b, c, false, true, false)),
                (_, false, true, false) => three!(|a, b, c| dot2(a, b, c, true, false, false)),
                (_, false, true, true) => three!(|a, b, c| dot2(a, b, c, true, true, false)),
                (_, true, false, false) => three!(|a, b, c| dot2(a, b, c, false, false, true)),
                (_, true, false, true) => three!(|a, b, c| dot2(a, b, c, false, true, true)),
                (_, true, true, false) => three!(|a, b, c| dot2(a, b, c, true, false, true)),
                (_, true, true, true) => three!(|a, b, c| dot2(a, b, c, true, true, true)),
            }
        }
        _ => return Err("this form".into()),
    })
}
