//! The update rules' operations: AdamW here, Muon's in `muon`.

use super::Cuda;
use crate::{AdamW, Mut, Ref, Result, Shape, Update, shapes};

impl Update for Cuda {
    fn adamw(&self, p: Mut<'_>, m: Mut<'_>, v: Mut<'_>, g: Ref<'_>, hyper: AdamW) -> Result<()> {
        shapes::adamw(&self.dtypes, &p, &m, &v, &g, &hyper)?;
        Err(self.missing("adamw"))
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
