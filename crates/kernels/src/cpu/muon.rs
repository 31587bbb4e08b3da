//! Muon: what is elementwise is here, norms are in `slab`, the iteration is in `polar`.

use super::simd::vectorised;
use super::work::{BLOCK_ELEMENTS, rows};
use super::{Cpu, DTYPES};
use super::{polar, slab};
use crate::ops::{
    CautiousUpdate, EquilibrateRows, Nesterov, PolarExpress, Renormalize, VarianceReduce,
};
use crate::{Device, Result};

impl Cpu {
    pub(super) fn nesterov(&self, op: Nesterov<'_>) -> Result<()> {
        let n = op.check(&DTYPES)?;
        let Nesterov { out, buf, g, momentum } = op;
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

    pub(super) fn equilibrate_rows(&self, op: EquilibrateRows<'_>) -> Result<()> {
        let dims = op.check(&DTYPES)?;
        let EquilibrateRows { x } = op;
        slab::equilibrate_rows(&self.workers, dims, x.slice()?);
        Ok(())
    }

    pub(super) fn polar_express(&self, op: PolarExpress<'_>) -> Result<()> {
        let dims = op.check_with(&DTYPES, self.polar_express_scratch(op.x.shape()))?;
        let PolarExpress { x, scratch, safety, steps } = op;
        polar::express(&self.workers, dims, x.slice()?, scratch.slice()?, safety, steps);
        Ok(())
    }

    pub(super) fn renormalize(&self, op: Renormalize<'_>) -> Result<()> {
        let dims = op.check(&DTYPES)?;
        let Renormalize { x } = op;
        slab::renormalize(&self.workers, dims, x.slice()?);
        Ok(())
    }

    pub(super) fn variance_reduce(&self, op: VarianceReduce<'_>) -> Result<()> {
        let dims = op.check(&DTYPES)?;
        let VarianceReduce { x, s, beta2 } = op;
        slab::variance_reduce(&self.workers, dims, x.slice()?, s.slice()?, beta2);
        Ok(())
    }

    pub(super) fn cautious_update(&self, op: CautiousUpdate<'_>) -> Result<()> {
        let n = op.check(&DTYPES)?;
        let CautiousUpdate { p, x, lr, weight_decay } = op;
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
