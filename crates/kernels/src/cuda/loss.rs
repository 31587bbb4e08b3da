//! The loss, and reductions to few numbers.

use super::Cuda;
use crate::{Loss, Mut, Ref, Result, shapes};

impl Loss for Cuda {
    fn cross_entropy(
        &self,
        losses: Mut<'_>,
        logits: Mut<'_>,
        targets: Ref<'_>,
        vocab: usize,
        softcap: f64,
        _: Option<f64>,
    ) -> Result<()> {
        shapes::cross_entropy(&self.dtypes, &losses, &logits, &targets, vocab, softcap)?;
        Err(self.missing("cross_entropy"))
    }

    fn argmax(&self, out: Mut<'_>, logits: Ref<'_>, vocab: usize) -> Result<()> {
        shapes::argmax(&self.dtypes, &out, &logits, vocab)?;
        Err(self.missing("argmax"))
    }

    fn sum(&self, out: Mut<'_>, x: Ref<'_>) -> Result<()> {
        shapes::sum(&self.dtypes, &out, &x)?;
        Err(self.missing("sum"))
    }

    fn sum_squares(&self, out: Mut<'_>, x: Ref<'_>) -> Result<()> {
        shapes::sum_squares(&self.dtypes, &out, &x)?;
        Err(self.missing("sum_squares"))
    }
}
