//! Tests that a device has to pass: each operation is compared with [`Reference`] on the same inputs.
//!
//! If you write a device, call [`run_all`], or one body per test. Inputs come from a counter-based generator and are rounded to the device's own types before either side sees
//! them, which leaves only the arithmetic to differ. Memory that an operation overwrites holds NaN before the call. A body returns the largest relative error ‖Δ‖/‖reference‖
//! over its cases and outputs, or the first case that exceeds [`tolerance`]. Speed, and whether results depend on the number of threads, are tested elsewhere.

pub(crate) mod case;
pub mod large;
mod memory;

pub use crate::ops::BODIES;
pub use crate::ops::conform::*;
pub use memory::{refusals, write_read};

use std::panic::{AssertUnwindSafe, catch_unwind};

#[cfg(doc)]
use crate::reference::Reference;
use crate::{DType, Device, Error};

/// Why a device does not conform.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Mismatch {
    /// The device, or the reference, refused the call.
    #[error("{op}, {case}: {source}")]
    Refused {
        /// The operation.
        op: &'static str,
        /// The case, with its sizes.
        case: String,
        /// What it said.
        source: Box<Error>,
    },
    /// An output is further from the reference's than allowed.
    #[error(
        "{op}, {case}: output {output} is off by {error:e} (‖Δ‖/‖reference‖), allowed {tolerance:e}{first}"
    )]
    Differs {
        /// The operation.
        op: &'static str,
        /// The case, with its sizes.
        case: String,
        /// Which output, counted from 0 in the order of the method's arguments.
        output: usize,
        /// The relative error; infinite where a value is not a number.
        error: f64,
        /// What is allowed.
        tolerance: f64,
        /// The element furthest off, in words.
        first: String,
    },
    /// Something else than a number is wrong.
    #[error("{op}, {case}: {what}")]
    Wrong {
        /// The operation.
        op: &'static str,
        /// The case.
        case: String,
        /// What is wrong.
        what: String,
    },
    /// Nothing is known: the device has not what a body asks for. See [`large`].
    #[error("{op}, {case}: not run: {why}")]
    NotRun {
        /// The operation.
        op: &'static str,
        /// The case, with its sizes.
        case: String,
        /// What is missing.
        why: String,
    },
    /// The body panicked: the device, or the body itself, is at fault.
    #[error("{body} panicked: {what}")]
    Panicked {
        /// The body's name.
        body: &'static str,
        /// The panic's message.
        what: String,
    },
}

/// The largest relative error of an operation that conforms.
pub type Outcome = Result<f64, Mismatch>;

/// One operation's body.
pub type Body = fn(&dyn Device) -> Outcome;

/// Runs every body, whatever fails.
pub fn run_all(dev: &dyn Device) -> Vec<(&'static str, Outcome)> {
    BODIES.iter().map(|&(name, body)| (name, attempt(dev, name, body))).collect()
}

/// Runs one body; a panic in it is a [`Mismatch`], so that it does not cost the others.
///
/// # Errors
/// The first case that does not conform.
pub fn attempt(dev: &dyn Device, name: &'static str, body: Body) -> Outcome {
    catch_unwind(AssertUnwindSafe(|| body(dev))).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().map(String::as_str);
        let what = text.or_else(|| panic.downcast_ref::<&str>().copied());
        let what = what.unwrap_or("without a message").to_owned();
        Err(Mismatch::Panicked { body: name, what })
    })
}

/// The relative error allowed to outputs of a type, on a device that computes in `compute`.
pub fn tolerance(compute: DType, output: DType) -> f64 {
    let of = |dtype| -> f64 {
        match dtype {
            DType::F64 => 1e-12,
            DType::F32 => 2e-5,
            DType::BF16 => 1e-2,
            DType::I32 => 0.0,
        }
    };
    if output == DType::I32 { 0.0 } else { of(compute).max(of(output)) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reference::Reference;

    #[test]
    fn a_panic_costs_its_own_body_only() {
        let dev = Reference::new();
        let what =
            |body: Body| attempt(&dev, "made", body).map_err(|mismatch| mismatch.to_string());
        assert_eq!(what(|_| panic!("at {}", 3)), Err("made panicked: at 3".into()));
        assert_eq!(what(|_| panic!("here")), Err("made panicked: here".into()));
        let nothing = what(|_| std::panic::panic_any(7));
        assert_eq!(nothing, Err("made panicked: without a message".into()));
        assert_eq!(what(|_| Ok(0.5)), Ok(0.5));
    }
}
