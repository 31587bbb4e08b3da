//! Muon with NorMuon and cautious weight decay, step by step, on slabs: K matrices of R rows and S columns in the master dtype.

use super::Dtypes;
use crate::conformance::Outcome;
use crate::conformance::case::{Check, Operand, STACKS};
use crate::reference::{DTYPES, add_scaled, dot, lerp, norm};
use crate::{DType, Device, Error, Mut, Result, Shape};

dims! {
    /// A stack of matrices.
    StackDims {
        /// Matrices.
        k: b'K',
        /// Rows of each.
        r: b'R',
        /// Columns of each.
        s: b'S',
    }
}

operation! {
    /// buf = lerp(buf, g, 1−µ), then out = lerp(g, buf, µ), with lerp(a, b, w) = a + w·(b − a).
    ///
    /// # Shapes
    /// out, buf and g of one shape.
    Nesterov = fn nesterov(
        out: write Update any,
        buf: update Master [like out],
        g: read Master [like out],
    ) with (
        /// µ.
        momentum: f64,
    ) -> usize
}

operation! {
    /// Scales each row of each matrix to norm ‖x‖_F/√R, the row's norm clamped to at least 1e-6.
    ///
    /// # Shapes
    /// x (K, R, S).
    EquilibrateRows = fn equilibrate_rows(x: update Update "(K, R, S)") -> StackDims
}

operation! {
    /// x = x / (‖x‖_F · safety + 1e-6), then for each (a, b, c): R ≤ S: A = x·xᵀ, x = a·x + (b·A + c·A·A)·x; R > S: the same from
    /// the other side. Afterwards x is near its polar factor.
    ///
    /// # Shapes
    /// x (K, R, S); scratch 1-dimensional, master dtype, at least [`Device::polar_express_scratch`] elements.
    /// # Cost
    /// Per matrix and step, with m = min(R, S), n = max(R, S): 4·m²·n + 2·m³ FLOPs, less where symmetry is used.
    /// # Source
    /// arXiv 2505.16932.
    PolarExpress = fn polar_express(
        x: update Update "(K, R, S)",
        scratch: write Master any,
    ) with (
        /// What the norm is multiplied by.
        safety: f64,
        /// (a, b, c) of each step.
        steps: &'a [[f64; 3]],
    ) -> StackDims, flops |op: &Self, d: StackDims| {
        let (m, n) = (d.r.min(d.s), d.r.max(d.s));
        op.steps.len() * d.k * (4 * m * m * n + 2 * m * m * m)
    }
}

impl PolarExpress<'_> {
    /// [`check`](Self::check), and that there is as much scratch as the device needs.
    ///
    /// # Errors
    /// As `check`; [`Error::Shape`] when scratch is too small.
    pub fn check_with(&self, dtypes: &Dtypes, needed: usize) -> Result<StackDims> {
        let dims = self.check(dtypes)?;
        let got = self.scratch.shape();
        let fault = |expected| Error::Shape { op: Self::NAME, arg: "scratch", got, expected };
        match *got {
            [len] if len >= needed => Ok(dims),
            [_] => Err(fault(format!("at least ({needed})"))),
            _ => Err(fault("(elements): 1 dimensions".into())),
        }
    }
}

operation! {
    /// x *= √min(R, S) / max(‖x‖_F, 1e-6), per matrix.
    ///
    /// # Shapes
    /// x (K, R, S).
    Renormalize = fn renormalize(x: update Update "(K, R, S)") -> StackDims
}

operation! {
    /// NorMuon's variance reduction: R ≥ S: one value per row, v = mean of x² over its n = S columns; else one per column, n = R.
    /// s = lerp(s, v, 1−β2); w = max(s, 1e-10)^−½; x *= w · √(n·Σv) / max(√(n·Σ(v·w²)), 1e-10), sums per matrix.
    ///
    /// # Shapes
    /// x (K, R, S); s (K, R) when R ≥ S, else (K, S).
    /// # Source
    /// NorMuon, arXiv 2510.05491.
    VarianceReduce = fn variance_reduce(
        x: update Update "(K, R, S)",
        s: update Master any,
    ) with (
        /// β2.
        beta2: f64,
    ) -> StackDims, rule |op: &Self, StackDims { k, r, s }| {
        let (got, letters) = (op.s.shape(), if r >= s { "(K, R)" } else { "(K, S)" });
        if *got == [k, r.max(s)] {
            return Ok(());
        }
        let expected = format!("{letters} = ({k}, {})", r.max(s));
        Err(Error::Shape { op: Self::NAME, arg: "s", got, expected })
    }
}

