//! Lets the libraries' progress appear on the stage's display.

use crate::progress::format::amount;
use crate::{Cancelled, Ctx, StageProgress};

/// A stage's display as the data and eval crates know progress.
pub(crate) struct Watched<'a> {
    ctx: &'a Ctx,
    progress: StageProgress,
}

impl<'a> Watched<'a> {
    /// Starts a display of a count whose total is not known yet.
    pub(crate) fn new(ctx: &'a Ctx, unit: &str) -> Self {
        Self { ctx, progress: ctx.progress(0, unit) }
    }
}

impl farthing_data::Progress for Watched<'_> {
    fn total(&mut self, total: Option<u64>, unit: &'static str) {
        self.progress = self.ctx.progress(total.unwrap_or(0), unit);
    }

    fn advance(&mut self, n: u64) {
        self.progress.advance(n);
    }

    /// A part that is done leaves a line; one under way is shown beside the count.
    fn part(&mut self, name: &str, done: u64, total: Option<u64>) {
        self.progress.part(name, done, total);
        if total == Some(done) {
            self.ctx.log(format!("{name}: {}", amount(done, "bytes")));
        }
    }

    fn stopped(&self) -> bool {
        self.ctx.cancelled()
    }

    fn message(&mut self, text: &str) {
        self.progress.message(text);
    }
}

/// A library's error as the runner knows it: stopping on request is no failure.
pub(crate) fn cut_off(error: farthing_data::Error) -> anyhow::Error {
    match error {
        farthing_data::Error::Stopped => Cancelled.into(),
        other => other.into(),
    }
}
