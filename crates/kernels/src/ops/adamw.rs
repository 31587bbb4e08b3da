//! AdamW.

use super::check::require;
use crate::conformance::Outcome;
use crate::conformance::case::{Check, STACKS};
use crate::reference::{DTYPES, lerp};
use crate::{Device, Result};

/// AdamW's numbers for one step.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct AdamWHyper {
    /// Learning rate.
    pub lr: f64,
    /// Decay of the first moment.
    pub beta1: f64,
    /// Decay of the second moment.
    pub beta2: f64,
    /// Added to the root of the second moment.
    pub eps: f64,
    /// Decoupled weight decay: p *= 1 − lr·weight_decay.
    pub weight_decay: f64,
    /// t ≥ 1, counted from the first update.
    pub step: u64,
}

operation! {
    /// p *= 1 − lr·wd; m = lerp(m, g, 1−β1); v = lerp(v, g², 1−β2); p −= lr/(1−β1ᵗ) · m / (√(v/(1−β2ᵗ)) + eps).
    ///
    /// # Shapes
    /// p, m, v and g of one shape, master dtype.
    /// # Source
    /// arXiv 1711.05101.
    AdamWUpdate = fn adamw(
        p: update Master any,
        m: update Master [like p],
        v: update Master [like p],
        g: read Master [like p],
    ) with (
        /// The numbers of this step.
        hyper: AdamWHyper,
    ) -> usize, rule |op: &Self, _| {
        require(Self::NAME, op.hyper.step >= 1, || "step 0; steps count from 1".into())
    }
}

impl AdamWUpdate<'_> {
    /// The definition.
    pub(super) fn reference(self) -> Result<()> {
        let elements = self.check(&DTYPES)?;
        let Self { p, m, v, g, hyper } = self;
        let (p, m, v) = (p.slice::<f64>()?, m.slice::<f64>()?, v.slice::<f64>()?);
        let g = g.slice::<f64>()?;
        let AdamWHyper { lr, beta1, beta2, eps, weight_decay, step } = hyper;
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
}

/// [`AdamWUpdate`], first and later steps.
pub fn adamw(dev: &dyn Device) -> Outcome {
    let mut check = Check::new(dev, "adamw");
    for (k, r, s) in STACKS {
        for step in [1, 7, 100_000] {
            check.case(format!("({k}, {r}, {s}), step {step}"));
            let hyper = AdamWHyper {
                lr: 0.02,
                beta1: 0.8,
                beta2: 0.95,
                eps: 1e-10,
                weight_decay: 0.1,
                step,
            };
            let (p, g) = (check.normal([k, r, s]).master(), check.normal([k, r, s]).master());
            let first = step == 1;
            let m = check.normal([k, r, s]).edit(|_, x| if first { 0.0 } else { x }).master();
            let v = check.normal([k, r, s]).edit(|_, x| if first { 0.0 } else { x * x }).master();
            check.run([&p, &m, &v], [&g], |d, [p, m, v], [g]| d.adamw(p, m, v, g, hyper))?;
        }
    }
    Ok(check.worst)
}
