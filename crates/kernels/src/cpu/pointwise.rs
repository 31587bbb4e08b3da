//! Norms, mixes, relu² and SwiGLU, and the operations of [`Pointwise`].

use super::simd::{dot, sum_of, vectorised, with_math};
use super::work::{BLOCK_ELEMENTS, Partials, block_rows, rows};
use super::{Cpu, DTYPES, map, smear};
use crate::shapes::RowDims;
use crate::{Coef, Expr, Mut, Pointwise, Ref, Result, shapes};

impl Pointwise for Cpu {
    fn rms_norm(&self, y: Mut<'_>, rstd: Mut<'_>, x: Ref<'_>) -> Result<()> {
        let RowDims { n, c } = shapes::rms_norm(&DTYPES, &y, &rstd, &x)?;
        let (y, rstd, x) = (y.slice::<f32>()?, rstd.slice::<f32>()?, x.slice::<f32>()?);
        if c == 0 {
            return Ok(());
        }
        self.workers.blocks(n, block_rows(c), (rows(y, c), rows(rstd, 1)), |first, (y, rstd)| {
            let each = y.data.chunks_exact_mut(c).zip(rstd.data);
            for ((y, rstd), x) in each.zip(x[first * c..].chunks_exact(c)) {
                vectorised(
                    #[inline(always)]
                    || {
                        *rstd = reciprocal_root(x);
                        y.iter_mut().zip(x).for_each(|(y, x)| *y = x * *rstd);
                    },
                );
            }
        });
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
        let (dx, dy) = (dx.slice::<f32>()?, dy.slice::<f32>()?);
        let (y, rstd) = (y.slice::<f32>()?, rstd.slice::<f32>()?);
        if c == 0 {
            return Ok(());
        }
        self.workers.blocks(n, block_rows(c), rows(dx, c), |first, dx| {
            let given = dy[first * c..].chunks_exact(c).zip(y[first * c..].chunks_exact(c));
            let each = dx.data.chunks_exact_mut(c).zip(given).zip(&rstd[first..]);
            for ((dx, (dy, y)), &rstd) in each {
                vectorised(
                    #[inline(always)]
                    || {
                        let along = dot(dy, y) / c as f32;
                        let each = dx.iter_mut().zip(dy).zip(y);
                        if accumulate {
                            each.for_each(|((dx, dy), y)| *dx += rstd * (dy - y * along));
                        } else {
                            each.for_each(|((dx, dy), y)| *dx = rstd * (dy - y * along));
                        }
                    },
                );
            }
        });
        Ok(())
    }

