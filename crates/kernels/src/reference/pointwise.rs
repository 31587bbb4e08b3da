//! Norms, mixes, smear, relu², SwiGLU and their gradients.

use super::{DTYPES, EPS, Reference, add_scaled, dot, map, sigmoid};
use crate::shapes::{self, RowDims, SmearDims};
use crate::{Coef, Expr, Mut, Pointwise, Ref, Result};

fn value(coef: Coef<'_>) -> Result<f64> {
    Ok(match coef.parameter {
        Some(parameter) => coef.times * parameter.slice::<f64>()?[0],
        None => coef.times,
    })
}

/// y = x · rstd for one row; returns rstd.
fn norm_row(y: &mut [f64], x: &[f64]) -> f64 {
    let rstd = 1.0 / (dot(x, x) / x.len() as f64 + EPS).sqrt();
    for (y, x) in y.iter_mut().zip(x) {
        *y = x * rstd;
    }
    rstd
}

impl Pointwise for Reference {
    fn rms_norm(&self, y: Mut<'_>, rstd: Mut<'_>, x: Ref<'_>) -> Result<()> {
        let RowDims { n, c } = shapes::rms_norm(&DTYPES, &y, &rstd, &x)?;
        let (y, rstd, x) = (y.slice::<f64>()?, rstd.slice::<f64>()?, x.slice::<f64>()?);
        for n in 0..n {
            rstd[n] = norm_row(&mut y[n * c..(n + 1) * c], &x[n * c..(n + 1) * c]);
        }
        Ok(())
    }

    fn rms_norm_backward(
        &self,
        dx: Mut<'_>,
        dy: Ref<'_>,
        y: Ref<'_>,
        rstd: Ref<'_>,
        accumulate: bool,
    ) -> Result<()> {
        let RowDims { n, c } = shapes::rms_norm_backward(&DTYPES, &dx, &dy, &y, &rstd)?;
        let (dx, dy) = (dx.slice::<f64>()?, dy.slice::<f64>()?);
        let (y, rstd) = (y.slice::<f64>()?, rstd.slice::<f64>()?);
        if !accumulate {
            dx.fill(0.0);
        }
        for n in 0..n {
            let row = n * c..(n + 1) * c;
            let (dx, dy, y) = (&mut dx[row.clone()], &dy[row.clone()], &y[row]);
            let mean = dot(dy, y) / c as f64;
            add_scaled(dx, rstd[n], dy);
            add_scaled(dx, -rstd[n] * mean, y);
        }
        Ok(())
    }

