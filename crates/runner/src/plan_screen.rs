//! The screens that run nothing: `--plan`, `--graph` and `runner list`.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::Arc;

use crate::cache::{Cache, Lookup, Record};
use crate::failure;
use crate::grammar::Pipeline;
use crate::kind::Kind;
use crate::plan::{Action, Assessed, Selected, assess, behind, context};
use crate::table::Table;
use crate::{Before, Extras, PlanLine, Port, Result};

/// Characters of a key that are shown.
pub(crate) const SHORT_KEY: usize = 10;

/// `--plan`: the screen, and whether every stage could plan.
///
/// # Errors
/// A config that does not serialise.
pub(crate) fn plan(
    pipeline: &Pipeline,
    file: &str,
    selected: &Selected,
    cache: &Cache,
    verify: bool,
    extras: &Arc<Extras>,
) -> Result<(String, bool)> {
    let mut outputs: Vec<Option<Record>> = Vec::new();
    let mut table = Table::default();
    let mut notes: Vec<Vec<String>> = Vec::new();
    let (mut cached, mut to_run, mut waiting, mut sound) = (0, 0, 0, true);
    for (index, stage) in pipeline.stages.iter().enumerate() {
        let seen = assess(pipeline, index, &outputs, selected, cache, verify, extras)?;
        let key = seen.key.as_ref().map(|k| k[..SHORT_KEY].to_owned());
        let (state, key) = match &seen.action {
            Action::Cached(_) => ("cached", key.unwrap_or_default()),
            Action::Run => ("will run", key.unwrap_or_default()),
            Action::Waits(on) => ("waits", format!("depends on {}", on.join(", "))),
            Action::Absent => ("left out", key.unwrap_or_default()),
        };
        match seen.action {
            Action::Cached(_) => cached += 1,
            Action::Run => to_run += 1,
            Action::Waits(_) => waiting += 1,
            Action::Absent => {}
        }
        table.row([&stage.name, stage.kind.name, state, &key, &seen.reason]);

        let ctx = context(pipeline, index, &outputs, cache, extras);
        let instead = instead(pipeline, index, &seen, cache, verify);
        let lines = stage.job.as_ref().map(|job| job.plan(&stage.resources, &ctx));
        notes.push(match lines {
            None => Vec::new(),
            Some(Ok(lines)) => {
                let mut inner = Table::default();
                for line in instead.iter().chain(&lines) {
                    inner.row([&line.name, &line.text]);
                }
                inner.lines(6)
            }
            Some(Err(error)) => {
                sound = false;
                let text = format!("cannot run: {}", failure::in_full(&error));
                text.lines().map(|line| format!("      {line}")).collect()
            }
        });
        outputs.push(match seen.action {
            Action::Cached(record) => Some(*record),
            _ => None,
        });
    }
    let mut out = format!("pipeline {} ({file}), seed {}\n\n", pipeline.name, pipeline.seed);
    for (line, notes) in table.lines(2).iter().zip(&notes) {
        out.push_str(line);
        out.push('\n');
        for note in notes {
            out.push_str(note);
            out.push('\n');
        }
    }
    let n = pipeline.stages.len();
    let s = if n == 1 { "" } else { "s" };
    let _ = write!(out, "\n{n} stage{s}: {cached} cached, {to_run} to run");
    if waiting > 0 {
        let _ = write!(out, ", {waiting} waiting for those");
    }
    out.push('\n');
    Ok((out, sound))
}

/// How to go on from what a stage made the last time, which is there still and serves no more.
fn instead(
    pipeline: &Pipeline,
    index: usize,
    seen: &Assessed,
    cache: &Cache,
    verify: bool,
) -> Vec<PlanLine> {
    let stage = &pipeline.stages[index];
    if !matches!(seen.action, Action::Run | Action::Waits(_)) {
        return Vec::new();
    }
    let (Some(job), Some(last)) = (&stage.job, cache.last(&pipeline.name, &stage.name)) else {
        return Vec::new();
    };
    let ports = stage.kind.outputs;
    let whole = |key: String| matches!(cache.lookup(&key, &last, ports, verify), Lookup::Whole(_));
    if last.kind != stage.kind.name || !last.key().is_some_and(whole) {
        return Vec::new();
    }
    let inputs = last.inputs.iter().map(|(port, input)| (port.as_str(), input.from.as_str()));
    job.instead(&Before { stage: &stage.name, config: &last.config, inputs: inputs.collect() })
}

/// `--graph dot`.
pub(crate) fn dot(pipeline: &Pipeline) -> String {
    let mut out =
        format!("digraph \"{}\" {{\n  rankdir = LR;\n  node [shape = box];\n", pipeline.name);
    for stage in &pipeline.stages {
        let _ = writeln!(
            out,
            "  \"{}\" [label = \"{}\\n{}\"];",
            stage.name, stage.name, stage.kind.name
        );
    }
    edges(pipeline, |from, to, label| {
        let attributes = if label.is_empty() {
            "style = dashed".to_owned()
        } else {
            format!("label = \"{label}\"")
        };
        let _ = writeln!(out, "  \"{from}\" -> \"{to}\" [{attributes}];");
    });
    out.push_str("}\n");
    out
}

/// `--graph mermaid`.
pub(crate) fn mermaid(pipeline: &Pipeline) -> String {
    let mut out = String::from("flowchart LR\n");
    let mut ids = BTreeMap::new();
    for (i, stage) in pipeline.stages.iter().enumerate() {
        // Names may be Mermaid's own words (`end`); numbers are not.
        ids.insert(stage.name.as_str(), format!("s{i}"));
        let _ = writeln!(out, "  s{i}[\"{}<br/>{}\"]", stage.name, stage.kind.name);
    }
    edges(pipeline, |from, to, label| {
        let arrow = if label.is_empty() { "-.->".to_owned() } else { format!("-->|{label}|") };
        let _ = writeln!(out, "  {} {arrow} {}", ids[from], ids[to]);
    });
    out
}

/// Each pair of stages with the ports between them; no ports where only `needs` connects them.
fn edges(pipeline: &Pipeline, mut each: impl FnMut(&str, &str, &str)) {
    for stage in &pipeline.stages {
        for up in behind(stage) {
            let ports = stage.inputs.iter().filter(|e| e.from == up);
            let label = ports.map(|e| e.from_port.name).collect::<Vec<_>>().join(", ");
            each(&pipeline.stages[up].name, &stage.name, &label);
        }
    }
}

/// `runner list`.
pub(crate) fn list(kinds: &BTreeMap<&'static str, Kind>) -> String {
    if kinds.is_empty() {
        return "no stage kinds are registered\n".to_owned();
    }
    let mut out = String::new();
    for kind in kinds.values() {
        let about = if kind.about.is_empty() { String::new() } else { format!(": {}", kind.about) };
        let _ = writeln!(out, "{}{about}", kind.name);
        let mut table = Table::default();
        ports(&mut table, "in", kind.inputs);
        ports(&mut table, "out", kind.outputs);
        if !kind.figures.is_empty() {
            table.row(["figures", &kind.figures.join(", "), ""]);
        }
        for line in table.lines(2) {
            out.push_str(&line);
            out.push('\n');
        }
        out.push('\n');
    }
    out.pop();
    out
}

fn ports(table: &mut Table, direction: &str, ports: &[Port]) {
    for port in ports {
        let optional = match (port.optional, port.many) {
            (false, false) => "",
            (true, false) => " (optional)",
            (false, true) => " (any number)",
            (true, true) => " (optional, any number)",
        };
        table.row([direction, port.name, &format!("{}{optional}", port.kind)]);
    }
}
