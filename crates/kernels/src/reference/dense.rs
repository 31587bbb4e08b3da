//! Matrix products and table look-ups, as triple loops.

use super::{DTYPES, Reference, add_scaled, dot};
use crate::shapes::{self, EmbedDims, LinearDims};
use crate::{Dense, Mut, Ref, Result};

impl Dense for Reference {
    fn linear(&self, y: Mut<'_>, x: Ref<'_>, w: Ref<'_>, accumulate: bool) -> Result<()> {
        let LinearDims { n, i, o } = shapes::linear(&DTYPES, &y, &x, &w)?;
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

    fn linear_dx(&self, dx: Mut<'_>, dy: Ref<'_>, w: Ref<'_>, accumulate: bool) -> Result<()> {
        let LinearDims { n, i, o } = shapes::linear_dx(&DTYPES, &dx, &dy, &w)?;
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

    fn linear_dw(&self, dw: Mut<'_>, x: Ref<'_>, dy: Ref<'_>, accumulate: bool) -> Result<()> {
        let LinearDims { n, i, o } = shapes::linear_dw(&DTYPES, &dw, &x, &dy)?;
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

    fn embed(&self, out: Mut<'_>, table: Ref<'_>, ids: Ref<'_>) -> Result<()> {
        let EmbedDims { n, v, c } = shapes::embed(&DTYPES, &out, &table, &ids)?;
        let (out, table, ids) = (out.slice::<f64>()?, table.slice::<f64>()?, ids.slice::<i32>()?);
        shapes::indices("embed", ids, 0, v)?;
        for n in 0..n {
            let id = ids[n] as usize;
            out[n * c..(n + 1) * c].copy_from_slice(&table[id * c..(id + 1) * c]);
        }
        Ok(())
    }

    fn embed_backward(
        &self,
        dtable: Mut<'_>,
        dout: Ref<'_>,
        ids: Ref<'_>,
        order: Ref<'_>,
    ) -> Result<()> {
        let EmbedDims { v, c, .. } = shapes::embed_backward(&DTYPES, &dtable, &dout, &ids, &order)?;
        let (dtable, dout) = (dtable.slice::<f64>()?, dout.slice::<f64>()?);
        let (ids, order) = (ids.slice::<i32>()?, order.slice::<i32>()?);
        shapes::indices("embed_backward", ids, 0, v)?;
        shapes::order("embed_backward", ids, order)?;
        for &n in order {
            let (n, id) = (n as usize, ids[n as usize] as usize);
            add_scaled(&mut dtable[id * c..(id + 1) * c], 1.0, &dout[n * c..(n + 1) * c]);
        }
        Ok(())
    }
}
