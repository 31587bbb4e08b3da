//! `cvt` between every pair of types that nvcc emits, each rounded once.

use super::{Lanes, Modifiers, Refused, Row, one};
use crate::float::{
    BF16, E4M3, E5M2, F16, F32, F64, Format, Rounding, TF32, bf16_to_f32, f16_to_f32, f32_to_bf16,
};
use crate::lanes::decimal::flush;
use crate::lanes::integer::sign_extend;
use crate::syntax::Ty;

/// A rounding as a number, the lower bits of a form's.
fn mode(r: Rounding) -> u32 {
    match r {
        Rounding::Nearest => 0,
        Rounding::Zero => 1,
        Rounding::Down => 2,
        Rounding::Up => 3,
        Rounding::NearestAway => 4,
    }
}
fn rounding(by: u32) -> Rounding {
    match by & 7 {
        0 => Rounding::Nearest,
        1 => Rounding::Zero,
        2 => Rounding::Down,
        3 => Rounding::Up,
        _ => Rounding::NearestAway,
    }
}

/// Formats as numbers: 0 f16, 1 bf16, 2 f32, 3 f64, 4 tf32, 5 e4m3, 6 e5m2.
fn format<const F: u8>() -> Format {
    match F {
        0 => F16,
        1 => BF16,
        2 => F32,
        3 => F64,
        4 => TF32,
        5 => E4M3,
        _ => E5M2,
    }
}
fn number(ty: Ty) -> Option<u8> {
    Some(match ty {
        Ty::F16 => 0,
        Ty::BF16 => 1,
        Ty::F32 => 2,
        Ty::F64 => 3,
        Ty::TF32 => 4,
        _ => return None,
    })
}

fn read<const F: u8>(a: u64) -> f64 {
    match F {
        0 => f16_to_f32(a as u16) as f64,
        1 => bf16_to_f32(a as u16) as f64,
        2 => f32::from_bits(a as u32) as f64,
        3 => f64::from_bits(a),
        _ => format::<F>().decode(a),
    }
}

fn to_integer<const F: u8, const FTZ: bool>(a: u64, mode: u32, ty: Ty) -> u64 {
    let x = if F == 2 { flush::<FTZ>(a) as f64 } else { read::<F>(a) };
    if x.is_nan() {
        let wide = F == 3 || ty.bits() == 64;
        return if wide { 1 << (ty.bits() - 1) } else { 0 };
    }
    let x = match mode {
        0 => x.round_ties_even(),
        1 => x.trunc(),
        2 => x.floor(),
        _ => x.ceil(),
    };
    // `as` saturates, as PTX does.
    match ty {
        Ty::U8 => x as u8 as u64,
        Ty::S8 => x as i8 as i32 as u32 as u64,
        Ty::U16 => x as u16 as u64,
        Ty::S16 => x as i16 as i32 as u32 as u64,
        Ty::U32 => x as u32 as u64,
        Ty::S32 => x as i32 as u32 as u64,
        Ty::U64 => x as u64,
        _ => x as i64 as u64,
    }
}

const INTEGERS: [Ty; 8] = [Ty::U8, Ty::S8, Ty::U16, Ty::S16, Ty::U32, Ty::S32, Ty::U64, Ty::S64];

fn integer_number(ty: Ty) -> Result<u32, Refused> {
    let i = INTEGERS.iter().position(|t| *t == ty);
    i.map(|i| i as u32).ok_or_else(|| format!("type {ty:?}"))
}

fn to_integer_form(from: Ty, to: Ty, how: &str, ftz: bool) -> Result<Lanes, Refused> {
    fn go<const F: u8, const FTZ: bool>(d: &mut Row, a: &Row, by: u32) {
        let (mode, ty) = (by & 7, INTEGERS[(by >> 3) as usize]);
        (0..32).for_each(|i| d[i] = to_integer::<F, FTZ>(a[i], mode, ty));
    }
    let mode = match how {
        "rni" => 0,
        "rzi" => 1,
        "rmi" => 2,
        _ => 3,
    };
    let by = mode | integer_number(to)? << 3;
    Ok(match from {
        Ty::F16 => Lanes::OneBy(go::<0, false>, by),
        Ty::BF16 => Lanes::OneBy(go::<1, false>, by),
        Ty::F32 if ftz => Lanes::OneBy(go::<2, true>, by),
        // What every kernel that computes an index from a float does.
        Ty::F32 if (how, to) == ("rzi", Ty::S32) => {
            one!(|a| f32::from_bits(a as u32) as i32 as u32 as u64)
        }
        Ty::F32 => Lanes::OneBy(go::<2, false>, by),
        Ty::F64 => Lanes::OneBy(go::<3, false>, by),
        _ => return Err(format!("from {from:?}")),
    })
}

