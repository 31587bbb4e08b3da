//! Sums over whole tensors.

use crate::conformance::Outcome;
use crate::conformance::case::{Check, Operand};
use crate::reference::{DTYPES, dot};
use crate::{Device, Mut, Ref, Result};

operation! {
    /// out = Σ x, accumulated in f64 on host devices, by a fixed tree elsewhere.
    ///
    /// # Shapes
    /// out (1) master dtype, x any shape, master dtype.
    Sum = fn sum(out: write Master one, x: read Master any) -> usize, first [x]
}

operation! {
    /// out = Σ x², as [`Sum`].
    ///
    /// # Shapes
    /// out (1) master dtype, x any shape, master dtype.
    SumSquares = fn sum_squares(out: write Master one, x: read Master any) -> usize, first [x]
}

impl Sum<'_> {
    /// The definition.
    pub(super) fn reference(self) -> Result<()> {
        self.check(&DTYPES)?;
        let Self { out, x } = self;
        out.slice::<f64>()?[0] = x.slice::<f64>()?.iter().sum();
        Ok(())
    }
}

impl SumSquares<'_> {
    /// The definition.
    pub(super) fn reference(self) -> Result<()> {
        self.check(&DTYPES)?;
        let Self { out, x } = self;
        let x = x.slice::<f64>()?;
        out.slice::<f64>()?[0] = dot(x, x);
        Ok(())
    }
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

/// [`Sum`].
pub fn sum(dev: &dyn Device) -> Outcome {
    reduction(dev, "sum", |d, out, x| d.sum(out, x))
}

/// [`SumSquares`].
pub fn sum_squares(dev: &dyn Device) -> Outcome {
    reduction(dev, "sum_squares", |d, out, x| d.sum_squares(out, x))
}
