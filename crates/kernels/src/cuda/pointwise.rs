//! Operations that read and write each row or element about once.

use super::Cuda;
use crate::{Coef, Expr, Mut, Pointwise, Ref, Result, shapes};

impl Pointwise for Cuda {
    fn rms_norm(&self, y: Mut<'_>, rstd: Mut<'_>, x: Ref<'_>) -> Result<()> {
        shapes::rms_norm(&self.dtypes, &y, &rstd, &x)?;
        Err(self.missing("rms_norm"))
    }

    fn rms_norm_backward(
        &self,
        dx: Mut<'_>,
        dy: Ref<'_>,
        y: Ref<'_>,
        rstd: Ref<'_>,
        _: bool,
    ) -> Result<()> {
        shapes::rms_norm_backward(&self.dtypes, &dx, &dy, &y, &rstd)?;
        Err(self.missing("rms_norm_backward"))
    }

    fn mix(&self, out: Mut<'_>, x: Ref<'_>, a: Coef<'_>, y: Ref<'_>, b: Coef<'_>) -> Result<()> {
        shapes::mix(&self.dtypes, &out, &x, &a, &y, &b)?;
        Err(self.missing("mix"))
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
        Err(self.missing("mix_norm"))
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
        Err(self.missing("mix_backward"))
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
        Err(self.missing("smear"))
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
        Err(self.missing("smear_backward"))
    }

    fn relu2(&self, y: Mut<'_>, x: Ref<'_>) -> Result<()> {
        shapes::relu2(&self.dtypes, &y, &x)?;
        Err(self.missing("relu2"))
    }

    fn relu2_backward(&self, dx: Mut<'_>, x: Ref<'_>) -> Result<()> {
        shapes::relu2_backward(&self.dtypes, &dx, &x)?;
        Err(self.missing("relu2_backward"))
    }

    fn swiglu(&self, y: Mut<'_>, gate: Ref<'_>, x: Ref<'_>) -> Result<()> {
        shapes::swiglu(&self.dtypes, &y, &gate, &x)?;
        Err(self.missing("swiglu"))
    }

    fn swiglu_backward(
        &self,
        dx: Mut<'_>,
        dgate: Mut<'_>,
        gate: Ref<'_>,
        x: Ref<'_>,
    ) -> Result<()> {
        shapes::swiglu_backward(&self.dtypes, &dx, &dgate, &gate, &x)?;
        Err(self.missing("swiglu_backward"))
    }

    fn map(
        &self,
        exprs: &[Expr],
        out: &mut [Mut<'_>],
        ins: &[Ref<'_>],
        scalars: &[f64],
    ) -> Result<()> {
        self.run_map(exprs, out, ins, scalars)
    }
}
