//! Linear layers: y = x · wᵀ, weights being (out, in), and both gradients.

use crate::conformance::case::Check;
use crate::conformance::{Mismatch, Outcome};
use crate::reference::{DTYPES, add_scaled, dot};
use crate::{Device, Result};

dims! {
    /// A matrix product's dimensions.
    LinearDims {
        /// Rows.
        n: b'N',
        /// Channels in.
        i: b'I',
        /// Channels out.
        o: b'O',
    }
}

operation! {
    /// y = x · wᵀ, or y += x · wᵀ when `accumulate`.
    ///
    /// # Shapes
    /// y (N, O), x (N, I), w (O, I).
    /// # Cost
    /// 2·N·O·I FLOPs.
    Linear = fn linear(
        y: write Compute "(N, O)",
        x: read Compute "(N, I)",
        w: read Compute "(O, I)",
    ) with (
        /// Whether y is added to.
        accumulate: bool,
    ) -> LinearDims, first [w, x], adds accumulate, flops |_, d: LinearDims| 2 * d.n * d.o * d.i
}

operation! {
    /// dx = dy · w, or dx += dy · w when `accumulate`: the gradient of [`Linear`] by x.
    ///
    /// # Shapes
    /// dx (N, I), dy (N, O), w (O, I).
    /// # Cost
    /// 2·N·O·I FLOPs.
    LinearDx = fn linear_dx(
        dx: write Compute "(N, I)",
        dy: read Compute "(N, O)",
        w: read Compute "(O, I)",
    ) with (
        /// Whether dx is added to.
        accumulate: bool,
    ) -> LinearDims, first [w, dy], adds accumulate, flops |_, d: LinearDims| 2 * d.n * d.o * d.i
}

operation! {
    /// dw = dyᵀ · x, or dw += dyᵀ · x when `accumulate`: the gradient of [`Linear`] by w.
    ///
    /// # Shapes
    /// dw (O, I) master dtype, x (N, I), dy (N, O).
    /// # Cost
    /// 2·N·O·I FLOPs.
    LinearDw = fn linear_dw(
        dw: write Master "(O, I)",
        x: read Compute "(N, I)",
        dy: read Compute "(N, O)",
    ) with (
        /// Whether dw is added to.
        accumulate: bool,
    ) -> LinearDims, first [dw, x], adds accumulate, flops |_, d: LinearDims| 2 * d.n * d.o * d.i
}

impl Linear<'_> {
    /// The definition.
    pub(super) fn reference(self) -> Result<()> {
        let LinearDims { n, i, o } = self.check(&DTYPES)?;
        let Self { y, x, w, accumulate } = self;
        let (y, x, w) = (y.slice::<f64>()?, x.slice::<f64>()?, w.slice::<f64>()?);
        for n in 0..n {
            for o_ in 0..o {
                let product = dot(&x[n * i..(n + 1) * i], &w[o_ * i..(o_ + 1) * i]);
                let y = &mut y[n * o + o_];
                *y = if accumulate { *y + product } else { product };
            }
        }
        Ok(())
    }
}

impl LinearDx<'_> {
    /// The definition.
    pub(super) fn reference(self) -> Result<()> {
        let LinearDims { n, i, o } = self.check(&DTYPES)?;
        let Self { dx, dy, w, accumulate } = self;
        let (dx, dy, w) = (dx.slice::<f64>()?, dy.slice::<f64>()?, w.slice::<f64>()?);
        if !accumulate {
            dx.fill(0.0);
        }
        for n in 0..n {
            for o_ in 0..o {
                add_scaled(&mut dx[n * i..(n + 1) * i], dy[n * o + o_], &w[o_ * i..(o_ + 1) * i]);
            }
        }
        Ok(())
    }
}

impl LinearDw<'_> {
    /// The definition.
    pub(super) fn reference(self) -> Result<()> {
        let LinearDims { n, i, o } = self.check(&DTYPES)?;
        let Self { dw, x, dy, accumulate } = self;
        let (dw, x, dy) = (dw.slice::<f64>()?, x.slice::<f64>()?, dy.slice::<f64>()?);
        if !accumulate {
            dw.fill(0.0);
        }
        for n in 0..n {
            for o_ in 0..o {
                add_scaled(&mut dw[o_ * i..(o_ + 1) * i], dy[n * o + o_], &x[n * i..(n + 1) * i]);
            }
        }
        Ok(())
    }
}

/// Rows, channels in, channels out: single rows and columns, and sizes on no block's edge.
pub(super) const PRODUCTS: [(usize, usize, usize); 7] = [
    (1, 48, 20),
    (2, 1, 1),
    (3, 17, 33),
    (33, 256, 65),
    (70, 100, 129),
    (130, 64, 31),
    (257, 96, 96),
];

fn products(
    dev: &dyn Device,
    op: &'static str,
    body: impl Fn(&mut Check<'_>, (usize, usize, usize), bool) -> Result<(), Mismatch>,
) -> Outcome {
    let mut check = Check::new(dev, op);
    for (n, i, o) in PRODUCTS {
        for accumulate in [false, true] {
            check.case(format!("N {n}, I {i}, O {o}, accumulate {accumulate}"));
            body(&mut check, (n, i, o), accumulate)?;
        }
    }
    Ok(check.worst)
}

/// [`Linear`], also over (B, T, C).
pub fn linear(dev: &dyn Device) -> Outcome {
    products(dev, "linear", |check, (n, i, o), accumulate| {
        let (x, w) = (check.normal([n, i]), check.normal([o, i]));
        let y = check.out([n, o], accumulate);
        check.run([&y], [&x, &w], |d, [y], [x, w]| d.linear(y, x, w, accumulate))?;
        let (x, y) = (check.normal([2, n, i]), check.out([2, n, o], accumulate));
        check.run([&y], [&x, &w], |d, [y], [x, w]| d.linear(y, x, w, accumulate))
    })
}

/// [`LinearDx`].
pub fn linear_dx(dev: &dyn Device) -> Outcome {
    products(dev, "linear_dx", |check, (n, i, o), accumulate| {
        let (dy, w) = (check.normal([n, o]), check.normal([o, i]));
        let dx = check.out([n, i], accumulate);
        check.run([&dx], [&dy, &w], |d, [dx], [dy, w]| d.linear_dx(dx, dy, w, accumulate))
    })
}

/// [`LinearDw`].
pub fn linear_dw(dev: &dyn Device) -> Outcome {
    products(dev, "linear_dw", |check, (n, i, o), accumulate| {
        let (x, dy) = (check.normal([n, i]), check.normal([n, o]));
        let dw = check.out([o, i], accumulate).master();
        check.run([&dw], [&x, &dy], |d, [dw], [x, dy]| d.linear_dw(dw, x, dy, accumulate))
    })
}
