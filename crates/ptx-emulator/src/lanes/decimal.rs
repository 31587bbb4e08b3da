//! f32 and f64 arithmetic. A NaN result of f32 is the canonical one, 0x7fffffff. The `.approx` functions are computed
//! in f64 and rounded once, which is more exact than the hardware's tables.

use super::{Lanes, Modifiers, Refused, Row, flags, one, three, two};
use crate::float::{F32, Rounding, fma_to_odd, sum_to_odd};
use crate::syntax::Ty;

/// The f32 in a register, subnormals as zero under `.ftz`.
#[inline(always)]
pub(super) fn flush<const FTZ: bool>(a: u64) -> f32 {
    let bits = a as u32;
    if FTZ && bits & 0x7f80_0000 == 0 {
        f32::from_bits(bits & 0x8000_0000)
    } else {
        f32::from_bits(bits)
    }
}

#[inline(always)]
fn result<const FTZ: bool, const SAT: bool>(x: f32) -> u64 {
    // A NaN fails the comparison and gives +0, as `.sat` asks; so does -0.
    let x = if !SAT {
        x
    } else if x > 0.0 {
        x.min(1.0)
    } else {
        0.0
    };
    let bits = if x.is_nan() { 0x7fff_ffff } else { x.to_bits() };
    (if FTZ && bits & 0x7f80_0000 == 0 { bits & 0x8000_0000 } else { bits }) as u64
}

fn add<const FTZ: bool, const SAT: bool>(a: u64, b: u64) -> u64 {
    result::<FTZ, SAT>(flush::<FTZ>(a) + flush::<FTZ>(b))
}
fn sub<const FTZ: bool, const SAT: bool>(a: u64, b: u64) -> u64 {
    result::<FTZ, SAT>(flush::<FTZ>(a) - flush::<FTZ>(b))
}
fn mul<const FTZ: bool, const SAT: bool>(a: u64, b: u64) -> u64 {
    result::<FTZ, SAT>(flush::<FTZ>(a) * flush::<FTZ>(b))
}
fn div<const FTZ: bool, const SAT: bool>(a: u64, b: u64) -> u64 {
    result::<FTZ, SAT>(flush::<FTZ>(a) / flush::<FTZ>(b))
}
/// Through f64 rounded to odd rather than `f32::mul_add`, which is a library call where the target has no FMA.
fn fma<const FTZ: bool, const SAT: bool>(a: u64, b: u64, c: u64) -> u64 {
    let (a, b, c) = (flush::<FTZ>(a) as f64, flush::<FTZ>(b) as f64, flush::<FTZ>(c) as f64);
    result::<FTZ, SAT>(fma_to_odd(a, b, c) as f32)
}

/// A directed rounding of an exact (or odd-rounded) f64.
fn directed(x: f64, mode: u8, ftz: bool, sat: bool) -> u64 {
    let rounding = match mode {
        0 => Rounding::Zero,
        1 => Rounding::Down,
        _ => Rounding::Up,
    };
    let value = f32::from_bits(F32.encode(x, rounding, false) as u32);
    match (ftz, sat) {
        (false, false) => result::<false, false>(value),
        (false, true) => result::<false, true>(value),
        (true, false) => result::<true, false>(value),
        (true, true) => result::<true, true>(value),
    }
}

/// The exact sum's sign when it is zero depends on the mode: -0 when rounding down.
fn directed_sum(s: f64, a: f64, b: f64, mode: u8, ftz: bool, sat: bool) -> u64 {
    let s = if s == 0.0 && mode == 1 && (a != 0.0 || a.is_sign_negative() != b.is_sign_negative()) {
        -0.0
    } else {
        s
    };
    directed(s, mode, ftz, sat)
}

