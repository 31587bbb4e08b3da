//! Rotary embedding with QK-norm, value gates, and attention one query at a time.

use super::{DTYPES, EPS, Reference, add_scaled, dot, sigmoid};
use crate::shapes::{self, AttentionDims, GateDims, HeadDims};
use crate::{Attention, AttentionShape, Mut, Ref, Result};

impl Attention for Reference {
    fn rotary_norm(
        &self,
        x: Mut<'_>,
        rstd: Mut<'_>,
        cos: Ref<'_>,
        sin: Ref<'_>,
        gain: f64,
    ) -> Result<()> {
        let HeadDims { b, t, h, d } = shapes::rotary_norm(&DTYPES, &x, &rstd, &cos, &sin)?;
        let (x, rstd) = (x.slice::<f64>()?, rstd.slice::<f64>()?);
        let (cos, sin) = (cos.slice::<f64>()?, sin.slice::<f64>()?);
        let half = d / 2;
        for row in 0..b * t * h {
            let t = row / h % t;
            let x = &mut x[row * d..(row + 1) * d];
            for j in 0..half {
                let (c, s) = (cos[t * half + j], sin[t * half + j]);
                let (x1, x2) = (x[j], x[half + j]);
                x[j] = x1 * c + x2 * s;
                x[half + j] = -x1 * s + x2 * c;
            }
            rstd[row] = 1.0 / (dot(x, x) / d as f64 + EPS).sqrt();
            for x in x.iter_mut() {
                *x *= gain * rstd[row];
            }
        }
        Ok(())
    }

    fn rotary_norm_backward(
        &self,
        dx: Mut<'_>,
        y: Ref<'_>,
        rstd: Ref<'_>,
        cos: Ref<'_>,
        sin: Ref<'_>,
        gain: f64,
    ) -> Result<()> {
        let HeadDims { b, t, h, d } =
            shapes::rotary_norm_backward(&DTYPES, &dx, &y, &rstd, &cos, &sin)?;
        let (dx, y, rstd) = (dx.slice::<f64>()?, y.slice::<f64>()?, rstd.slice::<f64>()?);
        let (cos, sin) = (cos.slice::<f64>()?, sin.slice::<f64>()?);
        let half = d / 2;
        for row in 0..b * t * h {
            let t = row / h % t;
            let (dx, y) = (&mut dx[row * d..(row + 1) * d], &y[row * d..(row + 1) * d]);
            // y = gain · r with r the rotated and normed head: the gradient by what was normed, written with y,
            // is gain · rstd · (dy − y · mean(dy · y) / gain²).
            let mean = dot(dx, y) / d as f64 / (gain * gain);
            for j in 0..d {
                dx[j] = gain * rstd[row] * (dx[j] - y[j] * mean);
            }
            for j in 0..half {
                let (c, s) = (cos[t * half + j], sin[t * half + j]);
                let (dy1, dy2) = (dx[j], dx[half + j]);
                dx[j] = dy1 * c - dy2 * s;
                dx[half + j] = dy1 * s + dy2 * c;
            }
        }
        Ok(())
    }

    fn value_gate(
        &self,
        v: Mut<'_>,
        gate: Mut<'_>,
        ve: Ref<'_>,
        x: Ref<'_>,
        w: Ref<'_>,
        max: f64,
    ) -> Result<()> {
        let GateDims { n, k, d, c, g } = shapes::value_gate(&DTYPES, &v, &gate, &ve, &x, &w)?;
        let (v, gate, ve) = (v.slice::<f64>()?, gate.slice::<f64>()?, ve.slice::<f64>()?);
        let (x, w) = (x.slice::<f64>()?, w.slice::<f64>()?);
        for n in 0..n {
            for k_ in 0..k {
                let row = n * k + k_;
                let seen = dot(&w[k_ * g..(k_ + 1) * g], &x[n * c..n * c + g]);
                gate[row] = max * sigmoid(seen);
                add_scaled(&mut v[row * d..(row + 1) * d], gate[row], &ve[row * d..(row + 1) * d]);
            }
        }
        Ok(())
    }

    fn value_gate_backward(
        &self,
        dve: Mut<'_>,
        dw: Mut<'_>,
        dx: Mut<'_>,
        dv: Ref<'_>,
        ve: Ref<'_>,
        gate: Ref<'_>,
        x: Ref<'_>,
        w: Ref<'_>,
        max: f64,
    ) -> Result<()> {
        let GateDims { n, k, d, c, g } =
            shapes::value_gate_backward(&DTYPES, &dve, &dw, &dx, &dv, &ve, &gate, &x, &w)?;
        let (dve, dw, dx) = (dve.slice::<f64>()?, dw.slice::<f64>()?, dx.slice::<f64>()?);
        let (dv, ve, gate) = (dv.slice::<f64>()?, ve.slice::<f64>()?, gate.slice::<f64>()?);
        let (x, w) = (x.slice::<f64>()?, w.slice::<f64>()?);
        for n in 0..n {
            for k_ in 0..k {
                let row = n * k + k_;
                let (dv, ve) = (&dv[row * d..(row + 1) * d], &ve[row * d..(row + 1) * d]);
                let dve = &mut dve[row * d..(row + 1) * d];
                dve.fill(0.0);
                add_scaled(dve, gate[row], dv);
                // gate = max·σ, so ∂gate/∂seen = max·σ·(1 − σ).
                let dseen = dot(dv, ve) * gate[row] * (1.0 - gate[row] / max);
                add_scaled(&mut dw[k_ * g..(k_ + 1) * g], dseen, &x[n * c..n * c + g]);
                add_scaled(&mut dx[n * c..n * c + g], dseen, &w[k_ * g..(k_ + 1) * g]);
            }
        }
        Ok(())
    }

