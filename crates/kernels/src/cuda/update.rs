//! The update rules' operations: AdamW here, Muon's in `muon`.

use super::driver::{Arg, Kernel, Module};
use super::{Cuda, OnDevice};
use crate::{AdamW, Mut, Ref, Result, Shape, Update, shapes};

static UPDATE: Module = Module { name: "update", ptx: include_str!("../../ptx/sm80/update.ptx") };
static ADAMW: Kernel = flat("adamw");

const THREADS: u32 = 256;
/// Elements that a block of a flat kernel moves with one 16-byte access of each thread.
const EACH: usize = 4 * THREADS as usize;

const fn flat(name: &'static str) -> Kernel {
    Kernel { module: &UPDATE, name, threads: THREADS, shared_bytes: 0 }
}

/// # Numerics
/// f32 throughout, with fused multiply-adds; roots and quotients correctly rounded. What depends on the step alone is computed here in f64.
///
/// # Cost
/// Each states the bytes that it moves, for aligned views.
impl Update for Cuda {
    /// Per element: reads 16 bytes, writes 12.
    fn adamw(&self, p: Mut<'_>, m: Mut<'_>, v: Mut<'_>, g: Ref<'_>, hyper: AdamW) -> Result<()> {
        let n = shapes::adamw(&self.dtypes, &p, &m, &v, &g, &hyper)?;
        let AdamW { lr, beta1, beta2, eps, weight_decay, step } = hyper;
        let correction = |beta: f64| 1.0 - beta.powf(step as f64);
        let numbers = [
            1.0 - lr * weight_decay,
            1.0 - beta1,
            1.0 - beta2,
            lr / correction(beta1),
            1.0 / correction(beta2).sqrt(),
            eps,
        ];
        let [keep, m_weight, v_weight, step, root_scale, eps] = numbers.map(|x| Arg::F32(x as f32));
        let (p, m, v, g) = (p.arg(), m.arg(), v.arg(), g.arg());
        let n_arg = Arg::I64(n as i64);
        let args = [p, m, v, g, keep, m_weight, v_weight, step, root_scale, eps, n_arg];
        self.launch(&ADAMW, self.blocks_for(n, EACH), &args)
    }

    /// Moves 16 bytes an element.
    fn nesterov(&self, out: Mut<'_>, buf: Mut<'_>, g: Ref<'_>, momentum: f64) -> Result<()> {
        self.run_nesterov(&out, &buf, g, momentum)
    }

    /// Moves 12 bytes an element, 4 of them to sum its rows.
    fn equilibrate_rows(&self, x: Mut<'_>) -> Result<()> {
        self.run_equilibrate_rows(&x)
    }

    fn polar_express_scratch(&self, shape: Shape) -> usize {
        Self::polar_scratch(shape)
    }

    /// Three matrix products and 6·(R·S + m²) bytes a step and matrix beside them.
    fn polar_express(
        &self,
        x: Mut<'_>,
        scratch: Mut<'_>,
        safety: f64,
        steps: &[[f64; 3]],
    ) -> Result<()> {
        self.run_polar_express(&x, &scratch, safety, steps)
    }

    /// Moves 12 bytes an element, 4 of them to sum its rows.
    fn renormalize(&self, x: Mut<'_>) -> Result<()> {
        self.run_renormalize(&x)
    }

    /// Moves 12 bytes an element, 4 of them to sum its rows or columns.
    fn variance_reduce(&self, x: Mut<'_>, s: Mut<'_>, beta2: f64) -> Result<()> {
        self.run_variance_reduce(&x, &s, beta2)
    }

    /// Moves 12 bytes an element.
    fn cautious_update(&self, p: Mut<'_>, x: Ref<'_>, lr: f64, weight_decay: f64) -> Result<()> {
        self.run_cautious_update(&p, x, lr, weight_decay)
    }
}
