//! Runs the same call many times on the same operands and expects the same bits every time.
//!
//! The result of a race may stay within every tolerance, but it rarely comes out the same for long.

use super::super::case::Check;
use super::super::{Mismatch, Outcome};
use super::attention::Operands;
use super::{Scale, asked, bytes, drawn, indices, poisoned};
use crate::{Coef, Device, Mut, Result, Tensor};

pub(super) struct Sizes {
    times: usize,
    /// Rows and channels of a stream, and gate channels.
    n: usize,
    c: usize,
    g: usize,
    /// Rows of logits at a time, and columns.
    rows: usize,
    vocab: usize,
}

pub(super) const REAL: Sizes =
    Sizes { times: 50, n: 4096, c: 1536, g: 12, rows: 512, vocab: 32_768 };
pub(super) const SMALL: Sizes = Sizes { times: 3, n: 70, c: 48, g: 12, rows: 5, vocab: 300 };

/// Holds what `call` leaves in `outs` each time against what it left first. Before each, `outs` hold what they do now.
fn repeat<const O: usize>(
    check: &Check<'_>,
    dev: &dyn Device,
    times: usize,
    mut outs: [Tensor; O],
    mut call: impl FnMut([Mut<'_>; O]) -> Result<()>,
) -> Result<(), Mismatch> {
    let before: Vec<Tensor> = asked(check, || {
        let copy = |out: &Tensor| {
            let mut copy = dev.alloc(out.dtype(), out.shape())?;
            dev.copy(copy.view_mut(), out.view())?;
            Ok(copy)
        };
        outs.iter().map(copy).collect()
    })?;
    let mut first: Option<Vec<Vec<u8>>> = None;
    for time in 0..times {
        let after = asked(check, || {
            for (out, before) in outs.iter_mut().zip(&before) {
                dev.copy(out.view_mut(), before.view())?;
            }
            call(outs.each_mut().map(Tensor::view_mut))?;
            outs.iter().map(|out| bytes(dev, out.view())).collect::<Result<Vec<_>>>()
        })?;
        match &first {
            None => first = Some(after),
            Some(first) => same(check, time, first, &after)?,
        }
    }
    Ok(())
}

/// Fails where an output differs from the first time's.
fn same(
    check: &Check<'_>,
    time: usize,
    first: &[Vec<u8>],
    after: &[Vec<u8>],
) -> Result<(), Mismatch> {
    for (output, (first, after)) in first.iter().zip(after).enumerate() {
        // As a whole: byte by byte takes longer than the device.
        if first == after {
            continue;
        }
        if let Some(byte) = first.iter().zip(after).position(|(a, b)| a != b) {
            let differ = first.iter().zip(after).filter(|(a, b)| a != b).count();
            return Err(check.wrong(format!(
                "repeat {time} left other bits than the first call: {differ} bytes of output {output}, first byte {byte}"
            )));
        }
    }
    Ok(())
}

/// [`Attention`](crate::ops::Attention) and its backward.
pub(super) fn attention(dev: &dyn Device, scale: &Scale) -> Outcome {
    let (sizes, times) = (&scale.attention, scale.repeated.times);
    let mut check = Check::new(dev, "attention, attention_backward");
    check.case("operands".into());
    let mut operands = asked(&check, || Operands::new(dev, sizes))?;
    for window in sizes.windows {
        check.case(format!("{}, {times} times", sizes.case(window)));
        let mut first: Option<Vec<Vec<u8>>> = None;
        for time in 0..times {
            let after = asked(&check, || {
                operands.forward(dev, sizes.at(window))?;
                operands.backward(dev, sizes.at(window))?;
                let Operands { out, lse, dq, dk, dv, .. } = &operands;
                [out, lse, dq, dk, dv].iter().map(|x| bytes(dev, x.view())).collect()
            })?;
            match &first {
                None => first = Some(after),
                Some(first) => same(&check, time, first, &after)?,
            }
        }
    }
    Ok(0.0)
}

/// What sums over rows or columns: norms, losses, and the gradients that many rows add to.
pub(super) fn reductions(dev: &dyn Device, scale: &Scale) -> Outcome {
    let &Sizes { times, n, c, g, rows, vocab } = &scale.repeated;
    let (compute, master) = (dev.compute_dtype(), dev.master_dtype());
    let mut check = Check::new(dev, "reductions");
    check.case("operands".into());
    let stream = |salt| drawn(dev, compute, [n, c], salt);
    let [x, y, dy] = asked(&check, || Ok([stream(1)?, stream(2)?, stream(3)?]))?;
    let (x, y, dy) = (x.view(), y.view(), dy.view());
    let number = |value: f64| {
        let mut number = dev.master([1])?;
        dev.fill(number.view_mut(), value)?;
        Ok(number)
    };
    let rstd = |shape: [usize; 1]| poisoned(dev, master, shape);

    check.case(format!("rms_norm, ({n}, {c}), {times} times"));
    let outs = asked(&check, || Ok([poisoned(dev, compute, [n, c])?, rstd([n])?]))?;
    repeat(&check, dev, times, outs, |[y, rstd]| dev.rms_norm(y, rstd, x))?;

    check.case(format!("rms_norm_backward, ({n}, {c}), {times} times"));
    let scales = asked(&check, || drawn(dev, master, [n], 4))?;
    let outs = asked(&check, || Ok([stream(5)?]))?;
    repeat(&check, dev, times, outs, |[dx]| dev.rms_norm_backward(dx, dy, y, scales.view(), true))?;

    check.case(format!("mix_backward, ({n}, {c}), {times} times"));
    let factor = asked(&check, || number(0.5))?;
    let outs = asked(&check, || Ok([stream(5)?, stream(6)?, number(1.0)?, number(2.0)?]))?;
    repeat(&check, dev, times, outs, |[dx, dy, da, db]| {
        let (a, b) = (Coef::new(factor.view(), 1.0), Coef::new(factor.view(), 2.0));
        dev.mix_backward(dx, dy, Some(da), Some(db), x, a, y, b)
    })?;

    check.case(format!("smear_backward, (1, {n}, {c}), {times} times"));
    let (w, gate) =
        asked(&check, || Ok((drawn(dev, compute, [1, g], 7)?, drawn(dev, master, [1, n], 8)?)))?;
    let outs = asked(&check, || {
        let dx = poisoned(dev, compute, [1, n, c])?;
        Ok([dx, drawn(dev, master, [1, g], 9)?, number(1.0)?])
    })?;
    repeat(&check, dev, times, outs, |[dx, dw, dlambda]| {
        let (dout, x) = (dy.reshape([1, n, c])?, x.reshape([1, n, c])?);
        dev.smear_backward(dx, dw, dlambda, dout, x, gate.view(), w.view(), factor.view())
    })?;

    // A key/value head for every g channels of a stream: dve, dw (K, G) and the first channels of dx.
    let (k, d) = (c / (4 * g), 4 * g);
    check.case(format!("value_gate_backward, ({n}, {k}, {d}), {times} times"));
    let heads = |salt| drawn(dev, compute, [n, k, d], salt);
    let (dv, ve, gates, w) = asked(&check, || {
        let gates = drawn(dev, master, [n, k], 12)?;
        Ok((heads(10)?, heads(11)?, gates, drawn(dev, compute, [k, g], 13)?))
    })?;
    let outs = asked(&check, || {
        Ok([poisoned(dev, compute, [n, k, d])?, drawn(dev, master, [k, g], 14)?, stream(5)?])
    })?;
    repeat(&check, dev, times, outs, |[dve, dw, dx]| {
        let [dv, ve, gates, w] = [&dv, &ve, &gates, &w].map(Tensor::view);
        dev.value_gate_backward(dve, dw, dx, dv, ve, gates, x, w, 3.0)
    })?;

    check.case(format!("embed_backward, ({n}, {c}), {times} times"));
    // Half of the rows are one token's, as the commonest one's are many.
    let ids: Vec<i32> = (0..n as i32).map(|n| if n % 2 == 0 { 3 } else { n % 61 }).collect();
    let mut order: Vec<i32> = (0..n as i32).collect();
    order.sort_by_key(|&n| (ids[n as usize], n));
    let (ids, order) = asked(&check, || Ok((indices(dev, &ids)?, indices(dev, &order)?)))?;
    let outs = asked(&check, || Ok([drawn(dev, master, [61, c], 15)?]))?;
    repeat(&check, dev, times, outs, |[dtable]| {
        dev.embed_backward(dtable, dy, ids.view(), order.view())
    })?;

    check.case(format!("cross_entropy, ({rows}, {vocab}), {times} times"));
    let targets: Vec<i32> = (0..rows as i32).map(|n| n * 31 % vocab as i32).collect();
    let targets = asked(&check, || indices(dev, &targets))?;
    let outs = asked(&check, || {
        Ok([poisoned(dev, master, [rows])?, drawn(dev, compute, [rows, vocab], 16)?])
    })?;
    repeat(&check, dev, times, outs, |[losses, logits]| {
        dev.cross_entropy(losses, logits, targets.view(), vocab, 15.0, Some(1.0))
    })?;

    let wide = asked(&check, || drawn(dev, master, [n, c], 17))?;
    for (name, squares) in [("sum", false), ("sum_squares", true)] {
        check.case(format!("{name}, ({n}, {c}), {times} times"));
        let outs = asked(&check, || Ok([poisoned(dev, master, [1])?]))?;
        repeat(&check, dev, times, outs, |[out]| {
            if squares { dev.sum_squares(out, wide.view()) } else { dev.sum(out, wide.view()) }
        })?;
    }
    Ok(0.0)
}
