//! The screen at the end of a run: what each stage did and why, the figures, and where the report is.

use std::fmt::Write;
use std::path::Path;

use crate::failure;
use crate::progress::format;
use crate::run::Outcome;
use crate::table::Table;

/// The table of stages, the figures and the paths; `talk` is the command that talks to a model.
pub(crate) fn result(outcome: &Outcome, folder: &Path, talk: impl Fn(&Path) -> String) -> String {
    let mut out = String::from("\n");
    let mut table = Table::default();
    table.row(["stage", "status", "time", "why"]);
    for stage in &outcome.stages {
        let time = stage.seconds.map_or("-".to_owned(), format::duration);
        table.row([&stage.name, stage.status, &time, &stage.why]);
    }
    push(&mut out, &table);

    let mut figures = Table::default();
    let mut any = false;
    for stage in &outcome.stages {
        let summary = stage.record.as_ref().map_or(&[][..], |r| &r.summary);
        for (i, (key, value)) in summary.iter().enumerate() {
            any = true;
            let value = value.to_string();
            let mut lines = value.lines();
            let first = lines.next().unwrap_or_default();
            figures.row([if i == 0 { &stage.name } else { "" }, key, first]);
            lines.for_each(|line| figures.row(["", "", line]));
        }
    }
    if any {
        out.push('\n');
        push(&mut out, &figures);
    }

    out.push('\n');
    for report in &outcome.reports {
        let _ = writeln!(out, "report  {}", report.display());
    }
    let _ = writeln!(out, "run     {}", folder.display());
    for (stage, model) in &outcome.models {
        let whose = if outcome.models.len() > 1 { format!("  ({stage})") } else { String::new() };
        let _ = writeln!(out, "model   {}{whose}", model.display());
    }
    if let Some((_, model)) = outcome.models.last() {
        let _ = writeln!(out, "talk    {}", talk(model));
    }
    if outcome.failures.is_empty() {
        let cached = outcome.stages.iter().filter(|s| s.status == "cached").count();
        let n = outcome.stages.len();
        let s = if n == 1 { "" } else { "s" };
        let what = if cached == n { "nothing to do" } else { "done" };
        let time = format::duration(outcome.seconds);
        let _ = writeln!(out, "{what} in {time}: {n} stage{s}, {cached} cached");
    }
    out
}

fn push(out: &mut String, table: &Table) {
    for line in table.lines(2) {
        out.push_str(&line);
        out.push('\n');
    }
}

/// What failed and how to go on.
pub(crate) fn failed(failures: &[(String, anyhow::Error)], resume: &str) -> String {
    let mut out = String::new();
    let (stopped, failed): (Vec<_>, Vec<_>) =
        failures.iter().partition(|(_, error)| error.is::<crate::Cancelled>());
    for (i, (stage, error)) in failed.iter().enumerate() {
        let again = if i > 0 { "\n" } else { "" };
        let _ = writeln!(out, "{again}error: stage `{stage}` failed");
        for line in failure::lines(error) {
            let _ = writeln!(out, "  {line}");
        }
    }
    if !stopped.is_empty() {
        let names: Vec<String> = stopped.iter().map(|(stage, _)| format!("`{stage}`")).collect();
        let s = if names.len() == 1 { "" } else { "s" };
        let _ = writeln!(out, "stopped in stage{s} {}", names.join(", "));
    }
    let how = if failures.iter().all(|(_, error)| failure::may_pass(error)) {
        "what is done so far is kept; resume with"
    } else {
        "what is done so far is kept; the same would fail again as it is. Once that is mended, go on with"
    };
    let _ = write!(out, "\n{how}\n  {resume}\n");
    out
}
