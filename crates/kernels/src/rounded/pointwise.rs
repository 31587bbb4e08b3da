//! Norms, mixes, smear and activations on bf16 operands; factors, statistics and gates are not rounded.

use super::Rounded;
use crate::{Coef, Expr, Mut, Pointwise, Ref, Result, shapes};

impl Pointwise for Rounded {
    fn rms_norm(&self, y: Mut<'_>, rstd: Mut<'_>, x: Ref<'_>) -> Result<()> {
        shapes::rms_norm(&self.dtypes, &y, &rstd, &x)?;
        self.through([y], [x], |[y], [x]| self.device.rms_norm(y, rstd, x))
    }

    fn rms_norm_backward(
        &self,
        dx: Mut<'_>,
        dy: Ref<'_>,
        y: Ref<'_>,
        rstd: Ref<'_>,
        accumulate: bool,
    ) -> Result<()> {
        shapes::rms_norm_backward(&self.dtypes, &dx, &dy, &y, &rstd)?;
        self.through([dx], [dy, y], |[dx], [dy, y]| {
            self.device.rms_norm_backward(dx, dy, y, rstd, accumulate)
        })
    }

    fn mix(&self, out: Mut<'_>, x: Ref<'_>, a: Coef<'_>, y: Ref<'_>, b: Coef<'_>) -> Result<()> {
        shapes::mix(&self.dtypes, &out, &x, &a, &y, &b)?;
        self.through([out], [x, y], |[out], [x, y]| self.device.mix(out, x, a, y, b))
    }

    fn mix_norm(
        &self,
        out: Mut<'_>,
        normed: Mut<'_>,
        rstd: Mut<'_>,
        x: Ref<'_>,
        a: Coef<'_>,
        y: Ref<'_>,
        b: Coef<'_>,
    ) -> Result<()> {
        shapes::mix_norm(&self.dtypes, &out, &normed, &rstd, &x, &a, &y, &b)?;
        self.through([out, normed], [x, y], |[out, normed], [x, y]| {
            self.device.mix_norm(out, normed, rstd, x, a, y, b)
        })
    }

    fn mix_backward(
        &self,
        dx: Mut<'_>,
        dy: Mut<'_>,
        da: Option<Mut<'_>>,
        db: Option<Mut<'_>>,
        x: Ref<'_>,
        a: Coef<'_>,
        y: Ref<'_>,
        b: Coef<'_>,
    ) -> Result<()> {
        shapes::mix_backward(&self.dtypes, &dx, &dy, da.as_ref(), db.as_ref(), &x, &a, &y, &b)?;
        self.through([dx, dy], [x, y], |[dx, dy], [x, y]| {
            self.device.mix_backward(dx, dy, da, db, x, a, y, b)
        })
    }

    fn smear(
        &self,
        out: Mut<'_>,
        gate: Mut<'_>,
        x: Ref<'_>,
        prev: Option<Ref<'_>>,
        w: Ref<'_>,
        lambda: Ref<'_>,
    ) -> Result<()> {
        shapes::smear(&self.dtypes, &out, &gate, &x, prev.as_ref(), &w, &lambda)?;
        match prev {
            None => self.through([out], [x, w], |[out], [x, w]| {
                self.device.smear(out, gate, x, None, w, lambda)
            }),
            Some(prev) => self.through([out], [x, prev, w], |[out], [x, prev, w]| {
                self.device.smear(out, gate, x, Some(prev), w, lambda)
            }),
        }
    }

    fn smear_backward(
        &self,
        dx: Mut<'_>,
        dw: Mut<'_>,
        dlambda: Mut<'_>,
        dout: Ref<'_>,
        x: Ref<'_>,
        gate: Ref<'_>,
        w: Ref<'_>,
        lambda: Ref<'_>,
    ) -> Result<()> {
        shapes::smear_backward(&self.dtypes, &dx, &dw, &dlambda, &dout, &x, &gate, &w, &lambda)?;
        self.through([dx], [dout, x, w], |[dx], [dout, x, w]| {
            self.device.smear_backward(dx, dw, dlambda, dout, x, gate, w, lambda)
        })
    }

    fn relu2(&self, y: Mut<'_>, x: Ref<'_>) -> Result<()> {
        shapes::relu2(&self.dtypes, &y, &x)?;
        self.through([y], [x], |[y], [x]| self.device.relu2(y, x))
    }

    fn relu2_backward(&self, dx: Mut<'_>, x: Ref<'_>) -> Result<()> {
        shapes::relu2_backward(&self.dtypes, &dx, &x)?;
        self.through([dx], [x], |[dx], [x]| self.device.relu2_backward(dx, x))
    }

    fn swiglu(&self, y: Mut<'_>, gate: Ref<'_>, x: Ref<'_>) -> Result<()> {
        shapes::swiglu(&self.dtypes, &y, &gate, &x)?;
        self.through([y], [gate, x], |[y], [gate, x]| self.device.swiglu(y, gate, x))
    }

    fn swiglu_backward(
        &self,
        dx: Mut<'_>,
        dgate: Mut<'_>,
        gate: Ref<'_>,
        x: Ref<'_>,
    ) -> Result<()> {
        shapes::swiglu_backward(&self.dtypes, &dx, &dgate, &gate, &x)?;
        self.through([dx, dgate], [gate, x], |[dx, dgate], [gate, x]| {
            self.device.swiglu_backward(dx, dgate, gate, x)
        })
    }

    /// The wrapped device's, which rounds where it stores to bf16 tensors.
    fn map(
        &self,
        exprs: &[Expr],
        out: &mut [Mut<'_>],
        ins: &[Ref<'_>],
        scalars: &[f64],
    ) -> Result<()> {
        self.device.map(exprs, out, ins, scalars)
    }
}
