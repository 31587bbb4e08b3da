//! AdamW.

use super::driver::{Arg, Kernel, Module};
use super::{Cuda, OnDevice};
use crate::ops::AdamWUpdate;
use crate::{AdamWHyper, Result};

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
impl Cuda {
    /// Per element: reads 16 bytes, writes 12.
    pub(super) fn adamw(&self, op: AdamWUpdate<'_>) -> Result<()> {
        let n = op.check(&self.dtypes)?;
        let AdamWUpdate { p, m, v, g, hyper } = op;
        let AdamWHyper { lr, beta1, beta2, eps, weight_decay, step } = hyper;
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
}
