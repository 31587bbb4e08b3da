//! Where progress goes: bars on a terminal, plain lines elsewhere, nothing in detached stages.

use std::io::Write;
use std::time::Duration;

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

use super::board;
use super::words::fitted;
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
        style(&run, "{wide_msg}");
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
                let _ = bars.println(broken(&text, columns()));
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
        style(&bar, UNCOUNTED);
        bar.set_prefix(stage.to_owned());
        Some(bar)
    }

    /// Draws a stage's line on its bar. What counts up to nothing has no bar, since an empty one and a full one would both say what is not so.
    pub(crate) fn draw(&self, bar: &ProgressBar, line: &board::Line) {
        let counted = line.total > 0;
        if counted != bar.length().is_some_and(|total| total > 0) {
            style(bar, if counted { COUNTED } else { UNCOUNTED });
        }
        bar.set_length(line.total);
        bar.set_position(line.done);
        let text = self.hidden.shown(&line.text);
        let before = bar.prefix().chars().count() + if counted { 14 } else { 3 };
        bar.set_message(fitted(&text, columns().saturating_sub(before)).to_owned());
        bar.tick();
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
                style(&bar, "    {wide_msg}");
                bars.push(bar);
            }
            bars[i].set_message(self.hidden.shown(part));
        }
    }
}

/// A stage's line: with a bar, and where there is nothing to count up to.
const COUNTED: &str = "{spinner} {prefix} {bar:10} {wide_msg}";
const UNCOUNTED: &str = "{spinner} {prefix} {wide_msg}";

fn style(bar: &ProgressBar, template: &str) {
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style);
    }
}

/// How wide the terminal of standard error is.
fn columns() -> usize {
    console::Term::stderr().size().1.into()
}

/// A line for a terminal that is so many characters wide: it breaks between words, and goes on two characters further in. A word that has no room in any line stays whole.
fn broken(line: &str, columns: usize) -> String {
    let own = line.chars().take_while(|c| *c == ' ').count();
    let inner = own + 2;
    let (mut out, mut column) = (" ".repeat(own), own);
    for (i, word) in line[own..].split(' ').enumerate() {
        let width = word.chars().count();
        if i > 0 && column + 1 + width > columns && column > inner && !word.is_empty() {
            out.truncate(out.trim_end_matches(' ').len());
            out.push('\n');
            out.extend(std::iter::repeat_n(' ', inner));
            column = inner;
        } else if i > 0 {
            out.push(' ');
            column += 1;
        }
        out.push_str(word);
        column += width;
    }
    out
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use indicatif::{ProgressDrawTarget, TermLike};

    use super::*;

    #[test]
    fn long_lines_break_between_words() {
        let line = "  pack: train: 16,559 rows of 257 tokens from 24,000 documents, 0.01% of the tokens lost";
        assert_eq!(
            broken(line, 80),
            "  pack: train: 16,559 rows of 257 tokens from 24,000 documents, 0.01% of the\n    tokens lost"
        );
        assert_eq!(broken(line, 200), line);
        assert_eq!(broken(line, line.len()), line);
        let path = format!("report: {}", "a/".repeat(60));
        assert_eq!(broken(&path, 80), format!("report:\n  {}", "a/".repeat(60)));
        // What lines columns up stays, but for where it breaks.
        assert_eq!(broken("a  b   c", 80), "a  b   c");
        assert_eq!(broken("abcd  efgh", 8), "abcd\n  efgh");
        assert_eq!(broken("", 80), "");
    }

    /// A terminal of one line, which forgets it when the line is drawn anew.
    #[derive(Clone, Debug, Default)]
    struct OneLine(Arc<Mutex<String>>);

    impl TermLike for OneLine {
        fn width(&self) -> u16 {
            60
        }

        fn move_cursor_up(&self, _: usize) -> std::io::Result<()> {
            Ok(())
        }

        fn move_cursor_down(&self, _: usize) -> std::io::Result<()> {
            Ok(())
        }

        fn move_cursor_right(&self, _: usize) -> std::io::Result<()> {
            Ok(())
        }

        fn move_cursor_left(&self, _: usize) -> std::io::Result<()> {
            Ok(())
        }

        fn write_line(&self, text: &str) -> std::io::Result<()> {
            self.write_str(text)
        }

        fn write_str(&self, text: &str) -> std::io::Result<()> {
            self.0.lock().unwrap().push_str(text);
            Ok(())
        }

        fn clear_line(&self) -> std::io::Result<()> {
            self.0.lock().unwrap().clear();
            Ok(())
        }

        fn flush(&self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_stage_that_counts_up_to_nothing_has_no_bar() {
        let terminal = OneLine::default();
        let to = Box::new(terminal.clone());
        let all = MultiProgress::with_draw_target(ProgressDrawTarget::term_like(to));
        let run = all.add(ProgressBar::new(0));
        style(&run, "{wide_msg}");
        let place = Place::Bars(all, run);
        let screen = Screen { place, ..Screen::silent() };
        let bar = screen.bar("train").unwrap();
        let draw = |text: &str, done, total| {
            let text = text.to_owned();
            screen.draw(&bar, &board::Line { text, total, done, ..board::Line::default() });
            bar.force_draw();
            terminal.0.lock().unwrap().trim_end().to_owned()
        };
        let evaluating = draw("evaluating", 0, 0);
        assert!(evaluating.ends_with("train evaluating"), "{evaluating}");
        let half = draw("50%", 5, 10);
        assert!(half.ends_with("train █████░░░░░ 50%"), "{half}");
        let evaluating = draw("evaluating", 0, 0);
        assert!(evaluating.ends_with("train evaluating"), "{evaluating}");
    }
}
