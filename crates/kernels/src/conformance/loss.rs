//! [`Loss`](crate::Loss) against the reference.

use super::Outcome;
use super::case::{Check, Operand};
use crate::{Device, Mut, Ref, Result};

/// Rows, columns, vocabulary.
const LOGITS: [(usize, usize, usize); 5] =
    [(1, 1, 1), (1, 64, 50), (7, 33, 33), (65, 320, 300), (130, 1024, 1000)];

/// [`Loss::cross_entropy`](crate::Loss::cross_entropy): losses, gradients and capped logits; targets repeat and some are
/// −1; padding columns hold NaN.
///
/// # Errors
/// The first case that does not conform.
pub fn cross_entropy(dev: &dyn Device) -> Outcome {
    let mut check = Check::new(dev, "cross_entropy");
    for (n, v, vocab) in LOGITS {
        for (softcap, spread) in [(15.0, 4.0), (15.0, 25.0), (3.0, 1.0)] {
            for grad in [None, Some(1.0 / n as f64)] {
                check.case(format!(
                    "N {n}, V {v}, vocab {vocab}, softcap {softcap}, logits ± {spread}, grad {grad:?}"
                ));
                // A loss or gradient may be what is left of a cancellation where a row is sure of its target.
                check.floor = if vocab == 1 { 1.0 } else { 0.0 };
                let pad = |i, x| if i % v < vocab { spread * x } else { f64::NAN };
                let logits = check.normal([n, v]).edit(pad);
                let ignore = |i, target| if i % 3 == 1 { -1.0 } else { target };
                let targets = check.integers([n], 0, vocab as i32).edit(ignore);
                let losses = Operand::poison([n]).master();
                check.run([&losses, &logits], [&targets], |d, [losses, logits], [targets]| {
                    d.cross_entropy(losses, logits, targets, vocab, softcap, grad)
                })?;
            }
        }
    }
    Ok(check.worst)
}

/// [`Loss::argmax`](crate::Loss::argmax), with ties and larger values in padding columns.
///
/// # Errors
/// The first case that does not conform.
pub fn argmax(dev: &dyn Device) -> Outcome {
    let mut check = Check::new(dev, "argmax");
    for (n, v, vocab) in LOGITS {
        check.case(format!("N {n}, V {v}, vocab {vocab}"));
        let pad = |i, x: f64| if i % v < vocab { x.round() - 5.0 } else { 100.0 };
        let logits = check.normal([n, v]).edit(pad);
        let out = Operand::index([n], vec![-7; n]);
        check.run([&out], [&logits], |d, [out], [logits]| d.argmax(out, logits, vocab))?;
    }
    Ok(check.worst)
}

/// [`Loss::sum`](crate::Loss::sum).
///
/// # Errors
/// The first case that does not conform.
pub fn sum(dev: &dyn Device) -> Outcome {
    reduction(dev, "sum", |d, out, x| d.sum(out, x))
}

/// [`Loss::sum_squares`](crate::Loss::sum_squares).
///
/// # Errors
/// The first case that does not conform.
pub fn sum_squares(dev: &dyn Device) -> Outcome {
    reduction(dev, "sum_squares", |d, out, x| d.sum_squares(out, x))
}

fn reduction(
    dev: &dyn Device,
    op: &'static str,
    call: impl Fn(&dyn Device, Mut<'_>, Ref<'_>) -> Result<()>,
) -> Outcome {
    let mut check = Check::new(dev, op);
    for (rows, cols) in [(1, 1), (7, 1), (33, 31), (100, 1000), (3, 100_003)] {
        check.case(format!("{rows} × {cols}"));
        // Away from zero, so that the sum is not a cancellation; and one large value, which a narrow sum would drown in.
        let x = check.normal([rows, cols]).edit(|i, x| if i == 0 { 1e4 } else { 0.5 + x });
        let (x, out) = (x.master(), Operand::poison([1]).master());
        check.run([&out], [&x], |d, [out], [x]| call(d, out, x))?;
    }
    Ok(check.worst)
}
