//! Polar Express on a bf16 device, from the wrapped device's products.

use super::{Rounded, room};
use crate::ops::{PolarExpress, StackDims};
use crate::{Expr, Mut, Result, Shape, Tensor};

impl Rounded {
    /// Elements for two Gram matrices and a matrix.
    pub(crate) fn polar_scratch(shape: Shape) -> usize {
        let [_, r, s] = *shape else { return 0 };
        let m = r.min(s);
        2 * room(Shape::from([m, m])) + r * s
    }

    /// From the wrapped device's matrix products, one matrix at a time, rounding what each of them stores.
    pub(super) fn polar_express(&self, op: PolarExpress<'_>) -> Result<()> {
        let StackDims { k, r, s } =
            op.check_with(&self.dtypes, Self::polar_scratch(op.x.shape()))?;
        let PolarExpress { mut x, scratch, safety, steps } = op;
        if r * s == 0 {
            return Ok(());
        }
        let m = r.min(s);
        let square = room(Shape::from([m, m]));
        let (gram, rest) = scratch.split_rows(square)?;
        let (product, rest) = rest.split_rows(square)?;
        let mut polar = Polar {
            dev: self,
            wide: r <= s,
            gram: gram.rows(0..m * m)?.reshape([m, m])?,
            product: product.rows(0..m * m)?.reshape([m, m])?,
            turned: rest.rows(0..r * s)?.reshape([r, s])?,
        };
        let mut number = self.device.alloc(self.dtypes.master, Shape::from([1]))?;
        for k in 0..k {
            polar.run(x.reborrow().at(k)?, &mut number, safety, steps)?;
        }
        Ok(())
    }
}

/// The scratch of one matrix's iteration.
struct Polar<'a> {
    dev: &'a Rounded,
    /// R ≤ S: products are taken from the left.
    wide: bool,
    /// A and B, (m, m) with m = min(R, S), and B times the matrix, (R, S).
    gram: Mut<'a>,
    product: Mut<'a>,
    turned: Mut<'a>,
}

impl Polar<'_> {
    /// Every step on one (R, S) matrix.
    fn run(
        &mut self,
        mut x: Mut<'_>,
        number: &mut Tensor,
        safety: f64,
        steps: &[[f64; 3]],
    ) -> Result<()> {
        let dev = self.dev;
        dev.round(x.reborrow())?;
        dev.device.sum_squares(number.view_mut(), x.view())?;
        let norm = dev.device.read_f64(number.view())?.iter().sum::<f64>().sqrt();
        let scaled = [Expr::old(0) * Expr::scalar(0)];
        let scale = 1.0 / (norm * safety + 1e-6);
        dev.device.map(&scaled, &mut [x.reborrow()], &[], &[scale])?;
        dev.round(x.reborrow())?;
        steps.iter().try_for_each(|step| self.step(x.reborrow(), step))
    }

    /// A = x·xᵀ, B = b·A + c·A·A, x = a·x + B·x; or the same from the right. Each product and each sum is rounded.
    fn step(&mut self, mut x: Mut<'_>, &[a, b, c]: &[f64; 3]) -> Result<()> {
        let (dev, inner) = (self.dev, &*self.dev.device);
        if self.wide {
            inner.linear(self.gram.reborrow(), x.view(), x.view(), false)?;
        } else {
            inner.linear_dw(self.gram.reborrow(), x.view(), x.view(), false)?;
        }
        dev.round(self.gram.reborrow())?;
        inner.linear_dx(self.product.reborrow(), self.gram.view(), self.gram.view(), false)?;
        dev.round(self.product.reborrow())?;
        let combined = [Expr::old(0) * Expr::scalar(1) + Expr::input(0) * Expr::scalar(0)];
        inner.map(&combined, &mut [self.product.reborrow()], &[self.gram.view()], &[b, c])?;
        dev.round(self.product.reborrow())?;
        let (left, right) = if self.wide {
            (self.product.view(), x.view())
        } else {
            (x.view(), self.product.view())
        };
        inner.linear_dx(self.turned.reborrow(), left, right, false)?;
        dev.round(self.turned.reborrow())?;
        let moved = [Expr::old(0) * Expr::scalar(0) + Expr::input(0)];
        inner.map(&moved, &mut [x.reborrow()], &[self.turned.view()], &[a])?;
        dev.round(x)
    }
}
