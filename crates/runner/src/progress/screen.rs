//! Where progress goes: bars on a terminal, plain lines elsewhere, nothing in detached stages.

use std::io::Write;
use std::time::Duration;

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

use crate::hidden::Hidden;

/// The process's standard error as a place for progress. What is hidden, and what a terminal would act upon, does not reach it.
#[derive(Clone)]
pub(crate) struct Screen {
    place: Place,
    pub(crate) hidden: Hidden,
}

#[derive(Clone)]
enum Place {
    /// Nothing is shown.
    Silent,
    /// Whole lines, now and then.
    Lines,
    /// A bar under the lines, redrawn in place.
    Bars(MultiProgress),
}

impl Screen {
    /// Nothing is shown.
    pub(crate) fn silent() -> Self {
        Self { place: Place::Silent, hidden: Hidden::default() }
    }

    pub(crate) fn is_silent(&self) -> bool {
        matches!(self.place, Place::Silent)
    }

    /// Bars if standard error is a terminal, lines otherwise.
    pub(crate) fn of_stderr(hidden: Hidden) -> Self {
        use std::io::IsTerminal;
        // A terminal that calls itself dumb cannot redraw a line.
        let dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
        let place = if std::io::stderr().is_terminal() && !dumb {
            Place::Bars(MultiProgress::new())
        } else {
            Place::Lines
        };
        Self { place, hidden }
    }

    /// Prints a line above any bar. A standard error that is gone is no reason to stop the work.
    pub(crate) fn line(&self, text: &str) {
        let text = self.hidden.shown(text);
        match &self.place {
            Place::Silent => {}
            Place::Lines => {
                let _ = writeln!(std::io::stderr().lock(), "{text}");
            }
            Place::Bars(bars) => {
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
            Place::Bars(_) => Duration::from_millis(120),
        }
    }

    /// Until the next line of a log.
    pub(crate) fn thinned(elapsed: Duration) -> Duration {
        (elapsed / 12).clamp(Duration::from_secs(5), Duration::from_mins(1))
    }

    /// The bar of one stage, on a terminal.
    pub(crate) fn bar(&self, stage: &str) -> Option<ProgressBar> {
        let Place::Bars(bars) = &self.place else { return None };
        let bar = bars.add(ProgressBar::new(0));
        if let Ok(style) = ProgressStyle::with_template("{spinner} {prefix} {bar:24} {wide_msg}") {
            bar.set_style(style);
        }
        bar.set_prefix(stage.to_owned());
        Some(bar)
    }

    /// Lines under the bar, one for each part under way, on a terminal.
    pub(crate) fn parts(&self, bars: &mut Vec<ProgressBar>, parts: &[String]) {
        let Place::Bars(all) = &self.place else { return };
        while bars.len() > parts.len() {
            bars.pop().inspect(ProgressBar::finish_and_clear);
        }
        for (i, part) in parts.iter().enumerate() {
            if i == bars.len() {
                let bar = all.add(ProgressBar::new(0));
                if let Ok(style) = ProgressStyle::with_template("    {wide_msg}") {
                    bar.set_style(style);
                }
                bars.push(bar);
            }
            bars[i].set_message(self.hidden.shown(part));
        }
    }
}