/// An integer register as sign and magnitude.
fn sign_magnitude(v: u64, ty: Ty) -> (bool, u64) {
    let bits = ty.bits();
    if ty.signed() {
        let v = sign_extend(v, bits);
        (v < 0, v.unsigned_abs())
    } else {
        (false, if bits == 64 { v } else { v & ((1 << bits) - 1) })
    }
}

fn from_integer_form(from: Ty, to: u8, r: Rounding) -> Result<Lanes, Refused> {
    fn go<const F: u8>(d: &mut Row, a: &Row, by: u32) {
        let (rounding, ty) = (rounding(by), INTEGERS[(by >> 3) as usize]);
        for i in 0..32 {
            let (negative, magnitude) = sign_magnitude(a[i], ty);
            d[i] = format::<F>().encode_integer(negative, magnitude, rounding);
        }
    }
    if r == Rounding::NearestAway {
        return Err("`.rna` of an integer".into());
    }
    let by = mode(r) | integer_number(from)? << 3;
    Ok(match (to, from) {
        // The two that kernels are full of.
        (2, Ty::S32) if r == Rounding::Nearest => one!(|a| (a as i32 as f32).to_bits() as u64),
        (2, Ty::U32) if r == Rounding::Nearest => one!(|a| (a as u32 as f32).to_bits() as u64),
        (0, _) => Lanes::OneBy(go::<0>, by),
        (1, _) => Lanes::OneBy(go::<1>, by),
        (2, _) => Lanes::OneBy(go::<2>, by),
        (3, _) => Lanes::OneBy(go::<3>, by),
        _ => return Err("this destination".into()),
    })
}

/// Float to float. FLAGS: 1 flush subnormals of f32, 2 clamp to [0, 1], 4 clamp to the largest finite value,
/// 8 negative to zero.
fn convert<const FROM: u8, const TO: u8>(a: u64, r: Rounding, flags: u32) -> u64 {
    let mut x = read::<FROM>(a);
    if flags & 1 != 0 && FROM == 2 {
        x = flush::<true>(a) as f64;
    }
    if flags & 2 != 0 {
        x = if x > 0.0 { x.min(1.0) } else { 0.0 };
    }
    if flags & 8 != 0 && x < 0.0 {
        x = 0.0;
    }
    let bits = format::<TO>().encode(x, r, flags & 4 != 0);
    match TO {
        2 if flags & 1 != 0 && bits & 0x7f80_0000 == 0 => bits & 0x8000_0000,
        4 => bits << 13, // the 19 bits of tf32 are the upper ones of an f32
        _ => bits,
    }
}

/// Rounds to an integer that stays a float (`cvt.rzi.f32.f32`).
fn to_integral(from: Ty, how: &str, ftz: bool, sat: bool) -> Result<Lanes, Refused> {
    if sat {
        return Err("`.sat` with rounding to an integer".into());
    }
    macro_rules! go {
        ($f:ident) => {
            match (from, ftz) {
                (Ty::F32, false) => one!(|a| canonical(f32::from_bits(a as u32).$f())),
                (Ty::F32, true) => one!(|a| canonical(flush::<true>(a).$f())),
                (Ty::F64, false) => one!(|a| f64::from_bits(a).$f().to_bits()),
                (Ty::F16, false) => one!(|a| {
                    F16.encode(f16_to_f32(a as u16).$f() as f64, Rounding::Nearest, false)
                }),
                (Ty::BF16, false) => one!(|a| {
                    BF16.encode(bf16_to_f32(a as u16).$f() as f64, Rounding::Nearest, false)
                }),
                _ => return Err(format!("from {from:?}")),
            }
        };
    }
    Ok(match how {
        "rni" => go!(round_ties_even),
        "rzi" => go!(trunc),
        "rmi" => go!(floor),
        _ => go!(ceil),
    })
}

fn canonical(x: f32) -> u64 {
    if x.is_nan() { 0x7fff_ffff } else { x.to_bits() as u64 }
}

