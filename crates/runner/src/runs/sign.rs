//! What a report in a run's folder says of the run itself: which pipeline, seed, day, commit and machine it is of, how long each stage took and what that cost. The
//! report in the store has none of it, since equal work gives equal bytes; it has a mark where it belongs.

use std::fmt::Write;
use std::path::{Path, PathBuf};

use anyhow::Context;

use super::{Lineage, dag, minute};
use crate::Result;
use crate::hidden::Hidden;
use crate::progress::format::{duration, number};
use crate::stages::report::escape::{html as esc, markdown as md};

/// The mark, which neither HTML nor Markdown shows. What a model writes has it escaped.
pub(crate) const MARK: &str = "<!-- the run -->";

/// Puts a run's facts into the copies of its reports.
///
/// # Errors
/// A copy cannot be read or written.
pub(crate) fn sign(reports: &[PathBuf], lineage: &Lineage, hidden: &Hidden) -> Result<()> {
    let ends = |path: &Path, end: &str| path.extension().is_some_and(|found| found == end);
    for path in reports {
        let facts = if ends(path, "html") {
            html(lineage, hidden)
        } else if ends(path, "md") {
            markdown(lineage, hidden)
        } else {
            continue;
        };
        let about = || format!("writing {}", path.display());
        let text = farthing_base::files::read_to_string(path).with_context(about)?;
        if text.contains(MARK) {
            let text = text.replacen(MARK, &facts, 1);
            farthing_base::files::write(path, &[text.as_bytes()]).with_context(about)?;
        }
    }
    Ok(())
}

/// Names and what they are, without what is hidden.
fn facts(lineage: &Lineage, hidden: &Hidden) -> Vec<(&'static str, String)> {
    let Lineage { pipeline, file, set, seed, commit, machine, started, runner, .. } = lineage;
    let file = Path::new(file).file_name().unwrap_or_default().to_string_lossy();
    let mut facts = vec![
        ("Pipeline", format!("{pipeline} ({file})")),
        ("Seed", seed.to_string()),
        ("Date", format!("{} UTC", minute(*started))),
    ];
    if !set.is_empty() {
        facts.push(("Set", set.join(", ")));
    }
    if let Some(commit) = commit {
        facts.push(("Commit", commit.get(..12).unwrap_or(commit).to_owned()));
    }
    facts.push(("Machine", machine.to_string()));
    facts.push(("Made by", format!("farthing {runner}")));
    facts.push(("Cost", cost(lineage)));
    facts.into_iter().map(|(name, value)| (name, hidden.shown(&value))).collect()
}

/// What the time of all stages cost, those too that earlier runs did.
fn cost(lineage: &Lineage) -> String {
    let hours = |seconds: f64| seconds / 3_600.0;
    let all: f64 = lineage.stages.iter().map(|stage| stage.seconds).sum();
    let gpu: f64 = lineage.stages.iter().map(|s| s.seconds * f64::from(s.gpus)).sum();
    let gpus =
        if gpu > 0.0 { format!(", {} GPU hours", number(hours(gpu))) } else { String::new() };
    let time = duration(all);
    match lineage.dollars_per_hour {
        Some(price) => {
            format!("${:.2}: {time} at ${} an hour{gpus}", hours(all) * price, number(price))
        }
        None => {
            format!("{time} of this machine{gpus}; a pipeline with dollars_per_hour prices it")
        }
    }
}

fn html(lineage: &Lineage, hidden: &Hidden) -> String {
    let mut out = String::from("<dl class=\"facts\">\n");
    for (name, value) in facts(lineage, hidden) {
        let _ = writeln!(out, "<div><dt>{name}</dt><dd><small>{}</small></dd></div>", esc(&value));
    }
    let _ = write!(
        out,
        "</dl>\n<h2>Stages</h2>\n<div class=\"scroll\">\n{}</div>\n",
        dag::svg(lineage)
    );
    out.push_str("<details><summary>Time of each stage</summary>\n<div class=\"scroll\"><table>\n");
    out.push_str("<thead><tr><th>stage</th><th>kind</th><th>this run</th><th class=\"n\">time</th></tr></thead>\n<tbody>\n");
    for stage in &lineage.stages {
        let [name, kind, status] = [&stage.name, &stage.kind, &stage.status].map(|s| esc(s));
        let time = duration(stage.seconds);
        let _ = writeln!(
            out,
            "<tr><td>{name}</td><td>{kind}</td><td>{status}</td><td class=\"n\">{time}</td></tr>"
        );
    }
    out + "</tbody></table></div>\n</details>"
}

fn markdown(lineage: &Lineage, hidden: &Hidden) -> String {
    let mut out = String::from("| run | |\n| --- | --- |\n");
    for (name, value) in facts(lineage, hidden) {
        let _ = writeln!(out, "| {name} | {} |", md(&value));
    }
    let _ = write!(out, "\n{}", dag::mermaid(lineage));
    out.push_str("\n<details><summary>Time of each stage</summary>\n\n");
    out.push_str("| stage | kind | this run | time |\n| --- | --- | --- | ---: |\n");
    for stage in &lineage.stages {
        let [name, kind, status] = [&stage.name, &stage.kind, &stage.status].map(|s| md(s));
        let _ = writeln!(out, "| {name} | {kind} | {status} | {} |", duration(stage.seconds));
    }
    out + "\n</details>"
}