    fn attention(
        &self,
        out: Mut<'_>,
        lse: Mut<'_>,
        q: Ref<'_>,
        k: Ref<'_>,
        v: Ref<'_>,
        at: AttentionShape,
    ) -> Result<()> {
        let dims = shapes::attention(&DTYPES, &out, &lse, &q, &k, &v)?;
        let (out, lse, q) = (out.slice::<f64>()?, lse.slice::<f64>()?, q.slice::<f64>()?);
        let (k, v) = (k.slice::<f64>()?, v.slice::<f64>()?);
        let d = dims.d;
        for pair in queries(dims) {
            let q = &q[pair.row * d..(pair.row + 1) * d];
            let out = &mut out[pair.row * d..(pair.row + 1) * d];
            let keys = || visible(dims, pair, at.window);
            let score = |key: usize| at.scale * dot(q, &k[key * d..(key + 1) * d]);
            let max = keys().map(score).fold(f64::NEG_INFINITY, f64::max);
            let mut sum = 0.0;
            out.fill(0.0);
            for key in keys() {
                let e = (score(key) - max).exp();
                sum += e;
                add_scaled(out, e, &v[key * d..(key + 1) * d]);
            }
            for x in out.iter_mut() {
                *x /= sum;
            }
            lse[pair.stat] = max + sum.ln();
        }
        Ok(())
    }

    fn attention_backward(
        &self,
        dq: Mut<'_>,
        dk: Mut<'_>,
        dv: Mut<'_>,
        delta: Mut<'_>,
        dout: Ref<'_>,
        out: Ref<'_>,
        lse: Ref<'_>,
        q: Ref<'_>,
        k: Ref<'_>,
        v: Ref<'_>,
        at: AttentionShape,
    ) -> Result<()> {
        let dims = shapes::attention_backward(
            &DTYPES, &dq, &dk, &dv, &delta, &dout, &out, &lse, &q, &k, &v,
        )?;
        let (dq, dk, dv) = (dq.slice::<f64>()?, dk.slice::<f64>()?, dv.slice::<f64>()?);
        let (delta, dout, out) = (delta.slice::<f64>()?, dout.slice::<f64>()?, out.slice::<f64>()?);
        let (lse, q) = (lse.slice::<f64>()?, q.slice::<f64>()?);
        let (k, v) = (k.slice::<f64>()?, v.slice::<f64>()?);
        let d = dims.d;
        dq.fill(0.0);
        dk.fill(0.0);
        dv.fill(0.0);
        for pair in queries(dims) {
            let row = pair.row * d..(pair.row + 1) * d;
            let (q, dout, out) = (&q[row.clone()], &dout[row.clone()], &out[row.clone()]);
            delta[pair.stat] = dot(dout, out);
            for key in visible(dims, pair, at.window) {
                let col = key * d..(key + 1) * d;
                let p = (at.scale * dot(q, &k[col.clone()]) - lse[pair.stat]).exp();
                let ds = p * (dot(dout, &v[col.clone()]) - delta[pair.stat]);
                add_scaled(&mut dv[col.clone()], p, dout);
                add_scaled(&mut dq[row.clone()], at.scale * ds, &k[col.clone()]);
                add_scaled(&mut dk[col], at.scale * ds, q);
            }
        }
        Ok(())
    }
}

/// One query of one head.
#[derive(Clone, Copy)]
struct Query {
    b: usize,
    h: usize,
    t: usize,
    /// Its row in (B, T, H).
    row: usize,
    /// Its place in (B, H, T).
    stat: usize,
}

fn queries(dims: AttentionDims) -> impl Iterator<Item = Query> {
    let AttentionDims { b, t, h, .. } = dims;
    (0..b * h * t).map(move |stat| {
        let (b, h_, t_) = (stat / t / h, stat / t % h, stat % t);
        Query { b, h: h_, t: t_, row: (b * t + t_) * h + h_, stat }
    })
}

/// Rows in (B, S, K) of the keys that a query sees.
fn visible(dims: AttentionDims, query: Query, window: usize) -> impl Iterator<Item = usize> {
    let AttentionDims { t, s, h, k, .. } = dims;
    let position = s - t + query.t;
    let head = query.h / (h / k);
    (position.saturating_sub(window)..=position)
        .map(move |position| (query.b * s + position) * k + head)
}