    fn mix(&self, out: Mut<'_>, x: Ref<'_>, a: Coef<'_>, y: Ref<'_>, b: Coef<'_>) -> Result<()> {
        let n = shapes::mix(&DTYPES, &out, &x, &a, &y, &b)?;
        let (out, x, y) = (out.slice::<f32>()?, x.slice::<f32>()?, y.slice::<f32>()?);
        let (a, b) = (value(a)?, value(b)?);
        self.workers.blocks(n, BLOCK_ELEMENTS, rows(out, 1), |first, out| {
            vectorised(
                #[inline(always)]
                || mix_row(out.data, &x[first..], a, &y[first..], b),
            );
        });
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
        let (out, normed, rstd) = (out.slice::<f32>()?, normed.slice::<f32>()?, rstd.slice()?);
        let (x, y) = (x.slice::<f32>()?, y.slice::<f32>()?);
        let (a, b) = (value(a)?, value(b)?);
        if c == 0 {
            return Ok(());
        }
        let cut = (rows(out, c), rows(normed, c), rows(rstd, 1));
        self.workers.blocks(n, block_rows(c), cut, |first, (out, normed, rstd)| {
            let written = out.data.chunks_exact_mut(c).zip(normed.data.chunks_exact_mut(c));
            let given = x[first * c..].chunks_exact(c).zip(y[first * c..].chunks_exact(c));
            for (((out, normed), rstd), (x, y)) in written.zip(rstd.data).zip(given) {
                vectorised(
                    #[inline(always)]
                    || {
                        mix_row(out, x, a, y, b);
                        *rstd = reciprocal_root(out);
                        normed.iter_mut().zip(out).for_each(|(y, x)| *y = *x * *rstd);
                    },
                );
            }
        });
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
        let n = shapes::mix_backward(&DTYPES, &dx, &dy, da.as_ref(), db.as_ref(), &x, &a, &y, &b)?;
        let (dx, dy) = (dx.slice::<f32>()?, dy.slice::<f32>()?);
        let (x, y) = (x.slice::<f32>()?, y.slice::<f32>()?);
        let (a_value, b_value) = (value(a)?, value(b)?);
        let (want_a, want_b) = (da.is_some(), db.is_some());
        let len = Partials::len(n, BLOCK_ELEMENTS, 2);
        self.workers.scratch(len, |partials: &mut [f64]| {
            partials.fill(0.0);
            let cut = (rows(dx, 1), rows(dy, 1), Partials::new(partials, 2, BLOCK_ELEMENTS));
            self.workers.blocks(n, BLOCK_ELEMENTS, cut, |first, (dx, dy, sums)| {
                let (x, y) = (&x[first..], &y[first..]);
                vectorised(
                    #[inline(always)]
                    || {
                        let len = dx.data.len();
                        if want_a {
                            sums.data[0] = f64::from(dot(dx.data, &x[..len]));
                        }
                        if want_b {
                            sums.data[1] = f64::from(dot(dx.data, &y[..len]));
                        }
                        for (dx, dy) in dx.data.iter_mut().zip(dy.data) {
                            *dy += b_value * *dx;
                            *dx *= a_value;
                        }
                    },
                );
            });
            for (i, (gradient, times)) in [(da, a.times), (db, b.times)].into_iter().enumerate() {
                if let Some(gradient) = gradient {
                    let gradient = &mut gradient.slice::<f32>()?[0];
                    let sum: f64 = partials.iter().skip(i).step_by(2).sum();
                    *gradient = (f64::from(*gradient) + times * sum) as f32;
                }
            }
            Ok(())
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
        let dims = shapes::smear(&DTYPES, &out, &gate, &x, prev.as_ref(), &w, &lambda)?;
        let (out, gate) = (out.slice()?, gate.slice()?);
        let prev = prev.map(Ref::slice).transpose()?;
        let (x, w, lambda) = (x.slice()?, w.slice()?, lambda.slice::<f32>()?[0]);
        smear::forward(&self.workers, dims, lambda, out, gate, x, prev, w);
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
        let dims =
            shapes::smear_backward(&DTYPES, &dx, &dw, &dlambda, &dout, &x, &gate, &w, &lambda)?;
        let (dx, dw, dlambda) = (dx.slice()?, dw.slice()?, dlambda.slice()?);
        let (dout, x, gate, w) = (dout.slice()?, x.slice()?, gate.slice()?, w.slice()?);
        let lambda = lambda.slice::<f32>()?[0];
        smear::backward(&self.workers, dims, lambda, dx, dw, dlambda, dout, x, gate, w);
        Ok(())
    }

    fn relu2(&self, y: Mut<'_>, x: Ref<'_>) -> Result<()> {
        let n = shapes::relu2(&DTYPES, &y, &x)?;
        let (y, x) = (y.slice::<f32>()?, x.slice::<f32>()?);
        self.workers.blocks(n, BLOCK_ELEMENTS, rows(y, 1), |first, y| {
            vectorised(
                #[inline(always)]
                || {
                    for (y, &x) in y.data.iter_mut().zip(&x[first..]) {
                        *y = positive(x) * positive(x);
                    }
                },
            );
        });
        Ok(())
    }

    fn relu2_backward(&self, dx: Mut<'_>, x: Ref<'_>) -> Result<()> {
        let n = shapes::relu2_backward(&DTYPES, &dx, &x)?;
        let (dx, x) = (dx.slice::<f32>()?, x.slice::<f32>()?);
        self.workers.blocks(n, BLOCK_ELEMENTS, rows(dx, 1), |first, dx| {
            vectorised(
                #[inline(always)]
                || {
                    for (dx, &x) in dx.data.iter_mut().zip(&x[first..]) {
                        *dx *= 2.0 * positive(x);
                    }
                },
            );
        });
        Ok(())
    }

    fn swiglu(&self, y: Mut<'_>, gate: Ref<'_>, x: Ref<'_>) -> Result<()> {
        let n = shapes::swiglu(&DTYPES, &y, &gate, &x)?;
        let (y, gate, x) = (y.slice::<f32>()?, gate.slice::<f32>()?, x.slice::<f32>()?);
        self.workers.blocks(n, BLOCK_ELEMENTS, rows(y, 1), |first, y| {
            with_math(
                #[inline(always)]
                |math| {
                    let given = gate[first..].iter().zip(&x[first..]);
                    for (y, (&g, x)) in y.data.iter_mut().zip(given) {
                        *y = g * math.sigmoid(g) * x;
                    }
                },
            );
        });
        Ok(())
    }

    fn swiglu_backward(
        &self,
        dx: Mut<'_>,
        dgate: Mut<'_>,
        gate: Ref<'_>,
        x: Ref<'_>,
    ) -> Result<()> {
        let n = shapes::swiglu_backward(&DTYPES, &dx, &dgate, &gate, &x)?;
        let (dx, dgate) = (dx.slice::<f32>()?, dgate.slice::<f32>()?);
        let (gate, x) = (gate.slice::<f32>()?, x.slice::<f32>()?);
        let cut = (rows(dx, 1), rows(dgate, 1));
        self.workers.blocks(n, BLOCK_ELEMENTS, cut, |first, (dx, dgate)| {
            with_math(
                #[inline(always)]
                |math| {
                    let given = gate[first..].iter().zip(&x[first..]);
                    let written = dx.data.iter_mut().zip(dgate.data);
                    for ((dx, dgate), (&g, x)) in written.zip(given) {
                        let s = math.sigmoid(g);
                        *dgate = *dx * x * s * (1.0 + g * (1.0 - s));
                        *dx *= g * s;
                    }
                },
            );
        });
        Ok(())
    }

    fn map(
        &self,
        exprs: &[Expr],
        out: &mut [Mut<'_>],
        ins: &[Ref<'_>],
        scalars: &[f64],
    ) -> Result<()> {
        let n = shapes::map(&DTYPES, exprs, out, ins, scalars)?;
        map::run(&self.workers, n, exprs, out, ins, scalars);
        Ok(())
    }
}

/// A coefficient's value.
fn value(coef: Coef<'_>) -> Result<f32> {
    let parameter = match coef.parameter {
        Some(parameter) => f64::from(parameter.slice::<f32>()?[0]),
        None => 1.0,
    };
    Ok((coef.times * parameter) as f32)
}

/// max(x, 0), but NaN for NaN.
#[inline(always)]
fn positive(x: f32) -> f32 {
    if x < 0.0 { 0.0 } else { x }
}

/// 1/√(mean(x²) + 2⁻²³).
#[inline(always)]
pub(super) fn reciprocal_root(x: &[f32]) -> f32 {
    1.0 / (sum_of(
        x,
        #[inline(always)]
        |x| x * x,
    ) / x.len() as f32
        + f32::EPSILON)
        .sqrt()
}

#[inline(always)]
fn mix_row(out: &mut [f32], x: &[f32], a: f32, y: &[f32], b: f32) {
    for ((out, x), y) in out.iter_mut().zip(x).zip(y) {
        *out = a * x + b * y;
    }
}