fn add_directed<const FTZ: bool, const SAT: bool, const MODE: u8>(a: u64, b: u64) -> u64 {
    let (a, b) = (flush::<FTZ>(a) as f64, flush::<FTZ>(b) as f64);
    directed_sum(sum_to_odd(a, b), a, b, MODE, FTZ, SAT)
}
fn sub_directed<const FTZ: bool, const SAT: bool, const MODE: u8>(a: u64, b: u64) -> u64 {
    add_directed::<FTZ, SAT, MODE>(a, b ^ 0x8000_0000)
}
fn mul_directed<const FTZ: bool, const SAT: bool, const MODE: u8>(a: u64, b: u64) -> u64 {
    directed(flush::<FTZ>(a) as f64 * flush::<FTZ>(b) as f64, MODE, FTZ, SAT)
}
fn fma_directed<const FTZ: bool, const SAT: bool, const MODE: u8>(a: u64, b: u64, c: u64) -> u64 {
    let (a, b, c) = (flush::<FTZ>(a) as f64, flush::<FTZ>(b) as f64, flush::<FTZ>(c) as f64);
    directed_sum(fma_to_odd(a, b, c), a * b, c, MODE, FTZ, SAT)
}
/// q rounded to odd: the remainder's sign tells which side of q the exact quotient lies on.
fn quotient_to_odd(a: f64, b: f64) -> f64 {
    let q = a / b;
    if !q.is_finite() || q == 0.0 || b.is_infinite() {
        return q;
    }
    let remainder = (-q).mul_add(b, a);
    nudge_to_odd(q, if b < 0.0 { -remainder } else { remainder })
}
fn root_to_odd(a: f64) -> f64 {
    let r = a.sqrt();
    if !r.is_finite() || r == 0.0 {
        return r;
    }
    nudge_to_odd(r, (-r).mul_add(r, a))
}
fn nudge_to_odd(x: f64, error: f64) -> f64 {
    if error == 0.0 || x.to_bits() & 1 == 1 {
        return x;
    }
    let outward = (error > 0.0) == (x > 0.0);
    f64::from_bits(if outward { x.to_bits() + 1 } else { x.to_bits() - 1 })
}
fn div_directed<const FTZ: bool, const SAT: bool, const MODE: u8>(a: u64, b: u64) -> u64 {
    let q = quotient_to_odd(flush::<FTZ>(a) as f64, flush::<FTZ>(b) as f64);
    directed(q, MODE, FTZ, SAT)
}
fn rcp_directed<const FTZ: bool, const SAT: bool, const MODE: u8>(a: u64) -> u64 {
    directed(quotient_to_odd(1.0, flush::<FTZ>(a) as f64), MODE, FTZ, SAT)
}
fn sqrt_directed<const FTZ: bool, const SAT: bool, const MODE: u8>(a: u64) -> u64 {
    directed(root_to_odd(flush::<FTZ>(a) as f64), MODE, FTZ, SAT)
}

fn rcp<const FTZ: bool, const SAT: bool>(a: u64) -> u64 {
    result::<FTZ, SAT>(1.0 / flush::<FTZ>(a))
}
fn sqrt<const FTZ: bool, const SAT: bool>(a: u64) -> u64 {
    result::<FTZ, SAT>(flush::<FTZ>(a).sqrt())
}
fn rsqrt<const FTZ: bool, const SAT: bool>(a: u64) -> u64 {
    let a = flush::<FTZ>(a) as f64;
    // A quotient of ±1 by the root of -0 is -∞.
    result::<FTZ, SAT>((1.0 / a.sqrt()) as f32)
}
fn sin<const FTZ: bool, const SAT: bool>(a: u64) -> u64 {
    result::<FTZ, SAT>((flush::<FTZ>(a) as f64).sin() as f32)
}
fn cos<const FTZ: bool, const SAT: bool>(a: u64) -> u64 {
    result::<FTZ, SAT>((flush::<FTZ>(a) as f64).cos() as f32)
}
fn lg2<const FTZ: bool, const SAT: bool>(a: u64) -> u64 {
    result::<FTZ, SAT>((flush::<FTZ>(a) as f64).log2() as f32)
}
fn ex2<const FTZ: bool, const SAT: bool>(a: u64) -> u64 {
    result::<FTZ, SAT>((flush::<FTZ>(a) as f64).exp2() as f32)
}
fn tanh<const FTZ: bool, const SAT: bool>(a: u64) -> u64 {
    result::<FTZ, SAT>((flush::<FTZ>(a) as f64).tanh() as f32)
}
fn abs<const FTZ: bool, const SAT: bool>(a: u64) -> u64 {
    (flush::<FTZ>(a).to_bits() & 0x7fff_ffff) as u64
}
fn neg<const FTZ: bool, const SAT: bool>(a: u64) -> u64 {
    (flush::<FTZ>(a).to_bits() ^ 0x8000_0000) as u64
}

/// The number if one is a NaN (unless `NAN`), and -0 below +0.
fn least<const FTZ: bool, const NAN: bool>(a: u64, b: u64) -> u64 {
    pick::<FTZ, NAN>(a, b, |x, y| x < y || x == y && x.is_sign_negative())
}
fn most<const FTZ: bool, const NAN: bool>(a: u64, b: u64) -> u64 {
    pick::<FTZ, NAN>(a, b, |x, y| x > y || x == y && x.is_sign_positive())
}
#[inline(always)]
fn pick<const FTZ: bool, const NAN: bool>(a: u64, b: u64, first: fn(f32, f32) -> bool) -> u64 {
    let (x, y) = (flush::<FTZ>(a), flush::<FTZ>(b));
    let value = if x.is_nan() || y.is_nan() {
        if NAN || x.is_nan() && y.is_nan() {
            f32::NAN
        } else if x.is_nan() {
            y
        } else {
            x
        }
    } else if first(x, y) {
        x
    } else {
        y
    };
    result::<FTZ, false>(value)
}