    fn mix(&self, out: Mut<'_>, x: Ref<'_>, a: Coef<'_>, y: Ref<'_>, b: Coef<'_>) -> Result<()> {
        let elements = shapes::mix(&DTYPES, &out, &x, &a, &y, &b)?;
        let (a, b) = (value(a)?, value(b)?);
        let (out, x, y) = (out.slice::<f64>()?, x.slice::<f64>()?, y.slice::<f64>()?);
        for i in 0..elements {
            out[i] = a * x[i] + b * y[i];
        }
        Ok(())
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
        let RowDims { n, c } = shapes::mix_norm(&DTYPES, &out, &normed, &rstd, &x, &a, &y, &b)?;
        let (a, b) = (value(a)?, value(b)?);
        let (out, normed, rstd) =
            (out.slice::<f64>()?, normed.slice::<f64>()?, rstd.slice::<f64>()?);
        let (x, y) = (x.slice::<f64>()?, y.slice::<f64>()?);
        for i in 0..n * c {
            out[i] = a * x[i] + b * y[i];
        }
        for n in 0..n {
            rstd[n] = norm_row(&mut normed[n * c..(n + 1) * c], &out[n * c..(n + 1) * c]);
        }
        Ok(())
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
        shapes::mix_backward(&DTYPES, &dx, &dy, da.as_ref(), db.as_ref(), &x, &a, &y, &b)?;
        let (dx, dy) = (dx.slice::<f64>()?, dy.slice::<f64>()?);
        if let Some(da) = da {
            da.slice::<f64>()?[0] += a.times * dot(dx, x.slice()?);
        }
        if let Some(db) = db {
            db.slice::<f64>()?[0] += b.times * dot(dx, y.slice()?);
        }
        let (a, b) = (value(a)?, value(b)?);
        add_scaled(dy, b, dx);
        for dx in dx.iter_mut() {
            *dx *= a;
        }
        Ok(())
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
        let SmearDims { b, t, c, g } =
            shapes::smear(&DTYPES, &out, &gate, &x, prev.as_ref(), &w, &lambda)?;
        let (out, gate, x) = (out.slice::<f64>()?, gate.slice::<f64>()?, x.slice::<f64>()?);
        let (w, lambda) = (w.slice::<f64>()?, lambda.slice::<f64>()?[0]);
        let prev = prev.map(Ref::slice::<f64>).transpose()?;
        out.copy_from_slice(x);
        for row in 0..b * t {
            let before = match (row % t, prev) {
                (0, None) => {
                    gate[row] = 0.0;
                    continue;
                }
                (0, Some(prev)) => &prev[row / t * c..(row / t + 1) * c],
                _ => &x[(row - 1) * c..row * c],
            };
            gate[row] = sigmoid(dot(w, &x[row * c..row * c + g]));
            add_scaled(&mut out[row * c..(row + 1) * c], lambda * gate[row], before);
        }
        Ok(())
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
        let SmearDims { b, t, c, g } =
            shapes::smear_backward(&DTYPES, &dx, &dw, &dlambda, &dout, &x, &gate, &w, &lambda)?;
        let (dx, dw) = (dx.slice::<f64>()?, dw.slice::<f64>()?);
        let dlambda = &mut dlambda.slice::<f64>()?[0];
        let (dout, x, gate) = (dout.slice::<f64>()?, x.slice::<f64>()?, gate.slice::<f64>()?);
        let (w, lambda) = (w.slice::<f64>()?, lambda.slice::<f64>()?[0]);
        dx.copy_from_slice(dout);
        for row in (0..b * t).filter(|row| row % t > 0) {
            let (before, here) = dx.split_at_mut(row * c);
            let dout = &dout[row * c..(row + 1) * c];
            let through = dot(dout, &x[(row - 1) * c..row * c]);
            *dlambda += gate[row] * through;
            add_scaled(&mut before[(row - 1) * c..], lambda * gate[row], dout);
            let dseen = lambda * through * gate[row] * (1.0 - gate[row]);
            add_scaled(dw, dseen, &x[row * c..row * c + g]);
            add_scaled(&mut here[..g], dseen, w);
        }
        Ok(())
    }

    fn relu2(&self, y: Mut<'_>, x: Ref<'_>) -> Result<()> {
        shapes::relu2(&DTYPES, &y, &x)?;
        for (y, x) in y.slice::<f64>()?.iter_mut().zip(x.slice::<f64>()?) {
            *y = x.max(0.0).powi(2);
        }
        Ok(())
    }

    fn relu2_backward(&self, dx: Mut<'_>, x: Ref<'_>) -> Result<()> {
        shapes::relu2_backward(&DTYPES, &dx, &x)?;
        for (dx, x) in dx.slice::<f64>()?.iter_mut().zip(x.slice::<f64>()?) {
            *dx *= 2.0 * x.max(0.0);
        }
        Ok(())
    }

    fn swiglu(&self, y: Mut<'_>, gate: Ref<'_>, x: Ref<'_>) -> Result<()> {
        let elements = shapes::swiglu(&DTYPES, &y, &gate, &x)?;
        let (y, gate, x) = (y.slice::<f64>()?, gate.slice::<f64>()?, x.slice::<f64>()?);
        for i in 0..elements {
            y[i] = gate[i] * sigmoid(gate[i]) * x[i];
        }
        Ok(())
    }

    fn swiglu_backward(
        &self,
        dx: Mut<'_>,
        dgate: Mut<'_>,
        gate: Ref<'_>,
        x: Ref<'_>,
    ) -> Result<()> {
        let elements = shapes::swiglu_backward(&DTYPES, &dx, &dgate, &gate, &x)?;
        let (dx, dgate) = (dx.slice::<f64>()?, dgate.slice::<f64>()?);
        let (gate, x) = (gate.slice::<f64>()?, x.slice::<f64>()?);
        for i in 0..elements {
            let s = sigmoid(gate[i]);
            dgate[i] = dx[i] * x[i] * s * (1.0 + gate[i] * (1.0 - s));
            dx[i] *= gate[i] * s;
        }
        Ok(())
    }

    fn map(
        &self,
        exprs: &[Expr],
        out: &mut [Mut<'_>],
        ins: &[Ref<'_>],
        scalars: &[f64],
    ) -> Result<()> {
        let elements = shapes::map(&DTYPES, exprs, out, ins, scalars)?;
        map::run(exprs, out, ins, scalars, elements)
    }
}
