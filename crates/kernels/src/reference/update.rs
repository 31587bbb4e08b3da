//! AdamW, and the steps of Muon, one matrix at a time.

use super::{DTYPES, Reference, add_scaled, dot, norm};
use crate::shapes::{self, StackDims};
use crate::{AdamW, Mut, Ref, Result, Shape, Update};

fn lerp(a: f64, b: f64, w: f64) -> f64 {
    a + w * (b - a)
}

/// c (M, N) = a (M, K) · b (K, N).
fn product(c: &mut [f64], a: &[f64], b: &[f64], m: usize, k: usize, n: usize) {
    c.fill(0.0);
    for i in 0..m {
        for j in 0..k {
            add_scaled(&mut c[i * n..(i + 1) * n], a[i * k + j], &b[j * n..(j + 1) * n]);
        }
    }
}

/// One step on x (R, S): A = x·xᵀ when R ≤ S, else xᵀ·x; B = b·A + c·A·A; x = a·x + B·x, or a·x + x·B.
fn polar_step(x: &mut [f64], scratch: &mut [f64], r: usize, s: usize, [a, b, c]: [f64; 3]) {
    let m = r.min(s);
    let (gram, scratch) = scratch.split_at_mut(m * m);
    let (poly, moved) = scratch.split_at_mut(m * m);
    let moved = &mut moved[..r * s];
    if r <= s {
        for i in 0..m {
            for j in 0..m {
                gram[i * m + j] = dot(&x[i * s..(i + 1) * s], &x[j * s..(j + 1) * s]);
            }
        }
    } else {
        gram.fill(0.0);
        for row in x.chunks(s) {
            for i in 0..m {
                add_scaled(&mut gram[i * m..(i + 1) * m], row[i], row);
            }
        }
    }
    product(poly, gram, gram, m, m, m);
    for (poly, gram) in poly.iter_mut().zip(gram) {
        *poly = b * *gram + c * *poly;
    }
    if r <= s {
        product(moved, poly, x, r, r, s);
    } else {
        product(moved, x, poly, r, s, s);
    }
    for (x, moved) in x.iter_mut().zip(moved) {
        *x = a * *x + *moved;
    }
}

impl Update for Reference {
    fn adamw(&self, p: Mut<'_>, m: Mut<'_>, v: Mut<'_>, g: Ref<'_>, hyper: AdamW) -> Result<()> {
        let elements = shapes::adamw(&DTYPES, &p, &m, &v, &g, &hyper)?;
        let (p, m, v) = (p.slice::<f64>()?, m.slice::<f64>()?, v.slice::<f64>()?);
        let g = g.slice::<f64>()?;
        let AdamW { lr, beta1, beta2, eps, weight_decay, step } = hyper;
        let correction1 = 1.0 - beta1.powf(step as f64);
        let correction2 = 1.0 - beta2.powf(step as f64);
        for i in 0..elements {
            p[i] *= 1.0 - lr * weight_decay;
            m[i] = lerp(m[i], g[i], 1.0 - beta1);
            v[i] = lerp(v[i], g[i] * g[i], 1.0 - beta2);
            p[i] -= lr / correction1 * m[i] / ((v[i] / correction2).sqrt() + eps);
        }
        Ok(())
    }

    fn nesterov(&self, out: Mut<'_>, buf: Mut<'_>, g: Ref<'_>, momentum: f64) -> Result<()> {
        let elements = shapes::nesterov(&DTYPES, &out, &buf, &g)?;
        let (out, buf, g) = (out.slice::<f64>()?, buf.slice::<f64>()?, g.slice::<f64>()?);
        for i in 0..elements {
            buf[i] = lerp(buf[i], g[i], 1.0 - momentum);
            out[i] = lerp(g[i], buf[i], momentum);
        }
        Ok(())
    }