fn float_form(from: u8, to: u8, r: Rounding, flags: u32) -> Result<Lanes, Refused> {
    if (from, to, r, flags) == (2, 1, Rounding::Nearest, 0) {
        return Ok(one!(|a| f32_to_bf16(f32::from_bits(a as u32)) as u64));
    }
    if (from, to, flags) == (1, 2, 0) {
        return Ok(one!(|a| canonical(bf16_to_f32(a as u16))));
    }
    if (from, to, flags) == (0, 2, 0) {
        return Ok(one!(|a| canonical(f16_to_f32(a as u16))));
    }
    fn go<const FROM: u8, const TO: u8>(d: &mut Row, a: &Row, by: u32) {
        let (rounding, flags) = (rounding(by), by >> 3);
        (0..32).for_each(|i| d[i] = convert::<FROM, TO>(a[i], rounding, flags));
    }
    let by = mode(r) | flags << 3;
    if !matches!(flags, 0..=4 | 8 | 12) {
        return Err("this combination of modifiers".into());
    }
    macro_rules! table {
        ($(($from:literal, $to:literal)),*) => {
            match (from, to) {
                $(($from, $to) => Lanes::OneBy(go::<$from, $to>, by),)*
                _ => return Err("between these types".into()),
            }
        };
    }
    Ok(table!(
        (0, 0),
        (0, 1),
        (0, 2),
        (0, 3),
        (1, 0),
        (1, 1),
        (1, 2),
        (1, 3),
        (2, 0),
        (2, 1),
        (2, 2),
        (2, 3),
        (2, 4),
        (3, 0),
        (3, 1),
        (3, 2),
        (3, 3)
    ))
}

/// Two values into one register, the first source in the upper half.
fn pack(to: Ty, r: Rounding, flags: u32) -> Result<Lanes, Refused> {
    fn go<const TO: u8, const WIDTH: u32>(d: &mut Row, a: &Row, b: &Row, by: u32) {
        let (rounding, flags) = (rounding(by), by >> 3);
        for i in 0..32 {
            let high = convert::<2, TO>(a[i], rounding, flags);
            d[i] = high << WIDTH | convert::<2, TO>(b[i], rounding, flags);
        }
    }
    fn fast(d: &mut Row, a: &Row, b: &Row) {
        for i in 0..32 {
            let high = f32_to_bf16(f32::from_bits(a[i] as u32)) as u64;
            d[i] = high << 16 | f32_to_bf16(f32::from_bits(b[i] as u32)) as u64;
        }
    }
    let by = mode(r) | flags << 3;
    if !matches!(flags, 0 | 4 | 8 | 12) {
        return Err("this combination of modifiers".into());
    }
    let direct = matches!(r, Rounding::Nearest | Rounding::Zero);
    Ok(match to {
        Ty::BF16x2 if by == 0 => Lanes::Two(fast),
        Ty::BF16x2 if direct => Lanes::TwoBy(go::<1, 16>, by),
        Ty::F16x2 if direct => Lanes::TwoBy(go::<0, 16>, by),
        Ty::E4M3x2 if r == Rounding::Nearest && flags & 4 != 0 => Lanes::TwoBy(go::<5, 8>, by),
        Ty::E5M2x2 if r == Rounding::Nearest && flags & 4 != 0 => Lanes::TwoBy(go::<6, 8>, by),
        _ => return Err(format!("to {to:?} with this rounding")),
    })
}

/// Pairs of fp8 to and from pairs of f16.
fn pair(from: Ty, to: Ty, flags: u32) -> Result<Lanes, Refused> {
    fn unpack<const FROM: u8>(a: u64, relu: bool) -> u64 {
        let half = |byte: u64| {
            let x = format::<FROM>().decode(byte & 0xff);
            F16.encode(if relu && x < 0.0 { 0.0 } else { x }, Rounding::Nearest, false)
        };
        half(a >> 8) << 16 | half(a)
    }
    fn narrow<const TO: u8>(a: u64, relu: bool) -> u64 {
        let byte = |h: u64| {
            let x = f16_to_f32(h as u16) as f64;
            let x = if relu && x < 0.0 { 0.0 } else { x };
            format::<TO>().encode(x, Rounding::Nearest, true)
        };
        byte(a >> 16) << 8 | byte(a)
    }
    Ok(match (from, to, flags) {
        (Ty::E4M3x2, Ty::F16x2, 0) => one!(|a| unpack::<5>(a, false)),
        (Ty::E5M2x2, Ty::F16x2, 0) => one!(|a| unpack::<6>(a, false)),
        (Ty::E4M3x2, Ty::F16x2, 8) => one!(|a| unpack::<5>(a, true)),
        (Ty::E5M2x2, Ty::F16x2, 8) => one!(|a| unpack::<6>(a, true)),
        (Ty::F16x2, Ty::E4M3x2, 4) => one!(|a| narrow::<5>(a, false)),
        (Ty::F16x2, Ty::E5M2x2, 4) => one!(|a| narrow::<6>(a, false)),
        (Ty::F16x2, Ty::E4M3x2, 12) => one!(|a| narrow::<5>(a, true)),
        (Ty::F16x2, Ty::E5M2x2, 12) => one!(|a| narrow::<6>(a, true)),
        _ => return Err(format!("from {from:?} to {to:?} with these modifiers")),
    })
}

