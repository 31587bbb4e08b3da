//! Matrix products, table look-ups and losses on bf16 operands.

use super::Rounded;
use crate::shapes::{self, EmbedDims};
use crate::{Dense, Loss, Mut, Ref, Result};

impl Dense for Rounded {
    fn linear(&self, y: Mut<'_>, x: Ref<'_>, w: Ref<'_>, accumulate: bool) -> Result<()> {
        shapes::linear(&self.dtypes, &y, &x, &w)?;
        self.through([y], [x, w], |[y], [x, w]| self.device.linear(y, x, w, accumulate))
    }

    fn linear_dx(&self, dx: Mut<'_>, dy: Ref<'_>, w: Ref<'_>, accumulate: bool) -> Result<()> {
        shapes::linear_dx(&self.dtypes, &dx, &dy, &w)?;
        self.through([dx], [dy, w], |[dx], [dy, w]| self.device.linear_dx(dx, dy, w, accumulate))
    }

    fn linear_dw(&self, dw: Mut<'_>, x: Ref<'_>, dy: Ref<'_>, accumulate: bool) -> Result<()> {
        shapes::linear_dw(&self.dtypes, &dw, &x, &dy)?;
        self.through([], [x, dy], |[], [x, dy]| self.device.linear_dw(dw, x, dy, accumulate))
    }

    /// Rows of the table as they are: nothing is computed, so the table is not widened.
    fn embed(&self, out: Mut<'_>, table: Ref<'_>, ids: Ref<'_>) -> Result<()> {
        let EmbedDims { n, v, c } = shapes::embed(&self.dtypes, &out, &table, &ids)?;
        let ids = ids.slice::<i32>()?;
        shapes::indices("embed", ids, 0, v)?;
        let mut out = out.reshape([n, c])?;
        for (n, &id) in ids.iter().enumerate() {
            self.device.copy(out.reborrow().at(n)?, table.at(id as usize)?)?;
        }
        Ok(())
    }

    fn embed_backward(
        &self,
        dtable: Mut<'_>,
        dout: Ref<'_>,
        ids: Ref<'_>,
        order: Ref<'_>,
    ) -> Result<()> {
        shapes::embed_backward(&self.dtypes, &dtable, &dout, &ids, &order)?;
        self.through([], [dout], |[], [dout]| self.device.embed_backward(dtable, dout, ids, order))
    }
}

impl Loss for Rounded {
    fn cross_entropy(
        &self,
        losses: Mut<'_>,
        logits: Mut<'_>,
        targets: Ref<'_>,
        vocab: usize,
        softcap: f64,
        grad: Option<f64>,
    ) -> Result<()> {
        shapes::cross_entropy(&self.dtypes, &losses, &logits, &targets, vocab, softcap)?;
        self.through([logits], [], |[logits], []| {
            self.device.cross_entropy(losses, logits, targets, vocab, softcap, grad)
        })
    }

    fn argmax(&self, out: Mut<'_>, logits: Ref<'_>, vocab: usize) -> Result<()> {
        shapes::argmax(&self.dtypes, &out, &logits, vocab)?;
        self.through([], [logits], |[], [logits]| self.device.argmax(out, logits, vocab))
    }

    fn sum(&self, out: Mut<'_>, x: Ref<'_>) -> Result<()> {
        self.device.sum(out, x)
    }

    fn sum_squares(&self, out: Mut<'_>, x: Ref<'_>) -> Result<()> {
        self.device.sum_squares(out, x)
    }
}