operation! {
    /// p −= lr·x + lr·wd·p where x·p ≥ 0, p −= lr·x elsewhere.
    ///
    /// # Shapes
    /// p and x of one shape.
    /// # Source
    /// Cautious weight decay, after arXiv 2411.16085.
    CautiousUpdate = fn cautious_update(
        p: update Master any,
        x: read Master [like p],
    ) with (
        /// Learning rate.
        lr: f64,
        /// Weight decay.
        weight_decay: f64,
    ) -> usize
}

impl Nesterov<'_> {
    /// The definition.
    pub(super) fn reference(self) -> Result<()> {
        let elements = self.check(&DTYPES)?;
        let Self { out, buf, g, momentum } = self;
        let (out, buf, g) = (out.slice::<f64>()?, buf.slice::<f64>()?, g.slice::<f64>()?);
        for i in 0..elements {
            buf[i] = lerp(buf[i], g[i], 1.0 - momentum);
            out[i] = lerp(g[i], buf[i], momentum);
        }
        Ok(())
    }
}

impl EquilibrateRows<'_> {
    /// The definition.
    pub(super) fn reference(self) -> Result<()> {
        let StackDims { k, r, s } = self.check(&DTYPES)?;
        let Self { x } = self;
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
}

impl PolarExpress<'_> {
    /// The definition.
    pub(super) fn reference(self) -> Result<()> {
        let needed = polar_scratch(self.x.shape());
        let StackDims { k, r, s } = self.check_with(&DTYPES, needed)?;
        let Self { x, scratch, safety, steps } = self;
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
}

impl Renormalize<'_> {
    /// The definition.
    pub(super) fn reference(self) -> Result<()> {
        let StackDims { k, r, s } = self.check(&DTYPES)?;
        let Self { x } = self;
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
}

impl VarianceReduce<'_> {
    /// The definition.
    pub(super) fn reference(self) -> Result<()> {
        let StackDims { k, r, s: cols } = self.check(&DTYPES)?;
        let Self { x, s, beta2 } = self;
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
}

impl CautiousUpdate<'_> {
    /// The definition.
    pub(super) fn reference(self) -> Result<()> {
        let elements = self.check(&DTYPES)?;
        let Self { p, x, lr, weight_decay } = self;
        let (p, x) = (p.slice::<f64>()?, x.slice::<f64>()?);
        for i in 0..elements {
            let decay = if x[i] * p[i] >= 0.0 { lr * weight_decay * p[i] } else { 0.0 };
            p[i] -= lr * x[i] + decay;
        }
        Ok(())
    }
}

