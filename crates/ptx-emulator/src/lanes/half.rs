//! f16 and bf16 arithmetic, one or two in a register: computed exactly, rounded once.

use super::{Lanes, Modifiers, Refused, one, three, two};
use crate::float::{BF16, F16, Rounding, bf16_to_f32, f16_to_f32, fma_to_odd, sum_to_odd};
use crate::syntax::Ty;

fn decode<const BF: bool>(a: u64) -> f32 {
    if BF { bf16_to_f32(a as u16) } else { f16_to_f32(a as u16) }
}
fn encode<const BF: bool>(x: f64) -> u64 {
    (if BF { BF16 } else { F16 }).encode(x, Rounding::Nearest, false)
}
/// `OP`: 0 add, 1 sub, 2 mul, 3 min, 4 max, 5 min.NaN, 6 max.NaN.
fn binary<const BF: bool, const OP: u8>(a: u64, b: u64) -> u64 {
    let (x, y) = (decode::<BF>(a), decode::<BF>(b));
    match OP {
        0 => encode::<BF>(sum_to_odd(x as f64, y as f64)),
        1 => encode::<BF>(sum_to_odd(x as f64, -y as f64)),
        2 => encode::<BF>(x as f64 * y as f64),
        _ => {
            let propagate = OP >= 5;
            if x.is_nan() || y.is_nan() {
                return match (x.is_nan(), y.is_nan()) {
                    (true, true) => 0x7fff,
                    _ if propagate => 0x7fff,
                    (true, false) => b & 0xffff,
                    _ => a & 0xffff,
                };
            }
            let first = if OP == 3 || OP == 5 {
                x < y || x == y && x.is_sign_negative()
            } else {
                x > y || x == y && x.is_sign_positive()
            };
            (if first { a } else { b }) & 0xffff
        }
    }
}
fn ternary<const BF: bool, const RELU: bool>(a: u64, b: u64, c: u64) -> u64 {
    let (a, b, c) = (decode::<BF>(a), decode::<BF>(b), decode::<BF>(c));
    let value = fma_to_odd(a as f64, b as f64, c as f64);
    if RELU && value < 0.0 { 0 } else { encode::<BF>(value) }
}
/// `OP`: 0 ex2, 1 tanh.
fn unary<const BF: bool, const OP: u8>(a: u64) -> u64 {
    let x = decode::<BF>(a) as f64;
    encode::<BF>(if OP == 0 { x.exp2() } else { x.tanh() })
}

/// One value, or two packed.
macro_rules! packed {
    ($ty:expr, one $f:ident $(, $x:literal)*) => {
        match $ty {
            Ty::F16 => one!(|a| $f::<false $(, $x)*>(a)),
            Ty::BF16 => one!(|a| $f::<true $(, $x)*>(a)),
            Ty::F16x2 => one!(|a| $f::<false $(, $x)*>(a) | $f::<false $(, $x)*>(a >> 16) << 16),
            _ => one!(|a| $f::<true $(, $x)*>(a) | $f::<true $(, $x)*>(a >> 16) << 16),
        }
    };
    ($ty:expr, two $f:ident $(, $x:literal)*) => {
        match $ty {
            Ty::F16 => two!(|a, b| $f::<false $(, $x)*>(a, b)),
            Ty::BF16 => two!(|a, b| $f::<true $(, $x)*>(a, b)),
            Ty::F16x2 => two!(|a, b| {
                $f::<false $(, $x)*>(a, b) | $f::<false $(, $x)*>(a >> 16, b >> 16) << 16
            }),
            _ => two!(|a, b| $f::<true $(, $x)*>(a, b) | $f::<true $(, $x)*>(a >> 16, b >> 16) << 16),
        }
    };
    ($ty:expr, three $f:ident $(, $x:literal)*) => {
        match $ty {
            Ty::F16 => three!(|a, b, c| $f::<false $(, $x)*>(a, b, c)),
            Ty::BF16 => three!(|a, b, c| $f::<true $(, $x)*>(a, b, c)),
            Ty::F16x2 => three!(|a, b, c| {
                $f::<false $(, $x)*>(a, b, c)
                    | $f::<false $(, $x)*>(a >> 16, b >> 16, c >> 16) << 16
            }),
            _ => three!(|a, b, c| {
                $f::<true $(, $x)*>(a, b, c) | $f::<true $(, $x)*>(a >> 16, b >> 16, c >> 16) << 16
            }),
        }
    };
}

pub(super) fn form(name: &str, ty: Ty, m: &mut Modifiers<'_>) -> Result<Lanes, Refused> {
    if m.rounding().is_some_and(|r| r != Rounding::Nearest) {
        return Err("a directed rounding of this type".into());
    }
    let two_values = matches!(ty, Ty::F16x2 | Ty::BF16x2);
    Ok(match name {
        "add" => packed!(ty, two binary, 0),
        "sub" => packed!(ty, two binary, 1),
        "mul" => packed!(ty, two binary, 2),
        "min" if m.take("NaN") => packed!(ty, two binary, 5),
        "max" if m.take("NaN") => packed!(ty, two binary, 6),
        "min" => packed!(ty, two binary, 3),
        "max" => packed!(ty, two binary, 4),
        "fma" if m.take("relu") => packed!(ty, three ternary, true),
        "fma" => packed!(ty, three ternary, false),
        "ex2" if m.take("approx") => {
            if matches!(ty, Ty::BF16 | Ty::BF16x2) && !m.take("ftz") {
                return Err("without `.ftz`".into());
            }
            packed!(ty, one unary, 0)
        }
        "tanh" if m.take("approx") => packed!(ty, one unary, 1),
        "abs" if two_values => one!(|a| a & 0x7fff_7fff),
        "abs" => one!(|a| a & 0x7fff),
        "neg" if two_values => one!(|a| (a ^ 0x8000_8000) & 0xffff_ffff),
        "neg" => one!(|a| (a ^ 0x8000) & 0xffff),
        _ => return Err(format!("type {ty:?}")),
    })
}