macro_rules! rounded {
    ($r:expr, $ftz:expr, $sat:expr, $arity:ident $plain:ident $other:ident) => {
        match $r {
            Rounding::Nearest | Rounding::NearestAway => flags!($ftz, $sat => $arity $plain),
            Rounding::Zero => flags!($ftz, $sat => $arity $other, 0),
            Rounding::Down => flags!($ftz, $sat => $arity $other, 1),
            Rounding::Up => flags!($ftz, $sat => $arity $other, 2),
        }
    };
}

pub(super) fn form(name: &str, ty: Ty, m: &mut Modifiers<'_>) -> Result<Lanes, Refused> {
    let rounding = m.rounding();
    if rounding == Some(Rounding::NearestAway) {
        return Err("`.rna` of this instruction".into());
    }
    if ty == Ty::F64 {
        return double(name, rounding, m);
    }
    let (ftz, sat) = (m.take("ftz"), m.take("sat"));
    let r = rounding.unwrap_or(Rounding::Nearest);
    let approximate = rounding.is_none() && (m.take("approx") || name == "div" && m.take("full"));
    Ok(match name {
        "add" => rounded!(r, ftz, sat, two add add_directed),
        "sub" => rounded!(r, ftz, sat, two sub sub_directed),
        "mul" => rounded!(r, ftz, sat, two mul mul_directed),
        "fma" | "mad" => rounded!(r, ftz, sat, three fma fma_directed),
        "div" => rounded!(r, ftz, false, two div div_directed),
        "rcp" => rounded!(r, ftz, false, one rcp rcp_directed),
        "sqrt" => rounded!(r, ftz, false, one sqrt sqrt_directed),
        "rsqrt" | "sin" | "cos" | "lg2" | "ex2" | "tanh" if !approximate => {
            return Err("without `.approx`".into());
        }
        "rsqrt" => flags!(ftz, false => one rsqrt),
        "sin" => flags!(ftz, false => one sin),
        "cos" => flags!(ftz, false => one cos),
        "lg2" => flags!(ftz, false => one lg2),
        "ex2" => flags!(ftz, false => one ex2),
        "tanh" => flags!(ftz, false => one tanh),
        "abs" => flags!(ftz, false => one abs),
        "neg" => flags!(ftz, false => one neg),
        "min" => flags!(ftz, m.take("NaN") => two least),
        "max" => flags!(ftz, m.take("NaN") => two most),
        "copysign" => two!(|a, b| (a & 0x8000_0000) | (b & 0x7fff_ffff)),
        _ => return Err("this form".into()),
    })
}

fn double(name: &str, rounding: Option<Rounding>, m: &mut Modifiers<'_>) -> Result<Lanes, Refused> {
    if rounding.is_some_and(|r| r != Rounding::Nearest) {
        return Err("a directed rounding of f64".into());
    }
    macro_rules! d {
        (|$a:ident| $e:expr) => {
            one!(|$a| {
                let $a = f64::from_bits($a);
                ($e).to_bits()
            })
        };
        (|$a:ident, $b:ident| $e:expr) => {
            two!(|$a, $b| {
                let ($a, $b) = (f64::from_bits($a), f64::from_bits($b));
                ($e).to_bits()
            })
        };
    }
    Ok(match name {
        "add" => d!(|a, b| a + b),
        "sub" => d!(|a, b| a - b),
        "mul" => d!(|a, b| a * b),
        "div" => d!(|a, b| a / b),
        "fma" | "mad" => three!(|a, b, c| {
            f64::from_bits(a).mul_add(f64::from_bits(b), f64::from_bits(c)).to_bits()
        }),
        "sqrt" => d!(|a| a.sqrt()),
        "rcp" if rounding.is_some() => d!(|a| 1.0 / a),
        // The approximations drop the lower word and flush subnormals; these are exact instead.
        "rcp" if m.take("approx") && m.take("ftz") => d!(|a| 1.0 / a),
        "rsqrt" if m.take("approx") => {
            m.take("ftz");
            d!(|a| 1.0 / a.sqrt())
        }
        "abs" => one!(|a| a & !(1 << 63)),
        "neg" => one!(|a| a ^ 1 << 63),
        "min" => {
            fn go(d: &mut Row, a: &Row, b: &Row) {
                (0..32).for_each(|i| {
                    d[i] = double_pick(a[i], b[i], |x, y| x < y || x == y && x.is_sign_negative());
                });
            }
            Lanes::Two(go)
        }
        "max" => {
            fn go(d: &mut Row, a: &Row, b: &Row) {
                (0..32).for_each(|i| {
                    d[i] = double_pick(a[i], b[i], |x, y| x > y || x == y && x.is_sign_positive());
                });
            }
            Lanes::Two(go)
        }
        "copysign" => two!(|a, b| (a & 1 << 63) | (b & !(1 << 63))),
        _ => return Err("this form of f64".into()),
    })
}

fn double_pick(a: u64, b: u64, first: fn(f64, f64) -> bool) -> u64 {
    let (x, y) = (f64::from_bits(a), f64::from_bits(b));
    if x.is_nan() || !y.is_nan() && !first(x, y) { b } else { a }
}