/// Between integers: the source is extended by its own sign, then cut to the destination, or clamped to it.
/// A narrow signed result fills its register with its sign.
fn between_integers(from: Ty, to: Ty, sat: bool) -> Result<Lanes, Refused> {
    fn clamp(d: &mut Row, a: &Row, by: u32) {
        let (from, to) = (INTEGERS[(by & 7) as usize], INTEGERS[(by >> 3) as usize]);
        let bits = to.bits();
        let (low, high) = if to.signed() {
            (-(1i128 << (bits - 1)), (1i128 << (bits - 1)) - 1)
        } else {
            (0, (1i128 << bits) - 1)
        };
        for i in 0..32 {
            let (negative, magnitude) = sign_magnitude(a[i], from);
            let v = if negative { -(magnitude as i128) } else { magnitude as i128 };
            let v = v.clamp(low, high) as u64;
            d[i] = if bits == 64 { v } else { v & 0xffff_ffff };
        }
    }
    if sat {
        return Ok(Lanes::OneBy(clamp, integer_number(from)? | integer_number(to)? << 3));
    }
    macro_rules! cut {
        ($t:ty) => {
            match to.bits() {
                8 if to.signed() => one!(|a| a as $t as i8 as i32 as u32 as u64),
                16 if to.signed() => one!(|a| a as $t as i16 as i32 as u32 as u64),
                8 => one!(|a| a as $t as u8 as u64),
                16 => one!(|a| a as $t as u16 as u64),
                32 => one!(|a| a as $t as u32 as u64),
                _ => one!(|a| a as $t as i64 as u64),
            }
        };
    }
    Ok(match from {
        Ty::S8 => cut!(i8),
        Ty::S16 => cut!(i16),
        Ty::S32 => cut!(i32),
        Ty::U8 => cut!(u8),
        Ty::U16 => cut!(u16),
        Ty::U32 => cut!(u32),
        _ => cut!(u64),
    })
}

pub(super) fn cvt(m: &mut Modifiers<'_>) -> Result<Lanes, Refused> {
    let from = m.ty()?;
    let to = m.ty()?;
    let r = m.rounding();
    let whole = m.take_any(&["rni", "rzi", "rmi", "rpi"]);
    let (ftz, sat) = (m.take("ftz"), m.take("sat"));
    let flags = u32::from(ftz)
        | u32::from(sat) << 1
        | u32::from(m.take("satfinite")) << 2
        | u32::from(m.take("relu")) << 3;
    if from.integer() && to.integer() {
        if r.is_some() || whole.is_some() || flags & !2 != 0 {
            return Err("rounding between integers".into());
        }
        return between_integers(from, to, sat);
    }
    if to.integer() {
        // Saturation is what the conversion does anyway.
        let how = whole.ok_or("no rounding to an integer")?;
        return to_integer_form(from, to, how, ftz);
    }
    if from.integer() {
        let to = number(to).ok_or_else(|| format!("to {to:?}"))?;
        if flags != 0 {
            return Err("these modifiers".into());
        }
        return from_integer_form(from, to, r.ok_or("no rounding")?);
    }
    match (from, to) {
        (Ty::F32, Ty::BF16x2 | Ty::F16x2 | Ty::E4M3x2 | Ty::E5M2x2) => {
            return pack(to, r.ok_or("no rounding")?, flags);
        }
        (Ty::F16x2, Ty::E4M3x2 | Ty::E5M2x2) | (Ty::E4M3x2 | Ty::E5M2x2, Ty::F16x2) => {
            return pair(from, to, flags);
        }
        _ => {}
    }
    if let Some(how) = whole {
        if from != to {
            return Err("rounding to an integer and to another type".into());
        }
        return to_integral(from, how, ftz, sat);
    }
    let (Some(a), Some(b)) = (number(from), number(to)) else {
        return Err(format!("from {from:?} to {to:?}"));
    };
    float_form(a, b, r.unwrap_or(Rounding::Nearest), flags)
}
