//! Where progress goes: bars on a terminal, plain lines elsewhere, nothing in detached stages.

use std::io::Write;
use std::time::Duration;

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

use super::board;
use crate::hidden::Hidden;

/// The process's standard error as a place for progress. What is hidden, and what a terminal would act upon, does not reach it.
#[derive(Clone)]
pub(crate) struct Screen {
    place: Place,
    pub(crate) hidden: Hidden,
    /// The same, for whoever looks from elsewhere.
    pub(crate) board: board::Shared,
}

#[derive(Clone)]
enum Place {
    /// Nothing is shown.
    Silent,
    /// Whole lines, now and then.
    Lines,
    /// Bars under the lines, redrawn in place, and below them how far the run is.
    Bars(MultiProgress, ProgressBar),
}

impl Screen {
    /// Nothing is shown.
    pub(crate) fn silent() -> Self {
        Self { place: Place::Silent, hidden: Hidden::default(), board: board::Shared::default() }
    }

    pub(crate) fn is_silent(&self) -> bool {
        matches!(self.place, Place::Silent)
    }

    /// Bars if standard error is a terminal, lines otherwise.
    pub(crate) fn of_stderr(hidden: Hidden) -> Self {
        use std::io::IsTerminal;
        // A terminal that calls itself dumb cannot redraw a line.
        let dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
        let place =
            if std::io::stderr().is_terminal() && !dumb { Self::bars() } else { Place::Lines };
        Self { place, hidden, board: board::Shared::default() }
    }

    fn bars() -> Place {
        let all = MultiProgress::new();
        let run = all.add(ProgressBar::new(0));
        if let Ok(style) = ProgressStyle::with_template("{wide_msg}") {
            run.set_style(style);
        }
        Place::Bars(all, run)
    }

    /// Says under all bars how far the run is; nothing ends it.
    pub(crate) fn run(&self, text: Option<&str>) {
        self.board.run(text.unwrap_or_default());
        let Place::Bars(_, run) = &self.place else { return };
        match text {
            Some(text) => run.set_message(self.hidden.shown(text)),
            None => run.finish_and_clear(),
        }
    }

    /// Whether a stage has one line that is drawn again and again, and no more room than a terminal is wide.
    pub(crate) fn is_narrow(&self) -> bool {
        matches!(self.place, Place::Bars(..))
    }

    /// Prints a line above any bar. A standard error that is gone is no reason to stop the work.
    pub(crate) fn line(&self, text: &str) {
        let text = self.hidden.shown(text);
        match &self.place {
            Place::Silent => {}
            Place::Lines => {
                let _ = writeln!(std::io::stderr().lock(), "{text}");
            }
            Place::Bars(bars, _) => {
                let _ = bars.println(text);
            }
        }
    }

    /// How often a stage's state is drawn after it has run for this long: lines thin out from one in 5 s to one a
    /// minute.
    pub(crate) fn interval(&self, elapsed: Duration) -> Duration {
        match self.place {
            Place::Silent => Duration::from_hours(1),
            Place::Lines => Self::thinned(elapsed),
            Place::Bars(..) => Duration::from_millis(120),
        }
    }

    /// Until the next line of a log.
    pub(crate) fn thinned(elapsed: Duration) -> Duration {
        (elapsed / 12).clamp(Duration::from_secs(5), Duration::from_mins(1))
    }

    /// The bar of one stage, on a terminal.
    pub(crate) fn bar(&self, stage: &str) -> Option<ProgressBar> {
        let Place::Bars(bars, run) = &self.place else { return None };
        let bar = bars.insert_before(run, ProgressBar::new(0));
        if let Ok(style) = ProgressStyle::with_template("{spinner} {prefix} {bar:10} {wide_msg}") {
            bar.set_style(style);
        }
        bar.set_prefix(stage.to_owned());
        Some(bar)
    }

    /// Lines under a stage's own bar, one for each part under way, on a terminal.
    pub(crate) fn parts(
        &self,
        own: Option<&ProgressBar>,
        bars: &mut Vec<ProgressBar>,
        parts: &[String],
    ) {
        let (Place::Bars(all, _), Some(own)) = (&self.place, own) else { return };
        while bars.len() > parts.len() {
            bars.pop().inspect(ProgressBar::finish_and_clear);
        }
        for (i, part) in parts.iter().enumerate() {
            if i == bars.len() {
                let above = bars.last().unwrap_or(own);
                let bar = all.insert_after(above, ProgressBar::new(0));
                if let Ok(style) = ProgressStyle::with_template("    {wide_msg}") {
                    bar.set_style(style);
                }
                bars.push(bar);
            }
            bars[i].set_message(self.hidden.shown(part));
        }
    }
}
