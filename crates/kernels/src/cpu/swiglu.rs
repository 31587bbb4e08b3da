//! The product inside a SwiGLU MLP.

use super::simd::with_math;
use super::work::{BLOCK_ELEMENTS, rows};
use super::{Cpu, DTYPES};
use crate::Result;
use crate::ops::{Swiglu, SwigluBackward};

impl Cpu {
    pub(super) fn swiglu(&self, op: Swiglu<'_>) -> Result<()> {
        let n = op.check(&DTYPES)?;
        let Swiglu { y, gate, x } = op;
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

    pub(super) fn swiglu_backward(&self, op: SwigluBackward<'_>) -> Result<()> {
        let n = op.check(&DTYPES)?;
        let SwigluBackward { dx, dgate, gate, x } = op;
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
}
