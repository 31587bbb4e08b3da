//! AdamW.

use super::simd::vectorised;
use super::work::{BLOCK_ELEMENTS, rows};
use super::{Cpu, DTYPES};
use crate::Result;
use crate::ops::AdamWUpdate;

impl Cpu {
    pub(super) fn adamw(&self, op: AdamWUpdate<'_>) -> Result<()> {
        let n = op.check(&DTYPES)?;
        let AdamWUpdate { p, m, v, g, hyper } = op;
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
}