    fn equilibrate_rows(&self, x: Mut<'_>) -> Result<()> {
        let StackDims { k, r, s } = shapes::equilibrate_rows(&DTYPES, &x)?;
        let x = x.slice::<f64>()?;
        for k in 0..k {
            let matrix = &mut x[k * r * s..(k + 1) * r * s];
            let target = norm(matrix) / (r as f64).sqrt();
            for r in 0..r {
                let row = &mut matrix[r * s..(r + 1) * s];
                let factor = target / norm(row).max(1e-6);
                for x in row.iter_mut() {
                    *x *= factor;
                }
            }
        }
        Ok(())
    }

    fn polar_express_scratch(&self, shape: Shape) -> usize {
        let [_, r, s] = *shape else { return 0 };
        let m = r.min(s);
        2 * m * m + r * s
    }

    fn polar_express(
        &self,
        x: Mut<'_>,
        scratch: Mut<'_>,
        safety: f64,
        steps: &[[f64; 3]],
    ) -> Result<()> {
        let needed = self.polar_express_scratch(x.shape());
        let StackDims { k, r, s } = shapes::polar_express(&DTYPES, &x, &scratch, needed)?;
        let (x, scratch) = (x.slice::<f64>()?, scratch.slice::<f64>()?);
        for k in 0..k {
            let x = &mut x[k * r * s..(k + 1) * r * s];
            let divisor = norm(x) * safety + 1e-6;
            for x in x.iter_mut() {
                *x /= divisor;
            }
            for &step in steps {
                polar_step(x, scratch, r, s, step);
            }
        }
        Ok(())
    }

    fn renormalize(&self, x: Mut<'_>) -> Result<()> {
        let StackDims { k, r, s } = shapes::renormalize(&DTYPES, &x)?;
        let x = x.slice::<f64>()?;
        for k in 0..k {
            let x = &mut x[k * r * s..(k + 1) * r * s];
            let factor = (r.min(s) as f64).sqrt() / norm(x).max(1e-6);
            for x in x.iter_mut() {
                *x *= factor;
            }
        }
        Ok(())
    }

    fn variance_reduce(&self, x: Mut<'_>, s: Mut<'_>, beta2: f64) -> Result<()> {
        let StackDims { k, r, s: cols } = shapes::variance_reduce(&DTYPES, &x, &s)?;
        let (x, s) = (x.slice::<f64>()?, s.slice::<f64>()?);
        // One value per group: rows when R ≥ S, else columns; n elements in each.
        let by_row = r >= cols;
        let (groups, n) = if by_row { (r, cols) } else { (cols, r) };
        for k in 0..k {
            let x = &mut x[k * r * cols..(k + 1) * r * cols];
            let s = &mut s[k * groups..(k + 1) * groups];
            let at = |group: usize, i: usize| {
                if by_row { group * cols + i } else { i * cols + group }
            };
            let weight = |s: f64| s.max(1e-10).powf(-0.5);
            let (mut before, mut after) = (0.0, 0.0);
            for group in 0..groups {
                let v = (0..n).map(|i| x[at(group, i)].powi(2)).sum::<f64>() / n as f64;
                s[group] = lerp(s[group], v, 1.0 - beta2);
                before += v;
                after += v * weight(s[group]).powi(2);
            }
            let scale = (n as f64 * before).sqrt() / (n as f64 * after).sqrt().max(1e-10);
            for group in 0..groups {
                for i in 0..n {
                    x[at(group, i)] *= weight(s[group]) * scale;
                }
            }
        }
        Ok(())
    }

    fn cautious_update(&self, p: Mut<'_>, x: Ref<'_>, lr: f64, weight_decay: f64) -> Result<()> {
        let elements = shapes::cautious_update(&DTYPES, &p, &x)?;
        let (p, x) = (p.slice::<f64>()?, x.slice::<f64>()?);
        for i in 0..elements {
            let decay = if x[i] * p[i] >= 0.0 { lr * weight_decay * p[i] } else { 0.0 };
            p[i] -= lr * x[i] + decay;
        }
        Ok(())
    }
}