/// Elements of scratch that the definition of [`PolarExpress`] needs for this shape (K, R, S).
pub(crate) fn polar_scratch(shape: Shape) -> usize {
    let [_, r, s] = *shape else { return 0 };
    let m = r.min(s);
    2 * m * m + r * s
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

fn in_place(
    dev: &dyn Device,
    op: &'static str,
    call: impl Fn(&dyn Device, Mut<'_>) -> Result<()>,
) -> Outcome {
    let mut check = Check::new(dev, op);
    for (k, r, s) in STACKS {
        check.case(format!("({k}, {r}, {s})"));
        // Rows of many sizes; the first row, and the whole of the last matrix of several, zero.
        let size = |i: usize, x: f64| {
            let (matrix, row) = (i / (r * s), i / s % r);
            if row == 0 || (k > 1 && matrix == k - 1) { 0.0 } else { x * 0.1 * (1 + row) as f64 }
        };
        let x = check.normal([k, r, s]).edit(size).master();
        check.run([&x], [], |d, [x], []| call(d, x))?;
    }
    Ok(check.worst)
}

/// [`Nesterov`].
pub fn nesterov(dev: &dyn Device) -> Outcome {
    let mut check = Check::new(dev, "nesterov");
    for (k, r, s) in STACKS {
        check.case(format!("({k}, {r}, {s})"));
        let (buf, g) = (check.normal([k, r, s]).master(), check.normal([k, r, s]).master());
        let out = Operand::poison([k, r, s]).master();
        check.run([&out, &buf], [&g], |d, [out, buf], [g]| d.nesterov(out, buf, g, 0.95))?;
    }
    Ok(check.worst)
}

/// [`EquilibrateRows`], with a row of zeros.
pub fn equilibrate_rows(dev: &dyn Device) -> Outcome {
    in_place(dev, "equilibrate_rows", |d, x| d.equilibrate_rows(x))
}

/// [`PolarExpress`], with no more scratch than asked for. Each of its steps multiplies the rounding of
/// the one before, so that a device whose iterates are BF16 is allowed four times the tolerance.
pub fn polar_express(dev: &dyn Device) -> Outcome {
    // Coefficients of arXiv 2505.16932.
    let steps = [
        [8.156_554_524_902_461, -22.483_292_925_577_95, 15.878_769_915_207_462],
        [4.042_929_935_166_739, -2.808_917_465_908_714, 0.500_017_845_105_131_6],
        [3.891_667_802_292_660_7, -2.772_484_153_217_685, 0.506_064_817_850_339_3],
        [3.285_753_657_755_655, -2.368_129_493_342_537_6, 0.464_490_242_330_031_06],
        [2.346_541_325_859_637_7, -1.709_782_838_268_708_1, 0.423_235_511_693_053_93],
    ];
    let mut check = Check::new(dev, "polar_express");
    check.slack = if dev.compute_dtype() == DType::BF16 { 4.0 } else { 1.0 };
    for (k, r, s) in STACKS {
        for count in [0, 1, 5] {
            check.case(format!("({k}, {r}, {s}), {count} steps"));
            let x = check.normal([k, r, s]).master();
            check.run([&x], [], |d, [x], []| {
                let mut scratch = d.master([d.polar_express_scratch(Shape::from([k, r, s]))])?;
                d.fill(scratch.view_mut(), f64::NAN)?;
                d.polar_express(x, scratch.view_mut(), 1.01, &steps[..count])
            })?;
        }
    }
    Ok(check.worst)
}

/// [`Renormalize`], with a matrix of zeros.
pub fn renormalize(dev: &dyn Device) -> Outcome {
    in_place(dev, "renormalize", |d, x| d.renormalize(x))
}

/// [`VarianceReduce`], from zero moments too.
pub fn variance_reduce(dev: &dyn Device) -> Outcome {
    let mut check = Check::new(dev, "variance_reduce");
    for (k, r, s) in STACKS {
        for size in [0.0, 1.0] {
            check.case(format!("({k}, {r}, {s}), moments {size}"));
            let x = check.normal([k, r, s]).master();
            let moments = check.normal([k, r.max(s)]).edit(|_, x| size * x * x).master();
            check.run([&x, &moments], [], |d, [x, moments], []| {
                d.variance_reduce(x, moments, 0.9)
            })?;
        }
    }
    Ok(check.worst)
}

/// [`CautiousUpdate`], with zeros, where the product is not negative.
pub fn cautious_update(dev: &dyn Device) -> Outcome {
    let mut check = Check::new(dev, "cautious_update");
    for (k, r, s) in STACKS {
        check.case(format!("({k}, {r}, {s})"));
        let p = check.normal([k, r, s]).master();
        let x = check.normal([k, r, s]).edit(|i, x| if i % 5 == 2 { 0.0 } else { x }).master();
        check.run([&p], [&x], |d, [p], [x]| d.cautious_update(p, x, 0.1, 0.5))?;
    }
    Ok(check.worst)
}
