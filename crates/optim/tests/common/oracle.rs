//! One parameter through AdamW or Muon in plain f64: a matrix is a `Vec` of rows.

pub(crate) type Matrix = Vec<Vec<f64>>;

pub(crate) struct AdamW {
    pub(crate) lr: f64,
    pub(crate) beta1: f64,
    pub(crate) beta2: f64,
    pub(crate) eps: f64,
    pub(crate) weight_decay: f64,
}

/// Algorithm 2 of arXiv 1711.05101, with the decay applied first: the recipe's order.
pub(crate) fn adamw(h: &AdamW, t: i32, p: &mut [f64], m: &mut [f64], v: &mut [f64], g: &[f64]) {
    for i in 0..p.len() {
        p[i] -= h.lr * h.weight_decay * p[i];
        m[i] = h.beta1 * m[i] + (1.0 - h.beta1) * g[i];
        v[i] = h.beta2 * v[i] + (1.0 - h.beta2) * g[i] * g[i];
        let m_hat = m[i] / (1.0 - h.beta1.powi(t));
        let v_hat = v[i] / (1.0 - h.beta2.powi(t));
        p[i] -= h.lr * m_hat / (v_hat.sqrt() + h.eps);
    }
}

#[derive(Clone, Copy)]
pub(crate) struct Muon {
    pub(crate) lr: f64,
    pub(crate) weight_decay: f64,
    pub(crate) momentum: f64,
    pub(crate) equilibrate: bool,
    pub(crate) safety: f64,
    pub(crate) steps: usize,
    pub(crate) renormalize: bool,
    pub(crate) beta2: Option<f64>,
    pub(crate) cautious: bool,
}

/// As published with arXiv 2505.16932 for five steps (safety 2e-2), as the recipe prints them.
#[allow(clippy::unreadable_literal, reason = "as the paper prints them, to compare by eye")]
const POLAR: [(f64, f64, f64); 5] = [
    (8.156554524902461, -22.48329292557795, 15.878769915207462),
    (4.042929935166739, -2.808917465908714, 0.5000178451051316),
    (3.8916678022926607, -2.772484153217685, 0.5060648178503393),
    (3.285753657755655, -2.3681294933425376, 0.46449024233003106),
    (2.3465413258596377, -1.7097828382687081, 0.42323551169305323),
];

pub(crate) fn frobenius(x: &Matrix) -> f64 {
    x.iter().flatten().map(|v| v * v).sum::<f64>().sqrt()
}

pub(crate) fn transpose(x: &Matrix) -> Matrix {
    (0..x[0].len()).map(|j| x.iter().map(|row| row[j]).collect()).collect()
}

pub(crate) fn product(a: &Matrix, b: &Matrix) -> Matrix {
    let b = transpose(b);
    let dot = |r: &[f64], c: &[f64]| r.iter().zip(c).map(|(x, y)| x * y).sum();
    a.iter().map(|row| b.iter().map(|col| dot(row, col)).collect()).collect()
}

fn scale(x: &mut Matrix, by: f64) {
    x.iter_mut().flatten().for_each(|v| *v *= by);
}

/// a·X + (b·A + c·A²)·X with A = X·Xᵀ. A tall X is transposed first and back after: (b·A + c·A²)·X is an odd polynomial
/// of the singular values, so the side does not matter.
fn polar(mut x: Matrix, safety: f64, steps: usize) -> Matrix {
    let tall = x.len() > x[0].len();
    if tall {
        x = transpose(&x);
    }
    let norm = frobenius(&x);
    scale(&mut x, 1.0 / (norm * safety + 1e-6));
    for &(a, b, c) in &POLAR[..steps] {
        let gram = product(&x, &transpose(&x));
        let third = product(&gram, &x);
        let fifth = product(&gram, &third);
        for (i, row) in x.iter_mut().enumerate() {
            for (j, v) in row.iter_mut().enumerate() {
                *v = a * *v + b * third[i][j] + c * fifth[i][j];
            }
        }
    }
    if tall { transpose(&x) } else { x }
}

/// arXiv 2510.05491 for the smaller number of values: one per row of a tall or square matrix, one per column of a wide one.
fn variance_reduce(x: &Matrix, second: &mut [f64], beta2: f64) -> Matrix {
    let wide = x.len() < x[0].len();
    let mut lines = if wide { transpose(x) } else { x.clone() };
    let n = lines[0].len() as f64;
    let mut before = 0.0;
    let mut after = 0.0;
    for (line, s) in lines.iter_mut().zip(second) {
        let mean = line.iter().map(|v| v * v).sum::<f64>() / n;
        *s = beta2 * *s + (1.0 - beta2) * mean;
        let w = 1.0 / s.max(1e-10).sqrt();
        before += n * mean;
        after += n * mean * w * w;
        for v in line.iter_mut() {
            *v *= w;
        }
    }
    scale(&mut lines, before.sqrt() / after.sqrt().max(1e-10));
    if wide { transpose(&lines) } else { lines }
}

/// One step of Muon on one matrix, in the six steps of the recipe.
pub(crate) fn muon(h: &Muon, p: &mut Matrix, buf: &mut Matrix, second: &mut [f64], g: &Matrix) {
    let (rows, cols) = (p.len(), p[0].len());
    let mut x = g.clone();
    for i in 0..rows {
        for j in 0..cols {
            buf[i][j] = h.momentum * buf[i][j] + (1.0 - h.momentum) * g[i][j];
            x[i][j] = (1.0 - h.momentum) * g[i][j] + h.momentum * buf[i][j];
        }
    }
    if h.equilibrate {
        let target = frobenius(&x) / (rows as f64).sqrt();
        for row in &mut x {
            let norm = row.iter().map(|v| v * v).sum::<f64>().sqrt().max(1e-6);
            for v in row.iter_mut() {
                *v *= target / norm;
            }
        }
    }
    x = polar(x, h.safety, h.steps);
    if h.renormalize {
        let target = (rows.min(cols) as f64).sqrt();
        let norm = frobenius(&x).max(1e-6);
        scale(&mut x, target / norm);
    }
    if let Some(beta2) = h.beta2 {
        x = variance_reduce(&x, second, beta2);
    }
    let lr = h.lr * (rows as f64 / cols as f64).max(1.0).sqrt();
    for (p, x) in p.iter_mut().flatten().zip(x.iter().flatten()) {
        let decay = if h.cautious && x * *p < 0.0 { 0.0 } else { h.weight_decay };
        *p -= lr * x + lr * decay * *p;
    }
}

/// A flat row-major array as rows of `cols`.
pub(crate) fn rows(flat: &[f64], cols: usize) -> Matrix {
    flat.chunks(cols).map(<[f64]>::to_vec).collect()
}
