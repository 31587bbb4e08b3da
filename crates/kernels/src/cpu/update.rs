//! The update rules' elementwise operations, and the operations of [`Update`].

use super::simd::vectorised;
use super::work::{BLOCK_ELEMENTS, rows};
use super::{Cpu, DTYPES, polar, slab};
use crate::shapes::StackDims;
use crate::{AdamW, Mut, Ref, Result, Shape, Update, shapes};

impl Update for Cpu {
    fn adamw(&self, p: Mut<'_>, m: Mut<'_>, v: Mut<'_>, g: Ref<'_>, hyper: AdamW) -> Result<()> {
        let n = shapes::adamw(&DTYPES, &p, &m, &v, &g, &hyper)?;
        let (p, m, v) = (p.slice::<f32>()?, m.slice::<f32>()?, v.slice::<f32>()?);
        let g = g.slice::<f32>()?;
        let step = hyper.step as f64;
        let keep = (1.0 - hyper.lr * hyper.weight_decay) as f32;
        let (toward_m, toward_v) = ((1.0 - hyper.beta1) as f32, (1.0 - hyper.beta2) as f32);
        let rate = (hyper.lr / (1.0 - hyper.beta1.powf(step))) as f32;
        let unbias = (1.0 / (1.0 - hyper.beta2.powf(step))) as f32;
        let eps = hyper.eps as f32;
        let cut = (rows(p, 1), rows(m, 1), rows(v, 1));
        self.workers.blocks(n, BLOCK_ELEMENTS, cut, |first, (p, m, v)| {
            vectorised(
                #[inline(always)]
                || {
                    let state = m.data.iter_mut().zip(v.data);
                    for ((p, (m, v)), &g) in p.data.iter_mut().zip(state).zip(&g[first..]) {
                        *m += toward_m * (g - *m);
                        *v += toward_v * (g * g - *v);
                        *p = *p * keep - rate * *m / ((*v * unbias).sqrt() + eps);
                    }
                },
            );
        });
        Ok(())
    }

    fn nesterov(&self, out: Mut<'_>, buf: Mut<'_>, g: Ref<'_>, momentum: f64) -> Result<()> {
        let n = shapes::nesterov(&DTYPES, &out, &buf, &g)?;
        let (out, buf, g) = (out.slice::<f32>()?, buf.slice::<f32>()?, g.slice::<f32>()?);
        let (toward, momentum) = ((1.0 - momentum) as f32, momentum as f32);
        let cut = (rows(out, 1), rows(buf, 1));
        self.workers.blocks(n, BLOCK_ELEMENTS, cut, |first, (out, buf)| {
            vectorised(
                #[inline(always)]
                || {
                    for ((out, buf), &g) in out.data.iter_mut().zip(buf.data).zip(&g[first..]) {
                        *buf += toward * (g - *buf);
                        *out = g + momentum * (*buf - g);
                    }
                },
            );
        });
        Ok(())
    }

    fn equilibrate_rows(&self, x: Mut<'_>) -> Result<()> {
        let dims = shapes::equilibrate_rows(&DTYPES, &x)?;
        slab::equilibrate_rows(&self.workers, dims, x.slice()?);
        Ok(())
    }

    fn polar_express_scratch(&self, shape: Shape) -> usize {
        match *shape {
            [k, r, s] => polar::scratch(StackDims { k, r, s }),
            _ => 0,
        }
    }

    fn polar_express(
        &self,
        x: Mut<'_>,
        scratch: Mut<'_>,
        safety: f64,
        steps: &[[f64; 3]],
    ) -> Result<()> {
        let needed = self.polar_express_scratch(x.shape());
        let dims = shapes::polar_express(&DTYPES, &x, &scratch, needed)?;
        polar::express(&self.workers, dims, x.slice()?, scratch.slice()?, safety, steps);
        Ok(())
    }

    fn renormalize(&self, x: Mut<'_>) -> Result<()> {
        let dims = shapes::renormalize(&DTYPES, &x)?;
        slab::renormalize(&self.workers, dims, x.slice()?);
        Ok(())
    }

    fn variance_reduce(&self, x: Mut<'_>, s: Mut<'_>, beta2: f64) -> Result<()> {
        let dims = shapes::variance_reduce(&DTYPES, &x, &s)?;
        slab::variance_reduce(&self.workers, dims, x.slice()?, s.slice()?, beta2);
        Ok(())
    }

    fn cautious_update(&self, p: Mut<'_>, x: Ref<'_>, lr: f64, weight_decay: f64) -> Result<()> {
        let n = shapes::cautious_update(&DTYPES, &p, &x)?;
        let (p, x) = (p.slice::<f32>()?, x.slice::<f32>()?);
        let (decay, lr) = ((lr * weight_decay) as f32, lr as f32);
        self.workers.blocks(n, BLOCK_ELEMENTS, rows(p, 1), |first, p| {
            vectorised(
                #[inline(always)]
                || {
                    for (p, &x) in p.data.iter_mut().zip(&x[first..]) {
                        let decay = if x * *p >= 0.0 { decay * *p } else { 0.0 };
                        *p -= lr * x + decay;
                    }
                },
            );
        });
        Ok(())
    }
}
