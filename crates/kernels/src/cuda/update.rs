//! The update rules' operations.

use super::Cuda;
use crate::{AdamW, Mut, Ref, Result, Shape, Update, shapes};

impl Update for Cuda {
    fn adamw(&self, p: Mut<'_>, m: Mut<'_>, v: Mut<'_>, g: Ref<'_>, hyper: AdamW) -> Result<()> {
        shapes::adamw(&self.dtypes, &p, &m, &v, &g, &hyper)?;
        Err(self.missing("adamw"))
    }

    fn nesterov(&self, out: Mut<'_>, buf: Mut<'_>, g: Ref<'_>, _: f64) -> Result<()> {
        shapes::nesterov(&self.dtypes, &out, &buf, &g)?;
        Err(self.missing("nesterov"))
    }

    fn equilibrate_rows(&self, x: Mut<'_>) -> Result<()> {
        shapes::equilibrate_rows(&self.dtypes, &x)?;
        Err(self.missing("equilibrate_rows"))
    }

    fn polar_express_scratch(&self, _: Shape) -> usize {
        0
    }

    fn polar_express(&self, x: Mut<'_>, scratch: Mut<'_>, _: f64, _: &[[f64; 3]]) -> Result<()> {
        shapes::polar_express(&self.dtypes, &x, &scratch, 0)?;
        Err(self.missing("polar_express"))
    }

    fn renormalize(&self, x: Mut<'_>) -> Result<()> {
        shapes::renormalize(&self.dtypes, &x)?;
        Err(self.missing("renormalize"))
    }

    fn variance_reduce(&self, x: Mut<'_>, s: Mut<'_>, _: f64) -> Result<()> {
        shapes::variance_reduce(&self.dtypes, &x, &s)?;
        Err(self.missing("variance_reduce"))
    }

    fn cautious_update(&self, p: Mut<'_>, x: Ref<'_>, _: f64, _: f64) -> Result<()> {
        shapes::cautious_update(&self.dtypes, &p, &x)?;
        Err(self.missing("cautious_update"))
    }
}
